#include "lazuli/lm/cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "lazuli/ops.h"
#include "lm/columns.h"

namespace lazuli::lm {

namespace {

class Growing final : public KVCache {
 public:
  explicit Growing(const CacheOptions& options) : columns_(options) {}

  array attend(const array& q, const array& k, const array& v, const AttentionOptions& o) override {
    const int64_t begin = length_;
    columns_.write(k, v, begin, begin + k.shape(2));
    length_ += k.shape(2);
    return lm::attend(q, columns_.first(length_), o);
  }
  void trim(int64_t n) override { length_ -= n; }
  void clear() override { *this = Growing(columns_.options()); }
  std::vector<array> arrays() const override { return columns_.parts(); }
  std::unique_ptr<KVCache> clone() const override { return std::make_unique<Growing>(*this); }
  State state() const override {
    return {"growing",
            columns_.options(),
            {length_},
            length_ == 0 ? std::vector<array>() : columns_.parts(0, length_)};
  }
  std::optional<std::string> restore(const State& s) {
    length_ = s.numbers[0];
    return columns_.restore(s.arrays, length_, length_);
  }

 private:
  Columns columns_;
};

// The first keep_ columns stay. The others are a ring once they are full, whose oldest is at next_: one new
// token takes its place, wherever that is, since attention does not mind the order. Several new tokens
// need masks, and for these the columns are put in the order of time first.
class Rotating final : public KVCache {
 public:
  explicit Rotating(const CacheOptions& options)
      : most_(options.max_positions), keep_(options.keep), columns_(options) {}

  array attend(const array& q, const array& k, const array& v, const AttentionOptions& o) override {
    const int64_t n = k.shape(2);
    AttentionOptions options = o;
    options.window = o.window > 0 ? std::min(o.window, most_ - keep_) : most_ - keep_;
    if (n == 1 && stored_ <= most_ && (o.window == 0 || o.window >= most_)) {
      const int64_t at = stored_ < most_ ? stored_ : next_;
      columns_.write(k, v, at, length_ + 1, most_);
      stored_ = std::max(stored_, at + 1);
      next_ = at + 1 < most_ ? at + 1 : keep_;
      options.window = 0;  // nothing else is left
    } else {
      in_order(most_ - 1);
      columns_.write(k, v, stored_, length_ + n, most_);
      stored_ += n;
      next_ = stored_ == most_ ? keep_ : stored_;
    }
    length_ += n;
    Remembered all = columns_.first(stored_);
    all.first = std::min(keep_, stored_);
    return lm::attend(q, all, options);
  }
  int64_t trimmable() const override { return length_ == stored_ ? length_ : 0; }
  int64_t room() const override { return length_ == stored_ ? std::max<int64_t>(0, most_ - 1 - stored_) : 0; }
  void trim(int64_t n) override {
    if (n == 0) return;
    length_ -= n;
    stored_ -= n;
    next_ = stored_;
  }
  void clear() override { *this = Rotating(columns_.options()); }
  std::vector<array> arrays() const override { return columns_.parts(); }
  std::unique_ptr<KVCache> clone() const override { return std::make_unique<Rotating>(*this); }
  State state() const override {
    Rotating ordered = *this;
    if (stored_ > 0) ordered.in_order(most_);
    State s{"rotating", columns_.options(), {length_, ordered.stored_}, {}};
    if (stored_ > 0) s.arrays = ordered.columns_.parts(0, ordered.stored_);
    return s;
  }
  std::optional<std::string> restore(const State& s) {
    length_ = s.numbers[0];
    stored_ = s.numbers[1];
    next_ = stored_ == most_ ? keep_ : stored_;
    return columns_.restore(s.arrays, stored_, length_);
  }

 private:
  // Puts the columns in the order of time and forgets the oldest beyond `room`.
  void in_order(int64_t room) {
    if (stored_ == 0) return;
    const int64_t oldest = stored_ == most_ && length_ > stored_ ? next_ : keep_;
    const int64_t kept = std::min(keep_, stored_), excess = std::max<int64_t>(0, stored_ - room);
    if (oldest == kept && excess == 0) return;
    const auto begin = columns_.parts(0, kept), old = columns_.parts(oldest, stored_),
               young = columns_.parts(kept, oldest);
    std::vector<array> ordered;
    for (size_t i = 0; i < begin.size(); ++i) {
      array rest = oldest > kept ? concatenate({old[i], young[i]}, 2) : old[i];
      if (excess > 0) {
        Shape start(4, 0);
        start[2] = excess;
        rest = slice(rest, start, rest.shape());
      }
      ordered.push_back(concatenate({begin[i], rest}, 2));
    }
    columns_.set(std::move(ordered));
    stored_ -= excess;
    next_ = stored_ == most_ ? keep_ : stored_;
  }

  int64_t most_, keep_;
  Columns columns_;
  int64_t stored_ = 0, next_ = 0;
};

bool rotates(const CacheOptions& o) {
  return o.max_positions >= 2 && o.keep >= 0 && o.keep < o.max_positions - 1;
}

}  // namespace

std::unique_ptr<KVCache> make_growing_cache(const CacheOptions& options) {
  CacheOptions o = options;
  o.max_positions = o.keep = 0;
  return std::make_unique<Growing>(o);
}
std::unique_ptr<KVCache> make_rotating_cache(const CacheOptions& o) {
  if (!rotates(o))
    throw std::invalid_argument(fmt::format(
        "[make_rotating_cache] cannot keep the first {} of at most {} positions", o.keep, o.max_positions));
  return std::make_unique<Rotating>(o);
}

std::unique_ptr<KVCache> restore_cache(const KVCache::State& s) {
  auto require = [&](bool ok, const std::string& what) {
    if (!ok) throw std::runtime_error(fmt::format("[restore_cache] a {} cache with {}", s.kind, what));
  };
  const bool growing = s.kind == "growing";
  require(growing || s.kind == "rotating", "an unknown name: growing and rotating are known");
  require(s.numbers.size() == (growing ? 1u : 2u), "a wrong count of numbers");
  const int64_t length = s.numbers[0], stored = s.numbers.back();
  require(stored >= 0 && stored <= length, "more tokens than it has seen");
  if (growing)
    require(s.options.max_positions == 0 && s.options.keep == 0, "an impossible size");
  else
    require(rotates(s.options) && stored <= s.options.max_positions, "an impossible size");
  if (auto problem = problem_of(s.options)) require(false, "impossible options: " + *problem);
  auto restored = [&](auto cache) -> std::unique_ptr<KVCache> {
    if (auto problem = cache->restore(s)) require(false, *problem);
    return cache;
  };
  if (growing) return restored(std::make_unique<Growing>(s.options));
  return restored(std::make_unique<Rotating>(s.options));
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
