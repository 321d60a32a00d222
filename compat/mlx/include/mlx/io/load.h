#pragma once

#include "lazuli/io/stream.h"
#include "mlx/api.h"
