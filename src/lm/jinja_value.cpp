#include "lm/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace lazuli::lm::jinja {
namespace {

constexpr int kDeepest = 100;
constexpr size_t kHeaviest = 20'000'000;

uint32_t check_weight(size_t weight) {
  if (weight > kHeaviest) throw Failure("a list or dictionary is too large");
  return static_cast<uint32_t>(weight);
}

int deeper(int depth) {
  if (depth >= kDeepest)
    throw Failure(fmt::format("lists and dictionaries nest more than {} deep", kDeepest));
  return depth + 1;
}

std::string quote_repr(const std::string& s) {
  char quote = s.find('\'') != s.npos && s.find('"') == s.npos ? '"' : '\'';
  std::string out(1, quote);
  for (char c : s) {
    auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  return out + quote;
}

std::string quote_json(const std::string& s, bool ascii) {
  return nlohmann::json(s).dump(-1, ' ', ascii, nlohmann::json::error_handler_t::replace);
}

void write_json(const Value& v, const JsonStyle& style, int level, std::string& out, Budget& budget) {
  budget.charge(1);
  auto line = [&](int at) {
    if (style.indent >= 0)
      out.append(1, '\n').append(static_cast<size_t>(style.indent) * static_cast<size_t>(at), ' ');
  };
  // With an indentation Python drops the space behind commas.
  std::string comma = style.indent >= 0 && style.comma == ", " ? "," : style.comma;
  size_t before = out.size();
  if (auto* list = v.as<List>()) {
    out += '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i) out += comma;
      line(level + 1);
      write_json(list->items[i], style, level + 1, out, budget);
    }
    if (!list->items.empty()) line(level);
    out += ']';
  } else if (auto* dict = v.as<Dict>(); dict && !dict->is_namespace) {
    auto items = dict->items;
    if (style.sort_keys)
      std::ranges::stable_sort(items, [](auto& a, auto& b) { return less(a.first, b.first); });
    out += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out += comma;
      line(level + 1);
      const Value& key = items[i].first;
      if (auto* s = key.as<std::string>())
        out += quote_json(*s, style.ascii);
      else if (key.is_number() || key.is<None>())
        write_json(key, style, level, (out += '"'), budget), out += '"';
      else
        throw Failure(
            fmt::format("tojson: keys must be str, int, float, bool or None, not {}", key.type_name()));
      out += style.colon;
      write_json(items[i].second, style, level + 1, out, budget);
    }
    if (!items.empty()) line(level);
    out += '}';
  } else if (auto* s = v.as<std::string>()) {
    out += quote_json(*s, style.ascii);
  } else if (auto* b = v.as<bool>()) {
    out += *b ? "true" : "false";
  } else if (v.is<None>()) {
    out += "null";
  } else if (auto* i = v.as<int64_t>()) {
    out += fmt::format("{}", *i);
  } else if (auto* d = v.as<double>()) {
    out += std::isnan(*d) ? "NaN" : std::isinf(*d) ? (*d > 0 ? "Infinity" : "-Infinity") : real_text(*d);
  } else {
    throw Failure(fmt::format("tojson: object of type {} is not JSON serializable", v.type_name()));
  }
  budget.charge_bytes(out.size() - before);
}

// Recurses only as far as a Value may nest.
Value convert(const nlohmann::ordered_json& j, int depth = 0) {
  deeper(depth);
  using Type = nlohmann::json::value_t;
  switch (j.type()) {
    case Type::null: return {};
    case Type::boolean: return j.get<bool>();
    case Type::number_integer: return j.get<int64_t>();
    case Type::number_unsigned:
      if (j.get<uint64_t>() > INT64_MAX) return j.get<double>();
      return j.get<int64_t>();
    case Type::number_float: return j.get<double>();
    case Type::string: return j.get<std::string>();
    case Type::array: {
      std::vector<Value> items;
      for (auto& x : j) items.push_back(convert(x, depth + 1));
      return Value::list(std::move(items));
    }
    default: {
      Dict dict;
      for (auto& [key, x] : j.items()) dict.items.emplace_back(key, convert(x, depth + 1));
      return dict;
    }
  }
}

}  // namespace

Value::Value(List list) {
  int depth = 0;
  size_t weight = 1;
  for (const Value& v : list.items) {
    weight += v.weight();
    depth = std::max(depth, v.depth());
    holds_namespace_ |= v.holds_namespace();
  }
  depth_ = static_cast<int16_t>(deeper(depth));
  weight_ = check_weight(weight);
  data_ = std::make_shared<List>(std::move(list));
}

Value::Value(Dict dict) {
  int depth = 0;
  size_t weight = 1;
  for (auto& [key, v] : dict.items) {
    weight += key.weight() + v.weight();
    depth = std::max({depth, v.depth(), key.depth()});
    holds_namespace_ |= v.holds_namespace() || key.holds_namespace();
  }
  // A namespace may hold deeper values later, so it counts as half of what is allowed.
  if (dict.is_namespace) depth = std::max(depth, kDeepest / 2), holds_namespace_ = true;
  depth_ = static_cast<int16_t>(deeper(depth));
  weight_ = check_weight(weight);
  data_ = std::make_shared<Dict>(std::move(dict));
}

Value::Value(Function f) {
  depth_ = static_cast<int16_t>(deeper(f.holds.depth()));
  holds_namespace_ = f.holds.holds_namespace();
  data_ = std::make_shared<const Function>(std::move(f));
}

Dict* Value::as_namespace() const {
  auto* p = std::get_if<std::shared_ptr<Dict>>(&data_);
  return p && (*p)->is_namespace ? p->get() : nullptr;
}

size_t Value::weight() const {
  if (auto* s = as<std::string>()) return 1 + s->size() / 8;
  return weight_;
}

int64_t Value::integer() const {
  if (auto* b = as<bool>()) return *b;
  if (auto* i = as<int64_t>()) return *i;
  throw Failure(fmt::format("expected an int, found {}", type_name()));
}

double Value::real() const {
  if (auto* d = as<double>()) return *d;
  return static_cast<double>(integer());
}

const char* Value::type_name() const {
  static constexpr const char* kNames[] = {"Undefined", "NoneType", "bool", "int",     "float",
                                           "str",       "list",     "dict", "function"};
  if (auto* list = as<List>(); list && list->tuple) return "tuple";
  if (as_namespace()) return "namespace";
  return kNames[data_.index()];
}

bool Value::truthy() const {
  if (is<Undefined>() || is<None>()) return false;
  if (is_number()) return real() != 0;
  if (auto* s = as<std::string>()) return !s->empty();
  if (auto* l = as<List>()) return !l->items.empty();
  if (auto* d = as<Dict>()) return d->is_namespace || !d->items.empty();
  return true;
}

bool Value::operator==(const Value& o) const {
  if (is_integral() && o.is_integral()) return integer() == o.integer();
  if (is_number() && o.is_number()) return real() == o.real();
  if (data_.index() != o.data_.index()) return false;
  if (auto* s = as<std::string>()) return *s == *o.as<std::string>();
  if (auto* l = as<List>()) return l->tuple == o.as<List>()->tuple && l->items == o.as<List>()->items;
  if (auto* d = as<Dict>()) {
    auto* other = o.as<Dict>();
    if (d == other) return true;
    if (d->is_namespace || other->is_namespace || d->items.size() != other->items.size()) return false;
    return std::ranges::all_of(d->items, [&](auto& entry) {
      const Value* value = other->find(entry.first);
      return value && *value == entry.second;
    });
  }
  if (auto* f = as<Function>()) return f == o.as<Function>();
  return true;
}

const Value* Dict::find(const Value& key) const {
  for (auto& [k, v] : items)
    if (k == key) return &v;
  return nullptr;
}
const Value* Dict::find_text(std::string_view key) const {
  for (auto& [k, v] : items)
    if (auto* s = k.as<std::string>(); s && *s == key) return &v;
  return nullptr;
}
void Dict::set(Value key, Value value) {
  for (auto& [k, v] : items)
    if (k == key) {
      v = std::move(value);
      return;
    }
  items.emplace_back(std::move(key), std::move(value));
}

const Value* Args::find(size_t at, std::string_view name) const {
  if (at < positional.size()) return &positional[at];
  for (auto& [n, v] : named)
    if (n == name) return &v;
  return nullptr;
}

std::string real_text(double d) {
  std::string out = fmt::format("{}", d);
  return out.find_first_not_of("-0123456789") == out.npos ? out + ".0" : out;
}

std::string to_text(const Value& v, Budget& budget) {
  if (auto* s = v.as<std::string>()) {
    budget.charge_bytes(s->size());
    return *s;
  }
  return v.is<Undefined>() ? "" : to_repr(v, budget);
}

std::string to_repr(const Value& v, Budget& budget) {
  budget.charge(1);
  if (auto* s = v.as<std::string>()) {
    budget.charge_bytes(s->size());
    return quote_repr(*s);
  }
  if (v.is<Undefined>()) return "Undefined";
  if (v.is<None>()) return "None";
  if (auto* b = v.as<bool>()) return *b ? "True" : "False";
  if (auto* i = v.as<int64_t>()) return fmt::format("{}", *i);
  if (auto* d = v.as<double>()) return real_text(*d);
  if (auto* list = v.as<List>()) {
    std::string out(1, list->tuple ? '(' : '[');
    for (size_t i = 0; i < list->items.size(); ++i) (out += i ? ", " : "") += to_repr(list->items[i], budget);
    if (list->tuple && list->items.size() == 1) out += ',';
    budget.charge_bytes(out.size());
    return out + (list->tuple ? ')' : ']');
  }
  if (auto* dict = v.as<Dict>(); dict && !dict->is_namespace) {
    std::string out = "{";
    for (size_t i = 0; i < dict->items.size(); ++i) {
      out += i ? ", " : "";
      out += to_repr(dict->items[i].first, budget);
      out += ": ";
      out += to_repr(dict->items[i].second, budget);
    }
    budget.charge_bytes(out.size());
    return out + '}';
  }
  return fmt::format("<{}>", v.type_name());
}

std::string to_json(const Value& v, const JsonStyle& style, Budget& budget) {
  std::string out;
  write_json(v, style, 0, out, budget);
  return out;
}

Value from_json(std::string_view text, std::string_view what) {
  try {
    return convert(nlohmann::ordered_json::parse(text));
  } catch (const nlohmann::json::parse_error& e) {
    throw std::invalid_argument(fmt::format("[chat_template] {}: not valid JSON (at byte {})", what, e.byte));
  } catch (const Failure& e) {
    throw std::invalid_argument(fmt::format("[chat_template] {}: {}", what, e.what()));
  }
}

bool less(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.integer() < b.integer();
  if (a.is_number() && b.is_number()) return a.real() < b.real();
  auto *s = a.as<std::string>(), *t = b.as<std::string>();
  if (s && t) return *s < *t;  // UTF-8 sorts as its code points
  auto *l = a.as<List>(), *m = b.as<List>();
  if (l && m && l->tuple == m->tuple) return std::ranges::lexicographical_compare(l->items, m->items, less);
  throw Failure(fmt::format("'<' is not supported between {} and {}", a.type_name(), b.type_name()));
}

bool contains(const Value& container, const Value& x) {
  if (auto* s = container.as<std::string>()) {
    auto* part = x.as<std::string>();
    if (!part) throw Failure(fmt::format("'in' a str needs a str on its left, not {}", x.type_name()));
    return s->find(*part) != s->npos;
  }
  if (auto* list = container.as<List>()) return std::ranges::find(list->items, x) != list->items.end();
  if (container.is_dict()) return container.as<Dict>()->find(x) != nullptr;
  if (container.is<Undefined>()) return false;
  throw Failure(fmt::format("argument of type {} is not iterable", container.type_name()));
}

std::vector<Value> iterate(const Value& v, Budget& budget) {
  std::vector<Value> out;
  if (auto* list = v.as<List>()) {
    budget.charge(list->items.size());
    return list->items;
  }
  if (v.is_dict()) {
    budget.charge(v.as<Dict>()->items.size());
    for (auto& [key, value] : v.as<Dict>()->items) out.push_back(key);
  } else if (auto* s = v.as<std::string>()) {
    budget.charge(4 * s->size());
    for (std::string_view c : code_points(*s)) out.emplace_back(c);
  } else if (!v.is<Undefined>()) {
    throw Failure(fmt::format("{} is not iterable", v.type_name()));
  }
  return out;
}

size_t length(const Value& v) {
  if (auto* s = v.as<std::string>()) return count_code_points(*s);
  if (auto* list = v.as<List>()) return list->items.size();
  if (v.is_dict()) return v.as<Dict>()->items.size();
  if (v.is<Undefined>()) return 0;
  throw Failure(fmt::format("object of type {} has no length", v.type_name()));
}

Value attribute(const Value& x, const std::string& name) {
  if (auto* u = x.as<Undefined>()) throw Failure(fmt::format("'{}' is undefined", u->name));
  if (Dict* space = x.as_namespace()) {
    const Value* found = space->find_text(name);
    return found ? *found : Value::undefined(name);
  }
  if (Value bound = method(x, name); !bound.is<Undefined>()) return bound;
  if (auto* dict = x.as<Dict>())
    if (const Value* found = dict->find_text(name)) return *found;
  return Value::undefined(name);
}

Value item(const Value& x, const Value& key) {
  if (auto* u = x.as<Undefined>()) throw Failure(fmt::format("'{}' is undefined", u->name));
  auto* name = key.as<std::string>();
  if (auto* dict = x.as<Dict>(); dict && !dict->is_namespace)
    if (const Value* found = dict->find(key)) return *found;
  if (name) return attribute(x, *name);
  if (key.is_integral() && (x.is<List>() || x.is<std::string>())) {
    int64_t n = static_cast<int64_t>(length(x)), i = key.integer();
    if (i < 0) i += n;
    if (i >= 0 && i < n) {
      if (auto* list = x.as<List>()) return list->items[static_cast<size_t>(i)];
      return code_points(*x.as<std::string>())[static_cast<size_t>(i)];
    }
  }
  Budget budget;
  return Value::undefined(to_repr(key, budget).substr(0, 40));
}

Value slice(const Value& x, const Value& start, const Value& stop, const Value& step, Budget& budget) {
  auto* text = x.as<std::string>();
  auto* list = x.as<List>();
  if (!text && !list) throw Failure(fmt::format("{} cannot be sliced", x.type_name()));
  std::vector<std::string_view> chars;
  if (text) chars = code_points(*text);
  const int64_t n = static_cast<int64_t>(text ? chars.size() : list->items.size());
  budget.charge(static_cast<size_t>(n) + 1);
  int64_t by = step.is<None>() ? 1 : step.integer();
  if (by == 0) throw Failure("the step of a slice must not be 0");
  by = std::clamp(by, -n - 1, n + 1);
  auto bound = [&](const Value& v, int64_t otherwise) {
    if (v.is<None>()) return otherwise;
    int64_t i = v.integer();
    if (i < 0) i = i < -n ? -1 : i + n;
    return by > 0 ? std::clamp<int64_t>(i, 0, n) : std::clamp<int64_t>(i, -1, n - 1);
  };
  int64_t from = bound(start, by > 0 ? 0 : n - 1), to = bound(stop, by > 0 ? n : -1);
  std::string out_text;
  std::vector<Value> out;
  for (int64_t i = from; by > 0 ? i < to : i > to; i += by) {
    if (text)
      out_text += chars[static_cast<size_t>(i)];
    else
      out.push_back(list->items[static_cast<size_t>(i)]);
  }
  if (text) return out_text;
  return List{std::move(out), list->tuple};
}

}  // namespace lazuli::lm::jinja
