#include "backend/cpu/copy.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "backend/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/copy.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef LAZULI_CPU_COPY_PLAN
#define LAZULI_CPU_COPY_PLAN
namespace lazuli::cpu {

// One axis: its extent, and its strides in source and destination.
struct Axis {
  int64_t n, s, d;
};

// Axes from the outermost to the innermost, none of extent 1, neighbours merged.
using Axes = SmallVector<Axis, 6>;

}  // namespace lazuli::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace lazuli::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// ---- rows ----

template <int64_t S, class T>
void take_every(const T* HWY_RESTRICT s, T* HWY_RESTRICT d, int64_t n) {
  for (int64_t i = 0; i < n; ++i) d[i] = s[i * S];
}

// memcpy of a few bytes, without the call: overlapping pieces of a fixed size.
HWY_INLINE void copy_short(const char* HWY_RESTRICT s, char* HWY_RESTRICT d, size_t bytes) {
  auto ends = [&]<size_t N>(std::integral_constant<size_t, N>) {
    for (size_t at = 0; at + N < bytes; at += N) std::memcpy(d + at, s + at, N);
    std::memcpy(d + bytes - N, s + bytes - N, N);
  };
  if (bytes >= 16)
    ends(std::integral_constant<size_t, 16>());
  else if (bytes >= 8)
    ends(std::integral_constant<size_t, 8>());
  else if (bytes >= 4)
    ends(std::integral_constant<size_t, 4>());
  else
    for (size_t i = 0; i < bytes; ++i) d[i] = s[i];
}

template <class T>
HWY_INLINE void fill_row(T x, T* HWY_RESTRICT d, int64_t n) {
  const hn::CappedTag<T, 16 / sizeof(T)> tag;
  const int64_t wide = static_cast<int64_t>(hn::Lanes(tag));
  if (n < wide) {
    for (int64_t i = 0; i < n; ++i) d[i] = x;
  } else {
    const auto all = hn::Set(tag, x);
    for (int64_t i = 0; i + wide < n; i += wide) hn::StoreU(all, tag, d + i);
    hn::StoreU(all, tag, d + n - wide);
  }
}

template <class T>
void copy_row(const T* HWY_RESTRICT s, int64_t ss, T* HWY_RESTRICT d, int64_t ds, int64_t n) {
  if (ds != 1) {
    for (int64_t i = 0; i < n; ++i) d[i * ds] = s[i * ss];
    return;
  }
  switch (ss) {
    case 1:
      if (n * sizeof(T) > 256)
        std::memcpy(d, s, n * sizeof(T));
      else
        copy_short(reinterpret_cast<const char*>(s), reinterpret_cast<char*>(d), n * sizeof(T));
      return;
    case 0: return fill_row(*s, d, n);
    case -1: return take_every<-1>(s, d, n);
    case 2: return take_every<2>(s, d, n);
    case 3: return take_every<3>(s, d, n);
    case 4: return take_every<4>(s, d, n);
    default: {
      int64_t i = 0;
      for (; i + 4 <= n; i += 4) {
        T a = s[i * ss], b = s[(i + 1) * ss], c = s[(i + 2) * ss], e = s[(i + 3) * ss];
        d[i] = a, d[i + 1] = b, d[i + 2] = c, d[i + 3] = e;
      }
      for (; i < n; ++i) d[i] = s[i * ss];
    }
  }
}

// `count` whole rows.
template <class T>
void copy_rows(const T* s, T* d, int64_t count, const Axis& rows, const Axis& row) {
  if (rows.s == 0 && row.d == 1 && rows.d == row.n) {
    // The same row again and again: double what is written.
    copy_row(s, row.s, d, int64_t{1}, row.n);
    for (int64_t have = 1; have < count; have *= 2)
      std::memcpy(d + have * row.n, d, std::min(have, count - have) * row.n * sizeof(T));
    return;
  }
  if (row.s == 0 && row.d == 1 && rows.d == row.n && row.n <= 64) {
    // Whole vectors, although they run into the next row: that is written later.
    const hn::CappedTag<T, 32 / sizeof(T)> tag;
    const int64_t wide = static_cast<int64_t>(hn::Lanes(tag));
    int64_t safe = count - 1 - wide / row.n;
    int64_t r = 0;
    for (; r < safe; ++r, s += rows.s, d += rows.d) {
      const auto all = hn::Set(tag, *s);
      for (int64_t i = 0; i < row.n; i += wide) hn::StoreU(all, tag, d + i);
    }
    for (; r < count; ++r, s += rows.s, d += rows.d) fill_row(*s, d, row.n);
    return;
  }
  if (row.n == 2) {
    for (int64_t r = 0; r < count; ++r, s += rows.s, d += rows.d) d[0] = s[0], d[row.d] = s[row.s];
    return;
  }
  for (int64_t r = 0; r < count; ++r, s += rows.s, d += rows.d) copy_row(s, row.s, d, row.d, row.n);
}

// Elements [begin, begin + count) of the row-major space of `axes`.
template <class T>
void walk(const Axes& axes, const T* s, T* d, int64_t begin, int64_t count) {
  if (count <= 0) return;
  if (axes.empty()) {
    *d = *s;
    return;
  }
  const Axis row = axes.back();
  if (axes.size() == 1) return copy_row(s + begin * row.s, row.s, d + begin * row.d, row.d, count);

  SmallVector<int64_t, 6> at(axes.size(), 0);
  for (size_t i = axes.size(); begin > 0 && i-- > 0;) {
    at[i] = begin % axes[i].n;
    begin /= axes[i].n;
    s += at[i] * axes[i].s;
    d += at[i] * axes[i].d;
  }
  size_t inner = axes.size() - 1, outer = inner - 1;
  const Axis rows = axes[outer];
  // Steps to row at[outer], having left the rows before it behind; carries outwards.
  auto advance = [&](int64_t by) {
    at[outer] += by;
    s += by * rows.s;
    d += by * rows.d;
    for (size_t i = outer; i > 0 && at[i] == axes[i].n; --i) {
      s += axes[i - 1].s - axes[i].n * axes[i].s;
      d += axes[i - 1].d - axes[i].n * axes[i].d;
      at[i] = 0;
      ++at[i - 1];
    }
  };
  if (at[inner] > 0) {
    int64_t n = std::min(count, row.n - at[inner]);
    copy_row(s, row.s, d, row.d, n);
    count -= n;
    s -= at[inner] * row.s;
    d -= at[inner] * row.d;
    if (count > 0) advance(1);
  }
  while (count >= row.n) {
    int64_t n = std::min(rows.n - at[outer], count / row.n);
    copy_rows(s, d, n, rows, row);
    count -= n * row.n;
    if (count > 0) advance(n);
  }
  if (count > 0) copy_row(s, row.s, d, row.d, count);
}

// ---- transposes ----

// Tiles of 16 KiB pass through a buffer in L1: rows of the source are read 64 elements at a time,
// rows of the destination written 256 bytes at a time, whole cache lines on both sides.
// (Zen 3, 4096 x 4096 float32, one thread: 10 ms; without the buffer 20 to 28; a plain
// copy 5 to 7.)
inline constexpr int64_t kTileRows = 64;
template <class T>
inline constexpr int64_t kTileColumns = 256 / sizeof(T);

// Rows of a block are 16 bytes long; two blocks lie side by side in a vector where it is that wide.
template <class T>
using BlockTag = hn::CappedTag<T, 32 / sizeof(T)>;

#if HWY_TARGET != HWY_SCALAR
// d[i * ds + k] = s[k * ss + i] for i < 16 bytes, k < one vector.
template <class T>
HWY_INLINE void transpose_block(const T* HWY_RESTRICT s, int64_t ss, T* HWY_RESTRICT d, int64_t ds) {
  constexpr int kSide = 16 / sizeof(T);
  const BlockTag<T> tag;
  using V = hn::Vec<decltype(tag)>;
  V a[kSide], b[kSide];
  for (int r = 0; r < kSide; ++r) {
    if constexpr (hn::MaxLanes(tag) > kSide) {
      const hn::Half<decltype(tag)> half;
      a[r] = hn::Combine(tag, hn::LoadU(half, s + (r + kSide) * ss), hn::LoadU(half, s + r * ss));
    } else {
      a[r] = hn::LoadU(tag, s + r * ss);
    }
  }
  // Interleaving rows r and r + side/2, log2(side) times, transposes.
  for (int step = 1; step < kSide; step *= 2) {
    for (int r = 0; r < kSide / 2; ++r) {
      b[2 * r] = hn::InterleaveLower(tag, a[r], a[r + kSide / 2]);
      b[2 * r + 1] = hn::InterleaveUpper(tag, a[r], a[r + kSide / 2]);
    }
    for (int r = 0; r < kSide; ++r) a[r] = b[r];
  }
  for (int r = 0; r < kSide; ++r) hn::StoreU(a[r], tag, d + r * ds);
}
#endif

// d[i * ds + k] = s[k * ss + i * si] for a tile of ni x nk. `next` is where the tile read after
// this one starts.
template <class T>
void transpose_tile(const T* s, int64_t si, int64_t ss, T* d, int64_t ds, int64_t ni, int64_t nk,
                    const T* next, bool stream) {
  [[maybe_unused]] constexpr int64_t kSide = 16 / sizeof(T);
  constexpr int64_t kColumns = kTileColumns<T>;
  const BlockTag<T> tag;
  const int64_t wide = static_cast<int64_t>(hn::Lanes(tag));
  HWY_ALIGN T buffer[kTileRows * kColumns];
  int64_t k = 0;
#if HWY_TARGET != HWY_SCALAR
  if (si == 1) {
    for (; k + wide <= nk; k += wide) {
      // A row is too short for the hardware to see it coming.
      const T* ahead = k + 2 * wide <= nk ? s + (k + wide) * ss : next;
      if (ahead)
        for (int64_t r = 0; r < wide; ++r)
          for (int64_t c = 0; c < ni; c += 64 / sizeof(T)) hwy::Prefetch(ahead + r * ss + c);
      int64_t i = 0;
      for (; i + kSide <= ni; i += kSide)
        transpose_block(s + k * ss + i, ss, buffer + i * kColumns + k, kColumns);
      for (; i < ni; ++i)
        for (int64_t r = k; r < k + wide; ++r) buffer[i * kColumns + r] = s[r * ss + i];
    }
  }
#endif
  for (; k < nk; ++k)
    for (int64_t i = 0; i < ni; ++i) buffer[i * kColumns + k] = s[k * ss + i * si];
  for (int64_t i = 0; i < ni; ++i) {
    if (stream)
      for (int64_t c = 0; c < nk; c += wide)
        hn::Stream(hn::Load(tag, buffer + i * kColumns + c), tag, d + i * ds + c);
    else
      std::memcpy(d + i * ds, buffer + i * kColumns, nk * sizeof(T));
  }
}

// Axis `across` runs along rows of the source, the last along rows of the destination;
// the others are repeated. Tiles [begin, end) of all.
template <class T>
void transpose_tiles(const Axes& axes, size_t across, const T* s, T* d, int64_t begin, int64_t end,
                     bool stream) {
  const Axis row = axes.back(), column = axes[across];
  const int64_t down = (column.n + kTileRows - 1) / kTileRows;
  const int64_t tiles = down * ((row.n + kTileColumns<T> - 1) / kTileColumns<T>);
  const size_t vector = hn::Lanes(BlockTag<T>()) * sizeof(T);
  auto aligned = [&](const T* p, int64_t n) {
    return reinterpret_cast<uintptr_t>(p) % vector == 0 && n * sizeof(T) % vector == 0;
  };
  int64_t last = -1;
  const T* from = s;
  T* to = d;
  for (int64_t u = begin; u < end; ++u) {
    if (int64_t matrix = u / tiles; matrix != last) {
      last = matrix;
      from = s;
      to = d;
      for (size_t j = axes.size() - 1; j-- > 0;) {
        if (j == across) continue;
        from += matrix % axes[j].n * axes[j].s;
        to += matrix % axes[j].n * axes[j].d;
        matrix /= axes[j].n;
      }
    }
    auto corner = [&](int64_t tile) {
      return std::pair(tile % down * kTileRows, tile / down * kTileColumns<T>);
    };
    auto [i, k] = corner(u % tiles);
    auto [i2, k2] = corner(u % tiles + 1);
    int64_t ni = std::min(kTileRows, column.n - i), nk = std::min(kTileColumns<T>, row.n - k);
    T* out = to + i * column.d + k;
    // Only what lies in this matrix is worth fetching early.
    const T* next = i2 + kTileRows <= column.n && k2 + kTileColumns<T> <= row.n
                        ? from + i2 * column.s + k2 * row.s
                        : nullptr;
    transpose_tile(from + i * column.s + k * row.s, column.s, row.s, out, column.d, ni, nk, next,
                   stream && aligned(out, nk) && column.d * sizeof(T) % vector == 0);
  }
}

// ---- contiguous ----

// memcpy past the cache.
template <class T>
void stream_copy(const T* HWY_RESTRICT s, T* HWY_RESTRICT d, int64_t n) {
  const hn::CappedTag<T, 64 / sizeof(T)> tag;
  const int64_t wide = static_cast<int64_t>(hn::Lanes(tag)), size = wide * sizeof(T);
  while (n > 0 && reinterpret_cast<uintptr_t>(d) % size != 0) *d++ = *s++, --n;
  for (; n >= 2 * wide; n -= 2 * wide, s += 2 * wide, d += 2 * wide) {
    auto a = hn::LoadU(tag, s), b = hn::LoadU(tag, s + wide);
    hn::Stream(a, tag, d);
    hn::Stream(b, tag, d + wide);
  }
  std::memcpy(d, s, n * sizeof(T));
}

void stream_bytes(const void* s, void* d, int64_t bytes) {
  stream_copy(static_cast<const uint8_t*>(s), static_cast<uint8_t*>(d), bytes);
}

// ---- the choice ----

template <class T>
void copy_axes(const Axes& axes, const T* s, T* d, bool parallel) {
  int64_t size = 1;
  for (const Axis& a : axes) size *= a.n;
  const bool stream = size * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
  auto over = [&](int64_t n, int64_t grain, auto&& f) {
    if (parallel)
      parallel_for(n, grain, f);
    else
      f(int64_t{0}, n);
  };
  const int64_t grain = (128 << 10) / sizeof(T);
  if (axes.empty()) {
    *d = *s;
    return;
  }
  const Axis row = axes.back();
  if (axes.size() == 1 && row.s == 1 && row.d == 1 && stream) {
    over(size, grain, [&](int64_t b, int64_t e) {
      stream_copy(s + b, d + b, e - b);
      hwy::FlushStream();
    });
    return;
  }
  // Reading along the rows of the destination would touch a cache line for each element,
  // if another axis is closer together in the source.
  if (row.d == 1 && std::abs(row.s) * sizeof(T) >= 32 && row.n >= 4) {
    size_t across = axes.size() - 1;
    for (size_t j = 0; j < axes.size(); ++j)
      if (axes[j].n >= 4 && axes[j].s != 0 && std::abs(axes[j].s) < std::abs(axes[across].s)) across = j;
    if (across != axes.size() - 1 && std::abs(axes[across].s) * sizeof(T) <= 32) {
      int64_t tiles =
          ((axes[across].n + kTileRows - 1) / kTileRows) * ((row.n + kTileColumns<T> - 1) / kTileColumns<T>);
      tiles *= size / (axes[across].n * row.n);
      int64_t tile_size = std::max<int64_t>(1, size / tiles);
      over(tiles, std::max<int64_t>(1, grain / 2 / tile_size), [&](int64_t b, int64_t e) {
        transpose_tiles(axes, across, s, d, b, e, stream);
        if (stream) hwy::FlushStream();
      });
      return;
    }
  }
  over(size, grain, [&](int64_t b, int64_t e) { walk(axes, s, d, b, e - b); });
}

void copy_sized(const Axes& axes, const void* s, void* d, int size, bool parallel) {
  switch (size) {
    case 1: return copy_axes(axes, static_cast<const uint8_t*>(s), static_cast<uint8_t*>(d), parallel);
    case 2: return copy_axes(axes, static_cast<const uint16_t*>(s), static_cast<uint16_t*>(d), parallel);
    case 4: return copy_axes(axes, static_cast<const uint32_t*>(s), static_cast<uint32_t*>(d), parallel);
    default: return copy_axes(axes, static_cast<const uint64_t*>(s), static_cast<uint64_t*>(d), parallel);
  }
}

// The destination is contiguous: element `begin` of the space goes to its start.
template <class T>
void walk_from(const Axes& axes, const void* s, void* d, int64_t begin, int64_t n) {
  T* origin =
      reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(d) - static_cast<uintptr_t>(begin) * sizeof(T));
  walk(axes, static_cast<const T*>(s), origin, begin, n);
}

void walk_sized(const Axes& axes, const void* s, void* d, int64_t begin, int64_t n, int size) {
  switch (size) {
    case 1: return walk_from<uint8_t>(axes, s, d, begin, n);
    case 2: return walk_from<uint16_t>(axes, s, d, begin, n);
    case 4: return walk_from<uint32_t>(axes, s, d, begin, n);
    default: return walk_from<uint64_t>(axes, s, d, begin, n);
  }
}

}  // namespace lazuli::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lazuli::cpu {

HWY_EXPORT(copy_sized);
HWY_EXPORT(walk_sized);
HWY_EXPORT(stream_bytes);

namespace {

void merge(Axes& axes) {
  size_t kept = 0;
  for (const Axis& axis : axes) {
    if (kept > 0 && axes[kept - 1].s == axis.s * axis.n && axes[kept - 1].d == axis.d * axis.n)
      axes[kept - 1] = {axes[kept - 1].n * axis.n, axis.s, axis.d};
    else
      axes[kept++] = axis;
  }
  axes.resize(kept);
}

void run(const Operand& src, const Operand& dst, bool parallel) {
  Axes axes;
  const int bytes = dst.dtype.size();
  auto* s = static_cast<const char*>(src.data);
  auto* d = static_cast<char*>(dst.data);
  for (size_t i = 0; i < dst.shape.size(); ++i) {
    Axis axis{dst.shape[i], src.strides[i], dst.strides[i]};
    if (axis.n == 0) return;
    if (axis.n == 1) continue;
    if (axis.d < 0) {  // walk it from the other end
      s += (axis.n - 1) * axis.s * bytes;
      d += (axis.n - 1) * axis.d * bytes;
      axis.s = -axis.s;
      axis.d = -axis.d;
    }
    axes.push_back(axis);
  }
  std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.d > b.d; });
  merge(axes);
  HWY_DYNAMIC_DISPATCH(copy_sized)(axes, s, d, bytes, parallel);
}

}  // namespace

void copy(const Operand& src, const Operand& dst) { run(src, dst, true); }
void copy_serial(const Operand& src, const Operand& dst) { run(src, dst, false); }

void store_past_cache(void* to, const void* from, int64_t bytes) {
  HWY_DYNAMIC_DISPATCH(stream_bytes)(from, to, bytes);
}
void flush_stores() { hwy::FlushStream(); }

void copy_range(const Operand& src, int64_t begin, int64_t n, void* dst) {
  Axes axes;
  for (size_t i = 0; i < src.shape.size(); ++i)
    if (src.shape[i] != 1) axes.push_back({src.shape[i], src.strides[i], 0});
  int64_t stride = 1;
  for (size_t i = axes.size(); i-- > 0;) {
    axes[i].d = stride;
    stride *= axes[i].n;
  }
  merge(axes);
  HWY_DYNAMIC_DISPATCH(walk_sized)(axes, src.data, dst, begin, n, src.dtype.size());
}

}  // namespace lazuli::cpu
#endif
