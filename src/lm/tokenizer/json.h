// Access to JSON that says what is wrong: each function throws std::runtime_error naming `where`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace lazuli::lm::tokenization {

using nlohmann::json;

json parse(std::string_view bytes, const char* where);
const json& object(const json& parent, const char* key, std::string_view where);
const json& array(const json& parent, const char* key, std::string_view where);
std::string text(const json& parent, const char* key, std::string_view where);
// Without the key, or where it is null: `otherwise`.
bool boolean(const json& parent, const char* key, bool otherwise);
int64_t integer(const json& parent, const char* key, int64_t otherwise);
// A non-negative id.
int32_t token_id(const json& value, std::string_view where);

// False if `text` is not base64.
bool decode_base64(std::string_view text, std::string& out);
// The byte of a token such as "<0x0A>", or -1.
int byte_of_token(std::string_view token);

}  // namespace lazuli::lm::tokenization
