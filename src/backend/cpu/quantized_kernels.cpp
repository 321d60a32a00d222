#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/quantized_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "backend/cpu/quantized.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using Codes = QuantizedFormat::Codes;

const hn::ScalableTag<float> df;
const hn::RebindToSigned<decltype(df)> di;
const hn::RebindToUnsigned<decltype(df)> du;
using F = hn::Vec<decltype(df)>;
using U = hn::Vec<decltype(du)>;
constexpr int64_t kLanes = hn::MaxLanes(df);

// Twice the values of E2M1, which are integers.
HWY_ALIGN constexpr int8_t kE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// The values of E4M3 codes, one in each 32-bit lane.
template <class D>
HWY_INLINE hn::Vec<D> from_e4m3(D d, hn::Vec<hn::RebindToUnsigned<D>> code) {
  const hn::RebindToUnsigned<D> u;
  const hn::RebindToSigned<D> i;
  const auto size = hn::And(code, hn::Set(u, 0x7fu));
  const auto normal = hn::BitCast(d, hn::Add(hn::ShiftLeft<20>(size), hn::Set(u, 120u << 23)));
  const auto small = hn::Mul(hn::ConvertTo(d, hn::BitCast(i, size)), hn::Set(d, 0x1p-9f));
  auto value = hn::IfThenElse(hn::RebindMask(d, hn::Lt(hn::BitCast(i, size), hn::Set(i, 8))), small, normal);
  value = hn::IfThenElse(hn::RebindMask(d, hn::Eq(size, hn::Set(u, 0x7fu))),
                         hn::BitCast(d, hn::Set(u, 0x7fc00000u)), value);
  return hn::Or(value, hn::BitCast(d, hn::ShiftLeft<24>(hn::And(code, hn::Set(u, 0x80u)))));
}

// A unit is the fewest whole words that hold whole elements; a lane takes one a step.
template <int kBitsOf, Codes kCodesOf>
struct Format {
  static constexpr int kBits = kBitsOf;
  static constexpr Codes kCodes = kCodesOf;
  static constexpr int kWords = kBits == 3 || kBits == 6 ? 3 : kBits == 5 ? 5 : 1;
  static constexpr int kElements = 32 * kWords / kBits;
  static constexpr int64_t kStep = kElements * kLanes;
};

// The words of one step.
template <class T>
struct Step {
  U w[T::kWords];

  HWY_INLINE explicit Step(const uint32_t* p) {
    if constexpr (T::kWords == 1) {
      w[0] = hn::LoadU(du, p);
    } else if constexpr (T::kWords == 3) {
      hn::LoadInterleaved3(du, p, w[0], w[1], w[2]);
    } else {
      HWY_ALIGN int32_t at[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) at[i] = static_cast<int32_t>(i * T::kWords);
      const auto places = hn::Load(di, at);
      for (int i = 0; i < T::kWords; ++i) w[i] = hn::GatherIndex(du, p + i, places);
    }
    if constexpr (T::kCodes == Codes::e2m1) {
      const hn::Repartition<uint8_t, decltype(du)> bytes;
      const auto table = hn::LoadDup128(bytes, reinterpret_cast<const uint8_t*>(kE2m1));
      const auto nibbles = hn::Set(du, 0x0f0f0f0fu);
      const U even = hn::And(w[0], nibbles), odd = hn::And(hn::ShiftRight<4>(w[0]), nibbles);
      values[0] = hn::BitCast(du, hn::TableLookupBytes(table, hn::BitCast(bytes, even)));
      values[1] = hn::BitCast(du, hn::TableLookupBytes(table, hn::BitCast(bytes, odd)));
    }
  }
  U values[T::kCodes == Codes::e2m1 ? 2 : 1];  // of E2M1: even and odd elements, bytes

  // Element k of each unit; of E2M1 twice its value.
  template <int k>
  HWY_INLINE F element() const {
    if constexpr (T::kCodes == Codes::e2m1) {
      const auto bytes = hn::BitCast(di, values[k % 2]);
      return hn::ConvertTo(df, hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * (k / 2)>(bytes)));
    } else {
      constexpr int bit = k * T::kBits, i = bit / 32, shift = bit % 32;
      U v = shift == 0 ? w[i] : hn::ShiftRight<shift>(w[i]);
      if constexpr (shift + T::kBits > 32) v = hn::Or(v, hn::ShiftLeft<32 - shift>(w[i + 1]));
      if constexpr (shift + T::kBits != 32) v = hn::And(v, hn::Set(du, (1u << T::kBits) - 1));
      if constexpr (T::kCodes == Codes::e4m3) return from_e4m3(df, v);
      return hn::ConvertTo(df, hn::BitCast(di, v));
    }
  }
};

// The words of step `at` of a row: in place, or, of the last one, a copy with zeros behind.
template <class T>
class Reader {
 public:
  explicit Reader(int64_t words) : words_(words), whole_(words / (T::kWords * kLanes)) {
    std::memset(tail_, 0, sizeof tail_);
  }
  HWY_INLINE Step<T> operator()(const uint32_t* row, int64_t at) {
    const int64_t first = at * T::kWords * kLanes;
    if (HWY_LIKELY(at < whole_)) return Step<T>(row + first);
    std::memcpy(tail_, row + first, static_cast<size_t>(words_ - first) * sizeof(uint32_t));
    return Step<T>(tail_);
  }

 private:
  const int64_t words_, whole_;
  HWY_ALIGN uint32_t tail_[T::kWords * kLanes];
};

int64_t steps_of(int64_t words, int64_t per_step) { return (words + per_step - 1) / per_step; }

// A number for each group, as lanes of a step want it.
template <class T>
class ByGroup {
 public:
  explicit ByGroup(int group) : lanes_(group / T::kElements) {
    for (int64_t i = 0; i < kLanes; ++i) place_[i] = static_cast<int32_t>(i / lanes_);
  }
  HWY_INLINE F operator()(const float* numbers, int64_t step) const {
    if (lanes_ >= kLanes) return hn::Set(df, numbers[step * kLanes / lanes_]);
    const F some = hn::LoadU(df, numbers + step * (kLanes / lanes_));
    return hn::TableLookupLanes(some, hn::SetTableIndices(df, place_));
  }

 private:
  const int64_t lanes_;  // of a group
  HWY_ALIGN int32_t place_[kLanes];
};

template <class T>
void interleave(const float* x, int64_t n, float* to) {
  const int64_t steps = (n + T::kStep - 1) / T::kStep;
  for (int64_t s = 0; s < steps; ++s, x += T::kStep, to += T::kStep, n -= T::kStep) {
    if (n >= T::kStep) {
      for (int64_t lane = 0; lane < kLanes; ++lane)
        for (int k = 0; k < T::kElements; ++k) to[k * kLanes + lane] = x[lane * T::kElements + k];
    } else {
      std::fill_n(to, T::kStep, 0.0f);
      for (int64_t i = 0; i < n; ++i) to[i % T::kElements * kLanes + i / T::kElements] = x[i];
    }
  }
}

template <class T>
void restore(const float* from, int64_t n, float* x) {
  for (int64_t i = 0; i < n; ++i) {
    const int64_t in = i % T::kStep;
    x[i] = from[i - in + in % T::kElements * kLanes + in / T::kElements];
  }
}

// sum[i] += the elements of a step times those of row i of x.
template <class T, int kCount, int k = 0>
HWY_INLINE void multiply_step(const Step<T>& step, const float* x, int64_t x_apart, F* sum) {
  if constexpr (k < T::kElements) {
    const F value = step.template element<k>();
    for (int i = 0; i < kCount; ++i)
      sum[i] = hn::MulAdd(value, hn::LoadU(df, x + i * x_apart + k * kLanes), sum[i]);
    multiply_step<T, kCount, k + 1>(step, x, x_apart, sum);
  }
}

// kRows rows of w with kCount rows of x.
template <class T, int kRows, int kCount>
HWY_INLINE void dots(const QuantizedFormat& f, const uint32_t* w, int64_t words, const float* scales,
                     const float* biases, int64_t apart, const float* x, int64_t x_apart, const float* sums,
                     float* out, int64_t stride) {
  Reader<T> read(words);
  const ByGroup<T> by_group(f.group);
  F total[kRows][kCount];
  for (auto& row : total)
    for (auto& t : row) t = hn::Zero(df);
  const int64_t steps = steps_of(words, T::kWords * kLanes);
  for (int64_t s = 0; s < steps; ++s, x += T::kStep) {
    F sum[kRows][kCount];
    for (auto& row : sum)
      for (auto& t : row) t = hn::Zero(df);
    for (int r = 0; r < kRows; ++r) multiply_step<T, kCount>(read(w + r * words, s), x, x_apart, sum[r]);
    for (int r = 0; r < kRows; ++r) {
      const F scale = by_group(scales + r * apart, s);
      for (int i = 0; i < kCount; ++i) total[r][i] = hn::MulAdd(sum[r][i], scale, total[r][i]);
    }
  }
  const float unit = T::kCodes == Codes::e2m1 ? 0.5f : 1.0f;
  const int64_t groups = words * 32 / T::kBits / f.group;
  for (int r = 0; r < kRows; ++r)
    for (int i = 0; i < kCount; ++i) {
      F sum_of_biases = hn::Zero(df);
      if (biases)  // behind the last group both are zero
        for (int64_t g = 0; g < groups; g += kLanes)
          sum_of_biases = hn::MulAdd(hn::LoadU(df, biases + r * apart + g),
                                     hn::LoadU(df, sums + i * apart + g), sum_of_biases);
      const F all = hn::MulAdd(total[r][i], hn::Set(df, unit), sum_of_biases);
      out[i * stride + r] = hn::GetLane(hn::SumOfLanes(df, all));
    }
}

constexpr int kMostRows = HWY_TARGET == HWY_AVX3 ? 4 : 3;

// Any number of rows of w with kCount rows of x.
template <class T, int kCount>
void dots_of_rows(const QuantizedFormat& f, const uint32_t* w, int64_t words, int rows, const float* scales,
                  const float* biases, int64_t apart, const float* x, int64_t x_apart, const float* sums,
                  float* out, int64_t stride) {
  int r = 0;
  for (; r + 2 <= rows; r += 2)
    dots<T, 2, kCount>(f, w + r * words, words, scales + r * apart, biases ? biases + r * apart : nullptr,
                       apart, x, x_apart, sums, out + r, stride);
  if (r < rows)
    dots<T, 1, kCount>(f, w + r * words, words, scales + r * apart, biases ? biases + r * apart : nullptr,
                       apart, x, x_apart, sums, out + r, stride);
}

template <class T>
void dot(const QuantizedFormat& f, const uint32_t* w, int64_t words, int rows, const float* scales,
         const float* biases, int64_t apart, const float* x, int64_t x_apart, const float* sums,
         int64_t count, float* out, int64_t stride) {
  if (rows == 4 && count == 1)
    return dots<T, 4, 1>(f, w, words, scales, biases, apart, x, x_apart, sums, out, stride);
  constexpr decltype(&dots_of_rows<T, 1>) product[] = {&dots_of_rows<T, 1>, &dots_of_rows<T, 2>,
                                                       &dots_of_rows<T, 3>, &dots_of_rows<T, 4>};
  for (int64_t i = 0; i < count; i += kMostRows) {
    const int64_t n = std::min<int64_t>(kMostRows, count - i);
    product[static_cast<size_t>(n - 1)](f, w, words, rows, scales, biases, apart, x + i * x_apart, x_apart,
                                        sums + i * apart, out + i * stride, stride);
  }
}

template <class T, int k = 0>
HWY_INLINE void store_step(const Step<T>& step, F scale, F bias, float* to) {
  if constexpr (k < T::kElements) {
    hn::StoreU(hn::MulAdd(step.template element<k>(), scale, bias), df, to + k * kLanes);
    store_step<T, k + 1>(step, scale, bias, to);
  }
}

template <class T>
void unpack(const QuantizedFormat& f, const uint32_t* row, int64_t words, const float* scales,
            const float* biases, int64_t begin, int64_t end, float* to) {
  Reader<T> read(words);
  const ByGroup<T> by_group(f.group);
  const F unit = hn::Set(df, T::kCodes == Codes::e2m1 ? 0.5f : 1.0f);
  for (int64_t s = begin; s < end; ++s, to += T::kStep) {
    const F scale = hn::Mul(by_group(scales, s), unit), bias = biases ? by_group(biases, s) : hn::Zero(df);
    store_step<T>(read(row, s), scale, bias, to);
  }
}

// Eight elements at a time, which are whole bytes in every format, so that they come out in order.
template <class T>
class Octet {
  using Tag = hn::CappedTag<float, 8>;
  using TagU = hn::RebindToUnsigned<Tag>;
  using Word = std::conditional_t<T::kBits <= 4, uint32_t, uint64_t>;
  static constexpr int kWidth = hn::MaxLanes(Tag());
  static constexpr bool kOneWord = T::kBits <= 4 && kWidth == 8;  // else four elements share 32 bits

 public:
  // Of a row that ends at `end` and has at least a Word: bytes behind it are not read.
  static HWY_INLINE void expand(const uint8_t* from, const uint8_t* end, float scale, float bias, float* to) {
    const Tag d;
    const TagU u;
    for (int part = 0; part < 8; part += kWidth) {
      hn::Vec<TagU> codes;
      if constexpr (T::kBits == 8) {
        codes = hn::PromoteTo(u, hn::LoadU(hn::Rebind<uint8_t, Tag>(), from + part));
      } else {
        const Word w = read(from, end);
        if constexpr (kOneWord)
          codes = hn::Set(u, w);
        else if constexpr (kWidth == 8)
          codes = hn::Combine(u, hn::Set(hn::Half<TagU>(), static_cast<uint32_t>(w >> 4 * T::kBits)),
                              hn::Set(hn::Half<TagU>(), static_cast<uint32_t>(w)));
        else
          codes = hn::Set(u, static_cast<uint32_t>(w >> part * T::kBits));
        const auto place = hn::And(hn::Iota(u, 0), hn::Set(u, kOneWord ? 7u : 3u));
        codes = hn::And(hn::Shr(codes, hn::Mul(place, hn::Set(u, uint32_t{T::kBits}))),
                        hn::Set(u, (1u << T::kBits) - 1));
      }
      hn::StoreU(hn::MulAdd(values(codes), hn::Set(d, scale), hn::Set(d, bias)), d, to + part);
    }
  }

 private:
  static HWY_INLINE Word read(const uint8_t* from, const uint8_t* end) {
    Word w;
    const std::ptrdiff_t left = end - from;
    if (HWY_LIKELY(left >= std::ptrdiff_t{sizeof w})) {
      std::memcpy(&w, from, sizeof w);
      return w;
    }
    std::memcpy(&w, end - sizeof w, sizeof w);
    return w >> 8 * (std::ptrdiff_t{sizeof w} - left);
  }
  // Of E2M1 twice the values.
  static HWY_INLINE hn::Vec<Tag> values(hn::Vec<TagU> codes) {
    const Tag d;
    const hn::RebindToSigned<Tag> i;
    if constexpr (T::kCodes == Codes::e4m3) return from_e4m3(d, codes);
    if constexpr (T::kCodes == Codes::e2m1) {
      const hn::Repartition<uint8_t, Tag> bytes;
      const auto table = hn::LoadDup128(bytes, reinterpret_cast<const uint8_t*>(kE2m1));
      const auto found = hn::BitCast(i, hn::TableLookupBytes(table, hn::BitCast(bytes, codes)));
      return hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeft<24>(found)));
    }
    return hn::ConvertTo(d, hn::BitCast(i, codes));
  }
};

template <class T>
void expand(const QuantizedFormat& f, const uint32_t* w, int64_t words, int64_t rows, int64_t columns,
            const float* scales, const float* biases, float* to) {
  const float unit = T::kCodes == Codes::e2m1 ? 0.5f : 1.0f;
  for (int64_t r = 0; r < rows; ++r, w += words) {
    const auto* from = reinterpret_cast<const uint8_t*>(w);
    const uint8_t* end = from + columns * T::kBits / 8;
    for (int64_t done = 0; done < columns; done += f.group) {
      const float scale = *scales++ * unit, bias = biases ? *biases++ : 0.0f;
      for (int i = 0; i < f.group; i += 8, from += T::kBits, to += 8)
        Octet<T>::expand(from, end, scale, bias, to);
    }
  }
}

// y[k] += the elements k of the steps, times their scales, and the biases.
template <class T, int k, class... S>
HWY_INLINE void add_steps(const F* scale, F bias, float* y, const S&... steps) {
  if constexpr (k < T::kElements) {
    F sum = hn::Add(hn::LoadU(df, y + k * kLanes), bias);
    int r = 0;
    ((sum = hn::MulAdd(steps.template element<k>(), scale[r++], sum)), ...);
    hn::StoreU(sum, df, y + k * kLanes);
    add_steps<T, k + 1>(scale, bias, y, steps...);
  }
}

template <class T, int kRows>
HWY_INLINE void add_some(const QuantizedFormat& f, const uint32_t* w, int64_t words, const float* scales,
                         const float* biases, int64_t apart, const float* x, int64_t begin, int64_t end,
                         float* y) {
  Reader<T> read(words);
  const ByGroup<T> by_group(f.group);
  for (int64_t s = begin; s < end; ++s, y += T::kStep) {
    F scale[kRows], bias = hn::Zero(df);
    for (int r = 0; r < kRows; ++r) {
      const float factor = x[r] * (T::kCodes == Codes::e2m1 ? 0.5f : 1.0f);
      scale[r] = hn::Mul(by_group(scales + r * apart, s), hn::Set(df, factor));
      if (biases) bias = hn::MulAdd(by_group(biases + r * apart, s), hn::Set(df, x[r]), bias);
    }
    if constexpr (kRows == 4)
      add_steps<T, 0>(scale, bias, y, read(w, s), read(w + words, s), read(w + 2 * words, s),
                      read(w + 3 * words, s));
    else
      add_steps<T, 0>(scale, bias, y, read(w, s));
  }
}

template <class T>
void add_rows(const QuantizedFormat& f, const uint32_t* w, int64_t words, int rows, const float* scales,
              const float* biases, int64_t apart, const float* x, int64_t begin, int64_t end, float* y) {
  if (rows == 4) return add_some<T, 4>(f, w, words, scales, biases, apart, x, begin, end, y);
  for (int r = 0; r < rows; ++r)
    add_some<T, 1>(f, w + r * words, words, scales + r * apart, biases ? biases + r * apart : nullptr, apart,
                   x + r, begin, end, y);
}

template <int kBits, Codes kCodes>
const QuantizedKernels* kernels() {
  using T = Format<kBits, kCodes>;
  static const QuantizedKernels k{T::kStep, kLanes,     &interleave<T>, &restore<T>,
                                  &dot<T>,  &unpack<T>, &expand<T>,     &add_rows<T>};
  return &k;
}

const QuantizedKernels* find_kernels(const QuantizedFormat& f) {
  if (f.codes == Codes::e2m1) return kernels<4, Codes::e2m1>();
  if (f.codes == Codes::e4m3) return kernels<8, Codes::e4m3>();
  switch (f.bits) {
    case 1: return kernels<1, Codes::integers>();
    case 2: return kernels<2, Codes::integers>();
    case 3: return kernels<3, Codes::integers>();
    case 4: return kernels<4, Codes::integers>();
    case 5: return kernels<5, Codes::integers>();
    case 6: return kernels<6, Codes::integers>();
    default: return kernels<8, Codes::integers>();
  }
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(find_kernels);
const QuantizedKernels& quantized_kernels(const QuantizedFormat& f) {
  return *HWY_DYNAMIC_DISPATCH(find_kernels)(f);
}
}  // namespace lazuli::cpu
#endif
