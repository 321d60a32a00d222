// Running sums. Integers wrap.
#include "backend/cuda/scan.cuh"
#include "backend/cuda/scan.h"

namespace lazuli::cuda {

namespace {

template <class T>
struct Sum {
  using Memory = T;
  using State = Compute<T>;
  static constexpr int kInputs = 1;
  char nothing = 0;  // parameters of kernels are compared by their bytes

  __device__ State of(Bits<T> b) const { return of_bits<T>(b); }
  __device__ Bits<T> result(State s) const { return to_bits<T>(s); }
  __device__ State identity() const { return State(0); }
  __device__ State join(State a, State x) const { return static_cast<State>(a + x); }
};

}  // namespace

void scan_sum(const Scan& p, const Operand& in, const Operand& out) {
  visit_unsigned(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    run_scan_along(Sum<T>{}, {&in, 1}, out, p.axis, p.reverse, p.inclusive, "cumsum");
  });
}

}  // namespace lazuli::cuda
