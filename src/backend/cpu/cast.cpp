// Conversions between memory formats, one loop for each pair, compiled per SIMD target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/cast.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <bit>
#include <cstring>
#include <stdexcept>

#include "backend/cpu/elementwise.h"
#include "lazuli/array.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

template <class From, class To>
void cast_loop(void* out, const Arg* args, int64_t n) {
  const From* x = static_cast<const From*>(args[0].p);
  To* o = static_cast<To*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = lazuli::detail::convert<To, From>(x[i]);
}

// Applies f to full vectors of floats, then to a padded copy of the rest.
template <class From, class To, class F>
HWY_INLINE void for_vectors(const void* in, void* out, int64_t n, F f) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const From* x = static_cast<const From*>(in);
  To* o = static_cast<To*>(out);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(d, x + i, o + i);
  if (i == n) return;
  alignas(64) From a[16] = {};
  alignas(64) To r[16];
  std::memcpy(a, x + i, static_cast<size_t>(n - i) * sizeof(From));
  f(d, a, r);
  std::memcpy(o + i, r, static_cast<size_t>(n - i) * sizeof(To));
}

void f16_to_f32(void* out, const Arg* args, int64_t n) {
  for_vectors<hwy::float16_t, float>(args[0].p, out, n, [](auto d, auto* x, float* o) HWY_ATTR {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(hn::Rebind<hwy::float16_t, decltype(d)>(), x)), d, o);
  });
}
void f32_to_f16(void* out, const Arg* args, int64_t n) {
  for_vectors<float, hwy::float16_t>(args[0].p, out, n, [](auto d, const float* x, auto* o) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, decltype(d)> h;
    hn::StoreU(hn::DemoteTo(h, hn::LoadU(d, x)), h, o);
  });
}
void round_f16(void* out, const Arg* args, int64_t n) {
  for_vectors<float, float>(args[0].p, out, n, [](auto d, const float* x, float* o) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, decltype(d)> h;
    hn::StoreU(hn::PromoteTo(d, hn::DemoteTo(h, hn::LoadU(d, x))), d, o);
  });
}

HWY_INLINE uint32_t bf16_bits(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);
  return (u & 0x7fffffffu) > 0x7f800000u ? (u | 0x400000u) : rounded;
}
void bf16_to_f32(void* out, const Arg* args, int64_t n) {
  const uint16_t* x = static_cast<const uint16_t*>(args[0].p);
  uint32_t* o = static_cast<uint32_t*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = uint32_t(x[i]) << 16;
}
void f32_to_bf16(void* out, const Arg* args, int64_t n) {
  const float* x = static_cast<const float*>(args[0].p);
  uint16_t* o = static_cast<uint16_t*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = static_cast<uint16_t>(bf16_bits(x[i]) >> 16);
}
void round_bf16(void* out, const Arg* args, int64_t n) {
  const float* x = static_cast<const float*>(args[0].p);
  uint32_t* o = static_cast<uint32_t*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = bf16_bits(x[i]) & 0xffff0000u;
}

template <class From>
TileFn cast_from(Dtype to) {
  switch (to.val()) {
    case Dtype::Val::bool_: return &cast_loop<From, bool>;
    case Dtype::Val::uint8: return &cast_loop<From, uint8_t>;
    case Dtype::Val::uint16: return &cast_loop<From, uint16_t>;
    case Dtype::Val::uint32: return &cast_loop<From, uint32_t>;
    case Dtype::Val::uint64: return &cast_loop<From, uint64_t>;
    case Dtype::Val::int8: return &cast_loop<From, int8_t>;
    case Dtype::Val::int16: return &cast_loop<From, int16_t>;
    case Dtype::Val::int32: return &cast_loop<From, int32_t>;
    case Dtype::Val::int64: return &cast_loop<From, int64_t>;
    case Dtype::Val::float32: return &cast_loop<From, float>;
    case Dtype::Val::float64: return &cast_loop<From, double>;
    case Dtype::Val::complex64: return &cast_loop<From, complex64_t>;
    default: return nullptr;
  }
}

TileFn find_cast(Dtype from, Dtype to) {
  if (from == float16) return to == float32 ? &f16_to_f32 : nullptr;
  if (from == bfloat16) return to == float32 ? &bf16_to_f32 : nullptr;
  if (to == float16) return from == float32 ? &f32_to_f16 : nullptr;
  if (to == bfloat16) return from == float32 ? &f32_to_bf16 : nullptr;
  return dispatch_dtype(from, [&]<class From>(From) -> TileFn {
    if constexpr (std::same_as<From, float16_t> || std::same_as<From, bfloat16_t>)
      return nullptr;
    else
      return cast_from<From>(to);
  });
}
TileFn find_round(Dtype half) { return half == float16 ? &round_f16 : &round_bf16; }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(find_cast);
HWY_EXPORT(find_round);
TileFn cast_kernel(Dtype from, Dtype to) {
  TileFn f = HWY_DYNAMIC_DISPATCH(find_cast)(from, to);
  if (!f) throw std::logic_error("halves convert from and to float32 only");
  return f;
}
TileFn round_kernel(Dtype half) { return HWY_DYNAMIC_DISPATCH(find_round)(half); }
}  // namespace lazuli::cpu
#endif
