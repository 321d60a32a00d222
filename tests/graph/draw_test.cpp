#include <gtest/gtest.h>

#include <sstream>

#include "lazuli/graph.h"
#include "lazuli/ops.h"
#include "lazuli/transforms.h"

namespace lazuli {
namespace {

TEST(Graph, PrintsInputsBeforeTheirUsers) {
  array x({1.f, 2.f});
  array e = exp(x), y = add(e, x);
  NodeNamer namer;
  namer.set_name(x, "x");
  std::ostringstream os;
  print_graph(os, namer, y);
  EXPECT_EQ(os.str(),
            "x = input  float32 (2,)\n"
            "A = exp(x)  float32 (2,)\n"
            "B = add(A, x)  float32 (2,)\n");
  EXPECT_FALSE(y.is_available());
}

TEST(Graph, StopsAtArraysThatHaveTheirValue) {
  array e = exp(array({1.f}));
  array y = negative(e);
  eval(e);
  std::ostringstream os;
  print_graph(os, y);
  EXPECT_EQ(os.str(), "A = input  float32 (1,)\nB = negative(A)  float32 (1,)\n");
}

TEST(Graph, DrawsEachArrayAndOperationOnce) {
  array x({1.f, 2.f});
  array e = exp(x), y = multiply(e, e);
  NodeNamer namer;
  namer.set_name(x, "in \"x\"");
  std::ostringstream os;
  export_to_dot(os, namer, {y});
  std::string dot = os.str();
  auto count = [&](const std::string& part) {
    int n = 0;
    for (size_t at = dot.find(part); at != std::string::npos; at = dot.find(part, at + 1)) ++n;
    return n;
  };
  EXPECT_EQ(count("shape=box"), 2);
  EXPECT_EQ(count("label=\"exp\""), 1);
  EXPECT_EQ(count("\"in \\\"x\\\"\" -> "), 1);
  EXPECT_EQ(count("\"A\" -> \"op B\""), 2);  // both sides of the product
  EXPECT_EQ(dot.substr(0, 9), "digraph {");
}

TEST(Graph, NamesGoOnAfterZ) {
  std::string last;
  std::vector<array> alive;
  for (int i = 0; i < 28; ++i) alive.push_back(array(i));
  NodeNamer fresh;
  for (const array& a : alive) last = fresh.get_name(a);
  EXPECT_EQ(last, "AB");
}

TEST(Graph, DeepGraphsDoNotRecurse) {
  array x(0.f);
  for (int i = 0; i < 200000; ++i) x = x + 1.f;
  std::ostringstream os;
  print_graph(os, x);
  EXPECT_GT(os.str().size(), 200000u);
}

}  // namespace
}  // namespace lazuli
