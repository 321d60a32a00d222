// Rows of the elementwise table over float lanes, as SIMD vectors.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise_vector.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cstring>

#include "backend/cpu/elementwise.h"
#include "backend/cpu/lane_vec-inl.h"
#include "ops/elementwise.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

// Applies f to vectors; the last, partial one goes through a padded copy.
template <class F, class T, int kArity>
void loop(void* out, const Arg* args, int64_t n) {
  using D = hn::ScalableTag<T>;
  using V = Vec<D>;
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  T* o = static_cast<T*>(out);
  const T* x = static_cast<const T*>(args[0].p);
  const int64_t dx = args[0].step;
  const T* y = kArity > 1 ? static_cast<const T*>(args[1].p) : nullptr;
  const int64_t dy = kArity > 1 ? args[1].step : 0;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    if constexpr (kArity == 1)
      hn::StoreU(F()(V(hn::LoadU(d, x + i * dx), 0)).v, d, o + i);
    else
      hn::StoreU(F()(V(hn::LoadU(d, x + i * dx), 0), V(hn::LoadU(d, y + i * dy), 0)).v, d, o + i);
  }
  if (i == n) return;
  alignas(64) T a[64 / sizeof(T)], b[64 / sizeof(T)], r[64 / sizeof(T)];
  const size_t rest = static_cast<size_t>(n - i) * sizeof(T);
  std::memset(a, 0, sizeof a);
  std::memset(b, 0, sizeof b);
  std::memcpy(a, x + i * dx, rest);
  if constexpr (kArity == 1) {
    hn::Store(F()(V(hn::Load(d, a), 0)).v, d, r);
  } else {
    std::memcpy(b, y + i * dy, rest);
    hn::Store(F()(V(hn::Load(d, a), 0), V(hn::Load(d, b), 0)).v, d, r);
  }
  std::memcpy(o + i, r, rest);
}

enum class Types { Any, Number, Real, Inexact, Float, Bits };
enum class Result { Same, Bool, Part };

template <class F, Types types, Result result, int kArity>
TileFn pick(Lane lane) {
  if constexpr (result == Result::Bool || types == Types::Bits) {
    return nullptr;
  } else {
    if (lane == Lane::f32) return &loop<F, float, kArity>;
#if HWY_HAVE_FLOAT64
    if (lane == Lane::f64) return &loop<F, double, kArity>;
#endif
    return nullptr;
  }
}

#define UNARY(name, types, result, value, ...)                                     \
  struct name##_row {                                                              \
    template <class T>                                                             \
    HWY_INLINE auto operator()(T x) const {                                        \
      if constexpr (Result::result == Result::Bool || Types::types == Types::Bits) \
        return x;                                                                  \
      else                                                                         \
        return LAZULI_VALUE(value);                                                \
    }                                                                              \
  };
#define BINARY(name, types, result, value, ...)                                    \
  struct name##_row {                                                              \
    template <class T>                                                             \
    HWY_INLINE auto operator()(T x, T y) const {                                   \
      if constexpr (Result::result == Result::Bool || Types::types == Types::Bits) \
        return x;                                                                  \
      else                                                                         \
        return LAZULI_VALUE(value);                                                \
    }                                                                              \
  };
#define LAZULI_VALUE(...) (__VA_ARGS__)
#include "ops/elementwise.def"
#undef LAZULI_VALUE

TileFn find(uint16_t op, Lane lane) {
  switch (static_cast<Op>(op)) {
#define UNARY(name, types, result, ...) \
  case Op::name:                        \
    return pick<name##_row, Types::types, Result::result, 1>(lane);
#define BINARY(name, types, result, ...) \
  case Op::name:                         \
    return pick<name##_row, Types::types, Result::result, 2>(lane);
#include "ops/elementwise.def"
    default: return nullptr;
  }
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(find);
HWY_EXPORT(target_name);

TileFn elementwise_loop(uint16_t op, Lane lane);  // elementwise_scalar.cpp

TileKernel elementwise_kernel(uint16_t op, Lane lane) {
  // Found once for each row and lane.
  static TileKernel cache[static_cast<int>(Op::count)][kNumLanes];
  TileKernel& k = cache[op][static_cast<int>(lane)];
  TileFn run = __atomic_load_n(&k.run, __ATOMIC_ACQUIRE);
  if (run) return k;
  TileKernel found{HWY_DYNAMIC_DISPATCH(find)(op, lane), true};
  if (!found.run) found = {elementwise_loop(op, lane), false};
  if (!found.run) throw std::invalid_argument("no kernel for this dtype");
  __atomic_store_n(&k.takes_repeated, found.takes_repeated, __ATOMIC_RELAXED);
  __atomic_store_n(&k.run, found.run, __ATOMIC_RELEASE);
  return found;
}

const char* simd_target() { return HWY_DYNAMIC_DISPATCH(target_name)(); }
}  // namespace lazuli::cpu
#endif
