// Training state in one safetensors file: model, optimizer, and in the metadata all that is
// needed to build both again.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "lazuli/io.h"
#include "lazuli/optimizers.h"
#include "model.h"

namespace mnist {

namespace optimizers = lazuli::optimizers;

struct Settings {
  std::string model = "mlp", optimizer = "sgd";
  double lr = 1e-2;
  int64_t batch_size = 256;
  uint64_t seed = 0;
  int epoch = 0;  // epochs done
  int64_t height = 28, width = 28;
  std::vector<std::string> classes;
};

inline optimizers::Optimizer make_optimizer(const Settings& settings) {
  float lr = static_cast<float>(settings.lr);
  if (settings.optimizer == "sgd") return optimizers::SGD(lr);
  if (settings.optimizer == "adam") return optimizers::Adam(lr, {.bias_correction = true});
  return optimizers::AdamW(lr, {.weight_decay = 0.01, .bias_correction = true});
}

inline Classifier make_model(const Settings& s) {
  return Classifier(s.model, s.height, s.width, static_cast<int64_t>(s.classes.size()));
}

inline std::string checkpoint_path(std::string file) {
  return file.ends_with(".safetensors") ? file : file + ".safetensors";
}

// Finds out before hours of training, not after, that a file cannot be written.
inline void check_writable(const std::string& file) {
  namespace fs = std::filesystem;
  fs::path path(checkpoint_path(file)), folder = path.has_parent_path() ? path.parent_path() : ".";
  if (fs::is_directory(path)) throw std::runtime_error(path.string() + " is a folder, not a file");
  if (!fs::is_directory(folder)) throw std::runtime_error("there is no folder " + folder.string());
}

inline void save(const std::string& file, const Classifier& model, const optimizers::Optimizer& optimizer,
                 const Settings& s) {
  optimizers::save_checkpoint(checkpoint_path(file), model, optimizer,
                              {{"format", "lazuli-mnist"},
                               {"model", s.model},
                               {"optimizer", s.optimizer},
                               {"learning_rate", fmt::format("{}", s.lr)},
                               {"batch_size", std::to_string(s.batch_size)},
                               {"seed", std::to_string(s.seed)},
                               {"epoch", std::to_string(s.epoch)},
                               {"height", std::to_string(s.height)},
                               {"width", std::to_string(s.width)},
                               {"classes", fmt::format("{}", fmt::join(s.classes, ","))}});
}

inline Settings load_settings(const std::string& file) {
  std::string path = checkpoint_path(file);
  auto metadata = lazuli::load_safetensors(path).second;
  if (metadata["format"] != "lazuli-mnist")
    throw std::runtime_error(path + ": not a model that this program saved");
  try {
    Settings s{.model = metadata.at("model"),
               .optimizer = metadata.at("optimizer"),
               .lr = std::stod(metadata.at("learning_rate")),
               .batch_size = std::stoll(metadata.at("batch_size")),
               .seed = std::stoull(metadata.at("seed")),
               .epoch = std::stoi(metadata.at("epoch")),
               .height = std::stoll(metadata.at("height")),
               .width = std::stoll(metadata.at("width")),
               .classes = {}};
    std::string names = metadata.at("classes");
    for (size_t start = 0, end; start <= names.size(); start = end + 1) {
      end = std::min(names.find(',', start), names.size());
      s.classes.push_back(names.substr(start, end - start));
    }
    bool known = (s.model == "mlp" || s.model == "cnn") &&
                 (s.optimizer == "sgd" || s.optimizer == "adam" || s.optimizer == "adamw");
    auto sane = [](int64_t n) { return n > 0 && n <= 4096; };
    if (known && sane(s.height) && sane(s.width) && s.batch_size > 0 && s.epoch >= 0) return s;
  } catch (const std::logic_error&) {  // no such key, not a number
  }
  throw std::runtime_error(path + ": its metadata is damaged");
}

}  // namespace mnist
