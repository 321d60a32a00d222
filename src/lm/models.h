// The architectures that can be loaded, one file in models/ each.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lazuli/lm/model.h"
#include "lm/weights.h"

namespace lazuli::lm {

struct Architecture {
  std::string_view name;        // as GGUF's general.architecture
  std::string_view model_type;  // as config.json's
  std::string_view class_name;  // in transformers
  std::shared_ptr<const Model::Network> (*load)(const Weights&);
};
// Several model types may share a name.
std::span<const Architecture> architectures();
// Throws std::runtime_error that lists what is known.
const Architecture& find_architecture(std::string_view name);
const Architecture* find_model_type(std::string_view model_type);  // null if there is none
std::string known_model_types();
// The row that a configuration fits best: a Llama with experts is a Mixtral.
const Architecture& architecture_of(const Config& config);

std::shared_ptr<const Model::Network> load_llama(const Weights&);
std::shared_ptr<const Model::Network> load_qwen(const Weights&);
std::shared_ptr<const Model::Network> load_gemma(const Weights&);
std::shared_ptr<const Model::Network> load_phi3(const Weights&);
std::shared_ptr<const Model::Network> load_gpt2(const Weights&);

}  // namespace lazuli::lm
