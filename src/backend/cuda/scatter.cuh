// How a scatter joins an update with what is there: sums and the like in float for halves.
#pragma once

#include "backend/cuda/dtypes.h"
#include "backend/cuda/walk.cuh"
#include "ops/indexing.h"

namespace lazuli::cuda {

enum class Join { set, add, other };  // `other`: prod, max or min, told apart as it runs

// Some elements side by side, of memory's type T.
template <class T, int kPack, Join kJoin>
struct Joined {
  using Element = T;
  static constexpr int pack = kPack;
  static constexpr Join join = kJoin;
  using C = std::conditional_t<kJoin == Join::set, T, Compute<T>>;
  using Memory = lane::Pack<T, kPack>;
  using Partial = lane::Pack<C, kPack>;

  C value[kPack];

  __device__ static C of(T x) {
    if constexpr (kJoin == Join::set)
      return x;
    else
      return of_memory(x);
  }
  __device__ void load(const T* p) {
    const Memory m = *reinterpret_cast<const Memory*>(p);
#pragma unroll
    for (int i = 0; i < kPack; ++i) value[i] = of(m.at[i]);
  }
  __device__ void repeat(T x) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) value[i] = of(x);
  }
  __device__ void store(T* p) const {
    Memory m;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      if constexpr (kJoin == Join::set)
        m.at[i] = value[i];
      else
        m.at[i] = to_memory<T>(value[i]);
    }
    *reinterpret_cast<Memory*>(p) = m;
  }
  __device__ void take(const Joined& x, Accumulate op) {
#pragma unroll
    for (int i = 0; i < kPack; ++i) value[i] = joined(value[i], x.value[i], op);
  }
  __device__ void load_partial(const Partial* p) {
    const Partial m = *p;
#pragma unroll
    for (int i = 0; i < kPack; ++i) value[i] = m.at[i];
  }
  __device__ void store_partial(Partial* p) const {
    Partial m;
#pragma unroll
    for (int i = 0; i < kPack; ++i) m.at[i] = value[i];
    *p = m;
  }

  __device__ static C joined(C x, C y, Accumulate op) {
    if constexpr (kJoin == Join::set) {
      return y;
    } else if constexpr (kJoin == Join::add) {
      return sum(x, y);
    } else {
      if (op == Accumulate::max) return lane::max(x, y);
      if (op == Accumulate::min) return lane::min(x, y);
      if constexpr (std::is_same_v<C, bool>)
        return x && y;
      else if constexpr (std::is_integral_v<C>)  // unsigned: overflow is defined
        return static_cast<C>(static_cast<uint64_t>(x) * static_cast<uint64_t>(y));
      else
        return x * y;
    }
  }
  __device__ static C sum(C x, C y) {
    if constexpr (std::is_same_v<C, bool>)
      return x || y;
    else if constexpr (std::is_integral_v<C>)
      return static_cast<C>(static_cast<uint64_t>(x) + static_cast<uint64_t>(y));
    else
      return x + y;
  }
};

// Elements that may go together where `pack` lie together.
inline int64_t allowed_pack(Accumulate op, Dtype t, int64_t pack) {
  if (op == Accumulate::none) return pack;
  const bool packs = op == Accumulate::add && (t == float32 || t == float16 || t == bfloat16);
  return packs && pack * t.size() == 16 ? pack : 1;
}

// Calls f with std::type_identity<Joined<...>>. Sums of integers have the same bits for both signs.
template <class F>
void visit_joined(Accumulate op, Dtype t, int64_t pack, F&& f) {
  auto one = [&]<class T>(std::type_identity<T>) { f(std::type_identity<Joined<T, 1, Join::add>>{}); };
  if (op == Accumulate::none) {
    visit_unit(t.size() * pack,
               [&]<class T>(std::type_identity<T>) { f(std::type_identity<Joined<T, 1, Join::set>>{}); });
  } else if (op != Accumulate::add) {
    visit_any(t, [&]<class T>(std::type_identity<T>) { f(std::type_identity<Joined<T, 1, Join::other>>{}); });
  } else if (pack > 1) {
    if (t == float32) return f(std::type_identity<Joined<float, 4, Join::add>>{});
    if (t == float16) return f(std::type_identity<Joined<Half, 8, Join::add>>{});
    f(std::type_identity<Joined<Bfloat, 8, Join::add>>{});
  } else if (t == bool_) {
    one(std::type_identity<bool>{});
  } else if (t == complex64) {
    one(std::type_identity<Complex>{});
  } else if (issubdtype(t, integer)) {
    visit_size(t.size(), one);
  } else {
    visit_floats(t, one);
  }
}

}  // namespace lazuli::cuda
