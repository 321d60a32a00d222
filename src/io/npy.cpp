// .npy: "\x93NUMPY", a version, the length of a header, the header (a Python dict with the
// keys descr, fortran_order and shape), then the elements. Source of the format: NumPy
// enhancement proposal 1.
#include "io/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <set>

#include "io/atomic_file.h"
#include "io/error.h"
#include "lazuli/io.h"
#include "lazuli/ops/shape.h"

namespace lazuli::io {
namespace {

static_assert(std::endian::native == std::endian::little, "io assumes a little-endian machine");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr uint64_t kLongestHeader = 1 << 20;
constexpr size_t kMostDimensions = 64;

struct Type {
  std::string_view code;
  Dtype dtype;
};
// V2 is what NumPy writes for bfloat16 of ml_dtypes.
constexpr Type kTypes[] = {{"b1", bool_},    {"u1", uint8},    {"u2", uint16},  {"u4", uint32},
                           {"u8", uint64},   {"i1", int8},     {"i2", int16},   {"i4", int32},
                           {"i8", int64},    {"f2", float16},  {"f4", float32}, {"f8", float64},
                           {"V2", bfloat16}, {"c8", complex64}};

struct Header {
  std::string descr;
  bool fortran_order = false;
  Shape shape;
};

// Parses the dict literal; accepts its keys in any order and nothing else.
class HeaderParser {
 public:
  HeaderParser(const Source& source, std::string_view text) : source_(source), text_(text) {}

  Header parse() {
    Header header;
    std::set<std::string> seen;
    expect('{');
    while (!accept('}')) {
      std::string key = string();
      if (!seen.insert(key).second) fail(fmt::format("duplicate key {}", printable(key)));
      expect(':');
      if (key == "descr") {
        if (peek() == '[') fail("structured types are not supported");
        header.descr = string();
      } else if (key == "fortran_order") {
        header.fortran_order = boolean();
      } else if (key == "shape") {
        header.shape = shape();
      } else {
        fail(fmt::format("unknown key {}", printable(key)));
      }
      if (!accept(',') && peek() != '}') fail("expected ',' or '}'");
    }
    if (peek() != '\0') fail("unexpected text after the header");
    for (const char* key : {"descr", "fortran_order", "shape"})
      if (!seen.contains(key)) fail(fmt::format("the key '{}' is missing", key));
    return header;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    source_.fail(fmt::format("bad .npy header: {}", what));
  }
  char peek() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(fmt::format("expected '{}' at character {}", c, at_));
  }
  std::string string() {
    char quote = peek();
    if (quote != '\'' && quote != '"') fail(fmt::format("expected a string at character {}", at_));
    size_t end = text_.find(quote, at_ + 1);
    if (end == text_.npos) fail("a string does not end");
    std::string out(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return out;
  }
  bool boolean() {
    peek();
    for (auto [word, value] : {std::pair{std::string_view("True"), true}, {"False", false}})
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return value;
      }
    fail("fortran_order must be True or False");
  }
  Shape shape() {
    Shape out;
    expect('(');
    while (!accept(')')) {
      if (out.size() == kMostDimensions) fail(fmt::format("more than {} dimensions", kMostDimensions));
      out.push_back(extent());
      if (!accept(',') && peek() != ')') fail("expected ',' or ')' in the shape");
    }
    return out;
  }
  int64_t extent() {
    peek();
    int64_t value = 0;
    size_t start = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
          __builtin_add_overflow(value, int64_t{text_[at_] - '0'}, &value))
        fail("an extent of the shape is too large");
    if (at_ == start) fail(fmt::format("expected a number at character {}", at_));
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // written by Python 2
    return value;
  }

  const Source& source_;
  std::string_view text_;
  size_t at_ = 0;
};

struct Element {
  Dtype dtype;
  bool big_endian;
};

Element parse_descr(const Source& source, std::string_view descr) {
  bool marked = !descr.empty() && std::string_view("<>=|").find(descr[0]) != std::string_view::npos;
  std::string_view code = marked ? descr.substr(1) : descr;
  auto type = std::ranges::find(kTypes, code, &Type::code);
  if (type != std::end(kTypes)) return {type->dtype, descr[0] == '>' && type->dtype.size() > 1};
  if (code == "c16") source.fail("dtype complex128 is not supported; convert it to complex64 first");
  if (code.starts_with('O')) source.fail("arrays of Python objects are not supported");
  source.fail(fmt::format("dtype {} is not supported", printable(descr)));
}

uint64_t little_endian(const std::byte* bytes, int n) {
  uint64_t value = 0;
  while (n-- > 0) value = value << 8 | static_cast<uint8_t>(bytes[n]);
  return value;
}

void write_npy(Writer& out, const array& a) {
  std::string header = npy_header(a);
  out.write(header.data(), header.size());
  if (a.nbytes()) out.write(row_major_bytes(a), a.nbytes());
}

}  // namespace

array parse_npy(Source& source, uint64_t* end) {
  uint64_t magic_size = std::min<uint64_t>(source.size(), kMagic.size());
  auto start = source.read(0, magic_size, "the magic number");
  if (std::string_view(reinterpret_cast<char*>(start.get()), magic_size) != kMagic)
    source.fail("not a .npy file (its first bytes are not \\x93NUMPY)");
  auto version = source.read(6, 2, "the version");
  int major = static_cast<int>(version.get()[0]);
  if (major < 1 || major > 3)
    source.fail(fmt::format(".npy version {} is not supported (1 to 3 are)", major));
  int length_size = major == 1 ? 2 : 4;
  uint64_t length = little_endian(source.read(8, length_size, "the header length").get(), length_size);
  if (length > kLongestHeader) source.fail(fmt::format("the .npy header claims to be {} bytes long", length));
  auto text = source.read(8 + length_size, length, "the header");
  Header header = HeaderParser(source, {reinterpret_cast<char*>(text.get()), length}).parse();
  Element element = parse_descr(source, header.descr);

  uint64_t offset = 8 + length_size + length;
  Shape stored = header.shape;
  if (header.fortran_order) std::reverse(stored.begin(), stored.end());
  array a = source.read_array(offset, stored, element.dtype, element.big_endian, "the array");
  if (end) *end = offset + a.nbytes();
  return header.fortran_order && stored.size() > 1 ? transpose(a) : a;
}

std::string npy_header(const array& a) {
  auto type = std::ranges::find(kTypes, a.dtype().val(), [](const Type& t) { return t.dtype.val(); });
  std::string extents;
  for (int64_t extent : a.shape()) extents += (extents.empty() ? "" : ", ") + std::to_string(extent);
  if (a.ndim() == 1) extents += ',';
  std::string dict = fmt::format("{{'descr': '{}{}', 'fortran_order': False, 'shape': ({}), }}",
                                 a.itemsize() == 1 ? '|' : '<', type->code, extents);
  // Version 1 keeps the length in 2 bytes, version 2 in 4.
  int length_size = 2;
  auto padded = [&] { return (8 + length_size + dict.size() + 1 + 63) / 64 * 64; };
  if (padded() - 8 - length_size > 0xffff) length_size = 4;
  size_t total = padded();
  uint32_t length = static_cast<uint32_t>(total - 8 - length_size);
  std::string out(kMagic);
  out += length_size == 2 ? '\1' : '\2';
  out += '\0';
  out.append(reinterpret_cast<const char*>(&length), length_size);
  out += dict;
  out.resize(total - 1, ' ');
  return out + '\n';
}

const char* row_major_bytes(const array& a) {
  return dispatch_dtype(a.dtype(), [&]<class T>(T) { return reinterpret_cast<const char*>(a.data<T>()); });
}

std::string with_extension(std::string file, std::string_view extension) {
  return file.ends_with(extension) ? file : file.append(extension);
}

}  // namespace lazuli::io

namespace lazuli {

array load(std::string file, StreamOrDevice) { return io::parse_npy(*io::open_file("load", file)); }

array load(std::shared_ptr<io::Reader> in_stream, StreamOrDevice) {
  auto source = io::open_reader("load", in_stream);
  size_t start = in_stream->tell();
  uint64_t end = 0;
  array a = io::parse_npy(*source, &end);
  in_stream->seek(static_cast<int64_t>(start + end));
  return a;
}

void save(std::string file, array a) {
  a.eval();
  io::AtomicFile out("save", io::with_extension(std::move(file), ".npy"));
  io::write_npy(out, a);
  out.commit();
}

void save(std::shared_ptr<io::Writer> out_stream, array a) {
  a.eval();
  out_stream->open();
  if (!out_stream->is_open() || !out_stream->good())
    io::fail("save", out_stream->label(), "is not open for writing");
  io::write_npy(*out_stream, a);
  if (!out_stream->good()) io::fail("save", out_stream->label(), "writing failed");
}

}  // namespace lazuli
