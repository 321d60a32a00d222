// Primitives of the sort family. All work along the last axis; the front ends move the axis there.
#pragma once

#include "ops/parameters.h"

namespace lazuli {

// What the primitives that keep leading axes as they are share.
class SortPrimitive : public Primitive {
 public:
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;

 private:
  virtual array again(const array& a) const = 0;
};

class Sort : public detail::Parameters<SortPrimitive, Sort> {
 public:
  std::string_view name() const override { return "sort"; }
  auto params() const { return std::tie(); }
  static constexpr const char* param_names[] = {""};
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;

 private:
  array again(const array& a) const override;
};

// Stable.
class ArgSort : public detail::Parameters<SortPrimitive, ArgSort> {
 public:
  std::string_view name() const override { return "argsort"; }
  auto params() const { return std::tie(); }
  static constexpr const char* param_names[] = {""};

 private:
  array again(const array& a) const override;
};

// Indices with that of the element of rank `kth` (>= 0) at its place.
class ArgPartition : public detail::Parameters<SortPrimitive, ArgPartition> {
 public:
  explicit ArgPartition(int64_t kth) : kth(kth) {}
  std::string_view name() const override { return "argpartition"; }
  auto params() const { return std::tie(kth); }
  static constexpr const char* param_names[] = {"kth"};
  const int64_t kth;

 private:
  array again(const array& a) const override;
};

// Inputs: sorted (batch..., n) and values (batch..., any...).
class SearchSorted : public detail::Parameters<Primitive, SearchSorted> {
 public:
  explicit SearchSorted(bool right) : right(right) {}
  std::string_view name() const override { return "searchsorted"; }
  auto params() const { return std::tie(right); }
  static constexpr const char* param_names[] = {"right"};
  std::vector<array> vjp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::vector<array> jvp(const std::vector<array>&, const std::vector<array>&, const std::vector<int>&,
                         const std::vector<array>&) const override;
  std::pair<std::vector<array>, std::vector<int>> vmap(const std::vector<array>&,
                                                       const std::vector<int>&) const override;
  std::optional<std::vector<Shape>> output_shapes(const std::vector<array>&) const override;
  const bool right;
};

}  // namespace lazuli
