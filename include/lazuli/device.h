// Devices and streams: where operations run and in what order.
//
// Every operation takes a trailing `StreamOrDevice`. Its default captures the caller's
// source location, so errors that surface at `eval` name the line that built the node.
#pragma once

#include <compare>
#include <cstdint>
#include <iosfwd>
#include <source_location>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

namespace lazuli {

struct Device {
  enum class DeviceType : uint8_t { cpu, gpu };
  static constexpr DeviceType cpu = DeviceType::cpu;
  static constexpr DeviceType gpu = DeviceType::gpu;

  constexpr Device(DeviceType type, int index = 0) : type(type), index(index) {}
  DeviceType type;
  int index;
  auto operator<=>(const Device&) const = default;
};
inline bool operator==(const Device& d, Device::DeviceType type) { return d.type == type; }

// A queue of work on one device. Operations on one stream run in order.
struct Stream {
  constexpr explicit Stream(int index, Device device) : index(index), device(device) {}
  int index;
  Device device;
  auto operator<=>(const Stream&) const = default;
};

using Where = std::source_location;

// Where an operation runs (default: the calling thread's default stream) and which line
// asked for it. Converts from a Stream, a Device, Device::cpu or Device::gpu.
class StreamOrDevice {
 public:
  StreamOrDevice(Where where = Where::current()) : where_(where) {}
  StreamOrDevice(std::monostate, Where where = Where::current()) : where_(where) {}
  StreamOrDevice(Stream s, Where where = Where::current())
      : given_(kStream),
        type_(s.device.type),
        device_index_(s.device.index),
        index_(s.index),
        where_(where) {}
  StreamOrDevice(Device d, Where where = Where::current())
      : given_(kDevice), type_(d.type), device_index_(d.index), where_(where) {}
  StreamOrDevice(Device::DeviceType type, Where where = Where::current())
      : StreamOrDevice(Device(type), where) {}

  Where where() const { return where_; }

 private:
  friend Stream to_stream(const StreamOrDevice&);
  enum Given : uint8_t { kNothing, kDevice, kStream };
  Given given_ = kNothing;
  Device::DeviceType type_ = Device::cpu;
  int16_t device_index_ = 0;
  int32_t index_ = 0;
  Where where_;
};

// The stream meant. Throws std::invalid_argument if its device is not available.
Stream to_stream(const StreamOrDevice& s);

const Device& default_device();
void set_default_device(const Device& d);  // throws std::invalid_argument if unavailable
bool is_available(const Device& d);
int device_count(Device::DeviceType type);
// Threads that operations of the CPU may use, all of the process together. The default is what the process
// may use: its processors (sched_getaffinity), fewer if its control group allows less time, or what the
// environment variable LAZULI_NUM_THREADS, or else OMP_NUM_THREADS, says. Throws std::invalid_argument for
// n < 1.
int num_threads();
void set_num_threads(int n);
// name, architecture (the SIMD instruction set in use), threads, total_memory, ...
const std::unordered_map<std::string, std::variant<std::string, size_t>>& device_info(
    const Device& d = default_device());

Stream default_stream(Device d);    // of the calling thread
void set_default_stream(Stream s);  // of the calling thread
Stream new_stream(Device d);
std::vector<Stream> get_streams();
// Waits for everything submitted by async_eval; rethrows the first error it met.
void synchronize();
void synchronize(Stream s);

// Sets the default stream for a scope.
class StreamContext {
 public:
  explicit StreamContext(StreamOrDevice s);
  ~StreamContext();
  StreamContext(const StreamContext&) = delete;
  StreamContext& operator=(const StreamContext&) = delete;

 private:
  Device device_;
  Stream stream_;
};

std::ostream& operator<<(std::ostream& os, const Device& d);
std::ostream& operator<<(std::ostream& os, const Stream& s);

}  // namespace lazuli
