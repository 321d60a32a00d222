#pragma once

#include "lazuli/array.h"
#include "mlx/allocator.h"
#include "mlx/api.h"
