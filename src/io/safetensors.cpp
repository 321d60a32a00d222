// safetensors: 8 bytes with the header's length, the header in JSON, the data.
#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "io/atomic_file.h"
#include "io/error.h"
#include "io/npy.h"
#include "lazuli/io.h"
#include "lazuli/io/tensor_writer.h"

namespace lazuli {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;  // the limit of the reference implementation

SafetensorsLoad parse(io::Source& source) {
  uint64_t length = 0;
  std::memcpy(&length, source.read(0, 8, "the header length").get(), 8);
  if (length > kLongestHeader || length > source.size() - 8)
    source.fail(fmt::format("not a safetensors file, or cut off: the header claims {} bytes, the file has {}",
                            length, source.size()));
  auto text = source.read(8, length, "the header");
  std::string_view json(reinterpret_cast<char*>(text.get()), length);
  uint64_t start = 8 + length;
  auto header = io::parse_safetensors_header(source, json, source.size() - start);

  SafetensorsLoad out;
  for (auto& t : header.tensors)
    out.first.emplace(t.name, source.read_array(start + t.begin, t.shape, t.dtype, false,
                                                fmt::format("tensor {}", io::printable(t.name))));
  out.second.insert(header.metadata.begin(), header.metadata.end());
  return out;
}

uint64_t bytes_of(const TensorInfo& t) { return static_cast<uint64_t>(size_of(t.shape)) * t.dtype.size(); }

std::string header_of(std::span<const TensorInfo> tensors,
                      const std::unordered_map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty())
    header["__metadata__"] = std::map<std::string, std::string>(metadata.begin(), metadata.end());
  uint64_t at = 0;
  std::unordered_set<std::string_view> names;
  for (const TensorInfo& t : tensors) {
    if (t.name == "__metadata__")
      throw std::invalid_argument("[save_safetensors] a tensor cannot be named '__metadata__'");
    if (!names.insert(t.name).second)
      throw std::invalid_argument(
          fmt::format("[save_safetensors] tensor {} is given twice", io::printable(t.name)));
    const uint64_t bytes = bytes_of(t);
    nlohmann::ordered_json entry;
    entry["dtype"] = io::safetensors_dtype(t.dtype);
    entry["shape"] = std::vector<int64_t>(t.shape.begin(), t.shape.end());
    entry["data_offsets"] = {at, at + bytes};
    header.push_back({t.name, std::move(entry)});
    at += bytes;
  }
  std::string json;
  try {
    json = header.dump();
  } catch (const nlohmann::json::exception&) {
    throw std::invalid_argument("[save_safetensors] names and metadata must be valid UTF-8");
  }
  json.append(63 - (8 + json.size() + 63) % 64, ' ');
  if (json.size() > kLongestHeader)
    throw std::invalid_argument("[save_safetensors] names, shapes and metadata need more than 100 MB");
  const uint64_t length = json.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + json;
}

struct Plan {
  std::vector<std::pair<std::string, array>> tensors;
  std::vector<TensorInfo> infos;
};

Plan plan(std::unordered_map<std::string, array> arrays) {
  Plan out;
  for (auto& [name, a] : arrays) {
    a.eval();
    out.tensors.emplace_back(name, a);
  }
  std::ranges::sort(out.tensors, [](auto& a, auto& b) {
    return std::tuple(b.second.itemsize(), std::cref(a.first).get()) <
           std::tuple(a.second.itemsize(), b.first);
  });
  for (auto& [name, a] : out.tensors) out.infos.push_back({name, a.dtype(), a.shape()});
  return out;
}

}  // namespace

SafetensorsLoad load_safetensors(const std::string& file, StreamOrDevice) {
  return parse(*io::open_file("load_safetensors", file));
}

SafetensorsLoad load_safetensors(std::shared_ptr<io::Reader> in_stream, StreamOrDevice) {
  return parse(*io::open_reader("load_safetensors", std::move(in_stream)));
}

SafetensorsWriter::SafetensorsWriter(const std::string& file, std::span<const TensorInfo> tensors,
                                     const std::unordered_map<std::string, std::string>& metadata)
    : TensorWriter("save_safetensors", file, header_of(tensors, metadata), [&] {
        std::vector<Part> parts;
        for (const TensorInfo& t : tensors) parts.push_back({t.name, bytes_of(t), 0});
        return parts;
      }()) {}

void save_safetensors(std::string file, std::unordered_map<std::string, array> arrays,
                      std::unordered_map<std::string, std::string> metadata) {
  const Plan planned = plan(std::move(arrays));
  SafetensorsWriter out(io::with_extension(std::move(file), ".safetensors"), planned.infos, metadata);
  for (auto& [name, a] : planned.tensors) out.write(a);
  out.commit();
}

void save_safetensors(std::shared_ptr<io::Writer> out_stream, std::unordered_map<std::string, array> arrays,
                      std::unordered_map<std::string, std::string> metadata) {
  const Plan planned = plan(std::move(arrays));
  const std::string header = header_of(planned.infos, metadata);
  out_stream->open();
  if (!out_stream->is_open() || !out_stream->good())
    io::fail("save_safetensors", out_stream->label(), "is not open for writing");
  out_stream->write(header.data(), header.size());
  for (auto& [name, a] : planned.tensors)
    if (a.nbytes()) out_stream->write(io::row_major_bytes(a), a.nbytes());
  if (!out_stream->good()) io::fail("save_safetensors", out_stream->label(), "writing failed");
}

}  // namespace lazuli
