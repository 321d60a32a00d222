#include "backend/cpu/tile.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "backend/cpu/copy.h"
#include "backend/cpu/elementwise.h"

namespace lazuli::cpu {

namespace {

constexpr int64_t kBudget = 24 * 1024;  // bytes of registers that stay in L1 beside the streams
constexpr int64_t kMostLanes = 4096, kMostStreamedLanes = 512, kLeastLanes = 128;
// Large inputs are fetched while the tile before is computed, if that takes several steps. Of shorter
// Programs the hardware does this itself: gelu 12% faster, x * y + x 25% slower.
constexpr int64_t kFetchedBytes = 1 << 18;
constexpr size_t kFetchedSteps = 3;
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
  bool past_cache;
  int slot;  // register for what is cast and then stored past the cache
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

// What one pass over a tile does: an instruction, or two that are arithmetic.
struct Operation {
  TileFn run;
  bool takes_repeated;
  uint8_t arity;
  uint16_t args[3];
  uint16_t result;
  Dtype dtype = float32;  // of the result
};

TileKernel kernel_of(const Program& program, const Instruction& ins) {
  if (ins.op != kCastOp) return elementwise_kernel(ins.op, ins.lane);
  const size_t num_inputs = program.inputs.size();
  const uint16_t from = ins.args[0];
  auto in_lane = [](Dtype t) { return is_half(t) ? float32 : t; };
  return {
      cast_kernel(in_lane(from < num_inputs ? program.inputs[from] : program.code[from - num_inputs].dtype),
                  in_lane(ins.dtype)),
      false};
}

// The Program's instructions, with arithmetic that only one other arithmetic instruction reads drawn into
// that.
std::vector<Operation> operations_of(const Program& program) {
  const size_t num_inputs = program.inputs.size(), size = program.code.size();
  std::vector<int> readers(num_inputs + size, 0);
  for (auto& ins : program.code)
    for (int a = 0; a < ins.arity; ++a) ++readers[ins.args[a]];
  for (auto& o : program.outputs) readers[o.value] += 2;  // stays a value of its own

  enum : uint8_t { plain, drawn_in, pair };
  std::vector<uint8_t> kind(size, plain);
  std::vector<Operation> found(size);
  for (size_t k = 0; k < size; ++k) {
    const Instruction& ins = program.code[k];
    const TileKernel kernel = kernel_of(program, ins);
    found[k] = {kernel.run,
                kernel.takes_repeated,
                ins.arity,
                {ins.args[0], ins.args[1], ins.args[2]},
                static_cast<uint16_t>(num_inputs + k),
                ins.dtype};
    if (ins.arity != 2 || ins.dtype != float32) continue;
    for (int side = 0; side < 2 && kind[k] == plain; ++side) {
      const uint16_t v = ins.args[side];
      if (v < num_inputs || readers[v] != 1) continue;
      const size_t first = v - num_inputs;
      const Instruction& before = program.code[first];
      if (kind[first] != plain || before.arity != 2 || before.dtype != float32) continue;
      TileFn run = pair_kernel(before.op, ins.op, side == 0);
      if (!run) continue;
      kind[first] = drawn_in;
      kind[k] = pair;
      found[k].run = run;
      found[k].takes_repeated = true;
      found[k].arity = 3;
      std::copy(before.args, before.args + 2, found[k].args);
      found[k].args[2] = ins.args[1 - side];
    }
  }
  size_t kept = 0;
  for (size_t k = 0; k < size; ++k)
    if (kind[k] != drawn_in) found[kept++] = found[k];
  found.resize(kept);
  return found;
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
  int slots = 0;
  int64_t slot_bytes = 0;
  int64_t size = 1, tile = 0;
  int64_t row = 0;  // extent of the innermost collapsed dimension, 0 if all direct
  bool has_strided = false;
  std::vector<size_t> streamed;  // inputs too large for the cache that are read in order: fetched ahead
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
  ~Context() {
    flush_stores();
    spares().push_back({memory, bytes});
  }

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

TileRunner::TileRunner(const Program& program, const Shape& space, std::span<const Operand> in,
                       std::span<const Operand> out)
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

  std::vector<Operation> operations = operations_of(program);
  for (size_t i = 0; i < num_inputs && operations.size() >= kFetchedSteps; ++i)
    if (m.inputs[i].kind == Input::direct && m.size * in[i].dtype.size() >= kFetchedBytes)
      m.streamed.push_back(i);
  std::vector<uint8_t> outside(m.values, 0);
  for (auto& o : program.outputs) outside[o.value] = 1;
  int widest = 1;
  for (auto& i : m.inputs) widest = std::max(widest, i.lane_bytes);
  for (auto& i : program.code) widest = std::max(widest, lane_size(i.result));

  for (size_t i = 0; i < num_inputs; ++i) {
    Input& input = m.inputs[i];
    if (input.half) input.convert = cast_kernel(in[i].dtype, float32);
    if (input.kind == Input::strided) input.raw_slot = m.slots++;
    if (input.kind == Input::scalar || input.half) input.slot = m.slots++;
  }

  // Instructions, with the register of each result freed after its last reader.
  std::vector<int> last_use(m.values, -1);
  std::vector<uint8_t> read_inside(m.values, 0);
  const int count = static_cast<int>(operations.size());
  for (int k = 0; k < count; ++k) {
    const Operation& op = operations[static_cast<size_t>(k)];
    for (int a = 0; a < op.arity; ++a) {
      last_use[op.args[a]] = k;
      read_inside[op.args[a]] = 1;
      if (!op.takes_repeated && op.args[a] < num_inputs) m.inputs[op.args[a]].filled = true;
    }
  }
  for (auto& o : program.outputs) last_use[o.value] = count;
  m.slot_of.assign(program.code.size(), -1);
  std::vector<int> free_slots;
  for (int k = 0; k < count; ++k) {
    const Operation& op = operations[static_cast<size_t>(k)];
    Step step{};
    step.run = op.run;
    step.arity = op.arity;
    step.result = op.result;
    step.to_output = -1;
    std::copy(op.args, op.args + 3, step.args);
    if (is_half(op.dtype)) step.round = round_kernel(op.dtype);
    // Rounded values that only leave as a half of the same type are rounded by the store.
    step.store_rounds = outside[op.result] && !read_inside[op.result];

    // In place over an operand of the same width that dies here.
    int result_bytes = lane_size(program.lane(op.result)), slot = -1;
    for (int a = 0; a < op.arity; ++a) {
      uint16_t v = op.args[a];
      bool again = std::count(op.args, op.args + a, v) > 0;
      if (again || v < num_inputs || last_use[v] != k) continue;
      int dead = m.slot_of[v - num_inputs];
      if (slot < 0 && lane_size(program.lane(v)) == result_bytes)
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
    m.slot_of[op.result - num_inputs] = slot;
    m.steps.push_back(step);
  }

  // Stores. The last instruction may write its output directly, unless that goes past the cache.
  for (size_t o = 0; o < program.outputs.size(); ++o) {
    const auto& to = program.outputs[o];
    bool past_cache = !out.empty() && out[o].size * out[o].dtype.size() >= kStreamBytes &&
                      std::none_of(in.begin(), in.end(), [&](auto& i) { return i.data == out[o].data; });
    bool direct = !past_cache && !m.steps.empty() && to.value == m.steps.back().result &&
                  !is_half(to.dtype) && m.steps.back().to_output < 0 && !m.steps.back().round;
    if (direct) {
      m.steps.back().to_output = static_cast<int>(o);
      continue;
    }
    if (to.value < num_inputs) m.inputs[to.value].filled = true;
    Store store{to.value, static_cast<int>(o), nullptr, to.dtype.size(), past_cache, -1};
    if (is_half(to.dtype)) {
      store.cast = cast_kernel(float32, to.dtype);
      if (past_cache) store.slot = m.slots++;
    }
    m.stores.push_back(store);
  }
  if (!program.outputs.empty()) {
    m.first_output = program.outputs[0].value;
    if (m.first_output < num_inputs) m.inputs[m.first_output].filled = true;
  }

  // Short tiles where stores go past the cache: memory takes one tile in while the next is computed.
  const bool past_cache = std::any_of(m.stores.begin(), m.stores.end(), [](auto& s) { return s.past_cache; });
  int64_t lanes = std::clamp(kBudget / (std::max(m.slots, 2) * int64_t{widest}), kLeastLanes,
                             past_cache ? kMostStreamedLanes : kMostLanes);
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
  for (size_t k = 0; k < m.slot_of.size(); ++k)
    if (m.slot_of[k] >= 0) c->values[m.inputs.size() + k] = {slot(m.slot_of[k]), 1};
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
  // Memory works on the next tile while this one is computed: each step asks for a part of it.
  const int64_t ahead = std::min(n, m.size - begin - n), steps = static_cast<int64_t>(m.steps.size());
  for (int64_t k = 0; k < steps; ++k) {
    const Step& s = m.steps[static_cast<size_t>(k)];
    for (size_t i : m.streamed) {
      const int64_t item = m.operands[i].dtype.size();
      const char* next = static_cast<const char*>(m.operands[i].data) + (begin + n) * item;
      for (int64_t at = ahead * k / steps * item; at < ahead * (k + 1) / steps * item; at += 64)
        __builtin_prefetch(next + at);
    }
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
    const void* from = c.values[s.value].p;
    if (s.cast) {
      void* to = s.past_cache ? slot(s.slot) : outs[s.output];
      s.cast(to, &c.values[s.value], n);
      from = to;
    }
    if (s.past_cache)
      store_past_cache(outs[s.output], from, n * s.bytes);
    else if (!s.cast)
      std::memmove(outs[s.output], c.values[s.value].p, static_cast<size_t>(n * s.bytes));
  }
}

const void* TileRunner::values(Context& c, int64_t begin, int64_t n) const {
  run(c, begin, n, nullptr);
  const Arg& value = c.values[impl_->first_output];
  return value.p;
}

}  // namespace lazuli::cpu
