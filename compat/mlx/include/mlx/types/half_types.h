#pragma once

#include "lazuli/half.h"
#include "mlx/api.h"
