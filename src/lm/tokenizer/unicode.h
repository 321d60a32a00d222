// UTF-8 and the properties of characters that tokenizers ask for (utf8proc's tables, Unicode 15).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lazuli::lm::tokenization {

inline constexpr char32_t kReplacement = 0xfffd;

struct Decoded {
  char32_t code;    // kReplacement if ill-formed
  uint32_t length;  // bytes; of a maximal part of a character if ill-formed
  bool valid;
};
// The character at the start of `text`, which is not empty.
Decoded decode_utf8(std::string_view text);
void append_utf8(std::string& out, char32_t code);

// Bytes at the end of `text` that begin a character and may still become one.
size_t incomplete_tail(std::string_view text);
bool is_valid_utf8(std::string_view text);
// With U+FFFD for each maximal ill-formed part.
std::string replace_invalid(std::string_view text);

// Bytes of the character that starts with `lead`, in valid text.
inline size_t character_length(char lead) {
  auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// All of these take valid UTF-8.
enum class Form { nfc, nfd, nfkc, nfkd };
std::string normalize(std::string_view text, Form form);
std::string lowercase(std::string_view text);
std::string strip_accents(std::string_view text);  // removes all marks (category M)
// Length of the first grapheme cluster.
size_t grapheme_length(std::string_view text);

bool is_space(char32_t code);        // White_Space
bool is_numeric(char32_t code);      // category N
bool is_punctuation(char32_t code);  // category P or ASCII punctuation
bool is_word(char32_t code);         // \w of Rust's regular expressions

// GPT-2's alphabet: each byte has a printable character.
char32_t byte_to_character(unsigned char byte);
// The byte of a character of the alphabet, or -1.
int character_to_byte(char32_t code);
// The bytes that `text` stands for; false, leaving out alone, if a character is not of the alphabet.
bool alphabet_to_bytes(std::string_view text, std::string& out);
std::string bytes_to_alphabet(std::string_view bytes);

}  // namespace lazuli::lm::tokenization
