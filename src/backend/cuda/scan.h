// Scans on the GPU: the kernels of each operation are compiled in a file of their own.
#pragma once

#include "backend/backend.h"
#include "ops/scan.h"

namespace lazuli::cuda {

void scan_sum(const Scan& p, const Operand& in, const Operand& out);
void scan_prod(const Scan& p, const Operand& in, const Operand& out);
void scan_logsumexp(const Scan& p, const Operand& in, const Operand& out);

}  // namespace lazuli::cuda
