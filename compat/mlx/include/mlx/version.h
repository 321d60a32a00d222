// The version of MLX whose interface these headers follow; version() is Lazuli's own.
#pragma once

#include "lazuli/version.h"
#include "mlx/api.h"

#define MLX_VERSION_MAJOR 0
#define MLX_VERSION_MINOR 32
#define MLX_VERSION_PATCH 4
#define MLX_VERSION_NUMERIC (100000 * MLX_VERSION_MAJOR + 1000 * MLX_VERSION_MINOR + MLX_VERSION_PATCH)
