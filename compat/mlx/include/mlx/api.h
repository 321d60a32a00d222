// Programs written for MLX's C++ interface compile against Lazuli through the headers of this folder: each
// makes the names of its namesake in MLX visible in namespace mlx::core. Families that Lazuli does
// not have yet have no header here, so that a program which needs one fails to compile instead of to run.
#pragma once

#define MLX_API

namespace lazuli {}
namespace mlx::core {
using namespace lazuli;
}
