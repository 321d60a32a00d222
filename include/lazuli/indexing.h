// Indexing syntax, with NumPy's rules, on both sides of an assignment.
//
//     using namespace lazuli::indexing;
//     array a = reshape(arange(24), {2, 3, 4});
//
//     a(0)                        a(-1, _, 2)                   integers drop their axis; _ is a whole axis
//     a(_, range(1, 3))           a(ellipsis, range(_, _, -1))  start:stop:step; _ leaves a bound open
//     a(newaxis, ellipsis, 0)                                   a new axis of extent 1
//     a(_, {2, 0})                a(rows, _, columns)           index arrays broadcast together
//
//     a.at(0, range(1, 3)) = 7;           // assigns; the handle `a` is rebound, other handles on the
//     a.at(_, {2, 0, 2}) += v;            // old value keep it. Repeated indices all count
//     a.at(mask) = 0;                     // where a bool array is true
//     array b = a.at({0, 0}).add(v);      // the same without rebinding
//
// Reads of integers, ranges and new axes alone are views. Where index arrays stand next to each other
// (integers between them count) their dimensions replace theirs; otherwise they come first.
//
// Errors: std::out_of_range for an integer out of range, at the call, or an element of an index array,
// at eval; bounds of ranges are clamped. std::invalid_argument for too many subscripts, a second ellipsis,
// index arrays of bool or floating dtype (bool arrays only in writes, as the only subscript besides whole
// axes), a step of 0, values that do not broadcast.
#pragma once

#include <concepts>
#include <initializer_list>
#include <optional>
#include <variant>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {
namespace indexing {

struct All {};
struct Ellipsis {};
struct NewAxis {};
inline constexpr All _{};
inline constexpr Ellipsis ellipsis{};
inline constexpr NewAxis newaxis{};

template <class T>
concept Integer = std::integral<T> && !std::same_as<T, bool>;

// Saturates: what does not fit is out of range for every axis.
constexpr int64_t to_position(Integer auto i) {
  return std::in_range<int64_t>(i) ? static_cast<int64_t>(i) : INT64_MAX;
}

// start, start + step, ... before stop. Designated initializers read well: Range{.step = 2}.
struct Range {
  std::optional<int64_t> start, stop;
  int64_t step = 1;
};

// A bound of a range; _ leaves it open.
struct Bound {
  constexpr Bound(Integer auto i) : position(to_position(i)) {}
  constexpr Bound(All) {}
  std::optional<int64_t> position;
};
constexpr Range range(Bound start, Bound stop, int64_t step = 1) {
  return {start.position, stop.position, step};
}

// One entry of a(...).
class Subscript {
 public:
  using Value = std::variant<int64_t, Range, Ellipsis, NewAxis, array>;

  Subscript(Integer auto i) : value_(to_position(i)) {}
  Subscript(All) : value_(Range{}) {}
  Subscript(Range r) : value_(r) {}
  Subscript(Ellipsis e) : value_(e) {}
  Subscript(NewAxis n) : value_(n) {}
  Subscript(const array& indices) : value_(indices) {}
  Subscript(std::initializer_list<int64_t> indices) : value_(array(indices)) {}
  template <Integer T>
  Subscript(const std::vector<T>& indices) : value_(array(indices)) {}

  const Value& value() const { return value_; }

 private:
  Value value_;
};

// How a write combines the element that is there with the new value.
enum class Write : uint8_t { set, add, subtract, multiply, divide, maximum, minimum };

}  // namespace indexing

// a(subscripts...), for any number of them.
array index(const array& a, const std::vector<indexing::Subscript>& subscripts,
            StreamOrDevice s = Where::current());

// `a` with the elements a(subscripts...) overwritten by `values` or combined with them. Values broadcast to
// the elements' shape and are converted to a's dtype; combining with a value of a higher kind (an
// integer array with a float) throws std::invalid_argument, as does dividing integers. For a bool
// array, values are one for all, broadcast to the axes after it, or have one row for each true element.
array index_update(const array& a, const std::vector<indexing::Subscript>& subscripts, const array& values,
                   indexing::Write how = indexing::Write::set, StreamOrDevice s = Where::current());

class IndexedValue;

// The right-hand side of a write: an array, a C++ scalar or elements of another array.
class WrittenValue {
 public:
  WrittenValue(const array& a) : value(a) {}
  WrittenValue(Scalar auto x) : value(x) {}
  WrittenValue(const IndexedValue& x);
  array value;
};

// Some elements of an array, from array::at(). Converts to their values; set, add, ... give a new
// array in which they are changed.
class IndexedValue {
 public:
  IndexedValue(const array& a, std::vector<indexing::Subscript> subscripts, Where where)
      : array_(a), subscripts_(std::move(subscripts)), where_(where) {}
  operator array() const { return index(array_, subscripts_, where_); }

  [[nodiscard]] array set(const WrittenValue& v) const { return written(v, indexing::Write::set); }
  [[nodiscard]] array add(const WrittenValue& v) const { return written(v, indexing::Write::add); }
  [[nodiscard]] array subtract(const WrittenValue& v) const { return written(v, indexing::Write::subtract); }
  [[nodiscard]] array multiply(const WrittenValue& v) const { return written(v, indexing::Write::multiply); }
  [[nodiscard]] array divide(const WrittenValue& v) const { return written(v, indexing::Write::divide); }
  [[nodiscard]] array maximum(const WrittenValue& v) const { return written(v, indexing::Write::maximum); }
  [[nodiscard]] array minimum(const WrittenValue& v) const { return written(v, indexing::Write::minimum); }

 protected:
  array written(const WrittenValue& v, indexing::Write how) const {
    return index_update(array_, subscripts_, v.value, how, where_);
  }

 private:
  array array_;
  std::vector<indexing::Subscript> subscripts_;
  Where where_;
};

inline WrittenValue::WrittenValue(const IndexedValue& x) : value(static_cast<array>(x)) {}

// The same of a variable, which assignments rebind. Lives no longer than the variable.
class IndexedArray : public IndexedValue {
 public:
  IndexedArray(array& a, std::vector<indexing::Subscript> subscripts, Where where)
      : IndexedValue(a, std::move(subscripts), where), target_(a) {}
  IndexedArray(const IndexedArray&) = default;

  array& operator=(const IndexedArray& v) { return rebind(v, indexing::Write::set); }
  array& operator=(const WrittenValue& v) { return rebind(v, indexing::Write::set); }
  array& operator+=(const WrittenValue& v) { return rebind(v, indexing::Write::add); }
  array& operator-=(const WrittenValue& v) { return rebind(v, indexing::Write::subtract); }
  array& operator*=(const WrittenValue& v) { return rebind(v, indexing::Write::multiply); }
  array& operator/=(const WrittenValue& v) { return rebind(v, indexing::Write::divide); }

 private:
  array& rebind(const WrittenValue& v, indexing::Write how) {
    target_ = written(v, how);
    return target_;
  }
  array& target_;
};

}  // namespace lazuli
