#include "lazuli/nn/module.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <unordered_set>

#include "lazuli/io.h"
#include "lazuli/ops/elementwise.h"

namespace lazuli::nn {

const detail::ModuleType detail::function_type{"function", [](void*, Visitor&) {}, &detail::function_type};

namespace {

// Keeps the dotted path of where the walk is.
class PathVisitor : public Visitor {
 public:
  void child(std::string_view name, const ModuleRef& m) override {
    size_t before = path_.size();
    path_.append(name).push_back('.');
    m.members(*this);
    path_.resize(before);
  }

 protected:
  std::string full(std::string_view name) const { return path_ + std::string(name); }

 private:
  std::string path_;
};

// Calls f(path, array) on parameters and buffers.
template <class F>
class OnArrays final : public PathVisitor {
 public:
  explicit OnArrays(F f) : f_(std::move(f)) {}
  void parameter(std::string_view name, Parameter& p) override { f_(full(name), p); }
  void buffer(std::string_view name, Buffer& b) override { f_(full(name), b); }

 private:
  F f_;
};

template <class F>
void for_each_array(const ModuleRef& m, F f) {
  OnArrays<F> visit(std::move(f));
  m.members(visit);
}

// What is wrong with a set of arrays meant for a model.
struct Mismatch {
  std::vector<std::string> missing, unexpected, shapes;
  bool any() const { return !missing.empty() || !unexpected.empty() || !shapes.empty(); }
  std::string text() const {
    std::string out;
    auto list = [&](const char* title, const std::vector<std::string>& lines) {
      if (lines.empty()) return;
      out += std::string("\n  ") + title + ":";
      for (const auto& line : lines) out += "\n    " + line;
    };
    list("missing", missing);
    list("unexpected", unexpected);
    list("wrong shape", shapes);
    return out;
  }
};

// Puts `values` into the model, or throws and leaves it as it was.
void assign(const ModuleRef& m, const Tree& values, bool need_all, bool allow_unknown, const std::string& op,
            const std::string& source) {
  struct Slot {
    array* to;
    const array* from;
  };
  std::unordered_map<std::string_view, const array*> given;
  for (const auto& entry : values) given.emplace(entry.first, &entry.second);
  Mismatch wrong;
  std::vector<Slot> slots;
  for_each_array(m, [&](const std::string& path, array& current) {
    auto found = given.find(path);
    if (found == given.end()) {
      if (need_all) wrong.missing.push_back(path + " " + to_string(current.shape()));
      return;
    }
    const array& value = *found->second;
    if (value.shape() != current.shape())
      wrong.shapes.push_back(path + " is " + to_string(current.shape()) + " in the model but " +
                             to_string(value.shape()) + " in " + source);
    slots.push_back({&current, &value});
    given.erase(found);
  });
  if (!allow_unknown)
    for (const auto& entry : values)
      if (given.count(entry.first))
        wrong.unexpected.push_back(entry.first + " " + to_string(entry.second.shape()));
  if (wrong.any())
    throw std::invalid_argument("[" + op + "] " + source + " does not fit the module " +
                                std::string(m.type_name()) + ":" + wrong.text());
  for (const Slot& slot : slots) *slot.to = *slot.from;
}

class FreezeVisitor final : public Visitor {
 public:
  FreezeVisitor(bool on, const FreezeOptions& options) : on_(on), options_(options) {}
  void parameter(std::string_view name, Parameter& p) override {
    if (!options_.keys.empty()) {
      auto found = std::find(options_.keys.begin(), options_.keys.end(), name);
      if (found == options_.keys.end()) return;
      seen_.insert(*found);
    }
    p.freeze(on_);
  }
  void child(std::string_view, const ModuleRef& m) override {
    if (options_.recurse || m.type_name().empty()) m.members(*this);
  }
  void check() const {
    if (!options_.strict) return;
    for (const auto& key : options_.keys)
      if (!seen_.count(key))
        throw std::invalid_argument(std::string(on_ ? "[freeze]" : "[unfreeze]") +
                                    " no part has a parameter '" + key + "'");
  }

 private:
  bool on_;
  const FreezeOptions& options_;
  std::unordered_set<std::string> seen_;
};

void set_frozen(const ModuleRef& m, bool on, const FreezeOptions& options) {
  FreezeVisitor visit(on, options);
  m.members(visit);
  visit.check();
}

}  // namespace

Tree parameters(ConstModuleRef m) {
  Tree out;
  for_each_array(m, [&](std::string path, const array& a) { out.append(std::move(path), a); });
  return out;
}

Tree trainable_parameters(ConstModuleRef m) {
  struct Trainable final : PathVisitor {
    Tree out;
    void parameter(std::string_view name, Parameter& p) override {
      if (!p.frozen()) out.append(full(name), p);
    }
  } visit;
  m.members(visit);
  return std::move(visit.out);
}

Tree buffers(ConstModuleRef m) {
  struct Buffers final : PathVisitor {
    Tree out;
    void buffer(std::string_view name, Buffer& b) override { out.append(full(name), b); }
  } visit;
  m.members(visit);
  return std::move(visit.out);
}

int64_t num_parameters(ConstModuleRef m) {
  struct Count final : Visitor {
    int64_t n = 0;
    void parameter(std::string_view, Parameter& p) override { n += static_cast<int64_t>(p.size()); }
  } visit;
  m.members(visit);
  return visit.n;
}

void update(ModuleRef m, const Tree& values, bool strict) {
  assign(m, values, false, !strict, "update", "the tree");
}

void map_parameters(ModuleRef m, const std::function<array(const std::string&, const array&)>& f) {
  for_each_array(m, [&](const std::string& path, array& a) { a = f(path, a); });
}
void map_parameters(ModuleRef m, const std::function<array(const array&)>& f) {
  for_each_array(m, [&](const std::string&, array& a) { a = f(a); });
}

void set_dtype(ModuleRef m, Dtype dtype, const std::function<bool(Dtype)>& predicate) {
  for_each_array(m, [&](const std::string&, array& a) {
    if (predicate ? predicate(a.dtype()) : issubdtype(a.dtype(), floating)) a = astype(a, dtype);
  });
}

void freeze(ModuleRef m, const FreezeOptions& options) { set_frozen(m, true, options); }
void unfreeze(ModuleRef m, const FreezeOptions& options) { set_frozen(m, false, options); }

void train(ModuleRef m, bool mode) {
  struct Train final : Visitor {
    bool mode;
    void training(Training& t) override { t.on = mode; }
  } visit;
  visit.mode = mode;
  m.members(visit);
}

void save_weights(ConstModuleRef m, const std::string& file,
                  const std::unordered_map<std::string, std::string>& metadata) {
  save_safetensors(file, parameters(m).flatten(), metadata);
}

std::unordered_map<std::string, std::string> load_weights(ModuleRef m, const std::string& file, bool strict) {
  auto [arrays, metadata] = load_safetensors(file);
  assign(m, Tree(arrays), strict, !strict, "load_weights", file);
  return metadata;
}

void load_weights(ModuleRef m, const Tree& weights, bool strict) {
  assign(m, weights, strict, !strict, "load_weights", "the tree");
}

std::vector<std::pair<std::string, ModuleRef>> named_modules(ModuleRef m) {
  struct Modules final : PathVisitor {
    std::vector<std::pair<std::string, ModuleRef>> out;
    void child(std::string_view name, const ModuleRef& part) override {
      if (!part.type_name().empty()) out.emplace_back(full(name), part);
      PathVisitor::child(name, part);
    }
  } visit;
  visit.out.emplace_back("", m);
  m.members(visit);
  return std::move(visit.out);
}

std::string summary(ConstModuleRef m) {
  // Arrays directly in a module, those of its containers included, belong to its row.
  struct Row {
    std::string path, type, arrays;
    int64_t count = 0;
  };
  struct Rows final : PathVisitor {
    std::vector<Row> rows;
    size_t at = 0, depth = 0;
    int64_t trained = 0, frozen = 0, buffered = 0;
    void add(std::string_view name, const array& a) {
      std::string& text = rows[at].arrays;
      text += (text.empty() ? "" : ", ") + std::string(name) + " " + to_string(a.shape());
    }
    void parameter(std::string_view name, Parameter& p) override {
      add(name, p);
      rows[at].count += static_cast<int64_t>(p.size());
      (p.frozen() ? frozen : trained) += static_cast<int64_t>(p.size());
    }
    void buffer(std::string_view name, Buffer& b) override {
      add(name, b);
      buffered += static_cast<int64_t>(b.size());
    }
    void child(std::string_view name, const ModuleRef& part) override {
      size_t before = at;
      bool module = !part.type_name().empty();
      if (module) {
        at = rows.size();
        rows.push_back({std::string(2 * ++depth, ' ') + full(name), std::string(part.type_name()), "", 0});
      }
      PathVisitor::child(name, part);
      if (module) --depth;
      at = before;
    }
  } visit;
  visit.rows.push_back({"(model)", std::string(m.type_name()), "", 0});
  m.members(visit);

  auto grouped = [](int64_t n) {
    std::string s = std::to_string(n);
    for (size_t i = s.size(); i > 3; i -= 3) s.insert(i - 3, 1, ',');
    return s;
  };
  size_t path_width = 0, type_width = 0, count_width = 0;
  for (const Row& row : visit.rows) {
    path_width = std::max(path_width, row.path.size());
    type_width = std::max(type_width, row.type.size());
    count_width = std::max(count_width, grouped(row.count).size());
  }
  std::ostringstream os;
  for (const Row& row : visit.rows) {
    std::string count = row.count ? grouped(row.count) : "";
    std::string line = row.path + std::string(path_width - row.path.size() + 2, ' ') + row.type +
                       std::string(type_width - row.type.size() + 2, ' ') +
                       std::string(count_width - count.size(), ' ') + count + "  " + row.arrays;
    line.erase(line.find_last_not_of(' ') + 1);
    os << line << "\n";
  }
  os << grouped(visit.trained + visit.frozen) << " parameters";
  if (visit.frozen) os << ", " << grouped(visit.frozen) << " of them frozen";
  if (visit.buffered) os << "; " << grouped(visit.buffered) << " buffer elements";
  os << "\n";
  return os.str();
}

}  // namespace lazuli::nn
