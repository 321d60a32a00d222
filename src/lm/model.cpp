#include "lazuli/lm/model.h"

#include <fmt/format.h>

#include <stdexcept>

#include "lazuli/ops.h"
#include "lm/columns.h"
#include "lm/models.h"

namespace lazuli::lm {

Cache Model::make_cache(const CacheOptions& options) const {
  if (options.max_positions < 0)
    throw std::invalid_argument(
        fmt::format("[make_cache] max_positions must be 0 or more, not {}", options.max_positions));
  std::vector<std::unique_ptr<KVCache>> layers;
  for (int64_t i = 0; i < info().layers; ++i) {
    const int64_t window = network_->window(i), most = options.max_positions;
    CacheOptions layer = resolved(options, info().activations);
    if (window > 0 && (most == 0 || window <= most)) layer.max_positions = window, layer.keep = 0;
    layers.push_back(layer.max_positions > 0 ? make_rotating_cache(layer) : make_growing_cache(layer));
  }
  return Cache(std::move(layers));
}

array Model::operator()(const array& tokens, Cache& cache) const {
  array h = network_->hidden(tokens, cache);
  const int64_t n = h.shape(1);
  array last = slice(h, {0, n - 1, 0}, {h.shape(0), n, h.shape(2)});
  return squeeze(network_->logits(last), 1);
}

array Model::all_logits(const array& tokens, Cache& cache) const {
  return network_->logits(network_->hidden(tokens, cache));
}

namespace {

Model load(const Weights& weights) {
  return Model(find_architecture(weights.config().architecture).load(weights));
}

}  // namespace

Model load_model(const Gguf& file) { return load(*open_gguf(file)); }
Model load_model(const ModelFiles& files) { return load(*open_weights(files)); }
Model load_model(ModelFiles&& files) {
  ModelFiles own = std::move(files);
  return load(*open_weights(own, &own));
}
Model load_model(const std::string& path) { return load_model(load_model_files(path)); }

}  // namespace lazuli::lm
