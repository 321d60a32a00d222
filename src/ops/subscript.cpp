// a(...) and a.at(...): subscripts become slices, gathers and scatters.
#include "lazuli/indexing.h"
#include "lazuli/ops/creation.h"
#include "lazuli/ops/elementwise.h"
#include "lazuli/ops/indexing.h"
#include "lazuli/ops/shape.h"
#include "ops/indexing.h"
#include "ops/shape.h"

namespace lazuli {

using indexing::Subscript;
using indexing::Write;
using Subscripts = std::vector<Subscript>;

namespace {

// Subscripts read against a shape.
//
// `sliced` below is the array with the ranges applied; it has all its axes. The result has the dimensions
// of the ranges and new axes, in order, with those of the index arrays before dimension `place`.
struct Selection {
  Shape start, stop, strides, extents;  // the ranges: of all axes; whole where an integer or array indexes
  bool whole = true;                    // does `sliced` equal the array?
  std::vector<int> axes;                // indexed by arrays, then by integers if there are arrays
  std::vector<array> indices;
  std::vector<int> dropped;   // axes indexed by integers, if there are no arrays
  int at = 0;                 // kept axes before the index dimensions
  std::vector<int> new_axes;  // of the result
  Shape result;
};

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument("[index] " + what); }

bool is_mask(const Subscript& s) {
  auto* a = std::get_if<array>(&s.value());
  return a && a->dtype() == bool_;
}

int consumed(const Subscript& s) {
  return !std::holds_alternative<indexing::Ellipsis>(s.value()) &&
         !std::holds_alternative<indexing::NewAxis>(s.value());
}

Selection select(const array& a, const Subscripts& subscripts) {
  const Shape& shape = a.shape();
  int ndim = static_cast<int>(shape.size()), taken = 0, ellipses = 0;
  bool arrays = false;
  for (auto& s : subscripts) {
    taken += consumed(s);
    ellipses += std::holds_alternative<indexing::Ellipsis>(s.value());
    if (auto* index = std::get_if<array>(&s.value())) {
      if (index->dtype() == bool_)
        fail(
            "a bool array selects a number of elements that is not known before it runs: it can be written "
            "through, as the first subscript, but not read (use where)");
      detail::check_index_dtype(*index, "index");
      arrays = true;
    }
  }
  if (ellipses > 1) fail("found " + std::to_string(ellipses) + " ellipses, expected at most one");
  if (taken > ndim)
    fail("found " + std::to_string(taken) + " subscripts for an array of shape " + to_string(shape));

  Selection out{Shape(ndim, 0), shape, Shape(ndim, 1), shape, true, {}, {}, {}, 0, {}, {}};
  std::vector<std::pair<int, int64_t>> integers;
  std::vector<bool> is_new;  // of the dimensions of the result that are not index dimensions
  Shape extents;             // of these
  int place = -1, last_group = -1, group = 0;
  bool adjacent = true;
  auto advanced = [&] {  // an array or, beside arrays, an integer: is it in the first group?
    if (place < 0)
      place = static_cast<int>(extents.size());
    else if (group != last_group)
      adjacent = false;
    last_group = group;
  };
  auto range = [&](int axis, const indexing::Range& r) {
    if (r.step == 0) fail("the step of a range is 0");
    int64_t n = shape[axis];
    int64_t start = r.start.value_or(r.step > 0 ? 0 : n - 1);
    int64_t stop = r.stop.value_or(r.step > 0 ? n : -n - 1);
    out.start[axis] = start;
    out.stop[axis] = stop;
    out.strides[axis] = r.step;
    out.extents[axis] = resolve_slice(n, start, stop, r.step).count;
    out.whole &= r.step == 1 && out.extents[axis] == n;
    extents.push_back(out.extents[axis]);
    is_new.push_back(false);
    ++group;
  };
  int axis = 0;
  for (auto& s : subscripts) {
    if (std::holds_alternative<indexing::Ellipsis>(s.value())) {
      for (int i = taken; i < ndim; ++i) range(axis++, {});
      ++group;
    } else if (std::holds_alternative<indexing::NewAxis>(s.value())) {
      extents.push_back(1);
      is_new.push_back(true);
      ++group;
    } else if (auto* r = std::get_if<indexing::Range>(&s.value())) {
      range(axis++, *r);
    } else if (auto* i = std::get_if<int64_t>(&s.value())) {
      int64_t n = shape[axis], at = *i < 0 ? *i + n : *i;
      if (at < 0 || at >= n)
        throw std::out_of_range("[index] index " + std::to_string(*i) + " is out of range for axis " +
                                std::to_string(axis) + " with extent " + std::to_string(n));
      integers.push_back({axis++, at});
      if (arrays) advanced();
    } else {
      out.axes.push_back(axis++);
      out.indices.push_back(std::get<array>(s.value()));
      advanced();
    }
  }
  for (; axis < ndim;) range(axis++, {});

  for (auto [at_axis, at] : integers) {
    if (arrays) {
      out.axes.push_back(at_axis);
      out.indices.push_back(array(at));
    } else {
      out.start[at_axis] = at;
      out.stop[at_axis] = at + 1;
      out.extents[at_axis] = 1;
      out.whole = false;
      out.dropped.push_back(at_axis);
    }
  }
  Shape index_shape;
  for (auto& index : out.indices) index_shape = broadcast_shapes(index_shape, index.shape(), "index");
  if (!arrays || !adjacent) place = 0;
  int index_ndim = static_cast<int>(index_shape.size());
  for (int i = 0; i < static_cast<int>(extents.size()); ++i) {
    if (is_new[i])
      out.new_axes.push_back(i < place ? i : i + index_ndim);
    else if (i < place)
      ++out.at;
  }
  out.result = extents;
  out.result.insert(out.result.begin() + place, index_shape.begin(), index_shape.end());
  return out;
}

Boxes boxes_of(const Selection& sel, size_t ndim) {
  Boxes boxes{sel.axes, std::vector<int>(sel.axes.size(), 1), Shape(ndim, -1), sel.at};
  for (int axis : sel.axes) boxes.extents[axis] = 1;
  return boxes;
}

// `values` broadcast to the result, then laid out as the selected part of the array.
array placed(const Selection& sel, const array& a, const array& values, const StreamOrDevice& s) {
  array v = values.dtype() == a.dtype() ? values : astype(values, a.dtype(), s);
  while (v.ndim() > sel.result.size() && v.shape(0) == 1) v = squeeze(v, 0, s);
  if (v.shape() != sel.result) {
    if (!detail::broadcasts_to(v.shape(), sel.result))
      throw std::invalid_argument("[index_update] values of shape " + to_string(values.shape()) +
                                  " do not broadcast to the selected elements, " + to_string(sel.result));
    v = broadcast_to(v, sel.result, s);
  }
  if (!sel.new_axes.empty()) v = squeeze(v, sel.new_axes, s);
  if (!sel.dropped.empty()) v = expand_dims(v, sel.dropped, s);
  return v;
}

array combine(Write how, const array& old, const array& v, const StreamOrDevice& s) {
  switch (how) {
    case Write::add: return add(old, v, s);
    case Write::subtract: return subtract(old, v, s);
    case Write::multiply: return multiply(old, v, s);
    case Write::divide: return divide(old, v, s);
    case Write::maximum: return maximum(old, v, s);
    case Write::minimum: return minimum(old, v, s);
    case Write::set: break;
  }
  return v;
}

// With index arrays: an element may be met several times.
array scatter_into(Write how, const array& a, const Selection& sel, const array& v, const StreamOrDevice& s) {
  Accumulate op = Accumulate::none;
  array values = v;
  switch (how) {
    case Write::set: break;
    case Write::add: op = Accumulate::add; break;
    case Write::subtract:
      op = Accumulate::add;
      values = negative(v, s);
      break;
    case Write::multiply: op = Accumulate::prod; break;
    case Write::divide:
      op = Accumulate::prod;
      values = reciprocal(v, s);
      break;
    case Write::maximum: op = Accumulate::max; break;
    case Write::minimum: op = Accumulate::min; break;
  }
  return detail::scatter(op, a, sel.indices, values, boxes_of(sel, a.ndim()), "index_update", s);
}

int kind_rank(Dtype t) {
  if (t == bool_) return 0;
  return issubdtype(t, integer) ? 1 : t == complex64 ? 3 : 2;
}

void check_combination(const array& a, const array& v, Write how) {
  if (how == Write::set) return;
  auto refuse = [](const std::string& what) { throw std::invalid_argument("[index_update] " + what); };
  if (how == Write::divide && kind_rank(a.dtype()) < 2)
    refuse("dividing elements of an array of " + std::string(dtype_name(a.dtype())) + " in place");
  if (kind_rank(v.dtype()) > kind_rank(a.dtype()))
    refuse("combining elements of " + std::string(dtype_name(a.dtype())) + " with values of " +
           std::string(dtype_name(v.dtype())) + " would lose their " +
           (v.dtype() == complex64 ? "imaginary parts" : "fractions") + "; convert one of them");
}

array mask_update(const array& a, const array& mask, const array& values, Write how,
                  const StreamOrDevice& s) {
  if (mask.ndim() > a.ndim() || !std::equal(mask.shape().begin(), mask.shape().end(), a.shape().begin()))
    throw std::invalid_argument("[index_update] a bool array of shape " + to_string(mask.shape()) +
                                " does not fit the leading axes of an array of shape " +
                                to_string(a.shape()));
  array v = values.dtype() == a.dtype() ? values : astype(values, a.dtype(), s);
  Shape row(a.shape().begin() + mask.ndim(), a.shape().end()), aligned = mask.shape();
  aligned.resize(a.ndim(), 1);
  if (v.ndim() == row.size() + 1 && v.shape(0) == 1) v = squeeze(v, 0, s);
  bool rowwise = v.ndim() == row.size() + 1;
  Shape expected = row;
  if (rowwise) expected.insert(expected.begin(), v.shape(0));
  if (!detail::broadcasts_to(v.shape(), expected))
    throw std::invalid_argument("[index_update] values of shape " + to_string(values.shape()) +
                                " fit neither one true element, " + to_string(row) + ", nor rows of them");
  if (rowwise) {
    v = broadcast_to(v, expected, s);
    if (how == Write::set) return masked_scatter(a, mask, v, s);
    v = masked_scatter(zeros_like(a, s), mask, v, s);
  }
  return where(reshape(mask, aligned, s), combine(how, a, v, s), a, s);
}

}  // namespace

array index(const array& a, const Subscripts& subscripts, StreamOrDevice s) {
  Selection sel = select(a, subscripts);
  array out = sel.whole ? a : slice(a, sel.start, sel.stop, sel.strides, s);
  if (!sel.indices.empty()) out = detail::gather(out, sel.indices, boxes_of(sel, a.ndim()), "index", s);
  if (!sel.dropped.empty()) out = squeeze(out, sel.dropped, s);
  if (!sel.new_axes.empty()) out = expand_dims(out, sel.new_axes, s);
  return out;
}

array index_update(const array& a, const Subscripts& subscripts, const array& values, Write how,
                   StreamOrDevice s) {
  check_combination(a, values, how);
  if (!subscripts.empty() && is_mask(subscripts[0])) {
    for (size_t i = 1; i < subscripts.size(); ++i) {
      auto* r = std::get_if<indexing::Range>(&subscripts[i].value());
      bool whole = r ? !r->start && !r->stop && r->step == 1
                     : std::holds_alternative<indexing::Ellipsis>(subscripts[i].value());
      if (!whole) fail("a bool array can be followed by whole axes only");
    }
    return mask_update(a, std::get<array>(subscripts[0].value()), values, how, s);
  }
  Selection sel = select(a, subscripts);
  array v = placed(sel, a, values, s);
  if (sel.whole) return sel.indices.empty() ? combine(how, a, v, s) : scatter_into(how, a, sel, v, s);
  if (how == Write::set && sel.indices.empty())
    return slice_update(a, v, sel.start, sel.stop, sel.strides, s);
  array part = slice(a, sel.start, sel.stop, sel.strides, s);
  part = sel.indices.empty() ? combine(how, part, v, s) : scatter_into(how, part, sel, v, s);
  return slice_update(a, part, sel.start, sel.stop, sel.strides, s);
}

// ---- array's members ----

array array::operator()(Sub i, Where w) const { return index(*this, {i}, w); }
array array::operator()(Sub i, Sub j, Where w) const { return index(*this, {i, j}, w); }
array array::operator()(Sub i, Sub j, Sub k, Where w) const { return index(*this, {i, j, k}, w); }
array array::operator()(Sub i, Sub j, Sub k, Sub l, Where w) const { return index(*this, {i, j, k, l}, w); }
array array::operator()(Sub i, Sub j, Sub k, Sub l, Sub m, Where w) const {
  return index(*this, {i, j, k, l, m}, w);
}
IndexedArray array::at(Sub i, Where w) & { return {*this, {i}, w}; }
IndexedArray array::at(Sub i, Sub j, Where w) & { return {*this, {i, j}, w}; }
IndexedArray array::at(Sub i, Sub j, Sub k, Where w) & { return {*this, {i, j, k}, w}; }
IndexedArray array::at(Sub i, Sub j, Sub k, Sub l, Where w) & { return {*this, {i, j, k, l}, w}; }
IndexedArray array::at(Sub i, Sub j, Sub k, Sub l, Sub m, Where w) & { return {*this, {i, j, k, l, m}, w}; }
IndexedValue array::at(Sub i, Where w) const& { return {*this, {i}, w}; }
IndexedValue array::at(Sub i, Sub j, Where w) const& { return {*this, {i, j}, w}; }
IndexedValue array::at(Sub i, Sub j, Sub k, Where w) const& { return {*this, {i, j, k}, w}; }
IndexedValue array::at(Sub i, Sub j, Sub k, Sub l, Where w) const& { return {*this, {i, j, k, l}, w}; }
IndexedValue array::at(Sub i, Sub j, Sub k, Sub l, Sub m, Where w) const& {
  return {*this, {i, j, k, l, m}, w};
}

}  // namespace lazuli
