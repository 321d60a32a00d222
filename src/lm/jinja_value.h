// Values of the template language: Python's, as far as templates see them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lazuli::lm::jinja {

// A fault that does not know its place yet; the interpreter adds line and column.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a rendering may still spend. Values are charged for what they take, so memory is bounded too.
class Budget {
 public:
  void charge(size_t steps) {
    if (steps > left_) throw Failure("the template takes too long, or too much memory");
    left_ -= steps;
  }
  // Before a string of this size is made.
  void charge_bytes(size_t bytes) { charge(1 + bytes / 8); }

 private:
  size_t left_ = 20'000'000;
};

class Value;
struct Args;
struct Engine;  // what functions may ask of the interpreter

struct Undefined {
  std::string name;
  bool operator==(const Undefined&) const { return true; }
};
struct None {
  bool operator==(const None&) const = default;
};
struct List {
  std::vector<Value> items;
  bool tuple = false;
};
struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion
  bool is_namespace = false;
  const Value* find(const Value& key) const;
  const Value* find_text(std::string_view key) const;
  void set(Value key, Value value);
};
struct Function;

class Value {
 public:
  using String = std::shared_ptr<const std::string>;
  using Data = std::variant<Undefined, None, bool, int64_t, double, String, std::shared_ptr<List>,
                            std::shared_ptr<Dict>, std::shared_ptr<const Function>>;

  Value() : data_(None{}) {}
  Value(bool b) : data_(b) {}
  Value(int i) : data_(int64_t{i}) {}
  Value(int64_t i) : data_(i) {}
  Value(double d) : data_(d) {}
  Value(std::string s) : data_(std::make_shared<const std::string>(std::move(s))) {}
  Value(std::string_view s) : Value(std::string(s)) {}
  Value(const char* s) : Value(std::string(s)) {}
  // Containers know how deep they are: printing and freeing them recurses.
  Value(List list);
  Value(Dict dict);
  Value(Function f);
  static Value undefined(std::string name) {
    Value v;
    v.data_ = Undefined{std::move(name)};
    return v;
  }
  static Value list(std::vector<Value> items) { return Value(List{std::move(items), false}); }
  static Value tuple(std::vector<Value> items) { return Value(List{std::move(items), true}); }

  template <class T>
  const T* as() const {
    if constexpr (std::is_same_v<T, std::string>) {
      auto* s = std::get_if<String>(&data_);
      return s ? s->get() : nullptr;
    } else if constexpr (std::is_same_v<T, List> || std::is_same_v<T, Dict>) {
      auto* p = std::get_if<std::shared_ptr<T>>(&data_);
      return p ? p->get() : nullptr;
    } else if constexpr (std::is_same_v<T, Function>) {
      auto* p = std::get_if<std::shared_ptr<const T>>(&data_);
      return p ? p->get() : nullptr;
    } else {
      return std::get_if<T>(&data_);
    }
  }
  template <class T>
  bool is() const {
    return as<T>() != nullptr;
  }
  // The one value that changes after it was made.
  Dict* as_namespace() const;
  bool is_dict() const { return is<Dict>() && !as<Dict>()->is_namespace; }
  bool is_number() const { return is<bool>() || is<int64_t>() || is<double>(); }
  bool is_integral() const { return is<bool>() || is<int64_t>(); }
  int64_t integer() const;  // of bool and int
  double real() const;      // of any number

  int depth() const { return depth_; }
  // How much work it is to look at all of it, shared parts as often as they occur.
  size_t weight() const;
  bool holds_namespace() const { return holds_namespace_; }

  const char* type_name() const;  // Python's: "str"
  bool truthy() const;
  bool operator==(const Value& o) const;

 private:
  Data data_;
  uint32_t weight_ = 1;
  int16_t depth_ = 0;
  bool holds_namespace_ = false;
};

struct Function {
  std::string name;
  std::function<Value(Engine&, const Args&)> call;
  Value holds = {};  // what `call` keeps alive
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // The argument at a position or of a name; null if it is not given.
  const Value* find(size_t at, std::string_view name) const;
};

struct Engine {
  Budget budget;
  virtual ~Engine() = default;
  virtual Value filter(const std::string& name, const Value& x, const Args& args) = 0;
  virtual bool test(const std::string& name, const Value& x, const Args& args) = 0;
};

// Python's str(x) and repr(x).
std::string to_text(const Value& v, Budget& budget);
std::string to_repr(const Value& v, Budget& budget);
std::string real_text(double d);

struct JsonStyle {
  int indent = -1;  // negative: one line
  bool ascii = false, sort_keys = false;
  std::string comma = ", ", colon = ": ";
};
std::string to_json(const Value& v, const JsonStyle& style, Budget& budget);
// Throws std::invalid_argument "[chat_template] WHAT: not valid JSON (at byte N)".
Value from_json(std::string_view text, std::string_view what);

// Less than, of numbers, strings and lists. Throws Failure for others.
bool less(const Value& a, const Value& b);
bool contains(const Value& container, const Value& x);
// The items that a loop visits: elements, keys, characters.
std::vector<Value> iterate(const Value& v, Budget& budget);
size_t length(const Value& v);

// Text is UTF-8; Python counts code points.
size_t count_code_points(std::string_view s);
std::vector<std::string_view> code_points(std::string_view s);

// x.name: methods first, then items, as Jinja does; undefined if there is neither.
Value attribute(const Value& x, const std::string& name);
// x[key]
Value item(const Value& x, const Value& key);
Value slice(const Value& x, const Value& start, const Value& stop, const Value& step, Budget& budget);
// A method of strings, dictionaries or lists, bound to x; undefined if there is none.
Value method(const Value& x, const std::string& name);

// Text helpers that methods and filters share.
bool is_space(std::string_view code_point);
std::string upper(std::string_view s);
std::string lower(std::string_view s);
std::string capitalize(std::string_view s);
std::string_view strip(std::string_view s, const Value* chars, bool left, bool right);
std::string replace_all(std::string_view s, std::string_view from, std::string_view to, int64_t count,
                        Budget& b);

// Filters and tests by name; throw Failure if there is none.
bool has_filter(const std::string& name);
bool has_test(const std::string& name);
Value apply_filter(Engine& engine, const std::string& name, const Value& x, const Args& args);
bool apply_test(Engine& engine, const std::string& name, const Value& x, const Args& args);

}  // namespace lazuli::lm::jinja
