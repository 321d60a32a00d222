// A layer's keys and values of several texts of different lengths: rows end together and begin where their
// padding ends.
#pragma once

#include <cstdint>
#include <vector>

#include "lm/columns.h"

namespace lazuli::lm {

class BatchCache final : public KVCache {
 public:
  explicit BatchCache(const CacheOptions& options) : columns_(options) {}

  array attend(const array& queries, const array& keys, const array& values,
               const AttentionOptions& options) override;
  Position position() const override;
  void trim(int64_t n) override { length_ -= n; }
  void clear() override { *this = BatchCache(columns_.options()); }
  std::vector<array> arrays() const override { return columns_.parts(); }
  std::unique_ptr<KVCache> clone() const override { return std::make_unique<BatchCache>(*this); }
  State state() const override;

  // Appends the rows of another. If one of both is quantized, all are.
  void join(const BatchCache& other);
  // Keeps these rows, in this order.
  void keep(const std::vector<int64_t>& rows);

 private:
  Columns columns_;
  std::vector<int64_t> padding_;  // of each row
};

}  // namespace lazuli::lm
