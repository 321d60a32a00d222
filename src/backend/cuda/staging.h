// Copies between the two memories, through pinned memory: the GPU copies one part while threads of the host
// copy the next, several times as fast as the driver copies pageable memory by itself.
#pragma once

#include <cstddef>

namespace lazuli::cuda {

// In the order of the stream. `from` may be changed as soon as this returns.
void copy_to_gpu(void* to, const void* from, size_t bytes);
// Returns when the bytes are there, which is after everything submitted before.
void copy_to_host(void* to, const void* from, size_t bytes);

}  // namespace lazuli::cuda
