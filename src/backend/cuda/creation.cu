#include <algorithm>

#include "backend/cuda/dtypes.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/walk.cuh"
#include "ops/creation.h"

namespace lazuli::cuda {

namespace {

struct Progression {
  int64_t count;
  bool exact, last;
  uint64_t first_integer, step_integer;  // unsigned: a step past the last element may not fit
  double first, step, stop;
};

// Double to an integer, as the host's conversions are: through the widest signed type.
template <class T>
__device__ T of_double(double x) {
  if constexpr (std::is_same_v<T, Half>)
    return to_memory<Half>(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, Bfloat>)
    return to_memory<Bfloat>(static_cast<float>(x));
  else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool> && sizeof(T) < 8)
    return static_cast<T>(static_cast<int64_t>(x));
  else
    return lane::Cast<T, double>::of(x);
}
template <class T>
__device__ T of_integer(int64_t x) {
  if constexpr (std::is_same_v<T, Half>)
    return to_memory<Half>(static_cast<float>(x));
  else if constexpr (std::is_same_v<T, Bfloat>)
    return to_memory<Bfloat>(static_cast<float>(x));
  else
    return lane::Cast<T, int64_t>::of(x);
}

template <class T>
__global__ void __launch_bounds__(kThreads) arange_kernel(T* __restrict__ out, const Progression p) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < p.count;
       i += int64_t(gridDim.x) * kThreads) {
    if (p.last && i == p.count - 1)
      out[i] = of_double<T>(p.stop);
    else if (p.exact)
      out[i] =
          of_integer<T>(static_cast<int64_t>(p.first_integer + static_cast<uint64_t>(i) * p.step_integer));
    else  // rounded twice, as on the CPU
      out[i] = of_double<T>(__dadd_rn(p.first, __dmul_rn(static_cast<double>(i), p.step)));
  }
}

void run_arange(const KernelCall& call) {
  const Arange& a = static_cast<const Arange&>(call.primitive);
  if (a.count <= 0) return;
  const Progression p{
      a.count, a.exact, a.last, static_cast<uint64_t>(a.first_integer), static_cast<uint64_t>(a.step_integer),
      a.first, a.step,  a.stop};
  const auto blocks =
      static_cast<unsigned>(std::min(ceil_div(a.count, kThreads), int64_t{32} * gpu().processors));
  visit_any(call.out[0].dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    launch(&arange_kernel<T>, blocks, kThreads, 0, "arange", call.out[0].as<T>(), p);
  });
}

}  // namespace

void register_creation(KernelTable& t) { t.add<Arange>({&run_arange}); }

}  // namespace lazuli::cuda
