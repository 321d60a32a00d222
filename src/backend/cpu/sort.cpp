// Sorting along the last axis: rows in parallel, or all threads on a single long row.
#include "ops/sort.h"

#include "backend/backend.h"
#include "backend/cpu/radix_sort.h"

namespace lazuli::cpu {

namespace {

// Calls f(row, space, parallel) for every row of n elements, with working memory.
template <class E, class F>
void for_each_row(int64_t rows, int64_t n, F&& f) {
  if (rows == 0 || n == 0) return;
  if (rows < num_threads() && n >= kSortInParallel) {
    SortSpace<E> space(n);
    for (int64_t r = 0; r < rows; ++r) f(r, space, true);
    return;
  }
  parallel_for(rows, std::max<int64_t>(1, 2048 / n), [&](int64_t begin, int64_t end) {
    SortSpace<E> space(n);
    for (int64_t r = begin; r < end; ++r) f(r, space, false);
  });
}

// Calls f with the type whose keys sort the dtype.
template <class F>
void dispatch_key(Dtype t, F&& f) {
  if (t == bool_) return f(uint8_t{});
  dispatch_dtype(t, [&]<class T>(T x) {
    if constexpr (!std::same_as<T, bool>) f(x);
  });
}

int64_t last_extent(const Operand& a) { return a.shape.back(); }

void run_sort(const KernelCall& call) {
  const Operand& in = call.in[0];
  const int64_t n = last_extent(in), rows = n ? in.size / n : 0;
  dispatch_key(in.dtype, [&]<class T>(T) {
    using K = SortKey<T>;
    using Key = typename K::Key;
    for_each_row<Key>(rows, n, [&](int64_t r, SortSpace<Key>& space, bool parallel) {
      const T* x = in.as<T>() + r * n;
      T* y = call.out[0].as<T>() + r * n;  // may be x: everything is read before the first store
      radix_sort(
          space.a.get(), space.b.get(), n, parallel,
          [&](int64_t i) { return K::template encode<false>(x[i]); },
          [&](int64_t i, Key key) { y[i] = K::decode(key); });
    });
  });
}

// Calls order(space, n, parallel, load, emit) for every row, with indexed keys.
template <class F>
void run_indexed(const KernelCall& call, F&& order) {
  const Operand& in = call.in[0];
  const int64_t n = last_extent(in), rows = n ? in.size / n : 0;
  dispatch_key(in.dtype, [&]<class T>(T) {
    using K = SortKey<T>;
    // Small keys share code; the index makes an element 8 bytes at least.
    using E = Indexed<std::conditional_t<sizeof(typename K::Key) == 8, uint64_t, uint32_t>>;
    for_each_row<E>(rows, n, [&](int64_t r, SortSpace<E>& space, bool parallel) {
      const T* x = in.as<T>() + r * n;
      uint32_t* y = call.out[0].as<uint32_t>() + r * n;
      order(
          space, n, parallel,
          [&](int64_t i) {
            return E{K::template encode<true>(x[i]), static_cast<uint32_t>(i)};
          },
          [&](int64_t i, const E& e) { y[i] = e.index; });
    });
  });
}

void run_argsort(const KernelCall& call) {
  run_indexed(call, [](auto& space, int64_t n, bool parallel, auto load, auto emit) {
    radix_sort(space.a.get(), space.b.get(), n, parallel, load, emit);
  });
}

void run_argpartition(const KernelCall& call) {
  const int64_t kth = static_cast<const ArgPartition&>(call.primitive).kth;
  run_indexed(call, [kth](auto& space, int64_t n, bool, auto load, auto emit) {
    auto* a = space.a.get();
    for (int64_t i = 0; i < n; ++i) a[i] = load(i);
    std::nth_element(a, a + kth, a + n);
    for (int64_t i = 0; i < n; ++i) emit(i, a[i]);
  });
}

void run_searchsorted(const KernelCall& call) {
  const bool right = static_cast<const SearchSorted&>(call.primitive).right;
  const Operand &sorted = call.in[0], &values = call.in[1];
  const int64_t n = last_extent(sorted);
  int64_t batches = 1;
  for (size_t i = 0; i + 1 < sorted.shape.size(); ++i) batches *= sorted.shape[i];
  const int64_t per_batch = batches ? values.size / batches : 0;
  dispatch_key(sorted.dtype, [&]<class T>(T) {
    using K = SortKey<T>;
    using Key = typename K::Key;
    parallel_for(values.size, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* row = sorted.as<T>() + i / per_batch * n;
        Key v = K::template encode<true>(values.as<T>()[i]);
        const T* at = right ? std::upper_bound(row, row + n, v,
                                               [](Key k, T x) { return k < K::template encode<true>(x); })
                            : std::lower_bound(row, row + n, v,
                                               [](T x, Key k) { return K::template encode<true>(x) < k; });
        call.out[0].as<uint32_t>()[i] = static_cast<uint32_t>(at - row);
      }
    });
  });
}

}  // namespace

void register_sort(KernelTable& t) {
  t.add<Sort>({&run_sort, 1, 1});
  t.add<ArgSort>({&run_argsort, 1, 0});
  t.add<ArgPartition>({&run_argpartition, 1, 0});
  t.add<SearchSorted>({&run_searchsorted, 3, 0});
}

}  // namespace lazuli::cpu
