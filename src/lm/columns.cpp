#include "lm/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "lazuli/ops.h"

namespace lazuli::lm {

namespace {

constexpr int64_t kStep = 256;

array positions(const array& a, int64_t begin, int64_t end) {
  if (begin == 0 && end == a.shape(2)) return a;
  Shape start(4, 0), stop = a.shape();
  start[2] = begin;
  stop[2] = end;
  return slice(a, start, stop);
}

// The largest group that divides a head; 0: none.
int group_of(int64_t head_size, int most) {
  for (int group : {128, 64, 32})
    if (group <= most && head_size % group == 0) return group;
  return 0;
}

Dtype scale_dtype(const CacheOptions& o) { return o.dtype == bfloat16 ? float32 : *o.dtype; }

}  // namespace

CacheOptions resolved(const CacheOptions& options, Dtype activations) {
  CacheOptions o = options;
  if (!o.dtype) o.dtype = activations == bfloat16 && o.bits == 0 ? bfloat16 : float16;
  return o;
}

std::optional<std::string> problem_of(const CacheOptions& o) {
  if (o.dtype && o.dtype != float32 && o.dtype != float16 && o.dtype != bfloat16)
    return fmt::format("keys and values are kept as float32, float16 or bfloat16, not {}",
                       dtype_name(*o.dtype));
  if (o.bits != 0 && (o.bits < 2 || o.bits > 8 || o.bits == 7))
    return fmt::format("keys and values have 2, 3, 4, 5, 6 or 8 bits (0: not quantized), not {}", o.bits);
  if (o.group_size != 32 && o.group_size != 64 && o.group_size != 128)
    return fmt::format("groups have 32, 64 or 128 elements, not {}", o.group_size);
  if (o.quantized_after < 0)
    return fmt::format("quantized_after must be 0 or more, not {}", o.quantized_after);
  return std::nullopt;
}

Columns::Columns(const CacheOptions& options) : options_(resolved(options, float32)) {
  if (auto problem = problem_of(options)) throw std::invalid_argument("[make_cache] " + *problem);
}

std::vector<array> Columns::encoded(const array& a) const {
  if (!quantized_) return {astype(a, *options_.dtype)};
  return lazuli::quantize(astype(a, scale_dtype(options_)), group_of(a.shape(3), options_.group_size),
                          options_.bits);
}

void Columns::quantize() {
  if (quantized_) return;
  quantized_ = true;
  std::vector<array> parts;
  for (const array& a : parts_)
    for (array& part : encoded(a)) parts.push_back(std::move(part));
  parts_ = std::move(parts);
}

void Columns::write(const array& keys, const array& values, int64_t begin, int64_t length,
                    int64_t most_room) {
  if (options_.bits != 0) {
    for (const array* a : {&keys, &values})
      if (group_of(a->shape(3), options_.group_size) == 0)
        throw std::invalid_argument(fmt::format(
            "[make_cache] heads of {} features cannot be quantized: groups of 32 elements must divide them",
            a->shape(3)));
    if (length > options_.quantized_after) quantize();
  }
  std::vector<array> news = encoded(keys);
  for (array& part : encoded(values)) news.push_back(std::move(part));

  const int64_t end = begin + keys.shape(2), capacity = empty() ? 0 : parts_[0].shape(2);
  if (end > capacity) {
    const int64_t room = std::max(end, std::min(most_room, (end + kStep - 1) / kStep * kStep)) - capacity;
    std::vector<array> grown;
    for (size_t i = 0; i < news.size(); ++i) {
      Shape shape = news[i].shape();
      shape[2] = room;
      array more = zeros(shape, news[i].dtype());
      grown.push_back(empty() ? more : concatenate({parts_[i], more}, 2));
    }
    parts_ = std::move(grown);
  }
  for (size_t i = 0; i < news.size(); ++i) {
    Shape start(4, 0), stop = parts_[i].shape();
    start[2] = begin;
    stop[2] = end;
    const array all = std::exchange(parts_[i], news[i]);  // the only one left that holds it, once it goes
    parts_[i] = slice_update(all, news[i], start, stop);
  }
}

std::vector<array> Columns::parts(int64_t begin, int64_t end) const {
  std::vector<array> some;
  for (const array& a : parts_) some.push_back(positions(a, begin, end));
  return some;
}

Remembered Columns::first(int64_t n) const {
  const std::vector<array> all = parts(0, n);
  if (!quantized_) return {all[0], all[1]};
  auto column = [&](size_t at) {
    const int64_t head_size = all[at].shape(3) * 32 / options_.bits;
    return fast::QuantizedArray{all[at], all[at + 1], all[at + 2],
                                static_cast<int>(head_size / all[at + 1].shape(3)), options_.bits};
  };
  return {column(0), column(3)};
}

void Columns::set(std::vector<array> parts) { parts_ = std::move(parts); }

std::optional<std::string> Columns::restore(const std::vector<array>& parts, int64_t positions,
                                            int64_t length) {
  const CacheOptions& o = options_;
  const size_t plain = 2, quantized = 6;
  if (positions == 0)
    return parts.empty() ? std::nullopt : std::optional<std::string>("a wrong count of arrays");
  if (parts.size() != plain && (o.bits == 0 || parts.size() != quantized)) return "a wrong count of arrays";
  quantized_ = parts.size() == quantized;
  if (!quantized_ && o.bits != 0 && length > o.quantized_after) return "arrays that should be quantized";
  for (size_t i = 0; i < parts.size(); ++i) {
    const array& a = parts[i];
    const size_t role = quantized_ ? i % 3 : 1;  // words, scales, biases
    const Dtype dtype = !quantized_ ? *o.dtype : role == 0 ? uint32 : scale_dtype(o);
    bool fits = a.ndim() == 4 && a.shape(2) == positions && a.shape(0) == parts[0].shape(0) &&
                a.shape(1) == parts[0].shape(1) && a.dtype() == dtype;
    if (fits && quantized_) {
      const int64_t words = parts[i - role].shape(3), head_size = words * 32 / o.bits;
      const int group = words * 32 % o.bits == 0 ? group_of(head_size, o.group_size) : 0;
      fits = words > 0 && group > 0 && (role == 0 || a.shape(3) == head_size / group);
    }
    if (!fits) return "arrays of a wrong shape or type";
  }
  parts_ = parts;
  return std::nullopt;
}

}  // namespace lazuli::lm
