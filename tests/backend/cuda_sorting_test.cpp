// Sorts, scans and argmax where the GPU takes another way than for short or few rows: tiles that look back,
// rows cut into segments, totals that are summed first. Whole numbers: results equal those of the CPU in
// every bit.
#include <gtest/gtest.h>

#include "lazuli/lazuli.h"

namespace lazuli {
namespace {

using Operation = array (*)(const array& a, int axis, StreamOrDevice s);

void expect_as_on_the_cpu(const char* name, Operation f, const array& a, int axis) {
  const array gpu = f(a, axis, Device::gpu), cpu = f(a, axis, Device::cpu);
  EXPECT_TRUE(array_equal(gpu, cpu, false, Device::cpu).item<bool>())
      << name << " of " << to_string(a.shape()) << " " << dtype_name(a.dtype()) << ", axis " << axis;
}

array whole_numbers(const Shape& shape, Dtype t, int low, int high) {
  return astype(random::randint(low, high, shape, int32, random::key(7), Device::cpu), t, Device::cpu);
}

class CudaSorting : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_available(Device::gpu)) GTEST_SKIP() << "no GPU";
  }
};

TEST_F(CudaSorting, LongRows) {
  // Enough tiles of 8192 to fill the GPU twice; then rows that end within a tile.
  const auto processors =
      static_cast<int64_t>(std::get<size_t>(device_info(Device::gpu).at("multiprocessors")));
  for (const Shape& shape : {Shape{17500 * processors}, Shape{3, 20001}})
    for (Dtype t : {float32, int8, int64, bfloat16}) {
      const array a = whole_numbers(shape, t, -100, 100);
      const int axis = static_cast<int>(shape.size()) - 1;
      expect_as_on_the_cpu(
          "sort", [](const array& x, int i, StreamOrDevice s) { return sort(x, i, s); }, a, axis);
      expect_as_on_the_cpu(
          "argsort", [](const array& x, int i, StreamOrDevice s) { return argsort(x, i, s); }, a, axis);
    }
}

TEST_F(CudaSorting, DigitsThatAreTheSameEverywhere) {
  for (int64_t n : {3000, 30000}) {
    const array a = whole_numbers({2, n}, int32, 70000, 70200);
    expect_as_on_the_cpu(
        "argsort", [](const array& x, int i, StreamOrDevice s) { return argsort(x, i, s); }, a, 1);
  }
}

TEST_F(CudaSorting, ScansInSegments) {
  struct {
    Shape shape;
    int axis;
  } cases[] = {{{1200001}, 0}, {{2, 90000}, 1}, {{70000, 3}, 0}, {{3, 9000, 40}, 1}, {{2, 300000, 1}, 1}};
  for (const auto& [shape, axis] : cases)
    for (Dtype t : {float64, int32, bfloat16}) {
      // Sums of bfloat16 are rounded otherwise: only the largest so far.
      const array a = whole_numbers(shape, t, -50, 51);
      expect_as_on_the_cpu(
          "cummax", [](const array& x, int i, StreamOrDevice s) { return cummax(x, i, true, false, s); },
          t == int32 ? astype(a, float32, Device::cpu) : a, axis);
      if (t == bfloat16) continue;
      expect_as_on_the_cpu(
          "cumsum", [](const array& x, int i, StreamOrDevice s) { return cumsum(x, i, false, true, {}, s); },
          a, axis);
      expect_as_on_the_cpu(
          "reverse cumsum",
          [](const array& x, int i, StreamOrDevice s) { return cumsum(x, i, true, false, {}, s); }, a, axis);
    }
}

TEST_F(CudaSorting, ArgmaxInSegments) {
  for (Dtype t : {float32, bfloat16, int8, int64}) {
    struct {
      Shape shape;
      int axis;
    } cases[] = {{{152064}, 0}, {{3, 100003}, 1}, {{20000, 3}, 0}, {{2, 5000, 70}, 1}, {{600, 2050}, 1}};
    for (const auto& [shape, axis] : cases) {
      const array a = whole_numbers(shape, t, -100, 100);  // many are largest: the first wins
      expect_as_on_the_cpu(
          "argmax", [](const array& x, int i, StreamOrDevice s) { return argmax(x, i, false, s); }, a, axis);
      expect_as_on_the_cpu(
          "argmin", [](const array& x, int i, StreamOrDevice s) { return argmin(x, i, false, s); }, a, axis);
    }
  }
}

}  // namespace
}  // namespace lazuli
