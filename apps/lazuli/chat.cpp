#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>

#include "commands.h"
#include "lazuli/lm/chat_template.h"
#include "session.h"

namespace lazuli::app {

namespace {

struct Options {
  std::string model, system;
  std::vector<std::string> prompts;
  bool quiet = false;
  SessionOptions session{.generate = {.max_tokens = 1024, .sampler = {.temperature = 0.7f, .top_p = 0.95f}}};
};

constexpr const char* kHelp =
    "  /reset          forget the conversation\n"
    "  /system TEXT    set the system message and forget the conversation\n"
    "  /exit           end (so does ctrl-d)\n"
    "  A line that ends with \\ goes on in the next one. Ctrl-c stops an answer.\n";

class Chat {
 public:
  explicit Chat(const Options& o)
      : o_(o), m_(load(o.model, o.quiet)), template_(make_template(m_)), session_(m_, o.session, o.quiet) {
    reset();
  }

  void reset() {
    messages_.clear();
    if (!o_.system.empty()) messages_.push_back({"system", o_.system});
  }
  void set_system(std::string text) {
    o_.system = std::move(text);
    reset();
  }

  void answer(const std::string& text) {
    messages_.push_back({"user", text});
    const std::vector<int32_t> ids = m_.tokenizer.encode(template_.render(messages_), {.add_special = false});
    lm::Result r = session_.go_on(ids);
    messages_.push_back({"assistant", r.text});
    if (!o_.quiet) fmt::print(stderr, "[{}]\n", speed(r));
    const int64_t context = m_.model.info().context;
    if (context > 0 && session_.length() > context)
      fmt::print(
          stderr,
          "[the conversation is longer than the model's context of {} tokens; /reset starts a new one]\n",
          context);
  }

 private:
  static lm::ChatTemplate make_template(const Loaded& m) {
    const std::string& source = m.tokenizer.chat_template();
    if (source.empty())
      throw std::runtime_error("the model has no chat template; `lazuli generate` continues a plain text");
    auto token = [&](std::optional<int32_t> id) { return id ? m.tokenizer.id_to_token(*id) : std::string(); };
    return lm::ChatTemplate(source, {token(m.tokenizer.bos_id()), token(m.tokenizer.eos_id()),
                                     token(m.tokenizer.unk_id()), token(m.tokenizer.pad_id())});
  }

  Options o_;
  Loaded m_;
  lm::ChatTemplate template_;
  Session session_;
  std::vector<lm::ChatMessage> messages_;
};

// A message of one line or, with \ at the ends, several; false at the end of the input.
bool read_message(bool terminal, std::string& text) {
  text.clear();
  for (bool more = true; more;) {
    if (terminal) std::fputs(text.empty() ? "> " : "  ", stdout), std::fflush(stdout);
    std::string line;
    if (!std::getline(std::cin, line)) return !text.empty();
    more = !line.empty() && line.back() == '\\';
    if (more) line.back() = '\n';
    text += line;
  }
  return true;
}

void run(const Options& o) {
  Session::check(o.session);  // complains before anything is loaded
  Chat chat(o);
  if (!o.prompts.empty()) {
    for (const std::string& p : o.prompts) {
      if (!o.quiet) fmt::print("> {}\n", p), std::fflush(stdout);
      chat.answer(p);
    }
    return;
  }
  const bool terminal = isatty(STDIN_FILENO);
  if (terminal && !o.quiet) fmt::print("Type a message, or /help.\n");
  std::string text;
  while (read_message(terminal, text)) {
    if (text.empty()) continue;
    if (text == "/exit" || text == "/quit") break;
    if (text == "/help")
      std::fputs(kHelp, stdout);
    else if (text == "/reset")
      chat.reset();
    else if (text.rfind("/system ", 0) == 0)
      chat.set_system(text.substr(8));
    else if (text[0] == '/')
      fmt::print("{} is no command:\n{}", text, kHelp);
    else
      chat.answer(text);
  }
}

}  // namespace

void add_chat(CLI::App& app) {
  auto o = std::make_shared<Options>();
  CLI::App* c = app.add_subcommand("chat", "Talks with a model that follows instructions");
  c->footer(
      "Examples:\n"
      "  lazuli chat -m model.gguf\n"
      "  lazuli chat -m model.gguf -s \"You answer in rhymes.\" --temp 0.7\n"
      "  lazuli chat -m model.gguf --cache-type q8 --cache-after 1024\n"
      "  lazuli chat -m model.gguf --device gpu\n"
      "  lazuli chat -m model.gguf -p \"What is the capital of France?\" -p \"And of Italy?\"\n"
      "\nWhile chatting:\n" +
      std::string(kHelp));
  c->add_option("-m,--model", o->model, "GGUF file, or folder of a model")
      ->required()
      ->check(CLI::ExistingPath);
  c->add_option("-s,--system", o->system, "System message (default: the template's own)");
  c->add_option("-p,--prompt", o->prompts,
                "Message to answer instead of asking for one (may be given several times)");
  c->add_flag("-q,--quiet", o->quiet, "Print the answers only");
  add_session(*c, o->session);
  add_device(*c);
  c->callback([o] { run(*o); });
}

}  // namespace lazuli::app
