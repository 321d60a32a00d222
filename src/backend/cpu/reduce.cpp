#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/reduce.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h:
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "backend/cpu/copy.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/extents.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce-inl.h"
#include "backend/cpu/reduce.h"
#include "backend/cpu/tile.h"
#include "core/allocator.h"

#ifndef LAZULI_REDUCE_KERNELS
#define LAZULI_REDUCE_KERNELS
namespace lazuli::cpu {

// The loops of one operation on one lane type; see reduce-inl.h.
struct ReduceKernels {
  int64_t size;   // of an element, in bytes
  int64_t width;  // accumulators of a row
  void (*fill_identity)(void* acc, int64_t n);
  void (*fold_blocks)(const void* x, int64_t blocks, int64_t n, void* out);  // `blocks` runs of n elements
  void (*accumulate)(const void* x, int64_t n, void* acc);
  void (*finish)(void* acc, void* out);
  void (*fold_rows)(void* acc, const void* x, int64_t width, int64_t count, int64_t stride);
};

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace {

template <class Op, class T>
const ReduceKernels* kernels_of() {
  static constexpr ReduceKernels kernels = {
      sizeof(T),
      kWidth<T>,
      [](void* acc, int64_t n) { fill_identity<Op>(static_cast<T*>(acc), n); },
      [](const void* x, int64_t blocks, int64_t n, void* out) {
        fold_blocks<Op>(static_cast<const T*>(x), blocks, n, static_cast<T*>(out));
      },
      [](const void* x, int64_t n, void* acc) {
        accumulate<Op>(static_cast<const T*>(x), n, static_cast<T*>(acc));
      },
      [](void* acc, void* out) { *static_cast<T*>(out) = finish<Op>(static_cast<T*>(acc)); },
      [](void* acc, const void* x, int64_t width, int64_t count, int64_t stride) {
        fold_rows<Op>(static_cast<T*>(acc), static_cast<const T*>(x), width, count, stride);
      }};
  return &kernels;
}

template <class Op>
const ReduceKernels* arithmetic(Lane lane) {
  switch (lane) {
    case Lane::i32:
    case Lane::u32: return kernels_of<Op, uint32_t>();  // the bits of signed arithmetic that wraps around
    case Lane::i64:
    case Lane::u64: return kernels_of<Op, uint64_t>();
    case Lane::f32: return kernels_of<Op, float>();
    case Lane::f64: return kernels_of<Op, double>();
    case Lane::c64: return kernels_of<Op, std::complex<float>>();
    default: return nullptr;
  }
}

template <class Op>
const ReduceKernels* ordering(Lane lane) {
  switch (lane) {
    case Lane::b8:
    case Lane::u8: return kernels_of<Op, uint8_t>();
    case Lane::u16: return kernels_of<Op, uint16_t>();
    case Lane::u32: return kernels_of<Op, uint32_t>();
    case Lane::u64: return kernels_of<Op, uint64_t>();
    case Lane::i8: return kernels_of<Op, int8_t>();
    case Lane::i16: return kernels_of<Op, int16_t>();
    case Lane::i32: return kernels_of<Op, int32_t>();
    case Lane::i64: return kernels_of<Op, int64_t>();
    case Lane::f32: return kernels_of<Op, float>();
    case Lane::f64: return kernels_of<Op, double>();
    case Lane::c64: return kernels_of<Op, std::complex<float>>();
  }
  return nullptr;
}

const ReduceKernels* reduce_kernels(Reduce::Op op, Lane lane) {
  switch (op) {
    case Reduce::all: return lane == Lane::b8 ? kernels_of<All, uint8_t>() : nullptr;
    case Reduce::any: return lane == Lane::b8 ? kernels_of<Max, uint8_t>() : nullptr;
    case Reduce::sum: return arithmetic<Sum>(lane);
    case Reduce::prod: return arithmetic<Product>(lane);
    case Reduce::max: return ordering<Max>(lane);
    case Reduce::min: return ordering<Min>(lane);
  }
  return nullptr;
}

}  // namespace
}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {
HWY_EXPORT(reduce_kernels);

namespace {

using Bytes = std::unique_ptr<char[]>;
Bytes scratch(int64_t bytes) { return std::make_unique_for_overwrite<char[]>(bytes); }

// Where a pass reads: memory, or the values of a Program.
struct Source {
  const char* memory = nullptr;
  const TileRunner* runner = nullptr;
};

// One thread's view of a source.
class Reader {
 public:
  Reader(const Source& source, int64_t element_size) : source_(source), size_(element_size) {
    if (!source.runner) return;
    context_ = source.runner->context();
    // Pieces are cut at multiples of every kWidth.
    tile_ = source.runner->tile_size() / 128 * 128;
    if (tile_ == 0) staged_ = scratch((tile_ = 128) * size_);
  }

  // The elements from `begin` on: all `wanted` of them, or else `got`, a multiple of 128. Evaluates ahead up
  // to `end`, in whole groups of `wanted`.
  const char* read(int64_t begin, int64_t wanted, int64_t end, int64_t& got) {
    got = wanted;
    if (source_.memory) return source_.memory + begin * size_;
    int64_t piece = std::min(wanted, tile_);
    if (begin < begin_ || begin + piece > end_) {
      begin_ = begin;
      end_ = std::min(begin + tile_ / piece * piece, std::max(end, begin + piece));
      values_ = evaluate(begin_, end_ - begin_);
    }
    got = std::min(wanted, end_ - begin);
    return values_ + (begin - begin_) * size_;
  }
  // How many elements from `begin` on are at hand, just behind what was read.
  int64_t ready(int64_t begin, int64_t end) const { return (source_.memory ? end : end_) - begin; }

 private:
  const char* evaluate(int64_t begin, int64_t n) {
    auto values = [&](int64_t from, int64_t count) {
      return static_cast<const char*>(source_.runner->values(*context_, from, count));
    };
    if (!staged_) return values(begin, n);
    const int64_t step = source_.runner->tile_size();
    for (int64_t i = 0; i < n; i += step) {
      int64_t count = std::min(step, n - i);
      std::memcpy(staged_.get() + i * size_, values(begin + i, count), static_cast<size_t>(count * size_));
    }
    return staged_.get();
  }

  const Source& source_;
  const int64_t size_;
  std::unique_ptr<TileRunner::Context, TileRunner::FreeContext> context_;
  Bytes staged_;  // if tiles are smaller than a piece
  int64_t tile_ = 0, begin_ = 0, end_ = 0;
  const char* values_ = nullptr;
};

constexpr int64_t kGrain = 1 << 15;        // elements that are worth a thread
constexpr int64_t kRowBlock = 1024;        // elements folded into one set of row accumulators
constexpr int64_t kColumnBlock = 64;       // elements folded into one column accumulator
constexpr int64_t kColumnBytes = 1 << 14;  // accumulators of a column tile: a part of L1

// partials[outer][blocks][inner] -> out[outer][inner], folding the blocks in halves.
void fold_partials(const ReduceKernels& k, char* partials, int64_t outer, int64_t blocks, int64_t inner,
                   char* out) {
  int64_t piece = std::min<int64_t>(inner, 1024), pieces = (inner + piece - 1) / piece;
  int64_t grain = std::max<int64_t>(1, kGrain / (blocks * piece));
  parallel_for(outer * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      int64_t o = u / pieces, column = u % pieces * piece, width = std::min(piece, inner - column);
      char* base = partials + (o * blocks * inner + column) * k.size;
      for (int64_t n = blocks; n > 1;) {
        int64_t half = (n + 1) / 2;
        if (inner == 1) {
          k.fold_rows(base, base + half * k.size, n - half, 1, 0);
        } else {
          for (int64_t j = 0; j < n - half; ++j)
            k.fold_rows(base + j * inner * k.size, base + (j + half) * inner * k.size, width, 1, 0);
        }
        n = half;
      }
      std::memcpy(out + (o * inner + column) * k.size, base, width * k.size);
    }
  });
}

// inner == 1. Blocks of kRowBlock elements, then the blocks.
void reduce_rows(const ReduceKernels& k, const Source& source, int64_t outer, int64_t n, char* out) {
  int64_t blocks = (n + kRowBlock - 1) / kRowBlock;
  Bytes partials;
  if (blocks > 1) partials = scratch(outer * blocks * k.size);
  char* target = blocks > 1 ? partials.get() : out;
  int64_t grain = std::max<int64_t>(1, kGrain / std::min(n, kRowBlock));
  parallel_for(outer * blocks, grain, [&](int64_t begin, int64_t end) {
    Reader reader(source, k.size);
    alignas(64) char acc[128];
    const int64_t stop =
        end / blocks * n + end % blocks * kRowBlock;  // units follow one another in the source
    for (int64_t u = begin; u < end;) {
      int64_t start = u / blocks * n + u % blocks * kRowBlock;
      int64_t length = std::min(kRowBlock, n - u % blocks * kRowBlock), got;
      const char* x = reader.read(start, length, stop, got);
      if (got == length) {
        int64_t rows = blocks == 1 ? 1 + reader.ready(start + n, stop) / n : 1;
        k.fold_blocks(x, rows, length, target + u * k.size);
        u += rows;
        continue;
      }
      k.fill_identity(acc, k.width);
      for (int64_t at = 0; at < length; at += got) {
        if (at > 0) x = reader.read(start + at, length - at, start + length, got);
        k.accumulate(x, got, acc);
      }
      k.finish(acc, target + u * k.size);
      ++u;
    }
  });
  if (blocks > 1) fold_partials(k, partials.get(), outer, blocks, 1, out);
}

// Folds the middle extent; inner > 1. Accumulators lie side by side like the columns. Where there are few
// columns, `folds` rows make one wide row first.
void reduce_columns(const ReduceKernels& k, const Source& source, const Extents& e, char* out) {
  const auto [outer, n, inner] = e;
  int64_t folds = std::max<int64_t>(1, std::min(64 / inner, n / 8));
  int64_t block = kColumnBlock * folds, blocks = (n + block - 1) / block;
  int64_t tile = std::min(inner, kColumnBytes / k.size), tiles = (inner + tile - 1) / tile;
  Bytes partials;
  if (blocks > 1) partials = scratch(outer * blocks * inner * k.size);
  char* target = blocks > 1 ? partials.get() : out;
  int64_t grain = std::max<int64_t>(1, kGrain / (std::min(block, n) * tile));
  parallel_for(outer * blocks * tiles, grain, [&](int64_t begin, int64_t end) {
    Reader reader(source, k.size);
    Bytes wide;
    if (folds > 1) wide = scratch(folds * inner * k.size);
    for (int64_t u = begin; u < end; ++u) {
      int64_t o = u / tiles / blocks, b = u / tiles % blocks, column = u % tiles * tile;
      int64_t width = std::min(tile, inner - column), rows = std::min(block, n - b * block);
      int64_t start = (o * n + b * block) * inner + column;
      char* result = target + ((o * blocks + b) * inner + column) * k.size;
      char* acc = folds > 1 ? wide.get() : result;
      int64_t span = folds * width, got;
      k.fill_identity(acc, span);
      if (tiles > 1 && source.memory) {
        k.fold_rows(acc, source.memory + start * k.size, width, rows, inner);
      } else if (tiles > 1) {
        for (int64_t r = 0; r < rows; ++r) {
          int64_t from = start + r * inner;
          for (int64_t at = 0; at < width; at += got) {
            const char* x = reader.read(from + at, width - at, from + width, got);
            k.fold_rows(acc + at * k.size, x, got, 1, 0);
          }
        }
      } else {
        // One run of memory; `at` is where in the accumulators the next element belongs.
        int64_t length = rows * inner, at = 0;
        const int64_t ahead = (end / blocks * n + end % blocks * block) * inner;  // where the last unit ends
        for (int64_t i = 0; i < length; i += got) {
          const char* x = reader.read(start + i, length - i, i == 0 ? ahead : start + length, got);
          for (int64_t done = 0; done < got;) {
            if (at == 0 && got - done >= span) {
              int64_t whole = (got - done) / span;
              k.fold_rows(acc, x + done * k.size, span, whole, span);
              done += whole * span;
            } else {
              int64_t part = std::min(span - at, got - done);
              k.fold_rows(acc + at * k.size, x + done * k.size, part, 1, 0);
              at = (at + part) % span;
              done += part;
            }
          }
        }
      }
      if (folds > 1) {
        k.fold_rows(acc, acc + inner * k.size, inner, folds - 1, inner);
        std::memcpy(result, acc, inner * k.size);
      }
    }
  });
  if (blocks > 1) fold_partials(k, partials.get(), outer, blocks, inner, out);
}

struct Group {
  int64_t extent;
  bool reduced;
};

// The axes of `space`, neighbours of one kind merged.
std::vector<Group> groups_of(const Shape& space, const std::vector<int>& axes) {
  std::vector<Group> groups;
  for (size_t i = 0; i < space.size(); ++i) {
    if (space[i] == 1) continue;
    bool reduced = std::binary_search(axes.begin(), axes.end(), static_cast<int>(i));
    if (!groups.empty() && groups.back().reduced == reduced)
      groups.back().extent *= space[i];
    else
      groups.push_back({space[i], reduced});
  }
  return groups;
}

// Do neighbours in the order of the sum lie in different cache lines? Then a blocked transposition comes
// first.
bool walks_badly(const Operand& in, const Shape& space) {
  if (in.row_contiguous || in.size < kGrain) return false;
  for (size_t i = space.size(); i-- > 0;)
    if (space[i] > 1) return std::abs(in.strides[i]) * in.dtype.size() >= 64;
  return false;
}

}  // namespace

void run_reduce(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
                const Operand& out) {
  if (out.size == 0) return;
  const uint16_t value = program.outputs[0].value;
  const Lane lane = program.lane(value);
  const ReduceKernels* found = HWY_DYNAMIC_DISPATCH(reduce_kernels)(reduce.op, lane);
  if (!found)
    throw std::logic_error("[" + std::string(reduce.name()) + "] no kernel for " +
                           std::string(dtype_name(program.outputs[0].dtype)));
  const ReduceKernels& k = *found;
  const bool half = out.dtype == float16 || out.dtype == bfloat16;
  Bytes lanes;  // the result before it is rounded to half precision
  if (half) lanes = scratch(out.size * k.size);
  char* result = half ? lanes.get() : static_cast<char*>(out.data);

  if (size_of(space) == 0) {
    k.fill_identity(result, out.size);
  } else {
    std::unique_ptr<TileRunner> runner;
    Source source;
    Operand input = program.code.empty() ? in[value] : Operand{};
    std::unique_ptr<detail::Buffer, void (*)(detail::Buffer*)> moved(nullptr, &detail::release);
    if (program.code.empty() && walks_badly(input, space)) {
      moved.reset(detail::allocate(static_cast<size_t>(input.size * input.dtype.size())));
      Operand straight = input;
      straight.data = moved->data;
      straight.strides = row_strides(space);
      straight.row_contiguous = true;
      copy(input, straight);
      input = straight;
    }
    if (program.code.empty() && input.row_contiguous && !half)
      source.memory = static_cast<const char*>(input.data);
    else if (program.code.empty())
      source.runner = (runner = std::make_unique<TileRunner>(program, space, std::span(&input, 1))).get();
    else
      source.runner = (runner = std::make_unique<TileRunner>(program, space, in)).get();

    // Each pass folds the last reduced group.
    std::vector<Group> groups = groups_of(space, reduce.axes);
    Bytes previous;
    for (bool last = false; !last;) {
      Extents e;
      size_t at = groups.size();
      while (at > 0 && !groups[at - 1].reduced) e.inner *= groups[--at].extent;
      if (at > 0) e.n = groups[--at].extent;
      last = true;
      for (size_t i = 0; i < at; ++i) {
        e.outer *= groups[i].extent;
        last = last && !groups[i].reduced;
      }
      Bytes stage;
      if (!last) stage = scratch(e.outer * e.inner * k.size);
      char* to = last ? result : stage.get();
      if (e.n == 1) e = {e.inner, 1, 1};  // nothing is reduced
      if (e.inner == 1)
        reduce_rows(k, source, e.outer, e.n, to);
      else
        reduce_columns(k, source, e, to);
      if (last) break;
      previous = std::move(stage);
      source = {previous.get(), nullptr};
      groups.resize(at);
      if (e.inner > 1) {
        if (!groups.empty() && !groups.back().reduced)
          groups.back().extent *= e.inner;
        else
          groups.push_back({e.inner, false});
      }
    }
  }
  if (half) {
    Arg arg{result, 1};
    cast_kernel(float32, out.dtype)(out.data, &arg, out.size);
  }
}

}  // namespace lazuli::cpu
#endif
