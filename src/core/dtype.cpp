#include "lazuli/dtype.h"

#include <limits>
#include <ostream>
#include <stdexcept>
#include <string>

namespace lazuli {

namespace {

using Val = Dtype::Val;

bool is_unsigned(Dtype t) { return t >= uint8 && t <= uint64; }
bool is_signed(Dtype t) { return t >= int8 && t <= int64; }
bool is_integer(Dtype t) { return is_unsigned(t) || is_signed(t); }
bool is_floating(Dtype t) { return t == float16 || t == bfloat16 || t == float32 || t == float64; }

// The signed type that holds an unsigned one of `size` bytes.
Dtype signed_above(int size) { return size == 1 ? int16 : size == 2 ? int32 : int64; }

// bool < integer < floating < complex.
int rank(Dtype t) { return t == bool_ ? 0 : is_integer(t) ? 1 : is_floating(t) ? 2 : 3; }

}  // namespace

Dtype::Kind kindof(Dtype t) {
  if (t == bool_) return Dtype::Kind::b;
  if (is_unsigned(t)) return Dtype::Kind::u;
  if (is_signed(t)) return Dtype::Kind::i;
  if (t == complex64) return Dtype::Kind::c;
  return t == bfloat16 ? Dtype::Kind::V : Dtype::Kind::f;
}

bool issubdtype(Dtype a, Dtype b) { return a == b; }
bool issubdtype(Dtype::Category, Dtype) { return false; }
bool issubdtype(Dtype a, Dtype::Category b) {
  if (a == bool_) return b == generic;
  auto own = is_unsigned(a)   ? unsignedinteger
             : is_signed(a)   ? signedinteger
             : is_floating(a) ? floating
                              : complexfloating;
  return issubdtype(own, b);
}
bool issubdtype(Dtype::Category a, Dtype::Category b) {
  if (a == b || b == generic) return true;
  if (b == number) return a != generic;
  if (b == integer) return a == signedinteger || a == unsignedinteger;
  if (b == inexact) return a == floating || a == complexfloating;
  return false;
}

Dtype promote_types(Dtype a, Dtype b) {
  if (a == b) return a;
  if (rank(a) < rank(b)) std::swap(a, b);
  if (rank(a) > rank(b)) return a;
  if (rank(a) == 2) {
    if (a == float64 || b == float64) return float64;
    return float32;  // two of float32, float16, bfloat16
  }
  if (is_unsigned(a) == is_unsigned(b)) return a.size() > b.size() ? a : b;
  if (is_signed(a)) std::swap(a, b);  // a unsigned, b signed
  if (a == uint64) return float64;
  return a.size() < b.size() ? b : signed_above(a.size());
}

Dtype weak_type(Dtype array_type, Dtype scalar_type) {
  if (rank(scalar_type) <= rank(array_type)) return array_type;
  switch (rank(scalar_type)) {
    case 1: return scalar_type == int64 || scalar_type == uint64 ? scalar_type : int32;
    case 2: return float32;
    default: return complex64;
  }
}

std::string_view dtype_name(Dtype t) {
  constexpr std::string_view names[kNumDtypes] = {"bool",    "uint8",   "uint16",   "uint32",   "uint64",
                                                  "int8",    "int16",   "int32",    "int64",    "float16",
                                                  "float32", "float64", "bfloat16", "complex64"};
  return names[static_cast<int>(t.val())];
}
std::ostream& operator<<(std::ostream& os, Dtype t) { return os << dtype_name(t); }

finfo::finfo(Dtype dtype) : dtype(dtype) {
  auto set = [this](int b, double largest, double gap, double normal) {
    bits = b, min = -largest, max = largest, eps = gap, smallest_normal = normal;
  };
  switch (dtype.val()) {
    case Val::float16: set(16, 65504, 0x1p-10, 0x1p-14); return;
    case Val::bfloat16: set(16, 0x1.fep127, 0x1p-7, 0x1p-126); return;
    case Val::float64: {
      using L = std::numeric_limits<double>;
      set(64, L::max(), L::epsilon(), L::min());
      return;
    }
    case Val::float32:
    case Val::complex64: {
      using L = std::numeric_limits<float>;
      set(32, L::max(), L::epsilon(), L::min());
      return;
    }
    default:
      throw std::invalid_argument("[finfo] expected a floating dtype, got " + std::string(dtype_name(dtype)));
  }
}

iinfo::iinfo(Dtype dtype) : dtype(dtype) {
  if (!is_integer(dtype))
    throw std::invalid_argument("[iinfo] expected an integer dtype, got " + std::string(dtype_name(dtype)));
  int bits = 8 * dtype.size() - (is_signed(dtype) ? 1 : 0);
  max = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  min = is_signed(dtype) ? -static_cast<int64_t>(max) - 1 : 0;
}

}  // namespace lazuli
