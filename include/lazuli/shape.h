// Shape and Strides: short lists of 64-bit extents that live inside the array node.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace lazuli {

// A vector with room for N elements in place. Only for trivially copyable T.
template <class T, uint32_t N>
class SmallVector {
 public:
  using value_type = T;
  using iterator = T*;
  using const_iterator = const T*;

  SmallVector() = default;
  explicit SmallVector(size_t n, T value = T{}) { resize(n, value); }
  SmallVector(std::initializer_list<T> init) { assign(init.begin(), init.end()); }
  template <std::input_iterator It>
  SmallVector(It first, It last) {
    assign(first, last);
  }
  template <std::integral U>
  SmallVector(const std::vector<U>& v) {
    assign(v.begin(), v.end());
  }
  SmallVector(const SmallVector& o) { assign(o.begin(), o.end()); }
  SmallVector(SmallVector&& o) noexcept { steal(o); }
  SmallVector& operator=(const SmallVector& o) {
    if (this != &o) assign(o.begin(), o.end());
    return *this;
  }
  SmallVector& operator=(SmallVector&& o) noexcept {
    if (this != &o) {
      release();
      steal(o);
    }
    return *this;
  }
  ~SmallVector() { release(); }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }
  T& at(size_t i) {
    check(i);
    return data_[i];
  }
  const T& at(size_t i) const {
    check(i);
    return data_[i];
  }
  T& front() { return data_[0]; }
  T& back() { return data_[size_ - 1]; }
  const T& front() const { return data_[0]; }
  const T& back() const { return data_[size_ - 1]; }

  void reserve(size_t n) {
    if (n <= capacity_) return;
    size_t capacity = std::max<size_t>(n, 2 * capacity_);
    T* grown = new T[capacity];
    std::copy(data_, data_ + size_, grown);
    release();
    data_ = grown;
    capacity_ = static_cast<uint32_t>(capacity);
  }
  void resize(size_t n, T value = T{}) {
    reserve(n);
    for (size_t i = size_; i < n; ++i) data_[i] = value;
    size_ = static_cast<uint32_t>(n);
  }
  void clear() { size_ = 0; }
  void push_back(T value) {
    reserve(size_ + 1);
    data_[size_++] = value;
  }
  void pop_back() { --size_; }
  T* insert(const T* where, T value) {
    size_t at = where - data_;
    reserve(size_ + 1);
    std::copy_backward(data_ + at, data_ + size_, data_ + size_ + 1);
    data_[at] = value;
    ++size_;
    return data_ + at;
  }
  template <std::input_iterator It>
  T* insert(const T* where, It first, It last) {
    size_t at = where - data_;
    for (size_t i = at; first != last; ++first, ++i) insert(data_ + i, static_cast<T>(*first));
    return data_ + at;
  }
  T* erase(const T* where) {
    T* p = data_ + (where - data_);
    std::copy(p + 1, data_ + size_, p);
    --size_;
    return p;
  }
  T* erase(const T* first, const T* last) {
    T* p = data_ + (first - data_);
    std::copy(data_ + (last - data_), data_ + size_, p);
    size_ -= static_cast<uint32_t>(last - first);
    return p;
  }
  template <std::input_iterator It>
  void assign(It first, It last) {
    size_ = 0;
    if constexpr (std::forward_iterator<It>) reserve(std::distance(first, last));
    for (; first != last; ++first) push_back(static_cast<T>(*first));
  }
  bool operator==(const SmallVector& o) const {
    return size_ == o.size_ && std::equal(begin(), end(), o.begin());
  }

 private:
  void check(size_t i) const {
    if (i >= size_)
      throw std::out_of_range("dimension " + std::to_string(static_cast<int64_t>(i)) +
                              " is out of range for " + std::to_string(size_) + " dimensions");
  }
  void release() {
    if (data_ != in_place_) delete[] data_;
    data_ = in_place_;
    capacity_ = N;
  }
  void steal(SmallVector& o) {
    size_ = o.size_;
    if (o.data_ == o.in_place_) {
      std::copy(o.data_, o.data_ + o.size_, in_place_);
    } else {
      data_ = o.data_;
      capacity_ = o.capacity_;
      o.data_ = o.in_place_;
      o.capacity_ = N;
    }
    o.size_ = 0;
  }

  T* data_ = in_place_;
  uint32_t size_ = 0, capacity_ = N;
  T in_place_[N];
};

using ShapeElem = int64_t;
using Shape = SmallVector<int64_t, 4>;
using Strides = SmallVector<int64_t, 4>;  // in elements, not bytes

// Number of elements. Throws std::invalid_argument for a negative extent and
// std::overflow_error if the product does not fit.
int64_t size_of(const Shape& shape);

// Strides of a row-contiguous array of this shape.
Strides row_strides(const Shape& shape);

// The shape both broadcast to by NumPy's rules; throws std::invalid_argument naming `op`.
Shape broadcast_shapes(const Shape& a, const Shape& b);
Shape broadcast_shapes(const Shape& a, const Shape& b, const char* op);

// Maps an axis in [-ndim, ndim) to [0, ndim); throws std::out_of_range naming `op`.
int normalize_axis(int axis, size_t ndim, const char* op);
int normalize_axis_index(int axis, int ndim, const std::string& message_prefix = "");

// "(2, 3)"
std::string to_string(const Shape& shape);
std::ostream& operator<<(std::ostream& os, const Shape& shape);

}  // namespace lazuli
