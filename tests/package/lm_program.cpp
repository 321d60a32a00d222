// A program that uses the language models of an installed Lazuli.
#include <cstdio>

#include "lazuli/lm/tokenizer.h"

int main() {
  using namespace lazuli;
  lm::Tokenizer tokenizer({.tokens = {"a", "b", "ab"}, .merges = {"a b"}});
  if (tokenizer.encode("abba") != std::vector<int32_t>{2, 1, 0}) return 1;
  std::printf("all is well\n");
}
