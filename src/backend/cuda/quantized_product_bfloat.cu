#include "backend/cuda/quantized_product.cuh"

namespace lazuli::cuda {

void quantized_product_bfloat(const QuantizedProductCall& call) { quantized_product<Bfloat>(call); }

}  // namespace lazuli::cuda
