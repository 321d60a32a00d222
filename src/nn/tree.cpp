#include "lazuli/nn/tree.h"

#include <algorithm>
#include <ostream>
#include <stdexcept>
#include <unordered_set>

namespace lazuli::nn {

namespace {

bool is_number(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// "layers.2.weight" before "layers.10.weight".
bool path_less(std::string_view a, std::string_view b) {
  while (true) {
    std::string_view x = a.substr(0, a.find('.')), y = b.substr(0, b.find('.'));
    if (x != y) {
      if (is_number(x) && is_number(y) && x.size() != y.size()) return x.size() < y.size();
      return x < y;
    }
    if (x.size() == a.size() || y.size() == b.size()) return a.size() < b.size();
    a.remove_prefix(x.size() + 1);
    b.remove_prefix(y.size() + 1);
  }
}

// What follows "prefix." in path, or an empty view.
std::string_view below(std::string_view path, std::string_view prefix) {
  if (path.size() <= prefix.size() + 1 || path[prefix.size()] != '.' || !path.starts_with(prefix)) return {};
  return path.substr(prefix.size() + 1);
}

}  // namespace

Tree::Tree(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::unordered_set<std::string_view> seen;
  for (const auto& entry : entries_)
    if (!seen.insert(entry.first).second)
      throw std::invalid_argument("[Tree] the path '" + entry.first + "' occurs twice");
}

Tree::Tree(std::initializer_list<Entry> entries) : Tree(std::vector<Entry>(entries)) {}

Tree::Tree(const std::unordered_map<std::string, array>& flat) : entries_(flat.begin(), flat.end()) {
  std::sort(entries_.begin(), entries_.end(),
            [](const Entry& a, const Entry& b) { return path_less(a.first, b.first); });
}

const array* Tree::find(std::string_view path) const {
  for (const auto& entry : entries_)
    if (entry.first == path) return &entry.second;
  return nullptr;
}

const array* Tree::find(std::string_view path, size_t guess) const {
  if (guess < entries_.size() && entries_[guess].first == path) return &entries_[guess].second;
  return find(path);
}

const array& Tree::operator[](std::string_view path) const {
  if (const array* found = find(path)) return *found;
  throw std::out_of_range("[Tree] there is no array at '" + std::string(path) + "' among " +
                          std::to_string(size()) + " entries");
}

void Tree::set(std::string_view path, array value) {
  for (auto& entry : entries_)
    if (entry.first == path) {
      entry.second = std::move(value);
      return;
    }
  append(std::string(path), std::move(value));
}

Tree Tree::sub(std::string_view prefix) const {
  Tree out;
  for (const auto& [path, value] : entries_)
    if (auto rest = below(path, prefix); !rest.empty()) out.append(std::string(rest), value);
  return out;
}

Tree Tree::under(std::string_view prefix) const {
  Tree out;
  for (const auto& [path, value] : entries_) out.append(std::string(prefix) + "." + path, value);
  return out;
}

std::vector<std::string> Tree::children() const {
  std::vector<std::string> out;
  std::unordered_set<std::string_view> seen;
  for (const auto& entry : entries_) {
    std::string_view path = entry.first, head = path.substr(0, path.find('.'));
    if (seen.insert(head).second) out.emplace_back(head);
  }
  return out;
}

Tree Tree::merge(const Tree& other) const {
  Tree out = *this;
  std::unordered_map<std::string_view, size_t> where;
  for (size_t i = 0; i < entries_.size(); ++i) where.emplace(entries_[i].first, i);
  for (const auto& [path, value] : other.entries_) {
    if (auto found = where.find(path); found != where.end())
      out.entries_[found->second].second = value;
    else
      out.append(path, value);
  }
  return out;
}

std::vector<array> Tree::arrays() const {
  std::vector<array> out;
  out.reserve(size());
  for (const auto& entry : entries_) out.push_back(entry.second);
  return out;
}

std::unordered_map<std::string, array> Tree::flatten() const { return {entries_.begin(), entries_.end()}; }

int64_t Tree::num_elements() const {
  int64_t n = 0;
  for (const auto& entry : entries_) n += static_cast<int64_t>(entry.second.size());
  return n;
}

void Tree::check_same_paths(const Tree& other) const {
  for (size_t i = 0; i < size(); ++i)
    if (!other.find(entries_[i].first, i))
      throw std::invalid_argument("[Tree] '" + entries_[i].first + "' is in the first tree only");
  if (other.size() != size())
    for (const auto& entry : other)
      if (!find(entry.first))
        throw std::invalid_argument("[Tree] '" + entry.first + "' is in the second tree only");
}

std::ostream& operator<<(std::ostream& os, const Tree& tree) {
  for (const auto& [path, value] : tree) os << path << " " << value.shape() << " " << value.dtype() << "\n";
  return os;
}

}  // namespace lazuli::nn
