#include "backend/cuda/quantized_product.cuh"

namespace lazuli::cuda {

void quantized_product_float(const QuantizedProductCall& call) { quantized_product<float>(call); }

}  // namespace lazuli::cuda
