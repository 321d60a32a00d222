// y[i] = a[i] y[i - 1] + b[i] along an axis: a scan of the maps y -> a y + b.
#include "backend/cuda/scan.cuh"
#include "ops/scan.h"

namespace lazuli::cuda {

namespace {

template <class S>
struct Linear {
  S a, b;
  template <class F>
  __device__ Linear moved(F f) const {
    return {cuda::moved(a, f), cuda::moved(b, f)};
  }
};

template <class T>
struct Recur {
  using Memory = T;
  using Value = Compute<T>;
  using State = Linear<Value>;
  static constexpr int kInputs = 2;
  char nothing = 0;  // parameters of kernels are compared by their bytes

  __device__ State of(Bits<T> a, Bits<T> b) const { return {of_bits<T>(a), of_bits<T>(b)}; }
  __device__ Bits<T> result(State s) const { return to_bits<T>(s.b); }
  __device__ State identity() const { return {Value(1), Value(0)}; }
  // `first`, then `then`. What is zero stays zero, however large the product of a stretch of a becomes.
  __device__ State join(State first, State then) const {
    return {first.a * then.a, first.b == Value(0) ? then.b : then.a * first.b + then.b};
  }
};

template <class T>
void run(const KernelCall& call) {
  const auto& p = static_cast<const Recurrence&>(call.primitive);
  run_scan_along(Recur<T>{}, call.in, call.out[0], p.axis, p.reverse, true, "recurrence");
}

void run_recurrence(const KernelCall& call) {
  const Operand& in = call.in[0];
  if (in.size == 0) return;
  if (in.dtype == complex64) return run<Complex>(call);
  visit_floats(in.dtype, [&](auto type) { run<typename decltype(type)::type>(call); });
}

}  // namespace

void register_recurrence(KernelTable& t) { t.add<Recurrence>({&run_recurrence, 3, 3}); }

}  // namespace lazuli::cuda
