// Looking at graphs: what would run if these arrays were evaluated.
//
//     array y = exp(x) * 2;
//     print_graph(std::cout, y);          // C = exp(A) ...
//     std::ofstream file("graph.dot");
//     export_to_dot(file, y);             // dot -Tsvg graph.dot > graph.svg
//
// Neither evaluates anything. Arrays that have their value are inputs of the graph.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <unordered_map>
#include <vector>

#include "lazuli/array.h"

namespace lazuli {

// Names of arrays in a printed graph: those given by set_name, else A, B, ..., Z, AA, ... in the order in
// which they are asked for.
struct NodeNamer {
  const std::string& get_name(const array& x);
  void set_name(const array& x, std::string name);
  std::unordered_map<std::uintptr_t, std::string> names;

 private:
  size_t given_ = 0;
};

// One line an operation, inputs before their users:
//     C = multiply(A, B)  float32 (2, 3)
void print_graph(std::ostream& os, NodeNamer namer, const std::vector<array>& outputs);

// The same as a drawing in Graphviz's language: operations are boxes, arrays ellipses with their
// names, dtypes and shapes.
void export_to_dot(std::ostream& os, NodeNamer namer, const std::vector<array>& outputs);

inline void print_graph(std::ostream& os, const std::vector<array>& outputs) { print_graph(os, {}, outputs); }
inline void export_to_dot(std::ostream& os, const std::vector<array>& outputs) {
  export_to_dot(os, {}, outputs);
}
template <class... A>
requires Arrays<A...> &&(sizeof...(A) > 0) void print_graph(std::ostream& os, const A&... outputs) {
  print_graph(os, {}, std::vector<array>{outputs...});
}
template <class... A>
requires Arrays<A...> &&
    (sizeof...(A) > 0) void print_graph(std::ostream& os, NodeNamer namer, const A&... outputs) {
  print_graph(os, std::move(namer), std::vector<array>{outputs...});
}
template <class... A>
requires Arrays<A...> &&(sizeof...(A) > 0) void export_to_dot(std::ostream& os, const A&... outputs) {
  export_to_dot(os, {}, std::vector<array>{outputs...});
}
template <class... A>
requires Arrays<A...> &&
    (sizeof...(A) > 0) void export_to_dot(std::ostream& os, NodeNamer namer, const A&... outputs) {
  export_to_dot(os, std::move(namer), std::vector<array>{outputs...});
}

}  // namespace lazuli
