#include "lazuli/lm/cache.h"

#include <algorithm>

#include "lazuli/ops.h"

namespace lazuli::lm {

std::pair<array, array> KVCache::update(const array& keys, const array& values) {
  const int64_t n = keys.shape(2), end = length_ + n;
  auto append = [&](std::optional<array>& all, const array& more) {
    const int64_t capacity = all ? all->shape(2) : 0;
    if (end > capacity) {
      Shape room = more.shape();
      room[2] = (end + kStep - 1) / kStep * kStep - capacity;
      array empty = zeros(room, more.dtype());
      all = all ? concatenate({*all, empty}, 2) : empty;
    }
    Shape start = {0, 0, length_, 0}, stop = all->shape();
    stop[2] = end;
    all = slice_update(*std::exchange(all, std::nullopt), more, start, stop);
    return slice(*all, {0, 0, 0, 0}, stop);
  };
  array k = append(keys_, keys), v = append(values_, values);
  length_ = end;
  return {k, v};
}

void KVCache::trim(int64_t n) { length_ = std::max<int64_t>(0, length_ - std::max<int64_t>(0, n)); }

std::vector<array> KVCache::arrays() const {
  if (!keys_) return {};
  return {*keys_, *values_};
}

size_t KVCache::nbytes() const { return keys_ ? keys_->nbytes() + values_->nbytes() : 0; }

void Cache::trim(int64_t n) {
  for (auto& layer : layers) layer.trim(n);
}

std::vector<array> Cache::arrays() const {
  std::vector<array> all;
  for (auto& layer : layers)
    for (array& a : layer.arrays()) all.push_back(std::move(a));
  return all;
}

size_t Cache::nbytes() const {
  size_t n = 0;
  for (auto& layer : layers) n += layer.nbytes();
  return n;
}

}  // namespace lazuli::lm
