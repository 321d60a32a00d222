#include "lm/tokenizer/pretokenize.h"

#include <array>

#include "lm/tokenizer/unicode.h"

namespace lazuli::lm::tokenization {

const std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

struct Part {
  Span span;
  bool is_match;
};

void join(const std::vector<Part>& parts, Behavior behavior, bool invert, std::vector<Span>& out) {
  size_t first = out.size();
  bool previous = false;
  auto push = [&](Span s) { out.push_back(s); };
  switch (behavior) {
    case Behavior::removed:
      for (const Part& p : parts)
        if (p.is_match == invert) push(p.span);
      break;
    case Behavior::isolated:
      for (const Part& p : parts) push(p.span);
      break;
    case Behavior::contiguous:
      for (const Part& p : parts) {
        bool match = p.is_match != invert;
        if (match == previous && out.size() > first)
          out.back().end = p.span.end;
        else
          push(p.span);
        previous = match;
      }
      break;
    case Behavior::merged_with_previous:
      for (const Part& p : parts) {
        bool match = p.is_match != invert;
        if (match && !previous && out.size() > first)
          out.back().end = p.span.end;
        else
          push(p.span);
        previous = match;
      }
      break;
    case Behavior::merged_with_next: {
      // Seen from the end, a delimiter takes what follows it.
      std::vector<Span> reversed;
      for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
        bool match = p->is_match != invert;
        if (match && !previous && !reversed.empty())
          reversed.back().begin = p->span.begin;
        else
          reversed.push_back(p->span);
        previous = match;
      }
      out.insert(out.end(), reversed.rbegin(), reversed.rend());
    }
  }
  std::erase_if(out, [](Span s) { return s.begin == s.end; });
}

// `next(word, from, match)` finds the first match at or behind `from`.
template <class Next>
void split_by(Pieces& pieces, Behavior behavior, bool invert, Next&& next) {
  std::vector<Span> out;
  out.reserve(pieces.spans.size() + pieces.text.size() / 4);
  std::vector<Part> parts;
  bool simple = behavior == Behavior::isolated;
  for (size_t i = 0; i < pieces.spans.size(); ++i) {
    std::string_view word = pieces.word(i);
    size_t base = pieces.spans[i].begin, done = 0, from = 0;
    parts.clear();
    auto add = [&](size_t begin, size_t end, bool is_match) {
      if (begin == end) return;
      if (simple)
        out.push_back({base + begin, base + end});
      else
        parts.push_back({{base + begin, base + end}, is_match});
    };
    Regex::Match m{};
    while (from < word.size() && next(word, from, m)) {
      add(done, m.begin, false);
      add(m.begin, m.end, true);
      done = from = m.end;
      if (m.begin == m.end && from < word.size()) from += character_length(word[from]);
    }
    add(done, word.size(), false);
    if (!simple) {
      std::vector<Span> joined;
      join(parts, behavior, invert, joined);
      out.insert(out.end(), joined.begin(), joined.end());
    }
  }
  pieces.spans = std::move(out);
}

}  // namespace

void Pieces::reset(std::string_view whole, bool starts) {
  text = whole;
  spans.clear();
  if (!whole.empty()) spans.push_back({0, whole.size()});
  at_start = starts;
}

void split(Pieces& pieces, const Regex& pattern, Behavior behavior, bool invert) {
  split_by(pieces, behavior, invert,
           [&](std::string_view word, size_t from, Regex::Match& m) { return pattern.find(word, from, m); });
}

void split(Pieces& pieces, std::string_view pattern, Behavior behavior, bool invert) {
  split_by(pieces, behavior, invert, [&](std::string_view word, size_t from, Regex::Match& m) {
    size_t at = pattern.empty() ? std::string_view::npos : word.find(pattern, from);
    m = {at, at + pattern.size()};
    return at != std::string_view::npos;
  });
}

void split(Pieces& pieces, bool (*is_delimiter)(char32_t), Behavior behavior) {
  std::array<bool, 128> ascii;
  for (char32_t c = 0; c < 128; ++c) ascii[c] = is_delimiter(c);
  split_by(pieces, behavior, false, [&](std::string_view word, size_t from, Regex::Match& m) {
    while (from < word.size()) {
      auto byte = static_cast<unsigned char>(word[from]);
      Decoded d = byte < 128 ? Decoded{byte, 1, true} : decode_utf8(word.substr(from));
      m = {from, from + d.length};
      if (byte < 128 ? ascii[byte] : is_delimiter(d.code)) return true;
      from = m.end;
    }
    return false;
  });
}

void map_words(Pieces& pieces, const std::function<std::string(std::string_view, bool)>& f) {
  std::string mapped;
  std::vector<Span> spans;
  spans.reserve(pieces.spans.size());
  for (size_t i = 0; i < pieces.spans.size(); ++i) {
    size_t begin = mapped.size();
    mapped += f(pieces.word(i), pieces.at_start && pieces.spans[i].begin == 0);
    if (mapped.size() > begin) spans.push_back({begin, mapped.size()});
  }
  pieces.storage.swap(mapped);
  pieces.text = pieces.storage;
  pieces.spans.swap(spans);
}

}  // namespace lazuli::lm::tokenization
