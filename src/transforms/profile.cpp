#include "lazuli/profile.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "backend/backend.h"
#include "core/engine.h"
#include "core/pick.h"
#include "lazuli/memory.h"
#include "transforms/eval.h"

namespace lazuli {

using detail::Node;
using Clock = std::chrono::steady_clock;

struct Profile::Impl : EvalHooks {
  Clock::time_point began = Clock::now(), kernel_began;
  std::vector<Event> events;
  Event current;
  size_t peak = 0;
  bool recording = true;

  double since(Clock::time_point t) const {
    return std::chrono::duration<double, std::micro>(t - began).count();
  }

  void begin(const std::vector<const Node*>& group) override {
    constexpr size_t kMostNames = 6;
    current = {};
    size_t skipped = group.size() > kMostNames ? group.size() - kMostNames : 0;
    if (skipped) current.name = fmt::format("({} more)", skipped);
    const Node* root = group.back();
    for (size_t i = skipped; i < group.size(); ++i)
      current.name += (current.name.empty() ? "" : "+") + std::string(group[i]->primitive->name());
    current.shape = to_string(root->shape);
    if (root->where.line()) current.where = fmt::format("{}:{}", root->where.file_name(), root->where.line());
    for (const Node* n : group)
      for (uint32_t k = 0; k < n->num_inputs; ++k)
        if (n->inputs[k]->status.load() == detail::Status::available) {
          const Node* in = n->inputs[k];
          current.bytes += std::min<int64_t>(in->size * in->dtype.size(),
                                             in->buffer ? static_cast<int64_t>(in->buffer->bytes) : 0);
        }
    if (root->primitive->role() == Primitive::Role::view || root->primitive->role() == Primitive::Role::pick)
      current.bytes = 0;
    moves_ =
        root->primitive->role() != Primitive::Role::view && root->primitive->role() != Primitive::Role::pick;
    on_gpu_ = root->stream.device == Device::gpu;
    if (on_gpu_) from_ = backend(Device::gpu).mark();
    kernel_began = Clock::now();
  }
  void computed(const Node* n) override {
    if (moves_) current.bytes += n->size * n->dtype.size();
  }
  void end() override {
    current.start_us = since(kernel_began);
    current.duration_us = since(Clock::now()) - current.start_us;
    if (on_gpu_) marked_.push_back({events.size(), from_, backend(Device::gpu).mark()});
    current.active_memory = get_active_memory(on_gpu_ ? Device::gpu : Device::cpu);
    peak = std::max(peak, current.active_memory);
    events.push_back(std::move(current));
  }
  // The times of the GPU, by its own clock; the first kernel of it began when the host said so.
  void read_marks() {
    if (marked_.empty()) return;
    Backend& gpu = backend(Device::gpu);
    const double start = events[marked_.front().event].start_us;
    for (const Marked& m : marked_) {
      events[m.event].start_us = start + gpu.microseconds(marked_.front().from, m.from);
      events[m.event].duration_us = gpu.microseconds(m.from, m.to);
    }
    marked_.clear();
    gpu.forget_marks();
  }

 private:
  struct Marked {
    size_t event, from, to;
  };
  bool moves_ = true, on_gpu_ = false;
  size_t from_ = 0;
  std::vector<Marked> marked_;
};

Profile::Profile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Profile::Profile(Profile&&) noexcept = default;
Profile::~Profile() {
  if (impl_) stop();
}

Profile profile() {
  finish_async_evals();
  auto impl = std::make_unique<Profile::Impl>();
  if (EvalHooks* other = EvalHooks::set_current(impl.get())) {
    EvalHooks::set_current(other);
    throw std::runtime_error("[profile] another profile is recording");
  }
  return Profile(std::move(impl));
}

void Profile::stop() {
  if (!std::exchange(impl_->recording, false)) return;
  EvalHooks::set_current(nullptr);
  impl_->read_marks();
}

const std::vector<Profile::Event>& Profile::events() const {
  const auto lock = detail::lock_engine();
  impl_->read_marks();
  return impl_->events;
}

std::string Profile::table() const {
  struct Row {
    std::string name, shape;
    int64_t calls = 0, bytes = 0, largest = -1;
    double time = 0;
  };
  std::map<std::string, Row> by_name;
  Row all;
  for (auto& e : events()) {
    Row& r = by_name[e.name];
    r.name = e.name;
    if (e.bytes > r.largest) {
      r.largest = e.bytes;
      r.shape = e.shape;
    }
    for (Row* x : {&r, &all}) {
      ++x->calls;
      x->bytes += e.bytes;
      x->time += e.duration_us;
    }
  }
  std::vector<Row> rows;
  for (auto& [name, row] : by_name) rows.push_back(row);
  std::sort(rows.begin(), rows.end(), [](auto& a, auto& b) { return a.time > b.time; });
  std::string out = fmt::format("{:<44} {:>7} {:>11} {:>10} {:>6} {:>8}  {}\n", "kernel", "calls", "total ms",
                                "mean us", "share", "GB/s", "largest result");
  auto line = [&](const Row& r) {
    std::string name = r.name.size() > 44 ? r.name.substr(0, 41) + "..." : r.name;
    out +=
        fmt::format("{:<44} {:>7} {:>11.3f} {:>10.1f} {:>5.1f}% {:>8.2f}  {}\n", name, r.calls, r.time * 1e-3,
                    r.time / static_cast<double>(r.calls), all.time > 0 ? 100 * r.time / all.time : 0.0,
                    r.time > 0 ? static_cast<double>(r.bytes) / r.time * 1e-3 : 0.0, r.shape);
  };
  for (auto& r : rows) line(r);
  if (all.calls) {
    all.name = "all";
    line(all);
  }
  out += fmt::format("peak memory {:.1f} MB\n", static_cast<double>(impl_->peak) / 1e6);
  return out;
}

void Profile::save_trace(const std::string& path) const {
  nlohmann::json trace = nlohmann::json::array();
  for (auto& e : events()) {
    trace.push_back({{"name", e.name},
                     {"ph", "X"},
                     {"pid", 0},
                     {"tid", 0},
                     {"ts", e.start_us},
                     {"dur", e.duration_us},
                     {"args", {{"shape", e.shape}, {"where", e.where}, {"bytes", e.bytes}}}});
    trace.push_back({{"name", "memory"},
                     {"ph", "C"},
                     {"pid", 0},
                     {"ts", e.start_us + e.duration_us},
                     {"args", {{"active bytes", e.active_memory}}}});
  }
  std::string temporary = path + ".tmp";
  std::ofstream file(temporary);
  file << nlohmann::json{{"traceEvents", trace}, {"displayTimeUnit", "ms"}}.dump();
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    std::remove(temporary.c_str());
    throw std::runtime_error("[profile] cannot write " + path);
  }
}

}  // namespace lazuli
