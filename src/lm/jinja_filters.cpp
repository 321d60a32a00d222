// Jinja's filters and tests.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lm/jinja_value.h"

namespace lazuli::lm::jinja {
namespace {

// ---- arguments ----

bool flag(const Args& a, size_t at, std::string_view name, bool otherwise = false) {
  const Value* v = a.find(at, name);
  return v ? v->truthy() : otherwise;
}
int64_t integer(const Args& a, size_t at, std::string_view name, int64_t otherwise) {
  const Value* v = a.find(at, name);
  return v && !v->is<None>() ? v->integer() : otherwise;
}
std::string text(const Args& a, size_t at, std::string_view name, std::string_view otherwise, Budget& b) {
  const Value* v = a.find(at, name);
  return v ? to_text(*v, b) : std::string(otherwise);
}

// x.a.0.b for the attribute "a.0.b", as map(attribute=...) and sort(attribute=...) take it.
// What is undefined on the way becomes the default, if there is one.
Value path(Value x, const Value& attribute, const Value* otherwise = nullptr) {
  auto step = [&](const Value& key) {
    x = item(x, key);
    if (otherwise && x.is<Undefined>()) x = *otherwise;
  };
  if (attribute.is_integral()) {
    step(attribute);
    return x;
  }
  auto* name = attribute.as<std::string>();
  if (!name) throw Failure(fmt::format("an attribute is a str or an int, not {}", attribute.type_name()));
  for (size_t from = 0; from <= name->size();) {
    size_t to = std::min(name->find('.', from), name->size());
    std::string part = name->substr(from, to - from);
    bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    step(number ? Value(int64_t{std::stoi(part)}) : Value(part));
    from = to + 1;
  }
  return x;
}

// What sorting and uniqueness look at: an attribute, in lower case unless case matters.
Value sort_key(const Value& x, const Value* attribute, bool case_sensitive) {
  Value key = attribute && !attribute->is<None>() ? path(x, *attribute) : x;
  if (auto* s = key.as<std::string>(); s && !case_sensitive) return lower(*s);
  return key;
}

Args rest(const Args& a, size_t from) {
  Args out;
  if (a.positional.size() > from)
    out.positional.assign(a.positional.begin() + static_cast<ptrdiff_t>(from), a.positional.end());
  out.named = a.named;
  return out;
}

const std::string& name_argument(const Args& a, size_t at) {
  auto* name = at < a.positional.size() ? a.positional[at].as<std::string>() : nullptr;
  if (!name) throw Failure("the name of a filter, a test or an attribute is needed");
  return *name;
}

// ---- filters ----

Value map(Engine& e, const Value& x, const Args& a) {
  std::vector<Value> out;
  const Value* attribute = a.positional.empty() ? a.find(SIZE_MAX, "attribute") : nullptr;
  const Value* otherwise = a.find(SIZE_MAX, "default");
  for (const Value& v : iterate(x, e.budget)) {
    if (!attribute) {
      out.push_back(e.filter(name_argument(a, 0), v, rest(a, 1)));
    } else {
      out.push_back(path(v, *attribute, otherwise));
    }
  }
  return Value::list(std::move(out));
}

// select, reject, selectattr, rejectattr
Value choose(Engine& e, const Value& x, const Args& a, bool by_attribute, bool wanted) {
  std::vector<Value> out;
  size_t at = by_attribute ? 1 : 0;
  if (by_attribute && a.positional.empty()) throw Failure("an attribute is needed");
  for (const Value& v : iterate(x, e.budget)) {
    Value seen = by_attribute ? path(v, a.positional[0]) : v;
    bool passes =
        a.positional.size() > at ? e.test(name_argument(a, at), seen, rest(a, at + 1)) : seen.truthy();
    if (passes == wanted) out.push_back(v);
  }
  return Value::list(std::move(out));
}

Value join(Engine& e, const Value& x, const Args& a) {
  std::string by = text(a, 0, "d", "", e.budget), out;
  const Value* attribute = a.find(1, "attribute");
  bool first = true;
  for (const Value& v : iterate(x, e.budget)) {
    if (!std::exchange(first, false)) out += by;
    std::string part = to_text(attribute && !attribute->is<None>() ? path(v, *attribute) : v, e.budget);
    e.budget.charge_bytes(by.size() + part.size());
    out += part;
  }
  return out;
}

Value sort(Engine& e, const Value& x, const Args& a) {
  auto items = iterate(x, e.budget);
  bool reverse = flag(a, 0, "reverse"), sensitive = flag(a, 1, "case_sensitive");
  const Value* attribute = a.find(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& v : items) keyed.emplace_back(sort_key(v, attribute, sensitive), v);
  e.budget.charge(x.weight() * (1 + static_cast<size_t>(std::log2(static_cast<double>(keyed.size() + 1)))));
  std::ranges::stable_sort(
      keyed, [&](auto& p, auto& q) { return reverse ? less(q.first, p.first) : less(p.first, q.first); });
  for (size_t i = 0; i < items.size(); ++i) items[i] = keyed[i].second;
  return Value::list(std::move(items));
}

Value dictsort(Engine& e, const Value& x, const Args& a) {
  if (!x.is_dict()) throw Failure(fmt::format("dictsort needs a dict, not {}", x.type_name()));
  bool sensitive = flag(a, 0, "case_sensitive"), reverse = flag(a, 2, "reverse");
  std::string by = text(a, 1, "by", "key", e.budget);
  if (by != "key" && by != "value") throw Failure("dictsort: 'by' is 'key' or 'value'");
  auto items = x.as<Dict>()->items;
  e.budget.charge(x.weight() * 16);
  auto key = [&](auto& entry) {
    return sort_key(by == "key" ? entry.first : entry.second, nullptr, sensitive);
  };
  std::ranges::stable_sort(
      items, [&](auto& p, auto& q) { return reverse ? less(key(q), key(p)) : less(key(p), key(q)); });
  std::vector<Value> out;
  for (auto& [k, v] : items) out.push_back(Value::tuple({k, v}));
  return Value::list(std::move(out));
}

Value unique(Engine& e, const Value& x, const Args& a) {
  std::vector<Value> seen, out;
  for (const Value& v : iterate(x, e.budget)) {
    Value key = sort_key(v, a.find(1, "attribute"), flag(a, 0, "case_sensitive"));
    e.budget.charge(1 + seen.size() * key.weight());
    if (std::ranges::find(seen, key) != seen.end()) continue;
    seen.push_back(key);
    out.push_back(v);
  }
  return Value::list(std::move(out));
}

Value extreme(Engine& e, const Value& x, const Args& a, bool largest) {
  const Value* attribute = a.find(1, "attribute");
  std::vector<Value> items = iterate(x, e.budget);
  if (items.empty()) return Value::undefined("the extreme of an empty list");
  Value best = items[0], best_key = sort_key(best, attribute, flag(a, 0, "case_sensitive"));
  for (const Value& v : items) {
    Value key = sort_key(v, attribute, flag(a, 0, "case_sensitive"));
    e.budget.charge(key.weight());
    if (largest ? less(best_key, key) : less(key, best_key)) best = v, best_key = key;
  }
  return best;
}

Value sum(Engine& e, const Value& x, const Args& a) {
  const Value *attribute = a.find(0, "attribute"), *start = a.find(1, "start");
  bool integral = !start || start->is_integral();
  int64_t whole = integral && start ? start->integer() : 0;
  double real = start ? start->real() : 0;
  for (const Value& v : iterate(x, e.budget)) {
    Value n = attribute && !attribute->is<None>() ? path(v, *attribute) : v;
    if (!n.is_number()) throw Failure(fmt::format("sum needs numbers, found {}", n.type_name()));
    integral &= n.is_integral();
    real += n.real();
    if (integral && __builtin_add_overflow(whole, n.integer(), &whole))
      throw Failure("an integer is too large");
  }
  return integral ? Value(whole) : Value(real);
}

Value to_integer(Engine&, const Value& x, const Args& a) {
  const Value* otherwise = a.find(0, "default");
  Value fallback = otherwise ? *otherwise : Value(0);
  if (x.is_integral()) return x.integer();
  double real = std::numeric_limits<double>::quiet_NaN();
  if (auto* s = x.as<std::string>()) {
    int base = static_cast<int>(integer(a, 1, "base", 10));
    if (base < 2 || base > 36) throw Failure("the base of an int is from 2 to 36");
    std::string_view t = strip(*s, nullptr, true, true);
    if (t.starts_with('+')) t.remove_prefix(1);
    int64_t i = 0;
    auto [end, error] = std::from_chars(t.data(), t.data() + t.size(), i, base);
    if (!t.empty() && error == std::errc() && end == t.data() + t.size()) return i;
    auto [real_end, real_error] = std::from_chars(t.data(), t.data() + t.size(), real);
    if (t.empty() || real_error != std::errc() || real_end != t.data() + t.size()) return fallback;
  } else if (auto* d = x.as<double>()) {
    real = *d;
  }
  if (!(std::abs(real) < 0x1p63)) return fallback;
  return static_cast<int64_t>(real);
}

Value to_real(Engine&, const Value& x, const Args& a) {
  const Value* otherwise = a.find(0, "default");
  if (x.is_number()) return x.real();
  if (auto* s = x.as<std::string>()) {
    std::string_view t = strip(*s, nullptr, true, true);
    if (t.starts_with('+')) t.remove_prefix(1);
    double real = 0;
    auto [end, error] = std::from_chars(t.data(), t.data() + t.size(), real);
    if (!t.empty() && error == std::errc() && end == t.data() + t.size()) return real;
  }
  return otherwise ? *otherwise : Value(0.0);
}

Value round(Engine& e, const Value& x, const Args& a) {
  int64_t precision = integer(a, 0, "precision", 0);
  std::string how = text(a, 1, "method", "common", e.budget);
  if (precision < -300 || precision > 300) throw Failure("round: the precision is from -300 to 300");
  double d = x.real();
  if (how == "common") {
    if (x.is_integral() && precision >= 0) return x;
    if (precision >= 0)
      return std::stod(fmt::format("{:.{}f}", d, precision));  // ties of the exact value to even
    double scale = std::pow(10, static_cast<double>(-precision)), r = std::nearbyint(d / scale) * scale;
    return x.is_integral() ? Value(static_cast<int64_t>(r)) : Value(r);
  }
  if (how != "ceil" && how != "floor") throw Failure("round: the method is common, ceil or floor");
  double scale = std::pow(10, static_cast<double>(precision));
  return (how == "ceil" ? std::ceil(d * scale) : std::floor(d * scale)) / scale;
}

Value absolute(Engine&, const Value& x, const Args&) {
  if (auto* d = x.as<double>()) return std::abs(*d);
  int64_t i = x.integer();
  if (i == INT64_MIN) throw Failure("an integer is too large");
  return i < 0 ? -i : i;
}

Value indent(Engine& e, const Value& x, const Args& a) {
  const Value* width = a.find(0, "width");
  std::string space;
  if (width && width->is<std::string>()) {
    space = *width->as<std::string>();
  } else {
    int64_t n = width ? width->integer() : 4;
    e.budget.charge_bytes(static_cast<size_t>(std::max<int64_t>(n, 0)));
    space.assign(static_cast<size_t>(std::max<int64_t>(n, 0)), ' ');
  }
  bool first = flag(a, 1, "first"), blank = flag(a, 2, "blank");
  std::string s = to_text(x, e.budget), out;
  for (size_t from = 0; from <= s.size();) {
    size_t to = std::min(s.find('\n', from), s.size());
    e.budget.charge_bytes(to - from + space.size());
    if (from == 0 ? first : blank || to > from) out += space;
    out.append(s, from, to - from);
    if (to < s.size()) out += '\n';
    from = to + 1;
  }
  return out;
}

Value json(Engine& e, const Value& x, const Args& a) {
  JsonStyle style;
  style.ascii = flag(a, 0, "ensure_ascii");
  if (const Value* indent = a.find(1, "indent"); indent && !indent->is<None>())
    style.indent = static_cast<int>(std::clamp<int64_t>(indent->integer(), 0, 100));
  if (const Value* separators = a.find(2, "separators"); separators && !separators->is<None>()) {
    auto* pair = separators->as<List>();
    if (!pair || pair->items.size() != 2) throw Failure("tojson: separators are two str");
    style.comma = to_text(pair->items[0], e.budget);
    style.colon = to_text(pair->items[1], e.budget);
  }
  style.sort_keys = flag(a, 3, "sort_keys");
  return to_json(x, style, e.budget);
}

Value first_or_last(Engine& e, const Value& x, bool last) {
  auto items = iterate(x, e.budget);
  if (items.empty())
    return Value::undefined(last ? "the last of an empty list" : "the first of an empty list");
  return last ? items.back() : items.front();
}

Value reverse(Engine& e, const Value& x, const Args&) {
  auto items = iterate(x, e.budget);
  std::ranges::reverse(items);
  if (!x.is<std::string>()) return Value::list(std::move(items));
  std::string out;
  for (const Value& c : items) out += *c.as<std::string>();
  return out;
}

// Jinja's own: a word begins behind white space, a hyphen or an opening bracket.
Value title(Engine& e, const Value& x, const Args&) {
  std::string out;
  bool start = true;
  std::string s = to_text(x, e.budget);
  for (std::string_view c : code_points(s)) {
    out += start ? upper(c) : lower(c);
    start = is_space(c) || c == "-" || c == "(" || c == "{" || c == "[" || c == "<";
  }
  return out;
}

Value escape(Engine& e, const Value& x, const Args&) {
  std::string out;
  std::string s = to_text(x, e.budget);
  e.budget.charge_bytes(5 * s.size());
  for (char c : s) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out += c;
    }
  }
  return out;
}

Value batch(Engine& e, const Value& x, const Args& a) {
  int64_t n = integer(a, 0, "linecount", 0);
  if (n < 1) throw Failure("batch needs a positive count");
  const Value* fill = a.find(1, "fill_with");
  std::vector<Value> out, row;
  for (const Value& v : iterate(x, e.budget)) {
    row.push_back(v);
    if (static_cast<int64_t>(row.size()) == n) out.push_back(Value::list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    if (fill && !fill->is<None>()) {
      e.budget.charge(static_cast<size_t>(n));
      row.resize(static_cast<size_t>(n), *fill);
    }
    out.push_back(Value::list(std::move(row)));
  }
  return Value::list(std::move(out));
}

Value otherwise(Engine&, const Value& x, const Args& a) {
  const Value* d = a.find(0, "default_value");
  bool use = x.is<Undefined>() || (flag(a, 1, "boolean") && !x.truthy());
  return use ? (d ? *d : Value("")) : x;
}

Value items(Engine&, const Value& x, const Args&) {
  if (x.is<Undefined>()) return Value::list({});
  if (!x.is_dict()) throw Failure(fmt::format("items needs a dict, not {}", x.type_name()));
  std::vector<Value> out;
  for (auto& [k, v] : x.as<Dict>()->items) out.push_back(Value::tuple({k, v}));
  return Value::list(std::move(out));
}

Value word_count(Engine& e, const Value& x, const Args&) {
  int64_t n = 0;
  bool inside = false;
  std::string s = to_text(x, e.budget);
  for (std::string_view c : code_points(s)) {
    bool was = std::exchange(inside, !is_space(c));
    n += inside && !was;
  }
  return n;
}

using Filter = Value (*)(Engine& e, const Value& x, const Args& a);
struct NamedFilter {
  std::string_view name;
  Filter call;
};
constexpr NamedFilter kFilters[] = {
    {"abs", absolute},
    {"attr", [](Engine&, auto& x, auto& a) { return attribute(x, name_argument(a, 0)); }},
    {"batch", batch},
    {"capitalize", [](Engine& e, auto& x, auto&) -> Value { return capitalize(to_text(x, e.budget)); }},
    {"count", [](Engine&, auto& x, auto&) -> Value { return static_cast<int64_t>(length(x)); }},
    {"d", otherwise},
    {"default", otherwise},
    {"dictsort", dictsort},
    {"e", escape},
    {"escape", escape},
    {"first", [](Engine& e, auto& x, auto&) { return first_or_last(e, x, false); }},
    {"float", to_real},
    {"indent", indent},
    {"int", to_integer},
    {"items", items},
    {"join", join},
    {"last", [](Engine& e, auto& x, auto&) { return first_or_last(e, x, true); }},
    {"length", [](Engine&, auto& x, auto&) -> Value { return static_cast<int64_t>(length(x)); }},
    {"list", [](Engine& e, auto& x, auto&) { return Value::list(iterate(x, e.budget)); }},
    {"lower", [](Engine& e, auto& x, auto&) -> Value { return lower(to_text(x, e.budget)); }},
    {"map", map},
    {"max", [](Engine& e, auto& x, auto& a) { return extreme(e, x, a, true); }},
    {"min", [](Engine& e, auto& x, auto& a) { return extreme(e, x, a, false); }},
    {"reject", [](Engine& e, auto& x, auto& a) { return choose(e, x, a, false, false); }},
    {"rejectattr", [](Engine& e, auto& x, auto& a) { return choose(e, x, a, true, false); }},
    {"replace",
     [](Engine& e, auto& x, auto& a) -> Value {
       return replace_all(to_text(x, e.budget), text(a, 0, "old", "", e.budget),
                          text(a, 1, "new", "", e.budget), integer(a, 2, "count", -1), e.budget);
     }},
    {"reverse", reverse},
    {"round", round},
    {"safe", [](Engine& e, auto& x, auto&) -> Value { return to_text(x, e.budget); }},
    {"select", [](Engine& e, auto& x, auto& a) { return choose(e, x, a, false, true); }},
    {"selectattr", [](Engine& e, auto& x, auto& a) { return choose(e, x, a, true, true); }},
    {"sort", sort},
    {"string", [](Engine& e, auto& x, auto&) -> Value { return to_text(x, e.budget); }},
    {"sum", sum},
    {"title", title},
    {"tojson", json},
    {"trim",
     [](Engine& e, auto& x, auto& a) -> Value {
       return strip(to_text(x, e.budget), a.find(0, "chars"), true, true);
     }},
    {"unique", unique},
    {"upper", [](Engine& e, auto& x, auto&) -> Value { return upper(to_text(x, e.budget)); }},
    {"wordcount", word_count},
};
static_assert(std::ranges::is_sorted(kFilters, {}, &NamedFilter::name));

// ---- tests ----

const Value& other(const Args& a) {
  if (a.positional.empty()) throw Failure("this test needs a value to compare with");
  return a.positional[0];
}
int64_t modulo(const Value& x, int64_t by) {
  if (by == 0) throw Failure("division by zero");
  return by == -1 ? 0 : x.integer() % by;
}

using Test = bool (*)(Engine& e, const Value& x, const Args& a);
struct NamedTest {
  std::string_view name;
  Test call;
};
constexpr Test kEqual = [](Engine&, const Value& x, const Args& a) { return x == other(a); };
constexpr Test kNotEqual = [](Engine&, const Value& x, const Args& a) { return !(x == other(a)); };
constexpr Test kLess = [](Engine&, const Value& x, const Args& a) { return less(x, other(a)); };
constexpr Test kGreater = [](Engine&, const Value& x, const Args& a) { return less(other(a), x); };
constexpr Test kAtMost = [](Engine&, const Value& x, const Args& a) { return !less(other(a), x); };
constexpr Test kAtLeast = [](Engine&, const Value& x, const Args& a) { return !less(x, other(a)); };

constexpr NamedTest kTests[] = {
    {"!=", kNotEqual},
    {"<", kLess},
    {"<=", kAtMost},
    {"==", kEqual},
    {">", kGreater},
    {">=", kAtLeast},
    {"boolean", [](Engine&, auto& x, auto&) { return x.template is<bool>(); }},
    {"callable", [](Engine&, auto& x, auto&) { return x.template is<Function>(); }},
    {"defined", [](Engine&, auto& x, auto&) { return !x.template is<Undefined>(); }},
    {"divisibleby", [](Engine&, auto& x, auto& a) { return modulo(x, other(a).integer()) == 0; }},
    {"eq", kEqual},
    {"equalto", kEqual},
    {"even", [](Engine&, auto& x, auto&) { return modulo(x, 2) == 0; }},
    {"false",
     [](Engine&, auto& x, auto&) {
       auto* b = x.template as<bool>();
       return b && !*b;
     }},
    {"filter",
     [](Engine&, auto& x, auto&) {
       auto* s = x.template as<std::string>();
       return s && has_filter(*s);
     }},
    {"float", [](Engine&, auto& x, auto&) { return x.template is<double>(); }},
    {"ge", kAtLeast},
    {"greaterthan", kGreater},
    {"gt", kGreater},
    {"in",
     [](Engine& e, auto& x, auto& a) {
       e.budget.charge(other(a).weight());
       return contains(other(a), x);
     }},
    {"integer", [](Engine&, auto& x, auto&) { return x.template is<int64_t>(); }},
    {"iterable",
     [](Engine&, auto& x, auto&) {
       return x.template is<std::string>() || x.template is<List>() || x.is_dict() ||
              x.template is<Undefined>();
     }},
    {"le", kAtMost},
    {"lessthan", kLess},
    {"lower",
     [](Engine& e, auto& x, auto&) {
       auto s = to_text(x, e.budget);
       return s == lower(s) && s != upper(s);
     }},
    {"lt", kLess},
    {"mapping", [](Engine&, auto& x, auto&) { return x.is_dict(); }},
    {"ne", kNotEqual},
    {"none", [](Engine&, auto& x, auto&) { return x.template is<None>(); }},
    {"number", [](Engine&, auto& x, auto&) { return x.is_number(); }},
    {"odd", [](Engine&, auto& x, auto&) { return modulo(x, 2) != 0; }},
    {"sameas",
     [](Engine&, auto& x, auto& a) {
       return std::string_view(x.type_name()) == other(a).type_name() && x == other(a);
     }},
    {"sequence",
     [](Engine&, auto& x, auto&) {
       return x.template is<std::string>() || x.template is<List>() || x.is_dict() ||
              x.template is<Undefined>();
     }},
    {"string", [](Engine&, auto& x, auto&) { return x.template is<std::string>(); }},
    {"test",
     [](Engine&, auto& x, auto&) {
       auto* s = x.template as<std::string>();
       return s && has_test(*s);
     }},
    {"true",
     [](Engine&, auto& x, auto&) {
       auto* b = x.template as<bool>();
       return b && *b;
     }},
    {"undefined", [](Engine&, auto& x, auto&) { return x.template is<Undefined>(); }},
    {"upper",
     [](Engine& e, auto& x, auto&) {
       auto s = to_text(x, e.budget);
       return s == upper(s) && s != lower(s);
     }},
};
static_assert(std::ranges::is_sorted(kTests, {}, &NamedTest::name));

template <class Table>
auto lookup(const Table& table, std::string_view name) -> decltype(&table[0]) {
  auto found = std::ranges::lower_bound(table, name, {}, [](auto& row) { return row.name; });
  return found != std::end(table) && found->name == name ? &*found : nullptr;
}

}  // namespace

bool has_filter(const std::string& name) { return lookup(kFilters, name) != nullptr; }
bool has_test(const std::string& name) { return lookup(kTests, name) != nullptr; }

Value apply_filter(Engine& engine, const std::string& name, const Value& x, const Args& args) {
  auto* filter = lookup(kFilters, name);
  if (!filter) throw Failure(fmt::format("there is no filter '{:.40}'", name));
  engine.budget.charge(1 + x.weight());
  return filter->call(engine, x, args);
}

bool apply_test(Engine& engine, const std::string& name, const Value& x, const Args& args) {
  auto* test = lookup(kTests, name);
  if (!test) throw Failure(fmt::format("there is no test '{:.40}'", name));
  engine.budget.charge(1 + x.weight());
  return test->call(engine, x, args);
}

}  // namespace lazuli::lm::jinja
