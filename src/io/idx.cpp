// IDX: two zero bytes, a type, the number of dimensions, each extent as a big-endian
// uint32, then the elements, big-endian. Source: http://yann.lecun.com/exdb/mnist.
#include <fmt/format.h>

#include <cstring>

#include "io/gzip.h"
#include "io/source.h"
#include "lazuli/data.h"

namespace lazuli {
namespace {

constexpr uint64_t kMostDimensions = 16;
constexpr uint64_t kLongestHeader = 4 + 4 * kMostDimensions;

std::optional<Dtype> dtype_of(uint8_t code) {
  switch (code) {
    case 0x08: return uint8;
    case 0x09: return int8;
    case 0x0b: return int16;
    case 0x0c: return int32;
    case 0x0d: return float32;
    case 0x0e: return float64;
    default: return std::nullopt;
  }
}

struct Header {
  Dtype dtype;
  Shape shape;
  uint64_t size;   // of the header, in bytes
  uint64_t total;  // of the file
};

Header parse_header(io::Source& source) {
  uint8_t magic[4];
  std::memcpy(magic, source.read(0, 4, "the magic number").get(), 4);
  auto dtype = dtype_of(magic[2]);
  if (magic[0] || magic[1] || !dtype || magic[3] > kMostDimensions)
    source.fail(fmt::format("not an IDX file (it begins with {:02x} {:02x} {:02x} {:02x})", magic[0],
                            magic[1], magic[2], magic[3]));
  Header header{*dtype, {}, 4 + 4u * magic[3], 0};
  auto extents = source.read(4, 4u * magic[3], "the shape");
  uint64_t bytes = dtype->size();
  bool overflows = false;
  for (int i = 0; i < magic[3]; ++i) {
    uint32_t extent;
    std::memcpy(&extent, extents.get() + 4 * i, 4);
    extent = __builtin_bswap32(extent);
    header.shape.push_back(extent);
    overflows |= __builtin_mul_overflow(bytes, uint64_t{extent}, &bytes);
  }
  overflows |= __builtin_add_overflow(bytes, header.size, &header.total);
  if (overflows) source.fail(fmt::format("shape {} is too large for any file", to_string(header.shape)));
  return header;
}

}  // namespace

array load_idx(const std::string& file, StreamOrDevice) {
  auto source = io::open_file("load_idx", file);
  bool gzip = io::is_gzip(*source);
  // A compressed file is decompressed twice: its first bytes, which say how long it is, then all.
  auto decompressed = [&](uint64_t most) {
    auto [data, size] = io::inflate(*source, 0, source->size(), most, io::Deflate::gzip, "the file");
    return io::open_memory("load_idx", file, data, size);
  };
  auto head = gzip ? decompressed(kLongestHeader) : nullptr;
  Header header = parse_header(gzip ? *head : *source);
  if (gzip) {
    auto all = decompressed(header.total + 1);
    source = std::move(all);
  }
  array a = source->read_array(header.size, header.shape, header.dtype, header.dtype.size() > 1, "the data");
  if (source->size() != header.total)
    source->fail(fmt::format("is longer than shape {} and dtype {} need", to_string(header.shape),
                             dtype_name(header.dtype)));
  return a;
}

}  // namespace lazuli
