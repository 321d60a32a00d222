// What the pool hands out ends where it was asked to end, though its blocks are longer.
#pragma once

#include <cstddef>

namespace lazuli::cuda::emulation {

// Memory of the GPU that comes from the pool: its first `bytes` hold anything, and with the address sanitizer
// the rest cannot be touched until it is unbound.
void bound(void* data, size_t bytes);
void unbound(void* data);

}  // namespace lazuli::cuda::emulation
