#include <gmock/gmock.h>

#include "lazuli/io.h"
#include "lazuli/ops/shape.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::HasSubstr;

std::string npy(const std::string& header, const std::string& data = std::string(64, '\0')) {
  std::string out("\x93NUMPY\1\0", 8);
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  return out + header + data;
}

TEST(Npy, ReadsWhatNumpyWrites) {
  for (Dtype dtype : kAllDtypes) {
    SCOPED_TRACE(dtype_name(dtype));
    expect_same(load(data_file(std::string(dtype_name(dtype)) + ".npy")), pattern({2, 3}, dtype));
  }
}

TEST(Npy, WritesTheBytesThatNumpyWrites) {
  Folder folder;
  for (Dtype dtype : kAllDtypes) {
    if (dtype == bfloat16) continue;  // that file is MLX's, whose header is formatted otherwise
    std::string name = std::string(dtype_name(dtype)) + ".npy";
    save(folder / name, pattern({2, 3}, dtype));
    EXPECT_EQ(read_file(folder / name), read_file(data_file(name))) << name;
  }
  save(folder / "scalar", array(7.0f));
  EXPECT_EQ(read_file(folder / "scalar.npy"), read_file(data_file("scalar.npy")));
  save(folder / "empty.npy", pattern({0, 3}, float32));
  EXPECT_EQ(read_file(folder / "empty.npy"), read_file(data_file("empty.npy")));
  save(folder / "vector.npy", pattern({5}, float32));
  EXPECT_EQ(read_file(folder / "vector.npy"), read_file(data_file("vector.npy")));
}

TEST(Npy, RoundTripsEveryTypeAndRank) {
  Folder folder;
  for (Dtype dtype : kAllDtypes)
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{5}, Shape{2, 3}, Shape{2, 1, 3, 2}}) {
      save(folder / "a.npy", pattern(shape, dtype));
      expect_same(load(folder / "a.npy"), pattern(shape, dtype));
    }
}

TEST(Npy, ReadsBothByteOrdersAndBothMemoryOrders) {
  expect_same(load(data_file("big_int16.npy")), pattern({2, 3}, int16));
  expect_same(load(data_file("big_float64.npy")), pattern({2, 3}, float64));
  expect_same(load(data_file("big_complex64.npy")), pattern({2, 3}, complex64));
  expect_same(load(data_file("fortran.npy")), pattern({2, 3, 4}, int32));
  expect_same(load(data_file("big_fortran.npy")), pattern({2, 3}, int32));
}

TEST(Npy, ReadsEveryVersion) {
  expect_same(load(data_file("version2.npy")), pattern({2, 3}, int32));
  expect_same(load(data_file("version3.npy")), pattern({2, 3}, int32));
}

TEST(Npy, SavesStridedAndLazyArrays) {
  Folder folder;
  array a = transpose(pattern({2, 3}, float32));
  save(folder / "a.npy", a);
  EXPECT_EQ(load(folder / "a.npy").shape(), (Shape{3, 2}));
  EXPECT_THAT(load(folder / "a.npy").to_vector<float>(), testing::ElementsAre(-2, 1, -1, 2, 0, 3));
}

TEST(Npy, RefusesTypesItCannotHold) {
  auto error = [](const char* name) { return error_of([&] { load(data_file(name)); }); };
  EXPECT_THAT(error("refused_complex128.npy"), HasSubstr("complex128 is not supported"));
  EXPECT_THAT(error("refused_object.npy"), HasSubstr("Python objects"));
  EXPECT_THAT(error("refused_text.npy"), HasSubstr("dtype '<U2' is not supported"));
  EXPECT_THAT(error("refused_struct.npy"), HasSubstr("structured types"));
}

TEST(Npy, NamesTheFileAndTheFault) {
  Folder folder;
  std::string file = folder / "bad.npy";
  auto error = [&](const std::string& bytes) {
    write_file(file, bytes);
    return error_of([&] { load(file); });
  };
  EXPECT_EQ(error_of([&] { load(folder / "none.npy"); }),
            "[load] " + (folder / "none.npy") + ": cannot open: No such file or directory");
  EXPECT_THAT(error_of([&] { load(folder.path()); }), HasSubstr("is a folder"));
  EXPECT_THAT(error(""), HasSubstr(file + ": not a .npy file"));
  EXPECT_THAT(error("PK\3\4 something else"), HasSubstr("not a .npy file"));
  EXPECT_THAT(error(std::string("\x93NUMPY\7\0\0\0", 10)), HasSubstr("version 7"));
  EXPECT_THAT(error(std::string("\x93NUMPY\2\0\xff\xff\xff\xff", 12)), HasSubstr("4294967295 bytes long"));
  std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
  EXPECT_THAT(error(npy(good, "1234")), HasSubstr("cut off"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'fortran_order': False}")), HasSubstr("'shape' is missing"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'descr': '<f4'}")), HasSubstr("duplicate key 'descr'"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'color': 1}")), HasSubstr("unknown key 'color'"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'fortran_order': 1}")), HasSubstr("True or False"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}")), HasSubstr("a number"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}")),
              HasSubstr("too large"));
  // 2^62 * 8 bytes wraps to 0; 2^40 bytes would be a giant allocation.
  EXPECT_THAT(error(npy("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 2)}")),
              HasSubstr("cut off"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}")),
              HasSubstr("cut off"));
  EXPECT_THAT(error(npy(good + "!")), HasSubstr("unexpected text"));
  EXPECT_THAT(error(npy(std::string(2000, '{'))), HasSubstr("expected"));
}

TEST(Npy, MakesOddBoolsTrue) {
  Folder folder;
  write_file(folder / "b.npy",
             npy("{'descr': '|b1', 'fortran_order': False, 'shape': (3,)}", std::string("\0\1\7", 3)));
  array a = load(folder / "b.npy");
  const char* bytes = reinterpret_cast<const char*>(a.data<bool>());
  EXPECT_EQ(std::string(bytes, 3), std::string("\0\1\1", 3));
}

TEST(Npy, LargeFilesAreMappedAndSurviveBeingSavedOver) {
  Folder folder;
  array a = pattern({3 << 20}, int32);  // 12 MB
  save(folder / "a.npy", a);
  array b = load(folder / "a.npy");
  save(folder / "a.npy", array({1, 2, 3}));
  expect_same(b, a);
  b.data<int32_t>()[0] = 99;  // private memory: the file is not touched
  EXPECT_EQ(load(folder / "a.npy").to_vector<int>(), (std::vector<int>{1, 2, 3}));
}

// A stream in memory, as a user would write one.
class Memory : public io::Reader, public io::Writer {
 public:
  std::string bytes;
  size_t at = 0;
  bool broken = false;
  bool is_open() const override { return true; }
  bool good() const override { return !broken; }
  size_t tell() override { return at; }
  void seek(int64_t offset, std::ios_base::seekdir way) override {
    at = static_cast<size_t>(offset) + (way == std::ios_base::end   ? bytes.size()
                                        : way == std::ios_base::cur ? at
                                                                    : 0);
  }
  void read(char* data, size_t n) override {
    read(data, n, at);
    at += n;
  }
  void read(char* data, size_t n, size_t offset) override {
    if (offset + n > bytes.size())
      broken = true;
    else
      bytes.copy(data, n, offset);
  }
  void write(const char* data, size_t n) override { bytes.append(data, n); }
  std::string label() const override { return "memory"; }
};

TEST(Npy, StreamsHoldSeveralArrays) {
  auto stream = std::make_shared<Memory>();
  save(std::shared_ptr<io::Writer>(stream), pattern({2, 3}, float32));
  save(std::shared_ptr<io::Writer>(stream), pattern({4}, int8));
  expect_same(load(std::shared_ptr<io::Reader>(stream)), pattern({2, 3}, float32));
  expect_same(load(std::shared_ptr<io::Reader>(stream)), pattern({4}, int8));
  EXPECT_THAT(error_of([&] { load(std::shared_ptr<io::Reader>(stream)); }),
              HasSubstr("[load] memory: not a .npy"));
  stream->broken = true;
  EXPECT_THAT(error_of([&] { save(std::shared_ptr<io::Writer>(stream), array(1)); }), HasSubstr("memory"));
}

TEST(Npy, FileStreams) {
  Folder folder;
  save(std::make_shared<io::FileWriter>(folder / "a.npy"), pattern({2, 3}, float32));
  expect_same(load(std::make_shared<io::FileReader>(folder / "a.npy")), pattern({2, 3}, float32));
  EXPECT_THAT(error_of([&] { load(std::make_shared<io::FileReader>(folder / "none")); }),
              HasSubstr("not open"));
  EXPECT_THAT(error_of([&] { save(std::make_shared<io::FileWriter>(folder / "no/folder"), array(1)); }),
              HasSubstr("No such file"));
}

}  // namespace
}  // namespace lazuli
