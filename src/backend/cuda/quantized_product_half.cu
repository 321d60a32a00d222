#include "backend/cuda/quantized_product.cuh"

namespace lazuli::cuda {

void quantized_product_half(const QuantizedProductCall& call) { quantized_product<Half>(call); }

}  // namespace lazuli::cuda
