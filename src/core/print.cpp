#include <atomic>
#include <ostream>
#include <sstream>

#include "lazuli/array.h"

namespace lazuli {
namespace {

std::atomic<int> precision{-1};
constexpr int64_t kMostEntries = 6, kEdgeEntries = 3;

template <class T>
void print_element(std::ostream& os, T x) {
  if constexpr (std::same_as<T, bool>)
    os << (x ? "true" : "false");
  else if constexpr (std::same_as<T, complex64_t>)
    os << x.real() << (x.imag() >= 0 || x.imag() != x.imag() ? "+" : "") << x.imag() << "j";
  else if constexpr (sizeof(T) == 1)
    os << static_cast<int>(x);
  else if constexpr (std::same_as<T, float16_t> || std::same_as<T, bfloat16_t>)
    os << static_cast<float>(x);
  else
    os << x;
}

template <class T>
void print_axis(std::ostream& os, const T* data, const Shape& shape, size_t axis, int64_t size) {
  int64_t n = shape[axis], stride = n ? size / n : 0;
  bool last = axis + 1 == shape.size();
  std::string separator = last ? ", " : ",\n" + std::string(7 + axis, ' ');
  os << "[";
  for (int64_t i = 0; i < n; ++i) {
    if (i) os << separator;
    if (n > kMostEntries && i == kEdgeEntries) {
      os << "..." << separator;
      i = n - kEdgeEntries;
    }
    if (last)
      print_element(os, data[i]);
    else
      print_axis(os, data + i * stride, shape, axis + 1, stride);
  }
  os << "]";
}

}  // namespace

void set_printoptions(PrintOptions options) { precision = options.precision; }
PrintOptions get_printoptions() { return {precision}; }

std::ostream& operator<<(std::ostream& os, const array& a) {
  std::ostringstream text;  // the caller's flags do not apply
  if (precision >= 0) text.precision(precision);
  text << "array(";
  dispatch_dtype(a.dtype(), [&]<class T>(T) {
    const T* data = a.data<T>();
    if (a.ndim() == 0)
      print_element(text, *data);
    else if (a.size() == 0)
      text << "[]";
    else
      print_axis(text, data, a.shape(), 0, static_cast<int64_t>(a.size()));
  });
  text << ", dtype=" << a.dtype() << ")";
  return os << text.str();
}

std::string to_string(const array& a) {
  std::ostringstream os;
  os << a;
  return os.str();
}

}  // namespace lazuli
