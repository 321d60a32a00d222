// With the address sanitizer, what the pool hands out ends where it was asked to end, though blocks are
// longer.
#pragma once

#include <cstddef>

namespace lazuli::cuda::emulation {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kBounds = true;
#else
constexpr bool kBounds = false;
#endif

// Memory of the GPU that comes from the pool: its first `bytes` hold anything, and the rest cannot be touched
// until it is unbound.
// REQUIRES: no kernel that uses the block waits to be run.
void bound(void* data, size_t bytes);
void unbound(void* data);

}  // namespace lazuli::cuda::emulation
