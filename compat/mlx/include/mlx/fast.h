#pragma once

#include "lazuli/fast.h"
#include "mlx/array.h"
#include "mlx/stream.h"
