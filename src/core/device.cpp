#include "lazuli/device.h"

#include <cstdlib>
#include <mutex>
#include <ostream>
#include <stdexcept>
#include <string_view>

#include "backend/backend.h"

namespace lazuli {
namespace {

constexpr int index_of(Device::DeviceType type) { return static_cast<int>(type); }

std::mutex stream_mutex;
std::vector<Stream> streams{Stream(0, Device::cpu), Stream(1, Device::gpu)};
thread_local Stream thread_default[2]{Stream(0, Device::cpu), Stream(1, Device::gpu)};

void require(const Device& d, const char* who) {
  if (is_available(d)) return;
  std::string why = d.type == Device::cpu ? "there is one CPU, with index 0"
                    : why_no_gpu().empty()
                        ? "GPUs are numbered from 0 to " + std::to_string(device_count(d.type) - 1)
                        : why_no_gpu();
  throw std::invalid_argument(std::string("[") + who + "] the device is not available: " + why);
}

Device initial_default() {
  const char* name = std::getenv("LAZULI_DEVICE");
  if (!name || std::string_view(name).empty() || std::string_view(name) == "cpu") return Device::cpu;
  if (std::string_view(name) != "gpu")
    throw std::invalid_argument(std::string("LAZULI_DEVICE is ") + name + "; expected cpu or gpu");
  require(Device::gpu, "LAZULI_DEVICE");
  return Device::gpu;
}
Device& process_default() {
  static Device d = initial_default();
  return d;
}

}  // namespace

bool is_available(const Device& d) { return d.index >= 0 && d.index < device_count(d.type); }
int device_count(Device::DeviceType type) { return type == Device::cpu ? 1 : why_no_gpu().empty() ? 1 : 0; }

const Device& default_device() { return process_default(); }
void set_default_device(const Device& d) {
  require(d, "set_default_device");
  process_default() = d;
}

Stream default_stream(Device d) {
  require(d, "default_stream");
  return thread_default[index_of(d.type)];
}
void set_default_stream(Stream s) {
  require(s.device, "set_default_stream");
  thread_default[index_of(s.device.type)] = s;
}
Stream new_stream(Device d) {
  require(d, "new_stream");
  std::lock_guard lock(stream_mutex);
  streams.emplace_back(static_cast<int>(streams.size()), d);
  return streams.back();
}
std::vector<Stream> get_streams() {
  std::lock_guard lock(stream_mutex);
  std::vector<Stream> all;
  for (const Stream& s : streams)
    if (is_available(s.device)) all.push_back(s);
  return all;
}

Stream to_stream(const StreamOrDevice& s) {
  if (s.given_ == StreamOrDevice::kNothing) return thread_default[index_of(process_default().type)];
  Device d(s.type_, s.device_index_);
  require(d, "to_stream");
  return s.given_ == StreamOrDevice::kStream ? Stream(s.index_, d) : thread_default[index_of(d.type)];
}

StreamContext::StreamContext(StreamOrDevice s)
    : device_(process_default()), stream_(thread_default[index_of(to_stream(s).device.type)]) {
  Stream stream = to_stream(s);
  set_default_device(stream.device);
  set_default_stream(stream);
}
StreamContext::~StreamContext() {
  process_default() = device_;
  thread_default[index_of(stream_.device.type)] = stream_;
}

const std::unordered_map<std::string, std::variant<std::string, size_t>>& device_info(const Device& d) {
  require(d, "device_info");
  static const auto cpu = backend(Device::cpu).info();
  if (d.type == Device::cpu) return cpu;
  static const auto gpu = backend(Device::gpu).info();
  return gpu;
}

std::ostream& operator<<(std::ostream& os, const Device& d) {
  return os << "Device(" << (d.type == Device::cpu ? "cpu" : "gpu") << ", " << d.index << ")";
}
std::ostream& operator<<(std::ostream& os, const Stream& s) {
  return os << "Stream(" << s.device << ", " << s.index << ")";
}

}  // namespace lazuli
