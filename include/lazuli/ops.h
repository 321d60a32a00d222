// All operations.
#pragma once

#include "lazuli/ops/activation.h"
#include "lazuli/ops/block_quantized.h"
#include "lazuli/ops/conv.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/pool.h"
#include "lazuli/ops/quantized.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/scan.h"
#include "lazuli/ops/shape.h"
#include "lazuli/ops/softmax.h"
#include "lazuli/ops/sort.h"
