// Runs the program lazuli on a tiny model, and in every way a user can go wrong.
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <algorithm>

#include "tests/io/files.h"

namespace {
using lazuli::test::Folder;
using lazuli::test::read_file;
using lazuli::test::write_file;
using testing::HasSubstr;
using testing::Not;

const std::string kModel = LAZULI_TEST_DATA "/models/llama.gguf";

struct Result {
  int code;
  std::string out, err;
};

Result lazuli_program(const std::string& arguments, const std::string& input = "") {
  Folder folder;
  write_file(folder / "in", input);
  const std::string command = "'" LAZULI_PROGRAM "' " + arguments + " <'" + (folder / "in") + "' >'" +
                              (folder / "out") + "' 2>'" + (folder / "err") + "'";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(folder / "out"), read_file(folder / "err")};
}

TEST(Program, GeneratesTheSameTextGreedily) {
  Result a = lazuli_program("generate -m " + kModel + " -p abc -n 12");
  EXPECT_EQ(a.code, 0) << a.err;
  EXPECT_THAT(a.out, testing::StartsWith("abc"));
  EXPECT_THAT(a.err, HasSubstr("4 tokens of prompt"));
  Result b = lazuli_program("generate -q -m " + kModel + " -n 12 -p -", "abc");
  EXPECT_EQ("abc" + b.out, a.out);
  EXPECT_EQ(b.err, "");
}

TEST(Program, SeedsAndStopStrings) {
  const std::string sampled = "generate -q -m " + kModel + " -p abc -n 30 --temp 1 --seed ";
  EXPECT_EQ(lazuli_program(sampled + "5").out, lazuli_program(sampled + "5").out);
  EXPECT_NE(lazuli_program(sampled + "5").out, lazuli_program(sampled + "6").out);
  const std::string all = lazuli_program("generate -q -m " + kModel + " -p abc -n 12").out;
  const std::string stop = all.substr(3, 2);
  EXPECT_EQ(lazuli_program("generate -q -m " + kModel + " -p abc -n 12 --stop '" + stop + "'").out,
            all.substr(0, all.find(stop)) + "\n");
}

TEST(Program, PromptCachesAndSpeculationDoNotChangeTheText) {
  Folder folder;
  const std::string base = "generate -m " + kModel + " -n 20 -p abcabcabd", cache = folder / "saved.cache";
  const Result plain = lazuli_program(base);
  for (const std::string& more : {" --prompt-cache '" + cache + "'", " --draft " + kModel,
                                  std::string(" --prompt-lookup --draft-tokens 2")}) {
    const Result r = lazuli_program(base + more);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.out, plain.out) << more;
  }
  const Result again = lazuli_program(base + " --prompt-cache '" + cache + "'");
  EXPECT_EQ(again.out, plain.out);
  EXPECT_THAT(again.err, HasSubstr("1 tokens of prompt"));
  EXPECT_EQ(lazuli_program(base + " --max-context 12").code, 0);
}

TEST(Program, FoldersAreModelsToo) {
  const std::string models = LAZULI_TEST_DATA "/models/";
  // Mistral's own layout, with tokenizer.model, and the same weights as GGUF.
  Result a = lazuli_program("generate -q -m " + models + "mistral-mistral -p abc -n 12");
  EXPECT_EQ(a.code, 0) << a.err;
  EXPECT_EQ(a.out, lazuli_program("generate -q -m " + models + "mistral.gguf -p abc -n 12").out);
  EXPECT_GT(a.out.size(), 3u);
  // Hugging Face's, with tokenizer.json, chat_template.jinja and generation_config.json.
  Result b = lazuli_program("chat -m " + models + "mistral -p abc -n 8");
  EXPECT_EQ(b.code, 0) << b.err;
  EXPECT_THAT(b.err, HasSubstr("6 tokens of prompt"));  // <s>, u, a, b, c, a
  EXPECT_THAT(lazuli_program("generate -m " LAZULI_TEST_DATA " -p x").err, HasSubstr("no model: expected"));
}

TEST(Program, InfoShowsTheFile) {
  Result r = lazuli_program("info " + kModel + " --tensors");
  EXPECT_EQ(r.code, 0);
  EXPECT_THAT(r.out, HasSubstr("llama.block_count"));
  EXPECT_THAT(r.out, HasSubstr("blk.1.ffn_down.weight"));
  EXPECT_THAT(r.out, HasSubstr("(32, 64)"));
}

TEST(Program, QuantizesAFile) {
  Folder folder;
  const std::string out = folder / "small.gguf", command = "quantize -m " + kModel + " -o '" + out + "' ";
  Result r = lazuli_program(command + "-t Q4_0 --set 'blk.0.*=Q8_0' --set 'blk.0.attn_?.weight=F16'");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("bits a weight"));
  const std::string info = lazuli_program("info '" + out + "' --tensors").out;
  auto type_of = [&](const std::string& name) {
    const size_t line = info.find(name);
    EXPECT_NE(line, std::string::npos) << name;
    return info.substr(line, info.find('\n', line) - line);
  };
  EXPECT_THAT(type_of("blk.0.ffn_up.weight"), HasSubstr("Q8_0"));
  EXPECT_THAT(type_of("blk.0.attn_q.weight"), HasSubstr("F16"));
  EXPECT_THAT(type_of("blk.1.ffn_up.weight"), HasSubstr("Q4_0"));
  EXPECT_THAT(type_of("blk.1.ffn_norm.weight"), HasSubstr("F32"));
  EXPECT_EQ(lazuli_program("generate -q -m '" + out + "' -p abc -n 5").code, 0);
  // Q4_K has blocks of 256, which rows of 32 and 64 do not fill.
  EXPECT_EQ(lazuli_program(command + "--force").code, 0);
  EXPECT_THAT(lazuli_program("info '" + out + "' --tensors").out, HasSubstr("Q5_0"));
  const std::string before = read_file(out);
  EXPECT_THAT(lazuli_program(command).err, HasSubstr("exists; --force replaces it"));
  EXPECT_THAT(lazuli_program("quantize -m '" + out + "' -o '" + out + "' --force").err,
              HasSubstr("would replace"));
  EXPECT_THAT(lazuli_program(command + "--force -t Q2_K").err, HasSubstr("cannot be rounded to Q2_K"));
  EXPECT_THAT(lazuli_program(command + "--force --set x").err, HasSubstr("expected PATTERN=TYPE"));
  EXPECT_EQ(read_file(out), before);
}

TEST(Program, ConvertsBetweenLayouts) {
  Folder folder;
  const std::string hf = folder / "hf", gguf = folder / "a.gguf", mlx = folder / "mlx";
  const std::string text = lazuli_program("generate -q -m " + kModel + " -p abc -n 8").out;
  Result r = lazuli_program("convert -m " + kModel + " -o '" + hf + "'");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("bits a weight"));
  EXPECT_EQ(lazuli_program("convert -m '" + hf + "' -o '" + gguf + "'").code, 0);
  for (const std::string& path : {hf, gguf})
    EXPECT_EQ(lazuli_program("generate -q -m '" + path + "' -p abc -n 8").out, text);
  r = lazuli_program("quantize -m '" + hf + "' -o '" + mlx + "' --mode mxfp4");
  EXPECT_EQ(r.code, 0) << r.err;
  r = lazuli_program("info '" + mlx + "' --tensors");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("Hugging Face's layout"));
  EXPECT_THAT(r.out, HasSubstr("quantization.mode"));
  EXPECT_THAT(r.out, HasSubstr("mxfp4 4"));
  EXPECT_THAT(r.out, HasSubstr("model.layers.1.mlp.down_proj.weight"));
  EXPECT_THAT(lazuli_program("convert -m '" + hf + "' -o '" + mlx + "'").err, HasSubstr("exists; --force"));
  EXPECT_THAT(lazuli_program("convert -m '" + hf + "' -o '" + gguf + "' --force --bits 4").err,
              HasSubstr("a mode of quantization is for folders"));
  EXPECT_THAT(lazuli_program("info " LAZULI_TEST_DATA "/models/mistral-mistral").out,
              HasSubstr("Mistral's layout"));
}

TEST(Program, MeasuresPerplexityAndSpeed) {
  Folder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>('a' + i * i % 26);
  write_file(folder / "text", text);
  Result r = lazuli_program("perplexity -m " + kModel + " --context 32 -f " + (folder / "text"));
  EXPECT_EQ(r.code, 0) << r.err;
  // Three windows; random weights predict random letters worse than chance (40).
  EXPECT_GT(std::stod(r.out), 10);
  EXPECT_LT(std::stod(r.out), 1e4);
  EXPECT_THAT(r.err, HasSubstr("3 of 3 windows"));
  Result b = lazuli_program("bench -m " + kModel + " --prompt 20 --tokens 10 --rounds 1 --json");
  EXPECT_EQ(b.code, 0);
  EXPECT_THAT(b.out, HasSubstr("\"decode\""));
}

TEST(Program, CacheTypes) {
  const std::string base = "generate -q -m " + kModel + " -n 12 -p abc ";
  for (const char* type : {"f32", "f16", "bf16"}) {
    const Result r = lazuli_program(base + "--cache-type " + type);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_GT(r.out.size(), 3u);
  }
  EXPECT_EQ(lazuli_program(base).out, lazuli_program(base + "--cache-type f16").out);
  EXPECT_THAT(lazuli_program(base + "--cache-type q8").err, HasSubstr("heads of 8 features"));
  EXPECT_THAT(lazuli_program(base + "--cache-type q7").err, HasSubstr("--cache-type"));
  EXPECT_THAT(lazuli_program(base + "--cache-type q8 --cache-group 48").err, HasSubstr("--cache-group"));
  EXPECT_THAT(lazuli_program(base + "--cache-after -1").err, HasSubstr("--cache-after"));
  Folder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>('a' + i * i % 26);
  write_file(folder / "text", text);
  auto perplexity = [&](const std::string& type) {
    return std::stod(lazuli_program("perplexity -m " + kModel + " --context 32 -f " + (folder / "text") +
                                    " --cache-type " + type)
                         .out);
  };
  EXPECT_NEAR(perplexity("f16"), perplexity("f32"), 1e-2 * perplexity("f32"));
  const std::string bench = "bench -m " + kModel + " --prompt 20 --tokens 10 --rounds 1 --depth 30 --json";
  EXPECT_THAT(lazuli_program(bench + " --cache-type f32").out, HasSubstr("\"cache_bytes\": 65536}"));
  EXPECT_THAT(lazuli_program(bench).out, HasSubstr("\"cache_bytes\": 32768}"));
}

TEST(Program, MistakesAreOneClearLine) {
  auto fails = [](const std::string& arguments) {
    Result r = lazuli_program(arguments);
    EXPECT_NE(r.code, 0) << arguments;
    EXPECT_EQ(r.out, "") << arguments;
    return r.err;
  };
  Folder folder;
  write_file(folder / "no.gguf", "this is not a model");
  EXPECT_THAT(fails("generate -m " + (folder / "no.gguf") + " -p x"), HasSubstr("lazuli: [load_gguf]"));
  EXPECT_THAT(fails("generate -m /nonexistent"), HasSubstr("/nonexistent"));
  EXPECT_THAT(fails("generate -m " + kModel + " --temp -1"),
              HasSubstr("temperature must be 0 or more, got -1"));
  EXPECT_THAT(fails("perplexity -m " + kModel + " -f " + (folder / "no.gguf")),
              HasSubstr("expected at least 512"));
  EXPECT_THAT(fails("sing"), HasSubstr("subcommand"));
  EXPECT_THAT(fails(""), HasSubstr("subcommand"));
}

bool has_gpu() { return lazuli_program("devices").out.find("gpu  not available: ") == std::string::npos; }

TEST(Program, DevicesAreListedAndChosen) {
  Result r = lazuli_program("devices");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_THAT(r.out, testing::ContainsRegex("cpu  .* threads, [0-9.]+ GB of memory"));
  EXPECT_THAT(r.out, HasSubstr("\ngpu  "));
  const std::string generate = "generate -q -m " + kModel + " -p abc -n 12";
  EXPECT_EQ(lazuli_program(generate + " --device cpu").code, 0);
  EXPECT_THAT(lazuli_program(generate + " --device tpu").err, HasSubstr("--device"));
  for (const char* command : {"generate", "perplexity", "bench", "quantize", "convert", "chat"})
    EXPECT_THAT(lazuli_program(std::string(command) + " --help").out, HasSubstr("--device")) << command;
}

TEST(Program, TheGpuWritesTheSameTextOrIsOneClearError) {
  const std::string generate = "generate -q -m " + kModel + " -p abc -n 12";
  const Result r = lazuli_program(generate + " --device gpu");
  if (has_gpu()) {
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(r.out, lazuli_program(generate + " --device cpu").out);
  } else {
    EXPECT_EQ(r.code, 1);
    EXPECT_EQ(r.out, "");
    EXPECT_THAT(r.err, testing::StartsWith("lazuli: --device gpu: "));
    EXPECT_THAT(r.err, HasSubstr("the device is not available"));
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1);
  }
}

TEST(Program, HelpHasExamples) {
  for (const char* command :
       {"", "generate", "info", "perplexity", "bench", "quantize", "convert", "chat", "devices"}) {
    Result r = lazuli_program(std::string(command) + " --help");
    EXPECT_EQ(r.code, 0);
    EXPECT_THAT(r.out, HasSubstr("Example")) << command;
  }
}

}  // namespace
