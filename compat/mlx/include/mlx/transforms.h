#pragma once

#include "lazuli/transforms.h"
#include "mlx/array.h"
