// The CPU backend: threads, memory, and the fused forms.
#include "backend/backend.h"

#include <sys/sysinfo.h>

#include <stdexcept>

#include "backend/cpu/copy.h"
#include "backend/cpu/elementwise.h"
#include "backend/cpu/parallel.h"
#include "backend/cpu/reduce.h"
#include "backend/cpu/tile.h"
#include "core/allocator.h"
#include "cpu_families.inc"

namespace lazuli {
namespace cpu {

namespace {

// Work below this many instruction lanes is not worth a second thread.
constexpr int64_t kLeastWork = 1 << 15;

class CpuBackend : public Backend {
 public:
  CpuBackend() : Backend(Device::cpu) { register_all(table_); }

  detail::Buffer* allocate(size_t bytes) override { return detail::allocate(bytes); }
  const Kernel* find(const Primitive& p) const override { return table_.find(p); }
  void will_read(const void* data, size_t bytes) override { read_ahead(data, bytes); }

  void run(const Program& program, const Shape& space, std::span<const Operand> in,
           std::span<const Operand> out) override {
    if (program.code.empty() && program.outputs.size() == 1 && in[0].dtype == out[0].dtype) {
      copy(in[0], out[0]);
      return;
    }
    TileRunner runner(program, space, in, out);
    int64_t size = runner.size(), tile = runner.tile_size();
    auto range = [&](int64_t begin, int64_t end) {
      auto context = runner.context();
      constexpr size_t kFew = 8;
      void* few[kFew];
      std::vector<void*> many(out.size() > kFew ? out.size() : 0);
      void** outs = many.empty() ? few : many.data();
      for (int64_t at = begin; at < end; at += tile) {
        for (size_t k = 0; k < out.size(); ++k)
          outs[k] = static_cast<char*>(out[k].data) + at * out[k].dtype.size();
        runner.run(*context, at, std::min(tile, end - at), outs);
      }
    };
    int64_t instructions = static_cast<int64_t>(program.code.size()) + 1;
    int64_t tiles = std::max<int64_t>(1, kLeastWork / (tile * instructions));
    parallel_for(size, tile * tiles, range);
  }

  void run(const Reduce& reduce, const Program& program, const Shape& space, std::span<const Operand> in,
           const Operand& out) override {
    run_reduce(reduce, program, space, in, out);
  }

  std::unordered_map<std::string, std::variant<std::string, size_t>> info() const override {
    struct sysinfo s {};
    sysinfo(&s);
    return {{"name", std::string("cpu")},
            {"architecture", std::string(simd_target())},
            {"threads", static_cast<size_t>(num_threads())},
            {"total_memory", static_cast<size_t>(s.totalram) * s.mem_unit},
            {"free_memory", static_cast<size_t>(s.freeram) * s.mem_unit}};
  }

 private:
  KernelTable table_;
};

}  // namespace

Backend& instance() {
  static Backend& cpu = *new CpuBackend;
  return cpu;
}

}  // namespace cpu

}  // namespace lazuli
