// Messages about files: "[load] a.npy: what is wrong".
#pragma once

#include <string>
#include <string_view>

namespace lazuli::io {

// Throws std::runtime_error.
[[noreturn]] void fail(std::string_view op, std::string_view file, std::string_view what);
// The same, followed by the meaning of an errno value.
[[noreturn]] void fail_errno(std::string_view op, std::string_view file, std::string_view what, int error);

// Text from a file made safe for one line of a message: in quotes, escaped, at most 80 characters.
std::string printable(std::string_view text);

}  // namespace lazuli::io
