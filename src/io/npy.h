// The .npy format inside any container: a stream, a file, a member of an .npz.
#pragma once

#include "io/source.h"

namespace lazuli::io {

// The array at the start of `source`. Sets *end to the offset behind it, if given.
array parse_npy(Source& source, uint64_t* end = nullptr);

// The bytes before the data, whose number is a multiple of 64.
std::string npy_header(const array& a);

// Evaluates `a` and returns its elements in row-major order.
const char* row_major_bytes(const array& a);

// `file`, ending in `extension`.
std::string with_extension(std::string file, std::string_view extension);

}  // namespace lazuli::io
