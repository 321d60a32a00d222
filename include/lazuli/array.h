// `array`: a handle on a node of the lazy graph.
//
// An array is a value that may not have been computed yet. Operations build graph
// nodes; a value is computed when it is needed: by `eval`, `item`, `data`, printing,
// saving. Copying a handle is cheap and shares the node. Handles may be copied, used
// and evaluated from any thread; as with std::shared_ptr, one handle object must not be
// assigned by one thread while another uses it.
//
//     lazuli::array a({1, 2, 3});              // int32, shape (3,)
//     lazuli::array b = a * 2.5f;              // float32; nothing has run yet
//     std::cout << b;                          // array([2.5, 5, 7.5], dtype=float32)
//     float x = lazuli::sum(b).item<float>();  // 15
#pragma once

#include <algorithm>
#include <complex>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <iosfwd>
#include <iterator>
#include <memory>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lazuli/detail/node.h"
#include "lazuli/device.h"
#include "lazuli/dtype.h"
#include "lazuli/shape.h"

namespace lazuli {

class Primitive;
template <class T>
class Ref;
class IndexedArray;
class IndexedValue;
namespace indexing {
class Subscript;
}

class array {
 public:
  using Status = detail::Status;

  // ---- construction: all copy their source and convert it to `dtype` ----

  // 0-dimensional.
  template <Element T>
  explicit array(T value, Dtype dtype = TypeToDtype<T>::value);

  // 1-dimensional; array({1, 2, 3}) is int32, array({1.f, 2.f}) float32, array({}) float32.
  template <Element T>
  explicit array(std::initializer_list<T> values, Dtype dtype = TypeToDtype<T>::value);
  explicit array(std::initializer_list<float> values);
  explicit array(std::initializer_list<int> values, Dtype dtype);

  // Nested: array({{1, 2}, {3, 4}}) has shape (2, 2); rows must have equal lengths.
  template <Element T>
  explicit array(std::initializer_list<std::initializer_list<T>> rows, Dtype dtype = TypeToDtype<T>::value);
  template <Element T>
  explicit array(std::initializer_list<std::initializer_list<std::initializer_list<T>>> blocks,
                 Dtype dtype = TypeToDtype<T>::value);

  // Values in row-major order; throws std::invalid_argument unless their number fits `shape`.
  template <Element T>
  explicit array(std::initializer_list<T> values, Shape shape, Dtype dtype = TypeToDtype<T>::value);
  template <std::ranges::input_range R>
  requires Element<std::ranges::range_value_t<R>> &&
      (!std::same_as<std::remove_cvref_t<R>, array>)explicit array(
          const R& values, Dtype dtype = TypeToDtype<std::ranges::range_value_t<R>>::value);
  template <std::ranges::input_range R>
  requires Element<std::ranges::range_value_t<R>> &&
      (!std::same_as<std::remove_cvref_t<R>, array>)explicit array(
          const R& values, Shape shape, Dtype dtype = TypeToDtype<std::ranges::range_value_t<R>>::value);

  // Reads size_of(shape) values from an iterator.
  template <std::input_iterator It>
  requires Element<std::iter_value_t<It>>
  explicit array(It first, Shape shape, Dtype dtype = TypeToDtype<std::iter_value_t<It>>::value);

  // Borrows row-contiguous memory without copying; `deleter(data)` runs when the last
  // array that uses it is gone. The memory is never written by the library.
  explicit array(void* data, Shape shape, Dtype dtype, std::function<void(void*)> deleter);

  array(const array& o) noexcept : node_(o.node_) { detail::retain(node_); }
  array(array&& o) noexcept : node_(std::exchange(o.node_, nullptr)) {}
  array& operator=(const array& o) & noexcept {
    detail::retain(o.node_);
    if (auto* old = std::exchange(node_, o.node_)) detail::release(old);
    return *this;
  }
  array& operator=(array&& o) & noexcept {
    if (this != &o)
      if (auto* old = std::exchange(node_, std::exchange(o.node_, nullptr))) detail::release(old);
    return *this;
  }
  ~array() {
    if (node_) detail::release(node_);
  }

  // ---- properties: known without evaluation ----

  const Shape& shape() const { return node_->shape; }
  int64_t shape(int axis) const {  // negative axes count from the end; throws std::out_of_range
    return node_->shape[normalize_axis(axis, ndim(), "shape")];
  }
  size_t ndim() const { return node_->shape.size(); }
  size_t size() const { return static_cast<size_t>(node_->size); }
  size_t itemsize() const { return node_->dtype.size(); }
  size_t nbytes() const { return size() * itemsize(); }
  Dtype dtype() const { return node_->dtype; }

  // ---- the value ----

  // Computes the value now. Errors of the computation are thrown here.
  const array& eval() const;
  void wait() const { eval(); }
  Status status() const { return node_->status.load(std::memory_order_acquire); }
  bool is_available() const { return status() == Status::available; }

  // The one element, converted to T. Throws std::invalid_argument if size() != 1.
  template <Element T>
  T item() const;

  // The elements in row-major order. Evaluates; copies first if the layout is strided.
  // The pointer lives as long as this array's node. Throws std::invalid_argument if T
  // is not the type of dtype().
  template <Element T>
  const T* data() const;
  template <Element T>
  T* data();  // only for arrays that nobody else reads
  template <Element T>
  std::span<const T> span() const {
    return {data<T>(), size()};
  }
  template <Element T>
  std::vector<T> to_vector() const;  // converts

  // Layout in memory, in elements; these evaluate.
  const Strides& strides() const { return eval().node_->strides; }
  int64_t strides(int axis) const { return strides()[normalize_axis(axis, ndim(), "strides")]; }
  int64_t offset() const { return eval().node_->offset; }
  bool row_contiguous() const { return eval().node_->row_contiguous; }

  // ---- iteration over axis 0 ----

  class iterator {
   public:
    using value_type = array;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    iterator(const array* of, int64_t at) : of_(of), at_(at) {}
    array operator*() const;
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
    const array* of_ = nullptr;
    int64_t at_ = 0;
  };
  iterator begin() const;  // throws std::invalid_argument on a 0-dimensional array
  iterator end() const { return {this, shape(0)}; }

  // ---- indexing: see lazuli/indexing.h ----

  // a(i, j, ...) reads, a.at(i, j, ...) is written to. For more subscripts: index, index_update.
  using Sub = const indexing::Subscript&;
  array operator()(Sub, Where where = Where::current()) const;
  array operator()(Sub, Sub, Where where = Where::current()) const;
  array operator()(Sub, Sub, Sub, Where where = Where::current()) const;
  array operator()(Sub, Sub, Sub, Sub, Where where = Where::current()) const;
  array operator()(Sub, Sub, Sub, Sub, Sub, Where where = Where::current()) const;
  IndexedArray at(Sub, Where where = Where::current()) &;
  IndexedArray at(Sub, Sub, Where where = Where::current()) &;
  IndexedArray at(Sub, Sub, Sub, Where where = Where::current()) &;
  IndexedArray at(Sub, Sub, Sub, Sub, Where where = Where::current()) &;
  IndexedArray at(Sub, Sub, Sub, Sub, Sub, Where where = Where::current()) &;
  IndexedValue at(Sub, Where where = Where::current()) const&;
  IndexedValue at(Sub, Sub, Where where = Where::current()) const&;
  IndexedValue at(Sub, Sub, Sub, Where where = Where::current()) const&;
  IndexedValue at(Sub, Sub, Sub, Sub, Where where = Where::current()) const&;
  IndexedValue at(Sub, Sub, Sub, Sub, Sub, Where where = Where::current()) const&;

  // ---- the graph ----

  bool has_primitive() const { return node_->primitive != nullptr; }
  const Primitive& primitive() const { return *node_->primitive; }
  std::vector<array> inputs() const;
  std::uintptr_t id() const { return reinterpret_cast<std::uintptr_t>(node_); }
  bool is_tracer() const;
  // Rebinds this handle.
  void overwrite_descriptor(const array& o) { *this = o; }

  // ---- for authors of operations ----

  // A node that `primitive` computes from `inputs`.
  static array make(Shape shape, Dtype dtype, Ref<const Primitive> primitive, std::span<const array> inputs,
                    const StreamOrDevice& s = {});
  static array make(Shape shape, Dtype dtype, Ref<const Primitive> primitive,
                    std::initializer_list<array> inputs, const StreamOrDevice& s = {});
  // One operation with several results.
  static std::vector<array> make_many(std::vector<Shape> shapes, std::vector<Dtype> dtypes,
                                      Ref<const Primitive> primitive, std::span<const array> inputs,
                                      const StreamOrDevice& s = {});
  explicit array(detail::Node* adopted) : node_(adopted) {}
  detail::Node* node() const { return node_; }
  Stream stream() const { return node_->stream; }
  Where where() const { return node_->where; }

 private:
  // An available, row-contiguous, uninitialised array.
  array(Shape shape, Dtype dtype, std::nullptr_t);
  void* host_data() const;  // row-contiguous
  void check_type(Dtype t, const char* what) const;
  template <std::input_iterator It, std::sentinel_for<It> End>
  void fill(It first, End last);  // throws unless exactly size() values
  friend array uninitialized(Shape shape, Dtype dtype);

  detail::Node* node_;
};

// An available array to be filled through data<T>() by its maker, before it is shared.
array uninitialized(Shape shape, Dtype dtype);

// "array([1, 2, 3], dtype=int32)": evaluates.
std::ostream& operator<<(std::ostream& os, const array& a);
std::string to_string(const array& a);

struct PrintOptions {
  int precision = -1;  // significant digits; -1 is 6
};
void set_printoptions(PrintOptions options);
PrintOptions get_printoptions();

Dtype result_type(const array& a, const array& b);
Dtype result_type(const array& a, const array& b, const array& c);
Dtype result_type(const std::vector<array>& arrays);  // throws std::invalid_argument if empty

template <class... T>
concept Arrays = (std::same_as<std::remove_cvref_t<T>, array> && ...);

// ---------------------------------------------------------------- implementation

namespace detail {
// static_cast between element types, with the conversions C++ leaves out.
template <class To, class From>
To convert(From x) {
  if constexpr (std::same_as<To, From>) {
    return x;
  } else if constexpr (std::same_as<From, complex64_t>) {
    if constexpr (std::same_as<To, bool>)
      return x != complex64_t(0);
    else
      return convert<To>(x.real());
  } else if constexpr (std::same_as<To, complex64_t>) {
    return complex64_t(static_cast<float>(x), 0.0f);
  } else if constexpr (std::same_as<From, float16_t> || std::same_as<From, bfloat16_t>) {
    return convert<To>(static_cast<float>(x));
  } else if constexpr (std::same_as<To, bool>) {
    return x != From(0);
  } else {
    return static_cast<To>(x);
  }
}
}  // namespace detail

template <std::input_iterator It, std::sentinel_for<It> End>
void array::fill(It first, End last) {
  dispatch_dtype(dtype(), [&]<class T>(T) {
    T* out = static_cast<T*>(node_->buffer->data);
    int64_t n = 0;
    for (; first != last && n < node_->size; ++first, ++n)
      out[n] = detail::convert<T, std::iter_value_t<It>>(*first);
    bool more = false;
    if constexpr (!std::same_as<End, std::unreachable_sentinel_t>) more = first != last;
    if (n < node_->size || more)
      throw std::invalid_argument("[array] shape " + to_string(shape()) + " needs " +
                                  std::to_string(node_->size) + " values, but " +
                                  (more ? "more" : std::to_string(n)) + " were given");
  });
}

template <Element T>
array::array(T value, Dtype dtype) : array(Shape{}, dtype, nullptr) {
  fill(&value, &value + 1);
}
template <Element T>
array::array(std::initializer_list<T> values, Dtype dtype)
    : array(Shape{static_cast<int64_t>(values.size())}, dtype, nullptr) {
  fill(values.begin(), values.end());
}
inline array::array(std::initializer_list<float> values)
    : array(Shape{static_cast<int64_t>(values.size())}, float32, nullptr) {
  fill(values.begin(), values.end());
}
inline array::array(std::initializer_list<int> values, Dtype dtype)
    : array(Shape{static_cast<int64_t>(values.size())}, dtype, nullptr) {
  fill(values.begin(), values.end());
}
template <Element T>
array::array(std::initializer_list<std::initializer_list<T>> rows, Dtype dtype)
    : array(Shape{static_cast<int64_t>(rows.size()),
                  rows.size() ? static_cast<int64_t>(rows.begin()->size()) : 0},
            dtype, nullptr) {
  std::vector<T> flat;
  for (auto& row : rows) {
    if (static_cast<int64_t>(row.size()) != shape(1))
      throw std::invalid_argument("[array] rows of a nested list must have equal lengths, but found " +
                                  std::to_string(shape(1)) + " and " + std::to_string(row.size()));
    flat.insert(flat.end(), row.begin(), row.end());
  }
  fill(flat.begin(), flat.end());
}
template <Element T>
array::array(std::initializer_list<std::initializer_list<std::initializer_list<T>>> blocks, Dtype dtype)
    : array(Shape{static_cast<int64_t>(blocks.size()),
                  blocks.size() ? static_cast<int64_t>(blocks.begin()->size()) : 0,
                  blocks.size() && blocks.begin()->size()
                      ? static_cast<int64_t>(blocks.begin()->begin()->size())
                      : 0},
            dtype, nullptr) {
  std::vector<T> flat;
  for (auto& block : blocks) {
    if (static_cast<int64_t>(block.size()) != shape(1))
      throw std::invalid_argument("[array] blocks of a nested list must have equal lengths");
    for (auto& row : block) {
      if (static_cast<int64_t>(row.size()) != shape(2))
        throw std::invalid_argument("[array] rows of a nested list must have equal lengths");
      flat.insert(flat.end(), row.begin(), row.end());
    }
  }
  fill(flat.begin(), flat.end());
}
template <Element T>
array::array(std::initializer_list<T> values, Shape shape, Dtype dtype)
    : array(std::move(shape), dtype, nullptr) {
  fill(values.begin(), values.end());
}
template <std::ranges::input_range R>
requires Element<std::ranges::range_value_t<R>> &&
    (!std::same_as<std::remove_cvref_t<R>, array>)array::array(const R& values, Dtype dtype)
    : array(Shape{static_cast<int64_t>(std::ranges::distance(values))}, dtype, nullptr) {
  fill(std::ranges::begin(values), std::ranges::end(values));
}
template <std::ranges::input_range R>
requires Element<std::ranges::range_value_t<R>> &&
    (!std::same_as<std::remove_cvref_t<R>, array>)array::array(const R& values, Shape shape, Dtype dtype)
    : array(std::move(shape), dtype, nullptr) {
  fill(std::ranges::begin(values), std::ranges::end(values));
}
template <std::input_iterator It>
requires Element<std::iter_value_t<It>> array::array(It first, Shape shape, Dtype dtype)
    : array(std::move(shape), dtype, nullptr) {
  fill(first, std::unreachable_sentinel);
}

template <Element T>
const T* array::data() const {
  check_type(TypeToDtype<T>::value, "data");
  return static_cast<const T*>(host_data());
}
template <Element T>
T* array::data() {
  check_type(TypeToDtype<T>::value, "data");
  return static_cast<T*>(host_data());
}
template <Element T>
T array::item() const {
  if (node_->size != 1)
    throw std::invalid_argument("[item] expected an array of size 1, but the shape is " + to_string(shape()));
  return dispatch_dtype(
      dtype(), [&]<class From>(From) { return detail::convert<T>(*static_cast<const From*>(host_data())); });
}
template <Element T>
std::vector<T> array::to_vector() const {
  std::vector<T> out(size());
  dispatch_dtype(dtype(), [&]<class From>(From) {
    std::transform(static_cast<const From*>(host_data()), static_cast<const From*>(host_data()) + size(),
                   out.begin(), [](From x) { return detail::convert<T>(x); });
  });
  return out;
}

}  // namespace lazuli
