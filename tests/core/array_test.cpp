#include "lazuli/array.h"

#include <sstream>

#include "lazuli/memory.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "tests/support.h"

namespace lazuli::testing {
namespace {

TEST(Array, Constructors) {
  EXPECT_EQ(array(3).dtype(), int32);
  EXPECT_EQ(array(3.5f).ndim(), 0u);
  EXPECT_EQ(array({1, 2, 3}).shape(), (Shape{3}));
  EXPECT_EQ(array({}).dtype(), float32);
  EXPECT_EQ(array({1, 2}, float16).dtype(), float16);
  array nested({{1, 2, 3}, {4, 5, 6}});
  EXPECT_EQ(nested.shape(), (Shape{2, 3}));
  EXPECT_EQ(nested.to_vector<int>(), (std::vector<int>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(array({{{1.f}, {2.f}}, {{3.f}, {4.f}}}).shape(), (Shape{2, 2, 1}));
  EXPECT_EQ(array({1, 2, 3, 4}, {2, 2}).shape(), (Shape{2, 2}));
  std::vector<double> v{1, 2, 3};
  EXPECT_EQ(array(v).dtype(), float64);
  EXPECT_EQ(array(std::span<const double>(v), float32).to_vector<float>(), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              array({{1, 2}, {3}});
            }),
            "[array] rows of a nested list must have equal lengths, but found 2 and 1");
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              array({1, 2, 3}, {2, 2});
            }),
            "[array] shape (2, 2) needs 4 values, but 3 were given");
}

TEST(Array, BorrowedMemoryIsReleasedOnceAndNeverWritten) {
  std::vector<float> memory{1, 2, 3, 4};
  int released = 0;
  {
    array a(memory.data(), {2, 2}, float32, [&](void*) { ++released; });
    array b = a + 1.0f;  // must not be written over a
    b.eval();
    array view = transpose(a);
    a = array(0.f);
    EXPECT_EQ(view.to_vector<float>(), (std::vector<float>{1, 3, 2, 4}));
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
  EXPECT_EQ(memory, (std::vector<float>{1, 2, 3, 4}));
}

TEST(Array, ItemConvertsAndDataChecks) {
  EXPECT_EQ(array(7).item<float>(), 7.0f);
  EXPECT_EQ(array(2.75).item<int>(), 2);
  EXPECT_EQ(array(true).item<double>(), 1.0);
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              array({1, 2}).item<int>();
            }),
            "[item] expected an array of size 1, but the shape is (2,)");
  EXPECT_EQ(message_of<std::invalid_argument>([] {
              array({1, 2}).data<float>();
            }),
            "[data] the array is int32 but was read as float32; use item<T>(), to_vector<T>() or astype to "
            "convert");
  array a({{1, 2, 3}, {4, 5, 6}});
  const array t = transpose(a);
  EXPECT_EQ(std::vector<int>(t.data<int>(), t.data<int>() + 6), (std::vector<int>{1, 4, 2, 5, 3, 6}));
  EXPECT_EQ(t.data<int>(), t.data<int>());
}

TEST(Array, Properties) {
  array a = zeros({2, 3, 4}, float16);
  EXPECT_EQ(a.size(), 24u);
  EXPECT_EQ(a.nbytes(), 48u);
  EXPECT_EQ(a.shape(-1), 4);
  EXPECT_THROW(a.shape(3), std::out_of_range);
  EXPECT_THROW(array(1).shape(0), std::out_of_range);
  EXPECT_EQ(transpose(ones({2, 3}) * 2).strides(), (Strides{1, 3}));
  EXPECT_THROW(zeros({-1, 2}), std::invalid_argument);
  EXPECT_THROW(zeros({int64_t{1} << 40, int64_t{1} << 40}), std::overflow_error);
}

TEST(Array, Iteration) {
  array a({{1, 2}, {3, 4}, {5, 6}});
  int rows = 0, total = 0;
  for (array row : a) {
    EXPECT_EQ(row.shape(), (Shape{2}));
    total += sum(row).item<int>();
    ++rows;
  }
  EXPECT_EQ(rows, 3);
  EXPECT_EQ(total, 21);
  EXPECT_THROW(array(1).begin(), std::invalid_argument);
}

TEST(Array, Printing) {
  EXPECT_EQ(to_string(array({1, 2, 3})), "array([1, 2, 3], dtype=int32)");
  EXPECT_EQ(to_string(array(3.0f)), "array(3, dtype=float32)");
  EXPECT_EQ(to_string(array({{1.5f, 2.f}, {3.f, 4.f}})), "array([[1.5, 2],\n       [3, 4]], dtype=float32)");
  EXPECT_EQ(to_string(arange(10)), "array([0, 1, 2, ..., 7, 8, 9], dtype=int32)");
  EXPECT_EQ(to_string(array({true, false})), "array([true, false], dtype=bool)");
  EXPECT_EQ(to_string(array(complex64_t(1, -2))), "array(1-2j, dtype=complex64)");
  EXPECT_EQ(to_string(zeros({0, 3})), "array([], dtype=float32)");
  EXPECT_EQ(to_string(array({65}, uint8)), "array([65], dtype=uint8)");
  set_printoptions({.precision = 3});
  EXPECT_EQ(to_string(array(3.14159f)), "array(3.14, dtype=float32)");
  set_printoptions({});
}

TEST(Array, PromotionTable) {
  EXPECT_EQ(promote_types(uint8, int8), int16);
  EXPECT_EQ(promote_types(uint32, int8), int64);
  EXPECT_EQ(promote_types(float16, bfloat16), float32);
  EXPECT_EQ(promote_types(int64, float16), float16);
  EXPECT_EQ(promote_types(float64, complex64), complex64);
  // MLX gives float32 here and loses integers above 2^24.
  EXPECT_EQ(promote_types(uint64, int32), float64);
  EXPECT_EQ((array({uint64_t{1} << 40}) + array({1})).item<double>(), 1099511627777.0);
  for (Dtype a : kAllDtypes)
    for (Dtype b : kAllDtypes) {
      EXPECT_EQ(promote_types(a, b), promote_types(b, a));
      EXPECT_EQ(promote_types(a, promote_types(a, b)), promote_types(a, b));
    }
}

TEST(Array, ReshapeErrorShowsTheShapeAsked) {
  std::string text = message_of<std::invalid_argument>([] { reshape(ones({6}), {4, -1}); });
  EXPECT_NE(text.find("(4, -1)"), std::string::npos) << text;
}

TEST(Array, ErrorsWhileComputingNameOperationAndLine) {
  array index({1000000});
  array bad = take(array({1, 2, 3}), index);
  std::string text = message_of<std::out_of_range>([&] { bad.eval(); });
  EXPECT_EQ(text.rfind("[take]", 0), 0u) << text;
  EXPECT_NE(text.find("1000000"), std::string::npos) << text;
  EXPECT_NE(text.find("array_test.cpp:" + std::to_string(__LINE__ - 4)), std::string::npos) << text;
  // The engine goes on, and the same error comes again.
  EXPECT_EQ((array(1) + 1).item<int>(), 2);
  EXPECT_THROW(bad.eval(), std::out_of_range);
}

TEST(Half, EveryBitPatternRoundTrips) {
  for (uint32_t b = 0; b < 65536; ++b) {
    float f = float16_t::decode(static_cast<uint16_t>(b)), g = bfloat16_t::decode(static_cast<uint16_t>(b));
    if (f == f) ASSERT_EQ(float16_t::encode(f), b);
    if (g == g) ASSERT_EQ(bfloat16_t::encode(g), b);
  }
  EXPECT_EQ(float16_t::encode(65519.f), 0x7bff);
  EXPECT_EQ(float16_t::encode(65520.f), 0x7c00);
  EXPECT_EQ(float16_t::encode(0x1p-25f), 0);
  EXPECT_EQ(float16_t::encode(0x1.8p-25f), 1);
}

TEST(Memory, LimitsCacheAndLeaks) {
  size_t buffers = get_active_buffers(), active = get_active_memory();
  {
    array a = ones({1 << 20}) * 2.0f;
    a.eval();
    EXPECT_GE(get_active_memory(), active + (4u << 20));
    reset_peak_memory();
    EXPECT_GE(get_peak_memory(), get_active_memory());
  }
  EXPECT_EQ(get_active_buffers(), buffers);
  EXPECT_EQ(get_active_memory(), active);
  EXPECT_GE(get_cache_memory(), 4u << 20);
  clear_cache();
  EXPECT_EQ(get_cache_memory(), 0u);
  size_t limit = set_memory_limit(get_active_memory() + (1 << 20));
  EXPECT_THROW((ones({1 << 20}) * 2.0f).eval(), OutOfMemory);
  set_memory_limit(limit);
  EXPECT_NO_THROW((ones({1 << 20}) * 2.0f).eval());
}

}  // namespace
}  // namespace lazuli::testing
