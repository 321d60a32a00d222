#pragma once

#include "mlx/device.h"

namespace mlx::core::cu {
inline bool is_available() { return lazuli::is_available(Device(Device::gpu)); }
}  // namespace mlx::core::cu
