// Chat templates against Jinja as transformers sets it up (tools/make_chat_template_references.py).
#include "lazuli/lm/chat_template.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace lazuli::lm {
namespace {
using Json = nlohmann::ordered_json;
using testing::HasSubstr;

const Json& references() {
  static const Json json = Json::parse(std::ifstream(LAZULI_TEST_DATA "/lm/chat_templates.json"));
  return json;
}

std::tm reference_time() {
  std::tm now{};
  now.tm_year = 126, now.tm_mon = 2, now.tm_mday = 7, now.tm_wday = 6;
  now.tm_hour = 9, now.tm_min = 5, now.tm_sec = 3;
  return now;
}

std::string error_of(std::string_view source, std::string_view variables = "{}") {
  try {
    return "rendered: " + ChatTemplate(source).render_json(variables);
  } catch (const ChatTemplateError& e) {
    return e.what();
  }
}

TEST(ChatTemplate, RendersLikeJinja) {
  const Json& all = references();
  int rendered = 0, refused = 0;
  for (const Json& c : all["cases"]) {
    Json variables = all["variables"];
    std::string source;
    if (c.contains("model")) {
      source = all["templates"][c["model"].get<std::string>()];
      variables = c["extra"];
      variables["messages"] = all["chats"][c["chat"].get<std::string>()];
      variables["tools"] = c["tools"].get<bool>() ? all["tools"] : Json();
      variables["documents"] = nullptr;
      variables["bos_token"] = "<s>";
      variables["eos_token"] = "</s>";
      variables["add_generation_prompt"] = c["add_generation_prompt"];
    } else {
      source = c["template"];
    }
    SCOPED_TRACE(c["name"].get<std::string>() + "\n" + source.substr(0, 400));
    try {
      std::string text = ChatTemplate(source).render_json(variables.dump(), reference_time());
      if (c.contains("expected"))
        EXPECT_EQ(text, c["expected"].get<std::string>());
      else
        ADD_FAILURE() << "expected an error: " << c["error"] << "\nrendered: " << text;
      ++rendered;
    } catch (const ChatTemplateError& e) {
      EXPECT_TRUE(c.contains("error")) << e.what() << "\nexpected: " << c["expected"];
      EXPECT_THAT(e.what(), testing::StartsWith("[chat_template] line "));
      ++refused;
    }
  }
  EXPECT_GT(rendered, 100);
  EXPECT_GT(refused, 20);
}

// The public types give the same text as the JSON that transformers would get.
TEST(ChatTemplate, MessagesBecomeVariables) {
  const Json& all = references();
  auto source = all["templates"]["qwen2.5"].get<std::string>();
  const Json* expected = nullptr;
  for (const Json& c : all["cases"])
    if (c["name"] == "qwen2.5/call" && c["tools"] == true && c["add_generation_prompt"] == true)
      expected = &c;
  ASSERT_NE(expected, nullptr);
  ToolCall call{"get_weather", R"({"place": "K\u00f6ln", "days": [1, 2.5, null, true]})", "abcdef123"};
  std::vector<ChatMessage> messages = {
      {"user", "Weather?"},
      {"assistant", "", {call}},
      {.role = "tool", .content = "{\"t\": 21}", .tool_call_id = "abcdef123"},
      {"assistant", "21 degrees."},
      {.role = "user", .content = "wrong", .extra = R"({"content": "Thanks"})"},
  };
  ChatOptions options;
  for (const Json& tool : all["tools"]) options.tools.push_back(tool.dump());
  EXPECT_EQ(ChatTemplate(source).render(messages, options), (*expected)["expected"].get<std::string>());
}

TEST(ChatTemplate, OptionsAndSpecialTokens) {
  ChatTemplate t(
      "{{ bos_token }}{{ messages[0].content }}{{ add_generation_prompt }}{{ tools }}{{ x }}{{ pad_token is "
      "defined }}{{ strftime_now('%Y') }}",
      {.bos_token = "<s>"});
  EXPECT_EQ(t.render({{"user", "hi"}}, {.variables = R"({"x": 1})", .now = reference_time()}),
            "<s>hiTrueNone1False2026");
  EXPECT_EQ(t.render({{"user", "hi"}}, {.add_generation_prompt = false, .now = reference_time()}),
            "<s>hiFalseNoneFalse2026");
  EXPECT_THAT(ChatTemplate("{{ strftime_now('%Y') }}").render({}), HasSubstr("20"));
  ChatTemplate moved = std::move(t);
  EXPECT_THAT(moved.render({{"user", "hi"}}), HasSubstr("<s>hi"));
}

TEST(ChatTemplate, ErrorsNameLineAndColumn) {
  EXPECT_EQ(error_of("a\n  {{ raise_exception('no ' ~ 1) }}"), "[chat_template] line 2, column 21: no 1");
  EXPECT_EQ(error_of("{% if x %}\n\n{{ 1 +* 2 }}"),
            "[chat_template] line 3, column 7: expected a value, found '*'");
  EXPECT_EQ(error_of("\u00e4\u00e4 {{ x.y }}"), "[chat_template] line 1, column 8: 'x' is undefined");
  EXPECT_EQ(error_of("{% for x in [] %}"),
            "[chat_template] line 1, column 18: expected a block 'else', found the end of the template");
  EXPECT_EQ(error_of("{% include 'x' %}"),
            "[chat_template] line 1, column 4: there is no block 'include' here");
  EXPECT_EQ(error_of("{{ 1|nothing }}"), "[chat_template] line 1, column 6: there is no filter 'nothing'");
  EXPECT_EQ(error_of("{{ 1 is nothing }}"), "[chat_template] line 1, column 9: there is no test 'nothing'");
  EXPECT_EQ(error_of("{{ 'a"), "[chat_template] line 1, column 4: this string does not end");
  EXPECT_EQ(error_of("{% break %}"), "[chat_template] line 1, column 4: 'break' outside of a loop");
  EXPECT_EQ(error_of("{{ 9223372036854775807 + 1 }}"),
            "[chat_template] line 1, column 24: an integer is too large");
  EXPECT_EQ(error_of("{{ 99999999999999999999 }}"),
            "[chat_template] line 1, column 4: this integer is too large");
  EXPECT_EQ(error_of("{{ '%s' % 1 }}"),
            "[chat_template] line 1, column 9: formatting with % is not supported");
}

TEST(ChatTemplate, BadArguments) {
  ChatTemplate t("{{ messages }}");
  auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const std::invalid_argument& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  EXPECT_EQ(message([&] { t.render_json("[1]"); }), "[chat_template] variables: expected a JSON object");
  EXPECT_EQ(message([&] { t.render_json("{"); }), "[chat_template] variables: not valid JSON (at byte 2)");
  EXPECT_EQ(message([&] { t.render({}, {.tools = {"{"}}); }),
            "[chat_template] tool 0: not valid JSON (at byte 2)");
  EXPECT_EQ(message([&] { t.render({{.role = "user", .content = "", .extra = "1"}}); }),
            "[chat_template] message 0, extra: expected a JSON object");
  EXPECT_EQ(message([&] {
              t.render({{"assistant", "", {ToolCall{.name = "f", .arguments = "x", .id = ""}}}});
            }),
            "[chat_template] message 0, arguments of f: not valid JSON (at byte 1)");
  EXPECT_THAT(
      message([&] { t.render_json("{\"a\":" + std::string(5000, '[') + std::string(5000, ']') + "}"); }),
      HasSubstr("nest more than 100 deep"));
}

std::string repeat(const std::string& s, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += s;
  return out;
}

// Each must end, soon and without a crash, with an exception.
TEST(ChatTemplate, HostileTemplatesEnd) {
  std::pair<std::string, std::string> cases[] = {
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "takes too long"},
      {"{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
       "too"},
      {"{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
       "too"},
      {"{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}",
       "too deeply"},
      {"{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}",
       "too"},
      {"{% set ns = namespace() %}{% set ns.a = [ns] %}", "a namespace cannot hold a namespace"},
      {"{% set ns = namespace() %}{% set ns.f = [ns].count %}", "a namespace cannot hold a namespace"},
      {"{% for x in range(99999) %}{{ 'aaaaaaaaaaaaaaaa' * 9999 }}{% endfor %}", "too"},
      {"{{ 'a' * 9223372036854775807 }}", "a repetition is too long"},
      {"{{ [1] * 999999999999 }}", "a repetition is too long"},
      {"{{ 'a'.center(9223372036854775807) }}", "too long"},
      {"{{ 'a\nb'|indent(9223372036854775807) }}", "too long"},
      {"{{ 'abc'.replace('', 'x' * 9999999) }}", "too long"},
      {"{{ range(100001) }}", "at most 100000"},
      {"{{ 2 ** 99999 }}", "too large"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"},
      {"{% macro f(x) %}{{ caller() }}{% endmacro %}" + repeat("{% call f() %}", 300) +
           repeat("{% endcall %}", 300),
       "too deeply"},
      {"{{ " + repeat("(", 20000) + "1" + repeat(")", 20000) + " }}", "too deeply"},
      {"{{ " + repeat("[", 20000) + "1" + repeat("]", 20000) + " }}", "too deeply"},
      {"{{ " + repeat("-", 20000) + "1 }}", "too deeply"},
      {"{{ " + repeat("not ", 20000) + "1 }}", "too deeply"},
      {"{{ 1" + repeat(" + 1", 20000) + " }}", "too deeply"},
      {"{{ 1" + repeat(" ~ 1", 20000) + " }}", "too deeply"},
      {"{{ a" + repeat(".a", 20000) + " }}", "too deeply"},
      {"{{ a" + repeat("|list", 20000) + " }}", "too deeply"},
      {"{{ 1" + repeat(" if 1", 20000) + " }}", "too deeply"},
      {"{{ 1" + repeat(" if 1 else 1", 20000) + " }}", "too deeply"},
      {repeat("{% if 1 %}", 20000), "too deeply"},
      {repeat("{% for x in y %}", 20000), "too deeply"},
      {"{% for " + repeat("(", 20000) + "a" + repeat(")", 20000) + " in b %}", "too deeply"},
      {"{{ -9223372036854775807 - 2 }}", "too large"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "too large"},
      {"{{ (-9223372036854775807 - 1)|abs }}", "too large"},
      {"{{ 'abc'[::0] }}", "must not be 0"},
  };
  for (auto& [source, error] : cases) {
    SCOPED_TRACE(source.substr(0, 100));
    EXPECT_THAT(error_of(source), HasSubstr(error));
  }
  EXPECT_EQ(error_of("{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}"),
            "rendered: a");
  EXPECT_EQ(error_of("{{ [1, 2][::-9223372036854775807] }}"), "rendered: [2]");
  EXPECT_EQ(error_of("{{ (-9223372036854775807 - 1) % -1 }}"), "rendered: 0");
}

// Damaged templates: an exception, or some text.
TEST(ChatTemplate, SurvivesMutations) {
  uint64_t state = 1;
  auto random = [&](uint64_t below) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % below;
  };
  const Json& all = references();
  int refused = 0, tries = 0;
  for (auto& [name, source] : all["templates"].items()) {
    Json variables = {{"messages", all["chats"]["call"]},
                      {"tools", all["tools"]},
                      {"bos_token", "<s>"},
                      {"eos_token", "</s>"}};
    std::string json = variables.dump();
    for (int i = 0; i < 100; ++i, ++tries) {
      std::string text = source.get<std::string>();
      for (uint64_t n = 1 + random(3); n > 0; --n) {
        size_t at = random(text.size());
        switch (random(3)) {
          case 0: text.erase(at, 1 + random(10)); break;
          case 1: text.insert(at, text.substr(random(text.size()), random(20))); break;
          default: text[at] = "{}%#-+()[]|.,:='\" n\\"[random(20)];
        }
      }
      try {
        ChatTemplate(text).render_json(json);
      } catch (const ChatTemplateError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, tries / 4);
}

}  // namespace
}  // namespace lazuli::lm
