// The Programs of one group: what its kernel computes, from the members that `schedule` put together.
//
//     fusion.build(tape, group);
//     fusion.after.program;          // elementwise work; its inputs are after.leaves
//     fusion.before.program;         // what the reduction reads, if fusion.reduce is not null
//
// A group without a reduction has only `after`, one whose root is a reduction only `before`.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/program.h"
#include "graph/schedule.h"

namespace lazuli {

class Fusion {
 public:
  // An input of a Program: a node and the level of the tape at which the group reads it.
  struct Leaf {
    detail::Node* node;
    int32_t level;
    uint32_t slots;  // how many input slots of members read it
  };
  // Elementwise members on one side of the reduction, in order.
  struct Side {
    Program program;
    std::vector<Leaf> leaves;
    std::vector<detail::Node*> members;
  };

  void build(const Tape& tape, int32_t group);
  // The value of a node on its side's Program.
  uint16_t value(const detail::Node* n) const { return value_of_[static_cast<size_t>(n->mark - base_)]; }

  Side before, after;
  detail::Node* reduce = nullptr;
  uint16_t reduced = 0;   // value of `before` that the reduction takes
  bool retained = false;  // some member belongs to a living trace: its inputs must stay as they are

 private:
  uint16_t leaf(Side& side, detail::Node* n, int32_t level, uint32_t slots);
  uint16_t number(Side& side, const Instruction& ins);

  std::vector<uint16_t> value_of_;  // by tape index minus base_
  int32_t base_ = 0;
  // Hash table of the instructions of the current Programs.
  static constexpr uint32_t kTable = 512;
  static_assert(kTable >= 4 * kMaxInstructions);
  struct Known {
    uint64_t program = 0;
    uint16_t instruction = 0;
  };
  Known known_[kTable];
  uint64_t programs_ = 0;
};

}  // namespace lazuli
