#include "lazuli/shape.h"

#include <ostream>

namespace lazuli {

int64_t size_of(const Shape& shape) {
  int64_t n = 1;
  bool empty = false;
  for (int64_t d : shape) {
    if (d < 0)
      throw std::invalid_argument("a shape must not have negative extents, but found " + to_string(shape));
    empty |= d == 0;
    if (d != 0 && __builtin_mul_overflow(n, d, &n))
      throw std::overflow_error("the number of elements of shape " + to_string(shape) +
                                " does not fit in 64 bits");
  }
  return empty ? 0 : n;
}

Strides row_strides(const Shape& shape) {
  Strides strides(shape.size());
  int64_t n = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = n;
    n *= std::max<int64_t>(shape[i], 1);
  }
  return strides;
}

Shape broadcast_shapes(const Shape& a, const Shape& b, const char* op) {
  const Shape& wide = a.size() >= b.size() ? a : b;
  const Shape& narrow = a.size() >= b.size() ? b : a;
  Shape out = wide;
  size_t lead = wide.size() - narrow.size();
  for (size_t i = 0; i < narrow.size(); ++i) {
    int64_t& d = out[lead + i];
    if (d == narrow[i] || narrow[i] == 1) continue;
    if (d != 1)
      throw std::invalid_argument("[" + std::string(op) + "] shapes " + to_string(a) + " and " +
                                  to_string(b) + " cannot be broadcast together");
    d = narrow[i];
  }
  return out;
}
Shape broadcast_shapes(const Shape& a, const Shape& b) { return broadcast_shapes(a, b, "broadcast_shapes"); }

int normalize_axis(int axis, size_t ndim, const char* op) {
  int n = static_cast<int>(ndim), normal = axis < 0 ? axis + n : axis;
  if (normal < 0 || normal >= n)
    throw std::out_of_range("[" + std::string(op) + "] axis " + std::to_string(axis) +
                            " is out of range for an array with " + std::to_string(n) + " dimensions");
  return normal;
}
int normalize_axis_index(int axis, int ndim, const std::string& message_prefix) {
  int normal = axis < 0 ? axis + ndim : axis;
  if (normal < 0 || normal >= ndim)
    throw std::out_of_range(message_prefix + "axis " + std::to_string(axis) +
                            " is out of range for an array with " + std::to_string(ndim) + " dimensions");
  return normal;
}

std::string to_string(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}
std::ostream& operator<<(std::ostream& os, const Shape& shape) { return os << to_string(shape); }

}  // namespace lazuli
