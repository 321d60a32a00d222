#pragma once

#include "lazuli/random.h"
#include "mlx/array.h"
#include "mlx/stream.h"
#include "mlx/utils.h"
