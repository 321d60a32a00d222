#include "lazuli/device.h"

#include <unistd.h>

#include <mutex>
#include <ostream>
#include <stdexcept>
#include <thread>

#include "backend/backend.h"

namespace lazuli {
namespace {

std::mutex stream_mutex;
std::vector<Stream> streams{Stream(0, Device::cpu)};
Device process_default{Device::cpu};
thread_local Stream thread_default{0, Device::cpu};

void require(const Device& d, const char* who) {
  if (is_available(d)) return;
  throw std::invalid_argument(
      std::string("[") + who + "] the device is not available: " +
      (d.type == Device::gpu ? "this build has no GPU backend" : "there is one CPU, with index 0"));
}

}  // namespace

bool is_available(const Device& d) { return d.index >= 0 && d.index < device_count(d.type); }
int device_count(Device::DeviceType type) { return type == Device::cpu ? 1 : 0; }

const Device& default_device() { return process_default; }
void set_default_device(const Device& d) {
  require(d, "set_default_device");
  process_default = d;
}

Stream default_stream(Device d) {
  require(d, "default_stream");
  return thread_default;
}
void set_default_stream(Stream s) {
  require(s.device, "set_default_stream");
  thread_default = s;
}
Stream new_stream(Device d) {
  require(d, "new_stream");
  std::lock_guard lock(stream_mutex);
  streams.emplace_back(static_cast<int>(streams.size()), d);
  return streams.back();
}
std::vector<Stream> get_streams() {
  std::lock_guard lock(stream_mutex);
  return streams;
}

Stream to_stream(const StreamOrDevice& s) {
  if (s.given_ == StreamOrDevice::kNothing) return thread_default;
  Device d(s.type_, s.device_index_);
  require(d, "to_stream");
  return s.given_ == StreamOrDevice::kStream ? Stream(s.index_, d) : thread_default;
}

StreamContext::StreamContext(StreamOrDevice s) : device_(process_default), stream_(thread_default) {
  Stream stream = to_stream(s);
  set_default_device(stream.device);
  set_default_stream(stream);
}
StreamContext::~StreamContext() {
  process_default = device_;
  thread_default = stream_;
}

const std::unordered_map<std::string, std::variant<std::string, size_t>>& device_info(const Device& d) {
  require(d, "device_info");
  static const auto info = backend(Device::cpu).info();
  return info;
}

std::ostream& operator<<(std::ostream& os, const Device& d) {
  return os << "Device(" << (d.type == Device::cpu ? "cpu" : "gpu") << ", " << d.index << ")";
}
std::ostream& operator<<(std::ostream& os, const Stream& s) {
  return os << "Stream(" << s.device << ", " << s.index << ")";
}

}  // namespace lazuli
