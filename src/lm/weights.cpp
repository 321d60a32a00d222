#include "lm/weights.h"

#include <fmt/format.h>

#include <stdexcept>

#include "lm/sources/folder.h"

namespace lazuli::lm {

Norm Weights::layer_norm(const std::string& name, int64_t size, float eps) const {
  Norm n = norm(name, size, eps);
  if (!n.bias) throw std::runtime_error(fmt::format("[load_model] the layer norm {} has no bias", name));
  return n;
}

void Weights::choose_activations(Dtype of_weights) {
  if (!for_gpu()) return;
  // Gemma's residual stream outgrows float16: it was trained in bfloat16, whose exponents are those of
  // float32.
  const bool large = config_.architecture.starts_with("gemma");
  if (of_weights == bfloat16 || (of_weights == float16 && !large)) activations_ = of_weights;
}

std::unique_ptr<Weights> open_weights(const ModelFiles& files, ModelFiles* own) {
  switch (files.format) {
    case ModelFiles::Format::gguf: return open_gguf(*files.gguf);
    case ModelFiles::Format::mistral: return open_mistral(files, own);
    default: return open_hugging_face(files, own);
  }
}

}  // namespace lazuli::lm
