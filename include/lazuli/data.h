// Data sets: IDX files (the format of MNIST and Fashion-MNIST), and shuffled batches.
//
//     array images = load_idx("train-images-idx3-ubyte.gz");     // uint8, (60000, 28, 28)
//     array labels = load_idx("train-labels-idx1-ubyte.gz");
//     DataLoader loader({.batch_size = 256}, images, labels);
//     for (int epoch = 0; epoch < 10; ++epoch)
//       for (auto [x, y] : loader.epoch(random::key(epoch)))
//         step(x, y);                                            // the last batch has 96 rows
#pragma once

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <string>
#include <utility>

#include "lazuli/array.h"

namespace lazuli {

// Reads an IDX file, gzip-compressed or not (told by its content, not its name). The
// result has the dtype of the file: uint8, int8, int16, int32, float32 or float64.
// Throws std::runtime_error naming the file if it cannot be read, is no IDX file, or is
// longer or shorter than its header says.
array load_idx(const std::string& file, StreamOrDevice s = Where::current());

struct DataLoaderOptions {
  int64_t batch_size = 32;
  bool shuffle = true;
  bool drop_last = false;  // leave out a last batch that is smaller than the others
};

namespace detail {
// Throws std::invalid_argument unless the arrays have one common, non-zero first extent.
int64_t check_rows(std::span<const array> arrays, const DataLoaderOptions& options);
// The order of rows in an epoch, or nothing if it is 0, 1, 2, ...
std::optional<array> row_order(int64_t rows, bool shuffle, const std::optional<array>& key);
// Rows [start, stop) of `a` in the given order.
array rows_of(const array& a, const std::optional<array>& order, int64_t start, int64_t stop);
}  // namespace detail

// Batches of N arrays that share their first axis. Cheap to copy: it holds handles.
template <size_t N>
class DataLoader {
 public:
  using Options = DataLoaderOptions;

  template <class... A>
  requires(sizeof...(A) == N) && Arrays<A...> explicit DataLoader(Options options, const A&... arrays)
      : options_(options),
  arrays_{arrays...}, rows_(detail::check_rows(arrays_, options)) {}

  class Epoch;
  // One pass over all rows. The order depends only on `key`; without one, on the global
  // random state.
  Epoch epoch(const std::optional<array>& key = std::nullopt) const {
    return Epoch(*this, detail::row_order(rows_, options_.shuffle, key));
  }

  int64_t rows() const { return rows_; }
  // Batches in an epoch.
  int64_t size() const {
    int64_t b = options_.batch_size;
    return options_.drop_last ? rows_ / b : (rows_ + b - 1) / b;
  }

 private:
  Options options_;
  std::array<array, N> arrays_;
  int64_t rows_;
};

template <class... A>
DataLoader(DataLoaderOptions, const A&...) -> DataLoader<sizeof...(A)>;

// A range of std::array<array, N>: `for (auto [x, y] : epoch)`.
template <size_t N>
class DataLoader<N>::Epoch {
 public:
  class iterator {
   public:
    using value_type = std::array<array, N>;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    iterator(const Epoch* of, int64_t at) : of_(of), at_(at) {}
    value_type operator*() const { return (*of_)[at_]; }
    iterator& operator++() {
      ++at_;
      return *this;
    }
    iterator operator++(int) {
      auto old = *this;
      ++at_;
      return old;
    }
    bool operator==(const iterator& o) const { return at_ == o.at_; }

   private:
    const Epoch* of_ = nullptr;
    int64_t at_ = 0;
  };

  iterator begin() const { return {this, 0}; }
  iterator end() const { return {this, loader_.size()}; }
  int64_t size() const { return loader_.size(); }

  std::array<array, N> operator[](int64_t batch) const {
    int64_t start = batch * loader_.options_.batch_size;
    int64_t stop = std::min(start + loader_.options_.batch_size, loader_.rows_);
    return [&]<size_t... I>(std::index_sequence<I...>) {
      return std::array<array, N>{detail::rows_of(loader_.arrays_[I], order_, start, stop)...};
    }
    (std::make_index_sequence<N>());
  }

 private:
  friend class DataLoader;
  Epoch(DataLoader loader, std::optional<array> order)
      : loader_(std::move(loader)), order_(std::move(order)) {}
  DataLoader loader_;
  std::optional<array> order_;
};

}  // namespace lazuli
