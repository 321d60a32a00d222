// The emulated GPU. A launch runs the blocks of its grid one after another. The threads of a block run one at
// a time, each until it ends or waits at a barrier; a thread that waits keeps its stack, and another goes on.
// A kernel without barriers therefore runs as one loop, and a kernel that lacks a barrier computes something
// wrong, always: most surely when LAZULI_EMULATION_SEED, a number, shuffles the order of the threads.
//
// A kernel that breaks a rule of CUDA ends with std::runtime_error from its launch: threads that end or wait
// elsewhere while others wait at a barrier, lanes of a warp that meet in different operations, a launch
// beyond the limits of an H100, a kernel that may begin early and does not wait for its inputs. Built with
// the address sanitizer, reads and writes outside of an array are found too, in memory of the GPU as in
// shared memory; with LAZULI_EMULATED_RACES, what races.h tells.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace lazuli::cuda {
struct Early;
}

namespace lazuli::cuda::emulation {

// How a launch calls a kernel: its parameters have lost their types on the way.
using Call = void (*)(const void* kernel, void* const* arguments);
// Tells of a kernel before its first launch. `early`: it calls wait_for_inputs (early.h).
void introduce(const void* kernel, Call call, std::span<const size_t> sizes, const char* name, bool early);
// The sizes of its parameters.
std::span<const size_t> parameters_of(const void* kernel);

template <class... Parameters>
void introduce(void (*kernel)(Parameters...), const char* name) {
  static_assert((0 + ... + sizeof(Parameters)) <= 4096, "parameters of a kernel are at most 4 KiB");
  static constexpr size_t kSizes[] = {sizeof(Parameters)..., 0};
  introduce(
      reinterpret_cast<const void*>(kernel),
      [](const void* kernel, void* const* arguments) {
        [&]<size_t... i>(std::index_sequence<i...>) {
          reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(kernel))(
              *static_cast<std::remove_cv_t<Parameters>*>(arguments[i])...);
        }
        (std::index_sequence_for<Parameters...>());
      },
      std::span(kSizes, sizeof...(Parameters)), name, (std::is_same_v<Parameters, Early> || ...));
}

// ---- What kernels see ----

struct Fiber;
struct Exchange;
enum class State : char { fresh, running, ready, at_block_barrier, at_warp_barrier, ended };
struct Thread {
  uint3 index;
  uint32_t warp, lane;
  State state;
  Fiber* fiber;
  Exchange* exchange;  // what it waits for at a warp barrier
  uint32_t synced;     // how often it has been in __syncwarp
  bool has_inputs;     // it has waited for them, or begins when they are there
};
extern Thread* current;
extern uintptr_t stack_begin;  // of the thread that runs
extern const size_t stack_bytes;
extern uint3 block_index;
extern dim3 block_shape, grid_shape;
extern void* dynamic_shared;

// What the kernels before have written is there for this thread.
void inputs_awaited();
// No kernel before writes this memory: it may be read without waiting, by this launch.
void settled(const void* at, size_t bytes);
bool is_settled(const void* at, size_t bytes);

// Ends the kernel.
[[noreturn]] void fail(std::string&& message);

// Waits for all threads of the block. In all of them: how many gave true.
int block_barrier(bool vote);
// Waits for all lanes of the mask that have not ended; `what` is the same in all of them.
Exchange& meet(uint32_t mask, const char* what, uint64_t value);
// What a lane brought; all bits one if it did not come. After `leave` the exchange is not to be read.
uint64_t brought(const Exchange& e, uint32_t lane);
uint32_t present(const Exchange& e);
void leave(Exchange& e);
uint32_t lanes_alive();

// Copies of this thread that are done when it waits for them; until then their place holds anything. `from`
// may be null: zeros. wait_copies(n) waits for all groups but the latest n.
void copy_later(void* to, const void* from, size_t bytes);
void end_copies();
void wait_copies(size_t groups);

// What every lane of the mask has: for operations of whole warps, such as products of small matrices. What
// belongs to lanes that did not come is left as it is.
template <class T>
void gather(uint32_t mask, const char* what, const T& mine, T (&all)[32]) {
  Exchange& e = meet(mask, what, reinterpret_cast<uint64_t>(&mine));
  const uint32_t here = present(e);
  for (uint32_t lane = 0; lane < 32; ++lane)
    if (here >> lane & 1) std::memcpy(&all[lane], reinterpret_cast<const void*>(brought(e, lane)), sizeof(T));
  leave(e);
  leave(meet(mask, what, 0));  // nobody changes what others still read
}

}  // namespace lazuli::cuda::emulation
