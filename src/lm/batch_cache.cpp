#include "lm/batch_cache.h"

#include <algorithm>

#include "lazuli/ops.h"
#include "lm/attention.h"

namespace lazuli::lm {

namespace {

// With columns of padding in front.
array padded(const array& a, int64_t n) {
  return n == 0 ? a : pad(a, {{0, 0}, {0, 0}, {n, 0}, {0, 0}}, zeros({}, a.dtype()));
}

}  // namespace

array BatchCache::attend(const array& q, const array& k, const array& v, const AttentionOptions& options) {
  const int64_t end = length_ + k.shape(2);
  if (columns_.empty()) padding_.assign(static_cast<size_t>(k.shape(0)), 0);
  columns_.write(k, v, length_, end);
  length_ = end;
  std::optional<array> mask;
  if (std::any_of(padding_.begin(), padding_.end(), [](int64_t p) { return p > 0; })) {
    array first = array(padding_.data(), {std::ssize(padding_), 1, 1, 1}, int64);
    mask = greater_equal(arange(0.0, static_cast<double>(end), int64), first);
  }
  return lm::attend(q, columns_.first(end), options, mask);
}

Position BatchCache::position() const {
  if (std::all_of(padding_.begin(), padding_.end(), [&](int64_t p) { return p == padding_[0]; }))
    return length_ - (padding_.empty() ? 0 : padding_[0]);
  std::vector<int64_t> at;
  for (int64_t p : padding_) at.push_back(length_ - p);
  return array(at.data(), {std::ssize(at)}, int64);
}

KVCache::State BatchCache::state() const {
  State s{"batch", columns_.options(), {length_}, columns_.parts(0, length_)};
  s.numbers.insert(s.numbers.end(), padding_.begin(), padding_.end());
  return s;
}

void BatchCache::join(const BatchCache& other) {
  if (other.columns_.empty()) return;
  if (columns_.empty()) {
    *this = other;
    return;
  }
  Columns joining = other.columns_;
  if (columns_.quantized() || joining.quantized()) columns_.quantize(), joining.quantize();
  const int64_t end = std::max(length_, other.length_);
  std::vector<array> mine = columns_.parts(0, length_), theirs = joining.parts(0, other.length_), all;
  for (size_t i = 0; i < mine.size(); ++i)
    all.push_back(concatenate({padded(mine[i], end - length_), padded(theirs[i], end - other.length_)}, 0));
  columns_.set(std::move(all));
  for (int64_t& p : padding_) p += end - length_;
  for (int64_t p : other.padding_) padding_.push_back(p + end - other.length_);
  length_ = end;
}

void BatchCache::keep(const std::vector<int64_t>& rows) {
  if (rows.empty()) {
    clear();
    return;
  }
  std::vector<int64_t> padding;
  for (int64_t r : rows) padding.push_back(padding_[static_cast<size_t>(r)]);
  // Columns that are padding in all rows go.
  const int64_t spare = *std::min_element(padding.begin(), padding.end());
  const array index(rows.data(), {std::ssize(rows)}, int64);
  std::vector<array> kept;
  for (const array& a : columns_.parts(spare, length_)) kept.push_back(take(a, index, 0));
  columns_.set(std::move(kept));
  for (int64_t& p : padding) p -= spare;
  padding_ = std::move(padding);
  length_ -= spare;
}

}  // namespace lazuli::lm
