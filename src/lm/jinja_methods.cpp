// Python's methods of str, dict and list, and the text functions that filters share with them.
#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "lm/jinja_value.h"

namespace lazuli::lm::jinja {
namespace {

uint32_t decode(std::string_view c) {
  auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(c[i])); };
  if (c.size() == 2) return (byte(0) & 31) << 6 | (byte(1) & 63);
  if (c.size() == 3) return (byte(0) & 15) << 12 | (byte(1) & 63) << 6 | (byte(2) & 63);
  if (c.size() == 4) return (byte(0) & 7) << 18 | (byte(1) & 63) << 12 | (byte(2) & 63) << 6 | (byte(3) & 63);
  return byte(0);
}

std::string encode(uint32_t c) {
  utf8proc_uint8_t bytes[4];
  auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(c), bytes);
  return {reinterpret_cast<const char*>(bytes), static_cast<size_t>(n)};
}

uint32_t to_lower(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
uint32_t to_upper(uint32_t c) {
  return static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
bool is_letter(uint32_t c) {
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}
bool is_cased(uint32_t c) {
  auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LT;
}

template <class F>
std::string map_text(std::string_view s, F&& f) {
  std::string out;
  for (std::string_view c : code_points(s)) {
    uint32_t from = decode(c), to = f(from);
    if (from == 0xdf && to == 'S')
      out += "SS";  // sharp s
    else if (from == to)
      out += c;
    else
      out += encode(to);
  }
  return out;
}
uint32_t upper_or_sharp_s(uint32_t c) { return c == 0xdf ? 'S' : to_upper(c); }

std::string title(std::string_view s) {
  bool inside = false;
  return map_text(s, [&](uint32_t c) {
    bool was_inside = std::exchange(inside, is_cased(c));
    return was_inside ? to_lower(c) : to_upper(c);
  });
}

// ---- arguments ----

const std::string& text_argument(const Args& args, size_t at, std::string_view name) {
  const Value* v = args.find(at, name);
  auto* s = v ? v->as<std::string>() : nullptr;
  if (!s)
    throw Failure(fmt::format("argument {} must be a str, not {}", name, v ? v->type_name() : "absent"));
  return *s;
}
int64_t integer_argument(const Args& args, size_t at, std::string_view name, int64_t otherwise) {
  const Value* v = args.find(at, name);
  return v ? v->integer() : otherwise;
}

std::vector<Value> split(std::string_view s, const Value* by, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  auto full = [&] { return most >= 0 && static_cast<int64_t>(parts.size()) >= most; };
  auto space = [](char c) { return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f); };
  if (by && !by->is<None>()) {
    auto* separator = by->as<std::string>();
    if (!separator) throw Failure(fmt::format("the separator must be a str, not {}", by->type_name()));
    if (separator->empty()) throw Failure("the separator is empty");
    while (!full()) {
      size_t at = from_right ? s.rfind(*separator) : s.find(*separator);
      if (at == s.npos) break;
      parts.push_back(from_right ? s.substr(at + separator->size()) : s.substr(0, at));
      s = from_right ? s.substr(0, at) : s.substr(at + separator->size());
    }
    parts.push_back(s);
  } else if (from_right) {
    while (true) {
      while (!s.empty() && space(s.back())) s.remove_suffix(1);
      if (s.empty()) break;
      if (full()) {
        parts.push_back(s);
        break;
      }
      size_t n = 0;
      while (n < s.size() && !space(s[s.size() - 1 - n])) ++n;
      parts.push_back(s.substr(s.size() - n));
      s.remove_suffix(n);
    }
  } else {
    while (true) {
      while (!s.empty() && space(s.front())) s.remove_prefix(1);
      if (s.empty()) break;
      if (full()) {
        parts.push_back(s);
        break;
      }
      size_t n = 0;
      while (n < s.size() && !space(s[n])) ++n;
      parts.push_back(s.substr(0, n));
      s.remove_prefix(n);
    }
  }
  if (from_right) std::ranges::reverse(parts);
  std::vector<Value> out;
  for (auto part : parts) out.emplace_back(part);
  return out;
}

std::vector<Value> split_lines(std::string_view s, bool keep) {
  std::vector<Value> out;
  while (!s.empty()) {
    size_t at = s.find_first_of("\n\r\v\f\x1c\x1d\x1e"), end = at;
    if (at == s.npos)
      at = end = s.size();
    else
      end = at + (s.substr(at).starts_with("\r\n") ? 2 : 1);
    out.emplace_back(s.substr(0, keep ? end : at));
    s.remove_prefix(end);
  }
  return out;
}

bool has_affix(const std::string& s, const Value* affix, bool at_start) {
  if (auto* list = affix ? affix->as<List>() : nullptr; list && list->tuple)
    return std::ranges::any_of(list->items, [&](const Value& v) { return has_affix(s, &v, at_start); });
  auto* text = affix ? affix->as<std::string>() : nullptr;
  if (!text) throw Failure("startswith and endswith need a str or a tuple of str");
  return at_start ? s.starts_with(*text) : s.ends_with(*text);
}

template <class F>
bool every(const std::string& s, F&& is) {
  auto chars = code_points(s);
  return !chars.empty() && std::ranges::all_of(chars, [&](std::string_view c) { return is(decode(c)); });
}
bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }

// Python's index of a byte offset, or -1.
int64_t index_of(std::string_view s, size_t byte) {
  return byte == s.npos ? -1 : static_cast<int64_t>(count_code_points(s.substr(0, byte)));
}

std::string pad(const std::string& s, int64_t width, const std::string& fill, int side, Budget& budget) {
  int64_t missing = width - static_cast<int64_t>(count_code_points(s));
  if (missing <= 0) return s;
  budget.charge_bytes(static_cast<size_t>(missing));
  // Python's center puts the odd space left if the width is odd.
  int64_t left = side < 0 ? 0 : side > 0 ? missing : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += s;
  for (int64_t i = left; i < missing; ++i) out += fill;
  return out;
}

using Method = Value (*)(const std::string& s, const Args& a, Budget& b);
struct Named {
  std::string_view name;
  Method call;
};

const std::string& fill_argument(const Args& a) {
  static const std::string space = " ";
  return a.find(1, "fillchar") ? text_argument(a, 1, "fillchar") : space;
}

constexpr Named kTextMethods[] = {
    {"strip", [](auto& s, auto& a, auto&) -> Value { return strip(s, a.find(0, "chars"), true, true); }},
    {"lstrip", [](auto& s, auto& a, auto&) -> Value { return strip(s, a.find(0, "chars"), true, false); }},
    {"rstrip", [](auto& s, auto& a, auto&) -> Value { return strip(s, a.find(0, "chars"), false, true); }},
    {"split",
     [](auto& s, auto& a, auto&) -> Value {
       return Value::list(split(s, a.find(0, "sep"), integer_argument(a, 1, "maxsplit", -1), false));
     }},
    {"rsplit",
     [](auto& s, auto& a, auto&) -> Value {
       return Value::list(split(s, a.find(0, "sep"), integer_argument(a, 1, "maxsplit", -1), true));
     }},
    {"splitlines",
     [](auto& s, auto& a, auto&) -> Value {
       const Value* keep = a.find(0, "keepends");
       return Value::list(split_lines(s, keep && keep->truthy()));
     }},
    {"startswith", [](auto& s, auto& a, auto&) -> Value { return has_affix(s, a.find(0, "prefix"), true); }},
    {"endswith", [](auto& s, auto& a, auto&) -> Value { return has_affix(s, a.find(0, "suffix"), false); }},
    {"upper", [](auto& s, auto&, auto&) -> Value { return upper(s); }},
    {"lower", [](auto& s, auto&, auto&) -> Value { return lower(s); }},
    {"casefold", [](auto& s, auto&, auto&) -> Value { return lower(s); }},
    {"title", [](auto& s, auto&, auto&) -> Value { return title(s); }},
    {"capitalize", [](auto& s, auto&, auto&) -> Value { return capitalize(s); }},
    {"swapcase",
     [](auto& s, auto&, auto&) -> Value {
       return map_text(s, [](uint32_t c) { return to_lower(c) != c ? to_lower(c) : upper_or_sharp_s(c); });
     }},
    {"replace",
     [](auto& s, auto& a, auto& b) -> Value {
       return replace_all(s, text_argument(a, 0, "old"), text_argument(a, 1, "new"),
                          integer_argument(a, 2, "count", -1), b);
     }},
    {"find",
     [](auto& s, auto& a, auto&) -> Value { return index_of(s, s.find(text_argument(a, 0, "sub"))); }},
    {"rfind",
     [](auto& s, auto& a, auto&) -> Value { return index_of(s, s.rfind(text_argument(a, 0, "sub"))); }},
    {"index",
     [](auto& s, auto& a, auto&) -> Value {
       size_t at = s.find(text_argument(a, 0, "sub"));
       if (at == s.npos) throw Failure("substring not found");
       return index_of(s, at);
     }},
    {"count",
     [](auto& s, auto& a, auto&) -> Value {
       const std::string& part = text_argument(a, 0, "sub");
       if (part.empty()) return static_cast<int64_t>(count_code_points(s) + 1);
       int64_t n = 0;
       for (size_t at = s.find(part); at != s.npos; at = s.find(part, at + part.size())) ++n;
       return n;
     }},
    {"join",
     [](auto& s, auto& a, auto& b) -> Value {
       const Value* items = a.find(0, "iterable");
       if (!items) throw Failure("join needs a list");
       std::string out;
       bool first = true;
       for (const Value& v : iterate(*items, b)) {
         auto* text = v.template as<std::string>();
         if (!text) throw Failure(fmt::format("join needs str, found {}", v.type_name()));
         b.charge_bytes(text->size() + s.size());
         if (!std::exchange(first, false)) out += s;
         out += *text;
       }
       return out;
     }},
    {"isdigit", [](auto& s, auto&, auto&) -> Value { return every(s, is_digit); }},
    {"isdecimal", [](auto& s, auto&, auto&) -> Value { return every(s, is_digit); }},
    {"isnumeric", [](auto& s, auto&, auto&) -> Value { return every(s, is_digit); }},
    {"isalpha", [](auto& s, auto&, auto&) -> Value { return every(s, is_letter); }},
    {"isalnum",
     [](auto& s, auto&, auto&) -> Value {
       return every(s, [](uint32_t c) { return is_digit(c) || is_letter(c); });
     }},
    {"isspace",
     [](auto& s, auto&, auto&) -> Value {
       return !s.empty() && std::ranges::all_of(code_points(s), is_space);
     }},
    {"isupper", [](auto& s, auto&, auto&) -> Value { return s == upper(s) && s != lower(s); }},
    {"islower", [](auto& s, auto&, auto&) -> Value { return s == lower(s) && s != upper(s); }},
    {"removeprefix",
     [](auto& s, auto& a, auto&) -> Value {
       const std::string& p = text_argument(a, 0, "prefix");
       return s.starts_with(p) ? s.substr(p.size()) : s;
     }},
    {"removesuffix",
     [](auto& s, auto& a, auto&) -> Value {
       const std::string& p = text_argument(a, 0, "suffix");
       return s.ends_with(p) ? s.substr(0, s.size() - p.size()) : s;
     }},
    {"partition",
     [](auto& s, auto& a, auto&) -> Value {
       const std::string& by = text_argument(a, 0, "sep");
       size_t at = s.find(by);
       if (at == s.npos) return Value::tuple({s, "", ""});
       return Value::tuple({s.substr(0, at), by, s.substr(at + by.size())});
     }},
    {"rpartition",
     [](auto& s, auto& a, auto&) -> Value {
       const std::string& by = text_argument(a, 0, "sep");
       size_t at = s.rfind(by);
       if (at == s.npos) return Value::tuple({"", "", s});
       return Value::tuple({s.substr(0, at), by, s.substr(at + by.size())});
     }},
    {"ljust",
     [](auto& s, auto& a, auto& b) -> Value {
       return pad(s, integer_argument(a, 0, "width", 0), fill_argument(a), -1, b);
     }},
    {"rjust",
     [](auto& s, auto& a, auto& b) -> Value {
       return pad(s, integer_argument(a, 0, "width", 0), fill_argument(a), 1, b);
     }},
    {"center",
     [](auto& s, auto& a, auto& b) -> Value {
       return pad(s, integer_argument(a, 0, "width", 0), fill_argument(a), 0, b);
     }},
    {"zfill",
     [](auto& s, auto& a, auto& b) -> Value {
       bool sign = s.starts_with('-') || s.starts_with('+');
       int64_t width = integer_argument(a, 0, "width", 0) - sign;
       return (sign ? s.substr(0, 1) : "") + pad(sign ? s.substr(1) : s, width, "0", 1, b);
     }},
};

Value bound(const std::string& name, const Value& x, std::function<Value(Engine&, const Args&)> call) {
  return Function{name, std::move(call), x};
}

}  // namespace

size_t count_code_points(std::string_view s) {
  return static_cast<size_t>(std::ranges::count_if(s, [](char c) { return (c & 0xc0) != 0x80; }));
}

std::vector<std::string_view> code_points(std::string_view s) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < s.size();) {
    size_t end = i + 1;
    while (end < s.size() && end < i + 4 && (s[end] & 0xc0) == 0x80) ++end;
    out.push_back(s.substr(i, end - i));
    i = end;
  }
  return out;
}

bool is_space(std::string_view c) {
  if (c.size() == 1) return c[0] == ' ' || (c[0] >= '\t' && c[0] <= '\r') || (c[0] >= 0x1c && c[0] <= 0x1f);
  uint32_t u = decode(c);
  return u == 0x85 || u == 0xa0 || u == 0x1680 || (u >= 0x2000 && u <= 0x200a) || u == 0x2028 ||
         u == 0x2029 || u == 0x202f || u == 0x205f || u == 0x3000;
}

std::string upper(std::string_view s) { return map_text(s, upper_or_sharp_s); }
std::string lower(std::string_view s) { return map_text(s, to_lower); }
std::string capitalize(std::string_view s) {
  bool first = true;
  return map_text(s, [&](uint32_t c) { return std::exchange(first, false) ? to_upper(c) : to_lower(c); });
}

std::string_view strip(std::string_view s, const Value* chars, bool left, bool right) {
  std::vector<std::string_view> set;
  const bool spaces = !chars || chars->is<None>();
  if (!spaces) {
    auto* text = chars->as<std::string>();
    if (!text) throw Failure(fmt::format("strip needs a str, not {}", chars->type_name()));
    set = code_points(*text);
  }
  auto drop = [&](std::string_view c) {
    return spaces ? is_space(c) : std::ranges::find(set, c) != set.end();
  };
  auto all = code_points(s);
  size_t from = 0, to = all.size();
  while (left && from < to && drop(all[from])) ++from;
  while (right && to > from && drop(all[to - 1])) --to;
  if (from == to) return {};
  return {all[from].data(), static_cast<size_t>(all[to - 1].data() + all[to - 1].size() - all[from].data())};
}

std::string replace_all(std::string_view s, std::string_view from, std::string_view to, int64_t count,
                        Budget& b) {
  std::string out;
  auto append = [&](std::string_view part) {
    b.charge_bytes(part.size());
    out += part;
  };
  if (from.empty()) {  // between all characters, and at both ends
    auto chars = code_points(s);
    for (size_t i = 0; i <= chars.size(); ++i) {
      if (count < 0 || static_cast<int64_t>(i) < count) append(to);
      if (i < chars.size()) append(chars[i]);
    }
    return out;
  }
  for (; count != 0; --count) {
    size_t at = s.find(from);
    if (at == s.npos) break;
    append(s.substr(0, at));
    append(to);
    s.remove_prefix(at + from.size());
  }
  append(s);
  return out;
}

Value method(const Value& x, const std::string& name) {
  if (x.is<std::string>()) {
    auto found = std::ranges::find(kTextMethods, std::string_view(name), &Named::name);
    if (found == std::end(kTextMethods)) return Value::undefined(name);
    return bound(name, x, [call = found->call, x](Engine& e, const Args& a) {
      e.budget.charge_bytes(4 * x.as<std::string>()->size());  // methods see characters one by one
      return call(*x.as<std::string>(), a, e.budget);
    });
  }
  if (x.is_dict()) {
    if (name == "items" || name == "keys" || name == "values")
      return bound(name, x, [x, which = name[0]](Engine& e, const Args&) {
        std::vector<Value> out;
        e.budget.charge(x.as<Dict>()->items.size());
        for (auto& [key, value] : x.as<Dict>()->items)
          out.push_back(which == 'k' ? key : which == 'v' ? value : Value::tuple({key, value}));
        return Value::list(std::move(out));
      });
    if (name == "get")
      return bound(name, x, [x](Engine&, const Args& a) -> Value {
        const Value *key = a.find(0, "key"), *otherwise = a.find(1, "default");
        if (!key) throw Failure("get needs a key");
        if (const Value* found = x.as<Dict>()->find(*key)) return *found;
        return otherwise ? *otherwise : Value();
      });
    if (name == "copy") return bound(name, x, [x](Engine&, const Args&) { return x; });
  }
  if (auto* list = x.as<List>()) {
    if (name == "count" || name == "index")
      return bound(name, x, [x, counts = name == "count"](Engine& e, const Args& a) -> Value {
        const Value* wanted = a.find(0, "value");
        if (!wanted) throw Failure("a value is needed");
        auto& items = x.as<List>()->items;
        e.budget.charge(x.weight() + wanted->weight() * items.size());
        if (counts) return static_cast<int64_t>(std::ranges::count(items, *wanted));
        auto found = std::ranges::find(items, *wanted);
        if (found == items.end()) throw Failure("the value is not in the list");
        return static_cast<int64_t>(found - items.begin());
      });
    if (!list->tuple && (name == "append" || name == "extend" || name == "insert" || name == "pop" ||
                         name == "remove" || name == "clear" || name == "sort" || name == "reverse"))
      throw Failure(fmt::format("list.{} is not allowed: values do not change", name));
  }
  return Value::undefined(name);
}

}  // namespace lazuli::lm::jinja
