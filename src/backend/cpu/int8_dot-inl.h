// Groups of packed weights (ops/block_quantized.h has the layout) times 8-bit x, exactly, for each
// instruction set: VNNI, maddubs of 256 and 128 bits, NEON with and without dot products. LAZULI_INT8_DOT
// says that there is one for this target.
#if defined(LAZULI_INT8_DOT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef LAZULI_INT8_DOT_INL_H
#undef LAZULI_INT8_DOT_INL_H
#else
#define LAZULI_INT8_DOT_INL_H
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#undef LAZULI_INT8_DOT
#if HWY_ARCH_X86_64 || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
#define LAZULI_INT8_DOT 1
#else
#define LAZULI_INT8_DOT 0
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

#if LAZULI_INT8_DOT

namespace hn = hwy::HWY_NAMESPACE;

// A number for each of the 8 rows of a tile: one vector of 8, or two of 4.
const hn::CappedTag<float, 8> d_floats;
const hn::RebindToSigned<decltype(d_floats)> d_ints;
const hn::Repartition<uint8_t, decltype(d_floats)> d_bytes;
constexpr int kParts = 8 / static_cast<int>(hn::MaxLanes(d_floats));
using Floats = hn::Vec<decltype(d_floats)>;
using Ints = hn::Vec<decltype(d_ints)>;
using Bytes = hn::Vec<decltype(d_bytes)>;  // 4 columns of the rows of a part

HWY_INLINE Floats load_halves(const uint8_t* p) {
  const hn::Rebind<hwy::float16_t, decltype(d_floats)> d;
  return hn::PromoteTo(d_floats, hn::LoadU(d, reinterpret_cast<const hwy::float16_t*>(p)));
}

#if HWY_TARGET == HWY_AVX3_DL

// sum + the products of four unsigned bytes with four signed ones in each lane. Highway 1.0's list of
// features for this target lacks the one that the intrinsic asks for; it is among those that are looked for
// at run time.
HWY_INLINE __m512i add_products(__m512i sum, __m512i unsigned_, __m512i signed_) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_), "v"(signed_));
  return sum;
}

// A register has 8 columns of the 8 rows.
template <int kBits, int kGroup>
class Group {
  static constexpr int kPairs = kGroup / 8;

 public:
  HWY_INLINE explicit Group(const uint8_t* from) {
    if constexpr (kBits == 4) {
      const __m512i low_nibbles = _mm512_set1_epi8(15);
      for (int v = 0; v < kPairs / 2; ++v) {
        const __m512i both = _mm512_loadu_si512(from + 64 * v);
        w_[v] = _mm512_and_si512(both, low_nibbles);
        w_[v + kPairs / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low_nibbles);
      }
    } else {
      // The instruction takes one factor without sign, so x has 128 added, and 128 w is subtracted.
      less_ = _mm512_setzero_si512();
      for (int v = 0; v < kPairs; ++v) {
        w_[v] = _mm512_loadu_si512(from + 64 * v);
        less_ = add_products(less_, _mm512_set1_epi8(-128), w_[v]);
      }
    }
  }
  // The products of the rows of part `part` with kGroup elements at q.
  HWY_INLINE void times(const int8_t* q, Ints* sums) const {
    const __m512i x = kGroup == 32
                          ? _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)))
                          : _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)));
    const __m512i first = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512i sum = _mm512_setzero_si512();
    for (int v = 0; v < kPairs; ++v) {
      const __m512i four = _mm512_permutexvar_epi32(_mm512_add_epi32(first, _mm512_set1_epi32(2 * v)), x);
      if constexpr (kBits == 4)
        sum = add_products(sum, w_[v], four);
      else
        sum = add_products(sum, _mm512_xor_si512(four, _mm512_set1_epi8(-128)), w_[v]);
    }
    if constexpr (kBits == 8) sum = _mm512_sub_epi32(sum, less_);
    sums[0] = Ints{_mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1))};
  }

 private:
  __m512i w_[kPairs];
  __m512i less_;
};

#else

// Sums of products w * x of 4 columns, one sum for each row of a part. Weights of 4 bits have no sign.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_SSE4

#if HWY_TARGET == HWY_SSE4
HWY_INLINE __m128i multiply_bytes(__m128i unsigned_, __m128i signed_) {
  return _mm_maddubs_epi16(unsigned_, signed_);
}
HWY_INLINE __m128i add_pairs(__m128i v) { return _mm_madd_epi16(v, _mm_set1_epi16(1)); }
HWY_INLINE __m128i magnitude(__m128i v) { return _mm_abs_epi8(v); }
HWY_INLINE __m128i with_sign_of(__m128i v, __m128i of) { return _mm_sign_epi8(v, of); }
HWY_INLINE __m128i add16(__m128i a, __m128i b) { return _mm_add_epi16(a, b); }
HWY_INLINE __m128i add32(__m128i a, __m128i b) { return _mm_add_epi32(a, b); }
#else
HWY_INLINE __m256i multiply_bytes(__m256i unsigned_, __m256i signed_) {
  return _mm256_maddubs_epi16(unsigned_, signed_);
}
HWY_INLINE __m256i add_pairs(__m256i v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }
HWY_INLINE __m256i magnitude(__m256i v) { return _mm256_abs_epi8(v); }
HWY_INLINE __m256i with_sign_of(__m256i v, __m256i of) { return _mm256_sign_epi8(v, of); }
HWY_INLINE __m256i add16(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
HWY_INLINE __m256i add32(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
#endif

template <int kBits>
class Dot {
 public:
  HWY_INLINE Dot() : sum_(hn::Zero(d_ints).raw) {}
  HWY_INLINE void add(Bytes w, Bytes x) {
    if constexpr (kBits == 4)  // 16 bits hold 8 times 2 * 15 * 127
      sum_ = add16(sum_, multiply_bytes(w.raw, x.raw));
    else  // and 2 * 128 * 127
      sum_ = add32(sum_, add_pairs(multiply_bytes(magnitude(w.raw), with_sign_of(x.raw, w.raw))));
  }
  HWY_INLINE Ints plus(const Dot& other) const {
    return Ints{kBits == 4 ? add_pairs(add16(sum_, other.sum_)) : add32(sum_, other.sum_)};
  }

 private:
  decltype(Ints::raw) sum_;
};

#elif defined(__ARM_FEATURE_DOTPROD)

template <int>
class Dot {
 public:
  HWY_INLINE void add(Bytes w, Bytes x) {
    sum_ = vdotq_s32(sum_, vreinterpretq_s8_u8(w.raw), vreinterpretq_s8_u8(x.raw));
  }
  HWY_INLINE Ints plus(const Dot& other) const { return Ints(vaddq_s32(sum_, other.sum_)); }

 private:
  int32x4_t sum_ = vdupq_n_s32(0);
};

#else

template <int>
class Dot {
 public:
  HWY_INLINE void add(Bytes w, Bytes x) {
    const int8x16_t a = vreinterpretq_s8_u8(w.raw), b = vreinterpretq_s8_u8(x.raw);
    first_ = vpadalq_s16(first_, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    second_ = vpadalq_s16(second_, vmull_high_s8(a, b));
  }
  HWY_INLINE Ints plus(const Dot& other) const {
    return Ints(vpaddq_s32(vaddq_s32(first_, other.first_), vaddq_s32(second_, other.second_)));
  }

 private:
  int32x4_t first_ = vdupq_n_s32(0), second_ = vdupq_n_s32(0);  // two columns each of two rows
};

#endif

// A register has 4 columns of the rows of a part.
template <int kBits, int kGroup>
class Group {
  static constexpr int kSteps = kGroup / 4, kBytes = 32 / kParts;

 public:
  HWY_INLINE explicit Group(const uint8_t* from) {
    for (int part = 0; part < kParts; ++part, from += kBytes) {
      if constexpr (kBits == 4) {
        const auto low_nibbles = hn::Set(d_bytes, 15);
        const hn::Repartition<uint16_t, decltype(d_bytes)> d16;
        for (int v = 0; v < kSteps / 2; ++v) {
          const Bytes both = hn::LoadU(d_bytes, from + 32 * v);
          w_[v][part] = hn::And(both, low_nibbles);
          w_[v + kSteps / 2][part] =
              hn::And(hn::BitCast(d_bytes, hn::ShiftRight<4>(hn::BitCast(d16, both))), low_nibbles);
        }
      } else {
        for (int v = 0; v < kSteps; ++v) w_[v][part] = hn::LoadU(d_bytes, from + 32 * v);
      }
    }
  }
  // sums[part]: the products of the rows of a part with kGroup elements at q.
  HWY_INLINE void times(const int8_t* q, Ints* sums) const {
    Dot<kBits> even[kParts], odd[kParts];
    for (int v = 0; v < kSteps; v += 2)
      for (int part = 0; part < kParts; ++part) {
        even[part].add(w_[v][part], repeat(q + 4 * v));
        odd[part].add(w_[v + 1][part], repeat(q + 4 * v + 4));
      }
    for (int part = 0; part < kParts; ++part) sums[part] = even[part].plus(odd[part]);
  }

 private:
  // Four bytes of x for each row.
  static HWY_INLINE Bytes repeat(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return hn::BitCast(d_bytes, hn::Set(d_ints, four));
  }
  Bytes w_[kSteps][kParts];
};

#endif

#endif  // LAZULI_INT8_DOT

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
