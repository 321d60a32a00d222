#include "lazuli/lm/chat_template.h"

#include <fmt/format.h>

#include "lm/jinja_interpreter.h"

namespace lazuli::lm {

struct ChatTemplate::Parsed {
  jinja::NodePtr root;
};

namespace {
using jinja::Dict;
using jinja::Value;

Dict object_of(const std::string& json, const std::string& what) {
  Value v = jinja::from_json(json, what);
  if (!v.is_dict())
    throw std::invalid_argument(fmt::format("[chat_template] {}: expected a JSON object", what));
  return *v.as<Dict>();
}

Value to_value(const ToolCall& call, const std::string& what) {
  Dict function, out;
  function.set("name", call.name);
  function.set("arguments", jinja::from_json(call.arguments, what + ", arguments of " + call.name));
  if (!call.id.empty()) out.set("id", call.id);
  out.set("type", "function");
  out.set("function", std::move(function));
  return out;
}

Value to_value(const ChatMessage& m, size_t index) {
  std::string what = fmt::format("message {}", index);
  Dict out;
  out.set("role", m.role);
  out.set("content", m.content);
  if (!m.name.empty()) out.set("name", m.name);
  if (!m.tool_call_id.empty()) out.set("tool_call_id", m.tool_call_id);
  if (!m.tool_calls.empty()) {
    std::vector<Value> calls;
    for (const ToolCall& call : m.tool_calls) calls.push_back(to_value(call, what));
    out.set("tool_calls", Value::list(std::move(calls)));
  }
  if (!m.extra.empty())
    for (auto& [key, value] : object_of(m.extra, what + ", extra").items) out.set(key, value);
  return out;
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, SpecialTokens tokens)
    : parsed_(std::make_unique<const Parsed>(Parsed{jinja::parse(source)})), tokens_(std::move(tokens)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(std::span<const ChatMessage> messages, const ChatOptions& options) const {
  Dict variables;
  std::vector<Value> list, tools;
  for (size_t i = 0; i < messages.size(); ++i) list.push_back(to_value(messages[i], i));
  for (size_t i = 0; i < options.tools.size(); ++i)
    tools.push_back(jinja::from_json(options.tools[i], fmt::format("tool {}", i)));
  variables.set("messages", Value::list(std::move(list)));
  // transformers passes None where there are no tools and no documents.
  variables.set("tools", tools.empty() ? Value() : Value::list(std::move(tools)));
  variables.set("documents", Value());
  variables.set("add_generation_prompt", options.add_generation_prompt);
  for (auto& [name, token] :
       {std::pair("bos_token", &tokens_.bos_token), std::pair("eos_token", &tokens_.eos_token),
        std::pair("unk_token", &tokens_.unk_token), std::pair("pad_token", &tokens_.pad_token)})
    if (!token->empty()) variables.set(name, *token);
  if (!options.variables.empty())
    for (auto& [key, value] : object_of(options.variables, "variables").items) variables.set(key, value);
  return jinja::render(*parsed_->root, Value(std::move(variables)), options.now);
}

std::string ChatTemplate::render_json(std::string_view variables, std::optional<std::tm> now) const {
  return jinja::render(*parsed_->root, Value(object_of(std::string(variables), "variables")), now);
}

}  // namespace lazuli::lm
