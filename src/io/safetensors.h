// The header of a safetensors file: JSON that names tensors and places them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/source.h"

namespace lazuli::io {

struct TensorEntry {
  std::string name;
  Dtype dtype = float32;
  Shape shape;
  uint64_t begin = 0, end = 0;  // offsets into the data
};

struct SafetensorsHeader {
  std::vector<TensorEntry> tensors;  // in the order of their offsets
  std::map<std::string, std::string> metadata;
};

// Parses and checks: every tensor's offsets fit its shape, and together the tensors cover
// the `data_size` bytes without gap or overlap.
SafetensorsHeader parse_safetensors_header(const Source& source, std::string_view json, uint64_t data_size);

// The format's name of a dtype: "F32".
std::string_view safetensors_dtype(Dtype dtype);

}  // namespace lazuli::io
