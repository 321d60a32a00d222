// Vector math: elementary functions over Highway vectors of float and double.
//
// Included by files that hwy/foreach_target.h compiles once per instruction set; the
// functions land in lazuli::cpu::HWY_NAMESPACE:
//
//     #include "backend/cpu/simd_math-inl.h"
//     const hn::ScalableTag<float> d;
//     hn::StoreU(exp(d, hn::LoadU(d, x)), d, y);
//
// Errors are at most 2 ulp (tanh: 2.5) over the whole range (tests/backend/simd_math_test.cpp states
// the bound of each function); zeros, infinities, NaN, overflow and denormal results are
// those of C's libm. A lane's result depends only on that lane. Functions of double call
// libm lane by lane, except those that need only arithmetic.
// Polynomials come from tools/fit_polynomials.py. Fused multiply-adds are explicit; where
// the instruction set has none, MulAdd rounds twice, and the errors stay within the same bounds.
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/cpu/payne_hanek.h"

#if defined(LAZULI_BACKEND_CPU_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LAZULI_BACKEND_CPU_SIMD_MATH_INL_H_
#undef LAZULI_BACKEND_CPU_SIMD_MATH_INL_H_
#else
#define LAZULI_BACKEND_CPU_SIMD_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Pairs of double vectors stand for one float vector where floats need extra bits; a
// target of one lane has no halves.
#if HWY_TARGET == HWY_SCALAR
inline constexpr bool kHasHalves = false;
#else
inline constexpr bool kHasHalves = true;
#endif

template <class D>
inline constexpr bool kIsFloat = sizeof(hn::TFromD<D>) == 4;

// ---------------------------------------------------------------- building blocks

// c0 + c1 x + ... + cn x^n
template <class D, class V, class T, size_t N>
HWY_INLINE V horner(D d, V x, const T (&c)[N]) {
  V r = hn::Set(d, c[N - 1]);
  for (size_t k = N - 1; k-- > 0;) r = hn::MulAdd(r, x, hn::Set(d, c[k]));
  return r;
}

// The same with even and odd powers apart: half as long a chain of dependent instructions, for one
// more multiplication and rounding. 7 to 10% off log, erfinv and pow; no gain for the others.
template <class D, class V, class T, size_t N>
HWY_INLINE V split_horner(D d, V x, const T (&c)[N]) {
  const V z = hn::Mul(x, x);
  V a = hn::Set(d, c[N - 1]), b = hn::Set(d, c[N - 2]);  // a: the parity of N - 1
  for (size_t k = N - 2; k-- > 0;) {
    V& r = (N - 1 - k) % 2 ? b : a;
    r = hn::MulAdd(r, z, hn::Set(d, c[k]));
  }
  return N % 2 ? hn::MulAdd(b, x, a) : hn::MulAdd(a, x, b);
}

// f(lane) by lane; f takes as many scalars as there are vectors.
template <class D, class F, class... V>
HWY_NOINLINE auto per_lane(D d, F f, V... v) {
  using T = hn::TFromD<D>;
  constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(T);
  alignas(HWY_MAX_BYTES) T in[sizeof...(V)][kLanes];
  alignas(HWY_MAX_BYTES) T out[kLanes];
  size_t k = 0;
  (hn::Store(v, d, in[k++]), ...);
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    if constexpr (sizeof...(V) == 1)
      out[i] = f(in[0][i]);
    else
      out[i] = f(in[0][i], in[1][i]);
  }
  return hn::Load(d, out);
}

#if HWY_TARGET == HWY_SCALAR
template <class D, class F, class... V>
hn::Vec<D> in_double(D, F, V...);  // never called
#else
// Applies f to the two halves of float vectors as doubles and rounds the result.
template <class D, class F, class... V>
HWY_INLINE auto in_double(D d, F f, V... v) {
  const hn::Half<D> dh;
  const hn::Rebind<double, hn::Half<D>> dd;
  auto lower = f(dd, hn::PromoteTo(dd, hn::LowerHalf(dh, v))...);
  auto upper = f(dd, hn::PromoteTo(dd, hn::UpperHalf(dh, v))...);
  return hn::Combine(d, hn::DemoteTo(dh, upper), hn::DemoteTo(dh, lower));
}
#endif

template <class D>
HWY_INLINE hn::Vec<D> infinity(D d) {
  return hn::Set(d, std::numeric_limits<hn::TFromD<D>>::infinity());
}
template <class D>
HWY_INLINE hn::Vec<D> not_a_number(D d) {
  return hn::Set(d, std::numeric_limits<hn::TFromD<D>>::quiet_NaN());
}

// round(x * scale) for |x * scale| < 2^22, as a float and, in the low bits, as an integer
// above kRoundBits.
inline constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
inline constexpr int32_t kRoundBits = 0x4B400000;

// 2^n for n in [-126, 127]
template <class D, class VI>
HWY_INLINE auto power_of_two(D d, VI n) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
}

inline constexpr float kLog2e = 1.44269504088896340736f;
inline constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;  // Hi has 9 bits

// (exp(r) - 1 - r) / r^2, |r| <= ln(2)/2
inline constexpr float kExp[] = {0.5f, 0.166665211f, 0.0416663885f, 0.00836867932f, 0.00139418675f};

// x = n ln(2) + r; sets n and r. |x| < 2^20.
template <class D, class V>
HWY_INLINE auto exp_reduce(D d, V x, V& r) {
  const hn::RebindToSigned<D> di;
  V shifted = hn::MulAdd(x, hn::Set(d, kLog2e), hn::Set(d, kRound));
  V n = hn::Sub(shifted, hn::Set(d, kRound));
  r = hn::NegMulAdd(n, hn::Set(d, kLn2Hi), x);
  r = hn::NegMulAdd(n, hn::Set(d, kLn2Lo), r);
  return hn::Sub(hn::BitCast(di, shifted), hn::Set(di, kRoundBits));
}
// exp(r) - 1, |r| <= ln(2)/2
template <class D, class V>
HWY_INLINE V expm1_poly(D d, V r) {
  return hn::MulAdd(hn::Mul(r, r), horner(d, r, kExp), r);
}
// 2^n (1 + m) for n in [-250, 250]: two steps, so that only the last one rounds.
template <class D, class V, class VI>
HWY_INLINE V scale_by_power(D d, V p, VI n) {
  auto half = hn::ShiftRight<1>(n);
  return hn::Mul(hn::Mul(p, power_of_two(d, half)), power_of_two(d, hn::Sub(n, half)));
}
// exp(x) 2^shift. Right where the result overflows or underflows through the scaling; the
// caller replaces |x| > 150.
template <class D, class V>
HWY_INLINE V exp_scaled(D d, V x, int shift) {
  const hn::RebindToSigned<D> di;
  V r;
  auto n = exp_reduce(d, x, r);
  return scale_by_power(d, hn::Add(expm1_poly(d, r), hn::Set(d, 1.0f)), hn::Add(n, hn::Set(di, shift)));
}

// (log1p(f) - f + f^2/2) / f^3, 1 + f in [sqrt(1/2), sqrt(2)]
inline constexpr float kLog[] = {0.333333105f, -0.249999866f, 0.200022236f,  -0.166692495f, 0.142187163f,
                                 -0.12384402f, 0.118726194f,  -0.117893703f, 0.0691561252f};

// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for normal positive x.
template <class D, class V>
HWY_INLINE auto log_reduce(D d, V x, V& f) {
  const hn::RebindToSigned<D> di;
  const auto root_half = hn::Set(di, 0x3f3504f3);
  auto bits = hn::Sub(hn::BitCast(di, x), root_half);
  auto mantissa = hn::Add(hn::And(bits, hn::Set(di, 0x007fffff)), root_half);
  f = hn::Sub(hn::BitCast(d, mantissa), hn::Set(d, 1.0f));
  return hn::ShiftRight<23>(bits);
}
// log1p(f) - f
template <class D, class V>
HWY_INLINE V log_rest(D d, V f) {
  V f2 = hn::Mul(f, f);
  return hn::Mul(f2, hn::MulAdd(f, split_horner(d, f, kLog), hn::Set(d, -0.5f)));
}
// Scales denormals up; `e` is the correction of the exponent.
template <class D, class V>
HWY_INLINE V log_normalize(D d, V x, V& e) {
  auto tiny = hn::Lt(x, hn::Set(d, 1.17549435e-38f));
  e = hn::IfThenElseZero(tiny, hn::Set(d, -23.0f));
  return hn::IfThenElse(tiny, hn::Mul(x, hn::Set(d, 8388608.0f)), x);
}
// The logarithm's values outside (0, inf), given its result inside.
template <class D, class V>
HWY_INLINE V log_special(D d, V x, V r) {
  r = hn::IfThenElse(hn::Lt(x, infinity(d)), r, x);  // inf and NaN
  r = hn::IfThenElse(hn::Eq(x, hn::Zero(d)), hn::Neg(infinity(d)), r);
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), not_a_number(d), r);
}
// log(x) for normal x > 0.
template <class D, class V>
HWY_INLINE V log_positive(D d, V x, V e0) {
  V f;
  V e = hn::Add(hn::ConvertTo(d, log_reduce(d, x, f)), e0);
  V rest = hn::MulAdd(e, hn::Set(d, kLn2Lo), log_rest(d, f));
  return hn::MulAdd(e, hn::Set(d, kLn2Hi), hn::Add(f, rest));
}

// log(x) / log(base) with 1 / log(base) = Hi + Lo, and log(2) / log(base) = EHi + ELo
// where Hi and EHi have few enough bits for exact products.
template <class D, class V>
HWY_INLINE V log_base(D d, V x, float hi, float lo, float e_hi, float e_lo) {
  const hn::RebindToUnsigned<D> du;
  V e0, f;
  V y = log_normalize(d, x, e0);
  V e = hn::Add(hn::ConvertTo(d, log_reduce(d, y, f)), e0);
  V f_hi = hn::And(f, hn::BitCast(d, hn::Set(du, 0xfffff000u)));
  V f_lo = hn::Sub(f, f_hi);
  V rest = log_rest(d, f);
  V small = hn::MulAdd(e, hn::Set(d, e_lo), hn::Mul(hn::Add(rest, f_lo), hn::Set(d, hi)));
  small = hn::MulAdd(hn::Add(f, rest), hn::Set(d, lo), small);
  V big = hn::Mul(f_hi, hn::Set(d, hi)), whole = hn::Mul(e, hn::Set(d, e_hi));
  V sum = hn::Add(whole, big);  // |whole| > |big| or whole = 0: the error of the sum is exact
  V error = hn::Add(hn::Sub(whole, sum), big);
  return log_special(d, x, hn::Add(sum, hn::Add(error, small)));
}

// ---- in double, for float results: relative error 2^-40 or less

// kExp in double
inline constexpr double kExpD[] = {0.49999999999604339,   0.16666666666567037,   0.041666666988916953,
                                   0.0083333333889940263, 0.0013888807596103172, 0.00019841162526368415,
                                   2.488227095840368e-05, 2.7643947020863573e-06};
// kLog in double
inline constexpr double kLogD[] = {0.33333333330575471,   -0.24999999963446801, 0.20000000627965231,
                                   -0.16666672445630645,  0.14285672094443844,  -0.12499658428267865,
                                   0.1111225595523818,    -0.10009881618057045, 0.090797146954555305,
                                   -0.081854466526185554, 0.076497394275282488, -0.081957590395895286,
                                   0.080678044846126507,  -0.040906392180722714};

template <class D, class V>
HWY_INLINE V log_d(D d, V x) {  // normal positive x
  const hn::RebindToSigned<D> di;
  const auto root_half = hn::Set(di, 0x3fe6a09e667f3bcdLL);
  auto bits = hn::Sub(hn::BitCast(di, x), root_half);
  V f = hn::Sub(hn::BitCast(d, hn::Add(hn::And(bits, hn::Set(di, 0x000fffffffffffffLL)), root_half)),
                hn::Set(d, 1.0));
  // The exponent as a double: the top bits, biased to be positive, under 2^52.
  auto biased = hn::ShiftRight<52>(
      hn::BitCast(hn::RebindToUnsigned<D>(), hn::Add(bits, hn::Set(di, 0x4000000000000000LL))));
  V e = hn::Sub(hn::BitCast(d, hn::Or(biased, hn::Set(hn::RebindToUnsigned<D>(), 0x4330000000000000ULL))),
                hn::Set(d, 4503599627370496.0 + 1024.0));
  V f2 = hn::Mul(f, f);
  V rest = hn::Mul(f2, hn::MulAdd(f, split_horner(d, f, kLogD), hn::Set(d, -0.5)));
  return hn::MulAdd(e, hn::Set(d, 0.693147180559945309417), hn::Add(f, rest));
}
template <class D, class V>
HWY_INLINE V exp_d(D d, V x) {  // |x| <= 700
  const hn::RebindToSigned<D> di;
  const V round = hn::Set(d, 6755399441055744.0);
  V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504088896340736), round);
  V n = hn::Sub(shifted, round);
  V r = hn::NegMulAdd(n, hn::Set(d, 0.693147180559945309417), x);
  V p = hn::Add(hn::MulAdd(hn::Mul(r, r), horner(d, r, kExpD), r), hn::Set(d, 1.0));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<52>(hn::BitCast(di, shifted))));
}
template <class D, class V>
HWY_INLINE V clamp_d(D d, V x, double lo, double hi) {  // keeps NaN
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, lo)), hn::Set(d, lo), x);
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, hi)), hn::Set(d, hi), x);
}

// ---------------------------------------------------------------- exponentials

template <class D, class V>
HWY_INLINE V exp(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::exp(v); }, x);
  } else {
    V r = exp_scaled(d, x, 0);
    r = hn::IfThenElse(hn::Gt(x, hn::Set(d, 89.0f)), infinity(d), r);
    return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -104.0f)), r);
  }
}

// exp(x) for x that is NaN, -inf or at most 0; results below the smallest normal number are 0.
template <class D, class V>
HWY_INLINE V exp_negative(D d, V x) {
  if constexpr (sizeof(hn::TFromD<D>) == 8) {
    return exp(d, x);
  } else {
    const hn::RebindToSigned<D> di;
    V r;
    const auto n = exp_reduce(d, x, r);
    const V p = hn::Add(expm1_poly(d, r), hn::Set(d, 1.0f));
    const V y = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(n)));
    return hn::IfThenElse(hn::Ge(x, hn::Set(d, -87.0f)), y, hn::IfThenZeroElse(hn::Eq(x, x), x));
  }
}

template <class D, class V>
HWY_INLINE V exp2(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::exp2(v); }, x);
  } else {
    const hn::RebindToSigned<D> di;
    V shifted = hn::Add(x, hn::Set(d, kRound));
    V f = hn::Sub(x, hn::Sub(shifted, hn::Set(d, kRound)));  // exact, |f| <= 1/2
    V p = expm1_poly(d, hn::Mul(f, hn::Set(d, 0.693147180559945f)));
    V r = scale_by_power(d, hn::Add(p, hn::Set(d, 1.0f)),
                         hn::Sub(hn::BitCast(di, shifted), hn::Set(di, kRoundBits)));
    r = hn::IfThenElse(hn::Ge(x, hn::Set(d, 128.0f)), infinity(d), r);
    return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -150.0f)), r);
  }
}

// 2^n (1 + p) - 1 for n in [-126, 126]
template <class D, class V, class VI>
HWY_INLINE V expm1_combine(D d, V p, VI n) {
  V s = power_of_two(d, n);
  return hn::MulAdd(s, p, hn::Sub(s, hn::Set(d, 1.0f)));
}

template <class D, class V>
HWY_INLINE V tanh(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::tanh(v); }, x);
  } else {
    // e / (e + 2) with e = exp(2|x|) - 1
    V t = hn::Abs(x), r;
    t = hn::IfThenElse(hn::Gt(t, hn::Set(d, 10.0f)), hn::Set(d, 10.0f), t);  // NaN stays
    auto n = exp_reduce(d, hn::Add(t, t), r);
    V e = expm1_combine(d, expm1_poly(d, r), n);
    return hn::CopySign(hn::Div(e, hn::Add(e, hn::Set(d, 2.0f))), x);
  }
}

template <class D, class V>
HWY_INLINE V expm1(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::expm1(v); }, x);
  } else {
    const hn::RebindToSigned<D> di;
    V r;
    auto n = exp_reduce(d, x, r);
    // Beyond 2^30 the -1 is below the rounding; half the power avoids an early overflow.
    V p = expm1_poly(d, r);
    auto huge = hn::Gt(x, hn::Set(d, 21.0f));
    V big = hn::Mul(hn::Mul(hn::Add(p, hn::Set(d, 1.0f)), power_of_two(d, hn::Sub(n, hn::Set(di, 1)))),
                    hn::Set(d, 2.0f));
    V y = hn::IfThenElse(huge, big, expm1_combine(d, p, n));
    y = hn::IfThenElse(hn::Gt(x, hn::Set(d, 89.0f)), infinity(d), y);
    y = hn::IfThenElse(hn::Lt(x, hn::Set(d, -18.0f)), hn::Set(d, -1.0f), y);
    return hn::CopySign(y, x);
  }
}

template <class D, class V>
HWY_INLINE V sigmoid(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d,
        [](double v) {
          double e = std::exp(-std::fabs(v));
          return (v < 0 ? e : 1.0) / (1.0 + e);
        },
        x);
  } else {
    // From exp(-|x|), so that small results keep their bits.
    V a = hn::Neg(hn::Abs(x));
    V e = hn::IfThenZeroElse(hn::Lt(a, hn::Set(d, -104.0f)), exp_scaled(d, a, 0));
    const V one = hn::Set(d, 1.0f);
    V s = hn::Add(one, e);
    V q = hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), s);
    // The rounding of 1 + e, made good to first order.
    return hn::NegMulAdd(q, hn::Sub(e, hn::Sub(s, one)), q);
  }
}

// (sinh x - x) / x^3 in x^2, |x| <= 1
inline constexpr float kSinh[] = {0.166666672f, 0.00833331142f, 0.000198426351f, 2.78392554e-06f};

template <class D, class V>
HWY_INLINE V sinh(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::sinh(v); }, x);
  } else {
    V a = hn::Abs(x), z = hn::Mul(x, x);
    V half = exp_scaled(d, a, -1);
    half = hn::IfThenElse(hn::Gt(a, hn::Set(d, 90.0f)), infinity(d), half);
    V big = hn::CopySign(hn::Sub(half, hn::Div(hn::Set(d, 0.25f), half)), x);
    V small = hn::MulAdd(hn::Mul(z, x), horner(d, z, kSinh), x);
    return hn::IfThenElse(hn::Gt(a, hn::Set(d, 1.0f)), big, small);
  }
}

template <class D, class V>
HWY_INLINE V cosh(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::cosh(v); }, x);
  } else {
    V a = hn::Abs(x);
    V half = exp_scaled(d, a, -1);
    half = hn::IfThenElse(hn::Gt(a, hn::Set(d, 90.0f)), infinity(d), half);
    return hn::Add(half, hn::Div(hn::Set(d, 0.25f), half));
  }
}

// ---------------------------------------------------------------- logarithms

template <class D, class V>
HWY_INLINE V log(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::log(v); }, x);
  } else {
    V e0;
    V y = log_normalize(d, x, e0);
    return log_special(d, x, log_positive(d, y, e0));
  }
}

template <class D, class V>
HWY_INLINE V log2(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::log2(v); }, x);
  } else {
    return log_base(d, x, 1.4423828125f, 3.12228389e-4f, 1.0f, 0.0f);
  }
}

template <class D, class V>
HWY_INLINE V log10(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::log10(v); }, x);
  } else {
    return log_base(d, x, 0.434326171875f, -3.16899721e-5f, 0.301025390625f, 4.60503888e-6f);
  }
}

template <class D, class V>
HWY_INLINE V log1p(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::log1p(v); }, x);
  } else {
    const hn::RebindToSigned<D> di;
    const V one = hn::Set(d, 1.0f);
    // u + c = 1 + x exactly; u = 2^n (1 + f).
    V u = hn::Add(one, x);
    V b = hn::Sub(u, one);
    V c = hn::Add(hn::Sub(one, hn::Sub(u, b)), hn::Sub(x, b));
    V f;
    auto n = log_reduce(d, u, f);
    // c 2^-n; for large n, c is below the rounding of the result.
    auto power = hn::Min(n, hn::Set(di, 100));
    V f_lo = hn::Mul(c, power_of_two(d, hn::Neg(power)));
    V sum = hn::Add(f, f_lo);
    V error = hn::Add(hn::Sub(f, sum), f_lo);  // f = 0 or |f| > |f_lo|
    V e = hn::ConvertTo(d, n);
    V rest = hn::Add(log_rest(d, sum), hn::MulAdd(e, hn::Set(d, kLn2Lo), error));
    V r = hn::MulAdd(e, hn::Set(d, kLn2Hi), hn::Add(sum, rest));
    return hn::IfThenElse(hn::Eq(x, hn::Zero(d)), x, log_special(d, u, r));
  }
}

// log(exp(x) + exp(y))
template <class D, class V>
HWY_INLINE V logaddexp(D d, V x, V y) {
  auto one_pair = [](double a, double b) {
    if (a == b) return a + 0.693147180559945309417;
    double hi = a > b ? a : b, lo = a > b ? b : a;
    return a != a || b != b ? a + b : hi + std::log1p(std::exp(lo - hi));
  };
  if constexpr (!kIsFloat<D> || !kHasHalves) {
    return per_lane(d, one_pair, x, y);
  } else {
    return in_double(
        d,
        [](auto dd, auto a, auto b) HWY_ATTR {
          auto hi = hn::IfThenElse(hn::Gt(a, b), a, b);
          auto gap = hn::IfThenElse(hn::Eq(a, b), hn::Zero(dd), hn::Neg(hn::Abs(hn::Sub(a, b))));
          auto e = exp_d(dd, clamp_d(dd, gap, -700.0, 0.0));
          // log1p(e), by its series where 1 + e would lose bits.
          auto series = hn::MulAdd(hn::Mul(e, e), hn::MulAdd(e, hn::Set(dd, 1.0 / 3), hn::Set(dd, -0.5)), e);
          auto log1p =
              hn::IfThenElse(hn::Lt(e, hn::Set(dd, 1e-4)), series, log_d(dd, hn::Add(hn::Set(dd, 1.0), e)));
          // A NaN in either operand is in gap.
          return hn::IfThenElse(hn::IsNaN(gap), gap, hn::Add(hi, log1p));
        },
        x, y);
  }
}

// ---------------------------------------------------------------- trigonometry

// (sin r - r) / r^3 in r^2, |r| <= pi/4
inline constexpr float kSin[] = {-0.166666552f, 0.00833218824f, -0.00019517995f};
// (cos r - 1 + r^2/2) / r^4 in r^2
inline constexpr float kCos[] = {0.0416666456f, -0.00138873013f, 2.44306684e-05f};
// (tan r - r) / r^3 in r^2
inline constexpr float kTan[] = {0.333333522f,  0.13332583f,      0.0540686511f, 0.0212386101f,
                                 0.0109455446f, -4.61905838e-05f, 0.00444183266f};

// |x| = n pi/2 + r + lo, |r| <= pi/4 (1 + 2^-20); returns n mod 4 in the low bits.
template <class D, class V>
HWY_INLINE auto pi_reduce(D d, V a, V& r, V& lo) {
  const hn::RebindToSigned<D> di;
  V shifted = hn::MulAdd(a, hn::Set(d, 0.636619772367581343f), hn::Set(d, kRound));
  V n = hn::Sub(shifted, hn::Set(d, kRound));
  auto quadrant = hn::BitCast(di, shifted);
#if HWY_NATIVE_FMA
  constexpr float kLimit = 131072.0f;
  V r0 = hn::NegMulAdd(n, hn::Set(d, 1.57079637f), a);  // exact
  const V c = hn::Set(d, -4.37113883e-8f);
  V p = hn::Mul(n, c);
  r = hn::Sub(r0, p);
  // The error of that difference is exact, because r0 is a multiple of ulp(p).
  V error = hn::Sub(hn::Sub(hn::Sub(r0, r), p), hn::MulSub(n, c, p));
  lo = hn::NegMulAdd(n, hn::Set(d, -1.71512451e-15f), error);
#else
  // Products with parts of pi/2 of at most 12 bits are exact.
  constexpr float kLimit = 6000.0f;
  V r0 =
      hn::Sub(hn::Sub(a, hn::Mul(n, hn::Set(d, 1.57031250f))), hn::Mul(n, hn::Set(d, 4.837512969970703e-4f)));
  V p = hn::Mul(n, hn::Set(d, 7.549533620476723e-08f));
  r = hn::Sub(r0, p);
  // Two-sum: either operand may be the larger one.
  V back = hn::Sub(r, r0);
  V error = hn::Sub(hn::Sub(r0, hn::Sub(r, back)), hn::Add(p, back));
  lo = hn::Sub(error, hn::Mul(n, hn::Set(d, 2.563344151594519e-12f)));
#endif
  auto large = hn::Ge(a, hn::Set(d, kLimit));
  if (HWY_UNLIKELY(!hn::AllFalse(d, large))) {
    constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(float);
    alignas(HWY_MAX_BYTES) float x[kLanes], hi[kLanes], low[kLanes];
    alignas(HWY_MAX_BYTES) int32_t q[kLanes];
    hn::Store(a, d, x);
    hn::Store(r, d, hi);
    hn::Store(lo, d, low);
    hn::Store(quadrant, di, q);
    for (size_t i = 0; i < hn::Lanes(d); ++i)
      if (x[i] >= kLimit) q[i] = reduce_large_by_half_pi(x[i], hi[i], low[i]);
    r = hn::Load(d, hi);
    lo = hn::Load(d, low);
    quadrant = hn::Load(di, q);
  }
  return quadrant;
}

// sin(r + lo) in [-pi/4, pi/4]
template <class D, class V>
HWY_INLINE V sin_poly(D d, V r, V lo) {
  V z = hn::Mul(r, r);
  return hn::Add(r, hn::MulAdd(hn::Mul(z, r), horner(d, z, kSin), lo));
}
// cos(r + lo): 1 - z/2 is split in a rounded part and the rest of it.
template <class D, class V>
HWY_INLINE V cos_poly(D d, V r, V lo) {
  const V one = hn::Set(d, 1.0f);
  V z = hn::Mul(r, r);
  V half = hn::Mul(z, hn::Set(d, 0.5f));
  V w = hn::Sub(one, half);
  V rest = hn::Sub(hn::Sub(one, w), half);
  return hn::Add(w, hn::MulAdd(hn::Mul(z, z), horner(d, z, kCos), hn::NegMulAdd(r, lo, rest)));
}

// sin(|x| + quarter pi/2) with the sign bits of `sign` flipped in.
template <class D, class V>
HWY_INLINE V sin_cos(D d, V x, int32_t quarter, V sign) {
  const hn::RebindToSigned<D> di;
  V r, lo;
  auto q = hn::Add(pi_reduce(d, hn::Abs(x), r, lo), hn::Set(di, quarter));
  auto odd = hn::MaskFromVec(hn::BitCast(d, hn::Neg(hn::And(q, hn::Set(di, 1)))));
  V y = hn::IfThenElse(odd, cos_poly(d, r, lo), sin_poly(d, r, lo));
  V flip = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(q, hn::Set(di, 2))));
  return hn::Xor(y, hn::Xor(flip, sign));
}

template <class D, class V>
HWY_INLINE V sin(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::sin(v); }, x);
  } else {
    return sin_cos(d, x, 0, hn::And(x, hn::SignBit(d)));
  }
}

template <class D, class V>
HWY_INLINE V cos(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::cos(v); }, x);
  } else {
    return sin_cos(d, x, 1, hn::Zero(d));
  }
}

template <class D, class V>
HWY_INLINE V tan(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::tan(v); }, x);
  } else {
    const hn::RebindToSigned<D> di;
    V r, lo;
    auto q = pi_reduce(d, hn::Abs(x), r, lo);
    auto odd = hn::MaskFromVec(hn::BitCast(d, hn::Neg(hn::And(q, hn::Set(di, 1)))));
    V z = hn::Mul(r, r);
    // tan(r + lo) = t + rest; -1 / (t + rest) by one Newton step on the quotient.
    V rest = hn::MulAdd(hn::Mul(z, r), horner(d, z, kTan), hn::MulAdd(lo, z, lo));
    V t = hn::Add(r, rest);
    rest = hn::Add(hn::Sub(r, t), rest);
    V c = hn::Div(hn::Set(d, -1.0f), t);
    V y = hn::IfThenElse(odd, hn::MulAdd(hn::Mul(c, c), rest, c), t);
    return hn::Xor(y, hn::And(x, hn::SignBit(d)));
  }
}

// (asin x - x) / x^3 in x^2, |x| <= 1/2
inline constexpr float kAsin[] = {0.166667536f, 0.0749525204f, 0.0454760417f, 0.0241520926f, 0.0422117971f};

inline constexpr float kPi2Hi = 1.57079637f, kPi2Lo = -4.37113883e-8f;

// asin(a) for a in [0, 1/2] or, through `root` = sqrt((1 - a) / 2), the pieces for above.
template <class D, class V>
HWY_INLINE V asin_rest(D d, V x) {  // asin(x) - x, |x| <= 1/2
  V z = hn::Mul(x, x);
  return hn::Mul(hn::Mul(x, z), horner(d, z, kAsin));
}

template <class D, class V>
HWY_INLINE V asin(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::asin(v); }, x);
  } else {
    V a = hn::Abs(x);
    auto big = hn::Gt(a, hn::Set(d, 0.5f));
    V half = hn::Mul(hn::Sub(hn::Set(d, 1.0f), a), hn::Set(d, 0.5f));  // exact
    V u = hn::IfThenElse(big, hn::Sqrt(half), a);
    V rest = asin_rest(d, u);
    // pi/2 - 2 (u + rest)
    V two_u = hn::Add(u, u);
    V hi = hn::Sub(hn::Set(d, kPi2Hi), two_u);
    V lo = hn::Sub(hn::Sub(hn::Set(d, kPi2Hi), hi), two_u);
    lo = hn::Add(lo, hn::Set(d, kPi2Lo));
    V above = hn::Add(hi, hn::Sub(lo, hn::Add(rest, rest)));
    return hn::CopySign(hn::IfThenElse(big, above, hn::Add(u, rest)), x);
  }
}

template <class D, class V>
HWY_INLINE V acos(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::acos(v); }, x);
  } else {
    V a = hn::Abs(x);
    auto big = hn::Gt(a, hn::Set(d, 0.5f));
    V half = hn::Mul(hn::Sub(hn::Set(d, 1.0f), a), hn::Set(d, 0.5f));
    V u = hn::IfThenElse(big, hn::Sqrt(half), x);
    V rest = asin_rest(d, u);
    // |x| <= 1/2: pi/2 - asin(x); x > 1/2: 2 asin(u); x < -1/2: pi - 2 asin(u).
    V hi = hn::Sub(hn::Set(d, kPi2Hi), u);
    V lo = hn::Add(hn::Sub(hn::Sub(hn::Set(d, kPi2Hi), hi), u), hn::Set(d, kPi2Lo));
    V small = hn::Add(hi, hn::Sub(lo, rest));
    V near_one = hn::Add(u, rest);
    near_one = hn::Add(near_one, near_one);
    V y = hn::IfThenElse(hn::Gt(x, hn::Zero(d)), near_one, hn::Add(small, small));
    return hn::IfThenElse(big, y, small);
  }
}

// (atan x - x) / x^3 in x^2, |x| <= 1
inline constexpr float kAtan[] = {-0.333333015f, 0.199986279f,   -0.14265126f, 0.109569333f,   -0.0841754302f,
                                  0.0582012571f, -0.0314221419f, 0.011046255f, -0.00182311598f};

template <class D, class V>
HWY_INLINE V atan_rest(D d, V x) {  // atan(x) - x, |x| <= 1
  V z = hn::Mul(x, x);
  return hn::Mul(hn::Mul(z, x), horner(d, z, kAtan));
}

template <class D, class V>
HWY_INLINE V atan(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::atan(v); }, x);
  } else {
    V a = hn::Abs(x);
    auto big = hn::Gt(a, hn::Set(d, 1.0f));  // pi/2 - atan(1 / a)
    V u = hn::IfThenElse(big, hn::Div(hn::Set(d, -1.0f), a), a);
    V base = hn::IfThenElseZero(big, hn::Set(d, kPi2Hi));
    V rest = hn::Add(atan_rest(d, u), hn::IfThenElseZero(big, hn::Set(d, kPi2Lo)));
    return hn::CopySign(hn::Add(base, hn::Add(u, rest)), x);
  }
}

template <class D, class V>
HWY_INLINE V atan2(D d, V y, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double a, double b) { return std::atan2(a, b); }, y, x);
  } else {
    V ay = hn::Abs(y), ax = hn::Abs(x);
    auto steep = hn::Gt(ay, ax);
    V small = hn::IfThenElse(steep, ax, ay), large = hn::IfThenElse(steep, ay, ax);
    V t = hn::Div(small, large);
    // 0/0 and inf/inf
    t = hn::IfThenElse(hn::Eq(large, hn::Zero(d)), hn::Zero(d), t);
    t = hn::IfThenElse(hn::Eq(small, infinity(d)), hn::Set(d, 1.0f), t);
    V rest = atan_rest(d, t);
    // Steep: pi/2 - angle. Then, left of the y axis: pi - angle. So the angle is
    // base + base_lo + t + rest with the signs of t and rest flipped once or twice.
    const hn::RebindToSigned<D> di;
    auto left = hn::MaskFromVec(hn::BitCast(d, hn::BroadcastSignBit(hn::BitCast(di, x))));
    V flip = hn::And(hn::Xor(hn::VecFromMask(d, steep), hn::VecFromMask(d, left)), hn::SignBit(d));
    V base = hn::IfThenElse(steep, hn::Set(d, kPi2Hi), hn::IfThenElseZero(left, hn::Set(d, 2 * kPi2Hi)));
    V base_lo = hn::IfThenElse(steep, hn::Set(d, kPi2Lo), hn::IfThenElseZero(left, hn::Set(d, 2 * kPi2Lo)));
    t = hn::Xor(t, flip);
    rest = hn::Add(hn::Xor(rest, flip), base_lo);
    V angle = hn::Add(base, hn::Add(t, rest));
    angle = hn::IfThenElse(hn::Or(hn::IsNaN(x), hn::IsNaN(y)), hn::Add(x, y), angle);
    return hn::CopySign(angle, y);
  }
}

// ---------------------------------------------------------------- inverse hyperbolic

template <class D, class V>
HWY_INLINE V asinh(D d, V x) {
  if constexpr (!kIsFloat<D> || !kHasHalves) {
    return per_lane(
        d, [](hn::TFromD<D> v) { return std::asinh(v); }, x);
  } else {
    V a = hn::Abs(x);
    V y = in_double(
        d,
        [](auto dd, auto v) HWY_ATTR {
          auto root = hn::Sqrt(hn::MulAdd(v, v, hn::Set(dd, 1.0)));
          return log_d(dd, hn::Add(v, root));
        },
        a);
    V small = hn::MulAdd(hn::Mul(a, hn::Set(d, -1.0f / 6)), hn::Mul(a, a), a);
    y = hn::IfThenElse(hn::Lt(a, hn::Set(d, 0x1p-9f)), small, y);
    y = hn::IfThenElse(hn::Lt(a, infinity(d)), y, a);
    return hn::CopySign(y, x);
  }
}

template <class D, class V>
HWY_INLINE V acosh(D d, V x) {
  if constexpr (!kIsFloat<D> || !kHasHalves) {
    return per_lane(
        d, [](hn::TFromD<D> v) { return std::acosh(v); }, x);
  } else {
    V y = in_double(
        d,
        [](auto dd, auto v) HWY_ATTR {
          // (v - 1)(v + 1) keeps the bits near 1; the result is at least sqrt(2 ulp(1)).
          const auto one = hn::Set(dd, 1.0);
          auto root = hn::Sqrt(hn::Mul(hn::Sub(v, one), hn::Add(v, one)));
          return log_d(dd, hn::Add(v, root));
        },
        x);
    y = hn::IfThenElse(hn::Lt(x, infinity(d)), y, x);
    return hn::IfThenElse(hn::Lt(x, hn::Set(d, 1.0f)), not_a_number(d), y);
  }
}

template <class D, class V>
HWY_INLINE V atanh(D d, V x) {
  if constexpr (!kIsFloat<D> || !kHasHalves) {
    return per_lane(
        d, [](hn::TFromD<D> v) { return std::atanh(v); }, x);
  } else {
    const V one = hn::Set(d, 1.0f);
    V a = hn::Abs(x);
    V y = in_double(
        d,
        [](auto dd, auto v) HWY_ATTR {
          const auto one = hn::Set(dd, 1.0);
          return hn::Mul(hn::Set(dd, 0.5), log_d(dd, hn::Div(hn::Add(one, v), hn::Sub(one, v))));
        },
        a);
    V small = hn::MulAdd(hn::Mul(a, hn::Set(d, 1.0f / 3)), hn::Mul(a, a), a);
    y = hn::IfThenElse(hn::Lt(a, hn::Set(d, 0x1p-9f)), small, y);
    y = hn::IfThenElse(hn::Lt(a, one), y, hn::IfThenElse(hn::Eq(a, one), infinity(d), not_a_number(d)));
    return hn::CopySign(y, x);
  }
}

// ---------------------------------------------------------------- error function

// erf(x) / x - 1 in x^2, |x| <= 0.93
inline constexpr float kErf[] = {0.128379151f,   -0.376124978f,  0.112818271f,
                                 -0.0267662313f, 0.00499176187f, -0.000598021375f};
// -log2(erfc(t)), 0.92 <= t <= 4
inline constexpr float kErfc[] = {0.000298661558f, 1.62682235f,    0.919380426f,    0.149832726f,
                                  -0.0320128612f,  0.00437662518f, -0.000281240646f};
// (2^-r - 1) / r, |r| <= 1/2
inline constexpr float kExp2Negative[] = {-0.693147242f, 0.240222394f, -0.055502817f, 0.00967165548f,
                                          -0.00134135783f};

template <class D, class V>
HWY_INLINE V erf(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d, [](double v) { return std::erf(v); }, x);
  } else {
    const hn::RebindToSigned<D> di;
    const V one = hn::Set(d, 1.0f), round = hn::Set(d, kRound);
    V a = hn::Abs(x);
    V small = hn::MulAdd(x, horner(d, hn::Mul(x, x), kErf), x);
    V q = horner(d, hn::Min(a, hn::Set(d, 4.0f)), kErfc);  // a NaN takes the other branch
    V shifted = hn::Sub(round, q);
    V r = hn::Add(q, hn::Sub(shifted, round));
    V p = hn::MulAdd(r, horner(d, r, kExp2Negative), one);
    V e = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
    V big = hn::CopySign(hn::Sub(one, e), x);
    return hn::IfThenElse(hn::Gt(a, hn::Set(d, 0.925f)), big, small);
  }
}

// erfinv(x) / x - 1 in w = -log(1 - x^2), w <= 5
inline constexpr float kErfinv[] = {-0.113773078f,    0.232013792f,    0.0115487492f,   -0.00233444897f,
                                    -0.000127349747f, 4.44983962e-05f, 4.00370482e-06f, -1.98018961e-06f,
                                    2.21402217e-07f,  -8.80663098e-09f};
// the same in sqrt(w) - 3, 5 <= w <= 16.1
inline constexpr float kErfinvTail[] = {1.83297682f,      1.00167525f,     0.00944533851f, -0.00764098158f,
                                        0.00568488799f,   -0.00358271319f, 0.00149216689f, -8.01704518e-05f,
                                        -0.000315843587f, 0.000129045802f};

// The inverse of erf by Newton's method, in double, for |x| < 1.
inline double erfinv_newton(double x, double guess) {
  const double half_root_pi = 0.886226925452758013649;
  for (int i = 0; i < 3; ++i) {
    // On the tail erfc keeps the bits that erf loses.
    double error = std::fabs(x) < 0.5
                       ? std::erf(guess) - x
                       : std::copysign(1.0, x) * ((1 - std::fabs(x)) - std::erfc(std::fabs(guess)));
    double step = error * half_root_pi * std::exp(guess * guess);
    guess -= step / (1 + guess * step);  // Halley's correction
  }
  return guess;
}

template <class D, class V>
HWY_INLINE V erfinv(D d, V x) {
  if constexpr (!kIsFloat<D>) {
    return per_lane(
        d,
        [](double v) -> double {
          if (!(std::fabs(v) < 1))
            return std::fabs(v) == 1 ? v * std::numeric_limits<double>::infinity()
                                     : std::numeric_limits<double>::quiet_NaN();
          if (std::fabs(v) < 1e-300) return v * 0.886226925452758013649;
          double w = -std::log((1 - v) * (1 + v));
          double l = 2 / (3.14159265358979 * 0.147) - w / 2;  // Winitzki's approximation
          double guess = std::copysign(std::sqrt(std::sqrt(l * l + w / 0.147) - l), v);
          return erfinv_newton(v, guess);
        },
        x);
  } else {
    const V one = hn::Set(d, 1.0f);
    V a = hn::Abs(x);
    // 1 - x^2 as (1 - |x|)(1 + |x|): the first factor is exact where it matters.
    V w = hn::Neg(log_positive(d, hn::Mul(hn::Sub(one, a), hn::Add(one, a)), hn::Zero(d)));
    V p = split_horner(d, w, kErfinv);
    auto far = hn::Gt(w, hn::Set(d, 5.0f));
    if (!hn::AllFalse(d, far)) {
      V s = hn::Sub(hn::Sqrt(w), hn::Set(d, 3.0f));
      p = hn::IfThenElse(far, split_horner(d, s, kErfinvTail), p);
    }
    V y = hn::MulAdd(p, x, x);
    y = hn::CopySign(hn::IfThenElse(hn::Lt(a, one), y, infinity(d)), x);
    return hn::IfThenElse(hn::Le(a, one), y, not_a_number(d));
  }
}

// ---------------------------------------------------------------- powers, division

template <class D, class V>
HWY_INLINE V rsqrt(D d, V x) {
  return hn::Div(hn::Set(d, hn::TFromD<D>(1)), hn::Sqrt(x));
}

template <class D, class V>
HWY_INLINE V pow(D d, V x, V y) {
  if constexpr (!kIsFloat<D> || !kHasHalves) {
    return per_lane(
        d, [](hn::TFromD<D> a, hn::TFromD<D> b) { return std::pow(a, b); }, x, y);
  } else {
    const V one = hn::Set(d, 1.0f), zero = hn::Zero(d);
    V a = hn::Abs(x);
    V magnitude = in_double(
        d,
        [](auto dd, auto base, auto exponent)
            HWY_ATTR { return exp_d(dd, clamp_d(dd, hn::Mul(log_d(dd, base), exponent), -700.0, 700.0)); },
        a, y);
    // log_d knows no 0 and no inf: there the result is 0 or inf by the sign of y.
    auto y_negative = hn::Lt(y, zero);
    V at_zero = hn::IfThenElseZero(y_negative, infinity(d));
    V at_inf = hn::IfThenZeroElse(y_negative, infinity(d));
    V r = hn::IfThenElse(hn::Eq(a, zero), at_zero, magnitude);
    r = hn::IfThenElse(hn::Eq(a, infinity(d)), at_inf, r);
    // Negative bases: odd exponents keep the sign, fractions have no value.
    V ay = hn::Abs(y);
    auto whole = hn::Or(hn::Eq(hn::Trunc(y), y), hn::Ge(ay, hn::Set(d, 8388608.0f)));
    V y_half = hn::Mul(y, hn::Set(d, 0.5f));
    auto odd =
        hn::And(hn::And(whole, hn::Ne(hn::Trunc(y_half), y_half)), hn::Lt(ay, hn::Set(d, 16777216.0f)));
    r = hn::Or(r, hn::IfThenElseZero(odd, hn::And(x, hn::SignBit(d))));
    auto finite_negative = hn::And(hn::Lt(x, zero), hn::Gt(x, hn::Neg(infinity(d))));
    r = hn::IfThenElse(hn::AndNot(whole, finite_negative), not_a_number(d), r);
    r = hn::IfThenElse(hn::Or(hn::IsNaN(x), hn::IsNaN(y)), hn::Add(x, y), r);
    auto is_one = hn::Or(hn::Eq(x, one), hn::Eq(y, zero));
    is_one = hn::Or(is_one, hn::And(hn::Eq(x, hn::Neg(one)), hn::Eq(ay, infinity(d))));
    return hn::IfThenElse(is_one, one, r);
  }
}

// x - y floor(x / y) as Python's %: exact, with the sign of y.
template <class D, class V>
HWY_INLINE V remainder(D d, V x, V y) {
  using T = hn::TFromD<D>;
  auto adjust = [&](V r) HWY_ATTR {
    auto wrong =
        hn::Lt(hn::Mul(hn::CopySign(hn::Set(d, T(1)), r), hn::CopySign(hn::Set(d, T(1)), y)), hn::Zero(d));
    V moved = hn::IfThenElse(wrong, hn::Add(r, y), r);
    return hn::IfThenElse(hn::Eq(r, hn::Zero(d)), hn::CopySign(hn::Zero(d), y), moved);
  };
  auto by_lane = [](T a, T b) { return std::fmod(a, b); };
  if constexpr (!kIsFloat<D> || !kHasHalves) {
    return adjust(per_lane(d, by_lane, x, y));
  } else {
    // Quotients below 2^29 times 24 bits are exact in double.
    V r = in_double(
        d,
        [](auto dd, auto a, auto b) HWY_ATTR {
          auto q = hn::Trunc(hn::Div(a, b));
          auto rest = hn::NegMulAdd(q, b, a);
          // q may be 1 too large after rounding: then the rest has the wrong sign.
          auto over = hn::Lt(hn::Mul(hn::CopySign(hn::Set(dd, 1.0), a), rest), hn::Zero(dd));
          return hn::IfThenElse(over, hn::Add(rest, hn::CopySign(b, a)), rest);
        },
        x, y);
    V ax = hn::Abs(x), ay = hn::Abs(y);
    // Also leaves infinities, NaN and y = 0 to libm.
    auto easy = hn::And(hn::And(hn::Lt(ax, hn::Mul(ay, hn::Set(d, 536870912.0f))), hn::Lt(ay, infinity(d))),
                        hn::Gt(ay, hn::Set(d, 1e-30f)));
    if (HWY_UNLIKELY(!hn::AllTrue(d, easy))) r = hn::IfThenElse(easy, r, per_lane(d, by_lane, x, y));
    return adjust(r);
  }
}

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
