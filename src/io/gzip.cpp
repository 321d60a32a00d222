#include "io/gzip.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <new>

namespace lazuli::io {
namespace {

constexpr uint64_t kLargestCall = 1 << 30;  // zlib counts in 32 bits
constexpr uint64_t kHighestRatio = 1032;    // that deflate's format allows

struct Inflater {
  z_stream z{};
  explicit Inflater(int window_bits) {
    if (inflateInit2(&z, window_bits) != Z_OK) throw std::bad_alloc();
  }
  ~Inflater() { inflateEnd(&z); }
  Inflater(const Inflater&) = delete;
};

}  // namespace

bool is_gzip(Source& source) {
  if (source.size() < 2) return false;
  auto magic = source.read(0, 2, "the magic number");
  return magic.get()[0] == std::byte{0x1f} && magic.get()[1] == std::byte{0x8b};
}

Inflated inflate(Source& source, uint64_t offset, uint64_t length, uint64_t most, Deflate format,
                 std::string_view what) {
  auto in = source.read(offset, length, what);
  if (most / kHighestRatio > length) most = (length + 1) * kHighestRatio;
  Inflated out{allocate_bytes(most), 0};
  Inflater inflater(format == Deflate::raw ? -15 : 15 + 16);
  z_stream& z = inflater.z;
  uint64_t used = 0;
  for (bool ended = false; !ended && out.size < most;) {
    z.next_in = reinterpret_cast<Bytef*>(in.get() + used);
    z.avail_in = static_cast<uInt>(std::min(length - used, kLargestCall));
    z.next_out = reinterpret_cast<Bytef*>(out.data.get() + out.size);
    z.avail_out = static_cast<uInt>(std::min(most - out.size, kLargestCall));
    uInt given_in = z.avail_in, given_out = z.avail_out;
    int code = ::inflate(&z, Z_NO_FLUSH);
    used += given_in - z.avail_in;
    out.size += given_out - z.avail_out;
    if (code == Z_STREAM_END) {
      ended = used == length;
      if (!ended && format == Deflate::raw) source.fail(fmt::format("{} is followed by other data", what));
      if (!ended) inflateReset(&z);
    } else if (code == Z_BUF_ERROR || (code == Z_OK && used == length && z.avail_out > 0)) {
      source.fail(fmt::format("the compressed data of {} is cut off", what));
    } else if (code != Z_OK) {
      source.fail(fmt::format("the compressed data of {} is damaged", what));
    }
  }
  return out;
}

}  // namespace lazuli::io
