#include "lm/sources/raw_tensor.h"

#include "lazuli/ops.h"

namespace lazuli::lm {

std::vector<int64_t> rope_order(int64_t rows, int64_t head_size, int64_t turning, bool to_traditional) {
  std::vector<int64_t> from(static_cast<size_t>(rows));
  const int64_t half = turning / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t head = r / head_size * head_size, i = r % head_size;
    int64_t source = i;
    if (i < 2 * half) source = to_traditional ? i % 2 * half + i / 2 : i % half * 2 + i / half;
    from[static_cast<size_t>(r)] = head + source;
  }
  return from;
}

std::vector<RawTensor> raw_tensors(const Gguf& file) {
  std::vector<RawTensor> all;
  for (const GgufTensor& t : file.tensors) {
    const GgmlInfo& info = ggml_info(t.type);
    RawTensor raw{.name = t.name,
                  .shape = t.shape,
                  .dtype = info.dtype.value_or(float16),
                  .stored = &t,
                  .bytes = static_cast<int64_t>(t.bytes.size()),
                  .release = [&t] { release_pages(t); }};
    raw.rows = [&t, n = raw.row_count()](int64_t matrix, int64_t begin, int64_t end) {
      const int64_t row = t.shape.size() < 2 ? 1 : t.shape.back();
      const bool vector = t.shape.size() < 2;
      if (vector && t.packed()) return slice(dequantize(t), {begin}, {end});
      const int64_t row_bytes = ggml_bytes(t.type, row);
      GgufTensor part = t;
      part.shape = vector ? Shape{end - begin} : Shape{end - begin, row};
      part.bytes = t.bytes.subspan(static_cast<size_t>((matrix * n + begin) * row_bytes),
                                   static_cast<size_t>((end - begin) * row_bytes));
      return t.packed() ? dequantize(part) : part.values();
    };
    all.push_back(std::move(raw));
  }
  return all;
}

}  // namespace lazuli::lm
