#include "lm/speculate.h"

#include <algorithm>

#include "lazuli/ops.h"
#include "lazuli/transforms.h"

namespace lazuli::lm {

namespace {

class Draft final : public Proposer {
 public:
  Draft(const Model& model, int64_t prefill_step)
      : model_(model), cache_(model.make_cache()), prefill_step_(static_cast<size_t>(prefill_step)) {}

  std::vector<int32_t> propose(std::span<const int32_t> history, int64_t n) override {
    // What it has seen of the text as it turned out to be; at least the newest token is read again.
    size_t common = 0;
    while (common < seen_.size() && common + 1 < history.size() && seen_[common] == history[common]) ++common;
    if (seen_.size() - common > static_cast<size_t>(cache_.trimmable())) common = 0;
    cache_.trim(static_cast<int64_t>(seen_.size() - common));
    seen_.resize(common);
    std::vector<int32_t> found;
    std::vector<int32_t> unread(history.begin() + static_cast<std::ptrdiff_t>(common), history.end());
    while (static_cast<int64_t>(found.size()) < n) {
      for (size_t at = 0; at < unread.size(); at += prefill_step_) {
        const size_t count = std::min(prefill_step_, unread.size() - at);
        array logits = model_(array(unread.data() + at, {1, static_cast<int64_t>(count)}, int32), cache_);
        if (at + count < unread.size())
          eval(cache_.arrays());
        else
          found.push_back(argmax(logits, -1).item<int32_t>());
      }
      seen_.insert(seen_.end(), unread.begin(), unread.end());
      unread = {found.back()};
    }
    return found;
  }

 private:
  const Model model_;
  Cache cache_;
  const size_t prefill_step_;
  std::vector<int32_t> seen_;
};

class Lookup final : public Proposer {
 public:
  std::vector<int32_t> propose(std::span<const int32_t> history, int64_t n) override {
    for (size_t length : {size_t{3}, size_t{2}}) {
      if (history.size() <= length) continue;
      const auto tail = history.last(length);
      for (size_t at = history.size() - length; at-- > 0;)
        if (std::equal(tail.begin(), tail.end(), history.begin() + static_cast<std::ptrdiff_t>(at))) {
          const auto after = history.subspan(at + length);
          const auto some = after.first(std::min(after.size(), static_cast<size_t>(n)));
          return {some.begin(), some.end()};
        }
    }
    return {};
  }
};

}  // namespace

std::unique_ptr<Proposer> propose_with(const Model& draft, int64_t prefill_step) {
  return std::make_unique<Draft>(draft, prefill_step);
}
std::unique_ptr<Proposer> propose_from_history() { return std::make_unique<Lookup>(); }

}  // namespace lazuli::lm
