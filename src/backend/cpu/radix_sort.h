// Stable sorts of unsigned keys, alone or with an index.
//
// Elements become keys whose unsigned order is the order of sorting (`SortKey`), so that every
// dtype shares four radix sorts, by key size. A stable sort has one result only: how the work
// was split cannot be seen.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/cpu/parallel.h"
#include "lazuli/dtype.h"

namespace lazuli::cpu {

// ---- keys

namespace detail {
template <size_t kBytes>
using UnsignedOf = std::conditional_t<
    kBytes == 1, uint8_t,
    std::conditional_t<kBytes == 2, uint16_t, std::conditional_t<kBytes == 4, uint32_t, uint64_t>>>;
}

// encode is monotonic; NaN becomes the largest key. -0 sorts before 0; `equal_zeros` makes
// them one key.
template <class T>
struct SortKey {
  using Key = detail::UnsignedOf<sizeof(T)>;
  static constexpr Key kSign = Key(1) << (8 * sizeof(Key) - 1);
  static constexpr bool kInteger = std::integral<T>;

  static Key infinity() {
    if constexpr (std::same_as<T, float16_t>)
      return 0x7c00;
    else if constexpr (std::same_as<T, bfloat16_t>)
      return 0x7f80;
    else if constexpr (std::same_as<T, float>)
      return 0x7f800000;
    else
      return static_cast<Key>(0x7ff0000000000000);
  }
  template <bool equal_zeros>
  static Key encode(T x) {
    Key bits = std::bit_cast<Key>(x);
    if constexpr (std::unsigned_integral<T>)
      return bits;
    else if constexpr (kInteger)
      return bits ^ kSign;
    else {
      if (Key(bits & Key(~kSign)) > infinity()) return static_cast<Key>(~Key(0));
      if (equal_zeros && bits == kSign) bits = 0;
      return static_cast<Key>(bits & kSign ? ~bits : bits | kSign);
    }
  }
  static T decode(Key key) {
    if constexpr (std::unsigned_integral<T>)
      return std::bit_cast<T>(key);
    else if constexpr (kInteger)
      return std::bit_cast<T>(static_cast<Key>(key ^ kSign));
    else
      return std::bit_cast<T>(static_cast<Key>(key & kSign ? key ^ kSign : ~key));
  }
};
// By real, then by imaginary part.
template <>
struct SortKey<complex64_t> {
  using Key = uint64_t;
  template <bool equal_zeros>
  static Key encode(complex64_t x) {
    return Key(SortKey<float>::encode<equal_zeros>(x.real())) << 32 |
           SortKey<float>::encode<equal_zeros>(x.imag());
  }
  static complex64_t decode(Key key) {
    return {SortKey<float>::decode(static_cast<uint32_t>(key >> 32)),
            SortKey<float>::decode(static_cast<uint32_t>(key))};
  }
};

// A key with the index it came from.
template <class Key>
struct Indexed {
  Key key;
  uint32_t index;
  bool operator<(const Indexed& o) const { return key != o.key ? key < o.key : index < o.index; }
};
template <class Key>
Key key_of(Key k) {
  return k;
}
template <class Key>
Key key_of(const Indexed<Key>& e) {
  return e.key;
}

// ---- sorting

// Memory for one call or one thread, not initialised.
template <class E>
struct SortSpace {
  explicit SortSpace(int64_t n) : a(new E[n]), b(new E[n]) {}
  std::unique_ptr<E[]> a, b;
};

template <int kBits, class E>
E* radix_sort_serial(E* a, E* b, int64_t n) {
  using Key = decltype(key_of(*a));
  constexpr int kDigits = (8 * sizeof(Key) + kBits - 1) / kBits;
  constexpr uint32_t kSize = 1u << kBits, kMask = kSize - 1;
  thread_local std::vector<uint32_t> counts;
  counts.assign(kDigits * kSize, 0);
  uint32_t* count = counts.data();
  for (int64_t i = 0; i < n; ++i) {
    Key k = key_of(a[i]);
    for (int d = 0; d < kDigits; ++d) ++count[d * kSize + (static_cast<uint32_t>(k >> (d * kBits)) & kMask)];
  }
  for (int d = 0; d < kDigits; ++d) {
    uint32_t* offset = count + d * kSize;
    const int shift = d * kBits;
    if (offset[static_cast<uint32_t>(key_of(a[0]) >> shift) & kMask] == n) continue;  // all the same
    uint32_t sum = 0;
    for (uint32_t i = 0; i < kSize; ++i) sum += std::exchange(offset[i], sum);
    for (int64_t i = 0; i < n; ++i) b[offset[static_cast<uint32_t>(key_of(a[i]) >> shift) & kMask]++] = a[i];
    std::swap(a, b);
  }
  return a;
}

// The same with every pass split over threads: chunk c of digit v goes after all smaller
// digits and after the earlier chunks of v.
template <class E>
E* radix_sort_parallel(E* a, E* b, int64_t n) {
  using Key = decltype(key_of(*a));
  const int64_t chunks = num_threads(), chunk = (n + chunks - 1) / chunks;
  std::vector<uint32_t> counts(chunks * 256);
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(Key)); shift += 8) {
    auto digit = [shift](const E& e) { return static_cast<uint32_t>(key_of(e) >> shift) & 255; };
    std::fill(counts.begin(), counts.end(), 0);
    parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int64_t i = c * chunk; i < std::min(n, (c + 1) * chunk); ++i) ++counts[c * 256 + digit(a[i])];
    });
    uint32_t sum = 0, largest = 0;
    for (int v = 0; v < 256; ++v) {
      uint32_t before = sum;
      for (int64_t c = 0; c < chunks; ++c) sum += std::exchange(counts[c * 256 + v], sum);
      largest = std::max(largest, sum - before);
    }
    if (largest == n) continue;
    parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int64_t i = c * chunk; i < std::min(n, (c + 1) * chunk); ++i)
          b[counts[c * 256 + digit(a[i])]++] = a[i];
    });
    std::swap(a, b);
  }
  return a;
}

inline constexpr int64_t kSortInParallel = 1 << 17;  // elements of one row

// Sorts a[0, n), stable by key; b is as large. Returns which of the two holds the result.
// REQUIRES: Indexed elements come in order of index.
template <class E>
E* radix_sort(E* a, E* b, int64_t n, bool parallel) {
  using Key = decltype(key_of(*a));
  if (n <= 64) {
    std::sort(a, a + n);
    return a;
  }
  if (parallel && n >= kSortInParallel) return radix_sort_parallel(a, b, n);
  if (sizeof(Key) >= 4 && n >= 1024 && n <= 1 << 16) return radix_sort_serial<11>(a, b, n);
  return radix_sort_serial<8>(a, b, n);
}

}  // namespace lazuli::cpu
