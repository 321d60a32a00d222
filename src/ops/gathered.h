// What products of gathered matrices share: checking and batching their indices, and their gradients.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// Indices of one shape into the matrices of a and b (their axes before the last two, in row-major order);
// each matrix once for those not given.
std::pair<array, array> gather_indices(const char* op, const array& a, const array& b,
                                       std::optional<array> lhs, std::optional<array> rhs,
                                       const StreamOrDevice& s);

// The sum of the matrices each (items, m, k) that have the same index: (count, m, k).
array scattered(const array& each, const array& indices, int64_t count);
// a[indices], (items, m, k).
array take_matrices(const array& a, const array& indices);
// out[e] = the sum over i with rhs[i] = e of transpose(a[lhs[i]]) @ g[i]; (matrices, k, n).
array outer_products(const array& a, const array& g, const array& lhs, const array& rhs, int64_t matrices);

// The extent of the batch axis of a vmap.
int64_t batch_extent(const std::vector<array>& inputs, const std::vector<int>& axes);
// The batch axis in front; repeated if `axis` is negative.
array with_batch(const array& a, int axis, int64_t batch);

// Inputs of a gathered product (x, parts of the matrices, indices of both) under vmap: batches become more
// matrices, and indices count on.
struct GatherBatch {
  GatherBatch(const std::vector<array>& inputs, const std::vector<int>& axes);
  array x;
  std::vector<array> matrix;
  array lhs, rhs;
};

}  // namespace lazuli
