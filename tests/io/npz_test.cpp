#include <gmock/gmock.h>

#include "io/atomic_file.h"
#include "io/npy.h"
#include "io/zip.h"
#include "lazuli/io.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::HasSubstr;

TEST(Npz, ReadsWhatNumpyWrites) {
  for (const char* name : {"stored.npz", "deflated.npz", "zip64.npz"}) {
    SCOPED_TRACE(name);
    auto arrays = load_npz(data_file(name));
    ASSERT_EQ(arrays.size(), 2u);
    expect_same(arrays.at("a"), pattern({2, 3}, float32));
    expect_same(arrays.at("b.weight"), pattern({4}, int16));
  }
}

TEST(Npz, RoundTrips) {
  Folder folder;
  std::unordered_map<std::string, array> arrays = {{"empty", pattern({0, 2}, int8)}, {"scalar", array(3)}};
  for (Dtype dtype : kAllDtypes) arrays.emplace(dtype_name(dtype), pattern({2, 1000}, dtype));
  savez(folder / "stored", arrays);
  savez_compressed(folder / "deflated", arrays);
  for (const char* name : {"stored.npz", "deflated.npz"}) {
    auto loaded = load_npz(folder / name);
    ASSERT_EQ(loaded.size(), arrays.size());
    for (auto& [key, a] : arrays) expect_same(loaded.at(key), a);
  }
  EXPECT_LT(std::filesystem::file_size(folder / "deflated.npz"),
            std::filesystem::file_size(folder / "stored.npz") / 2);
  savez(folder / "none", {});
  EXPECT_TRUE(load_npz(folder / "none.npz").empty());
}

// zip64 fields begin at 4 GB; lowering that limit tests them on a small file.
void save_zip64(const std::string& file) {
  array a = pattern({2, 3}, float32), b = pattern({4}, int16);
  io::AtomicFile out("test", file);
  io::ZipWriter zip(out, 8);
  for (auto& [name, x] : {std::pair("a.npy", a), {"b.weight.npy", b}}) {
    std::string header = io::npy_header(x);
    zip.add(name, {{header.data(), header.size()}, {io::row_major_bytes(x), x.nbytes()}}, false);
  }
  zip.finish();
  out.commit();
}

TEST(Npz, Zip64) {
  Folder folder;
  save_zip64(folder / "zip64.npz");
  auto arrays = load_npz(folder / "zip64.npz");
  expect_same(arrays.at("a"), pattern({2, 3}, float32));
  expect_same(arrays.at("b.weight"), pattern({4}, int16));
}

TEST(Npz, NamesTheFaultOfABadFile) {
  Folder folder;
  std::string good = read_file(data_file("stored.npz"));
  auto error = [&](const std::string& bytes) {
    write_file(folder / "a.npz", bytes);
    return error_of([&] { load_npz(folder / "a.npz"); });
  };
  EXPECT_THAT(error("short"), HasSubstr("a.npz: not a zip archive"));
  EXPECT_THAT(error(good.substr(0, good.size() - 5)), HasSubstr("no end record"));
  std::string damaged = good;
  damaged[damaged.find("b.weight.npy") - 40] ^= 1;  // the last element of a
  EXPECT_THAT(error(damaged), HasSubstr("member 'a.npy' is damaged (its checksum is wrong)"));
  std::string twice = good;
  size_t at = twice.find("PK\1\2"), second = twice.find("PK\1\2", at + 4);
  twice.replace(second + 42, 4, std::string(4, '\0'));  // both members at offset 0
  EXPECT_THAT(error(twice), HasSubstr("overlap"));
  std::string encrypted = good;
  encrypted[at + 8] = 1;
  EXPECT_THAT(error(encrypted), HasSubstr("member 'a.npy' is encrypted"));
  std::string other = good;
  other[at + 10] = 14;
  EXPECT_THAT(error(other), HasSubstr("compressed by method 14"));
  std::string beyond = good;
  beyond.replace(at + 42, 4, "\xff\xff\xff\x7f");
  EXPECT_THAT(error(beyond), HasSubstr("cut off"));
}

// For `make_io.py check`: NumPy and MLX read what we write.
TEST(Io, KeepsFilesForOtherReaders) {
  const char* folder = std::getenv("LAZULI_KEEP_IO");
  if (!folder) GTEST_SKIP() << "set LAZULI_KEEP_IO to a folder";
  std::string base = std::string(folder) + "/";
  std::unordered_map<std::string, array> tensors;
  for (Dtype dtype : kAllDtypes) {
    save(base + std::string(dtype_name(dtype)), pattern({2, 3}, dtype));
    if (dtype != float64) tensors.emplace(dtype_name(dtype), pattern({2, 3}, dtype));
  }
  save(base + "scalar", array(1.0f));
  save(base + "empty", pattern({0, 3}, float32));
  save_safetensors(base + "all", tensors, {{"format", "lazuli"}, {"note", "caf\u00e9"}});
  std::unordered_map<std::string, array> named = {{"a", pattern({2, 3}, float32)},
                                                  {"b.weight", pattern({4}, int16)}};
  savez(base + "stored", named);
  savez_compressed(base + "deflated", named);
  save_zip64(base + "zip64.npz");
}

}  // namespace
}  // namespace lazuli
