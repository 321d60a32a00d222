// A layer's keys and values of several texts of different lengths: rows end together and begin where their
// padding ends.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lazuli/lm/cache.h"

namespace lazuli::lm {

class BatchCache final : public KVCache {
 public:
  array attend(const array& queries, const array& keys, const array& values,
               const AttentionOptions& options) override;
  Position position() const override;
  void trim(int64_t n) override { length_ -= n; }
  void clear() override { *this = BatchCache(); }
  std::vector<array> arrays() const override;
  std::unique_ptr<KVCache> clone() const override { return std::make_unique<BatchCache>(*this); }
  State state() const override;

  // Appends the rows of another.
  void join(const BatchCache& other);
  // Keeps these rows, in this order.
  void keep(const std::vector<int64_t>& rows);

 private:
  // The rows with `more` further columns of padding in front, and no room behind.
  std::vector<array> padded(int64_t more) const;
  void set(std::vector<array> both);

  static constexpr int64_t kStep = 256;
  std::vector<array> both_;       // keys and values with room for more, or nothing
  std::vector<int64_t> padding_;  // of each row
};

}  // namespace lazuli::lm
