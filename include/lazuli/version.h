// The version of Lazuli. CMake reads it from here; docs and packages follow.
//
//     static_assert(LAZULI_VERSION_NUMERIC >= 1000, "needs Lazuli 0.1 or newer");
#pragma once

#define LAZULI_VERSION_MAJOR 0
#define LAZULI_VERSION_MINOR 1
#define LAZULI_VERSION_PATCH 0
#define LAZULI_VERSION_NUMERIC \
  (100000 * LAZULI_VERSION_MAJOR + 1000 * LAZULI_VERSION_MINOR + LAZULI_VERSION_PATCH)

namespace lazuli {

// "0.1.0", of the headers the caller was compiled with.
inline constexpr const char* version() {
#define LAZULI_TEXT_(x) #x
#define LAZULI_TEXT(x) LAZULI_TEXT_(x)
  return LAZULI_TEXT(LAZULI_VERSION_MAJOR) "." LAZULI_TEXT(LAZULI_VERSION_MINOR) "." LAZULI_TEXT(
      LAZULI_VERSION_PATCH);
#undef LAZULI_TEXT
#undef LAZULI_TEXT_
}

}  // namespace lazuli
