#include <gmock/gmock.h>
#include <zlib.h>

#include "lazuli/data.h"
#include "tests/io/arrays.h"
#include "tests/io/files.h"

namespace lazuli {
namespace {
using namespace test;
using testing::HasSubstr;

std::string idx(uint8_t code, const std::vector<uint32_t>& shape, const std::string& data) {
  std::string out = {0, 0, static_cast<char>(code), static_cast<char>(shape.size())};
  for (uint32_t extent : shape)
    for (int shift : {24, 16, 8, 0}) out += static_cast<char>(extent >> shift);
  return out + data;
}

std::string gzip(const std::string& bytes) {
  std::string out(compressBound(bytes.size()) + 64, '\0');
  z_stream z{};
  deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(out.size() - z.avail_out);
  deflateEnd(&z);
  return out;
}

TEST(Idx, ReadsPlainAndCompressedFiles) {
  expect_same(load_idx(data_file("uint8.idx")), pattern({3, 2, 2}, uint8));
  expect_same(load_idx(data_file("uint8.idx.gz")), pattern({3, 2, 2}, uint8));
  expect_same(load_idx(data_file("float32.idx")), pattern({2, 3}, float32));
}

TEST(Idx, ReadsEveryType) {
  Folder folder;
  const std::pair<uint8_t, Dtype> types[] = {{0x08, uint8}, {0x09, int8},    {0x0b, int16},
                                             {0x0c, int32}, {0x0d, float32}, {0x0e, float64}};
  for (auto [code, dtype] : types) {
    write_file(folder / "a", idx(code, {2}, std::string(2 * dtype.size(), '\0')));
    expect_same(load_idx(folder / "a"), array({0, 0}, dtype));
  }
}

TEST(Idx, ReadsGzipOfSeveralPartsAndLargeContent) {
  Folder folder;
  std::string content = idx(8, {1000, 1000}, std::string(1'000'000, '\5'));
  write_file(folder / "a.gz", gzip(content.substr(0, 5)) + gzip(content.substr(5)));
  array a = load_idx(folder / "a.gz");
  EXPECT_EQ(a.shape(), (Shape{1000, 1000}));
  EXPECT_EQ(a.data<uint8_t>()[999'999], 5);
}

TEST(Idx, NamesTheFault) {
  Folder folder;
  std::string file = folder / "a";
  auto error = [&](const std::string& bytes) {
    write_file(file, bytes);
    return error_of([&] { load_idx(file); });
  };
  EXPECT_EQ(error_of([&] { load_idx(folder / "none"); }),
            "[load_idx] " + (folder / "none") + ": cannot open: No such file or directory");
  EXPECT_THAT(error(""), HasSubstr(file + ": cut off"));
  EXPECT_THAT(error("\x89PNG...."), HasSubstr("not an IDX file (it begins with 89 50 4e 47)"));
  EXPECT_THAT(error(idx(0x0a, {1}, "1")), HasSubstr("not an IDX file"));
  EXPECT_THAT(error(idx(8, {3}, "12")), HasSubstr("cut off"));
  EXPECT_THAT(error(idx(8, {3}, "1234")), HasSubstr("longer than shape (3,) and dtype uint8 need"));
  EXPECT_THAT(error(idx(8, {3, 4}, "").substr(0, 9)), HasSubstr("cut off"));
  EXPECT_THAT(error(idx(8, {0xffffffff, 0xffffffff}, "1")), HasSubstr("cut off"));
  EXPECT_THAT(error(idx(8, {0xffffffff, 0xffffffff, 0xffffffff}, "1")), HasSubstr("too large"));

  std::string packed = gzip(idx(8, {100'000}, std::string(100'000, '\3')));
  EXPECT_THAT(error(packed.substr(0, packed.size() - 9)), HasSubstr("cut off"));
  EXPECT_THAT(error(packed.substr(0, 20)), HasSubstr("cut off"));
  EXPECT_THAT(error(packed.substr(0, 2)), HasSubstr("cut off"));
  std::string damaged = packed;
  damaged[packed.size() - 6] ^= 1;  // the checksum
  EXPECT_THAT(error(damaged), HasSubstr("damaged"));
  EXPECT_THAT(error(packed + "trailing"), HasSubstr("damaged"));
  EXPECT_THAT(error(gzip(idx(8, {3}, "1234"))), HasSubstr("longer"));
  EXPECT_THAT(error(gzip(idx(8, {0xffffffff, 0xffffffff}, "1234"))), HasSubstr("cut off"));
  EXPECT_THAT(error(gzip("hello, world")), HasSubstr("not an IDX file"));
}

}  // namespace
}  // namespace lazuli
