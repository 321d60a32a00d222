#include "graph/schedule.h"

#include <typeinfo>

#include "core/engine.h"
#include "core/trace.h"

namespace lazuli {

using detail::Node;
using detail::Status;
using Role = Primitive::Role;

namespace {

constexpr int32_t kNone = -1, kSeveral = -2;

// The number of a shape. Few shapes occur in a graph, and the last one mostly again.
int32_t number_of(const Shape& shape, std::vector<Shape>& shapes) {
  constexpr size_t kMostCompared = 64;  // beyond, equal shapes may get two numbers and fuse less
  size_t n = shapes.size();
  for (size_t i = n; i-- > 0 && n - i <= kMostCompared;)
    if (shapes[i] == shape) return static_cast<int32_t>(i);
  shapes.push_back(shape);
  return static_cast<int32_t>(n);
}

// ---------------------------------------------------------------- common subexpressions

constexpr size_t kKnown = 1024;  // entries compared with; repeated work is close by

size_t hash_of(const Tape& tape, const Tape::Entry& e) {
  const Node* n = e.node;
  size_t h = e.role == Role::elementwise ? static_cast<size_t>(n->primitive->hash())
                                         : typeid(*n->primitive).hash_code() ^ n->primitive->hash();
  h = h * 31 + static_cast<size_t>(n->dtype.val());
  for (uint32_t k = 0; k < n->num_inputs; ++k) {
    const int32_t at = e.inputs[k];
    h = (h ^ (at >= 0 ? static_cast<size_t>(tape.like[static_cast<size_t>(at)])
                      : reinterpret_cast<size_t>(n->inputs[k]) >> 4)) *
        0x9e3779b97f4a7c15u;
  }
  return h >> 32;
}

bool alike(const Tape& tape, const Tape::Entry& a, const Tape::Entry& b) {
  const Node &m = *a.node, &n = *b.node;
  if (a.shape != b.shape || m.dtype != n.dtype || m.num_inputs != n.num_inputs || m.shape != n.shape ||
      m.stream != n.stream)
    return false;
  for (uint32_t k = 0; k < m.num_inputs; ++k) {
    const int32_t i = a.inputs[k], j = b.inputs[k];
    if ((i < 0) != (j < 0)) return false;
    if (i < 0 ? m.inputs[k] != n.inputs[k]
              : tape.like[static_cast<size_t>(i)] != tape.like[static_cast<size_t>(j)])
      return false;
  }
  return m.primitive == n.primitive ||
         (typeid(*m.primitive) == typeid(*n.primitive) && m.primitive->equals(*n.primitive));
}

// Numbers the last entry: finds one before it that computes the same.
void number(Tape& tape) {
  const int32_t i = static_cast<int32_t>(tape.entries.size()) - 1;
  Tape::Entry& e = tape.entries.back();
  tape.like.push_back(i);
  if (!e.few || e.node->is_tuple || e.role == Role::pick || e.role == Role::unknown) return;
  int32_t& known = tape.known[hash_of(tape, e) % kKnown];
  if (known >= 0 && known < i && alike(tape, tape.entries[static_cast<size_t>(known)], e)) {
    tape.like.back() = known;
    if (e.role == Role::kernel || e.role == Role::reduce) e.same = known;
  } else {
    known = i;
  }
}

// Post-order walk from `outputs` through nodes that have no value yet.
void walk(const std::vector<Node*>& outputs, uint32_t epoch, Tape& tape) {
  auto& entries = tape.entries;
  auto enter = [&](Node* n) {
    if (n->epoch == epoch) return;
    if (n->status.load(std::memory_order_acquire) == Status::available) {
      // A value that was computed while a transform traced it lets go of its graph now.
      if (n->num_inputs && !Trace::alive(n->trace)) detail::detach(n);
      return;
    }
    n->epoch = epoch;
    tape.stack.push_back({n, 0});
  };
  auto leave = [&](Node* n) {
    n->mark = static_cast<int32_t>(entries.size());
    Tape::Entry e{};
    e.node = n;
    e.role = n->primitive->role();
    e.refs = n->refs.load(std::memory_order_relaxed);
    e.shape = number_of(n->shape, tape.shapes);
    e.few = n->num_inputs <= Tape::kMostInputs;
    for (uint32_t k = 0; k < n->num_inputs; ++k) {
      Node* in = n->inputs[k];
      int32_t mark = in->epoch == epoch ? in->mark : -1;
      if (e.few) e.inputs[k] = mark;
      if (mark >= 0) ++entries[static_cast<size_t>(mark)].readers;
    }
    for (uint32_t k = n->num_inputs; k < Tape::kMostInputs; ++k) e.inputs[k] = -1;
    entries.push_back(e);
    number(tape);
  };
  for (Node* out : outputs) {
    enter(out);
    while (!tape.stack.empty()) {
      auto& top = tape.stack.back();
      Node* n = top.node;
      if (top.next_input < n->num_inputs) {
        enter(n->inputs[top.next_input++]);
        continue;
      }
      tape.stack.pop_back();
      leave(n);
    }
  }
}

// ---------------------------------------------------------------- groups

class Grouping {
 public:
  Grouping(Tape& tape, const ScheduleOptions& options)
      : tape_(tape), entries_(tape.entries), options_(options) {}

  void run() {
    // From the outputs back: all readers of a node have their groups when it is looked at.
    for (int32_t i = static_cast<int32_t>(entries_.size()) - 1; i >= 0; --i) {
      Tape::Entry& e = at(i);
      if (!options_.fuse) e.same = kNone;
      if (e.readers == 0 && !e.needed) {
        e.group = Tape::kDead;
        unread_inputs(e);
        continue;
      }
      if (e.same >= 0) {
        e.group = i;
        unread_inputs(e);
        Tape::Entry& first = at(e.same);
        first.needed = true;
        ++first.readers;
        first.reader_group = kSeveral;
      } else if (options_.fuse && e.other_group < 0 && e.reader_group >= 0 && joins(i, e)) {
        join(i, e);
        continue;
      } else if (options_.fuse && e.other_group >= 0 && e.reader_group >= 0 && inlines(e)) {
        e.group = Tape::kInline;
        for (auto [group, level] :
             {std::pair(e.reader_group, e.reader_level), {e.other_group, e.other_level}}) {
          ++at(group).size;
          read_inputs(e, group, level);
        }
        continue;
      } else {
        e.group = i;
        if (e.role == Role::reduce) {
          e.reduce = i;
          read_inputs(e, i, i);
        } else {
          read_inputs(e, i, Tape::kTop);
        }
      }
      add_member(e, i, e);
    }
  }

 private:
  Tape::Entry& at(int32_t i) { return entries_[static_cast<size_t>(i)]; }

  // Number of the shape that nodes read at `level` have.
  int32_t shape_at(int32_t level, const Tape::Entry& root) {
    return level == Tape::kTop ? root.shape : number_of(at(level).node->inputs[0]->shape, tape_.shapes);
  }

  // Is e part of the kernel of its readers?
  bool joins(int32_t i, const Tape::Entry& e) {
    const Tape::Entry& root = at(e.reader_group);
    const int32_t level = e.reader_level;
    if (level != Tape::kTop && at(level).role == Role::view && at(level).inputs[0] == i)
      return true;  // the view joined because of it
    const bool fused = root.role == Role::elementwise || root.role == Role::reduce;
    const bool kept = e.needed && (level != Tape::kTop || root.role == Role::reduce);
    if (e.node->stream.device != root.node->stream.device) return false;
    if (!fused || kept || root.size >= kMaxInstructions || e.shape != shape_at(level, root)) return false;
    switch (e.role) {
      case Role::elementwise: return true;
      case Role::reduce: return !e.needed && root.role == Role::elementwise && root.reduce < 0;
      case Role::view: {
        const int32_t below = source_of(i);
        if (below < 0) return false;
        const Tape::Entry& in = at(below);
        return in.role == Role::elementwise ||
               (root.role == Role::elementwise && root.reduce < 0 && in.node->size == e.node->size);
      }
      default: return false;
    }
  }
  // The elementwise node or reduction that view i rearranges and that nothing else reads, or -1. Views that
  // repeat elements do not count: they are better computed once.
  int32_t source_of(int32_t i) {
    while (at(i).role == Role::view) {
      const Tape::Entry& view = at(i);
      const int32_t below = view.inputs[0];
      if (view.needed || below < 0 || !static_cast<const ViewPrimitive*>(view.node->primitive)->rearranges())
        return -1;
      const Tape::Entry& in = at(below);
      if (in.readers != 1 || in.needed || in.same >= 0 || view.node->size > in.node->size ||
          in.node->stream.device != view.node->stream.device)
        return -1;
      i = below;
    }
    return at(i).role == Role::elementwise || at(i).role == Role::reduce ? i : -1;
  }

  // Is e better computed in both of the groups that read it?
  bool inlines(const Tape::Entry& e) {
    const Node* n = e.node;
    if (e.role != Role::elementwise || e.needed || !e.few || !options_.cheap || !options_.cheap(*n))
      return false;
    for (auto [group, level] : {std::pair(e.reader_group, e.reader_level), {e.other_group, e.other_level}}) {
      const Tape::Entry& root = at(group);
      if ((root.role != Role::elementwise && root.role != Role::reduce) || root.size >= kMaxInstructions ||
          root.node->stream.device != n->stream.device || e.shape != shape_at(level, root))
        return false;
    }
    // Bytes of an element: a kernel for e reads its inputs and writes it, and both groups read it.
    int64_t own = 3 * n->dtype.size(), inlined = 0;
    for (uint32_t k = 0; k < n->num_inputs; ++k) {
      const Node* in = n->inputs[k];
      const int32_t mark = e.inputs[k];
      if (mark >= 0 && at(mark).shape == e.shape && !is_in_memory(at(mark))) return false;
      if (in->size != n->size) continue;  // repeated: costs nothing
      const int64_t bytes = in->dtype.size();
      own += bytes;
      for (int32_t group : {e.reader_group, e.other_group})
        if (mark < 0 || (at(mark).reader_group != group && at(mark).other_group != group)) inlined += bytes;
    }
    constexpr int64_t kSmall = 1 << 16;  // elements: a kernel costs more than what it moves
    return inlined <= own || n->size <= kSmall;
  }
  // Will a node have memory of its own, whoever reads it? One that could be part of a group may not.
  bool is_in_memory(const Tape::Entry& e) const {
    if (e.needed || e.reader_group == kSeveral) return true;
    return e.role == Role::kernel || e.role == Role::pick || e.role == Role::pass;
  }

  void join(int32_t i, Tape::Entry& e) {
    Tape::Entry& root = at(e.reader_group);
    e.group = e.reader_group;
    e.level = e.reader_level;
    e.prologue = root.reduce >= 0 && reads_through(e.level, root.reduce);
    if (e.role == Role::reduce) root.reduce = i;
    if (e.role == Role::view && !e.prologue)  // keeps the place for a reduction below
      if (const int32_t below = source_of(i); at(below).role == Role::reduce) root.reduce = below;
    add_member(root, i, e);
    read_inputs(e, e.group, e.role == Role::elementwise ? e.level : i);
  }
  bool reads_through(int32_t level, int32_t reduce) {
    for (; level != Tape::kTop; level = at(level).level)
      if (level == reduce) return true;
    return false;
  }

  void add_member(Tape::Entry& root, int32_t i, Tape::Entry& e) {
    e.next = root.first;
    root.first = i;
    ++root.size;
  }

  template <class F>
  void each_input(const Tape::Entry& e, F f) {
    if (e.few) {
      for (int32_t mark : e.inputs)
        if (mark >= 0) f(at(mark));
    } else {
      for (uint32_t k = 0; k < e.node->num_inputs; ++k)
        if (Node* in = e.node->inputs[k]; in->epoch == epoch()) f(at(in->mark));
    }
  }
  uint32_t epoch() const { return entries_.back().node->epoch; }

  void read_inputs(const Tape::Entry& e, int32_t group, int32_t level) {
    each_input(e, [&](Tape::Entry& in) {
      if (in.reader_group == kSeveral || (in.reader_group == group && in.reader_level == level)) return;
      if (in.reader_group == kNone) {
        in.reader_group = group;
        in.reader_level = level;
      } else if (in.other_group == kNone) {
        in.other_group = group;
        in.other_level = level;
      } else if (in.other_group != group || in.other_level != level) {
        in.reader_group = kSeveral;
      }
    });
  }
  void unread_inputs(const Tape::Entry& e) {
    each_input(e, [](Tape::Entry& in) { --in.readers; });
  }

  Tape& tape_;
  std::vector<Tape::Entry>& entries_;
  const ScheduleOptions& options_;
};

}  // namespace

void schedule(const std::vector<Node*>& outputs, uint32_t epoch, const ScheduleOptions& options, Tape& tape) {
  tape.entries.clear();
  tape.stack.clear();
  tape.shapes.clear();
  tape.like.clear();
  tape.known.assign(kKnown, -1);
  walk(outputs, epoch, tape);
  for (auto& e : tape.entries) e.needed = e.refs > static_cast<uint32_t>(e.readers);
  for (Node* out : outputs)
    if (out->epoch == epoch) tape.entries[static_cast<size_t>(out->mark)].needed = true;
  Grouping(tape, options).run();
}

}  // namespace lazuli
