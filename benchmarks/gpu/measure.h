// Timing of the GPU benchmark: what a row is, and how it is measured.
//
// A row makes its data and gives a Case: a function that builds the graph of run i. A sample is the wall
// clock of n runs handed to async_eval one after another and one wait at the end, divided by n, which is
// what a program sees that keeps the GPU fed; peers.py does the same. Runs rotate over several copies of
// their inputs, so that the L2 cache (50 MiB on an H100) does not hold them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lazuli/array.h"

namespace gpu_bench {

using lazuli::array;

struct Case {
  // The arrays that run i computes, as a graph not yet evaluated.
  std::function<std::vector<array>(int i)> run;
  // Done before n runs and not timed; they then get i = 0 .. n - 1.
  std::function<void(int n)> prepare = {};
  int most_runs = 1000;  // of a sample
  double divisor = 1;    // operations in a run, where the row counts per operation
  double bytes = 0;      // moved by a run at least
  double flops = 0;
};

struct Row {
  std::string name, what;
  std::function<Case()> make;
};

struct Timing {
  double median = 0, min = 0;  // seconds
  size_t runs = 0;
};

Timing measure(const Case& c);

// {"row": "exp_f32", "ms": 0.19, "min_ms": 0.189, "runs": 450, "gb_s": 2811}, or {"row": ..., "error": ...}
void print_result(const Row& row);

// The rows, by file.
std::vector<Row> elementwise_rows();
std::vector<Row> array_rows();  // sort, take, random numbers, ...
std::vector<Row> product_rows();
std::vector<Row> training_rows();
std::vector<Row> decode_rows();

// ---- data ----

// Evaluated copies of different random values, so many that they exceed the L2 cache three times over.
std::vector<array> normals(const lazuli::Shape& shape, lazuli::Dtype dtype, float scale = 1);
// A case that applies f to these in turn.
Case each(std::vector<array> inputs, std::function<array(const array&)> f, double bytes);

}  // namespace gpu_bench
