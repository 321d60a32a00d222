// Threefry-2x32 over vectors, and the floats made from its bits in the same pass.
//
// The n words of a key's array come in pairs: block i of the generator, counters
// (i, i + ceil(n/2)), gives words i and i + ceil(n/2). If n is odd, the middle word is the first
// of the block with counters (n/2, 0).
#include "ops/random.h"

#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/random.cpp"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After highway.h
#include "backend/backend.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {

using DU = hn::ScalableTag<uint32_t>;
using DF = hn::ScalableTag<float>;
using VU = hn::Vec<DU>;
using VF = hn::Vec<DF>;

template <int kLeft>
HWY_INLINE void mix(VU& a, VU& b) {
  a = hn::Add(a, b);
  b = hn::Xor(hn::RotateRight<32 - kLeft>(b), a);
}
template <int r0, int r1, int r2, int r3, class... V>
HWY_INLINE void four_rounds(VU ka, VU kb, uint32_t i, VU& a, VU& b, V&... more) {
  const VU next_b = hn::Add(kb, hn::Set(DU(), i));
  mix<r0>(a, b);
  if constexpr (sizeof...(V) == 2) mix<r0>(more...);
  mix<r1>(a, b);
  if constexpr (sizeof...(V) == 2) mix<r1>(more...);
  mix<r2>(a, b);
  if constexpr (sizeof...(V) == 2) mix<r2>(more...);
  mix<r3>(a, b);
  if constexpr (sizeof...(V) == 2) mix<r3>(more...);
  auto inject = [&](VU& x, VU& y) HWY_ATTR { x = hn::Add(x, ka), y = hn::Add(y, next_b); };
  inject(a, b);
  if constexpr (sizeof...(V) == 2) inject(more...);
}
// The words of blocks with counters (a, b), in place; of two such pairs at once.
template <class... V>
HWY_INLINE void threefry(VU k0, VU k1, VU k2, V&... words) {
  auto start = [&](VU& a, VU& b) HWY_ATTR { a = hn::Add(a, k0), b = hn::Add(b, k1); };
  if constexpr (sizeof...(V) == 2) {
    start(words...);
  } else {
    [&](VU& a, VU& b, VU& c, VU& d) HWY_ATTR { start(a, b), start(c, d); }(words...);
  }
  four_rounds<13, 15, 26, 6>(k1, k2, 1, words...);
  four_rounds<17, 29, 16, 24>(k2, k0, 2, words...);
  four_rounds<13, 15, 26, 6>(k0, k1, 3, words...);
  four_rounds<17, 29, 16, 24>(k1, k2, 4, words...);
  four_rounds<13, 15, 26, 6>(k2, k0, 5, words...);
}

// What becomes of 32 random bits.
struct Bits {
  VU operator()(VU bits) const { return bits; }
};
struct Uniform {
  HWY_INLINE VF operator()(VU bits) const {
    const DF d;
    const hn::RebindToSigned<DF> di;
    // To float with one rounding: both halves are exact.
    VF high = hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<16>(bits)));
    VF low = hn::ConvertTo(d, hn::BitCast(di, hn::And(bits, hn::Set(DU(), 0xffff))));
    VF f = hn::Add(hn::Mul(high, hn::Set(d, 65536.0f)), low);
    return hn::Min(hn::Mul(f, hn::Set(d, 0x1p-32f)), hn::Set(d, 0x1.fffffep-1f));
  }
};
struct Erfinv {
  HWY_INLINE VF operator()(VU bits) const {
    const DF d;
    VF u = Uniform()(bits);
    return erfinv(d, hn::Add(hn::Add(u, u), hn::Set(d, -0x1.fffffep-1f)));
  }
};
struct Normal {
  HWY_INLINE VF operator()(VU bits) const { return hn::Mul(hn::Set(DF(), 1.41421356f), Erfinv()(bits)); }
};

// Blocks [begin, end) of the array of `bytes` bytes at `out`. The words need not be aligned, and
// the last may be cut.
template <class Make>
void blocks(const uint32_t* key, char* out, int64_t bytes, int64_t begin, int64_t end) {
  const DU d;
  using V = decltype(Make()(hn::Zero(DU())));
  using D = hn::DFromV<V>;
  const int64_t lanes = hn::Lanes(d), words = (bytes + 3) / 4, stride = words - words / 2;
  const VU k0 = hn::Set(d, key[0]), k1 = hn::Set(d, key[1]), k2 = hn::Set(d, key[0] ^ key[1] ^ 0x1BD11BDAu);
  auto store = [&](V v, int64_t word, int64_t count) HWY_ATTR {
    int64_t at = 4 * word, size = std::min(4 * count, bytes - at);
    if (size == 4 * lanes) {
      hn::StoreU(v, D(), reinterpret_cast<hn::TFromD<D>*>(out + at));
    } else if (size > 0) {
      alignas(HWY_MAX_BYTES) hn::TFromD<D> buffer[HWY_MAX_BYTES / 4];
      hn::Store(v, D(), buffer);
      std::memcpy(out + at, buffer, size);
    }
  };
  const VU iota = hn::Iota(d, 0), apart = hn::Set(d, static_cast<uint32_t>(stride));
  auto counter = [&](int64_t i) HWY_ATTR { return hn::Add(iota, hn::Set(d, static_cast<uint32_t>(i))); };
  int64_t i = begin;
  // Two at a time: a block is one long chain of dependent instructions.
  for (; i + 2 * lanes <= end; i += 2 * lanes) {
    VU a = counter(i), b = hn::Add(a, apart), a2 = counter(i + lanes), b2 = hn::Add(a2, apart);
    threefry(k0, k1, k2, a, b, a2, b2);
    store(Make()(a), i, lanes);
    store(Make()(a2), i + lanes, lanes);
    store(Make()(b), i + stride, lanes);
    store(Make()(b2), i + lanes + stride, lanes);
  }
  for (; i < end; i += lanes) {
    VU a = counter(i), b = hn::Add(a, apart);
    threefry(k0, k1, k2, a, b);
    int64_t count = std::min(lanes, end - i);
    store(Make()(a), i, count);
    store(Make()(b), i + stride, count);
  }
}
// The middle word of an odd number.
template <class Make>
void middle(const uint32_t* key, char* out, int64_t bytes) {
  const DU d;
  const int64_t words = (bytes + 3) / 4;
  VU a = hn::Set(d, static_cast<uint32_t>(words / 2)), b = hn::Zero(d);
  threefry(hn::Set(d, key[0]), hn::Set(d, key[1]), hn::Set(d, key[0] ^ key[1] ^ 0x1BD11BDAu), a, b);
  auto word = hn::GetLane(Make()(a));
  int64_t at = 4 * (words / 2);
  std::memcpy(out + at, &word, std::min<int64_t>(4, bytes - at));
}

template <class Make>
void generate(const uint32_t* keys, int64_t num_keys, char* out, int64_t bytes) {
  const int64_t words = (bytes + 3) / 4, half = words / 2;
  constexpr int64_t kGrain = 1 << 13;
  // Either one long array after the other, or many short ones at once.
  if (half >= 2 * kGrain || num_keys == 1) {
    for (int64_t k = 0; k < num_keys; ++k) {
      parallel_for(half, kGrain, [&](int64_t begin, int64_t end) {
        blocks<Make>(keys + 2 * k, out + k * bytes, bytes, begin, end);
      });
      if (words % 2) middle<Make>(keys + 2 * k, out + k * bytes, bytes);
    }
  } else {
    parallel_for(num_keys, std::max<int64_t>(1, kGrain / (half + 8)), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        blocks<Make>(keys + 2 * k, out + k * bytes, bytes, 0, half);
        if (words % 2) middle<Make>(keys + 2 * k, out + k * bytes, bytes);
      }
    });
  }
}

void random_bits(const uint32_t* k, int64_t n, char* out, int64_t bytes) { generate<Bits>(k, n, out, bytes); }
void random_uniform(const uint32_t* k, int64_t n, char* out, int64_t bytes) {
  generate<Uniform>(k, n, out, bytes);
}
void random_erfinv(const uint32_t* k, int64_t n, char* out, int64_t bytes) {
  generate<Erfinv>(k, n, out, bytes);
}
void random_normal(const uint32_t* k, int64_t n, char* out, int64_t bytes) {
  generate<Normal>(k, n, out, bytes);
}

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {

HWY_EXPORT(random_bits);
HWY_EXPORT(random_uniform);
HWY_EXPORT(random_erfinv);
HWY_EXPORT(random_normal);

namespace {

template <class F>
void run(const KernelCall& call, F&& f) {
  const Operand& out = call.out[0];
  const int64_t num_keys = call.in[0].size / 2;
  if (out.size)
    f(call.in[0].as<uint32_t>(), num_keys, out.as<char>(), out.size / num_keys * out.dtype.size());
}

void run_bits(const KernelCall& call) { run(call, HWY_DYNAMIC_DISPATCH(random_bits)); }

void run_floats(const KernelCall& call) {
  switch (static_cast<const RandomFloats&>(call.primitive).kind) {
    case RandomFloats::uniform: return run(call, HWY_DYNAMIC_DISPATCH(random_uniform));
    case RandomFloats::erfinv: return run(call, HWY_DYNAMIC_DISPATCH(random_erfinv));
    case RandomFloats::normal: return run(call, HWY_DYNAMIC_DISPATCH(random_normal));
  }
}

}  // namespace

void register_random(KernelTable& t) {
  t.add<RandomBits>({&run_bits, 1, 0});
  t.add<RandomFloats>({&run_floats, 1, 0});
}

}  // namespace lazuli::cpu
#endif
