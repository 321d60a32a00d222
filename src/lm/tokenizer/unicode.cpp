#include "lm/tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <stdexcept>

namespace lazuli::lm::tokenization {
namespace {

utf8proc_category_t category(char32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }
bool is_mark(char32_t code) {
  auto c = category(code);
  return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, 0x144> bytes{};
  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      characters[b] = printable ? static_cast<char32_t>(b) : next++;
      bytes[characters[b]] = static_cast<int16_t>(b);
    }
  }
};
const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

}  // namespace

Decoded decode_utf8(std::string_view text) {
  auto at = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  unsigned lead = at(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead < 0xc2 || lead > 0xf4) return {kReplacement, 1, false};
  // The second byte has a narrower range behind these leads: no overlong forms, surrogates or codes
  // beyond U+10FFFF.
  unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  if (at(1) < low || at(1) > high) return {kReplacement, 1, false};
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | (at(1) & 0x3f), 2, true};
  if ((at(2) & 0xc0) != 0x80) return {kReplacement, 2, false};
  if (lead < 0xf0) return {(lead & 0xf) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f), 3, true};
  if ((at(3) & 0xc0) != 0x80) return {kReplacement, 3, false};
  return {(lead & 7) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f), 4, true};
}

void append_utf8(std::string& out, char32_t code) {
  auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f));
    put(0x80 | (code & 0x3f));
  }
}

size_t incomplete_tail(std::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
    auto byte = static_cast<unsigned char>(text[text.size() - n]);
    if ((byte & 0xc0) == 0x80) continue;
    if (byte < 0xc2 || byte > 0xf4) return 0;
    Decoded d = decode_utf8(text.substr(text.size() - n));
    return !d.valid && d.length == n && n < character_length(static_cast<char>(byte)) ? n : 0;
  }
  return 0;
}

bool is_valid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    Decoded d = decode_utf8(text.substr(i));
    if (!d.valid) return false;
    i += d.length;
  }
  return true;
}

std::string replace_invalid(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Decoded d = decode_utf8(text);
    if (d.valid)
      out.append(text, 0, d.length);
    else
      append_utf8(out, kReplacement);
    text.remove_prefix(d.length);
  }
  return out;
}

std::string normalize(std::string_view text, Form form) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  int options = UTF8PROC_STABLE;
  options |= form == Form::nfc || form == Form::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == Form::nfkc || form == Form::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* mapped = nullptr;
  utf8proc_ssize_t n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                    static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                    static_cast<utf8proc_option_t>(options));
  std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  if (n < 0) throw std::runtime_error(std::string("[Tokenizer] cannot normalize: ") + utf8proc_errmsg(n));
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(n));
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Decoded d = decode_utf8(text);
    if (d.code == 0x130)  // the one character whose lower case is two characters
      out += "i\u0307";
    else
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(d.code))));
    text.remove_prefix(d.length);
  }
  return out;
}

std::string strip_accents(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    Decoded d = decode_utf8(text);
    if (d.code < 0x300 || !is_mark(d.code)) out.append(text, 0, d.length);
    text.remove_prefix(d.length);
  }
  return out;
}

size_t grapheme_length(std::string_view text) {
  Decoded d = decode_utf8(text);
  size_t n = d.length;
  utf8proc_int32_t state = 0;
  while (n < text.size()) {
    Decoded next = decode_utf8(text.substr(n));
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(d.code),
                                         static_cast<utf8proc_int32_t>(next.code), &state))
      break;
    n += next.length;
    d = next;
  }
  return n;
}

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_numeric(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9';
  auto c = category(code);
  return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t code) {
  if (code < 0x80) return code > ' ' && code < 0x7f && !is_word(code) ? true : code == '_';
  switch (category(code)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return true;
    default: return false;
  }
}

bool is_word(char32_t code) {
  if (code < 0x80)
    return (code >= '0' && code <= '9') || (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z') ||
           code == '_';
  switch (category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    // Symbols that are Other_Alphabetic, and the two joiners.
    default:
      return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
             (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189) || code == 0x200c ||
             code == 0x200d;
  }
}

char32_t byte_to_character(unsigned char byte) { return alphabet().characters[byte]; }
int character_to_byte(char32_t code) { return code < alphabet().bytes.size() ? alphabet().bytes[code] : -1; }

bool alphabet_to_bytes(std::string_view text, std::string& out) {
  std::string bytes;
  bytes.reserve(text.size());
  // All characters of the alphabet have one or two bytes.
  for (size_t i = 0; i < text.size();) {
    auto lead = static_cast<unsigned char>(text[i]);
    char32_t code = lead;
    if (lead >= 0x80) {
      if (lead < 0xc2 || lead > 0xc5 || i + 1 == text.size()) return false;
      auto second = static_cast<unsigned char>(text[i + 1]);
      if ((second & 0xc0) != 0x80) return false;
      code = static_cast<char32_t>((lead & 0x1f) << 6 | (second & 0x3f));
    }
    int byte = character_to_byte(code);
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
    i += lead < 0x80 ? 1 : 2;
  }
  out = std::move(bytes);
  return true;
}

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) append_utf8(out, byte_to_character(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace lazuli::lm::tokenization
