#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "lazuli/lm/chat_template.h"
#include "lm/jinja_lexer.h"

namespace lazuli::lm::jinja {

void fail_at(Place place, std::string_view what) {
  throw ChatTemplateError(
      fmt::format("[chat_template] line {}, column {}: {}", place.line, place.column, what));
}

namespace {

using Kind = Node::Kind;
constexpr int kDeepestTree = 250;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  NodePtr run() {
    NodePtr root = body({});
    if (peek().kind != Token::Kind::end) fail_at(peek().place, "unexpected end of a block");
    return root;
  }

 private:
  // ---- tokens ----

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& take() {
    const Token& t = peek();
    if (at_ + 1 < tokens_.size()) ++at_;
    return t;
  }
  bool is(Token::Kind kind, std::string_view text, size_t ahead = 0) const {
    return peek(ahead).kind == kind && peek(ahead).text == text;
  }
  bool is_symbol(std::string_view s) const { return is(Token::Kind::symbol, s); }
  bool is_name(std::string_view s) const { return is(Token::Kind::name, s); }
  bool take_symbol(std::string_view s) { return is_symbol(s) && (take(), true); }
  bool take_name(std::string_view s) { return is_name(s) && (take(), true); }

  static std::string describe(const Token& t) {
    switch (t.kind) {
      case Token::Kind::text: return "text";
      case Token::Kind::begin_output: return "'{{'";
      case Token::Kind::end_output: return "'}}'";
      case Token::Kind::begin_block: return "'{%'";
      case Token::Kind::end_block: return "'%}'";
      case Token::Kind::end: return "the end of the template";
      case Token::Kind::string: return fmt::format("the string '{:.40}'", t.text);
      default: return fmt::format("'{:.40}'", t.text);
    }
  }
  [[noreturn]] void unexpected(std::string_view wanted) const {
    fail_at(peek().place, fmt::format("expected {}, found {}", wanted, describe(peek())));
  }
  void expect_symbol(std::string_view s) {
    if (!take_symbol(s)) unexpected(fmt::format("'{}'", s));
  }
  void expect(Token::Kind kind, std::string_view wanted) {
    if (peek().kind != kind) unexpected(wanted);
    take();
  }
  std::string expect_name() {
    if (peek().kind != Token::Kind::name) unexpected("a name");
    return take().text;
  }
  void end_block() { expect(Token::Kind::end_block, "'%}'"); }

  // ---- nodes ----

  NodePtr make(Kind kind, Place place) const {
    auto node = std::make_unique<Node>();
    node->kind = kind;
    node->place = place;
    return node;
  }
  NodePtr make(Kind kind) const { return make(kind, peek().place); }
  // Trees are walked and freed by recursion, so their depth is bounded.
  static void add(NodePtr& parent, NodePtr child) {
    if (child) deepen(parent, *child);
    parent->children.push_back(std::move(child));
  }
  static void deepen(NodePtr& parent, const Node& child) {
    parent->depth = std::max(parent->depth, child.depth + 1);
    if (parent->depth > kDeepestTree) fail_at(parent->place, "the template nests too deeply");
  }
  struct Nesting {
    explicit Nesting(Parser& p) : parser(p) {
      if (++parser.nesting_ > kDeepestTree) fail_at(parser.peek().place, "the template nests too deeply");
    }
    ~Nesting() { --parser.nesting_; }
    Parser& parser;
  };

  // ---- statements ----

  // Statements up to a block that begins with one of the names, which stays.
  NodePtr body(std::initializer_list<std::string_view> ends) {
    Nesting nesting(*this);
    NodePtr out = make(Kind::block);
    while (true) {
      const Token& t = peek();
      if (t.kind == Token::Kind::end) {
        if (ends.size())
          fail_at(t.place, fmt::format("expected a block '{}', found {}", *ends.begin(), describe(t)));
        return out;
      }
      if (t.kind == Token::Kind::text) {
        NodePtr text = make(Kind::text);
        text->text = take().text;
        add(out, std::move(text));
      } else if (t.kind == Token::Kind::begin_output) {
        NodePtr node = make(Kind::output);
        take();
        add(node, tuple(true));
        expect(Token::Kind::end_output, "'}}'");
        add(out, std::move(node));
      } else {
        if (peek(1).kind == Token::Kind::name && std::ranges::find(ends, peek(1).text) != ends.end())
          return out;
        take();
        if (NodePtr node = statement()) add(out, std::move(node));
      }
    }
  }
  // Takes "{% NAME %}", where body() stopped.
  void end_of(std::string_view name) {
    take();
    if (!take_name(name)) unexpected(fmt::format("'{}'", name));
    end_block();
  }

  NodePtr statement() {
    Place place = peek().place;
    std::string name = expect_name();
    if (name == "if") return branch(place);
    if (name == "for") return loop(place);
    if (name == "set") return set(place);
    if (name == "macro") return macro(place);
    if (name == "call") return call_block(place);
    if (name == "filter") return filter_block(place);
    if (name == "with") return with(place);
    if (name == "generation") {  // marks what a model is trained on; renders as its body
      end_block();
      NodePtr node = body({"endgeneration"});
      end_of("endgeneration");
      return node;
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(place, fmt::format("'{}' outside of a loop", name));
      end_block();
      return make(name == "break" ? Kind::stop : Kind::next, place);
    }
    fail_at(place, fmt::format("there is no block '{:.40}' here", name));
  }

  NodePtr branch(Place place) {
    NodePtr node = make(Kind::branch, place);
    while (true) {
      add(node, tuple(false));
      end_block();
      add(node, body({"elif", "else", "endif"}));
      take();
      if (take_name("elif")) continue;
      if (take_name("else")) {
        end_block();
        add(node, body({"endif"}));
        take();
      }
      if (!take_name("endif")) unexpected("'endif'");
      end_block();
      return node;
    }
  }

  NodePtr loop(Place place) {
    NodePtr node = make(Kind::loop, place);
    add(node, target());
    if (!take_name("in")) unexpected("'in'");
    add(node, tuple(false));
    add(node, take_name("if") ? expression() : nullptr);
    if (is_name("recursive")) fail_at(peek().place, "recursive loops are not supported");
    end_block();
    ++loops_;
    add(node, body({"else", "endfor"}));
    --loops_;
    take();
    NodePtr otherwise;
    if (take_name("else")) {
      end_block();
      otherwise = body({"endfor"});
      take();
    }
    add(node, std::move(otherwise));
    if (!take_name("endfor")) unexpected("'endfor'");
    end_block();
    return node;
  }

  // A name, or names that a sequence is unpacked into.
  NodePtr target() {
    NodePtr first = target_part();
    if (!is_symbol(",")) return first;
    NodePtr all = make(Kind::tuple, first->place);
    add(all, std::move(first));
    while (take_symbol(",")) {
      if (peek().kind != Token::Kind::name && !is_symbol("(")) break;
      add(all, target_part());
    }
    return all;
  }
  NodePtr target_part() {
    Nesting nesting(*this);
    if (take_symbol("(")) {
      NodePtr inner = target();
      expect_symbol(")");
      return inner;
    }
    NodePtr node = make(Kind::name);
    node->text = expect_name();
    static constexpr std::string_view kReserved[] = {"true",  "false", "none", "True",
                                                     "False", "None",  "loop"};
    if (std::ranges::find(kReserved, node->text) != std::end(kReserved) && node->text != "loop")
      fail_at(node->place, fmt::format("'{}' cannot be assigned", node->text));
    return node;
  }

  NodePtr set(Place place) {
    NodePtr to;
    if (peek().kind == Token::Kind::name && is(Token::Kind::symbol, ".", 1)) {
      to = make(Kind::attribute);
      NodePtr space = make(Kind::name);
      space->text = take().text;
      take();
      to->text = expect_name();
      add(to, std::move(space));
    } else {
      to = target();
    }
    if (take_symbol("=")) {
      NodePtr node = make(Kind::set, place);
      add(node, std::move(to));
      add(node, tuple(true));
      end_block();
      return node;
    }
    NodePtr node = make(Kind::set_block, place);
    add(node, std::move(to));
    std::vector<NodePtr> filters;
    while (take_symbol("|")) filters.push_back(filter(nullptr));
    end_block();
    add(node, body({"endset"}));
    end_of("endset");
    for (NodePtr& f : filters) add(node, std::move(f));
    return node;
  }

  // "(a, b=1)": names, and the defaults of the last ones.
  std::vector<NodePtr> parameters(Node& node) {
    std::vector<NodePtr> defaults;
    expect_symbol("(");
    while (!is_symbol(")")) {
      if (!node.names.empty()) expect_symbol(",");
      if (is_symbol(")")) break;
      Place place = peek().place;
      node.names.push_back(expect_name());
      if (take_symbol("="))
        defaults.push_back(expression());
      else if (!defaults.empty())
        fail_at(place, "a parameter without a default follows one with a default");
    }
    take();
    return defaults;
  }
  NodePtr body_outside_loops(std::initializer_list<std::string_view> ends) {
    int loops = std::exchange(loops_, 0);
    NodePtr out = body(ends);
    loops_ = loops;
    return out;
  }

  NodePtr macro(Place place) {
    NodePtr node = make(Kind::macro, place);
    node->text = expect_name();
    auto defaults = parameters(*node);
    end_block();
    add(node, body_outside_loops({"endmacro"}));
    take(), take();
    if (is_name(node->text)) take();
    end_block();
    for (NodePtr& d : defaults) add(node, std::move(d));
    return node;
  }

  NodePtr call_block(Place place) {
    NodePtr node = make(Kind::call_block, place);
    std::vector<NodePtr> defaults;
    if (is_symbol("(")) defaults = parameters(*node);
    NodePtr call = expression();
    if (call->kind != Kind::call) fail_at(call->place, "expected a call of a macro");
    end_block();
    add(node, std::move(call));
    add(node, body_outside_loops({"endcall"}));
    end_of("endcall");
    for (NodePtr& d : defaults) add(node, std::move(d));
    return node;
  }

  NodePtr filter_block(Place place) {
    NodePtr node = make(Kind::filter_block, place);
    NodePtr chain = filter(nullptr);
    while (take_symbol("|")) chain = filter(std::move(chain));
    end_block();
    add(node, std::move(chain));
    add(node, body({"endfilter"}));
    end_of("endfilter");
    return node;
  }

  NodePtr with(Place place) {
    NodePtr node = make(Kind::with, place);
    std::vector<NodePtr> pairs;
    while (peek().kind != Token::Kind::end_block) {
      if (!pairs.empty()) expect_symbol(",");
      pairs.push_back(target_part());
      expect_symbol("=");
      pairs.push_back(expression());
    }
    end_block();
    add(node, body({"endwith"}));
    end_of("endwith");
    for (NodePtr& p : pairs) add(node, std::move(p));
    return node;
  }

  // ---- expressions ----

  // An expression, or several with commas, which make a tuple.
  NodePtr tuple(bool with_conditional) {
    auto part = [&] { return with_conditional ? expression() : either(); };
    NodePtr first = part();
    if (!is_symbol(",")) return first;
    NodePtr all = make(Kind::tuple, first->place);
    add(all, std::move(first));
    while (take_symbol(",")) {
      if (ends_tuple()) break;
      add(all, part());
    }
    return all;
  }
  bool ends_tuple() const {
    auto kind = peek().kind;
    return kind == Token::Kind::end_output || kind == Token::Kind::end_block || is_symbol(")") ||
           is_name("recursive");
  }

  NodePtr expression() {
    Nesting nesting(*this);
    NodePtr node = either();
    while (is_name("if")) {
      NodePtr out = make(Kind::conditional);
      take();
      add(out, std::move(node));
      add(out, either());
      if (take_name("else")) add(out, expression());
      node = std::move(out);
    }
    return node;
  }

  NodePtr binary(std::string op, Place place, NodePtr left, NodePtr right) {
    NodePtr node = make(Kind::binary, place);
    node->text = std::move(op);
    add(node, std::move(left));
    add(node, std::move(right));
    return node;
  }
  NodePtr either() {
    NodePtr node = both();
    while (is_name("or")) {
      Place place = take().place;
      node = binary("or", place, std::move(node), both());
    }
    return node;
  }
  NodePtr both() {
    NodePtr node = negation();
    while (is_name("and")) {
      Place place = take().place;
      node = binary("and", place, std::move(node), negation());
    }
    return node;
  }
  NodePtr negation() {
    if (!is_name("not")) return comparison();
    Nesting nesting(*this);
    NodePtr node = make(Kind::unary);
    node->text = take().text;
    add(node, negation());
    return node;
  }
  NodePtr comparison() {
    NodePtr first = sum();
    NodePtr node;
    while (true) {
      std::string op;
      Place place = peek().place;
      for (std::string_view s : {"==", "!=", "<=", ">=", "<", ">"})
        if (is_symbol(s)) op = s;
      if (is_name("in")) op = "in";
      if (is_name("not") && is(Token::Kind::name, "in", 1)) take(), op = "not in";
      if (op.empty()) return node ? std::move(node) : std::move(first);
      take();
      if (!node) {
        node = make(Kind::compare, place);
        add(node, std::move(first));
      }
      node->names.push_back(op);
      add(node, sum());
    }
  }
  template <class F>
  NodePtr chain(std::initializer_list<std::string_view> ops, F&& operand) {
    NodePtr node = operand();
    while (true) {
      auto op = std::ranges::find_if(ops, [&](std::string_view s) { return is_symbol(s); });
      if (op == ops.end()) return node;
      Place place = take().place;
      node = binary(std::string(*op), place, std::move(node), operand());
    }
  }
  NodePtr sum() {
    return chain({"+", "-"}, [&] { return concatenation(); });
  }
  NodePtr concatenation() {
    return chain({"~"}, [&] { return product(); });
  }
  NodePtr product() {
    return chain({"*", "/", "//", "%"}, [&] { return power(); });
  }
  NodePtr power() {
    return chain({"**"}, [&] { return unary(true); });
  }
  NodePtr unary(bool with_filter) {
    Nesting nesting(*this);
    NodePtr node;
    if (is_symbol("-") || is_symbol("+")) {
      node = make(Kind::unary);
      node->text = take().text;
      add(node, unary(false));
    } else {
      node = primary();
    }
    node = postfix(std::move(node));
    return with_filter ? filters(std::move(node)) : std::move(node);
  }

  NodePtr primary() {
    const Token& t = peek();
    NodePtr node = make(Kind::constant);
    switch (t.kind) {
      case Token::Kind::name:
        if (t.text == "true" || t.text == "True") {
          node->value = true;
        } else if (t.text == "false" || t.text == "False") {
          node->value = false;
        } else if (t.text != "none" && t.text != "None") {
          node->kind = Kind::name;
          node->text = t.text;
        }
        take();
        return node;
      case Token::Kind::string: {
        std::string text = take().text;
        while (peek().kind == Token::Kind::string) text += take().text;
        node->value = Value(std::move(text));
        return node;
      }
      case Token::Kind::integer: {
        int64_t i = 0;
        auto [end, error] = std::from_chars(t.text.data(), t.text.data() + t.text.size(), i);
        if (error != std::errc()) fail_at(t.place, "this integer is too large");
        node->value = i;
        take();
        return node;
      }
      case Token::Kind::real: {
        double d = 0;
        std::from_chars(t.text.data(), t.text.data() + t.text.size(), d);
        node->value = d;
        take();
        return node;
      }
      default: break;
    }
    if (take_symbol("(")) {
      if (take_symbol(")")) {
        node->kind = Kind::tuple;
        return node;
      }
      NodePtr inner = tuple(true);
      expect_symbol(")");
      return inner;
    }
    if (take_symbol("[")) {
      node->kind = Kind::list;
      while (!is_symbol("]")) {
        if (!node->children.empty()) expect_symbol(",");
        if (is_symbol("]")) break;
        add(node, expression());
      }
      take();
      return node;
    }
    if (take_symbol("{")) {
      node->kind = Kind::dict;
      while (!is_symbol("}")) {
        if (!node->children.empty()) expect_symbol(",");
        if (is_symbol("}")) break;
        add(node, expression());
        expect_symbol(":");
        add(node, expression());
      }
      take();
      return node;
    }
    unexpected("a value");
  }

  NodePtr postfix(NodePtr node) {
    while (true) {
      Place place = peek().place;
      if (take_symbol(".")) {
        NodePtr out = make(Kind::attribute, place);
        if (peek().kind == Token::Kind::integer) {  // x.0
          out->kind = Kind::item;
          add(out, std::move(node));
          add(out, primary());
        } else {
          out->text = expect_name();
          add(out, std::move(node));
        }
        node = std::move(out);
      } else if (take_symbol("[")) {
        node = subscript(std::move(node), place);
      } else if (is_symbol("(")) {
        node = call(std::move(node));
      } else {
        return node;
      }
    }
  }

  NodePtr subscript(NodePtr x, Place place) {
    NodePtr node = make(Kind::item, place);
    add(node, std::move(x));
    NodePtr part = is_symbol(":") ? nullptr : tuple(true);
    if (!is_symbol(":")) {
      add(node, std::move(part));
    } else {
      node->kind = Kind::slice;
      add(node, std::move(part));
      for (int i = 0; i < 2; ++i)
        add(node, take_symbol(":") && !is_symbol(":") && !is_symbol("]") ? expression() : nullptr);
    }
    expect_symbol("]");
    return node;
  }

  void arguments(NodePtr& node) {
    expect_symbol("(");
    bool first = true;
    while (!is_symbol(")")) {
      if (!first) expect_symbol(",");
      first = false;
      if (is_symbol(")")) break;
      if (peek().kind == Token::Kind::name && is(Token::Kind::symbol, "=", 1)) {
        std::string name = take().text;
        take();
        NodePtr value = expression();
        deepen(node, *value);
        node->named.emplace_back(std::move(name), std::move(value));
      } else {
        if (!node->named.empty()) fail_at(peek().place, "a positional argument follows a named one");
        add(node, expression());
      }
    }
    take();
  }

  NodePtr call(NodePtr callee) {
    NodePtr node = make(Kind::call);
    add(node, std::move(callee));
    arguments(node);
    return node;
  }

  // Behind "|": the filter's name and arguments.
  NodePtr filter(NodePtr x) {
    NodePtr node = make(Kind::filter);
    node->text = expect_name();
    if (!has_filter(node->text)) fail_at(node->place, fmt::format("there is no filter '{:.40}'", node->text));
    add(node, std::move(x));
    if (is_symbol("(")) arguments(node);
    return node;
  }

  NodePtr filters(NodePtr node) {
    while (true) {
      if (take_symbol("|"))
        node = filter(std::move(node));
      else if (is_name("is"))
        node = test(std::move(node));
      else if (is_symbol("("))
        node = call(std::move(node));
      else
        return node;
    }
  }

  NodePtr test(NodePtr x) {
    Nesting nesting(*this);
    NodePtr node = make(Kind::test);
    take();
    node->negated = take_name("not");
    Place place = peek().place;
    node->text = expect_name();
    if (!has_test(node->text)) fail_at(place, fmt::format("there is no test '{:.40}'", node->text));
    add(node, std::move(x));
    auto kind = peek().kind;
    static constexpr std::string_view kNotValues[] = {"else", "or", "and", "if",
                                                      "is",   "in", "not", "recursive"};
    bool value =
        kind == Token::Kind::name ? std::ranges::find(kNotValues, peek().text) == std::end(kNotValues)
        : kind == Token::Kind::symbol
            ? is_symbol("[") || is_symbol("{")
            : kind == Token::Kind::string || kind == Token::Kind::integer || kind == Token::Kind::real;
    if (is_symbol("("))
      arguments(node);
    else if (value)
      add(node, postfix(primary()));
    return node;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0, loops_ = 0;
};

}  // namespace

NodePtr parse(std::string_view source) { return Parser(source).run(); }

}  // namespace lazuli::lm::jinja
