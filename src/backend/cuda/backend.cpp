// The CUDA backend: memory, the fused forms, and the kernels by family.
#include "backend/backend.h"

#include "backend/cuda/elementwise.h"
#include "backend/cuda/launch.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/reduce.h"
#include "backend/cuda/runtime.h"
#include "backend/cuda/transpose.h"
#include "cuda_families.inc"

namespace lazuli::cuda {

namespace {

class CudaBackend : public Backend {
 public:
  CudaBackend() : Backend(Device::gpu) { register_all(table_); }

  detail::Buffer* allocate(size_t bytes) override { return cuda::allocate(bytes); }
  detail::Buffer* copy_in(const detail::Buffer& b) override { return cuda::copy_in(b); }
  detail::Buffer* copy_out(const detail::Buffer& b) override { return cuda::copy_out(b); }
  void wait() override {
    flush();
    check(cudaStreamSynchronize(gpu().stream), "a kernel");
    check_faults();
  }
  const Kernel* find(const Primitive& p) const override { return table_.find(p); }

  void run(const Program& program, const Shape& space, std::span<const Operand> in,
           std::span<const Operand> out) override {
    if (program.code.empty() && in.size() == 1 && out.size() == 1 && !in[0].on_host &&
        run_transpose(in[0], out[0]))
      return;
    run_program(program, space, in, out);
  }
  void run(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
           const Operand& out) override {
    run_reduce(reduce, program, space, in, out);
  }

  std::unordered_map<std::string, std::variant<std::string, size_t>> info() const override {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return {{"name", gpu().name},
            {"architecture", "sm_" + std::to_string(gpu().capability)},
            {"multiprocessors", static_cast<size_t>(gpu().processors)},
            {"total_memory", total},
            {"free_memory", free}};
  }

 private:
  KernelTable table_;
};

}  // namespace

Backend* instance(std::string& why_not) {
  if (!open_gpu(why_not)) return nullptr;
  static Backend& cuda = *new CudaBackend;
  return &cuda;
}

}  // namespace lazuli::cuda
