// Zip archives, as far as .npz needs them: stored and deflated members, zip64.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "io/source.h"

namespace lazuli::io {

struct ZipMember {
  std::string name;
  bool deflated = false;
  uint32_t crc = 0;
  uint64_t compressed = 0, size = 0;  // bytes in the archive, bytes of content
  uint64_t offset = 0;                // of the data in the archive
};

// The archive's directory. Throws std::runtime_error if it is damaged, if a member is
// encrypted or stored in another way, or if names repeat or data overlaps.
std::vector<ZipMember> read_zip_directory(Source& archive);

// A member's content; its checksum is verified.
std::unique_ptr<Source> open_member(Source& archive, const ZipMember& member);

// Writes an archive front to back. Its bytes depend only on the calls.
class ZipWriter {
 public:
  // Sizes and offsets from `zip64_from` on are written in zip64 fields (lowered by tests).
  explicit ZipWriter(Writer& out, uint64_t zip64_from = 0xffffffff) : out_(out), zip64_from_(zip64_from) {}

  struct Piece {
    const char* data;
    size_t size;
  };
  // Adds a member made of these pieces; the data of a stored member begins at a multiple of 64.
  void add(const std::string& name, const std::vector<Piece>& pieces, bool compress);
  void finish();

 private:
  struct Written : ZipMember {
    uint64_t header = 0;
  };
  Writer& out_;
  uint64_t zip64_from_, at_ = 0;
  std::vector<Written> members_;
  void put(const std::string& bytes);
};

}  // namespace lazuli::io
