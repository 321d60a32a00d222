#include "lm/jinja_lexer.h"

#include <fmt/format.h>

#include <algorithm>

namespace lazuli::lm::jinja {
namespace {

bool space(char c) { return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f); }
bool digit(char c) { return c >= '0' && c <= '9'; }
bool name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

// Line ends become "\n", and one at the very end is dropped, as Jinja does.
std::string normalize(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (source.substr(i + 1).starts_with('\n')) ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : s_(normalize(source)) {}

  std::vector<Token> run() {
    while (at_ < s_.size()) {
      size_t open = find_open();
      std::string_view text = view(at_, open);
      if (open == s_.size()) {
        add_text(text);
        move_to(open);
        break;
      }
      char kind = s_[open + 1];
      char sign = open + 2 < s_.size() ? s_[open + 2] : '\0';
      add_text(before_tag(text, kind, sign));
      move_to(open);
      if (kind == '#')
        comment();
      else if (kind == '{')
        tag(Token::Kind::begin_output, Token::Kind::end_output, "}}");
      else if (!raw())
        tag(Token::Kind::begin_block, Token::Kind::end_block, "%}");
      line_start_ = at_ > 0 && s_[at_ - 1] == '\n';
    }
    add(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  std::string_view view(size_t from, size_t to) const { return std::string_view(s_).substr(from, to - from); }
  bool at(std::string_view what) const { return std::string_view(s_).substr(at_).starts_with(what); }

  void move_to(size_t to) {
    for (; at_ < to; ++at_) {
      if (s_[at_] == '\n')
        ++place_.line, place_.column = 1;
      else
        place_.column += (s_[at_] & 0xc0) != 0x80;
    }
  }
  void add(Token::Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), place_}); }
  void add_text(std::string_view text) {
    if (!text.empty()) add(Token::Kind::text, std::string(text));
  }

  size_t find_open() const {
    for (size_t i = at_; i + 1 < s_.size(); ++i)
      if (s_[i] == '{' && (s_[i + 1] == '{' || s_[i + 1] == '%' || s_[i + 1] == '#')) return i;
    return s_.size();
  }

  // The text before a tag, less the white space that the tag eats: all of it with "-"; before a
  // block or comment the indentation of its line.
  std::string_view before_tag(std::string_view text, char kind, char sign) const {
    if (sign == '-') {
      while (!text.empty() && space(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && kind != '{') {
      size_t line = text.rfind('\n') + 1;  // 0 if there is none
      if ((line > 0 || line_start_) && std::ranges::all_of(text.substr(line), space))
        text = text.substr(0, line);
    }
    return text;
  }

  void skip_space() {
    size_t to = at_;
    while (to < s_.size() && space(s_[to])) ++to;
    move_to(to);
  }
  // Behind the end of a block or comment; `sign` is the character in front of it.
  void after_tag(char sign, bool trims_newline) {
    if (sign == '-')
      skip_space();
    else if (sign != '+' && trims_newline && at("\n"))
      move_to(at_ + 1);
  }

  void comment() {
    Place start = place_;
    size_t end = s_.find("#}", at_ + 2);
    if (end == s_.npos) fail_at(start, "this comment does not end");
    char sign = end > at_ + 2 ? s_[end - 1] : '\0';
    move_to(end + 2);
    after_tag(sign == '+' ? '\0' : sign, true);
  }

  // {% raw %} ... {% endraw %}
  bool raw() {
    size_t i = at_ + 2, start = at_;
    if (i < s_.size() && (s_[i] == '-' || s_[i] == '+')) ++i;
    size_t end = raw_tag(i, "raw");
    if (end == s_.npos) return false;
    Place place = place_;
    bool eats = s_[end - 3] == '-';
    move_to(end);
    if (eats) skip_space();
    for (size_t open = s_.find("{%", at_); open != s_.npos; open = s_.find("{%", open + 2)) {
      size_t j = open + 2;
      char sign = j < s_.size() ? s_[j] : '\0';
      if (sign == '-' || sign == '+') ++j;
      size_t close = raw_tag(j, "endraw");
      if (close == s_.npos) continue;
      line_start_ = false;
      add_text(before_tag(view(at_, open), '%', sign));
      char close_sign = s_[close - 3];
      move_to(close);
      after_tag(close_sign, true);
      return true;
    }
    (void)start;
    fail_at(place, "this raw block does not end");
  }
  // The end of "NAME %}" from i on, or npos.
  size_t raw_tag(size_t i, std::string_view name) const {
    while (i < s_.size() && space(s_[i])) ++i;
    if (!std::string_view(s_).substr(i).starts_with(name)) return s_.npos;
    i += name.size();
    while (i < s_.size() && space(s_[i])) ++i;
    if (i < s_.size() && (s_[i] == '-' || s_[i] == '+')) ++i;
    return std::string_view(s_).substr(i).starts_with("%}") ? i + 2 : s_.npos;
  }

  void tag(Token::Kind begin, Token::Kind end, std::string_view close) {
    Place start = place_;
    add(begin, "");
    move_to(at_ + 2);
    if (at("-") || at("+")) move_to(at_ + 1);
    std::string open_brackets;
    while (true) {
      skip_space();
      if (at_ >= s_.size()) fail_at(start, "this tag does not end");
      if (open_brackets.empty()) {
        char sign = (at("-") || at("+")) && view(at_ + 1, s_.size()).starts_with(close) ? s_[at_] : '\0';
        if (sign == '+' && close == "}}") sign = '\0';
        if (sign || at(close)) {
          add(end, "");
          move_to(at_ + close.size() + (sign != '\0'));
          after_tag(sign, begin == Token::Kind::begin_block);
          return;
        }
      }
      token(open_brackets);
    }
  }

  void token(std::string& open_brackets) {
    char c = s_[at_];
    if (c == '"' || c == '\'') return string(c);
    if (digit(c)) return number();
    size_t end = at_;
    if (name_start(c)) {
      while (end < s_.size() && (name_start(s_[end]) || digit(s_[end]))) ++end;
      add(Token::Kind::name, std::string(view(at_, end)));
      return move_to(end);
    }
    static constexpr std::string_view kSymbols[] = {"==", "!=", "<=", ">=", "//", "**", "(", ")", "[",
                                                    "]",  "{",  "}",  "<",  ">",  "=",  "+", "-", "*",
                                                    "/",  "%",  "~",  "|",  ",",  ":",  "."};
    auto symbol = std::ranges::find_if(kSymbols, [&](std::string_view s) { return at(s); });
    if (symbol == std::end(kSymbols))
      fail_at(place_, fmt::format("unexpected character '{}'", c < 0x20 ? '?' : c));
    if (c == '(' || c == '[' || c == '{') open_brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty() || open_brackets.back() != c)
        fail_at(place_, fmt::format("unexpected '{}'", c));
      open_brackets.pop_back();
    }
    add(Token::Kind::symbol, std::string(*symbol));
    move_to(at_ + symbol->size());
  }

  void number() {
    size_t end = at_;
    auto digits = [&] {
      while (end < s_.size() &&
             (digit(s_[end]) || (s_[end] == '_' && end + 1 < s_.size() && digit(s_[end + 1]))))
        ++end;
    };
    bool real = false;
    digits();
    if (end + 1 < s_.size() && s_[end] == '.' && digit(s_[end + 1])) {
      real = true;
      ++end;
      digits();
    }
    if (end < s_.size() && (s_[end] == 'e' || s_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < s_.size() && (s_[exponent] == '+' || s_[exponent] == '-')) ++exponent;
      if (exponent < s_.size() && digit(s_[exponent])) {
        real = true;
        end = exponent;
        digits();
      }
    }
    std::string text(view(at_, end));
    std::erase(text, '_');
    add(real ? Token::Kind::real : Token::Kind::integer, std::move(text));
    move_to(end);
  }

  void string(char quote) {
    std::string out;
    size_t i = at_ + 1;
    for (; i < s_.size() && s_[i] != quote; ++i) {
      if (s_[i] != '\\') {
        out += s_[i];
        continue;
      }
      if (++i >= s_.size()) break;
      escape(i, out);
    }
    if (i >= s_.size()) fail_at(place_, "this string does not end");
    add(Token::Kind::string, std::move(out));
    move_to(i + 1);
  }

  // The escape whose letter is at i, as Python reads it; leaves i on its last character.
  void escape(size_t& i, std::string& out) {
    char c = s_[i];
    static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (size_t at = kFrom.find(c); at != kFrom.npos) {
      out += kTo[at];
    } else if (c == '\n') {
      return;  // a continued line
    } else if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      size_t end = std::min(i + 3, s_.size());
      for (; i < end && s_[i] >= '0' && s_[i] <= '7'; ++i)
        value = value * 8 + static_cast<uint32_t>(s_[i] - '0');
      --i;
      put(value, out);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      std::string_view digits = view(i + 1, std::min(i + 1 + n, s_.size()));
      if (digits.size() != n || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos)
        fail_at(place_, fmt::format("\\{} needs {} hexadecimal digits", c, n));
      put(static_cast<uint32_t>(std::stoul(std::string(digits), nullptr, 16)), out);
      i += n;
    } else {
      (out += '\\') += c;
    }
  }
  void put(uint32_t c, std::string& out) {
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) fail_at(place_, "this string has an invalid code point");
    auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 63)); };
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += static_cast<char>(0xc0 | c >> 6);
      tail(0);
    } else if (c < 0x10000) {
      out += static_cast<char>(0xe0 | c >> 12);
      tail(6), tail(0);
    } else {
      out += static_cast<char>(0xf0 | c >> 18);
      tail(12), tail(6), tail(0);
    }
  }

  std::string s_;
  size_t at_ = 0;
  Place place_;
  bool line_start_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace lazuli::lm::jinja
