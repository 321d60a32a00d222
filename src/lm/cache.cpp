#include "lazuli/lm/cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lm/attention.h"

namespace lazuli::lm {

namespace {

array positions(const array& a, int64_t begin, int64_t end) {
  Shape start(4, 0), stop = a.shape();
  start[2] = begin;
  stop[2] = end;
  return slice(a, start, stop);
}

// Keys or values with room for more, so that most tokens are written in place.
class Column {
 public:
  // Writes `more` at `begin`, making room as needed.
  void write(const array& more, int64_t begin, int64_t most_room = INT64_MAX) {
    const int64_t end = begin + more.shape(2), capacity = all_ ? all_->shape(2) : 0;
    if (end > capacity) {
      Shape room = more.shape();
      room[2] = std::max(end, std::min(most_room, (end + kStep - 1) / kStep * kStep)) - capacity;
      array empty = zeros(room, more.dtype());
      all_ = all_ ? concatenate({*all_, empty}, 2) : empty;
    }
    Shape start(4, 0), stop = all_->shape();
    start[2] = begin;
    stop[2] = end;
    all_ = slice_update(*std::exchange(all_, std::nullopt), more, start, stop);
  }
  array first(int64_t n) const { return positions(*all_, 0, n); }
  const std::optional<array>& all() const { return all_; }
  void set(array all) { all_ = std::move(all); }

 private:
  static constexpr int64_t kStep = 256;
  std::optional<array> all_;
};

std::vector<array> both(const Column& keys, const Column& values) {
  if (!keys.all()) return {};
  return {*keys.all(), *values.all()};
}

class Growing final : public KVCache {
 public:
  array attend(const array& q, const array& k, const array& v, const AttentionOptions& o) override {
    keys_.write(k, length_);
    values_.write(v, length_);
    length_ += k.shape(2);
    return lm::attend(q, {keys_.first(length_), values_.first(length_)}, o);
  }
  void trim(int64_t n) override { length_ -= n; }
  void clear() override { *this = Growing(); }
  std::vector<array> arrays() const override { return both(keys_, values_); }
  std::unique_ptr<KVCache> clone() const override { return std::make_unique<Growing>(*this); }
  State state() const override {
    if (length_ == 0) return {"growing", {0}, {}};
    return {"growing", {length_}, {keys_.first(length_), values_.first(length_)}};
  }
  explicit Growing(const State& s) : Growing() {
    length_ = s.numbers.at(0);
    if (length_ == 0) return;
    keys_.set(s.arrays[0]);
    values_.set(s.arrays[1]);
  }
  Growing() = default;

 private:
  Column keys_, values_;
};

// The first keep_ columns stay. The others are a ring once they are full, whose oldest is at next_: one new
// token takes its place, wherever that is, since attention does not mind the order. Several new tokens
// need masks, and for these the columns are put in the order of time first.
class Rotating final : public KVCache {
 public:
  Rotating(int64_t most, int64_t keep) : most_(most), keep_(keep) {}

  array attend(const array& q, const array& k, const array& v, const AttentionOptions& o) override {
    const int64_t n = k.shape(2);
    AttentionOptions options = o;
    options.window = o.window > 0 ? std::min(o.window, most_ - keep_) : most_ - keep_;
    if (n == 1 && stored_ <= most_ && (o.window == 0 || o.window >= most_)) {
      const int64_t at = stored_ < most_ ? stored_ : next_;
      keys_.write(k, at, most_);
      values_.write(v, at, most_);
      stored_ = std::max(stored_, at + 1);
      next_ = at + 1 < most_ ? at + 1 : keep_;
      options.window = 0;  // nothing else is left
    } else {
      in_order(most_ - 1);
      keys_.write(k, stored_, most_);
      values_.write(v, stored_, most_);
      stored_ += n;
      next_ = stored_ == most_ ? keep_ : stored_;
    }
    length_ += n;
    return lm::attend(q, {keys_.first(stored_), values_.first(stored_), std::min(keep_, stored_)}, options);
  }
  int64_t trimmable() const override { return length_ == stored_ ? length_ : 0; }
  int64_t room() const override { return length_ == stored_ ? std::max<int64_t>(0, most_ - 1 - stored_) : 0; }
  void trim(int64_t n) override {
    if (n == 0) return;
    length_ -= n;
    stored_ -= n;
    next_ = stored_;
  }
  void clear() override { *this = Rotating(most_, keep_); }
  std::vector<array> arrays() const override { return both(keys_, values_); }
  std::unique_ptr<KVCache> clone() const override { return std::make_unique<Rotating>(*this); }
  State state() const override {
    Rotating ordered = *this;
    if (stored_ > 0) ordered.in_order(most_);
    State s{"rotating", {length_, most_, keep_, ordered.stored_}, {}};
    if (stored_ > 0)
      s.arrays = {ordered.keys_.first(ordered.stored_), ordered.values_.first(ordered.stored_)};
    return s;
  }
  explicit Rotating(const State& s) : Rotating(s.numbers[1], s.numbers[2]) {
    length_ = s.numbers[0];
    stored_ = s.numbers[3];
    if (stored_ == 0) return;
    keys_.set(s.arrays[0]);
    values_.set(s.arrays[1]);
    next_ = stored_ == most_ ? keep_ : stored_;
  }

 private:
  // Puts the columns in the order of time and forgets the oldest beyond `room`.
  void in_order(int64_t room) {
    if (stored_ == 0) return;
    const int64_t oldest = stored_ == most_ && length_ > stored_ ? next_ : keep_;
    const int64_t kept = std::min(keep_, stored_), excess = std::max<int64_t>(0, stored_ - room);
    if (oldest == kept && excess == 0) return;
    for (Column* c : {&keys_, &values_}) {
      const array& all = *c->all();
      std::vector<array> parts{positions(all, 0, kept), positions(all, oldest, stored_)};
      if (oldest > kept) parts.push_back(positions(all, kept, oldest));
      array ordered = concatenate(std::move(parts), 2);
      c->set(excess == 0
                 ? ordered
                 : concatenate({positions(ordered, 0, kept), positions(ordered, kept + excess, stored_)}, 2));
    }
    stored_ -= excess;
    next_ = stored_ == most_ ? keep_ : stored_;
  }

  int64_t most_, keep_;
  Column keys_, values_;
  int64_t stored_ = 0, next_ = 0;
};

}  // namespace

std::unique_ptr<KVCache> make_growing_cache() { return std::make_unique<Growing>(); }
std::unique_ptr<KVCache> make_rotating_cache(int64_t max_positions, int64_t keep) {
  if (max_positions < 2 || keep < 0 || keep >= max_positions - 1)
    throw std::invalid_argument(fmt::format(
        "[make_rotating_cache] cannot keep the first {} of at most {} positions", keep, max_positions));
  return std::make_unique<Rotating>(max_positions, keep);
}

std::unique_ptr<KVCache> restore_cache(const KVCache::State& s) {
  auto require = [&](bool ok, const char* what) {
    if (!ok) throw std::runtime_error(fmt::format("[restore_cache] a {} cache with {}", s.kind, what));
  };
  const bool growing = s.kind == "growing";
  require(growing || s.kind == "rotating", "an unknown name: growing and rotating are known");
  require(s.numbers.size() == (growing ? 1u : 4u), "a wrong count of numbers");
  const int64_t length = s.numbers[0], stored = growing ? length : s.numbers[3];
  require(stored >= 0 && stored <= length, "more tokens than it has seen");
  if (!growing) {
    const int64_t most = s.numbers[1], keep = s.numbers[2];
    require(most >= 2 && keep >= 0 && keep < most - 1 && stored <= most, "an impossible size");
  }
  require(s.arrays.size() == (stored > 0 ? 2u : 0u), "a wrong count of arrays");
  for (const array& a : s.arrays)
    require(a.ndim() == 4 && a.shape(2) == stored && a.shape(0) == s.arrays[0].shape(0) &&
                a.shape(1) == s.arrays[0].shape(1) && issubdtype(a.dtype(), floating),
            "arrays of a wrong shape or type");
  if (growing) return std::make_unique<Growing>(s);
  return std::make_unique<Rotating>(s);
}

Cache::Cache(const Cache& other) {
  for (const auto& layer : other.layers_) layers_.push_back(layer->clone());
}
Cache& Cache::operator=(Cache other) noexcept {
  layers_.swap(other.layers_);
  return *this;
}

int64_t Cache::trimmable() const {
  int64_t n = length();
  for (const auto& layer : layers_) n = std::min(n, layer->trimmable());
  return n;
}

int64_t Cache::room() const {
  int64_t n = INT64_MAX;
  for (const auto& layer : layers_) n = std::min(n, layer->room());
  return n;
}

void Cache::trim(int64_t n) {
  n = std::clamp<int64_t>(n, 0, length());
  if (n == 0) return;
  if (n == length()) {
    for (auto& layer : layers_) layer->clear();
    return;
  }
  if (n > trimmable())
    throw std::invalid_argument(fmt::format(
        "[Cache::trim] cannot forget {} tokens of {}: older ones have been forgotten already", n, length()));
  for (auto& layer : layers_) layer->trim(n);
}

std::vector<array> Cache::arrays() const {
  std::vector<array> all;
  for (auto& layer : layers_)
    for (array& a : layer->arrays()) all.push_back(std::move(a));
  return all;
}

size_t Cache::nbytes() const {
  size_t n = 0;
  for (const array& a : arrays()) n += a.nbytes();
  return n;
}

}  // namespace lazuli::lm
