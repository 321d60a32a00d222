// Losses against Python MLX.
#include "lazuli/losses.h"

#include <gtest/gtest.h>

#include <map>

#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/reduce.h"
#include "lazuli/ops/shape.h"
#include "lazuli/transforms.h"
#include "tests/nn/reference.h"

namespace lazuli {
namespace {

using namespace losses;

array in(const char* name) { return reference::to_array(reference::all()["losses"]["inputs"][name]); }

TEST(Losses, ValuesOfPython) {
  array logits = in("logits"), labels = in("labels"), p = in("p"), t = in("t"), unit = in("unit"),
        target = in("target"), signs = in("signs"), logp = in("logp"), logq = in("logq");
  using losses::Reduction;
  auto mean = Reduction::mean, sum = Reduction::sum, none = Reduction::none;
  std::map<std::string, array> got = {
      {"cross_entropy", cross_entropy(logits, labels)},
      {"cross_entropy_mean", cross_entropy(logits, labels, {.reduction = mean})},
      {"cross_entropy_smooth", cross_entropy(logits, labels, {.label_smoothing = 0.1, .reduction = sum})},
      {"cross_entropy_probs", cross_entropy(logits, in("probs"))},
      {"cross_entropy_weights", cross_entropy(logits, labels, {.weights = in("w1")})},
      {"cross_entropy_axis", cross_entropy(transpose(logits), labels, {.axis = 0, .label_smoothing = 0.2})},
      {"bce", binary_cross_entropy(logits, target)},
      {"bce_probs", binary_cross_entropy(unit, target, {.with_logits = false, .reduction = none})},
      {"bce_clipped", binary_cross_entropy(target, 1 - target, {.with_logits = false})},
      {"bce_weights", binary_cross_entropy(logits, target, {.weights = in("w2"), .reduction = sum})},
      {"l1", l1_loss(p, t)},
      {"l1_none", l1_loss(p, t, none)},
      {"mse", mse_loss(p, t)},
      {"mse_sum", mse_loss(p, t, sum)},
      {"nll", nll_loss(logp, labels)},
      {"nll_axis", nll_loss(transpose(logp), labels, 0, mean)},
      {"gaussian_nll", gaussian_nll_loss(p, t, in("var"))},
      {"gaussian_nll_full", gaussian_nll_loss(p, t, in("var"), {.full = true, .reduction = none})},
      {"kl_div", kl_div_loss(logp, logq)},
      {"kl_div_axis", kl_div_loss(logp, logq, 0)},
      {"smooth_l1", smooth_l1_loss(p, t)},
      {"smooth_l1_beta", smooth_l1_loss(p, t, 0.5, none)},
      {"triplet", triplet_loss(p, t, unit)},
      {"triplet_p", triplet_loss(p, t, unit, {.axis = 0, .p = 3, .margin = 0.3})},
      {"hinge", hinge_loss(p, signs)},
      {"huber", huber_loss(p, t)},
      {"huber_delta", huber_loss(p, t, 0.5, mean)},
      {"log_cosh", log_cosh_loss(p, t)},
      {"cosine", cosine_similarity_loss(p, t)},
      {"cosine_axis", cosine_similarity_loss(p, t, {.axis = 0})},
      {"margin", margin_ranking_loss(p, t, signs)},
      {"margin_mean", margin_ranking_loss(p, t, signs, {.margin = 0.5, .reduction = mean})},
  };
  const auto& want = reference::all()["losses"]["values"];
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, value] : got)
    reference::expect_close(value, reference::to_array(want[name]), 2e-6, name);
}

TEST(Losses, GradientOfCrossEntropyIsSoftmaxMinusTarget) {
  array logits = in("logits"), labels = in("labels");
  array g =
      grad([&](const array& x) { return cross_entropy(x, labels, {.reduction = losses::sum}); })(logits);
  array e = exp(logits);
  array onehot = astype(expand_dims(labels, 1) == expand_dims(arange(4), 0), float32);
  reference::expect_close(g, e / lazuli::sum(e, 1, true) - onehot, 1e-6, "gradient");
}

TEST(Losses, CrossEntropyIsExactForLargeLogits) {
  array logits({{1e6f, 1e6f, 1e6f - 1}});
  double expected = std::log(2 + std::exp(-1.0));
  EXPECT_NEAR(cross_entropy(logits, array({0})).item<double>(), expected, 1e-6);
}

TEST(Losses, BinaryCrossEntropyHasAGradientAtCertainty) {
  array p({0.f, 1.f, 0.f, 1.f}), t({0.f, 1.f, 1.f, 0.f});
  array g = grad([&](const array& x) { return binary_cross_entropy(x, t, {.with_logits = false}); })(p);
  for (float v : g.to_vector<float>()) EXPECT_TRUE(std::isfinite(v)) << v;
}

TEST(Losses, KeepHalfPrecision) {
  array logits = astype(in("logits"), float16);
  EXPECT_EQ(dtype_name(cross_entropy(logits, in("labels"), {.label_smoothing = 0.1}).dtype()), "float16");
  EXPECT_EQ(dtype_name(huber_loss(logits, logits).dtype()), "float16");
  EXPECT_EQ(dtype_name(log_cosh_loss(logits, logits).dtype()), "float16");
}

template <class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "(no error)";
}

TEST(Losses, RefuseShapesThatDoNotFit) {
  array logits = in("logits");
  EXPECT_EQ(message_of([&] {
              cross_entropy(logits, array({1, 2}));
            }),
            "[cross_entropy] targets of shape (2,) do not fit inputs of shape (5, 4): class indices need "
            "shape (5,)");
  EXPECT_EQ(
      message_of([&] {
        cross_entropy(logits, zeros({5, 3}));
      }),
      "[cross_entropy] logits and target probabilities must have one shape, but have (5, 4) and (5, 3)");
  EXPECT_EQ(message_of([&] { cross_entropy(logits, zeros({5})); }),
            "[cross_entropy] class indices must be integers, but are float32");
  EXPECT_EQ(message_of([&] { cross_entropy(logits, in("labels"), {.label_smoothing = 1}); }),
            "[cross_entropy] label_smoothing must be in [0, 1), but is 1.000000");
  EXPECT_EQ(message_of([&] { mse_loss(logits, in("labels")); }),
            "[mse_loss] predictions and targets must have one shape, but have (5, 4) and (5,)");
  EXPECT_EQ(message_of([&] { cross_entropy(logits, in("labels"), {.weights = zeros({4})}); }),
            "[cross_entropy] weights and losses must have one shape, but have (4,) and (5,)");
  EXPECT_THROW(nll_loss(logits, in("labels"), 2), std::out_of_range);
  // Found in the data: thrown when computed.
  EXPECT_THROW(cross_entropy(logits, array({0, 1, 4, 0, 0})).eval(), std::out_of_range);
}

}  // namespace
}  // namespace lazuli
