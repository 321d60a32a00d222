#pragma once

#include "lazuli/compile.h"
#include "mlx/array.h"
