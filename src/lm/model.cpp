#include "lazuli/lm/model.h"

#include <fmt/format.h>

#include <stdexcept>

#include "lazuli/ops.h"
#include "lm/models.h"

namespace lazuli::lm {

array Model::operator()(const array& tokens, Cache& cache) const {
  array h = network_->hidden(tokens, cache);
  const int64_t n = h.shape(1);
  array last = slice(h, {0, n - 1, 0}, {h.shape(0), n, h.shape(2)});
  return squeeze(network_->logits(last), 1);
}

array Model::all_logits(const array& tokens, Cache& cache) const {
  return network_->logits(network_->hidden(tokens, cache));
}

Model load_model(const Gguf& file) {
  const std::string architecture = file.metadata.get_or<std::string>("general.architecture", "(none)");
  for (const Architecture& a : architectures())
    if (a.name == architecture) return Model(a.from_gguf(file));
  std::string known;
  for (const Architecture& a : architectures()) known += (known.empty() ? "" : ", ") + std::string(a.name);
  throw std::runtime_error(
      fmt::format("[load_model] the architecture {} is not known; known are {}", architecture, known));
}

Model load_model(const std::string& path) { return load_model(load_gguf(path)); }

}  // namespace lazuli::lm
