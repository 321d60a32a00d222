#include "io/error.h"

#include <fmt/format.h>

#include <stdexcept>
#include <system_error>

namespace lazuli::io {

void fail(std::string_view op, std::string_view file, std::string_view what) {
  throw std::runtime_error(fmt::format("[{}] {}: {}", op, file, what));
}

void fail_errno(std::string_view op, std::string_view file, std::string_view what, int error) {
  fail(op, file, fmt::format("{}: {}", what, std::generic_category().message(error)));
}

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 80;
  std::string out = "'";
  for (char c : text.substr(0, kLongest)) {
    auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out + (text.size() > kLongest ? "...'" : "'");
}

}  // namespace lazuli::io
