// Parameters<Base, P>: equals, hash and describe of a primitive from one list of its
// parameters.
//
//     class Transpose : public Parameters<ViewPrimitive, Transpose> {
//      public:
//       auto params() const { return std::tie(axes); }
//       static constexpr const char* param_names[] = {"axes"};
#pragma once

#include <functional>
#include <string>
#include <tuple>

#include "lazuli/primitive.h"

namespace lazuli::detail {

template <class T>
void hash_append(size_t& seed, const T& x) {
  if constexpr (requires { x.begin(); }) {
    hash_append(seed, x.size());
    for (auto v : x) hash_append(seed, static_cast<int64_t>(v));
  } else if constexpr (std::same_as<T, Dtype>) {
    hash_append(seed, static_cast<int64_t>(x.val()));
  } else {
    seed ^= std::hash<T>{}(x) + 0x9e3779b97f4a7c15ull + (seed << 6) + (seed >> 2);
  }
}

template <class T>
std::string param_string(const T& x) {
  if constexpr (requires { x.begin(); })
    return to_string(Shape(x.begin(), x.end()));
  else if constexpr (std::same_as<T, Dtype>)
    return std::string(dtype_name(x));
  else if constexpr (std::same_as<T, bool>)
    return x ? "true" : "false";
  else
    return std::to_string(x);
}

template <class Base, class P>
class Parameters : public Base {
 public:
  using Base::Base;
  bool equals(const Primitive& o) const override {
    return self().params() == static_cast<const P&>(o).params();
  }
  size_t hash() const override {
    size_t seed = 0;
    std::apply([&](const auto&... x) { (hash_append(seed, x), ...); }, self().params());
    return seed;
  }
  std::string describe() const override {
    std::string text;
    size_t i = 0;
    std::apply(
        [&](const auto&... x) {
          (((text += i ? ", " : ""), (text += P::param_names[i++]), (text += "="), text += param_string(x)),
           ...);
        },
        self().params());
    return text;
  }

 private:
  const P& self() const { return static_cast<const P&>(*this); }
};

}  // namespace lazuli::detail
