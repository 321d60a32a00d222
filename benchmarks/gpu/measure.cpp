#include "measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>

#include "lazuli/lazuli.h"

namespace gpu_bench {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

constexpr double kSampleSeconds = 0.012, kRowSeconds = 0.25;
constexpr int kLeastRuns = 8;  // of a sample: so many that the GPU is kept fed
constexpr size_t kSamples = 7;

}  // namespace

Timing measure(const Case& c) {
  int next = 0;
  auto sample = [&](int n) {
    if (c.prepare) {
      c.prepare(n);
      lazuli::synchronize();
      next = 0;
    }
    const double start = now();
    for (int i = 0; i < n; ++i) lazuli::async_eval(c.run(next++));
    lazuli::synchronize();
    return (now() - start) / n;
  };
  sample(1);  // compiles kernels
  sample(std::min(2, c.most_runs));
  const double once = sample(std::min(3, c.most_runs));
  const int n = std::min(std::max(static_cast<int>(kSampleSeconds / once), kLeastRuns), c.most_runs);
  sample(n);
  std::vector<double> times;
  const double start = now();
  while (times.size() < kSamples || (now() - start < kRowSeconds && times.size() < 50))
    times.push_back(sample(n));
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2] / c.divisor, times[0] / c.divisor, times.size() * static_cast<size_t>(n)};
}

void print_result(const Row& row) {
  try {
    lazuli::reset_peak_memory();
    lazuli::allow_tf32(false);
    const Case c = row.make();
    const Timing t = measure(c);
    std::printf("{\"row\": \"%s\", \"ms\": %.6g, \"min_ms\": %.6g, \"runs\": %zu", row.name.c_str(),
                t.median * 1e3, t.min * 1e3, t.runs);
    if (c.bytes > 0) std::printf(", \"gb_s\": %.1f", c.bytes / t.median * 1e-9);
    if (c.flops > 0) std::printf(", \"tflop_s\": %.1f", c.flops / t.median * 1e-12);
    std::printf(", \"peak_mb\": %.0f}\n", static_cast<double>(lazuli::get_peak_memory()) * 1e-6);
  } catch (const std::exception& e) {
    std::string text = e.what();
    std::replace_if(
        text.begin(), text.end(), [](char ch) { return ch == '"' || ch == '\\' || ch < ' '; }, '\'');
    std::printf("{\"row\": \"%s\", \"error\": \"%s\"}\n", row.name.c_str(), text.c_str());
  }
  std::fflush(stdout);
  lazuli::clear_cache();  // other programs measure on the same GPU
}

std::vector<array> normals(const lazuli::Shape& shape, lazuli::Dtype dtype, float scale) {
  constexpr double kEnough = 3 * 50 * 1048576.0;
  const double bytes = static_cast<double>(lazuli::size_of(shape)) * static_cast<double>(dtype.size());
  const int copies = std::clamp(static_cast<int>(std::ceil(kEnough / bytes)), 2, 12);
  std::vector<array> all;
  for (int i = 0; i < copies; ++i) {
    all.push_back(lazuli::astype(lazuli::random::normal(shape, lazuli::float32, 0.0f, scale), dtype));
    lazuli::eval(all.back());
  }
  return all;
}

Case each(std::vector<array> inputs, std::function<array(const array&)> f, double bytes) {
  return {.run = [inputs = std::move(inputs), f = std::move(f)](int i) -> std::vector<array> {
            return {f(inputs[static_cast<size_t>(i) % inputs.size()])};
          },
          .bytes = bytes};
}

}  // namespace gpu_bench
