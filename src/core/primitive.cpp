#include "lazuli/primitive.h"

#include "core/pick.h"
#include "lazuli/ops/creation.h"
#include "lazuli/transforms.h"

namespace lazuli {

std::vector<array> Primitive::vjp(const std::vector<array>&, const std::vector<array>&,
                                  const std::vector<int>&, const std::vector<array>&) const {
  throw std::invalid_argument("[vjp] " + std::string(name()) + " has no gradient");
}

std::vector<array> Primitive::jvp(const std::vector<array>& primals, const std::vector<array>& tangents,
                                  const std::vector<int>& argnums, const std::vector<array>& outputs) const {
  // vjp is linear in the cotangents u, so its own vjp by u applied to the tangents is the
  // forward derivative, whatever u is.
  std::vector<array> u;
  for (auto& out : outputs) u.push_back(zeros_like(out));
  return lazuli::vjp([&](const std::vector<array>& c) { return vjp(primals, c, argnums, outputs); }, u,
                     tangents)
      .second;
}

std::pair<std::vector<array>, std::vector<int>> Primitive::vmap(const std::vector<array>&,
                                                                const std::vector<int>&) const {
  throw std::invalid_argument("[vmap] " + std::string(name()) + " cannot be vectorised");
}

std::optional<std::vector<Shape>> Primitive::output_shapes(const std::vector<array>&) const {
  return std::nullopt;
}

std::optional<std::vector<Shape>> Pick::output_shapes(const std::vector<array>& inputs) const {
  auto* results = inputs[0].node()->results;
  return std::vector<Shape>{results->shapes[static_cast<size_t>(index)]};
}

}  // namespace lazuli
