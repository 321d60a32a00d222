#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "io/zip.h"

namespace lazuli::io {
namespace {

constexpr uint16_t kZip64Field = 1, kPaddingField = 0xd935;
constexpr uint64_t kAlignment = 64;
constexpr uint64_t kLargestCall = 1 << 30;  // zlib counts in 32 bits

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string deflate(const std::vector<ZipWriter::Piece>& pieces) {
  z_stream z{};
  if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::bad_alloc();
  std::string out;
  std::vector<char> chunk(1 << 18);
  auto run = [&](int flush) {
    int code;
    do {
      z.next_out = reinterpret_cast<Bytef*>(chunk.data());
      z.avail_out = static_cast<uInt>(chunk.size());
      code = ::deflate(&z, flush);
      out.append(chunk.data(), chunk.size() - z.avail_out);
    } while (z.avail_out == 0 || (flush == Z_FINISH && code != Z_STREAM_END));
  };
  for (auto [data, size] : pieces)
    while (size > 0) {
      size_t n = std::min<size_t>(size, kLargestCall);
      z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data));
      z.avail_in = static_cast<uInt>(n);
      run(Z_NO_FLUSH);
      data += n;
      size -= n;
    }
  run(Z_FINISH);
  deflateEnd(&z);
  return out;
}

// The part that local and central headers share: flags to sizes.
void put_common(std::string& out, const ZipMember& m, bool zip64) {
  bool ascii = std::ranges::all_of(m.name, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  put<uint16_t>(out, ascii ? 0 : 1 << 11);  // the name is UTF-8
  put<uint16_t>(out, m.deflated ? 8 : 0);
  put<uint16_t>(out, 0);     // time
  put<uint16_t>(out, 0x21);  // 1980-01-01
  put<uint32_t>(out, m.crc);
  put<uint32_t>(out, zip64 ? 0xffffffff : static_cast<uint32_t>(m.compressed));
  put<uint32_t>(out, zip64 ? 0xffffffff : static_cast<uint32_t>(m.size));
}

}  // namespace

void ZipWriter::put(const std::string& bytes) {
  out_.write(bytes.data(), bytes.size());
  at_ += bytes.size();
}

void ZipWriter::add(const std::string& name, const std::vector<Piece>& pieces, bool compress) {
  if (name.size() > 0xffff)
    throw std::invalid_argument("[savez] a name is longer than the 65535 bytes that the format allows");
  Written m;
  m.name = name;
  m.deflated = compress;
  m.header = at_;
  uLong crc = 0;
  for (auto [data, size] : pieces) {
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(data), size);
    m.size += size;
  }
  m.crc = static_cast<uint32_t>(crc);
  std::string compressed;
  if (compress) compressed = deflate(pieces);
  m.compressed = compress ? compressed.size() : m.size;
  bool zip64 = std::max(m.size, m.compressed) >= zip64_from_;

  std::string extra;
  if (zip64) {
    io::put<uint16_t>(extra, kZip64Field);
    io::put<uint16_t>(extra, 16);
    io::put<uint64_t>(extra, m.size);
    io::put<uint64_t>(extra, m.compressed);
  }
  if (!compress) {
    uint64_t unpadded = at_ + 30 + name.size() + extra.size() + 4;
    uint16_t padding = static_cast<uint16_t>((kAlignment - unpadded % kAlignment) % kAlignment);
    io::put<uint16_t>(extra, kPaddingField);
    io::put<uint16_t>(extra, padding);
    extra.append(padding, '\0');
  }
  std::string header = "PK\3\4";
  io::put<uint16_t>(header, zip64 ? 45 : 20);
  put_common(header, m, zip64);
  io::put<uint16_t>(header, static_cast<uint16_t>(name.size()));
  io::put<uint16_t>(header, static_cast<uint16_t>(extra.size()));
  put(header + name + extra);
  if (compress) {
    put(compressed);
  } else {
    for (auto [data, size] : pieces) out_.write(data, size);
    at_ += m.size;
  }
  members_.push_back(std::move(m));
}

void ZipWriter::finish() {
  uint64_t directory = at_;
  for (const Written& m : members_) {
    bool zip64 = std::max({m.size, m.compressed, m.header}) >= zip64_from_;
    std::string extra;
    if (zip64) {
      io::put<uint16_t>(extra, kZip64Field);
      io::put<uint16_t>(extra, 24);
      io::put<uint64_t>(extra, m.size);
      io::put<uint64_t>(extra, m.compressed);
      io::put<uint64_t>(extra, m.header);
    }
    std::string header = "PK\1\2";
    io::put<uint16_t>(header, 45);  // made by
    io::put<uint16_t>(header, zip64 ? 45 : 20);
    put_common(header, m, zip64);
    io::put<uint16_t>(header, static_cast<uint16_t>(m.name.size()));
    io::put<uint16_t>(header, static_cast<uint16_t>(extra.size()));
    header.append(10, '\0');  // comment, disk, attributes
    io::put<uint32_t>(header, zip64 ? 0xffffffff : static_cast<uint32_t>(m.header));
    put(header + m.name + extra);
  }
  uint64_t size = at_ - directory, end64 = at_;
  uint64_t count = members_.size();
  bool zip64 = count >= 0xffff || std::max(directory, size) >= zip64_from_;
  std::string end;
  if (zip64) {
    end = "PK\6\6";
    io::put<uint64_t>(end, 44);
    io::put<uint16_t>(end, 45);
    io::put<uint16_t>(end, 45);
    end.append(8, '\0');  // disks
    for (uint64_t value : {count, count, size, directory}) io::put(end, value);
    end += "PK\6\7";
    io::put<uint32_t>(end, 0);
    io::put<uint64_t>(end, end64);
    io::put<uint32_t>(end, 1);
  }
  end += "PK\5\6";
  end.append(4, '\0');  // disks
  for (int i = 0; i < 2; ++i) io::put<uint16_t>(end, zip64 ? 0xffff : static_cast<uint16_t>(count));
  io::put<uint32_t>(end, zip64 ? 0xffffffff : static_cast<uint32_t>(size));
  io::put<uint32_t>(end, zip64 ? 0xffffffff : static_cast<uint32_t>(directory));
  io::put<uint16_t>(end, 0);
  put(end);
}

}  // namespace lazuli::io
