// Decompression through zlib.
#pragma once

#include "io/source.h"

namespace lazuli::io {

bool is_gzip(Source& source);

enum class Deflate { raw, gzip };  // a zip member has no wrapper; gzip files may have several parts

struct Inflated {
  std::shared_ptr<std::byte> data;
  uint64_t size = 0;
};

// Decompresses `length` bytes at `offset`, stopping after `most` bytes of output. Memory is
// bounded by what `length` bytes can expand to, whatever `most` claims.
// Throws std::runtime_error if the data is damaged, cut off, or followed by something else.
Inflated inflate(Source& source, uint64_t offset, uint64_t length, uint64_t most, Deflate format,
                 std::string_view what);

}  // namespace lazuli::io
