// Small files beside a model.
#pragma once

#include <string>

namespace lazuli::lm::conversion {

// Both throw std::runtime_error that names the file.
std::string read_text(const std::string& path);
void write_text(const std::string& path, const std::string& text);

}  // namespace lazuli::lm::conversion
