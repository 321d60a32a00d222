#include "backend/cpu/tile.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "backend/cpu/copy.h"
#include "backend/cpu/elementwise.h"

namespace lazuli::cpu {

namespace {

constexpr int64_t kBudget = 24 * 1024;  // bytes of registers that stay in L1 beside the streams
constexpr int64_t kMostLanes = 4096, kLeastLanes = 128;
constexpr int64_t kRepeat = 64;  // bytes of a repeated value: the widest SIMD vector

// Splits the space of an operand into rows of `inner` elements of one stride.
struct Input {
  enum Kind : uint8_t { direct, scalar, strided };
  Kind kind;
  bool half;            // float16 or bfloat16: converted to f32 lanes when loaded
  bool filled = false;  // some reader needs step 1
  int lane_bytes;
  int raw_slot = -1, slot = -1;  // registers for gathered and for converted elements
  TileFn convert = nullptr;
};

struct Step {
  TileFn run;
  TileFn round;       // after it, for halves
  bool store_rounds;  // nothing but a store of the same half type reads it
  uint8_t arity;
  uint16_t args[3];
  uint16_t result;  // value
  int to_output;    // index of the output this instruction writes directly, or -1
};

struct Store {
  uint16_t value;
  int output;
  TileFn cast;  // null: plain copy
  int bytes;    // of a stored element
};

bool is_half(Dtype t) { return t == float16 || t == bfloat16; }

void repeat(void* to, const void* from, int bytes, int64_t count) {
  char* p = static_cast<char*>(to);
  switch (bytes) {
    case 1: std::memset(p, *static_cast<const char*>(from), static_cast<size_t>(count)); return;
    case 2: std::fill_n(reinterpret_cast<uint16_t*>(p), count, *static_cast<const uint16_t*>(from)); return;
    case 4: std::fill_n(reinterpret_cast<uint32_t*>(p), count, *static_cast<const uint32_t*>(from)); return;
    default: std::fill_n(reinterpret_cast<uint64_t*>(p), count, *static_cast<const uint64_t*>(from)); return;
  }
}

}  // namespace

struct TileRunner::Impl {
  std::vector<Operand> operands;  // with dimensions collapsed
  std::vector<Input> inputs;
  std::vector<Step> steps;
  std::vector<Store> stores;
  std::vector<int> slot_of;  // of instruction results
  size_t values = 0;
  uint16_t first_output = 0;
  TileFn round_first = nullptr;  // of a half that run() leaves to the store to round
  int slots = 0;
  int64_t slot_bytes = 0;
  int64_t size = 1, tile = 0;
  int64_t row = 0;  // extent of the innermost collapsed dimension, 0 if all direct
  bool has_strided = false;
};

// Registers, constants, and the current pointer of every value.
class TileRunner::Context {
 public:
  std::vector<Arg> values;
  char* memory = nullptr;
  size_t bytes = 0;
  explicit Context(size_t n) : bytes(n) {
    auto& spare = spares();
    if (!spare.empty() && spare.back().second >= n) {
      std::tie(memory, bytes) = spare.back();
      spare.pop_back();
    } else {
      bytes = std::max<size_t>(n, 64 * 1024);
      memory = static_cast<char*>(::operator new (bytes, std::align_val_t{64}));
    }
  }
  ~Context() { spares().push_back({memory, bytes}); }

 private:
  struct Spares : std::vector<std::pair<char*, size_t>> {
    ~Spares() {
      for (auto& [p, n] : *this) ::operator delete (p, std::align_val_t{64});
    }
  };
  static Spares& spares() {
    static thread_local Spares s;
    return s;
  }
};

TileRunner::TileRunner(const Program& program, const Shape& space, std::span<const Operand> in)
    : impl_(std::make_unique<Impl>()) {
  Impl& m = *impl_;
  for (int64_t d : space) m.size *= d;
  const size_t num_inputs = in.size();
  m.values = num_inputs + program.code.size();

  // Collapse dimensions that every strided operand walks as one.
  m.operands.assign(in.begin(), in.end());
  m.inputs.resize(num_inputs);
  std::vector<size_t> strided;
  for (size_t i = 0; i < num_inputs; ++i) {
    Input& input = m.inputs[i];
    const Operand& o = in[i];
    input.half = is_half(o.dtype);
    input.lane_bytes = lane_size(lane_of(o.dtype));
    bool repeats = true;
    for (size_t k = 0; k < space.size(); ++k) repeats &= space[k] == 1 || o.strides[k] == 0;
    input.kind = repeats ? Input::scalar : o.row_contiguous ? Input::direct : Input::strided;
    if (input.kind == Input::strided) strided.push_back(i);
  }
  m.has_strided = !strided.empty();
  if (m.has_strided) {
    Shape shape;
    std::vector<Strides> strides(strided.size());
    for (size_t k = 0; k < space.size(); ++k) {
      if (space[k] == 1) continue;
      bool merge = !shape.empty();
      for (size_t j = 0; j < strided.size() && merge; ++j)
        merge = strides[j].back() == in[strided[j]].strides[k] * space[k];
      if (merge) {
        shape.back() *= space[k];
        for (size_t j = 0; j < strided.size(); ++j) strides[j].back() = in[strided[j]].strides[k];
      } else {
        shape.push_back(space[k]);
        for (size_t j = 0; j < strided.size(); ++j) strides[j].push_back(in[strided[j]].strides[k]);
      }
    }
    for (size_t j = 0; j < strided.size(); ++j) {
      m.operands[strided[j]].shape = shape;
      m.operands[strided[j]].strides = strides[j];
    }
    m.row = shape.empty() ? 1 : shape.back();
  }

  // Instructions, with the register of each result freed after its last reader.
  std::vector<int> last_use(m.values, -1);
  std::vector<uint8_t> outside(m.values, 0);
  int code_size = static_cast<int>(program.code.size());
  for (int k = 0; k < code_size; ++k)
    for (int a = 0; a < program.code[static_cast<size_t>(k)].arity; ++a)
      last_use[program.code[static_cast<size_t>(k)].args[a]] = k;
  for (auto& o : program.outputs) {
    last_use[o.value] = code_size;
    outside[o.value] = 1;
  }
  int widest = 1;
  for (auto& i : m.inputs) widest = std::max(widest, i.lane_bytes);
  for (auto& i : program.code) widest = std::max(widest, lane_size(i.result));

  for (auto& input : m.inputs) {
    if (input.half) input.convert = nullptr;
    if (input.kind == Input::direct && input.half) input.slot = m.slots++;
    if (input.kind == Input::strided) {
      input.raw_slot = m.slots++;
      if (input.half) input.slot = m.slots++;
    }
    if (input.kind == Input::scalar) input.slot = m.slots++;
  }
  for (size_t i = 0; i < num_inputs; ++i)
    if (m.inputs[i].half) m.inputs[i].convert = cast_kernel(in[i].dtype, float32);

  m.slot_of.assign(program.code.size(), -1);
  std::vector<int> free_slots;
  // Rounded values that only leave as a half of the same type are rounded by the store.
  std::vector<uint8_t> read_inside(m.values, 0);
  for (auto& ins : program.code)
    for (int a = 0; a < ins.arity; ++a) read_inside[ins.args[a]] = 1;
  for (int k = 0; k < code_size; ++k) {
    const Instruction& ins = program.code[static_cast<size_t>(k)];
    uint16_t value = static_cast<uint16_t>(num_inputs + static_cast<size_t>(k));
    Step step{};
    step.arity = ins.arity;
    step.result = value;
    step.to_output = -1;
    std::copy(ins.args, ins.args + 3, step.args);
    bool takes_repeated = false;
    if (ins.op == kCastOp) {
      Dtype from =
          ins.args[0] < num_inputs ? in[ins.args[0]].dtype : program.code[ins.args[0] - num_inputs].dtype;
      auto lane_dtype = [](Dtype t) { return is_half(t) ? float32 : t; };
      step.run = cast_kernel(lane_dtype(from), lane_dtype(ins.dtype));
    } else {
      TileKernel kernel = elementwise_kernel(ins.op, ins.lane);
      step.run = kernel.run;
      takes_repeated = kernel.takes_repeated;
    }
    if (is_half(ins.dtype)) step.round = round_kernel(ins.dtype);
    step.store_rounds = outside[value] && !read_inside[value];
    if (!takes_repeated)
      for (int a = 0; a < ins.arity; ++a)
        if (ins.args[a] < num_inputs) m.inputs[ins.args[a]].filled = true;

    // In place over an operand of the same width that dies here.
    int result_bytes = lane_size(ins.result), slot = -1;
    for (int a = 0; a < ins.arity; ++a) {
      uint16_t v = ins.args[a];
      bool again = false;
      for (int b = 0; b < a; ++b) again |= ins.args[b] == v;
      if (again || v < num_inputs || last_use[v] != k) continue;
      int dead = m.slot_of[v - num_inputs];
      if (slot < 0 && lane_size(program.code[v - num_inputs].result) == result_bytes)
        slot = dead;
      else if (dead >= 0)
        free_slots.push_back(~dead);  // usable after this instruction
    }
    if (slot < 0) {
      auto it = std::find_if(free_slots.begin(), free_slots.end(), [](int s) { return s >= 0; });
      if (it != free_slots.end()) {
        slot = *it;
        free_slots.erase(it);
      } else {
        slot = m.slots++;
      }
    }
    for (int& s : free_slots) s = s < 0 ? ~s : s;
    m.slot_of[static_cast<size_t>(k)] = slot;
    m.steps.push_back(step);
  }

  // Stores. The last instruction may write its output directly.
  for (size_t o = 0; o < program.outputs.size(); ++o) {
    const auto& out = program.outputs[o];
    bool direct = !m.steps.empty() && out.value == m.steps.back().result && !is_half(out.dtype) &&
                  m.steps.back().to_output < 0 && !m.steps.back().round;
    if (direct) {
      m.steps.back().to_output = static_cast<int>(o);
      continue;
    }
    if (out.value < num_inputs) m.inputs[out.value].filled = true;
    m.stores.push_back({out.value, static_cast<int>(o),
                        is_half(out.dtype) ? cast_kernel(float32, out.dtype) : nullptr, out.dtype.size()});
  }
  if (!program.outputs.empty()) {
    m.first_output = program.outputs[0].value;
    if (m.first_output < num_inputs) {
      m.inputs[m.first_output].filled = true;
    } else if (size_t last = m.first_output - num_inputs; !m.steps[last].round) {
      Dtype dtype = program.code[last].dtype;
      if (is_half(dtype)) m.round_first = round_kernel(dtype);
    }
  }

  int64_t lanes = std::clamp(kBudget / (std::max(m.slots, 2) * int64_t{widest}), kLeastLanes, kMostLanes);
  lanes = lanes / 64 * 64;
  // Tiles that do not cross rows read broadcast and row-contiguous operands in place.
  if (m.has_strided && m.row > 1) {
    if (m.row >= lanes) {
      int64_t pieces = (m.row + lanes - 1) / lanes;
      int64_t piece = (m.row + pieces - 1) / pieces;
      if (m.row % piece == 0)
        lanes = piece;
      else
        for (int64_t p = pieces; p <= 2 * pieces; ++p)
          if (m.row % p == 0) {
            lanes = m.row / p;
            break;
          }
    } else if (m.row >= lanes / 4) {
      lanes = m.row;
    } else {
      lanes = lanes / m.row * m.row;
    }
  }
  m.tile = std::max<int64_t>(1, lanes);
  m.slot_bytes = (std::min(m.tile, std::max<int64_t>(m.size, 1)) * widest + kRepeat + 63) / 64 * 64;
}

TileRunner::~TileRunner() = default;
int64_t TileRunner::size() const { return impl_->size; }
int64_t TileRunner::tile_size() const { return impl_->tile; }

void TileRunner::FreeContext::operator()(Context* c) const { delete c; }

std::unique_ptr<TileRunner::Context, TileRunner::FreeContext> TileRunner::context() const {
  const Impl& m = *impl_;
  std::unique_ptr<Context, FreeContext> c(new Context(static_cast<size_t>(m.slots * m.slot_bytes)));
  c->values.resize(m.values);
  auto slot = [&](int s) { return c->memory + s * m.slot_bytes; };
  for (size_t i = 0; i < m.inputs.size(); ++i) {
    const Input& input = m.inputs[i];
    if (input.kind != Input::scalar) continue;
    if (m.size == 0) continue;
    alignas(8) char one[8];
    const void* value = m.operands[i].data;
    if (input.half) {
      Arg arg{value, 1};
      input.convert(one, &arg, 1);
      value = one;
    }
    int64_t count = input.filled ? std::min(m.tile, m.size) : kRepeat / input.lane_bytes;
    repeat(slot(input.slot), value, input.lane_bytes, count);
    c->values[i] = {slot(input.slot), input.filled ? 1 : 0};
  }
  for (size_t k = 0; k < m.slot_of.size(); ++k) c->values[m.inputs.size() + k] = {slot(m.slot_of[k]), 1};
  return c;
}

namespace {

// Points value `v` at elements [begin, begin + n) of operand `o`.
Arg load(const Operand& o, const Input& input, int64_t row, int64_t begin, int64_t n, char* raw,
         char* converted) {
  int item = o.dtype.size();
  const char* data = static_cast<const char*>(o.data);
  const char* p;
  if (input.kind == Input::direct) {
    p = data + begin * item;
  } else {
    int64_t stride = o.strides.empty() ? 0 : o.strides.back();
    int64_t in_row = begin % row;
    if ((stride == 0 || stride == 1) && in_row + n <= row) {
      int64_t offset = in_row * stride, rest = begin / row;
      for (size_t k = o.shape.size() - 1; k-- > 0;) {
        offset += rest % o.shape[k] * o.strides[k];
        rest /= o.shape[k];
      }
      p = data + offset * item;
      if (stride == 0) {
        alignas(8) char one[8];
        if (input.half) {
          Arg arg{p, 1};
          input.convert(one, &arg, 1);
          p = one;
        }
        repeat(raw, p, input.lane_bytes, input.filled ? n : kRepeat / input.lane_bytes);
        return {raw, input.filled ? 1 : 0};
      }
    } else {
      copy_range(o, begin, n, raw);
      p = raw;
    }
  }
  if (input.half) {
    Arg arg{p, 1};
    input.convert(converted, &arg, n);
    p = converted;
  }
  return {p, 1};
}

}  // namespace

void TileRunner::run(Context& c, int64_t begin, int64_t n, void* const* outs) const {
  const Impl& m = *impl_;
  auto slot = [&](int s) { return s < 0 ? nullptr : c.memory + s * m.slot_bytes; };
  for (size_t i = 0; i < m.inputs.size(); ++i) {
    const Input& input = m.inputs[i];
    if (input.kind != Input::scalar)
      c.values[i] = load(m.operands[i], input, m.row, begin, n, slot(input.raw_slot), slot(input.slot));
  }
  for (const Step& s : m.steps) {
    Arg args[3];
    for (int a = 0; a < s.arity; ++a) args[a] = c.values[s.args[a]];
    void* to = s.to_output >= 0 && outs ? outs[s.to_output] : const_cast<void*>(c.values[s.result].p);
    s.run(to, args, n);
    if (s.round && !(outs && s.store_rounds)) {
      Arg arg{to, 1};
      s.round(to, &arg, n);
    }
  }
  if (!outs) return;
  for (const Store& s : m.stores) {
    if (s.cast)
      s.cast(outs[s.output], &c.values[s.value], n);
    else
      std::memmove(outs[s.output], c.values[s.value].p, static_cast<size_t>(n * s.bytes));
  }
}

const void* TileRunner::values(Context& c, int64_t begin, int64_t n) const {
  run(c, begin, n, nullptr);
  const Arg& value = c.values[impl_->first_output];
  if (impl_->round_first) impl_->round_first(const_cast<void*>(value.p), &value, n);
  return value.p;
}

}  // namespace lazuli::cpu
