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

// Applies F to vectors; the last, partial one goes through a padded copy. Operands advance by their step.
template <class F, class T, int kArity>
void loop(void* out, const Arg* args, int64_t n) {
  using D = hn::ScalableTag<T>;
  using V = Vec<D>;
  const D d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  T* o = static_cast<T*>(out);
  const T* in[kArity];
  int64_t by[kArity];
  for (int k = 0; k < kArity; ++k) in[k] = static_cast<const T*>(args[k].p), by[k] = args[k].step * lanes;
  auto value = [d](const T* const* at, const int64_t* plus) HWY_ATTR {
    auto operand = [&](int k) HWY_ATTR { return V(hn::LoadU(d, at[k] + plus[k]), 0); };
    if constexpr (kArity == 1)
      return F()(operand(0)).v;
    else if constexpr (kArity == 2)
      return F()(operand(0), operand(1)).v;
    else
      return F()(operand(0), operand(1), operand(2)).v;
  };
  constexpr int64_t kZero[kArity] = {};
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes, o += 2 * lanes) {
    const auto first = value(in, kZero), second = value(in, by);
    hn::StoreU(first, d, o);
    hn::StoreU(second, d, o + lanes);
    for (int k = 0; k < kArity; ++k) in[k] += 2 * by[k];
  }
  if (i + lanes <= n) {
    hn::StoreU(value(in, kZero), d, o);
    for (int k = 0; k < kArity; ++k) in[k] += by[k];
    i += lanes, o += lanes;
  }
  if (i == n) return;
  alignas(64) T rest[kArity][64 / sizeof(T)] = {}, result[64 / sizeof(T)];
  const T* padded[kArity];
  const size_t bytes = static_cast<size_t>(n - i) * sizeof(T);
  for (int k = 0; k < kArity; ++k) std::memcpy(rest[k], in[k], bytes), padded[k] = rest[k];
  hn::Store(value(padded, kZero), d, result);
  std::memcpy(o, result, bytes);
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

// Two arithmetic operations in one pass over memory, each rounded as on its own.
template <class First, class Second, bool kFirstIsLeft>
struct Pair {
  template <class V>
  HWY_INLINE V operator()(V x, V y, V z) const {
    if constexpr (kFirstIsLeft)
      return Second()(First()(x, y), z);
    else
      return Second()(z, First()(x, y));
  }
};
template <class First, bool kFirstIsLeft>
TileFn find_second(Op second) {
  switch (second) {
    case Op::add: return &loop<Pair<First, add_row, kFirstIsLeft>, float, 3>;
    case Op::subtract: return &loop<Pair<First, subtract_row, kFirstIsLeft>, float, 3>;
    case Op::multiply: return &loop<Pair<First, multiply_row, kFirstIsLeft>, float, 3>;
    case Op::divide: return &loop<Pair<First, divide_row, kFirstIsLeft>, float, 3>;
    default: return nullptr;
  }
}
template <bool kFirstIsLeft>
TileFn find_first(Op first, Op second) {
  switch (first) {
    case Op::add: return find_second<add_row, kFirstIsLeft>(second);
    case Op::subtract: return find_second<subtract_row, kFirstIsLeft>(second);
    case Op::multiply: return find_second<multiply_row, kFirstIsLeft>(second);
    case Op::divide: return find_second<divide_row, kFirstIsLeft>(second);
    default: return nullptr;
  }
}
TileFn find_pair(uint16_t first, uint16_t second, bool first_is_left) {
  return first_is_left ? find_first<true>(static_cast<Op>(first), static_cast<Op>(second))
                       : find_first<false>(static_cast<Op>(first), static_cast<Op>(second));
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(find);
HWY_EXPORT(find_pair);
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

TileFn pair_kernel(uint16_t first, uint16_t second, bool first_is_left) {
  return HWY_DYNAMIC_DISPATCH(find_pair)(first, second, first_is_left);
}

const char* simd_target() { return HWY_DYNAMIC_DISPATCH(target_name)(); }
}  // namespace lazuli::cpu
#endif
