#include "backend/cpu/index_reader.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/index_reader.cpp"
#include <hwy/foreach_target.h>  // compiles this file once for every instruction set
#include <hwy/highway.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "backend/cpu/copy.h"

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu {
namespace HWY_NAMESPACE {

// W is the type to compute in: int32_t, which vectorises better, where it holds everything.
template <class W, bool add, class T>
HWY_INLINE bool offsets_of(const IndexedAxis& a, const T* HWY_RESTRICT indices, int64_t step, int64_t n,
                           int64_t ramp, int64_t* HWY_RESTRICT at) {
  using U = std::make_unsigned_t<W>;
  const U size = static_cast<U>(a.size), limit = static_cast<U>(std::max<int64_t>(a.size - a.extent + 1, 0));
  const W stride = static_cast<W>(a.stride);
  U bad = 0;
  auto one = [&](int64_t i, T index) HWY_ATTR {
    U wrapped = static_cast<U>(index);
    if constexpr (std::is_signed_v<T>) wrapped += index < 0 ? size : 0;
    bad |= static_cast<U>(wrapped >= limit);
    // A bad index may overflow here before it is reported, so a wide product is unsigned.
    int64_t offset;
    if constexpr (sizeof(W) == 4)
      offset = static_cast<int64_t>(static_cast<W>(wrapped)) * stride;
    else
      offset = static_cast<int64_t>(wrapped * static_cast<U>(stride));
    if constexpr (add)
      at[i] = static_cast<int64_t>(static_cast<uint64_t>(at[i]) + static_cast<uint64_t>(offset));
    else
      at[i] = static_cast<int64_t>(static_cast<uint64_t>(i * ramp) + static_cast<uint64_t>(offset));
  };
  if (step == 1)
    for (int64_t i = 0; i < n; ++i) one(i, indices[i]);
  else
    for (int64_t i = 0; i < n; ++i) one(i, indices[i * step]);
  return bad == 0;
}

template <bool add, class T>
bool typed_offsets(const IndexedAxis& a, const void* p, int64_t step, int64_t n, int64_t ramp, int64_t* at) {
  auto* indices = static_cast<const T*>(p);
  bool narrow = sizeof(T) <= 4 && a.size <= INT32_MAX && a.stride == static_cast<int32_t>(a.stride);
  return narrow ? offsets_of<int32_t, add>(a, indices, step, n, ramp, at)
                : offsets_of<int64_t, add>(a, indices, step, n, ramp, at);
}

template <bool add>
bool any_offsets(const IndexedAxis& a, Dtype dtype, const void* p, int64_t step, int64_t n, int64_t ramp,
                 int64_t* at) {
  switch (dtype.val()) {
    case Dtype::Val::uint8: return typed_offsets<add, uint8_t>(a, p, step, n, ramp, at);
    case Dtype::Val::uint16: return typed_offsets<add, uint16_t>(a, p, step, n, ramp, at);
    case Dtype::Val::uint32: return typed_offsets<add, uint32_t>(a, p, step, n, ramp, at);
    case Dtype::Val::uint64: return typed_offsets<add, uint64_t>(a, p, step, n, ramp, at);
    case Dtype::Val::int8: return typed_offsets<add, int8_t>(a, p, step, n, ramp, at);
    case Dtype::Val::int16: return typed_offsets<add, int16_t>(a, p, step, n, ramp, at);
    case Dtype::Val::int32: return typed_offsets<add, int32_t>(a, p, step, n, ramp, at);
    case Dtype::Val::int64: return typed_offsets<add, int64_t>(a, p, step, n, ramp, at);
    default: throw std::invalid_argument("index arrays must have an integer dtype");
  }
}

bool fresh_offsets(const IndexedAxis& a, Dtype t, const void* p, int64_t step, int64_t n, int64_t ramp,
                   int64_t* at) {
  return any_offsets<false>(a, t, p, step, n, ramp, at);
}
bool more_offsets(const IndexedAxis& a, Dtype t, const void* p, int64_t step, int64_t n, int64_t* at) {
  return any_offsets<true>(a, t, p, step, n, 0, at);
}

}  // namespace HWY_NAMESPACE
}  // namespace lazuli::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {

HWY_EXPORT(fresh_offsets);
HWY_EXPORT(more_offsets);

namespace {

// Reports the first index that is out of range; there is one.
[[noreturn]] void fail(const IndexedAxis& a, Dtype dtype, const void* p, int64_t step, int64_t n) {
  dispatch_dtype(dtype, [&]<class T>(T) {
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      for (int64_t i = 0; i < n; ++i) {
        T index = static_cast<const T*>(p)[i * step];
        if (std::cmp_greater_equal(index, -a.size) && std::cmp_less_equal(index, a.size - a.extent) &&
            (index >= T(0) || std::cmp_less_equal(index, -a.extent)))
          continue;
        std::string what = "index " + std::to_string(index) + " is out of range for axis " +
                           std::to_string(a.axis) + " with extent " + std::to_string(a.size);
        if (a.extent != 1) what += " and slices of " + std::to_string(a.extent);
        throw std::out_of_range(what);
      }
    }
  });
  throw std::logic_error("an index changed while it was read");
}

}  // namespace

void IndexedAxis::offsets(Dtype t, const void* p, int64_t step, int64_t n, int64_t ramp, int64_t* at) const {
  if (!HWY_DYNAMIC_DISPATCH(fresh_offsets)(*this, t, p, step, n, ramp, at)) fail(*this, t, p, step, n);
}
void IndexedAxis::add_offsets(Dtype t, const void* p, int64_t step, int64_t n, int64_t* at) const {
  if (!HWY_DYNAMIC_DISPATCH(more_offsets)(*this, t, p, step, n, at)) fail(*this, t, p, step, n);
}

bool even_step(const Shape& shape, const Strides& strides, size_t first, size_t last, int64_t& step) {
  bool found = false;
  int64_t expected = step = 0;
  for (size_t i = last; i-- > first;) {
    if (shape[i] == 1) continue;
    if (!found)
      expected = step = strides[i];
    else if (strides[i] != expected)
      return false;
    expected *= shape[i];
    found = true;
  }
  return true;
}

IndexReader::IndexReader(std::span<const Operand> indices, std::vector<IndexedAxis> axes)
    : axes_(std::move(axes)) {
  for (auto& index : indices) {
    int64_t step;
    bool even = even_step(index.shape, index.strides, 0, index.shape.size(), step);
    sources_.push_back({&index, even, step});
  }
}

void IndexReader::offsets(int64_t begin, int64_t n, int64_t* at) const {
  if (axes_.empty()) std::fill(at, at + n, int64_t{0});
  constexpr int64_t kChunk = 256;
  for (size_t k = 0; k < axes_.size(); ++k) {
    const auto& [index, even, step] = sources_[k];
    auto put = [&](const void* p, int64_t apart, int64_t m, int64_t* to) {
      if (k == 0)
        axes_[k].offsets(index->dtype, p, apart, m, 0, to);
      else
        axes_[k].add_offsets(index->dtype, p, apart, m, to);
    };
    if (even) {
      put(index->as<char>() + begin * step * index->dtype.size(), step, n, at);
      continue;
    }
    alignas(8) char row[kChunk * 8];
    for (int64_t i = 0; i < n; i += kChunk) {
      int64_t m = std::min(kChunk, n - i);
      copy_range(*index, begin + i, m, row);
      put(row, 1, m, at + i);
    }
  }
}

int64_t IndexReader::span() const {
  int64_t out = 1;
  for (auto& a : axes_) out += std::max<int64_t>(a.size - a.extent, 0) * a.stride;
  return out;
}

}  // namespace lazuli::cpu
#endif
