// Random numbers, sorting, indexing, and what one small operation costs.
#include <memory>

#include "lazuli/lazuli.h"
#include "measure.h"

namespace gpu_bench {

namespace {

using namespace lazuli;

constexpr int64_t kNumbers = 64 << 20, kTable = 320000, kRows = 655360, kColumns = 512;
constexpr int kChain = 1000;

array indices() {
  array index = random::randint(0, static_cast<int>(kTable), {kRows}, int32);
  eval(index);
  return index;
}

Case random_normal() {
  return {.run = [](int) -> std::vector<array> { return {random::normal({kNumbers})}; },
          .bytes = 4.0 * kNumbers};
}

Case take_rows() {
  array index = indices();
  return each(
      normals({kTable, kColumns}, float32), [=](const array& table) { return take(table, index, 0); },
      2.0 * 4 * kRows * kColumns);
}
Case scatter_add_rows() {
  array index = indices(), updates = random::normal({kRows, kColumns});
  eval(updates);
  return each(
      normals({kTable, kColumns}, float32),
      [=](const array& table) { return index_update(table, {index}, updates, indexing::Write::add); },
      4.0 * (kRows + 2 * kTable) * kColumns);
}

// Each add is handed over by itself and reads the one before.
Case small_add() {
  auto x = std::make_shared<array>(random::normal({8}));
  array one = ones({8});
  eval(*x, one);
  return {.run = [=](int) -> std::vector<array> {
    *x = *x + one;
    return {*x};
  }};
}
// A graph of that many, in one evaluation: they fuse.
Case chain() {
  array x = random::normal({8}), one = ones({8});
  eval(x, one);
  return {.run = [=](int) -> std::vector<array> {
            array z = x;
            for (int i = 0; i < kChain; ++i) z = z + one;
            return {z};
          },
          .divisor = kChain};
}

}  // namespace

std::vector<Row> array_rows() {
  return {
      {"random_normal", "random normal, 64M f32", random_normal},
      {"sort", "sort, 1024 × 4096 f32",
       [] {
         return each(
             normals({1024, 4096}, float32), [](const array& x) { return sort(x, -1); }, 8.0 * 1024 * 4096);
       }},
      {"take", "take 655,360 rows × 512 f32", take_rows},
      {"scatter_add", "scatter-add of the same", scatter_add_rows},
      {"small_add", "one add of 8 elements, each evaluated", small_add},
      {"chain", "a chain of 1000 such adds, evaluated once, per add", chain},
  };
}

}  // namespace gpu_bench
