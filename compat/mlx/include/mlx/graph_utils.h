#pragma once

#include "lazuli/graph.h"
#include "mlx/array.h"
