#include "lazuli/optimizers/checkpoint.h"

#include <stdexcept>
#include <unordered_set>

#include "lazuli/io.h"

namespace lazuli::optimizers {

void save_checkpoint(const std::string& file, nn::ConstModuleRef model, const Optimizer& optimizer,
                     const std::unordered_map<std::string, std::string>& metadata) {
  Tree all = nn::parameters(model).under("model").merge(optimizer.state().under("optimizer"));
  save_safetensors(file, all.flatten(), metadata);
}

std::unordered_map<std::string, std::string> load_checkpoint(const std::string& file, nn::ModuleRef model,
                                                             Optimizer& optimizer) {
  auto [arrays, metadata] = load_safetensors(file);
  Tree all(arrays);
  Tree state = all.sub("optimizer"), weights = all.sub("model");
  Optimizer restored = optimizer;
  restored.set_state(state);

  // Every slot must belong to a parameter: "path.slot", behind "states.N." if there are several optimizers.
  std::unordered_set<std::string> paths;
  for (const auto& entry : weights) paths.insert(entry.first);
  for (const auto& entry : state) {
    std::string_view path = entry.first;
    if (path.starts_with("states.") && !paths.count(std::string(path.substr(0, path.rfind('.')))))
      path.remove_prefix(path.find('.', sizeof "states.") + 1);
    if (path == "step" || path == "learning_rate") continue;
    if (!paths.count(std::string(path.substr(0, path.rfind('.')))))
      throw std::invalid_argument("[load_checkpoint] " + file + " has optimizer state '" + entry.first +
                                  "' but no such parameter");
  }
  nn::load_weights(model, weights);
  optimizer = std::move(restored);
  return metadata;
}

}  // namespace lazuli::optimizers
