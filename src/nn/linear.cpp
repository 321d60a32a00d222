#include "lazuli/nn/linear.h"

#include <cmath>
#include <stdexcept>

#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/matmul.h"
#include "lazuli/ops/shape.h"
#include "lazuli/random.h"

namespace lazuli::nn {

namespace {

double inverse_sqrt(int64_t dims, const char* layer) {
  if (dims <= 0)
    throw std::invalid_argument(std::string("[") + layer + "] dimensions must be positive, but got " +
                                std::to_string(dims));
  return 1.0 / std::sqrt(static_cast<double>(dims));
}

array uniform_within(double scale, Shape shape) {
  return random::uniform(static_cast<float>(-scale), static_cast<float>(scale), std::move(shape));
}

void check_last(const array& x, int64_t features, const char* layer) {
  if (x.ndim() == 0 || x.shape(-1) != features)
    throw std::invalid_argument(std::string("[") + layer + "] expected an input with " +
                                std::to_string(features) + " features on the last axis, but got " +
                                to_string(x.shape()));
}

}  // namespace

Linear::Linear(int64_t input_dims, int64_t output_dims, bool with_bias)
    : weight(uniform_within(inverse_sqrt(input_dims, "Linear"), {output_dims, input_dims})) {
  if (with_bias) bias = uniform_within(inverse_sqrt(input_dims, "Linear"), {output_dims});
}

array Linear::operator()(const array& x) const {
  check_last(x, quantized ? quantized->columns() : weight.shape(-1), "Linear");
  if (quantized) return bias ? add(quantized->product(x), *bias) : quantized->product(x);
  return bias ? addmm(*bias, x, transpose(weight)) : matmul(x, transpose(weight));
}

void Linear::members(Visitor& visit) {
  if (quantized)
    quantized->members(visit);
  else
    visit("weight", weight);
  visit("bias", bias);
}

Bilinear::Bilinear(int64_t input1_dims, int64_t input2_dims, int64_t output_dims, bool with_bias)
    : weight(uniform_within(inverse_sqrt(input1_dims, "Bilinear"), {output_dims, input2_dims, input1_dims})) {
  if (with_bias) bias = uniform_within(inverse_sqrt(input1_dims, "Bilinear"), {output_dims});
}

array Bilinear::operator()(const array& x1, const array& x2) const {
  auto out = weight.shape(0), in2 = weight.shape(1), in1 = weight.shape(2);
  Shape lead1(x1.shape()), lead2(x2.shape());
  bool fits = x1.ndim() > 0 && x1.ndim() == x2.ndim() && x1.shape(-1) == in1 && x2.shape(-1) == in2;
  if (fits) {
    lead1.back() = lead2.back() = out;
    fits = lead1 == lead2;
  }
  if (!fits)
    throw std::invalid_argument("[Bilinear] expected inputs (..., " + std::to_string(in1) + ") and (..., " +
                                std::to_string(in2) + ") with equal leading axes, but got " +
                                to_string(x1.shape()) + " and " + to_string(x2.shape()));
  // (B, 1, in2) @ ((B, in1) @ (in1, out * in2) as (B, in2, out))
  array w = reshape(weight, {out * in2, in1});
  array left = matmul(reshape(x1, {-1, in1}), transpose(w));
  array y = matmul(reshape(x2, {-1, 1, in2}), swapaxes(reshape(left, {-1, out, in2}), -2, -1));
  y = reshape(y, lead1);
  return bias ? add(y, *bias) : y;
}

void Bilinear::members(Visitor& visit) {
  visit("weight", weight);
  visit("bias", bias);
}

Embedding::Embedding(int64_t num_embeddings, int64_t dims)
    : weight(random::normal({num_embeddings, dims}, float32, 0.0f,
                            static_cast<float>(inverse_sqrt(dims, "Embedding")))) {}

array Embedding::operator()(const array& indices) const {
  if (!issubdtype(indices.dtype(), integer))
    throw std::invalid_argument("[Embedding] indices must be integers, but are " +
                                std::string(dtype_name(indices.dtype())));
  return quantized ? quantized->rows_at(indices) : take(weight, indices, 0);
}

array Embedding::as_linear(const array& x) const {
  check_last(x, quantized ? quantized->columns() : weight.shape(-1), "Embedding::as_linear");
  return quantized ? quantized->product(x) : matmul(x, transpose(weight));
}

void Embedding::members(Visitor& visit) {
  if (quantized)
    quantized->members(visit);
  else
    visit("weight", weight);
}

}  // namespace lazuli::nn
