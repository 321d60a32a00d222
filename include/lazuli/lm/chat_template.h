// Chat templates: the Jinja text that a model carries, and that turns messages into its prompt.
//
//     ChatTemplate chat(gguf.metadata.get<std::string>("tokenizer.chat_template"), {.bos_token = "<s>"});
//     std::string prompt = chat.render({{"system", "Be brief."}, {"user", "What is a lazuli bunting?"}});
//
// Renders as `transformers` does: Jinja with trim_blocks and lstrip_blocks, break and continue, macros,
// namespaces, filters and tests, Python's string and dictionary methods, `tojson` with Python's spacing,
// `raise_exception` and `strftime_now`. There is nothing else: no files, no imports, no inheritance.
//
// Where it differs: map, select and their like give lists (Jinja gives generators, which have no
// length), and so do a dictionary's items, keys and values; `safe` marks nothing, as nothing is escaped;
// recursive loops, str.format and formatting with % are refused.
//
// A template may come from anywhere. Nesting, steps, memory and output are bounded, so rendering ends
// within seconds and some hundred megabytes, by an exception if need be.
//
// Errors: ChatTemplateError "[chat_template] line 3, column 7: ...", for raise_exception too.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace lazuli::lm {

class ChatTemplateError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A call of a function that the model asked for.
struct ToolCall {
  std::string name;
  std::string arguments = "{}";  // JSON text
  std::string id;                // left out of the message if empty
};

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
  std::vector<ToolCall> tool_calls = {};  // each becomes {"type": "function", "function": {...}}
  std::string tool_call_id = {};          // of a tool's answer
  std::string name = {};
  std::string extra =
      {};  // more keys, a JSON object: {"reasoning_content": "..."}; replaces keys of the same name
};

struct ChatOptions {
  bool add_generation_prompt = true;    // end with the opening of the assistant's turn
  std::vector<std::string> tools = {};  // JSON text of each: {"type": "function", "function": {...}}
  std::string variables = {};           // more variables, a JSON object: {"enable_thinking": false}
  std::optional<std::tm> now = {};      // for strftime_now; the local time if absent
};

// Variables that every rendering sees.
struct SpecialTokens {
  std::string bos_token = {}, eos_token = {}, unk_token = {}, pad_token = {};
};

class ChatTemplate {
 public:
  // Throws if the template is not valid.
  explicit ChatTemplate(std::string_view source, SpecialTokens tokens = {});
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // Thread-safe. Throws std::invalid_argument if JSON in the arguments is not valid.
  std::string render(std::span<const ChatMessage> messages, const ChatOptions& options = {}) const;
  std::string render(std::initializer_list<ChatMessage> messages, const ChatOptions& options = {}) const {
    return render(std::span(messages.begin(), messages.size()), options);
  }
  // Renders with exactly these variables, a JSON object: {"messages": [...], "bos_token": "<s>", ...}.
  std::string render_json(std::string_view variables, std::optional<std::tm> now = {}) const;

 private:
  struct Parsed;
  std::unique_ptr<const Parsed> parsed_;
  SpecialTokens tokens_;
};

}  // namespace lazuli::lm
