#include "lm/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <stdexcept>

namespace lazuli::lm::tokenization {
namespace {

constexpr size_t kLongestPattern = 1 << 16;
constexpr size_t kJitStackBytes = 1 << 20;
constexpr uint32_t kHeapKib = 64 << 10;

// As the contents of a class.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
// Oniguruma, which Hugging Face's Split uses, counts the Latin-1 superscripts and fractions in.
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

// Spells out \s, \S, \w and \W, and classes in classes.
std::string with_unicode_classes(std::string_view pattern) {
  std::string out;
  int depth = 0;  // of classes: Oniguruma and Rust nest them, PCRE2 does not; unions are written flat
  for (size_t i = 0; i < pattern.size(); ++i) {
    char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      char e = pattern[++i];
      if (e == 's' || e == 'S' || e == 'w') {
        std::string_view body = e == 's' ? kSpace : e == 'S' ? kNotSpace : kWord;
        if (depth > 0)
          out += body;
        else
          out.append("[").append(body).append("]");
      } else if (e == 'W' && depth == 0) {
        out.append("[^").append(kWord).append("]");
      } else {
        out += c;
        out += e;
      }
      continue;
    }
    auto next = [&](char expected) { return i + 1 < pattern.size() && pattern[i + 1] == expected; };
    if (c == '[' && depth == 0) {
      depth = 1;
      out += c;
      if (next('^')) out += pattern[++i];
      if (next(']')) out += pattern[++i];
    } else if (c == '[' && next(':') && pattern.find(":]", i) != std::string_view::npos) {
      size_t end = pattern.find(":]", i) + 2;  // [:alpha:]
      out += pattern.substr(i, end - i);
      i = end - 1;
    } else if (c == '[') {
      if (next('^')) throw std::runtime_error("a negated class inside a class of a pattern is not supported");
      ++depth;
    } else if (c == ']' && depth > 0) {
      if (--depth == 0) out += c;
    } else if (c == '&' && depth > 0 && next('&')) {
      throw std::runtime_error("an intersection of classes in a pattern is not supported");
    } else {
      out += c;
    }
  }
  return out;
}

std::string message(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// What a match writes to, one a thread.
struct Workspace {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);
  Workspace() {
    if (!data || !context || !stack) throw std::bad_alloc();
    pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_heap_limit(context, kHeapKib);
  }
  ~Workspace() {
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_jit_stack_free(stack);
  }
  Workspace(const Workspace&) = delete;
};
Workspace& workspace() {
  thread_local Workspace w;
  return w;
}

}  // namespace

Regex::Regex(std::string_view pattern) : pattern_(pattern) {
  if (pattern.size() > kLongestPattern)
    throw std::runtime_error(
        fmt::format("a pattern of {} bytes is longer than {}", pattern.size(), kLongestPattern));
  std::string spelled = with_unicode_classes(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // No \C (it cuts characters), and no verbs such as (*LIMIT_MATCH=...) reach past our limits: those
  // can only lower them.
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY,
                                   &error, &offset, nullptr);
  if (!code)
    throw std::runtime_error(
        fmt::format("the pattern '{}' does not compile: {}", pattern_.substr(0, 200), message(error)));
  code_ = std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it, pcre2_match interprets
}

bool Regex::find(std::string_view text, size_t from, Match& match) const {
  Workspace& w = workspace();
  // A right pattern needs a few steps for each byte of one match; the limit catches exponential ones.
  uint64_t limit = std::min<uint64_t>(UINT32_MAX / 2, 1'000'000 + 32 * uint64_t(text.size()));
  pcre2_set_match_limit(w.context, static_cast<uint32_t>(limit));
  auto* code = static_cast<const pcre2_code*>(code_.get());
  auto run = [&](uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK | options, w.data, w.context);
  };
  int rc = run(0);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(PCRE2_NO_JIT);  // keeps its state on the heap
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc < 0)
    throw std::runtime_error(fmt::format("[Tokenizer] the pattern '{}' gave up on a text of {} bytes: {}",
                                         pattern_.substr(0, 200), text.size(), message(rc)));
  PCRE2_SIZE* ends = pcre2_get_ovector_pointer(w.data);
  match = {ends[0], ends[1]};
  return from <= match.begin && match.begin <= match.end;  // \K in a lookaround may turn them round
}

}  // namespace lazuli::lm::tokenization
