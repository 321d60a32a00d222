#pragma once

#include "lazuli/dtype.h"
#include "mlx/api.h"
