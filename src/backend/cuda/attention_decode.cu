// Attention of few queries over keys and values in plain layouts.
#include "backend/cuda/attention_decode.cuh"

namespace lazuli::cuda {

namespace {

__device__ uint32_t counters[kDecodeCounters];

}  // namespace

uint32_t* decode_counters() {
  static uint32_t* const found = [] {
    void* p = nullptr;
    check(cudaGetSymbolAddress(&p, counters), "cudaGetSymbolAddress");
    return static_cast<uint32_t*>(p);
  }();
  return found;
}

bool run_attention_decode(const AttentionJob& job, Dtype type, Dtype narrow) {
  if (type == float64) return false;
  auto aligned = [&](const void* data, const int64_t(&at)[4]) {
    const int64_t each = 16 / narrow.size();
    return at[3] == 1 && reinterpret_cast<uintptr_t>(data) % 16 == 0 && at[0] % each == 0 &&
           at[1] % each == 0 && at[2] % each == 0;
  };
  if (!aligned(job.k, job.k_at) || !aligned(job.v, job.v_at)) return false;
  bool done = false;
  auto with = [&]<class Q, class E>(Q, E) {
    const auto rows = [](const void* data, const int64_t(&at)[4]) {
      return DenseRows<E>{static_cast<const E*>(data), {at[0], at[1], at[2], at[3]}};
    };
    done = attention_decode_any<Q>(job, rows(job.k, job.k_at), rows(job.v, job.v_at));
  };
  if (type == float16)
    with(Half(), Half());
  else if (type == bfloat16)
    with(Bfloat(), Bfloat());
  else if (narrow == float16)
    with(float(), Half());
  else if (narrow == bfloat16)
    with(float(), Bfloat());
  else
    with(float(), float());
  return done;
}

}  // namespace lazuli::cuda
