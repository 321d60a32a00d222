#include "lm/batch_cache.h"

#include <algorithm>

#include "lazuli/ops.h"
#include "lm/attention.h"

namespace lazuli::lm {

namespace {

array columns(const array& a, int64_t begin, int64_t end) {
  Shape start(4, 0), stop = a.shape();
  start[2] = begin;
  stop[2] = end;
  return slice(a, start, stop);
}

array with_room(const array& a, int64_t before, int64_t behind) {
  return before + behind == 0 ? a : pad(a, {{0, 0}, {0, 0}, {before, behind}, {0, 0}}, array(0.0f));
}

}  // namespace

array BatchCache::attend(const array& q, const array& k, const array& v, const AttentionOptions& options) {
  const int64_t n = k.shape(2), end = length_ + n;
  if (both_.empty()) {
    padding_.assign(static_cast<size_t>(k.shape(0)), 0);
    const int64_t room = (n + kStep - 1) / kStep * kStep - n;
    both_ = {with_room(k, 0, room), with_room(v, 0, room)};
  } else {
    const array* news[2] = {&k, &v};
    for (size_t i = 0; i < 2; ++i) {
      array all = std::exchange(both_[i], array(0.0f));
      if (end > all.shape(2)) all = with_room(all, 0, (end + kStep - 1) / kStep * kStep - all.shape(2));
      Shape start(4, 0), stop = all.shape();
      start[2] = length_;
      stop[2] = end;
      both_[i] = slice_update(std::exchange(all, array(0.0f)), *news[i], start, stop);
    }
  }
  length_ = end;
  std::optional<array> mask;
  if (std::any_of(padding_.begin(), padding_.end(), [](int64_t p) { return p > 0; })) {
    array first = array(padding_.data(), {std::ssize(padding_), 1, 1, 1}, int64);
    mask = greater_equal(arange(0.0, static_cast<double>(end), int64), first);
  }
  return lm::attend(q, {columns(both_[0], 0, end), columns(both_[1], 0, end)}, options, mask);
}

Position BatchCache::position() const {
  if (std::all_of(padding_.begin(), padding_.end(), [&](int64_t p) { return p == padding_[0]; }))
    return length_ - (padding_.empty() ? 0 : padding_[0]);
  std::vector<int32_t> at;
  for (int64_t p : padding_) at.push_back(static_cast<int32_t>(length_ - p));
  return array(at.data(), {std::ssize(at)}, int32);
}

std::vector<array> BatchCache::arrays() const { return both_; }

KVCache::State BatchCache::state() const {
  State s{"batch", {length_}, {}};
  s.numbers.insert(s.numbers.end(), padding_.begin(), padding_.end());
  for (const array& a : both_) s.arrays.push_back(columns(a, 0, length_));
  return s;
}

std::vector<array> BatchCache::padded(int64_t more) const {
  std::vector<array> all;
  for (const array& a : both_) all.push_back(with_room(columns(a, 0, length_), more, 0));
  return all;
}

void BatchCache::join(const BatchCache& other) {
  if (other.both_.empty()) return;
  if (both_.empty()) {
    *this = other;
    return;
  }
  const int64_t end = std::max(length_, other.length_);
  std::vector<array> mine = padded(end - length_), theirs = other.padded(end - other.length_);
  for (size_t i = 0; i < 2; ++i) both_[i] = concatenate({mine[i], theirs[i]}, 0);
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
  for (array& a : both_) a = take(columns(a, spare, length_), index, 0);
  for (int64_t& p : padding) p -= spare;
  padding_ = std::move(padding);
  length_ -= spare;
}

}  // namespace lazuli::lm
