// Attention over quantized keys and values, which are expanded as they are read.
#include "backend/cuda/attention_decode.cuh"
#include "backend/cuda/attention_general.cuh"

namespace lazuli::cuda {

void run_attention_packed(const AttentionJob& job, const PackedRows& k, const PackedRows& v) {
  if (!attention_decode_any<float>(job, QuantizedRows{k}, QuantizedRows{v}))
    launch_attention_general<float>(job, QuantizedRows{k}, QuantizedRows{v});
}

}  // namespace lazuli::cuda
