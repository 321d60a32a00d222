// safetensors: 8 bytes with the header's length, the header in JSON, the data.
#include "io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/atomic_file.h"
#include "io/error.h"
#include "io/npy.h"
#include "lazuli/io.h"

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

struct Plan {
  std::vector<std::pair<std::string, array>> tensors;
  std::string header;  // with its length in front
};

Plan plan(std::unordered_map<std::string, array> arrays,
          const std::unordered_map<std::string, std::string>& metadata) {
  Plan out;
  for (auto& [name, a] : arrays) {
    if (name == "__metadata__")
      throw std::invalid_argument("[save_safetensors] a tensor cannot be named '__metadata__'");
    a.eval();
    out.tensors.emplace_back(name, a);
  }
  std::ranges::sort(out.tensors, [](auto& a, auto& b) {
    return std::tuple(b.second.itemsize(), std::cref(a.first).get()) <
           std::tuple(a.second.itemsize(), b.first);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty())
    header["__metadata__"] = std::map<std::string, std::string>(metadata.begin(), metadata.end());
  uint64_t at = 0;
  for (auto& [name, a] : out.tensors) {
    nlohmann::ordered_json entry;
    entry["dtype"] = io::safetensors_dtype(a.dtype());
    entry["shape"] = std::vector<int64_t>(a.shape().begin(), a.shape().end());
    entry["data_offsets"] = {at, at + a.nbytes()};
    header.push_back({name, std::move(entry)});
    at += a.nbytes();
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
  uint64_t length = json.size();
  out.header.assign(reinterpret_cast<const char*>(&length), 8);
  out.header += json;
  return out;
}

void write(io::Writer& out, const Plan& plan) {
  out.write(plan.header.data(), plan.header.size());
  for (auto& [name, a] : plan.tensors)
    if (a.nbytes()) out.write(io::row_major_bytes(a), a.nbytes());
}

}  // namespace

SafetensorsLoad load_safetensors(const std::string& file, StreamOrDevice) {
  return parse(*io::open_file("load_safetensors", file));
}

SafetensorsLoad load_safetensors(std::shared_ptr<io::Reader> in_stream, StreamOrDevice) {
  return parse(*io::open_reader("load_safetensors", std::move(in_stream)));
}

void save_safetensors(std::string file, std::unordered_map<std::string, array> arrays,
                      std::unordered_map<std::string, std::string> metadata) {
  Plan planned = plan(std::move(arrays), metadata);
  io::AtomicFile out("save_safetensors", io::with_extension(std::move(file), ".safetensors"));
  write(out, planned);
  out.commit();
}

void save_safetensors(std::shared_ptr<io::Writer> out_stream, std::unordered_map<std::string, array> arrays,
                      std::unordered_map<std::string, std::string> metadata) {
  Plan planned = plan(std::move(arrays), metadata);
  out_stream->open();
  if (!out_stream->is_open() || !out_stream->good())
    io::fail("save_safetensors", out_stream->label(), "is not open for writing");
  write(*out_stream, planned);
  if (!out_stream->good()) io::fail("save_safetensors", out_stream->label(), "writing failed");
}

}  // namespace lazuli
