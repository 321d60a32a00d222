// Runs examples/mistral on tiny models of each layout, and in the ways a user can go wrong.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include "tests/io/files.h"

namespace {
using lazuli::test::Folder;
using lazuli::test::read_file;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kModels = LAZULI_TEST_DATA "/models/";

struct Result {
  int code;
  std::string out, err;
};

Result mistral(const std::string& arguments) {
  Folder folder;
  const std::string command =
      "'" MISTRAL_PROGRAM "' " + arguments + " >'" + (folder / "out") + "' 2>'" + (folder / "err") + "'";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(folder / "out"), read_file(folder / "err")};
}

TEST(Mistral, AllLayoutsOfOneModelGiveTheSameText) {
  std::string first;
  for (const char* layout : {"mistral-mistral", "mistral.gguf"}) {
    Result r = mistral("--prompt abc --max-tokens 12 --model " + kModels + layout);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_THAT(r.out, StartsWith("abc"));
    EXPECT_THAT(r.err, HasSubstr("prompt: 4 tokens"));
    EXPECT_THAT(r.err, HasSubstr("tokens/s"));
    if (first.empty()) first = r.out;
    EXPECT_EQ(r.out, first);
  }
  // Its tokenizer adds no <s>.
  Result r = mistral("--prompt '<s>abc' --max-tokens 12 --model " + kModels + "mistral");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "<s>" + first);
}

TEST(Mistral, TokensPerEvalChangesNothing) {
  const std::string line =
      "--prompt abc --max-tokens 13 --model " + kModels + "mistral.gguf --tokens-per-eval ";
  const std::string all = mistral(line + "1").out;
  for (const char* n : {"2", "5", "13", "50"}) EXPECT_EQ(mistral(line + n).out, all) << n;
}

TEST(Mistral, TheGpuWritesTheSameTextOrIsOneClearError) {
  const std::string line = "--prompt abc --max-tokens 12 --model " + kModels + "mistral.gguf --device ";
  const Result r = mistral(line + "gpu"), cpu = mistral(line + "cpu");
  EXPECT_EQ(cpu.code, 0) << cpu.err;
  if (r.code == 0) {
    EXPECT_EQ(r.out, cpu.out);
  } else {
    EXPECT_EQ(r.out, "");
    EXPECT_THAT(r.err, StartsWith("mistral: [set_default_device] the device is not available: "));
  }
}

TEST(Mistral, SeedsRepeat) {
  const std::string line =
      "--prompt abc --max-tokens 30 --temp 1 --model " + kModels + "mistral.gguf --seed ";
  EXPECT_EQ(mistral(line + "5").out, mistral(line + "5").out);
  EXPECT_NE(mistral(line + "5").out, mistral(line + "6").out);
}

TEST(Mistral, StopsAtTheEndToken) {
  // Random weights draw it within some hundred tokens; <s> and </s> are not printed.
  Result r = mistral("--prompt abc --max-tokens 2000 --temp 1 --model " + kModels + "mistral.gguf");
  EXPECT_EQ(r.code, 0) << r.err;
  const size_t at = r.err.find("generation: ");
  ASSERT_NE(at, std::string::npos) << r.err;
  EXPECT_LT(std::stoi(r.err.substr(at + 12)), 2000);
}

TEST(Mistral, MistakesAreOneClearLine) {
  auto fails = [](const std::string& arguments) {
    Result r = mistral(arguments);
    EXPECT_NE(r.code, 0) << arguments;
    EXPECT_EQ(r.out, "") << arguments;
    return r.err;
  };
  const std::string missing = fails("--model /nonexistent");
  EXPECT_THAT(missing, StartsWith("mistral: /nonexistent does not exist"));
  EXPECT_EQ(std::count(missing.begin(), missing.end(), '\n'), 1);
  EXPECT_THAT(fails("--model " LAZULI_TEST_DATA), HasSubstr("no model: expected config.json"));
  EXPECT_THAT(fails("--temp -1 --model " + kModels + "mistral.gguf"), HasSubstr("--temp"));
  EXPECT_THAT(fails("--sing"), HasSubstr("--sing"));
}

TEST(Mistral, HelpHasExamples) {
  Result r = mistral("--help");
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, HasSubstr("Examples:"));
  for (const char* flag : {"--prompt", "--max-tokens", "--temp", "--tokens-per-eval", "--seed", "--model"})
    EXPECT_THAT(r.out, HasSubstr(flag));
}

}  // namespace
