#pragma once

#include "mlx/device.h"

namespace mlx::core::gpu {
inline bool is_available() { return lazuli::is_available(Device(Device::gpu)); }
inline int device_count() { return lazuli::device_count(Device::gpu); }
inline const auto& device_info(int index = 0) { return lazuli::device_info(Device(Device::gpu, index)); }
}  // namespace mlx::core::gpu
