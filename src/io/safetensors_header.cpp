#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "io/error.h"
#include "io/safetensors.h"

namespace lazuli::io {
namespace {

constexpr size_t kMostDimensions = 64;

struct Name {
  std::string_view name;
  Dtype dtype;
};
constexpr Name kDtypes[] = {{"BOOL", bool_},  {"U8", uint8},     {"U16", uint16},    {"U32", uint32},
                            {"U64", uint64},  {"I8", int8},      {"I16", int16},     {"I32", int32},
                            {"I64", int64},   {"F16", float16},  {"BF16", bfloat16}, {"F32", float32},
                            {"F64", float64}, {"C64", complex64}};

// Receives the header's JSON piece by piece. Nothing is kept that the format does not
// allow, so depth and memory are bounded by the tensors themselves, and duplicate keys,
// which a JSON object would merge silently, are seen.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const Source& source, SafetensorsHeader& out) : source_(source), out_(out) {}

  bool start_object(size_t) override {
    switch (state_) {
      case State::start: state_ = State::top; return true;
      case State::tensor_value:
        state_ = State::tensor;
        has_dtype_ = has_shape_ = has_offsets_ = false;
        return true;
      case State::metadata_value: state_ = State::metadata; return true;
      default: unexpected("an object");
    }
  }
  bool end_object() override {
    switch (state_) {
      case State::top: state_ = State::done; return true;
      case State::metadata: state_ = State::top; return true;
      default:
        finish_tensor();
        state_ = State::top;
        return true;
    }
  }
  bool key(std::string& name) override {
    if (state_ == State::top) {
      if (!names_.insert(name).second)
        source_.fail(fmt::format("duplicate key {} in the header", printable(name)));
      if (name == "__metadata__") {
        state_ = State::metadata_value;
      } else {
        out_.tensors.emplace_back().name = name;
        state_ = State::tensor_value;
      }
    } else if (state_ == State::metadata) {
      if (!out_.metadata.emplace(name, "").second)
        source_.fail(fmt::format("duplicate key {} in the metadata", printable(name)));
      metadata_key_ = name;
      state_ = State::metadata_string;
    } else {
      if (name == "dtype")
        begin_field(has_dtype_, name, State::dtype);
      else if (name == "shape")
        begin_field(has_shape_, name, State::shape_value);
      else if (name == "data_offsets")
        begin_field(has_offsets_, name, State::offsets_value);
      else
        tensor_fail(fmt::format("unknown key {}", printable(name)));
    }
    return true;
  }
  bool start_array(size_t) override {
    if (state_ == State::shape_value) {
      state_ = State::shape;
    } else if (state_ == State::offsets_value) {
      state_ = State::offsets;
      num_offsets_ = 0;
    } else {
      unexpected("a list");
    }
    return true;
  }
  bool end_array() override {
    if (state_ == State::offsets && num_offsets_ != 2) tensor_fail("data_offsets must be two numbers");
    state_ = State::tensor;
    return true;
  }
  bool string(std::string& text) override {
    if (state_ == State::metadata_string) {
      out_.metadata[metadata_key_] = text;
      state_ = State::metadata;
    } else if (state_ == State::dtype) {
      auto found = std::ranges::find(kDtypes, std::string_view(text), &Name::name);
      if (found == std::end(kDtypes)) tensor_fail(fmt::format("dtype {} is not supported", printable(text)));
      current().dtype = found->dtype;
      state_ = State::tensor;
    } else {
      unexpected("a string");
    }
    return true;
  }
  bool number_unsigned(uint64_t value) override {
    if (state_ == State::shape) {
      if (value > INT64_MAX) tensor_fail("an extent of the shape is too large");
      if (current().shape.size() == kMostDimensions)
        tensor_fail(fmt::format("more than {} dimensions", kMostDimensions));
      current().shape.push_back(static_cast<int64_t>(value));
    } else if (state_ == State::offsets) {
      if (num_offsets_ == 2) tensor_fail("data_offsets must be two numbers");
      (num_offsets_++ ? current().end : current().begin) = value;
    } else {
      unexpected("a number");
    }
    return true;
  }
  bool number_integer(int64_t) override { unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { unexpected("a fraction"); }
  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a truth value"); }
  bool binary(nlohmann::json::binary_t&) override { unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    source_.fail(fmt::format("the header is not valid JSON (at byte {})", position));
  }

 private:
  enum class State {
    start,
    top,
    tensor_value,
    tensor,
    dtype,
    shape_value,
    shape,
    offsets_value,
    offsets,
    metadata_value,
    metadata,
    metadata_string,
    done,
  };

  TensorEntry& current() { return out_.tensors.back(); }
  [[noreturn]] void tensor_fail(std::string_view what) {
    source_.fail(fmt::format("tensor {}: {}", printable(current().name), what));
  }
  [[noreturn]] void unexpected(std::string_view found) {
    switch (state_) {
      case State::start:
      case State::top:
      case State::done: source_.fail(fmt::format("the header must be a JSON object, found {}", found));
      case State::metadata_value:
        source_.fail(fmt::format("__metadata__ must be an object, found {}", found));
      case State::metadata:
      case State::metadata_string:
        source_.fail(fmt::format("metadata {} must be a string, found {}", printable(metadata_key_), found));
      case State::tensor_value: tensor_fail(fmt::format("expected an object, found {}", found));
      case State::dtype: tensor_fail(fmt::format("dtype must be a string, found {}", found));
      case State::shape_value:
      case State::shape: tensor_fail(fmt::format("shape must be a list of sizes, found {}", found));
      default: tensor_fail(fmt::format("data_offsets must be two numbers, found {}", found));
    }
  }
  void begin_field(bool& has, const std::string& name, State next) {
    if (has) tensor_fail(fmt::format("duplicate key {}", printable(name)));
    has = true;
    state_ = next;
  }
  void finish_tensor() {
    if (!has_dtype_) tensor_fail("the key 'dtype' is missing");
    if (!has_shape_) tensor_fail("the key 'shape' is missing");
    if (!has_offsets_) tensor_fail("the key 'data_offsets' is missing");
  }

  const Source& source_;
  SafetensorsHeader& out_;
  State state_ = State::start;
  std::unordered_set<std::string> names_;
  std::string metadata_key_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int num_offsets_ = 0;
};

void check_offsets(const Source& source, const TensorEntry& t, uint64_t data_size) {
  auto bad = [&](std::string_view what) {
    source.fail(fmt::format("tensor {}: {}", printable(t.name), what));
  };
  if (t.begin > t.end || t.end > data_size)
    bad(fmt::format("data_offsets [{}, {}] are out of range: the file has {} bytes of data", t.begin, t.end,
                    data_size));
  uint64_t bytes = t.dtype.size();
  bool overflows = false, empty = false;
  for (int64_t extent : t.shape) {
    empty |= extent == 0;
    overflows |= __builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes);
  }
  // The product of the non-zero extents must fit too: it is a stride.
  if (overflows || (empty && t.begin != t.end) || (!empty && bytes != t.end - t.begin))
    bad(fmt::format("shape {} and dtype {} do not fit {} bytes of data", to_string(t.shape),
                    safetensors_dtype(t.dtype), t.end - t.begin));
}

}  // namespace

std::string_view safetensors_dtype(Dtype dtype) {
  return std::ranges::find(kDtypes, dtype.val(), [](const Name& n) { return n.dtype.val(); })->name;
}

SafetensorsHeader parse_safetensors_header(const Source& source, std::string_view json, uint64_t data_size) {
  // The JSON parser would skip a byte order mark and stop at a zero byte.
  if (!json.starts_with('{') || json.find('\0') != json.npos) source.fail("the header is not valid JSON");
  SafetensorsHeader header;
  HeaderReader reader(source, header);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);

  for (const TensorEntry& t : header.tensors) check_offsets(source, t, data_size);
  std::ranges::stable_sort(header.tensors, {},
                           [](const TensorEntry& t) { return std::pair(t.begin, t.end); });
  uint64_t at = 0;
  for (const TensorEntry& t : header.tensors) {
    if (t.begin != at)
      source.fail(
          fmt::format("tensor {}: its data begins at {}, which {} the tensor before it, which ends at {}",
                      printable(t.name), t.begin, t.begin < at ? "overlaps" : "leaves a gap after", at));
    at = t.end;
  }
  if (at != data_size) source.fail(fmt::format("{} bytes at the end belong to no tensor", data_size - at));
  return header;
}

}  // namespace lazuli::io
