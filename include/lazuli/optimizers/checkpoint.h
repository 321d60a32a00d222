// A model and its optimizer in one safetensors file, to go on training later.
//
//     optimizers::save_checkpoint("last.safetensors", model, optimizer, {{"epoch", "3"}});
//     auto metadata = optimizers::load_checkpoint("last.safetensors", model, optimizer);
//
// Keys are "model.…" and "optimizer.…".
#pragma once

#include <string>
#include <unordered_map>

#include "lazuli/nn/module.h"
#include "lazuli/optimizers/optimizer.h"

namespace lazuli::optimizers {

void save_checkpoint(const std::string& file, nn::ConstModuleRef model, const Optimizer& optimizer,
                     const std::unordered_map<std::string, std::string>& metadata = {});

// Returns the metadata. Throws std::invalid_argument, leaving both as they were, if the file does not
// hold exactly this model's arrays, has no optimizer state, or has state of parameters that the model lacks.
std::unordered_map<std::string, std::string> load_checkpoint(const std::string& file, nn::ModuleRef model,
                                                             Optimizer& optimizer);

}  // namespace lazuli::optimizers
