#include "backend/cpu/index_reader.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "backend/cpu/copy.h"

namespace lazuli::cpu {

namespace {

template <class T>
void add_typed(const IndexedAxis& a, const T* indices, int64_t step, int64_t n, int64_t* at) {
  const auto limit = static_cast<uint64_t>(std::max<int64_t>(a.size - a.extent + 1, 0));
  bool bad = false;
  for (int64_t i = 0; i < n; ++i) {
    auto index = static_cast<uint64_t>(indices[i * step]);
    if constexpr (std::is_signed_v<T>) index += indices[i * step] < 0 ? static_cast<uint64_t>(a.size) : 0;
    bad |= index >= limit;
    // Unsigned: a bad index may overflow before it is reported.
    at[i] = static_cast<int64_t>(static_cast<uint64_t>(at[i]) + index * static_cast<uint64_t>(a.stride));
  }
  if (!bad) return;
  for (int64_t i = 0; i < n; ++i) {
    auto index = static_cast<uint64_t>(indices[i * step]);
    if constexpr (std::is_signed_v<T>) index += indices[i * step] < 0 ? static_cast<uint64_t>(a.size) : 0;
    if (index < limit) continue;
    std::string what = "index " + std::to_string(indices[i * step]) + " is out of range for axis " +
                       std::to_string(a.axis) + " with extent " + std::to_string(a.size);
    if (a.extent != 1) what += " and slices of " + std::to_string(a.extent);
    throw std::out_of_range(what);
  }
}

// Elements apart in row-major order, if that is one number.
bool single_step(const Operand& o, int64_t& step) {
  bool first = true;
  int64_t expected = step = 0;
  for (size_t i = o.shape.size(); i-- > 0;) {
    if (o.shape[i] == 1) continue;
    if (first)
      expected = step = o.strides[i];
    else if (o.strides[i] != expected)
      return false;
    expected *= o.shape[i];
    first = false;
  }
  return true;
}

}  // namespace

void IndexedAxis::add_offsets(Dtype dtype, const void* p, int64_t step, int64_t n, int64_t* at) const {
  switch (dtype.val()) {
    case Dtype::Val::uint8: return add_typed(*this, static_cast<const uint8_t*>(p), step, n, at);
    case Dtype::Val::uint16: return add_typed(*this, static_cast<const uint16_t*>(p), step, n, at);
    case Dtype::Val::uint32: return add_typed(*this, static_cast<const uint32_t*>(p), step, n, at);
    case Dtype::Val::uint64: return add_typed(*this, static_cast<const uint64_t*>(p), step, n, at);
    case Dtype::Val::int8: return add_typed(*this, static_cast<const int8_t*>(p), step, n, at);
    case Dtype::Val::int16: return add_typed(*this, static_cast<const int16_t*>(p), step, n, at);
    case Dtype::Val::int32: return add_typed(*this, static_cast<const int32_t*>(p), step, n, at);
    case Dtype::Val::int64: return add_typed(*this, static_cast<const int64_t*>(p), step, n, at);
    default: throw std::invalid_argument("index arrays must have an integer dtype");
  }
}

IndexReader::IndexReader(std::span<const Operand> indices, std::vector<IndexedAxis> axes)
    : indices_(indices), axes_(std::move(axes)) {}

void IndexReader::offsets(int64_t begin, int64_t n, int64_t* at) const {
  std::fill(at, at + n, int64_t{0});
  constexpr int64_t kChunk = 256;
  for (size_t k = 0; k < axes_.size(); ++k) {
    const Operand& index = indices_[k];
    int64_t step;
    if (single_step(index, step)) {
      const char* first = index.as<char>() + begin * step * index.dtype.size();
      axes_[k].add_offsets(index.dtype, first, step, n, at);
      continue;
    }
    alignas(8) char row[kChunk * 8];
    for (int64_t i = 0; i < n; i += kChunk) {
      int64_t m = std::min(kChunk, n - i);
      copy_range(index, begin + i, m, row);
      axes_[k].add_offsets(index.dtype, row, 1, m, at + i);
    }
  }
}

int64_t IndexReader::span() const {
  int64_t out = 1;
  for (auto& a : axes_) out += std::max<int64_t>(a.size - a.extent, 0) * a.stride;
  return out;
}

}  // namespace lazuli::cpu
