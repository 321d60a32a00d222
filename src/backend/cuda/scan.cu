// Running totals along an axis; the largest and smallest so far.
#include "backend/cuda/scan.cuh"
#include "backend/cuda/scan.h"

namespace lazuli::cuda {

namespace {

// The largest, the smallest by `flip`; any and all of bools. NaN wins; of equal elements the first.
template <class T>
struct Largest {
  using Memory = T;
  using State = Compute<T>;
  static constexpr int kInputs = 1;
  Bits<T> flip;

  __device__ State of(Bits<T> b) const { return of_bits<T>(b ^ flip); }
  __device__ Bits<T> result(State s) const { return to_bits<T>(s) ^ flip; }
  __device__ State identity() const { return least<State>(); }
  __device__ State join(State a, State x) const {
    if constexpr (std::is_same_v<T, Complex>)
      return !lane::is_nan(a) && (lane::is_nan(x) || lane::less(a, x)) ? x : a;
    else if constexpr (std::is_floating_point_v<State>)
      return x > a || x != x ? x : a;
    else
      return x > a ? x : a;
  }
};

void scan_extreme(const Scan& p, const Operand& in, const Operand& out, bool smallest) {
  visit_unsigned(in.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto flip = static_cast<Bits<T>>(flip_for(in.dtype, smallest));
    run_scan_along(Largest<T>{flip}, {&in, 1}, out, p.axis, p.reverse, p.inclusive, p.name().data());
  });
}

void run_scan(const KernelCall& call) {
  const auto& p = static_cast<const Scan&>(call.primitive);
  const Operand &in = call.in[0], &out = call.out[0];
  if (in.size == 0) return;
  const bool is_bool = in.dtype == bool_;
  switch (p.op) {
    case Scan::sum: return is_bool ? scan_extreme(p, in, out, false) : scan_sum(p, in, out);
    case Scan::prod: return is_bool ? scan_extreme(p, in, out, true) : scan_prod(p, in, out);
    case Scan::max: return scan_extreme(p, in, out, false);
    case Scan::min: return scan_extreme(p, in, out, true);
    case Scan::logsumexp: return scan_logsumexp(p, in, out);
  }
}

}  // namespace

void register_scan(KernelTable& t) { t.add<Scan>({&run_scan, 1, 1}); }

}  // namespace lazuli::cuda
