// The architectures that can be loaded, one file in models/ each.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "lazuli/lm/model.h"

namespace lazuli::lm {

struct Architecture {
  std::string_view name;  // as GGUF's general.architecture
  std::shared_ptr<const Model::Network> (*from_gguf)(const Gguf&);
};
std::span<const Architecture> architectures();

std::shared_ptr<const Model::Network> load_llama(const Gguf&);

}  // namespace lazuli::lm
