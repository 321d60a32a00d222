#include "lm/jinja_interpreter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "lazuli/lm/chat_template.h"

namespace lazuli::lm::jinja {
namespace {

using Kind = Node::Kind;
constexpr size_t kLongestOutput = 16 << 20;
constexpr int kDeepestCall = 1000;  // nodes below one another, macros included
constexpr int64_t kLongestRange = 100'000;

// Variables of a block; the lookup goes outwards. Few names each, so a list will do.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::vector<std::pair<std::string, Value>> variables;

  const Value* find(const std::string& name) const {
    for (const Scope* s = this; s; s = s->outer.get())
      for (auto& [n, v] : s->variables)
        if (n == name) return &v;
    return nullptr;
  }
  void set(const std::string& name, Value value) {
    for (auto& [n, v] : variables)
      if (n == name) {
        v = std::move(value);
        return;
      }
    variables.emplace_back(name, std::move(value));
  }
};
using ScopePtr = std::shared_ptr<Scope>;

// By reference: the call that computes it is the other argument.
int64_t checked(bool overflow, const int64_t& value) {
  if (overflow) throw Failure("an integer is too large");
  return value;
}

Value power(const Value& a, const Value& b) {
  if (!a.is_integral() || !b.is_integral() || b.integer() < 0) return std::pow(a.real(), b.real());
  int64_t base = a.integer(), out = 1;
  for (int64_t n = b.integer(); n > 0; n >>= 1) {
    if (n & 1) out = checked(__builtin_mul_overflow(out, base, &out), out);
    if (n > 1) base = checked(__builtin_mul_overflow(base, base, &base), base);
  }
  return out;
}

// Numbers only.
Value arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (op == "**") return power(a, b);
  if (op != "/" && a.is_integral() && b.is_integral()) {
    int64_t x = a.integer(), y = b.integer(), z = 0;
    if (op == "+") return checked(__builtin_add_overflow(x, y, &z), z);
    if (op == "-") return checked(__builtin_sub_overflow(x, y, &z), z);
    if (op == "*") return checked(__builtin_mul_overflow(x, y, &z), z);
    if (y == 0) throw Failure("division by zero");
    if (y == -1) return op == "%" ? Value(0) : Value(checked(__builtin_sub_overflow(0, x, &z), z));
    int64_t q = x / y - (x % y != 0 && (x < 0) != (y < 0));  // Python rounds down
    return op == "%" ? x - q * y : q;
  }
  double x = a.real(), y = b.real();
  if (op == "+") return x + y;
  if (op == "-") return x - y;
  if (op == "*") return x * y;
  if (y == 0) throw Failure("division by zero");
  if (op == "/") return x / y;
  if (op == "//") return std::floor(x / y);
  double r = std::fmod(x, y);
  return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

class Interpreter : public Engine {
 public:
  Interpreter(const Value& variables, std::optional<std::tm> now)
      : now_(now), globals_(std::make_shared<Scope>()) {
    define("range", [this](const Args& a) { return range(a); });
    define("dict", [](const Args& a) {
      Dict out;
      if (!a.positional.empty()) {
        if (!a.positional[0].is_dict()) throw Failure("dict: expected a dict or named arguments");
        out = *a.positional[0].as<Dict>();
      }
      for (auto& [name, v] : a.named) out.set(name, v);
      return Value(std::move(out));
    });
    define("namespace", [](const Args& a) {
      Dict out;
      out.is_namespace = true;
      if (!a.positional.empty() && a.positional[0].is_dict()) out.items = a.positional[0].as<Dict>()->items;
      for (auto& [name, v] : a.named) out.set(name, v);
      for (auto& [name, v] : out.items) check_member(v);
      return Value(std::move(out));
    });
    define("raise_exception", [this](const Args& a) -> Value {
      const Value* message = a.find(0, "message");
      throw Failure(message ? to_text(*message, budget) : "the template gave up");
    });
    define("strftime_now", [this](const Args& a) { return strftime(a); });
    for (auto& [name, v] : variables.as<Dict>()->items) globals_->set(*name.as<std::string>(), v);
  }

  std::string run(const Node& root) {
    auto scope = std::make_shared<Scope>();
    scope->outer = globals_;
    execute(root, scope);
    return std::move(out_);
  }

  Value filter(const std::string& name, const Value& x, const Args& args) override {
    return apply_filter(*this, name, x, args);
  }
  bool test(const std::string& name, const Value& x, const Args& args) override {
    return apply_test(*this, name, x, args);
  }

 private:
  enum class Flow { on, stop, next };

  template <class F>
  void define(const std::string& name, F f) {
    globals_->set(name,
                  Function{name, [f = std::move(f)](Engine&, const Args& a) -> Value { return f(a); }, {}});
  }

  // Runs f, and adds the place to what it throws.
  template <class F>
  static decltype(auto) at(const Node& node, F&& f) {
    try {
      return f();
    } catch (const Failure& e) {
      fail_at(node.place, e.what());
    }
  }
  struct Depth {
    Depth(Interpreter& i, const Node& node) : interpreter(i) {
      if (++interpreter.depth_ > kDeepestCall) {
        --interpreter.depth_;
        fail_at(node.place, "the template nests or recurses too deeply");
      }
    }
    ~Depth() { --interpreter.depth_; }
    Interpreter& interpreter;
  };

  // ---- statements ----

  void write(std::string_view text) {
    budget.charge_bytes(text.size());
    if (text.size() > kLongestOutput - std::min(out_.size(), kLongestOutput))
      throw Failure(fmt::format("the output is longer than {} MB", kLongestOutput >> 20));
    out_ += text;
  }

  // What a body writes, as a string.
  std::string capture(const Node& body, const ScopePtr& scope, Flow* flow = nullptr) {
    std::string before = std::exchange(out_, {});
    Flow f = execute(body, scope);
    if (flow) *flow = f;
    return std::exchange(out_, std::move(before));
  }

  static ScopePtr inner(const ScopePtr& outer) {
    auto scope = std::make_shared<Scope>();
    scope->outer = outer;
    return scope;
  }

  Flow execute(const Node& n, const ScopePtr& scope) {
    Depth depth(*this, n);
    at(n, [&] { budget.charge(1); });
    switch (n.kind) {
      case Kind::text: at(n, [&] { write(n.text); }); break;
      case Kind::output: {
        Value v = evaluate(*n.children[0], scope);
        at(n, [&] { write(to_text(v, budget)); });
        break;
      }
      case Kind::block:
        for (auto& child : n.children)
          if (Flow flow = execute(*child, scope); flow != Flow::on) return flow;
        break;
      case Kind::branch:
        for (size_t i = 0; i < n.children.size(); i += 2) {
          bool last = i + 1 == n.children.size();
          if (last || evaluate(*n.children[i], scope).truthy())
            return execute(*n.children[last ? i : i + 1], scope);
        }
        break;
      case Kind::loop: return loop(n, scope);
      case Kind::set: {
        Value v = evaluate(*n.children[1], scope);
        at(n, [&] { assign(*n.children[0], v, scope); });
        break;
      }
      case Kind::set_block: {
        Flow flow = Flow::on;
        Value v = capture(*n.children[1], inner(scope), &flow);
        if (flow != Flow::on) return flow;
        for (size_t i = 2; i < n.children.size(); ++i) v = filtered(*n.children[i], v, scope);
        at(n, [&] { assign(*n.children[0], v, scope); });
        break;
      }
      case Kind::macro: scope->set(n.text, make_macro(n, n, 0, scope)); break;
      case Kind::call_block: {
        Value caller = make_macro(n, n, 1, scope);
        Value v = call(*n.children[0], scope, &caller);
        at(n, [&] { write(to_text(v, budget)); });
        break;
      }
      case Kind::filter_block: {
        Flow flow = Flow::on;
        Value v = capture(*n.children[1], inner(scope), &flow);
        if (flow != Flow::on) return flow;
        v = filtered(*n.children[0], v, scope);
        at(n, [&] { write(to_text(v, budget)); });
        break;
      }
      case Kind::with: {
        ScopePtr names = inner(scope);
        for (size_t i = 1; i < n.children.size(); i += 2) {
          Value v = evaluate(*n.children[i + 1], scope);
          at(n, [&] { assign(*n.children[i], v, names); });
        }
        return execute(*n.children[0], names);
      }
      case Kind::stop: return Flow::stop;
      case Kind::next: return Flow::next;
      default: break;
    }
    return Flow::on;
  }

  static void check_member(const Value& v) {
    if (v.holds_namespace()) throw Failure("a namespace cannot hold a namespace");
    if (v.depth() > 40) throw Failure("the value is nested too deeply for a namespace");
  }

  void assign(const Node& target, const Value& v, const ScopePtr& scope) {
    if (target.kind == Kind::name) {
      scope->set(target.text, v);
    } else if (target.kind == Kind::attribute) {
      const Value* space = scope->find(target.children[0]->text);
      Dict* dict = space ? space->as_namespace() : nullptr;
      if (!dict) throw Failure("cannot assign attribute on non-namespace object");
      check_member(v);
      budget.charge(dict->items.size());
      dict->set(target.text, v);
    } else {
      auto items = iterate(v, budget);
      if (items.size() != target.children.size())
        throw Failure(
            fmt::format("expected {} values to unpack, found {}", target.children.size(), items.size()));
      for (size_t i = 0; i < items.size(); ++i) assign(*target.children[i], items[i], scope);
    }
  }

  Flow loop(const Node& n, const ScopePtr& scope) {
    const Node& target = *n.children[0];
    Value iterable = evaluate(*n.children[1], scope);
    auto items = at(n, [&] { return iterate(iterable, budget); });
    if (const Node* condition = n.children[2].get()) {
      std::vector<Value> kept;
      for (Value& v : items) {
        ScopePtr names = inner(scope);
        at(n, [&] { assign(target, v, names); });
        if (evaluate(*condition, names).truthy()) kept.push_back(v);
      }
      items = std::move(kept);
    }
    if (items.empty()) return n.children[4] ? execute(*n.children[4], inner(scope)) : Flow::on;
    int64_t count = static_cast<int64_t>(items.size());
    auto changed = std::make_shared<std::optional<Value>>();
    for (int64_t i = 0; i < count; ++i) {
      at(n, [&] { budget.charge(25); });  // what `loop` costs to make
      ScopePtr names = inner(scope);
      names->set("loop", loop_value(items, i, count, changed));
      at(n, [&] { assign(target, items[static_cast<size_t>(i)], names); });
      if (execute(*n.children[3], names) == Flow::stop) break;
    }
    return Flow::on;
  }

  Value loop_value(const std::vector<Value>& items, int64_t i, int64_t count,
                   const std::shared_ptr<std::optional<Value>>& changed) {
    Dict loop;
    auto put = [&](const char* name, Value v) { loop.items.emplace_back(name, std::move(v)); };
    put("index", i + 1);
    put("index0", i);
    put("revindex", count - i);
    put("revindex0", count - i - 1);
    put("first", i == 0);
    put("last", i == count - 1);
    put("length", count);
    put("depth", 1);
    put("depth0", 0);
    size_t at = static_cast<size_t>(i);
    put("previtem", i > 0 ? items[at - 1] : Value::undefined("there is no previous item"));
    put("nextitem", i + 1 < count ? items[at + 1] : Value::undefined("there is no next item"));
    put("cycle", Function{"cycle", [i](Engine&, const Args& a) {
                            if (a.positional.empty()) throw Failure("cycle needs values");
                            return a.positional[static_cast<size_t>(i) % a.positional.size()];
                          }});
    put("changed", Function{"changed", [changed](Engine&, const Args& a) -> Value {
                              if (Value::tuple(a.positional).holds_namespace())
                                throw Failure("changed does not look into namespaces");
                              Value now = Value::tuple(a.positional);
                              bool same = changed->has_value() && **changed == now;
                              *changed = now;
                              return !same;
                            }});
    return loop;
  }

  // The body of a macro or call block, children[body], as a function. It sees the scope it stands in;
  // a weak reference, as the scope holds the macro.
  Value make_macro(const Node& n, const Node& owner, size_t body, const ScopePtr& scope) {
    std::string name = n.text.empty() ? "caller" : n.text;
    return Function{name,
                    [this, &owner, body, name, weak = std::weak_ptr<Scope>(scope)](Engine&, const Args& a) {
                      ScopePtr outer = weak.lock();
                      if (!outer) throw Failure(fmt::format("the block that defined '{}' has ended", name));
                      return run_macro(owner, body, a, outer);
                    }};
  }

  Value run_macro(const Node& n, size_t body, const Args& a, const ScopePtr& outer) {
    ScopePtr names = inner(outer);
    const size_t num_defaults = n.children.size() - body - 1, num_names = n.names.size();
    for (size_t i = 0; i < num_names; ++i) {
      const Value* given = a.find(i, n.names[i]);
      if (given)
        names->set(n.names[i], *given);
      else if (i + num_defaults >= num_names)
        names->set(n.names[i], evaluate(*n.children[body + 1 + i + num_defaults - num_names], names));
      else
        names->set(n.names[i], Value::undefined(n.names[i]));
    }
    auto first_extra =
        a.positional.begin() + static_cast<ptrdiff_t>(std::min(num_names, a.positional.size()));
    names->set("varargs", Value::tuple({first_extra, a.positional.end()}));
    Dict extra;
    for (auto& [key, v] : a.named) {
      if (key == "caller")
        names->set("caller", v);
      else if (std::ranges::find(n.names, key) == n.names.end())
        extra.set(key, v);
    }
    names->set("kwargs", Value(std::move(extra)));
    return capture(*n.children[body], names);
  }

  // ---- expressions ----

  Args arguments(const Node& n, size_t first, const ScopePtr& scope) {
    Args out;
    for (size_t i = first; i < n.children.size(); ++i)
      out.positional.push_back(evaluate(*n.children[i], scope));
    for (auto& [name, node] : n.named) out.named.emplace_back(name, evaluate(*node, scope));
    return out;
  }

  // A filter node; one at the start of a chain in a block gets `input`.
  Value filtered(const Node& n, const Value& input, const ScopePtr& scope) {
    Value x = !n.children[0]                        ? input
              : n.children[0]->kind == Kind::filter ? filtered(*n.children[0], input, scope)
                                                    : evaluate(*n.children[0], scope);
    Args args = arguments(n, 1, scope);
    return at(n, [&] { return apply_filter(*this, n.text, x, args); });
  }

  Value call(const Node& n, const ScopePtr& scope, const Value* caller = nullptr) {
    Value callee = evaluate(*n.children[0], scope);
    Args args = arguments(n, 1, scope);
    if (caller) args.named.emplace_back("caller", *caller);
    return at(n, [&] {
      auto* function = callee.as<Function>();
      if (auto* u = callee.as<Undefined>()) throw Failure(fmt::format("'{:.60}' is undefined", u->name));
      if (!function) throw Failure(fmt::format("{} is not callable", callee.type_name()));
      return function->call(*this, args);
    });
  }

  Value evaluate(const Node& n, const ScopePtr& scope) {
    Depth depth(*this, n);
    at(n, [&] { budget.charge(1); });
    auto child = [&](size_t i) { return evaluate(*n.children[i], scope); };
    switch (n.kind) {
      case Kind::constant: return n.value;
      case Kind::name: {
        const Value* found = scope->find(n.text);
        return found ? *found : Value::undefined(n.text);
      }
      case Kind::list:
      case Kind::tuple: {
        std::vector<Value> items;
        for (size_t i = 0; i < n.children.size(); ++i) items.push_back(child(i));
        return at(n, [&]() -> Value { return List{std::move(items), n.kind == Kind::tuple}; });
      }
      case Kind::dict: {
        Dict dict;
        for (size_t i = 0; i < n.children.size(); i += 2) {
          Value key = child(i);
          if (key.is<List>() || key.is<Dict>())
            fail_at(n.place, fmt::format("unhashable key of type {}", key.type_name()));
          dict.set(std::move(key), child(i + 1));
        }
        return at(n, [&]() -> Value { return std::move(dict); });
      }
      case Kind::unary: {
        Value x = child(0);
        return at(n, [&]() -> Value {
          if (n.text == "not") return !x.truthy();
          require_defined(x);
          if (auto* d = x.as<double>()) return n.text == "-" ? -*d : *d;
          int64_t i = x.integer();
          return n.text == "+" ? i : checked(__builtin_sub_overflow(int64_t{0}, i, &i), i);
        });
      }
      case Kind::binary: {
        Value x = child(0);
        if (n.text == "and") return x.truthy() ? child(1) : x;
        if (n.text == "or") return x.truthy() ? x : child(1);
        Value y = child(1);
        return at(n, [&] { return binary(n.text, x, y); });
      }
      case Kind::compare: {
        Value left = child(0);
        for (size_t i = 1; i < n.children.size(); ++i) {
          Value right = child(i);
          if (!at(n, [&] { return compare(n.names[i - 1], left, right); })) return false;
          left = std::move(right);
        }
        return true;
      }
      case Kind::conditional:
        if (child(1).truthy()) return child(0);
        return n.children.size() > 2 ? child(2) : Value::undefined("the inline if has no else");
      case Kind::attribute: {
        Value x = child(0);
        return at(n, [&] { return attribute(x, n.text); });
      }
      case Kind::item: {
        Value x = child(0), key = child(1);
        return at(n, [&] {
          budget.charge(x.is<std::string>() ? x.weight() * 8 : key.weight());
          return item(x, key);
        });
      }
      case Kind::slice: {
        Value x = child(0), parts[3];
        for (size_t i = 0; i < 3; ++i)
          if (n.children[i + 1]) parts[i] = child(i + 1);
        return at(n, [&] { return slice(x, parts[0], parts[1], parts[2], budget); });
      }
      case Kind::call: return call(n, scope);
      case Kind::filter: return filtered(n, {}, scope);
      case Kind::test: {
        Value x = child(0);
        Args args = arguments(n, 1, scope);
        return at(n, [&] { return apply_test(*this, n.text, x, args) != n.negated; });
      }
      default: return {};
    }
  }

  static void require_defined(const Value& x) {
    if (auto* u = x.as<Undefined>()) throw Failure(fmt::format("'{:.60}' is undefined", u->name));
  }

  bool compare(const std::string& op, const Value& x, const Value& y) {
    budget.charge(x.weight() + y.weight());
    if (op == "==") return x == y;
    if (op == "!=") return !(x == y);
    if (op == "in") return contains(y, x);
    if (op == "not in") return !contains(y, x);
    require_defined(x);
    require_defined(y);
    if (op == "<") return less(x, y);
    if (op == ">") return less(y, x);
    if (op == "<=") return less(x, y) || x == y;
    return less(y, x) || x == y;
  }

  Value binary(const std::string& op, const Value& x, const Value& y) {
    if (op == "~") {
      std::string left = to_text(x, budget), right = to_text(y, budget);
      return joined(left, right);
    }
    require_defined(x);
    require_defined(y);
    auto *s = x.as<std::string>(), *t = y.as<std::string>();
    auto *l = x.as<List>(), *m = y.as<List>();
    if (op == "+" && s && t) return joined(*s, *t);
    if (op == "+" && l && m && l->tuple == m->tuple) {
      budget.charge(l->items.size() + m->items.size());
      auto items = l->items;
      items.insert(items.end(), m->items.begin(), m->items.end());
      return List{std::move(items), l->tuple};
    }
    if (op == "*" && ((s || l) != (t || m)) && (x.is_integral() || y.is_integral()))
      return s || l ? repeated(x, y.integer()) : repeated(y, x.integer());
    if (op == "%" && s) throw Failure("formatting with % is not supported");
    if (!x.is_number() || !y.is_number())
      throw Failure(
          fmt::format("unsupported operand types for {}: {} and {}", op, x.type_name(), y.type_name()));
    return arithmetic(op, x, y);
  }

  Value joined(const std::string& a, const std::string& b) {
    if (a.size() + b.size() > kLongestOutput) throw Failure("a string is too long");
    budget.charge_bytes(a.size() + b.size());
    return a + b;
  }

  Value repeated(const Value& x, int64_t times) {
    size_t n = static_cast<size_t>(std::max<int64_t>(times, 0)), total = 0;
    if (__builtin_mul_overflow(n, x.weight() * 8, &total) || total > kLongestOutput)
      throw Failure("a repetition is too long");
    budget.charge(total);
    if (auto* s = x.as<std::string>()) {
      std::string out;
      for (size_t i = 0; i < n; ++i) out += *s;
      return out;
    }
    std::vector<Value> items;
    auto* list = x.as<List>();
    for (size_t i = 0; i < n; ++i) items.insert(items.end(), list->items.begin(), list->items.end());
    return List{std::move(items), list->tuple};
  }

  // ---- functions ----

  Value range(const Args& a) {
    if (a.positional.empty() || a.positional.size() > 3) throw Failure("range takes one to three integers");
    bool one = a.positional.size() == 1;
    int64_t from = one ? 0 : a.positional[0].integer(), to = a.positional[one ? 0 : 1].integer();
    int64_t by = a.positional.size() == 3 ? a.positional[2].integer() : 1;
    if (by == 0) throw Failure("the step of a range must not be 0");
    std::vector<Value> out;
    for (__int128 i = from; by > 0 ? i < to : i > to; i += by) {
      if (out.size() >= static_cast<size_t>(kLongestRange))
        throw Failure(fmt::format("a range has at most {} numbers", kLongestRange));
      out.emplace_back(static_cast<int64_t>(i));
    }
    budget.charge(out.size());
    return Value::list(std::move(out));
  }

  Value strftime(const Args& a) {
    const Value* format = a.find(0, "format");
    if (!format || !format->is<std::string>()) throw Failure("strftime_now needs a format");
    const std::string& text = *format->as<std::string>();
    if (text.size() > 1000) throw Failure("strftime_now: the format is too long");
    if (text.empty()) return "";
    std::tm now{};
    if (now_) {
      now = *now_;
    } else {
      std::time_t seconds = std::time(nullptr);
      localtime_r(&seconds, &now);
    }
    std::string out(text.size() * 64 + 64, '\0');
    // A space in front tells an empty result from a failure.
    size_t n = std::strftime(out.data(), out.size(), (" " + text).c_str(), &now);
    if (n == 0) throw Failure("strftime_now: the format is not valid");
    return out.substr(1, n - 1);
  }

  std::optional<std::tm> now_;
  ScopePtr globals_;
  std::string out_;
  int depth_ = 0;
};

}  // namespace

std::string render(const Node& root, const Value& variables, std::optional<std::tm> now) {
  return Interpreter(variables, now).run(root);
}

}  // namespace lazuli::lm::jinja
