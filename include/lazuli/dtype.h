// Element types of arrays, their categories, and the rules for mixing them.
//
// The 14 types and their names are MLX's. Promotion follows JAX and MLX with one
// exception, documented at `promote_types`.
#pragma once

#include <complex>
#include <concepts>
#include <cstdint>
#include <iosfwd>
#include <string_view>

#include "lazuli/half.h"

namespace lazuli {

using complex64_t = std::complex<float>;

struct Dtype {
  enum class Val : uint8_t {
    bool_,
    uint8,
    uint16,
    uint32,
    uint64,
    int8,
    int16,
    int32,
    int64,
    float16,
    float32,
    float64,
    bfloat16,
    complex64,
  };
  enum class Kind { b, u, i, f, c, V };  // V is bfloat16, as in NumPy's ml_dtypes
  enum class Category {
    complexfloating,
    floating,
    inexact,
    signedinteger,
    unsignedinteger,
    integer,
    number,
    generic
  };

  constexpr Dtype(Val val, uint8_t size) : val_(val), size_(size) {}
  constexpr operator Val() const { return val_; }
  constexpr Val val() const { return val_; }
  constexpr uint8_t size() const { return size_; }

 private:
  Val val_;
  uint8_t size_;
};

inline constexpr int kNumDtypes = 14;

inline constexpr Dtype bool_{Dtype::Val::bool_, 1};
inline constexpr Dtype uint8{Dtype::Val::uint8, 1};
inline constexpr Dtype uint16{Dtype::Val::uint16, 2};
inline constexpr Dtype uint32{Dtype::Val::uint32, 4};
inline constexpr Dtype uint64{Dtype::Val::uint64, 8};
inline constexpr Dtype int8{Dtype::Val::int8, 1};
inline constexpr Dtype int16{Dtype::Val::int16, 2};
inline constexpr Dtype int32{Dtype::Val::int32, 4};
inline constexpr Dtype int64{Dtype::Val::int64, 8};
inline constexpr Dtype float16{Dtype::Val::float16, 2};
inline constexpr Dtype float32{Dtype::Val::float32, 4};
inline constexpr Dtype float64{Dtype::Val::float64, 8};
inline constexpr Dtype bfloat16{Dtype::Val::bfloat16, 2};
inline constexpr Dtype complex64{Dtype::Val::complex64, 8};

inline constexpr auto complexfloating = Dtype::Category::complexfloating;
inline constexpr auto floating = Dtype::Category::floating;
inline constexpr auto inexact = Dtype::Category::inexact;
inline constexpr auto signedinteger = Dtype::Category::signedinteger;
inline constexpr auto unsignedinteger = Dtype::Category::unsignedinteger;
inline constexpr auto integer = Dtype::Category::integer;
inline constexpr auto number = Dtype::Category::number;
inline constexpr auto generic = Dtype::Category::generic;

// All dtypes in the order of Dtype::Val.
inline constexpr Dtype kAllDtypes[kNumDtypes] = {bool_,   uint8,   uint16,   uint32,   uint64,
                                                 int8,    int16,   int32,    int64,    float16,
                                                 float32, float64, bfloat16, complex64};

inline constexpr uint8_t size_of(Dtype t) { return t.size(); }
Dtype::Kind kindof(Dtype t);

bool issubdtype(Dtype a, Dtype b);
bool issubdtype(Dtype::Category a, Dtype b);
bool issubdtype(Dtype a, Dtype::Category b);
bool issubdtype(Dtype::Category a, Dtype::Category b);

// The type that holds values of both. Symmetric and associative enough for folds.
//
// Differs from MLX in one trap: uint64 with a signed integer gives float64 here, as in
// NumPy, where MLX gives float32 and silently loses every value above 2^24. float64
// with complex64 gives complex64, because there is no complex128.
Dtype promote_types(Dtype a, Dtype b);

// "float32", "bool", ...
std::string_view dtype_name(Dtype t);
std::ostream& operator<<(std::ostream& os, Dtype t);

// Limits of a floating type: `eps` is the gap after 1.
struct finfo {
  explicit finfo(Dtype dtype);  // throws std::invalid_argument unless floating or complex
  Dtype dtype;
  int bits;
  double min, max, eps, smallest_normal;
};

// Limits of an integer type.
struct iinfo {
  explicit iinfo(Dtype dtype);  // throws std::invalid_argument unless integer
  Dtype dtype;
  int64_t min;
  uint64_t max;
};

// C++ types that can be elements of an array.
template <class T>
struct TypeToDtype;  // has `static constexpr Dtype value`
#define LAZULI_ELEMENT(T, D)                           \
  template <>                                          \
  struct TypeToDtype<T> {                              \
    static constexpr Dtype value = D;                  \
    constexpr operator Dtype() const { return value; } \
  };
LAZULI_ELEMENT(bool, bool_)
LAZULI_ELEMENT(uint8_t, uint8)
LAZULI_ELEMENT(uint16_t, uint16)
LAZULI_ELEMENT(uint32_t, uint32)
LAZULI_ELEMENT(unsigned long, uint64)
LAZULI_ELEMENT(unsigned long long, uint64)
LAZULI_ELEMENT(int8_t, int8)
LAZULI_ELEMENT(int16_t, int16)
LAZULI_ELEMENT(int32_t, int32)
LAZULI_ELEMENT(long, int64)
LAZULI_ELEMENT(long long, int64)
LAZULI_ELEMENT(float16_t, float16)
LAZULI_ELEMENT(bfloat16_t, bfloat16)
LAZULI_ELEMENT(float, float32)
LAZULI_ELEMENT(double, float64)
LAZULI_ELEMENT(complex64_t, complex64)
#undef LAZULI_ELEMENT

template <class T>
concept Element = requires {
  TypeToDtype<T>::value;
};

// Element types that C++ code writes as plain numbers; weak in mixed arithmetic.
template <class T>
concept Scalar = Element<T>;

// The type of `a op x` for an array type `a` and a C++ scalar x of type T: the array's
// own type unless the scalar is of a higher kind (bool < integer < float < complex).
// float16 with 1.0 stays float16; int32 with 1.5 becomes float32.
Dtype weak_type(Dtype array_type, Dtype scalar_type);

// Calls f with a value of the C++ type that stores elements of dtype t.
template <class F>
decltype(auto) dispatch_dtype(Dtype t, F&& f) {
  switch (t.val()) {
    case Dtype::Val::bool_: return f(bool{});
    case Dtype::Val::uint8: return f(uint8_t{});
    case Dtype::Val::uint16: return f(uint16_t{});
    case Dtype::Val::uint32: return f(uint32_t{});
    case Dtype::Val::uint64: return f(uint64_t{});
    case Dtype::Val::int8: return f(int8_t{});
    case Dtype::Val::int16: return f(int16_t{});
    case Dtype::Val::int32: return f(int32_t{});
    case Dtype::Val::int64: return f(int64_t{});
    case Dtype::Val::float16: return f(float16_t{});
    case Dtype::Val::float32: return f(float{});
    case Dtype::Val::float64: return f(double{});
    case Dtype::Val::bfloat16: return f(bfloat16_t{});
    case Dtype::Val::complex64: break;
  }
  return f(complex64_t{});
}

}  // namespace lazuli
