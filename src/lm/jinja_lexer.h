// Cuts a template into tokens: text, and what stands inside {{ }} and {% %}.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lm/jinja_syntax.h"

namespace lazuli::lm::jinja {

struct Token {
  enum class Kind {
    text,
    begin_output,
    end_output,
    begin_block,
    end_block,
    name,
    string,
    integer,
    real,
    symbol,
    end
  };
  Kind kind;
  std::string text;  // of strings decoded
  Place place;
};

// Applies trim_blocks, lstrip_blocks and the signs - and +. Throws ChatTemplateError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace lazuli::lm::jinja
