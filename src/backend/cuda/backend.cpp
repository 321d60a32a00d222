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
  CudaBackend() : Backend(Device::gpu) {
    open_pool();
    register_all(table_);
  }

  detail::Buffer* allocate(size_t bytes) override { return cuda::allocate(bytes); }
  detail::Buffer* copy_in(const detail::Buffer& b) override { return cuda::copy_in(b); }
  detail::Buffer* copy_out(const detail::Buffer& b) override { return cuda::copy_out(b); }
  void flush() override { cuda::flush(); }
  void begin(uint64_t evaluation, bool awaited) override { begin_evaluation(evaluation, awaited); }
  void wait(uint64_t evaluation) override {
    const uint64_t ended = evaluation ? evaluation : ended_evaluation(), submitted = cuda::flush();
    check(cudaStreamSynchronize(gpu().stream), "a kernel");
    note_finished(ended);
    check_faults(submitted, [=](uint64_t of, bool) { return evaluation == 0 || of == evaluation; });
  }
  uint64_t finished() const override { return finished_evaluation(); }
  size_t mark() override {
    cuda::flush();
    if (marks_ == events_.size()) {
      events_.push_back(nullptr);
      check(cudaEventCreateWithFlags(&events_.back(), cudaEventDefault), "cudaEventCreate");
    }
    check(cudaEventRecord(events_[marks_], gpu().stream), "cudaEventRecord");
    return marks_++;
  }
  double microseconds(size_t from, size_t to) override {
    check(cudaEventSynchronize(events_[to]), "a kernel");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, events_[from], events_[to]), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms);
  }
  void forget_marks() override { marks_ = 0; }

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
  std::vector<cudaEvent_t> events_;  // of the marks
  size_t marks_ = 0;
};

}  // namespace

Backend* instance(std::string& why_not) {
  if (!open_gpu(why_not)) return nullptr;
  static Backend& cuda = *new CudaBackend;
  return &cuda;
}

}  // namespace lazuli::cuda
