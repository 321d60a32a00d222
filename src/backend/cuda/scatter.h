// Scatter, which register_indexing registers.
#pragma once

#include "backend/backend.h"

namespace lazuli::cuda {

constexpr int kMostIndices = 8;  // index arrays of one operation

void run_scatter(const KernelCall& call);
void run_scatter_axis(const KernelCall& call);

}  // namespace lazuli::cuda
