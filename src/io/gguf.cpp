// The value types of a GGUF file.
#include "lazuli/io/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "io/error.h"
#include "io/source.h"
#include "lazuli/ops.h"

namespace lazuli {
namespace {

constexpr std::string_view kTypeNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                           "bool", "string", "array", "u64", "i64", "f64"};
static_assert(std::size(kTypeNames) == std::variant_size_v<GgufValue>);

std::string describe(const GgufValue& value) {
  if (auto* list = std::get_if<GgufArray>(&value))
    return fmt::format("array of {} {}", list->size(), kTypeNames[list->values.index()]);
  return std::visit(
      [&]<class T>(const T& v) -> std::string {
        if constexpr (std::is_arithmetic_v<T>)
          return fmt::format("{} {}", gguf_type_name(value), v);
        else if constexpr (std::same_as<T, std::string>)
          return "string " + io::printable(v);
        else
          return "array";
      },
      value);
}

// Reshapes to rows, checks that blocks divide them, and describes the result.
GgufTensor describe_tensor(std::string_view op, std::string name, Shape shape, GgmlType type) {
  const GgmlInfo& info = ggml_info(type);
  int64_t row = shape.empty() ? 1 : shape.back();
  if (row % info.block_size != 0)
    throw std::invalid_argument(
        fmt::format("[{}] tensor {}: {} has blocks of {} values, which do not divide the last axis of {}", op,
                    io::printable(name), info.name, info.block_size, to_string(shape)));
  GgufTensor t;
  t.name = std::move(name);
  t.shape = std::move(shape);
  t.type = type;
  return t;
}

// Makes an array the owner of a tensor's bytes.
void attach(GgufTensor& t, array a) {
  auto owner = std::make_shared<array>(std::move(a));
  std::byte* data = nullptr;
  dispatch_dtype(owner->dtype(), [&]<class T>(T) {
    data = reinterpret_cast<std::byte*>(const_cast<T*>(std::as_const(*owner).data<T>()));
  });
  t.bytes = {data, owner->nbytes()};
  t.owner = std::move(owner);
}

}  // namespace

std::string_view gguf_type_name(const GgufValue& value) { return kTypeNames[value.index()]; }

const GgufValue* GgufMetadata::find(std::string_view key) const {
  auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second].second;
}

const GgufValue& GgufMetadata::at(std::string_view key) const {
  if (const GgufValue* value = find(key)) return *value;
  throw std::out_of_range(fmt::format("[gguf] the metadata has no key {}", io::printable(key)));
}

void GgufMetadata::set(std::string key, GgufValue value) {
  auto [found, fresh] = index_.try_emplace(key, entries_.size());
  if (fresh)
    entries_.emplace_back(std::move(key), std::move(value));
  else
    entries_[found->second].second = std::move(value);
}

bool GgufMetadata::erase(std::string_view key) {
  auto found = index_.find(key);
  if (found == index_.end()) return false;
  size_t at = found->second;
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(at));
  index_.erase(found);
  for (auto& [name, i] : index_) i -= i > at;
  return true;
}

void GgufMetadata::mismatch(std::string_view key, std::string_view wanted, const GgufValue& found) {
  throw std::invalid_argument(
      fmt::format("[gguf] metadata {}: expected {}, found {}", io::printable(key), wanted, describe(found)));
}

array GgufTensor::values() const {
  const GgmlInfo& info = ggml_info(type);
  Shape rows = shape;
  if (packed()) rows.back() = ggml_bytes(type, shape.back());
  Dtype dtype = info.dtype.value_or(uint8);
  // The library never writes to borrowed memory.
  auto* data = const_cast<std::byte*>(bytes.data());
  std::shared_ptr<const void> keep = owner;
  if (reinterpret_cast<uintptr_t>(data) % dtype.size() != 0) {
    auto copy = io::allocate_bytes(bytes.size());
    std::memcpy(copy.get(), data, bytes.size());
    data = copy.get();
    keep = std::move(copy);
  }
  return array(data, rows, dtype, [keep = std::move(keep)](void*) mutable { keep.reset(); });
}

void release_pages(const GgufTensor& t) { io::release_pages(t.bytes.data(), t.bytes.size()); }

array dequantize(const GgufTensor& t, Dtype dtype) {
  if (!issubdtype(dtype, floating))
    throw std::invalid_argument(
        fmt::format("[dequantize] expected a floating dtype, found {}", dtype_name(dtype)));
  const GgmlInfo& info = ggml_info(t.type);
  if (info.dtype == dtype) return t.values();
  array out = uninitialized(t.shape, float32);
  try {
    ggml_dequantize(t.type, t.bytes, {out.data<float>(), out.size()});
  } catch (const std::invalid_argument& e) {
    throw std::invalid_argument(fmt::format("[dequantize] tensor {}: {}", io::printable(t.name), e.what()));
  }
  if (dtype == float32) return out;
  out = astype(out, dtype);
  out.eval();
  return out;
}

GgufTensor gguf_tensor(std::string name, const array& values) {
  GgufTensor t =
      describe_tensor("gguf_tensor", std::move(name), values.shape(), ggml_type_of(values.dtype()));
  attach(t, contiguous(values));
  return t;
}

GgufTensor gguf_tensor(std::string name, const array& rows, GgmlType type) {
  const GgmlInfo& info = ggml_info(type);
  if (info.dtype && rows.dtype() == *info.dtype) return gguf_tensor(std::move(name), rows);
  if (rows.dtype() != uint8 || rows.ndim() == 0 || rows.shape(-1) % info.block_bytes != 0)
    throw std::invalid_argument(fmt::format(
        "[gguf_tensor] tensor {}: rows of {} are uint8 with a multiple of {} bytes, found {} {}",
        io::printable(name), info.name, info.block_bytes, dtype_name(rows.dtype()), to_string(rows.shape())));
  Shape shape = rows.shape();
  shape.back() = shape.back() / info.block_bytes * info.block_size;
  GgufTensor t = describe_tensor("gguf_tensor", std::move(name), std::move(shape), type);
  attach(t, contiguous(rows));
  return t;
}

GgufTensor quantize(std::string name, const array& values, GgmlType type) {
  if (!issubdtype(values.dtype(), floating))
    throw std::invalid_argument(fmt::format("[quantize] tensor {}: expected a floating dtype, found {}",
                                            io::printable(name), dtype_name(values.dtype())));
  GgufTensor t = describe_tensor("quantize", std::move(name), values.shape(), type);
  array floats = contiguous(astype(values, float32));
  int64_t bytes = ggml_bytes(type, static_cast<int64_t>(floats.size()));
  auto packed = io::allocate_bytes(static_cast<uint64_t>(bytes));
  try {
    ggml_quantize(type, {std::as_const(floats).data<float>(), floats.size()},
                  {packed.get(), static_cast<size_t>(bytes)});
  } catch (const std::invalid_argument& e) {
    throw std::invalid_argument(fmt::format("[quantize] tensor {}: {}", io::printable(t.name), e.what()));
  }
  t.bytes = {packed.get(), static_cast<size_t>(bytes)};
  t.owner = std::move(packed);
  return t;
}

const GgufTensor* Gguf::find(std::string_view name) const {
  auto found = std::ranges::find(tensors, name, &GgufTensor::name);
  return found == tensors.end() ? nullptr : &*found;
}

const GgufTensor& Gguf::at(std::string_view name) const {
  if (const GgufTensor* t = find(name)) return *t;
  throw std::out_of_range(fmt::format("[gguf] there is no tensor {}", io::printable(name)));
}

}  // namespace lazuli
