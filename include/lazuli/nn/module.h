// Modules: structs whose members are parameters and other modules. docs/modules.md is the design.
//
//     struct MLP {
//       nn::Linear fc1{784, 32};
//       nn::Linear fc2{32, 10};
//       array operator()(const array& x) const { return fc2(nn::relu(fc1(x))); }
//     };
//     MLP model;
//     nn::Tree weights = nn::parameters(model);          // fc1.weight, fc1.bias, fc2.weight, fc2.bias
//     nn::freeze(model.fc1);
//     nn::save_weights(model, "mlp.safetensors");
//
// Copying a module copies it: the two share no state. The functions below read or write the one
// module they are given; different modules may be used from different threads.
#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <iosfwd>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "lazuli/array.h"
#include "lazuli/nn/reflect.h"
#include "lazuli/nn/tree.h"
#include "lazuli/transforms.h"

namespace lazuli::nn {

// ---------------------------------------------------------------- what members can be

// An array that is trained and saved. Assigning an array keeps the mark.
class Parameter : public array {
 public:
  Parameter(array value) : array(std::move(value)) {}
  Parameter& operator=(array value) & {
    array::operator=(std::move(value));
    return *this;
  }
  bool frozen() const { return frozen_; }
  void freeze(bool on = true) { frozen_ = on; }

 private:
  bool frozen_ = false;
};

// An array that is saved but never trained: running statistics.
class Buffer : public array {
 public:
  Buffer(array value) : array(std::move(value)) {}
  Buffer& operator=(array value) & {
    array::operator=(std::move(value));
    return *this;
  }
};

// An array that is neither trained nor saved.
class Constant : public array {
 public:
  Constant(array value) : array(std::move(value)) {}
  Constant& operator=(array value) & {
    array::operator=(std::move(value));
    return *this;
  }
};

// Training mode; true at first. nn::train sets it in all parts of a model.
struct Training {
  bool on = true;
  explicit operator bool() const { return on; }
};

// ---------------------------------------------------------------- a module without its type

class ModuleRef;

// What is called with the members of a module. Derive from it to walk over modules.
class Visitor {
 public:
  virtual ~Visitor() = default;
  // What `members` functions of modules call for each member; configuration need not be named.
  template <class T>
  void operator()(std::string_view name, T& member);

  virtual void parameter(std::string_view, Parameter&) {}
  virtual void buffer(std::string_view, Buffer&) {}
  virtual void training(Training&) {}
  virtual void child(std::string_view name, const ModuleRef& m);  // default: goes on inside
};

namespace detail {
struct ModuleType {
  std::string_view name;  // "Linear"; empty for containers
  void (*members)(void* self, Visitor& visit);
  const void* id;  // differs between types
};
template <class T>
struct TypeId {
  static constexpr char id = 0;
};
template <class T>
const ModuleType& module_type();
extern const ModuleType function_type;  // of functions in an AnyModule: no members
}  // namespace detail

// A class that names its members with `void members(nn::Visitor& visit)`.
template <class T>
concept NamesMembers = requires(T& t, Visitor& v) {
  t.members(v);
};

// An aggregate, or a class that names its members.
template <class T>
concept Module = std::is_class_v<T> &&
                 (NamesMembers<T> || std::is_aggregate_v<T>)&&!std::derived_from<T, array> &&
                 !std::same_as<T, Training>;

// A module seen through two pointers; valid while the module lives where it is. Made implicitly
// from any module. One made from a const module is only read.
class ModuleRef {
 public:
  template <class M>
  requires Module<std::remove_const_t<M>> &&
      (!std::same_as<std::remove_const_t<M>, ModuleRef>)ModuleRef(M& module)
      : ModuleRef(of(const_cast<std::remove_const_t<M>&>(module))) {}
  ModuleRef(void* self, const detail::ModuleType& type) : self_(self), type_(&type) {}

  std::string_view type_name() const { return type_->name; }
  void members(Visitor& visit) const { type_->members(self_, visit); }
  // The module itself if it is an M, else nullptr.
  template <Module M>
  M* get_if() const {
    return type_->id == &detail::TypeId<M>::id ? static_cast<M*>(self_) : nullptr;
  }

 private:
  template <class M>
  static ModuleRef of(M& module) {
    if constexpr (requires {
                    { module.as_module() } -> std::same_as<ModuleRef>;
                  })
      return module.as_module();
    else
      return {&module, detail::module_type<M>()};
  }
  void* self_;
  const detail::ModuleType* type_;
};

// A module that is only read; also made from temporaries.
class ConstModuleRef : public ModuleRef {
 public:
  template <Module M>
  requires(!std::derived_from<M, ModuleRef>) ConstModuleRef(const M& module) : ModuleRef(module) {}
  ConstModuleRef(const ModuleRef& m) : ModuleRef(m) {}
};

// ---------------------------------------------------------------- trees of parameters

// All that is saved: parameters, frozen ones too, and buffers. As Python MLX's `parameters()`.
Tree parameters(ConstModuleRef m);
Tree trainable_parameters(ConstModuleRef m);  // those not frozen
Tree buffers(ConstModuleRef m);
// The number of elements of all parameters; buffers not counted.
int64_t num_parameters(ConstModuleRef m);

// Puts arrays in the place of those of the same paths. Unless `strict`, paths that the model
// does not have are skipped. A wrong shape is always an error; the dtype may change. Nothing is changed if
// an error is found: std::invalid_argument listing all unexpected and mis-shaped paths.
void update(ModuleRef m, const Tree& values, bool strict = true);

// f(path, array) -> array, on all that `parameters` returns. f may change shapes.
void map_parameters(ModuleRef m, const std::function<array(const std::string&, const array&)>& f);
void map_parameters(ModuleRef m, const std::function<array(const array&)>& f);

// Converts floating point parameters and buffers. The predicate chooses by present dtype.
void set_dtype(ModuleRef m, Dtype dtype, const std::function<bool(Dtype)>& predicate = {});

// ---------------------------------------------------------------- modes

struct FreezeOptions {
  bool recurse = true;                 // into parts, or only the module's own parameters
  std::vector<std::string> keys = {};  // names such as "bias"; empty means all
  bool strict = false;                 // throw std::invalid_argument for a key that no part has
};
// Frozen parameters get no gradient and are left alone by optimizers.
void freeze(ModuleRef m, const FreezeOptions& options = {});
void unfreeze(ModuleRef m, const FreezeOptions& options = {});

// Training mode on or off: dropout, batch statistics.
void train(ModuleRef m, bool mode = true);

// ---------------------------------------------------------------- files

// Writes parameters(m) as safetensors; other programs find the arrays under the same names.
void save_weights(ConstModuleRef m, const std::string& file,
                  const std::unordered_map<std::string, std::string>& metadata = {});

// Reads a safetensors file. If `strict`, the file must hold exactly the model's arrays:
// std::invalid_argument lists missing, unexpected and mis-shaped keys, and the model is unchanged.
// Without `strict` only shapes must fit. Returns the file's metadata.
std::unordered_map<std::string, std::string> load_weights(ModuleRef m, const std::string& file,
                                                          bool strict = true);
void load_weights(ModuleRef m, const Tree& weights, bool strict = true);

// ---------------------------------------------------------------- looking at a model

// The module and all its parts with their paths; the path of the whole is "".
std::vector<std::pair<std::string, ModuleRef>> named_modules(ModuleRef m);

// A table: path, type, shapes, number of parameters; totals below.
std::string summary(ConstModuleRef m);

// ---------------------------------------------------------------- building

// n modules, each built anew as M{args...}, so that each draws its own random weights.
template <Module M, class... Args>
std::vector<M> make_layers(size_t n, const Args&... args) {
  std::vector<M> out;
  out.reserve(n);
  for (size_t i = 0; i < n; ++i) out.push_back(M{args...});
  return out;
}

// ---------------------------------------------------------------- implementation

namespace detail {

template <class T, template <class...> class Template>
inline constexpr bool is_a = false;
template <template <class...> class Template, class... A>
inline constexpr bool is_a<Template<A...>, Template> = true;

template <class T>
inline constexpr bool is_std_array = false;
template <class T, size_t N>
inline constexpr bool is_std_array<std::array<T, N>> = true;

template <class T>
concept Mark = std::same_as<T, Parameter> || std::same_as<T, Buffer> || std::same_as<T, Training>;
template <class T>
concept List = is_a<T, std::vector> || is_std_array<T>;
template <class T>
concept Dictionary = is_a<T, std::map> && std::convertible_to<typename T::key_type, std::string_view>;
template <class T>
concept Product = is_a<T, std::tuple> || is_a<T, std::pair>;
template <class T>
concept Maybe = is_a<T, std::optional> || is_a<T, std::unique_ptr>;

template <class T>
consteval bool holds_parts();

// Does a T contain anything that the functions above act on?
template <class T>
inline constexpr bool holds = holds_parts<std::remove_cv_t<T>>();

template <class... A>
consteval bool any_holds(const std::variant<A...>*) {
  return (holds<A> || ...);
}
template <class T, size_t... I>
consteval bool fields_hold(std::index_sequence<I...>) {
  return (holds<reflect::Field<T, I>> || ...);
}
template <class T>
consteval bool holds_parts() {
  if constexpr (Mark<T> || NamesMembers<T>) {
    return true;
  } else if constexpr (std::same_as<T, Constant>) {
    return false;
  } else if constexpr (std::derived_from<T, array>) {
    return true;  // refused when visited
  } else if constexpr (List<T>) {
    return holds<typename T::value_type>;
  } else if constexpr (Maybe<T>) {
    return holds<std::remove_cvref_t<decltype(*std::declval<T&>())>>;
  } else if constexpr (is_a<T, std::map> || is_a<T, std::unordered_map>) {
    return holds<typename T::mapped_type>;
  } else if constexpr (is_a<T, std::shared_ptr>) {
    return holds<typename T::element_type>;
  } else if constexpr (Product<T>) {
    return []<size_t... I>(std::index_sequence<I...>) { return (holds<std::tuple_element_t<I, T>> || ...); }
    (std::make_index_sequence<std::tuple_size_v<T>>{});
  } else if constexpr (is_a<T, std::variant>) {
    return any_holds(static_cast<const T*>(nullptr));
  } else if constexpr (std::is_class_v<T> && std::is_aggregate_v<T>) {
    constexpr size_t n = reflect::num_fields<T>;
    if constexpr (n <= reflect::kMaxFields)
      return fields_hold<T>(std::make_index_sequence<n>{});
    else
      return false;  // too many members for a module: configuration
  } else {
    return false;
  }
}

template <class T>
void list_members(void* self, Visitor& visit) {
  size_t i = 0;
  for (auto& item : *static_cast<T*>(self)) visit(std::to_string(i++), item);
}
template <class T>
void dictionary_members(void* self, Visitor& visit) {
  for (auto& [key, item] : *static_cast<T*>(self)) visit(key, item);
}
template <class T>
void product_members(void* self, Visitor& visit) {
  std::apply(
      [&](auto&... item) {
        size_t i = 0;
        (visit(std::to_string(i++), item), ...);
      },
      *static_cast<T*>(self));
}
template <class T>
void module_members(void* self, Visitor& visit) {
  T& module = *static_cast<T*>(self);
  if constexpr (NamesMembers<T>) {
    module.members(visit);
  } else {
    auto fields = reflect::tie_fields(module);
    [&]<size_t... I>(std::index_sequence<I...>) {
      (visit(reflect::field_name<T, I>, std::get<I>(fields)), ...);
    }
    (std::make_index_sequence<std::tuple_size_v<decltype(fields)>>{});
  }
}

template <class T>
constexpr auto members_function() {
  if constexpr (List<T>)
    return &list_members<T>;
  else if constexpr (Dictionary<T>)
    return &dictionary_members<T>;
  else if constexpr (Product<T>)
    return &product_members<T>;
  else
    return &module_members<T>;
}
template <class T>
inline constexpr bool is_container = List<T> || Dictionary<T> || Product<T>;

template <class T>
const ModuleType& module_type() {
  static constexpr ModuleType type{is_container<T> ? std::string_view() : reflect::type_name<T>(),
                                   members_function<T>(), &TypeId<T>::id};
  return type;
}

}  // namespace detail

inline void Visitor::child(std::string_view, const ModuleRef& m) { m.members(*this); }

template <class T>
void Visitor::operator()(std::string_view name, T& member) {
  static_assert(!std::is_const_v<T>, "nn: members of modules must not be const");
  if constexpr (std::same_as<T, Parameter>) {
    parameter(name, member);
  } else if constexpr (std::same_as<T, Buffer>) {
    buffer(name, member);
  } else if constexpr (std::same_as<T, Training>) {
    training(member);
  } else if constexpr (!detail::holds<T>) {
    // configuration
  } else if constexpr (std::derived_from<T, array>) {
    static_assert(!std::derived_from<T, array>,
                  "nn: say what this array is: nn::Parameter (trained, saved), nn::Buffer (saved) or "
                  "nn::Constant (neither)");
  } else if constexpr (detail::is_a<T, std::shared_ptr>) {
    static_assert(!detail::is_a<T, std::shared_ptr>,
                  "nn: copies of this module would share what a std::shared_ptr holds: own it as a "
                  "member, a std::unique_ptr or an nn::AnyModule");
  } else if constexpr (detail::Maybe<T>) {
    if (member) (*this)(name, *member);
  } else if constexpr (detail::is_a<T, std::variant>) {
    std::visit([&](auto& alternative) { (*this)(name, alternative); }, member);
  } else if constexpr (detail::is_container<T>) {
    child(name, ModuleRef(&member, detail::module_type<T>()));
  } else {
    static_assert(
        Module<T>,
        "nn: modules and parameters are found in std::vector, array, map (with string keys), tuple, "
        "pair, optional, variant and unique_ptr, not in this type");
    child(name, ModuleRef(member));
  }
}

}  // namespace lazuli::nn

namespace lazuli {

// Computes arrays, trees and all arrays of modules and optimizers now:
// eval(loss, model, optimizer).
namespace detail {
template <class T>
void append_arrays(std::vector<array>& out, const T& x) {
  if constexpr (std::derived_from<T, array>) {
    out.push_back(x);
  } else if constexpr (std::same_as<T, nn::Tree>) {
    for (const auto& entry : x) out.push_back(entry.second);
  } else if constexpr (requires {
                         { x.state() } -> std::same_as<nn::Tree>;
                       }) {
    append_arrays(out, x.state());
  } else {
    append_arrays(out, nn::parameters(x));
  }
}
template <class T>
concept HoldsArrays = std::derived_from<T, array> || std::same_as<T, nn::Tree> || nn::Module<T> ||
    requires(const T& x) {
  { x.state() } -> std::same_as<nn::Tree>;
};
}  // namespace detail

template <class... T>
requires((detail::HoldsArrays<T> && ...) && !Arrays<T...>) void eval(const T&... things) {
  std::vector<array> arrays;
  (detail::append_arrays(arrays, things), ...);
  lazuli::eval(arrays);
}

}  // namespace lazuli
