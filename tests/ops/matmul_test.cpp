#include "lazuli/ops/matmul.h"

#include "lazuli/deterministic.h"
#include "tests/ops/product_support.h"

namespace lazuli::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const Dtype kTypes[] = {float16, bfloat16, float32, float64, complex64};

// The product of two matrices (rank 2) in double, from the values as rounded to their dtype.
Values reference(const array& a, const array& b) {
  int64_t m = a.shape(0), k = a.shape(1), n = b.shape(1);
  auto product = [&]<class T>(T, const std::vector<T>& x, const std::vector<T>& y) {
    std::vector<T> out(m * n);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t l = 0; l < k; ++l)
        for (int64_t j = 0; j < n; ++j) out[i * n + j] += x[i * k + l] * y[l * n + j];
    return Values(out.begin(), out.end());
  };
  if (a.dtype() == complex64) return product(std::complex<double>(), values(a), values(b));
  return product(double(), a.to_vector<double>(), b.to_vector<double>());
}

// Errors of a sum of k products of normal numbers, with one final rounding in the dtype.
double tolerance(Dtype t, int64_t k) {
  double sums = (t == float64 ? 0x1p-53 : 0x1p-24) * 4 * (k + 4);
  return sums + (t == float16 || t == bfloat16 ? unit(t) * 1.01 : 0);
}

// The same matrix in memory of another layout.
enum Layout { contiguous, transposed, sliced, reversed, inside, broadcast_rows, broadcast_columns, layouts };
array in_layout(int64_t m, int64_t n, Dtype t, Layout layout, unsigned seed) {
  switch (layout) {
    case contiguous: return random_array({m, n}, t, seed);
    case transposed: return transpose(random_array({n, m}, t, seed));
    case sliced:
      return slice(random_array({2 * m, 3 * n}, t, seed), {0, 0}, Shape{2 * m, 3 * n}, Shape{2, 3});
    case reversed: return flip(random_array({m, n}, t, seed));
    case inside: return slice(random_array({m + 3, n + 5}, t, seed), {2, 3}, Shape{m + 2, n + 3});
    case broadcast_rows: return broadcast_to(random_array({1, n}, t, seed), {m, n});
    default: return broadcast_to(random_array({m, 1}, t, seed), {m, n});
  }
}

TEST(matmul, every_layout_and_dtype) {
  const int64_t shapes[][3] = {{1, 1, 1},  {1, 7, 5},  {5, 7, 1},   {2, 9, 33},   {3, 40, 17},
                               {4, 3, 70}, {7, 13, 9}, {17, 1, 19}, {65, 33, 31}, {70, 200, 130}};
  for (Dtype t : kTypes)
    for (auto [m, k, n] : shapes)
      for (int la = 0; la < layouts; ++la)
        for (int lb = 0; lb < layouts; ++lb) {
          if (m * n > 1000 && (la + lb) % 3) continue;
          array a = in_layout(m, k, t, Layout(la), 1), b = in_layout(k, n, t, Layout(lb), 2);
          array c = matmul(a, b);
          ASSERT_EQ(c.shape(), (Shape{m, n}));
          ASSERT_EQ(c.dtype().val(), t.val());
          expect_close(c, reference(a, b), tolerance(t, k),
                       to_string(a.shape()) + to_string(b.shape()) + " layouts " + std::to_string(la) + " " +
                           std::to_string(lb) + " " + std::string(dtype_name(t)));
        }
}

TEST(matmul, large_and_long) {
  const int64_t shapes[][3] = {{300, 257, 400}, {512, 300, 260}, {1, 3000, 1100}, {1100, 3000, 1},
                               {3, 20000, 5},   {20, 10000, 30}, {4, 700, 1500},  {1, 70000, 1}};
  for (Dtype t : {float32, bfloat16, float64})
    for (auto [m, k, n] : shapes)
      for (bool tb : {false, true}) {
        array a = random_array({m, k}, t, 1);
        array b = tb ? transpose(random_array({n, k}, t, 2)) : random_array({k, n}, t, 2);
        expect_close(matmul(a, b), reference(a, b), tolerance(t, k) * 2, to_string(Shape{m, k, n}));
      }
}

TEST(matmul, vectors) {
  array v = random_array({5}), w = random_array({5}, float32, 2), m = random_array({5, 3}),
        l = random_array({4, 5});
  EXPECT_EQ(matmul(v, w).shape(), Shape{});
  EXPECT_EQ(matmul(v, m).shape(), Shape{3});
  EXPECT_EQ(matmul(l, v).shape(), Shape{4});
  EXPECT_EQ(matmul(random_array({2, 6, 4, 5}), v).shape(), (Shape{2, 6, 4}));
  EXPECT_EQ(matmul(v, random_array({2, 6, 5, 4})).shape(), (Shape{2, 6, 4}));
  expect_close(matmul(v, w), sum(multiply(v, w)), 1e-6);
  expect_close(matmul(l, v), sum(multiply(l, v), 1), 1e-6);
  expect_close(matmul(v, m), sum(multiply(expand_dims(v, 1), m), 0), 1e-6);
}

TEST(matmul, batches_broadcast) {
  const std::pair<Shape, Shape> shapes[] = {
      {{4, 3, 5}, {4, 5, 6}},       {{3, 5}, {4, 5, 6}}, {{4, 3, 5}, {5, 6}}, {{2, 1, 3, 5}, {4, 5, 6}},
      {{2, 1, 3, 5}, {1, 4, 5, 6}}, {{7, 1, 5}, {5, 6}}, {{0, 3, 5}, {5, 6}}, {{9, 40, 50}, {9, 50, 60}}};
  for (Dtype t : kTypes)
    for (auto& [sa, sb] : shapes) {
      array a = random_array(sa, t, 1), b = random_array(sb, t, 2), c = matmul(a, b);
      Shape batch = broadcast_shapes(Shape(sa.begin(), sa.end() - 2), Shape(sb.begin(), sb.end() - 2));
      Shape all_a = batch, all_b = batch, all = batch;
      for (auto n : {a.shape(-2), a.shape(-1)}) all_a.push_back(n);
      for (auto n : {b.shape(-2), b.shape(-1)}) all_b.push_back(n);
      for (auto n : {a.shape(-2), b.shape(-1)}) all.push_back(n);
      ASSERT_EQ(c.shape(), all);
      if (size_of(batch) == 0) continue;
      auto items_a = unstack(reshape(broadcast_to(a, all_a), {-1, a.shape(-2), a.shape(-1)}), 0);
      auto items_b = unstack(reshape(broadcast_to(b, all_b), {-1, b.shape(-2), b.shape(-1)}), 0);
      auto items_c = unstack(reshape(c, {-1, a.shape(-2), b.shape(-1)}), 0);
      for (size_t i = 0; i < items_a.size(); ++i)
        expect_close(items_c[i], reference(items_a[i], items_b[i]), tolerance(t, a.shape(-1)));
    }
}

TEST(matmul, batch_axes_in_any_order) {
  // (heads inside) as attention reads them: (batch, length, heads, width) -> (batch, heads, length, width)
  array q = transpose(random_array({2, 7, 3, 8}), {0, 2, 1, 3}),
        k = transpose(random_array({2, 7, 3, 8}, float32, 2), {0, 2, 3, 1});
  array scores = matmul(q, k);
  expect_close(scores, matmul(add(q, zeros_like(q)), add(k, zeros_like(k))), 1e-5);
}

TEST(matmul, nothing_to_sum_is_zero) {
  for (Dtype t : kTypes) {
    expect_same(matmul(zeros({3, 0}, t), zeros({0, 4}, t)), zeros({3, 4}, t));
    EXPECT_EQ(matmul(zeros({0, 3}, t), zeros({3, 4}, t)).eval().shape(), (Shape{0, 4}));
    EXPECT_EQ(matmul(zeros({2, 3}, t), zeros({3, 0}, t)).eval().shape(), (Shape{2, 0}));
    expect_same(matmul(zeros({0}, t), zeros({0}, t)), zeros({}, t));
    array c = random_array({3, 4}, t);
    expect_close(addmm(c, zeros({3, 0}, t), zeros({0, 4}, t), 1.0f, 2.0f), multiply(c, array(2, t)), unit(t));
  }
}

TEST(matmul, mixed_dtypes_promote) {
  EXPECT_EQ(matmul(ones({2, 3}, float16), ones({3, 2}, float32)).dtype().val(), Dtype::Val::float32);
  EXPECT_EQ(matmul(ones({2, 3}, int32), ones({3, 2}, float32)).dtype().val(), Dtype::Val::float32);
  EXPECT_EQ(matmul(ones({2, 3}, float32), ones({3, 2}, complex64)).dtype().val(), Dtype::Val::complex64);
}

TEST(matmul, errors) {
  auto f = [](Shape a, Shape b) { return error_of([&] { matmul(zeros(a), zeros(b)); }); };
  EXPECT_EQ(f({3, 4}, {5, 6}), "[matmul] the last axis of a (3, 4) must equal the second last of b (5, 6)");
  EXPECT_EQ(f({3, 4}, {5, 4}),
            "[matmul] the last axis of a (3, 4) must equal the second last of b (5, 4); transpose b?");
  EXPECT_THAT(f({4, 3}, {4, 5}), HasSubstr("transpose a?"));
  EXPECT_EQ(f({3, 4}, {5}), "[matmul] the last axis of a (3, 4) must equal the only axis of b (5,)");
  EXPECT_EQ(f({2, 3, 4}, {5, 4, 6}),
            "[matmul] the batch axes of a (2, 3, 4) and b (5, 4, 6) do not broadcast");
  EXPECT_THAT(f({}, {3}), HasSubstr("at least 1 dimension"));
  EXPECT_EQ(error_of([] {
              matmul(ones({2, 2}, int32), ones({2, 2}, int32));
            }),
            "[matmul] needs inputs of a floating or complex type, but they promote to int32; convert them, "
            "for example with astype(x, float32)");
  EXPECT_EQ(error_of([] {
              addmm(zeros({2, 3}), zeros({3, 4}), zeros({4, 5}));
            }),
            "[addmm] c (2, 3) must broadcast to (3, 5), the shape of a @ b");
  EXPECT_THAT(error_of([] {
                addmm(zeros({2, 3}), zeros({3, 4}), zeros({3, 5}));
              }),
              StartsWith("[addmm] the last axis of a (3, 4)"));
}

TEST(matmul, gradients) {
  auto f = [](const std::vector<array>& x) { return matmul(x[0], x[1]); };
  const std::pair<Shape, Shape> shapes[] = {{{3, 4}, {4, 2}},         {{4}, {4}},    {{4}, {4, 3}},
                                            {{2, 3, 4}, {4, 2}},      {{3, 4}, {4}}, {{2, 3, 4}, {2, 4, 2}},
                                            {{2, 1, 3, 4}, {5, 4, 2}}};
  for (auto& [a, b] : shapes) check_gradients(f, {random_array(a, float64, 1), random_array(b, float64, 2)});
}

TEST(matmul, second_order_gradients) {
  auto f = [](const std::vector<array>& x) { return square(matmul(x[0], x[1])); };
  auto g = [&](const std::vector<array>& x) {
    auto d = grad([&](const std::vector<array>& y) { return sum(f(y)); }, std::vector<int>{0, 1})(x);
    return add(sum(square(d[0])), sum(multiply(d[1], d[1])));
  };
  check_gradients(g, {random_array({2, 3}, float64, 1), random_array({3, 2}, float64, 2)}, 1e-5);
}

TEST(matmul, complex_gradients_are_conjugated) {
  array a = random_array({2, 3}, complex64, 1), b = random_array({3, 2}, complex64, 2),
        g = random_array({2, 2}, complex64, 3);
  auto grads =
      vjp([](const std::vector<array>& x) { return std::vector<array>{matmul(x[0], x[1])}; }, {a, b}, {g})
          .second;
  expect_close(grads[0], matmul(g, conjugate(transpose(b))), 1e-6);
  expect_close(grads[1], matmul(conjugate(transpose(a)), g), 1e-6);
}

TEST(matmul, half_gradients_keep_their_dtype) {
  for (Dtype t : {float16, bfloat16}) {
    auto g = grad([](const std::vector<array>& x) { return sum(matmul(x[0], x[1])); },
                  std::vector<int>{0, 1})({random_array({3, 4}, t), random_array({4, 5}, t)});
    EXPECT_EQ(g[0].dtype().val(), t.val());
    EXPECT_EQ(g[1].dtype().val(), t.val());
  }
}

TEST(matmul, vmap) {
  auto f = [](const std::vector<array>& x) { return matmul(x[0], x[1]); };
  check_vmap(f, {random_array({6, 3, 4}), random_array({6, 4, 5})}, {0, 0});
  check_vmap(f, {random_array({3, 6, 4}), random_array({4, 5, 6})}, {1, 2});
  check_vmap(f, {random_array({3, 6, 4}), random_array({4, 5})}, {1, -1});
  check_vmap(f, {random_array({3, 4}), random_array({4, 6, 5})}, {-1, 1});
  check_vmap(f, {random_array({6, 2, 3, 4}), random_array({2, 4, 5})}, {0, -1});
  check_vmap(f, {random_array({3, 4}), random_array({6, 2, 4, 5})}, {-1, 0});
  check_vmap(f, {random_array({6, 4}), random_array({4, 6})}, {0, 1});
}

TEST(addmm, is_a_scaled_sum) {
  const Shape cs[] = {{}, {5}, {1, 5}, {3, 1}, {3, 5}};
  for (Dtype t : kTypes)
    for (auto& shape : cs)
      for (auto [alpha, beta] : {std::pair{1.0f, 1.0f}, {0.5f, -2.0f}, {2.0f, 0.0f}, {0.0f, 1.0f}}) {
        array c = random_array(shape, t, 3), a = random_array({3, 4}, t, 1), b = random_array({4, 5}, t, 2);
        Values want = reference(a, b), plus = values(broadcast_to(c, {3, 5}));
        for (size_t i = 0; i < want.size(); ++i) want[i] = double(alpha) * want[i] + double(beta) * plus[i];
        expect_close(addmm(c, a, b, alpha, beta), want, tolerance(t, 8));
        // large enough for the libraries' products
        array big_a = random_array({40, 30}, t, 1), big_b = random_array({30, 50}, t, 2),
              row = random_array({50}, t, 4);
        Values big = reference(big_a, big_b), rows = values(broadcast_to(row, {40, 50}));
        for (size_t i = 0; i < big.size(); ++i) big[i] = double(alpha) * big[i] + double(beta) * rows[i];
        expect_close(addmm(row, big_a, big_b, alpha, beta), big, tolerance(t, 40));
      }
}

TEST(addmm, shapes) {
  array w = random_array({4, 5});
  for (auto [c, a] : {std::pair<Shape, Shape>{{5}, {2, 3, 4}},
                      {{2, 3, 5}, {2, 3, 4}},
                      {{3, 5}, {2, 3, 4}},
                      {{2, 1, 1}, {2, 3, 4}},
                      {{5}, {4}},
                      {{}, {4}},
                      {{2, 1, 5}, {2, 1, 4}}}) {
    array x = random_array(a, float32, 1), y = random_array(c, float32, 2);
    expect_close(addmm(y, x, w), add(matmul(x, w), y), 1e-5, to_string(c) + to_string(a));
  }
  array batch = random_array({6, 4, 5}, float32, 3), x = random_array({6, 3, 4});
  expect_close(addmm(random_array({5}), x, batch), add(matmul(x, batch), random_array({5})), 1e-5);
  expect_close(addmm(array(1.0f), random_array({4}), random_array({4})),
               add(matmul(random_array({4}), random_array({4})), array(1.0f)), 1e-5);
}

TEST(addmm, beta_zero_does_not_read_c) {
  array c = full({2, 2}, std::numeric_limits<float>::quiet_NaN());
  expect_same(addmm(c, ones({2, 3}), ones({3, 2}), 1.0f, 0.0f), full({2, 2}, 3.0f));
}

// mlx#1207, #1771: MLX's forward mode of addmm was wrong.
TEST(addmm, derivatives_of_all_three_inputs) {
  for (auto [alpha, beta] : {std::pair{1.0f, 1.0f}, {0.5f, -2.0f}}) {
    auto f = [alpha = alpha, beta = beta](const std::vector<array>& x) {
      return addmm(x[0], x[1], x[2], alpha, beta);
    };
    check_gradients(f, {random_array({3, 5}, float64, 1), random_array({3, 4}, float64, 2),
                        random_array({4, 5}, float64, 3)});
    check_gradients(f, {random_array({5}, float64, 1), random_array({2, 3, 4}, float64, 2),
                        random_array({4, 5}, float64, 3)});
    check_gradients(f, {random_array({2, 1, 1}, float64, 1), random_array({2, 3, 4}, float64, 2),
                        random_array({2, 4, 5}, float64, 3)});
  }
}

TEST(addmm, vmap) {
  auto f = [](const std::vector<array>& x) { return addmm(x[0], x[1], x[2], 0.5f, 2.0f); };
  array c = random_array({6, 3, 5}), a = random_array({3, 6, 4}), b = random_array({4, 5, 6});
  array c1 = random_array({3, 5}), a1 = random_array({3, 4}), b1 = random_array({4, 5});
  check_vmap(f, {c, a, b}, {0, 1, 2});
  check_vmap(f, {c, a1, b1}, {0, -1, -1});
  check_vmap(f, {c1, a, b1}, {-1, 1, -1});
  check_vmap(f, {c1, a1, b}, {-1, -1, 2});
  check_vmap(f, {c, a, b1}, {0, 1, -1});
}

TEST(tensordot, sums_over_paired_axes) {
  array a = random_array({2, 3, 4}), b = random_array({4, 3, 5}, float32, 2);
  array c = tensordot(a, b, {2, 1}, {0, 1});
  ASSERT_EQ(c.shape(), (Shape{2, 5}));
  Values x = values(a), y = values(b), want(10);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 4; ++k)
        for (int l = 0; l < 5; ++l) want[i * 5 + l] += x[(i * 3 + j) * 4 + k] * y[(k * 3 + j) * 5 + l];
  expect_close(c, want, 1e-5);
  expect_close(tensordot(random_array({2, 3, 4}), random_array({3, 4, 5})),
               matmul(reshape(random_array({2, 3, 4}), {2, 12}), reshape(random_array({3, 4, 5}), {12, 5})),
               1e-5);
  EXPECT_EQ(tensordot(a, b, 0).shape(), (Shape{2, 3, 4, 4, 3, 5}));
  EXPECT_EQ(tensordot(a, random_array({2, 3, 4}), {0, 1, 2}, {0, 1, 2}).shape(), Shape{});
  EXPECT_EQ(error_of([&] {
              tensordot(a, b, {0}, {0, 1});
            }),
            "[tensordot] needs as many axes of a as of b, but got 1 and 2");
  EXPECT_EQ(error_of([&] { tensordot(a, b, {0}, {0}); }),
            "[tensordot] axis 0 of a (2, 3, 4) must equal axis 0 of b (4, 3, 5)");
  EXPECT_THAT(error_of([&] { tensordot(a, b, 4); }), HasSubstr("cannot sum over 4 axes"));
  EXPECT_THROW(tensordot(a, b, {5}, {0}), std::out_of_range);
}

TEST(inner_outer_kron_vecdot, values) {
  array v = random_array({4}), m = random_array({3, 4}), n = random_array({2, 4}, float32, 2);
  expect_close(inner(m, n), matmul(m, transpose(n)), 1e-6);
  expect_close(inner(v, v), sum(square(v)), 1e-6);
  expect_close(inner(m, array(2.0f)), multiply(m, array(2.0f)), 1e-6);
  EXPECT_THAT(error_of([&] { inner(v, random_array({3})); }), StartsWith("[inner] the last axes"));
  EXPECT_EQ(outer(array({1, 2, 3}), array({10, 20})).to_vector<int>(),
            (std::vector<int>{10, 20, 20, 40, 30, 60}));
  EXPECT_EQ(outer(m, v).shape(), (Shape{12, 4}));
  EXPECT_EQ(kron(array({{1, 2}, {3, 4}}), array({{0, 5}, {6, 7}})).to_vector<int>(),
            (std::vector<int>{0, 5, 0, 10, 6, 7, 12, 14, 0, 15, 0, 20, 18, 21, 24, 28}));
  EXPECT_EQ(kron(array({1, 2}), array({{1, 1}})).shape(), (Shape{1, 4}));
  expect_close(vecdot(m, v), sum(multiply(m, v), 1), 1e-6);
  EXPECT_EQ(vecdot(random_array({3, 4}), random_array({3, 4}), 0).shape(), Shape{4});
  array z = random_array({4}, complex64);
  expect_close(vecdot(z, z), astype(sum(square(abs(z))), complex64), 1e-6);
  EXPECT_THAT(error_of([&] {
                vecdot(random_array({3, 4}), random_array({3, 1}));
              }),
              StartsWith("[vecdot] axis -1"));
}

TEST(matmul, the_same_bits_for_any_number_of_threads) {
  const int64_t shapes[][3] = {{3, 20000, 5},   {70, 300, 130},  {256, 284, 256}, {32, 9000, 32},
                               {1, 3000, 1500}, {513, 100, 700}, {2000, 10, 30},  {64, 64, 64}};
  deterministic(true);
  for (Dtype t : {float32, bfloat16, float64})
    for (auto [m, k, n] : shapes)
      for (bool tb : {false, true}) {
        array a = random_array({m, k}, t, 1),
              b = tb ? transpose(random_array({n, k}, t, 2)) : random_array({k, n}, t, 2);
        eval(a, b);
        auto run = [&] {
          array c = matmul(a, b);
          eval(c);
          return c;
        };
        array one = with_threads(1, run);
        for (int threads : {2, 3, 8})
          expect_same(with_threads(threads, run), one,
                      to_string(Shape{m, k, n}) + " threads " + std::to_string(threads));
      }
  deterministic(false);
}

}  // namespace
}  // namespace lazuli::testing
