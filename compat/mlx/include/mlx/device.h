#pragma once

#include "lazuli/device.h"
#include "mlx/api.h"
