#include "ops/creation.h"

#include "backend/backend.h"
#include "backend/cpu/parallel.h"

namespace lazuli::cpu {

namespace {

void run_arange(const KernelCall& call) {
  const Arange& p = static_cast<const Arange&>(call.primitive);
  dispatch_dtype(call.out[0].dtype, [&]<class T>(T) {
    T* out = call.out[0].as<T>();
    parallel_for(p.count, 1 << 16, [&](int64_t begin, int64_t end) {
      if (p.exact) {
        // As unsigned: a step past the last element may not fit.
        uint64_t first = static_cast<uint64_t>(p.first_integer), step = static_cast<uint64_t>(p.step_integer);
        for (int64_t i = begin; i < end; ++i)
          out[i] = detail::convert<T>(static_cast<int64_t>(first + static_cast<uint64_t>(i) * step));
      } else {
        for (int64_t i = begin; i < end; ++i)
          out[i] = detail::convert<T>(p.first + static_cast<double>(i) * p.step);
      }
    });
    if (p.last && p.count > 0) out[p.count - 1] = detail::convert<T>(p.stop);
  });
}

}  // namespace

void register_creation(KernelTable& t) { t.add<Arange>({&run_arange}); }

}  // namespace lazuli::cpu
