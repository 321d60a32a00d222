// The syntax tree of a template, and the parser that makes it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lm/jinja_value.h"

namespace lazuli::lm::jinja {

struct Place {
  int line = 1, column = 1;
};

[[noreturn]] void fail_at(Place place, std::string_view what);

struct Node;
using NodePtr = std::unique_ptr<Node>;

struct Node {
  enum class Kind {
    // expressions
    constant,     // value
    name,         // text
    list,         // children
    tuple,        // children
    dict,         // children: key, value, key, value, ...
    unary,        // text: - + not
    binary,       // text: + - * / // % ** ~ and or
    compare,      // children; names: operators between them
    conditional,  // children: value if true, condition, value if false (optional)
    attribute,    // children[0].text
    item,         // children: x, key
    slice,        // children: x, start, stop, step (each may be null)
    call,         // children: callee, then positional; named
    filter,       // text; children: x (null in a filter block), then positional; named
    test,         // text, negated; children: x, then positional; named
    // statements
    text,          // text
    output,        // children[0]
    block,         // children: statements
    branch,        // children: condition, body, condition, body, ..., else body (optional)
    loop,          // children: target, iterable, filter (may be null), body, else body (may be null)
    set,           // children: target, value
    set_block,     // children: target, body, then filters
    macro,         // text; names: parameters; children: body, then defaults of the last parameters
    call_block,    // names: parameters; children: call, body, then defaults
    filter_block,  // children: filter, body
    with,          // children: body, then target, value, target, value, ...
    stop,          // break
    next,          // continue
  };
  Kind kind;
  Place place;
  int depth = 1;  // of the tree below
  bool negated = false;
  std::string text;
  Value value;
  std::vector<NodePtr> children;
  std::vector<std::string> names;
  std::vector<std::pair<std::string, NodePtr>> named;
};

// Throws ChatTemplateError.
NodePtr parse(std::string_view source);

}  // namespace lazuli::lm::jinja
