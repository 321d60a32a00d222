// Rows of an array that take their updates, which are sorted by row.
#pragma once

#include "backend/backend.h"
#include "backend/cuda/walk.cuh"
#include "ops/indexing.h"

namespace lazuli::cuda {

// What a thread needs to know of sorted updates. Elements are counted, in units where values are set.
struct Rows {
  const uint32_t *keys, *places;
  uint32_t* begin;   // of each row, where all rows are written
  int64_t n, units;  // updates; units of a row
  uint64_t first, rows;
  int64_t near_step;       // from an update's values to the next one's
  Walk<1> far;             // from a row of the array to where it begins
  Walk<2> kept;            // over the units of a row: in the array, in the values
  void *partial, *second;  // joined chunks, and chunks of these; or null
  const void* base;        // what `out` begins as, if it does not hold that yet
  bool constant;           // the base is one element
  int across_bits;         // so many threads share a row
  Accumulate op;
};

// `out` takes the updates; elements lie together in packs of `pack` (allowed_pack of scatter.cuh).
void join_rows(Rows& rows, int64_t pack, const Operand& updates, const Operand& out);

}  // namespace lazuli::cuda
