// Tree: parameters, gradients and optimizer state as an ordered map from dotted paths to arrays.
//
// The nesting is in the paths: "layers.0.weight" lies under "layers" and under "layers.0". Order
// is that of insertion; for a module that is the order of its members.
//
//     nn::Tree grads = ...;
//     array g = grads["layers.0.weight"];
//     nn::Tree first = grads.sub("layers.0");                  // keys "weight", "bias"
//     nn::Tree halved = grads.map([](const array& g) { return g * 0.5f; });
//     nn::Tree biases = grads.filter([](const std::string& path, const array&) {
//       return path.ends_with("bias"); });
#pragma once

#include <concepts>
#include <initializer_list>
#include <iosfwd>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lazuli/array.h"

namespace lazuli::nn {

class Tree {
 public:
  using Entry = std::pair<std::string, array>;

  Tree() = default;
  // Throws std::invalid_argument if a path occurs twice.
  Tree(std::initializer_list<Entry> entries);
  explicit Tree(std::vector<Entry> entries);
  // What a file holds; sorted by path, numbers by value.
  explicit Tree(const std::unordered_map<std::string, array>& flat);

  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }

  bool contains(std::string_view path) const { return find(path) != nullptr; }
  const array* find(std::string_view path) const;  // nullptr if there is none
  // Throw std::out_of_range naming the path.
  const array& operator[](std::string_view path) const;
  const array& at(std::string_view path) const { return (*this)[path]; }
  // Replaces the array at `path`, or adds it at the end.
  void set(std::string_view path, array value);

  // The entries under `prefix`, without it and its dot. Empty if there are none.
  Tree sub(std::string_view prefix) const;
  // The same arrays one level deeper: every path gets "prefix." in front.
  Tree under(std::string_view prefix) const;
  // Names at the first level, in order.
  std::vector<std::string> children() const;
  // This tree with the other's entries put over it.
  Tree merge(const Tree& other) const;

  std::vector<array> arrays() const;
  std::unordered_map<std::string, array> flatten() const;
  int64_t num_elements() const;

  // f(array) or f(path, array) -> array
  template <class F>
  Tree map(F&& f) const {
    std::vector<Entry> out;
    out.reserve(size());
    for (const auto& [path, value] : entries_) {
      if constexpr (std::invocable<F&, const array&>)
        out.emplace_back(path, f(value));
      else
        out.emplace_back(path, f(path, value));
    }
    return Tree(std::move(out), Trusted{});
  }
  // f(path, array) -> bool
  template <class F>
  Tree filter(F&& f) const {
    std::vector<Entry> out;
    for (const auto& entry : entries_)
      if (f(entry.first, entry.second)) out.push_back(entry);
    return Tree(std::move(out), Trusted{});
  }
  // f(mine, theirs) -> array for trees with the same paths, in any order; throws
  // std::invalid_argument naming the first path that only one of them has.
  template <class F>
  Tree zip(const Tree& other, F&& f) const {
    check_same_paths(other);
    std::vector<Entry> out;
    out.reserve(size());
    for (size_t i = 0; i < size(); ++i)
      out.emplace_back(entries_[i].first, f(entries_[i].second, *other.find(entries_[i].first, i)));
    return Tree(std::move(out), Trusted{});
  }
  // f(accumulator, array) -> accumulator
  template <class T, class F>
  T reduce(T start, F&& f) const {
    for (const auto& entry : entries_) start = f(std::move(start), entry.second);
    return start;
  }

  // As find, looking at position `guess` first: trees of one model agree in order.
  const array* find(std::string_view path, size_t guess) const;
  // For makers of trees whose paths are known to differ: skips the check of set.
  void append(std::string path, array value) { entries_.emplace_back(std::move(path), std::move(value)); }

 private:
  struct Trusted {};
  Tree(std::vector<Entry> entries, Trusted) : entries_(std::move(entries)) {}
  void check_same_paths(const Tree& other) const;

  std::vector<Entry> entries_;
};

// One line for each array: path, shape, dtype.
std::ostream& operator<<(std::ostream& os, const Tree& tree);

}  // namespace lazuli::nn
