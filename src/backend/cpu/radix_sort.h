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
#include <utility>
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
      const bool is_nan = Key(bits & Key(~kSign)) > infinity();
      if (equal_zeros && bits == kSign) bits = 0;
      // All bits of negative numbers flip, else the sign alone; a branch would be a coin toss.
      Key flip = static_cast<Key>(-(bits >> (8 * sizeof(Key) - 1))) | kSign;
      Key key = bits ^ flip;
      return is_nan ? static_cast<Key>(~Key(0)) : key;
    }
  }
  static T decode(Key key) {
    if constexpr (std::unsigned_integral<T>)
      return std::bit_cast<T>(key);
    else if constexpr (kInteger)
      return std::bit_cast<T>(static_cast<Key>(key ^ kSign));
    else
      return std::bit_cast<T>(
          static_cast<Key>(key ^ (static_cast<Key>((key >> (8 * sizeof(Key) - 1)) - 1) | kSign)));
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

// Sorts n elements load(0), load(1), ... and calls emit(position, element) for each. Reading counts
// all digits and the last pass emits, so that memory is gone through as seldom as possible.
template <int kBits, class E, class Load, class Emit>
void radix_sort_serial(E* a, E* b, int64_t n, Load&& load, Emit&& emit) {
  using Key = decltype(key_of(*a));
  constexpr int kDigits = (8 * sizeof(Key) + kBits - 1) / kBits;
  constexpr uint32_t kSize = 1u << kBits, kMask = kSize - 1;
  auto digit = [](const E& e, int d) { return static_cast<uint32_t>(key_of(e) >> (d * kBits)) & kMask; };
  thread_local std::vector<uint32_t> counts;
  counts.assign(kDigits * kSize, 0);
  uint32_t* count = counts.data();
  for (int64_t i = 0; i < n; ++i) {
    const E e = load(i);
    a[i] = e;
    for (int d = 0; d < kDigits; ++d) ++count[d * kSize + digit(e, d)];
  }
  int passes[kDigits], last = 0;  // the digits that are not the same everywhere
  for (int d = 0; d < kDigits; ++d) {
    if (count[d * kSize + digit(a[0], d)] == n) continue;
    passes[last++] = d;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < kSize; ++i) sum += std::exchange(count[d * kSize + i], sum);
  }
  if (last-- == 0) {
    for (int64_t i = 0; i < n; ++i) emit(i, a[i]);
    return;
  }
  for (int p = 0; p < last; ++p) {
    const int d = passes[p];
    uint32_t* offset = count + d * kSize;
    for (int64_t i = 0; i < n; ++i) b[offset[digit(a[i], d)]++] = a[i];
    std::swap(a, b);
  }
  const int d = passes[last];
  uint32_t* offset = count + d * kSize;
  for (int64_t i = 0; i < n; ++i) emit(offset[digit(a[i], d)]++, a[i]);
}

// Sorts a[0, n) with every pass split over threads; returns which of a and b holds the result. Chunk c of
// digit v goes after all smaller digits and after the earlier chunks of v.
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

// Calls f(begin, end) for the parts of a row.
template <class F>
void for_parts(int64_t n, bool parallel, F&& f) {
  if (parallel)
    parallel_for(n, 1 << 14, f);
  else
    f(int64_t{0}, n);
}

// Sorts n elements load(0), load(1), ..., stable by key, and calls emit(position, element) for each.
// a and b have room for n; `parallel` uses all threads.
// REQUIRES: Indexed elements are loaded in order of index.
template <class E, class Load, class Emit>
void radix_sort(E* a, E* b, int64_t n, bool parallel, Load&& load, Emit&& emit) {
  using Key = decltype(key_of(*a));
  if (n > 64 && !parallel) {
    if (sizeof(Key) >= 4 && n >= 1024 && n <= 1 << 16) return radix_sort_serial<11>(a, b, n, load, emit);
    return radix_sort_serial<8>(a, b, n, load, emit);
  }
  for_parts(n, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) a[i] = load(i);
  });
  E* sorted = a;
  if (parallel)
    sorted = radix_sort_parallel(a, b, n);
  else
    std::sort(a, a + n);
  for_parts(n, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) emit(i, sorted[i]);
  });
}

}  // namespace lazuli::cpu
