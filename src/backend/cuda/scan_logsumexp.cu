// log(sum(exp(x))) so far, as m + log(s), where m is the largest x and s = sum(exp(x - m)): no exponential
// exceeds
// 1. Differences of equal infinities count as 0.
#include "backend/cuda/scan.cuh"
#include "backend/cuda/scan.h"

namespace lazuli::cuda {

namespace {

template <class R, class S>
struct LogSumState {
  R m;
  S s;
  template <class F>
  __device__ LogSumState moved(F f) const {
    return {cuda::moved(m, f), cuda::moved(s, f)};
  }
};

template <class R>
__device__ inline R decay(R m, R now) {
  return m == now ? R(1) : lane::exp(m - now);
}
template <class R>
__device__ inline R larger(R a, R x) {
  return x > a || x != x ? x : a;
}

template <class T>
struct LogSum {
  using Memory = T;
  using Real = Compute<T>;
  using State = LogSumState<Real, Real>;
  static constexpr int kInputs = 1;
  char nothing = 0;  // parameters of kernels are compared by their bytes

  __device__ State of(Bits<T> b) const { return {of_bits<T>(b), Real(1)}; }
  __device__ Bits<T> result(State x) const { return to_bits<T>(x.m + lane::log(x.s)); }
  __device__ State identity() const { return {least<Real>(), Real(0)}; }
  __device__ State join(State a, State x) const {
    const Real m = larger(a.m, x.m);
    return {m, a.s * decay(a.m, m) + x.s * decay(x.m, m)};
  }
};

// Of complex numbers m is the largest real part.
template <>
struct LogSum<Complex> {
  using Memory = Complex;
  using State = LogSumState<float, Complex>;
  static constexpr int kInputs = 1;
  char nothing = 0;  // parameters of kernels are compared by their bytes

  __device__ State of(uint64_t b) const {
    const Complex x = of_bits<Complex>(b);
    return {x.re, Complex(::cosf(x.im), ::sinf(x.im))};
  }
  __device__ uint64_t result(State x) const {
    const Complex log = lane::log(x.s);
    return to_bits<Complex>(Complex(x.m + log.re, log.im));
  }
  __device__ State identity() const { return {least<float>(), Complex(0, 0)}; }
  __device__ State join(State a, State x) const {
    const float m = larger(a.m, x.m), da = decay(a.m, m), dx = decay(x.m, m);
    return {m, Complex(a.s.re * da + x.s.re * dx, a.s.im * da + x.s.im * dx)};
  }
};

template <class T>
void run(const Scan& p, const Operand& in, const Operand& out) {
  run_scan_along(LogSum<T>{}, {&in, 1}, out, p.axis, p.reverse, p.inclusive, "logcumsumexp");
}

}  // namespace

void scan_logsumexp(const Scan& p, const Operand& in, const Operand& out) {
  if (in.dtype == complex64) return run<Complex>(p, in, out);
  visit_floats(in.dtype, [&](auto type) { run<typename decltype(type)::type>(p, in, out); });
}

}  // namespace lazuli::cuda
