// Source of the format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3.
#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "io/error.h"
#include "io/gzip.h"
#include "io/zip.h"

namespace lazuli::io {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50,
                   kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr uint64_t kEndSize = 22, kLongestComment = 0xffff, kCentralSize = 46, kLocalSize = 30;

// A little-endian number of type T at p, which the caller knows to be in range.
template <class T>
T number(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

struct Directory {
  uint64_t offset, size, count;
};

// The end record is the last thing in the file but for a comment of unknown length.
Directory find_directory(Source& archive) {
  if (archive.size() < kEndSize) archive.fail("not a zip archive (too short)");
  uint64_t tail = std::min(archive.size(), kEndSize + kLongestComment);
  uint64_t base = archive.size() - tail;
  auto bytes = archive.read(base, tail, "the end of the archive");
  uint64_t at = tail - kEndSize;
  while (number<uint32_t>(bytes.get() + at) != kEnd ||
         number<uint16_t>(bytes.get() + at + 20) != tail - kEndSize - at) {
    if (at-- == 0) archive.fail("not a zip archive, or cut off (it has no end record)");
  }
  const std::byte* end = bytes.get() + at;
  Directory d{number<uint32_t>(end + 16), number<uint32_t>(end + 12), number<uint16_t>(end + 10)};
  if (d.offset != 0xffffffff && d.size != 0xffffffff && d.count != 0xffff) return d;

  uint64_t end_offset = base + at;
  if (end_offset < 20) archive.fail("the zip64 end record is missing");
  auto locator = archive.read(end_offset - 20, 20, "the zip64 locator");
  if (number<uint32_t>(locator.get()) != kEnd64Locator) return d;
  auto end64 = archive.read(number<uint64_t>(locator.get() + 8), 56, "the zip64 end record");
  if (number<uint32_t>(end64.get()) != kEnd64) archive.fail("the zip64 end record is missing");
  return {number<uint64_t>(end64.get() + 48), number<uint64_t>(end64.get() + 40),
          number<uint64_t>(end64.get() + 32)};
}

// Replaces the fields that say "see the zip64 field" by its values, which are there in this order.
void apply_zip64(Source& archive, const std::byte* extra, uint64_t length, ZipMember& m) {
  while (length >= 4) {
    uint16_t id = number<uint16_t>(extra), size = number<uint16_t>(extra + 2);
    if (size > length - 4) archive.fail(fmt::format("member {}: a damaged extra field", printable(m.name)));
    if (id == 1) {
      const std::byte* p = extra + 4;
      uint64_t left = size;
      for (uint64_t* field : {&m.size, &m.compressed, &m.offset}) {
        if (*field != 0xffffffff) continue;
        if (left < 8) archive.fail(fmt::format("member {}: a damaged zip64 field", printable(m.name)));
        *field = number<uint64_t>(p);
        p += 8;
        left -= 8;
      }
      return;
    }
    extra += 4 + size;
    length -= 4 + size;
  }
}

// Moves m.offset from the local header to the data behind it.
void skip_local_header(Source& archive, ZipMember& m) {
  auto local = archive.read(m.offset, kLocalSize, fmt::format("the header of member {}", printable(m.name)));
  if (number<uint32_t>(local.get()) != kLocalHeader)
    archive.fail(fmt::format("member {}: its header is damaged", printable(m.name)));
  m.offset += kLocalSize + number<uint16_t>(local.get() + 26) + number<uint16_t>(local.get() + 28);
}

void check_overlaps(Source& archive, std::vector<const ZipMember*> members) {
  std::ranges::sort(members, {}, &ZipMember::offset);
  for (size_t i = 1; i < members.size(); ++i) {
    const ZipMember &a = *members[i - 1], &b = *members[i];
    if (a.compressed > b.offset - a.offset)
      archive.fail(fmt::format("members {} and {} overlap", printable(a.name), printable(b.name)));
  }
}

}  // namespace

std::vector<ZipMember> read_zip_directory(Source& archive) {
  Directory d = find_directory(archive);
  auto bytes = archive.read(d.offset, d.size, "the directory");
  const std::byte* p = bytes.get();
  uint64_t left = d.size;
  std::vector<ZipMember> members;
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < d.count; ++i) {
    if (left < kCentralSize || number<uint32_t>(p) != kCentralHeader)
      archive.fail("the directory is damaged");
    uint64_t name = number<uint16_t>(p + 28), extra = number<uint16_t>(p + 30),
             comment = number<uint16_t>(p + 32);
    if (name + extra + comment > left - kCentralSize) archive.fail("the directory is damaged");
    ZipMember m;
    m.name.assign(reinterpret_cast<const char*>(p + kCentralSize), name);
    uint16_t flags = number<uint16_t>(p + 8), method = number<uint16_t>(p + 10);
    m.deflated = method == 8;
    m.crc = number<uint32_t>(p + 16);
    m.compressed = number<uint32_t>(p + 20);
    m.size = number<uint32_t>(p + 24);
    m.offset = number<uint32_t>(p + 42);
    apply_zip64(archive, p + kCentralSize + name, extra, m);
    if (flags & 1) archive.fail(fmt::format("member {} is encrypted", printable(m.name)));
    if (method != 0 && method != 8)
      archive.fail(fmt::format("member {} is compressed by method {}; only deflate is supported",
                               printable(m.name), method));
    if (!m.deflated && m.size != m.compressed)
      archive.fail(fmt::format("member {}: its two sizes differ", printable(m.name)));
    if (!names.insert(m.name).second) archive.fail(fmt::format("duplicate member {}", printable(m.name)));
    skip_local_header(archive, m);
    archive.read(m.offset, m.compressed, fmt::format("member {}", printable(m.name)));
    members.push_back(std::move(m));
    p += kCentralSize + name + extra + comment;
    left -= kCentralSize + name + extra + comment;
  }
  std::vector<const ZipMember*> pointers;
  for (const ZipMember& m : members) pointers.push_back(&m);
  check_overlaps(archive, std::move(pointers));
  return members;
}

std::unique_ptr<Source> open_member(Source& archive, const ZipMember& member) {
  std::string what = fmt::format("member {}", printable(member.name));
  std::shared_ptr<std::byte> data;
  if (member.deflated) {
    auto out = inflate(archive, member.offset, member.compressed, member.size + 1, Deflate::raw, what);
    if (out.size != member.size) archive.fail(fmt::format("{} has not the size the directory says", what));
    data = std::move(out.data);
  } else {
    data = archive.read(member.offset, member.size, what);
  }
  if (crc32_z(0, reinterpret_cast<const Bytef*>(data.get()), member.size) != member.crc)
    archive.fail(fmt::format("{} is damaged (its checksum is wrong)", what));
  return open_memory(archive.op(), fmt::format("{} ({})", archive.name(), member.name), std::move(data),
                     member.size);
}

}  // namespace lazuli::io
