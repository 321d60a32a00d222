#pragma once

#include <bit>
#include <cstdlib>
#include <string>

#include "lazuli/dtype.h"
#include "mlx/array.h"
#include "mlx/device.h"
#include "mlx/dtype.h"
#include "mlx/stream.h"

namespace mlx::core {

inline bool is_power_of_2(int n) { return n > 0 && std::has_single_bit(static_cast<unsigned>(n)); }
inline int next_power_of_2(int n) { return static_cast<int>(std::bit_ceil(static_cast<unsigned>(n))); }

namespace env {
inline int get_var(const char* name, int default_value) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : default_value;
}
inline std::string get_var(const char* name, const char* default_value) {
  const char* value = std::getenv(name);
  return value ? value : default_value;
}
}  // namespace env

}  // namespace mlx::core
