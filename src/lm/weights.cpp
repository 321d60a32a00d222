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

std::unique_ptr<Weights> open_weights(const ModelFiles& files) {
  switch (files.format) {
    case ModelFiles::Format::gguf: return open_gguf(*files.gguf);
    case ModelFiles::Format::mistral: return open_mistral(files);
    default: return open_hugging_face(files);
  }
}

}  // namespace lazuli::lm
