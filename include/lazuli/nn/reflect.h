// The members of an aggregate: their number, names and addresses, found at compile time.
//
// Internal to nn/module.h. Works for aggregates without base classes and C-array members, of at
// most kMaxFields members. Each field count needs a structured binding of that length: the table
// at the end.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace lazuli::nn::reflect {

inline constexpr size_t kMaxFields = 32;

// Converts to anything; used only inside requires-expressions.
struct Anything {
  template <class T>
  operator T() const;
};

template <class T, size_t... I>
consteval bool takes(std::index_sequence<I...>) {
  return requires { T{(void(I), Anything{})...}; };
}

template <class T, size_t N = kMaxFields + 1>
consteval size_t count_fields() {
  if constexpr (takes<T>(std::make_index_sequence<N>{}))
    return N;
  else if constexpr (N == 0)
    return 0;
  else
    return count_fields<T, N - 1>();
}

// The number of members of T, or kMaxFields + 1 if there are more than kMaxFields.
template <class T>
inline constexpr size_t num_fields = count_fields<T>();

// A tuple of references to the members of `object`.
template <class T>
constexpr auto tie_fields(T& object) {
  constexpr size_t n = num_fields<std::remove_const_t<T>>;
  static_assert(n <= kMaxFields,
                "nn: a module may have at most 32 members: group some in a struct, or offer "
                "`void members(nn::Visitor& visit)`");
  if constexpr (n == 0) return std::tuple<>();
#define LAZULI_FIELDS(N, ...)     \
  else if constexpr (n == N) {    \
    auto& [__VA_ARGS__] = object; \
    return std::tie(__VA_ARGS__); \
  }
  LAZULI_FIELDS(1, a)
  LAZULI_FIELDS(2, a, b)
  LAZULI_FIELDS(3, a, b, c)
  LAZULI_FIELDS(4, a, b, c, d)
  LAZULI_FIELDS(5, a, b, c, d, e)
  LAZULI_FIELDS(6, a, b, c, d, e, f)
  LAZULI_FIELDS(7, a, b, c, d, e, f, g)
  LAZULI_FIELDS(8, a, b, c, d, e, f, g, h)
  LAZULI_FIELDS(9, a, b, c, d, e, f, g, h, i)
  LAZULI_FIELDS(10, a, b, c, d, e, f, g, h, i, j)
  LAZULI_FIELDS(11, a, b, c, d, e, f, g, h, i, j, k)
  LAZULI_FIELDS(12, a, b, c, d, e, f, g, h, i, j, k, l)
  LAZULI_FIELDS(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  LAZULI_FIELDS(14, a, b, c, d, e, f, g, h, i, j, k, l, m, o)
  LAZULI_FIELDS(15, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p)
  LAZULI_FIELDS(16, a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q)
#define LAZULI_16 a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q
  LAZULI_FIELDS(17, LAZULI_16, A)
  LAZULI_FIELDS(18, LAZULI_16, A, B)
  LAZULI_FIELDS(19, LAZULI_16, A, B, C)
  LAZULI_FIELDS(20, LAZULI_16, A, B, C, D)
  LAZULI_FIELDS(21, LAZULI_16, A, B, C, D, E)
  LAZULI_FIELDS(22, LAZULI_16, A, B, C, D, E, F)
  LAZULI_FIELDS(23, LAZULI_16, A, B, C, D, E, F, G)
  LAZULI_FIELDS(24, LAZULI_16, A, B, C, D, E, F, G, H)
  LAZULI_FIELDS(25, LAZULI_16, A, B, C, D, E, F, G, H, I)
  LAZULI_FIELDS(26, LAZULI_16, A, B, C, D, E, F, G, H, I, J)
  LAZULI_FIELDS(27, LAZULI_16, A, B, C, D, E, F, G, H, I, J, K)
  LAZULI_FIELDS(28, LAZULI_16, A, B, C, D, E, F, G, H, I, J, K, L)
  LAZULI_FIELDS(29, LAZULI_16, A, B, C, D, E, F, G, H, I, J, K, L, M)
  LAZULI_FIELDS(30, LAZULI_16, A, B, C, D, E, F, G, H, I, J, K, L, M, O)
  LAZULI_FIELDS(31, LAZULI_16, A, B, C, D, E, F, G, H, I, J, K, L, M, O, P)
  LAZULI_FIELDS(32, LAZULI_16, A, B, C, D, E, F, G, H, I, J, K, L, M, O, P, Q)
#undef LAZULI_16
#undef LAZULI_FIELDS
}

template <class T>
using Fields = decltype(tie_fields(std::declval<T&>()));
template <class T, size_t I>
using Field = std::remove_cvref_t<std::tuple_element_t<I, Fields<T>>>;

// The compiler spells a pointer to a member of this object, which never exists, with the
// member's name. Only its address is used, in template arguments, so it is never linked.
template <class T>
struct Imaginary {
  static const Imaginary object;
  T value;
};
template <class T>
struct Pointer {  // Clang takes a pointer to a subobject as template argument only inside a class
  const T* to;
};

#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wundefined-var-template"
#pragma clang diagnostic ignored "-Wundefined-internal"
#endif
template <class T, size_t I>
consteval auto field_pointer() {
  return &std::get<I>(tie_fields(Imaginary<T>::object.value));
}
#if defined(__clang__)
#pragma clang diagnostic pop
#endif

template <auto P>
consteval std::string_view spelled() {
  // GCC "... [with auto P = Pointer<X>{(& Imaginary<S>::object.Imaginary<S>::value.S::name)}; ...]"
  // Clang "... [P = {&object.value.name}]"
  std::string_view s = __PRETTY_FUNCTION__;
#if defined(__clang__)
  size_t end = s.rfind('}');
#else
  size_t end = s.rfind(")}");
#endif
  s = s.substr(0, end);
  return s.substr(s.find_last_of(".:") + 1);
}

// The name of member I of T.
template <class T, size_t I>
inline constexpr std::string_view field_name = spelled<Pointer<Field<T, I>>{field_pointer<T, I>()}>();

// The unqualified name of a type: "Linear".
template <class T>
consteval std::string_view type_name() {
  std::string_view s = __PRETTY_FUNCTION__;
  s = s.substr(s.find("T = ") + 4);
  // The type ends at the first ';' or ']' outside of template arguments.
  size_t depth = 0, start = 0, end = 0;
  for (; end < s.size(); ++end) {
    char c = s[end];
    if (c == '<' || c == '(' || c == '{' || c == '[')
      ++depth;
    else if (depth == 0 && (c == ';' || c == ']'))
      break;
    else if (c == '>' || c == ')' || c == '}' || c == ']')
      --depth;
    else if (depth == 0 && c == ':')
      start = end + 1;
  }
  return s.substr(start, end - start);
}

}  // namespace lazuli::nn::reflect
