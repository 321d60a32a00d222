// Elements as unsigned keys whose order is the order of sorting, so that kernels are compiled for two sizes
// of keys instead of for every dtype: the counterpart of SortKey in backend/cpu/radix_sort.h.
#pragma once

#include <cstdint>

#include "lazuli/dtype.h"

namespace lazuli::cuda {

// How the elements of a dtype compare. NaN becomes the largest key. -0 comes before 0, or is the same key.
struct Order {
  enum Kind : uint16_t { as_unsigned, as_signed, as_float, as_complex };
  // Without gaps: parameters of kernels are compared by their bytes.
  Kind kind;
  uint16_t bytes;  // of an element
  uint32_t equal_zeros;
  uint64_t infinity;  // of a float, as bits

  Order(Dtype t, bool equal_zeros) : kind(as_float), bytes(t.size()), equal_zeros(equal_zeros), infinity(0) {
    if (t == bool_ || issubdtype(t, unsignedinteger))
      kind = as_unsigned;
    else if (issubdtype(t, signedinteger))
      kind = as_signed;
    else if (t == complex64)
      kind = as_complex, infinity = 0x7f800000;
    else
      infinity = t == float16    ? 0x7c00
                 : t == bfloat16 ? 0x7f80
                 : t == float32  ? 0x7f800000
                                 : 0x7ff0000000000000;
  }
};

template <class Key>
__device__ inline Key float_key(Key bits, Key sign, Key infinity, bool equal_zeros) {
  const Key size = bits & Key(sign - 1), all = sign | Key(sign - 1);
  if (size > infinity) return all;
  if (equal_zeros && size == 0) return sign;
  return bits & sign ? bits ^ all : bits | sign;
}
template <class Key>
__device__ inline Key float_bits(Key key, Key sign) {
  return key & sign ? key ^ sign : key ^ (sign | Key(sign - 1));
}

// Key is uint32_t for elements of up to 4 bytes, which keep to as many bytes of it, uint64_t for those of 8.
template <class Key>
__device__ inline Key encode(Key bits, const Order& o) {
  if (o.kind == Order::as_unsigned) return bits;
  const Key sign = Key(1) << (8 * o.bytes - 1);
  if (o.kind == Order::as_signed) return bits ^ sign;
  if constexpr (sizeof(Key) == 8)
    if (o.kind == Order::as_complex) {
      const uint32_t half = 0x80000000u, infinity = static_cast<uint32_t>(o.infinity);
      // The real part is in memory first, so it is the lower half of the bits.
      return Key(float_key(static_cast<uint32_t>(bits), half, infinity, o.equal_zeros)) << 32 |
             float_key(static_cast<uint32_t>(bits >> 32), half, infinity, o.equal_zeros);
    }
  return float_key(bits, sign, static_cast<Key>(o.infinity), o.equal_zeros);
}
template <class Key>
__device__ inline Key decode(Key key, const Order& o) {
  if (o.kind == Order::as_unsigned) return key;
  const Key sign = Key(1) << (8 * o.bytes - 1);
  if (o.kind == Order::as_signed) return key ^ sign;
  if constexpr (sizeof(Key) == 8)
    if (o.kind == Order::as_complex)
      return Key(float_bits(static_cast<uint32_t>(key), 0x80000000u)) << 32 |
             float_bits(static_cast<uint32_t>(key >> 32), 0x80000000u);
  return float_bits(key, sign);
}

// Elements x[first], x[first + step], ... before x[n] as keys; `past_end` stands for others. All loads are
// under way at once.
template <class Stored, class Key, int kItems>
__device__ inline void load_bits(const void* x, int64_t first, int step, int64_t n, Key (&key)[kItems]) {
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    if (first + int64_t(j) * step < n) key[j] = static_cast<const Stored*>(x)[first + int64_t(j) * step];
}
template <class Key, int kItems>
__device__ inline void load_keys(const void* x, int64_t first, int step, int64_t n, const Order& o,
                                 Key past_end, Key (&key)[kItems]) {
  if constexpr (sizeof(Key) == 8)
    load_bits<uint64_t>(x, first, step, n, key);
  else if (o.bytes == 4)
    load_bits<uint32_t>(x, first, step, n, key);
  else if (o.bytes == 2)
    load_bits<uint16_t>(x, first, step, n, key);
  else
    load_bits<uint8_t>(x, first, step, n, key);
#pragma unroll
  for (int j = 0; j < kItems; ++j) key[j] = first + int64_t(j) * step < n ? encode(key[j], o) : past_end;
}
template <class Key>
__device__ inline Key load_key(const void* x, int64_t i, const Order& o) {
  Key key[1];
  load_keys(x, i, 1, i + 1, o, Key(0), key);
  return key[0];
}
template <class Key>
__device__ inline void store_key(void* y, int64_t i, Key key, const Order& o) {
  const Key bits = decode(key, o);
  if constexpr (sizeof(Key) == 8)
    static_cast<uint64_t*>(y)[i] = bits;
  else if (o.bytes == 4)
    static_cast<uint32_t*>(y)[i] = bits;
  else if (o.bytes == 2)
    static_cast<uint16_t*>(y)[i] = static_cast<uint16_t>(bits);
  else
    static_cast<uint8_t*>(y)[i] = static_cast<uint8_t>(bits);
}

// Calls f(std::type_identity<Key>{}) with the keys of a dtype.
template <class F>
void visit_key(Dtype t, F&& f) {
  if (t.size() == 8)
    f(std::type_identity<uint64_t>{});
  else
    f(std::type_identity<uint32_t>{});
}

}  // namespace lazuli::cuda
