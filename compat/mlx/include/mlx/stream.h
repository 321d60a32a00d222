// Lazuli's streams may be used from any thread, so the kinds that MLX keeps apart are one.
#pragma once

#include <optional>

#include "lazuli/device.h"
#include "mlx/api.h"
#include "mlx/device.h"

namespace mlx::core {

struct ThreadLocalStream : Stream {
  using Stream::Stream;
};

inline Stream new_thread_unsafe_stream(Device d) { return new_stream(d); }
inline ThreadLocalStream new_thread_local_stream(Device d) {
  return ThreadLocalStream(new_stream(d).index, d);
}
inline Stream stream_from_thread_local_stream(ThreadLocalStream s) { return s; }
inline std::optional<Stream> peek_default_stream(Device d) { return default_stream(d); }
inline void clear_streams() { synchronize(); }

}  // namespace mlx::core
