#pragma once

#include <ctime>
#include <optional>
#include <string>

#include "lm/jinja_syntax.h"

namespace lazuli::lm::jinja {

// The text of a template with these variables, a dict. Throws ChatTemplateError.
std::string render(const Node& root, const Value& variables, std::optional<std::tm> now);

}  // namespace lazuli::lm::jinja
