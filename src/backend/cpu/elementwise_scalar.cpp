// Rows of the elementwise table over integer, bool and complex lanes, and all predicates: plain
// loops, compiled (and vectorised by the compiler) once per SIMD target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/elementwise_scalar.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/elementwise.h"
#include "backend/cpu/fp8.h"
#include "backend/cpu/lane_math.h"
#include "ops/elementwise.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

using lane::Complex;

template <class F, class T>
void loop1(void* out, const Arg* args, int64_t n) {
  using R = decltype(F()(T()));
  const T* x = static_cast<const T*>(args[0].p);
  R* o = static_cast<R*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = F()(x[i]);
}
template <class F, class T>
void loop2(void* out, const Arg* args, int64_t n) {
  using R = decltype(F()(T(), T()));
  const T* x = static_cast<const T*>(args[0].p);
  const T* y = static_cast<const T*>(args[1].p);
  R* o = static_cast<R*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = F()(x[i], y[i]);
}
template <class T>
void select_loop(void* out, const Arg* args, int64_t n) {
  const uint8_t* c = static_cast<const uint8_t*>(args[0].p);
  const T* x = static_cast<const T*>(args[1].p);
  const T* y = static_cast<const T*>(args[2].p);
  T* o = static_cast<T*>(out);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) o[i] = c[i] ? x[i] : y[i];
}
void to_fp8_loop(void* out, const Arg* args, int64_t n) {
  const float* x = static_cast<const float*>(args[0].p);
  for (int64_t i = 0; i < n; ++i) static_cast<uint8_t*>(out)[i] = fp8_encode(x[i]);
}
void from_fp8_loop(void* out, const Arg* args, int64_t n) {
  const uint8_t* x = static_cast<const uint8_t*>(args[0].p);
  for (int64_t i = 0; i < n; ++i) static_cast<float*>(out)[i] = fp8_decode(x[i]);
}

enum class Types { Any, Number, Real, Inexact, Float, Bits };
enum class Result { Same, Bool, Part };

// Which lanes a row has here: all its lanes but those that elementwise_vector.cpp covers.
template <Types types, Result result, class T>
constexpr bool here() {
  constexpr bool whole = std::integral<T>, is_bool = std::same_as<T, bool>,
                 complex = std::same_as<T, Complex>;
  if (!whole && !complex && result != Result::Bool) return false;
  switch (types) {
    case Types::Any: return true;
    case Types::Number: return !is_bool;
    case Types::Real: return !complex;
    case Types::Inexact: return complex;
    case Types::Float: return false;
    case Types::Bits: return whole;
  }
}

template <class F, Types types, Result result, int kArity, class T>
TileFn instance() {
  if constexpr (!here<types, result, T>())
    return nullptr;
  else if constexpr (kArity == 1)
    return &loop1<F, T>;
  else
    return &loop2<F, T>;
}
template <class F, Types types, Result result, int kArity>
TileFn pick(Lane lane) {
  switch (lane) {
    case Lane::b8: return instance<F, types, result, kArity, bool>();
    case Lane::u8: return instance<F, types, result, kArity, uint8_t>();
    case Lane::u16: return instance<F, types, result, kArity, uint16_t>();
    case Lane::u32: return instance<F, types, result, kArity, uint32_t>();
    case Lane::u64: return instance<F, types, result, kArity, uint64_t>();
    case Lane::i8: return instance<F, types, result, kArity, int8_t>();
    case Lane::i16: return instance<F, types, result, kArity, int16_t>();
    case Lane::i32: return instance<F, types, result, kArity, int32_t>();
    case Lane::i64: return instance<F, types, result, kArity, int64_t>();
    case Lane::f32: return instance<F, types, result, kArity, float>();
    case Lane::f64: return instance<F, types, result, kArity, double>();
    case Lane::c64: return instance<F, types, result, kArity, Complex>();
  }
  return nullptr;
}

// What a row's value converts to: the lane itself, bool, or the real part's type.
template <Result result, class T>
using Out =
    std::conditional_t<result == Result::Bool, bool,
                       std::conditional_t<result == Result::Part && std::same_as<T, Complex>, float, T>>;

#define UNARY(name, types, result, value, ...)           \
  struct name##_row {                                    \
    template <class T>                                   \
    Out<Result::result, T> operator()(T x) const {       \
      using namespace lane;                              \
      return static_cast<Out<Result::result, T>>(value); \
    }                                                    \
  };
#define BINARY(name, types, result, value, ...)          \
  struct name##_row {                                    \
    template <class T>                                   \
    Out<Result::result, T> operator()(T x, T y) const {  \
      using namespace lane;                              \
      return static_cast<Out<Result::result, T>>(value); \
    }                                                    \
  };
#include "ops/elementwise.def"

TileFn find(uint16_t op, Lane lane) {
  switch (static_cast<Op>(op)) {
#define UNARY(name, types, result, ...) \
  case Op::name:                        \
    return pick<name##_row, Types::types, Result::result, 1>(lane);
#define BINARY(name, types, result, ...) \
  case Op::name:                         \
    return pick<name##_row, Types::types, Result::result, 2>(lane);
#include "ops/elementwise.def"
    case Op::select:
      switch (lane_size(lane)) {
        case 1: return &select_loop<uint8_t>;
        case 2: return &select_loop<uint16_t>;
        case 4: return &select_loop<uint32_t>;
        default: return &select_loop<uint64_t>;
      }
    case Op::to_fp8: return &to_fp8_loop;
    case Op::from_fp8: return &from_fp8_loop;
    default: return nullptr;
  }
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(find);
TileFn elementwise_loop(uint16_t op, Lane lane) { return HWY_DYNAMIC_DISPATCH(find)(op, lane); }
}  // namespace lazuli::cpu
#endif
