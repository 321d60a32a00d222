// How kernels and calls of libraries get to the GPU. Everything is submitted in the order of the graph and
// runs in that order; nothing here waits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/cuda/early.h"
#include "backend/cuda/runtime.h"
#ifdef LAZULI_EMULATED
#include "backend/cuda/emulation/machine.h"
#endif

namespace lazuli::cuda {

// A kernel (a __global__ function or a cudaKernel_t) with copies of its parameters. More than 48 KiB of
// dynamic shared memory are asked for where `shared` needs them. `early`: it may begin before the kernel
// before it has ended (early.h).
void submit(const void* kernel, dim3 grid, dim3 block, size_t shared, std::span<void* const> parameters,
            std::span<const size_t> sizes, const char* what, bool early);

// kernel<<<grid, block, shared>>>(arguments...); a kernel whose first parameter is an Early gets it too.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, const char* what,
            Arguments&&... arguments) {
#ifdef LAZULI_EMULATED
  emulation::introduce(kernel, what);
#endif
  constexpr bool early = (std::is_same_v<Parameters, Early> || ...);
  using Values = std::tuple<std::remove_cv_t<Parameters>...>;
  Values values = [&] {
    if constexpr (early)
      return Values(Early(), std::forward<Arguments>(arguments)...);
    else
      return Values(std::forward<Arguments>(arguments)...);
  }();
  std::apply(
      [&](auto&... value) {
        void* const pointers[] = {&value...};
        const size_t sizes[] = {sizeof(value)...};
        submit(reinterpret_cast<const void*>(kernel), grid, block, shared, pointers, sizes, what, early);
      },
      values);
}

// Work that a library submits itself, at once: `call` gets the stream.
void library_call(const char* what, const std::function<void(cudaStream_t)>& call);
// The same, later, and maybe captured into a graph that runs again: `call` is kept, so it holds copies of
// what it needs, neither waits nor allocates, and does the same whenever `plan` (the shapes, types and
// algorithm) and `arguments` (addresses and factors) are the same.
void library_call(const char* what, const void* plan, std::span<const uint64_t> arguments,
                  std::function<void(cudaStream_t)> call);

// Everything submitted so far is handed to the driver: before a copy, an event, or waiting. Returns how many
// fault words it uses.
uint64_t flush();

// A word that a kernel sets to anything but zero when it finds an error in its data, an index out of range
// say; for kernels that are submitted right after. `told` makes a message of the word.
int64_t* fault_word(std::function<std::string(int64_t)> told);
// Fault words and memory from here on belong to this evaluation (Backend::begin).
void begin_evaluation(uint64_t evaluation, bool awaited);
// The one that runs; 1 before any. The latest that has ended, so that all of it is submitted.
uint64_t running_evaluation();
uint64_t ended_evaluation();
// The GPU has done it and those before it (Backend::finished).
void note_finished(uint64_t evaluation);
uint64_t finished_evaluation();
// Looks at the first `submitted` words, whose kernels have run. Throws std::out_of_range with the message of
// the first error of an evaluation that `mine` accepts; the others are kept.
void check_faults(uint64_t submitted, const std::function<bool(uint64_t evaluation, bool awaited)>& mine);

// Parameters of generated kernels, which all begin early: one structure of 8-byte words, as the source
// declares it.
class Parameters {
 public:
  void add(const void* p) { words_.push_back(reinterpret_cast<uint64_t>(p)); }
  void add(int64_t n) { words_.push_back(static_cast<uint64_t>(n)); }
  void add_value(const void* p, size_t bytes) {
    words_.push_back(0);
    std::memcpy(&words_.back(), p, bytes);
  }
  void launch(cudaKernel_t kernel, dim3 grid, dim3 block, const char* what) {
    void* const pointers[] = {words_.data()};
    const size_t sizes[] = {words_.size() * sizeof(uint64_t)};
    submit(reinterpret_cast<const void*>(kernel), grid, block, 0, pointers, sizes, what, true);
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace lazuli::cuda
