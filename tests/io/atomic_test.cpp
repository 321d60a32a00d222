// Saving replaces a file as a whole or leaves it alone.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lazuli/io.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::ElementsAre;
using testing::HasSubstr;

// Lets no file of this process grow beyond `bytes`: writing then fails as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit old_;
};

TEST(AtomicSave, AFailedWriteKeepsTheOldFileAndLeavesNothing) {
  Folder folder;
  save(folder / "a.npy", array({1, 2, 3}));
  save_safetensors(folder / "a.safetensors", {{"x", array({1, 2, 3})}});
  savez(folder / "a.npz", {{"x", array({1, 2, 3})}});
  {
    FileSizeLimit limit(100'000);
    array big = pattern({1 << 18}, float32);
    EXPECT_THAT(error_of([&] { save(folder / "a.npy", big); }),
                HasSubstr("a.npy: cannot write: File too large"));
    EXPECT_THAT(error_of([&] {
                  save_safetensors(folder / "a.safetensors", {{"x", big}});
                }),
                HasSubstr("cannot write"));
    EXPECT_THAT(error_of([&] { savez(folder / "a.npz", {{"x", big}}); }), HasSubstr("cannot write"));
  }
  EXPECT_THAT(load(folder / "a.npy").to_vector<int>(), ElementsAre(1, 2, 3));
  EXPECT_THAT(load_safetensors(folder / "a.safetensors").first.at("x").to_vector<int>(),
              ElementsAre(1, 2, 3));
  EXPECT_THAT(load_npz(folder / "a.npz").at("x").to_vector<int>(), ElementsAre(1, 2, 3));
  EXPECT_EQ(folder.list().size(), 3u);
}

TEST(AtomicSave, AFullDeviceIsAnError) {
  if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  Folder folder;
  ASSERT_EQ(symlink("/dev/full", (folder / "full.npy").c_str()), 0);
  EXPECT_THAT(error_of([&] { save(folder / "full.npy", array(1)); }), HasSubstr("No space left on device"));
}

TEST(AtomicSave, KeepsLinksAndPermissions) {
  Folder folder;
  save(folder / "real.npy", array({1}));
  ASSERT_EQ(chmod((folder / "real.npy").c_str(), 0640), 0);
  ASSERT_EQ(symlink("real.npy", (folder / "link.npy").c_str()), 0);
  save(folder / "link.npy", array({2}));
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link.npy"));
  EXPECT_EQ(load(folder / "real.npy").item<int>(), 2);
  struct stat info;
  ASSERT_EQ(stat((folder / "real.npy").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640u);
}

TEST(AtomicSave, RefusesPlacesItCannotWrite) {
  Folder folder;
  EXPECT_THAT(error_of([&] { save(folder / "no/a.npy", array(1)); }), HasSubstr("No such file or directory"));
  std::filesystem::create_directory(folder / "d.npy");
  EXPECT_THAT(error_of([&] { save(folder / "d.npy", array(1)); }), HasSubstr("is a folder"));
  if (geteuid() == 0) return;  // root may write everywhere
  save(folder / "a.npy", array(1));
  chmod((folder / "a.npy").c_str(), 0444);
  EXPECT_THAT(error_of([&] { save(folder / "a.npy", array(2)); }), HasSubstr("Permission denied"));
  EXPECT_EQ(load(folder / "a.npy").item<int>(), 1);
}

}  // namespace
}  // namespace lazuli
