#include <ostream>
#include <unordered_set>

#include "lazuli/graph.h"
#include "lazuli/primitive.h"

namespace lazuli {
namespace {

// Every array that the outputs depend on, inputs before their users. Iterative: graphs can be deep.
std::vector<array> in_order(const std::vector<array>& outputs) {
  std::vector<array> order;
  std::unordered_set<std::uintptr_t> seen;
  struct Visit {
    array a;
    std::vector<array> inputs;
    size_t next = 0;
  };
  std::vector<Visit> path;
  auto enter = [&](const array& a) {
    if (seen.insert(a.id()).second) path.push_back({a, a.is_available() ? std::vector<array>{} : a.inputs()});
  };
  for (const array& output : outputs) {
    enter(output);
    while (!path.empty()) {
      if (Visit& top = path.back(); top.next < top.inputs.size()) {
        array input = top.inputs[top.next++];
        enter(input);
      } else {
        order.push_back(path.back().a);
        path.pop_back();
      }
    }
  }
  return order;
}

bool is_computed(const array& a) { return !a.is_available() && a.has_primitive(); }

std::string operation(const array& a) {
  std::string parameters = a.primitive().describe();
  return std::string(a.primitive().name()) + (parameters.empty() ? "" : "[" + parameters + "]");
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

}  // namespace

const std::string& NodeNamer::get_name(const array& x) {
  std::string& name = names[x.id()];
  if (name.empty()) {
    size_t n = ++given_;  // bijective base 26
    for (; n > 0; n = (n - 1) / 26) name.insert(name.begin(), static_cast<char>('A' + (n - 1) % 26));
  }
  return name;
}

void NodeNamer::set_name(const array& x, std::string name) { names[x.id()] = std::move(name); }

void print_graph(std::ostream& os, NodeNamer namer, const std::vector<array>& outputs) {
  for (const array& a : in_order(outputs)) {
    std::string inputs;
    if (is_computed(a))
      for (const array& input : a.inputs()) inputs += (inputs.empty() ? "" : ", ") + namer.get_name(input);
    std::string how = is_computed(a) ? operation(a) + "(" + inputs + ")" : "input";
    os << namer.get_name(a) << " = " << how << "  " << a.dtype() << " " << to_string(a.shape()) << "\n";
  }
}

void export_to_dot(std::ostream& os, NodeNamer namer, const std::vector<array>& outputs) {
  std::unordered_set<std::uintptr_t> results;
  for (const array& output : outputs) results.insert(output.id());
  os << "digraph {\n  node [fontname=\"sans-serif\"];\n";
  for (const array& a : in_order(outputs)) {
    std::string name = quoted(namer.get_name(a));
    std::string label =
        namer.get_name(a) + ": " + std::string(dtype_name(a.dtype())) + " " + to_string(a.shape());
    os << "  " << name << " [label=" << quoted(label)
       << (results.contains(a.id()) ? ", style=bold"
           : is_computed(a)         ? ""
                                    : ", style=filled")
       << "];\n";
    if (!is_computed(a)) continue;
    std::string box = quoted("op " + namer.get_name(a));
    os << "  " << box << " [shape=box, label=" << quoted(operation(a)) << "];\n";
    for (const array& input : a.inputs())
      os << "  " << quoted(namer.get_name(input)) << " -> " << box << ";\n";
    os << "  " << box << " -> " << name << ";\n";
  }
  os << "}\n";
}

}  // namespace lazuli
