#include "backend/cuda/index.h"

#include <algorithm>
#include <string>

#include "backend/cuda/launch.h"

namespace lazuli::cuda {

namespace {

// What an error says, made when one is found.
struct WrongIndex {
  std::string_view name;
  std::source_location where;
  int64_t size, extent;
  int axis;
  bool is_unsigned;

  std::string operator()(int64_t found) const {
    // Zero is wrong only where every index is.
    if (found == INT64_MIN && size < extent) found = 0;
    std::string what = "[";
    what += name;
    what += "] index ";
    what += is_unsigned ? std::to_string(static_cast<uint64_t>(found)) : std::to_string(found);
    what += " is out of range for axis " + std::to_string(axis) + " with extent " + std::to_string(size);
    if (extent != 1) what += " and slices of " + std::to_string(extent);
    if (where.line() != 0)
      what += std::string(" (built at ") + where.file_name() + ":" + std::to_string(where.line()) + ")";
    return what;
  }
};

}  // namespace

IndexKind index_kind(Dtype t) {
  switch (t.val()) {
    case Dtype::Val::uint8: return IndexKind::u8;
    case Dtype::Val::uint16: return IndexKind::u16;
    case Dtype::Val::uint32: return IndexKind::u32;
    case Dtype::Val::uint64: return IndexKind::u64;
    case Dtype::Val::int8: return IndexKind::i8;
    case Dtype::Val::int16: return IndexKind::i16;
    case Dtype::Val::int32: return IndexKind::i32;
    case Dtype::Val::int64: return IndexKind::i64;
    default: throw std::invalid_argument("index arrays must have an integer dtype");
  }
}

Index make_index(const KernelCall& call, const Operand& indices, int axis, int64_t size, int64_t extent,
                 int64_t stride) {
  const IndexKind kind = index_kind(indices.dtype);
  return {
      indices.data,
      fault_word(WrongIndex{call.primitive.name(), call.where, size, extent, axis, kind == IndexKind::u64}),
      kind,
      static_cast<uint64_t>(size),
      static_cast<uint64_t>(std::max<int64_t>(size - extent + 1, 0)),
      stride};
}

}  // namespace lazuli::cuda
