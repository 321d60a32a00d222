// Every reader, on damaged copies of good files: each must throw or succeed. Run under the
// address and undefined sanitizers this finds over-reads; here it finds crashes and hangs.
#include <functional>

#include "lazuli/data.h"
#include "lazuli/io.h"
#include "lazuli/io/gguf.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;

// A small generator, so that every run makes the same files.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t operator()(uint64_t below) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % below;
  }

 private:
  uint64_t state_;
};

std::string mutate(std::string bytes, Random& random) {
  switch (random(4)) {
    case 0: bytes.resize(random(bytes.size())); break;
    case 1: bytes.insert(random(bytes.size()), 1 + random(8), static_cast<char>(random(256))); break;
    default: break;
  }
  for (uint64_t n = random(4); n > 0 && !bytes.empty(); --n) {
    size_t at = random(bytes.size());
    if (random(2))
      bytes[at] ^= static_cast<char>(1 << random(8));
    else
      bytes[at] = "\0\x7f\x80\xff 09{}[]\",-e"[random(16)];
  }
  return bytes;
}

void touch(const array& a) {
  dispatch_dtype(a.dtype(), [&]<class T>(T) {
    const char* bytes = reinterpret_cast<const char*>(a.data<T>());
    volatile char sum = 0;
    for (size_t i = 0; i < a.nbytes(); ++i) sum = sum ^ bytes[i];
  });
}

// Without the last `padding` bytes, which a reader need not miss.
void fuzz(const std::string& name, const std::function<void(const std::string&)>& read, size_t padding = 0) {
  Folder folder;
  std::string good = read_file(data_file(name));
  good.resize(good.size() - padding);
  Random random(42);
  int refused = 0;
  for (int i = 0; i < 500; ++i) {
    write_file(folder / "f", mutate(good, random));
    try {
      read(folder / "f");
    } catch (const std::runtime_error& e) {
      ++refused;
      ASSERT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(refused, 50) << "the mutations do not bite";
  for (size_t n = 0; n < good.size(); ++n) {
    write_file(folder / "f", good.substr(0, n));
    EXPECT_THROW(read(folder / "f"), std::runtime_error) << "cut to " << n << " bytes";
  }
}

void read_npy(const std::string& file) { touch(load(file)); }
void read_npz(const std::string& file) {
  for (auto& [name, a] : load_npz(file)) touch(a);
}
void read_safetensors(const std::string& file) {
  for (auto& [name, a] : load_safetensors(file).first) touch(a);
}
void read_gguf(const std::string& file) {
  Gguf read = load_gguf(file);
  for (const GgufTensor& t : read.tensors) {
    touch(t.values());
    if (ggml_info(t.type).dequantizes) touch(dequantize(t));
  }
}
void read_idx(const std::string& file) { touch(load_idx(file)); }

TEST(IoFuzz, Npy) { fuzz("float32.npy", read_npy); }
TEST(IoFuzz, NpyFortranBigEndian) { fuzz("big_fortran.npy", read_npy); }
TEST(IoFuzz, NpyBool) { fuzz("bool.npy", read_npy); }
TEST(IoFuzz, Safetensors) { fuzz("mlx.safetensors", read_safetensors); }
TEST(IoFuzz, NpzStored) { fuzz("stored.npz", read_npz); }
TEST(IoFuzz, NpzDeflated) { fuzz("deflated.npz", read_npz); }
TEST(IoFuzz, NpzZip64) { fuzz("zip64.npz", read_npz); }
TEST(IoFuzz, GgufOfEveryType) { fuzz("../gguf/everything.gguf", read_gguf, 32); }
TEST(IoFuzz, GgufOfBlocks) { fuzz("../gguf/encoded.gguf", read_gguf, 16); }
TEST(IoFuzz, Idx) { fuzz("uint8.idx", read_idx); }
TEST(IoFuzz, IdxGzip) { fuzz("uint8.idx.gz", read_idx); }

}  // namespace
}  // namespace lazuli
