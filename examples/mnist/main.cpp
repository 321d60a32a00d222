// Trains a small network on MNIST or any data set in its format, and uses it.
//
// Read main() from the bottom up: options, then train() or predict(), then how they measure.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "checkpoint.h"
#include "data.h"
#include "lazuli/random.h"
#include "report.h"

namespace mnist {

struct Options {
  std::string data = "/usr/share/datasets/fashion-mnist";
  Settings settings;
  int epochs = 10;
  std::string save, resume;
  std::vector<std::string> predict;
};

// ---------------------------------------------------------------- measuring

// Logits for all images, in batches that fit the caches.
array logits_of(const Classifier& model, const array& images) {
  std::vector<array> parts;
  lz::DataLoader loader({.batch_size = 500, .shuffle = false}, images);
  for (auto [x] : loader.epoch()) {
    parts.push_back(model(x));
    parts.back().eval();
  }
  return lz::concatenate(parts, 0);
}

std::vector<int> guesses_of(Classifier& model, const array& images) {
  nn::train(model, false);
  auto guesses = lz::argmax(logits_of(model, images), 1).to_vector<int>();
  nn::train(model, true);
  return guesses;
}

double accuracy(const std::vector<int>& guesses, const array& labels) {
  auto truth = labels.span<uint8_t>();
  int64_t right = 0;
  for (size_t i = 0; i < guesses.size(); ++i) right += guesses[i] == truth[i];
  return static_cast<double>(right) / static_cast<double>(guesses.size());
}

// The confusion matrix and a few images that were mistaken.
void report(const Split& test, const std::vector<int>& guesses, const std::vector<std::string>& classes) {
  auto truth = test.labels.span<uint8_t>();
  Confusion counts(classes.size(), std::vector<int64_t>(classes.size()));
  std::vector<Drawing> wrong;
  int64_t height = test.images.shape(1), width = test.images.shape(2);
  for (size_t i = 0; i < guesses.size(); ++i) {
    ++counts[truth[i]][guesses[i]];
    if (guesses[i] != truth[i] && wrong.size() < 6)
      wrong.push_back({test.images.span<uint8_t>().subspan(i * height * width, height * width),
                       fmt::format("{}, not {}", classes[truth[i]], classes[guesses[i]])});
  }
  print_confusion(counts, classes);
  if (!wrong.empty()) fmt::print("\nWrong guesses\n");
  draw({}, wrong, height, width);
}

// ---------------------------------------------------------------- training

// Every epoch starts from its own seed, so that resuming is the same as never stopping.
void seed_epoch(uint64_t seed, int epoch) {
  lz::random::seed(seed * 1'000'003 + static_cast<uint64_t>(epoch) + 1);
}

bool is_finite(const Classifier& model) {
  for (const auto& [name, p] : nn::parameters(model))
    if (!lz::all(lz::isfinite(p)).item<bool>()) return false;
  return true;
}

void train(const Options& options) {
  Settings s = options.settings;
  DataSet data = load_dataset(options.data);
  if (options.resume.empty()) {
    s.height = data.height();
    s.width = data.width();
    s.classes = data.classes;
  } else if (s.height != data.height() || s.width != data.width() ||
             s.classes.size() != data.classes.size()) {
    throw std::runtime_error(
        fmt::format("{} is a model of {}x{} images in {} classes, the data has {}x{} in {}", options.resume,
                    s.height, s.width, s.classes.size(), data.height(), data.width(), data.classes.size()));
  }
  if (!options.save.empty()) check_writable(options.save);

  lz::random::seed(s.seed);
  Classifier model = make_model(s);
  optimizers::Optimizer optimizer = make_optimizer(s);
  if (!options.resume.empty()) {
    optimizers::load_checkpoint(checkpoint_path(options.resume), model, optimizer);
    optimizer.set_learning_rate(static_cast<float>(s.lr));
  }
  auto step = nn::value_and_grad(model, [](const Classifier& m, const array& x, const array& y) {
    return nn::losses::cross_entropy(m(x), y, {.reduction = nn::losses::mean});
  });

  int64_t count = data.train.images.shape(0);
  fmt::print(
      "{} training and {} test images of {}x{}; {} with {} parameters, {}, learning rate {}, batch size {}\n",
      thousands(count), thousands(data.test.images.shape(0)), s.height, s.width, s.model,
      thousands(nn::num_parameters(model)), s.optimizer, s.lr, s.batch_size);
  if (s.epoch >= options.epochs) fmt::print("Already trained for {} epochs\n", s.epoch);

  lz::DataLoader loader({.batch_size = s.batch_size}, data.train.images,
                        lz::astype(data.train.labels, lz::int32));
  Progress progress({}, s.epoch, options.epochs, count);
  std::vector<int> guesses;
  while (s.epoch < options.epochs) {
    seed_epoch(s.seed, s.epoch);
    progress.start_epoch(s.epoch);
    double total = 0;
    int64_t done = 0;
    for (auto [x, y] : loader.epoch()) {
      auto [loss, grads] = step(x, y);
      optimizer.update(model, grads);
      lz::eval(loss, model, optimizer);
      done += x.shape(0);
      total += loss.item<double>() * static_cast<double>(x.shape(0));
      progress.update(done, total / static_cast<double>(done));
    }
    if (!std::isfinite(total) || !is_finite(model))
      throw std::runtime_error("the loss is no longer a number: try a smaller --lr");
    guesses = guesses_of(model, data.test.images);
    progress.finish_epoch(total / static_cast<double>(count), accuracy(guesses, data.test.labels));
    ++s.epoch;
    if (!options.save.empty()) save(options.save, model, optimizer, s);
  }
  if (guesses.empty()) {
    guesses = guesses_of(model, data.test.images);
    fmt::print("Test accuracy: {:.2f}%\n", 100 * accuracy(guesses, data.test.labels));
  }
  report(data.test, guesses, s.classes);
  if (!options.save.empty()) fmt::print("\nSaved to {}\n", checkpoint_path(options.save));
}

// ---------------------------------------------------------------- using a saved model

// One line for each image: its likeliest classes.
void classify(const Classifier& model, const Settings& s, const std::string& file) {
  array images = load_images(file);
  if (images.shape(1) != s.height || images.shape(2) != s.width)
    throw std::runtime_error(fmt::format("{}: its images are {}x{}, the model takes {}x{}", file,
                                         images.shape(1), images.shape(2), s.height, s.width));
  array probabilities = lz::softmax(logits_of(model, images), 1);
  auto p = probabilities.span<float>();
  size_t classes = s.classes.size();
  for (int64_t i = 0; i < images.shape(0); ++i) {
    std::vector<size_t> order(classes);
    for (size_t c = 0; c < classes; ++c) order[c] = c;
    std::ranges::stable_sort(order, std::greater(), [&](size_t c) { return p[i * classes + c]; });
    fmt::print("{}{}:", file, images.shape(0) > 1 ? fmt::format("[{}]", i) : "");
    for (size_t rank = 0; rank < std::min<size_t>(3, classes); ++rank)
      fmt::print("{} {} {:.1f}%", rank ? "," : "", s.classes[order[rank]],
                 100 * p[i * classes + order[rank]]);
    fmt::print("\n");
  }
  if (images.shape(0) == 1) {
    array pixels = lz::contiguous(images);
    draw({}, std::vector<Drawing>{{pixels.span<uint8_t>(), ""}}, s.height, s.width);
  }
}

void predict(const Options& options) {
  const std::string& file = options.predict[0];
  Settings s = load_settings(file);
  Classifier model = make_model(s);
  optimizers::Optimizer optimizer = make_optimizer(s);
  optimizers::load_checkpoint(checkpoint_path(file), model, optimizer);
  nn::train(model, false);
  if (options.predict.size() > 1) {
    for (size_t i = 1; i < options.predict.size(); ++i) classify(model, s, options.predict[i]);
    return;
  }
  DataSet data = load_dataset(options.data);
  if (s.height != data.height() || s.width != data.width() || s.classes.size() < data.classes.size())
    throw std::runtime_error(
        fmt::format("{} is a model of other images than those in {}", file, options.data));
  std::vector<int> guesses = guesses_of(model, data.test.images);
  fmt::print("Test accuracy: {:.2f}%\n", 100 * accuracy(guesses, data.test.labels));
  report(data.test, guesses, s.classes);
}

// ---------------------------------------------------------------- options

int run(int argc, char** argv) {
  Options options;
  Settings given;
  CLI::App app("Trains a network on images in MNIST's format; shows what it learns and where it errs.",
               "mnist");
  app.footer(
      "Examples:\n"
      "  mnist                                           the MLP of mlx-rs's example, on Fashion-MNIST\n"
      "  mnist --model cnn --epochs 5 --save cnn         a CNN that passes 90%\n"
      "  mnist --resume cnn --epochs 8 --save cnn        three epochs more\n"
      "  mnist --predict cnn                             its test accuracy\n"
      "  mnist --predict cnn shirt.pgm t10k-images.gz    what is on these images\n"
      "  mnist --data ~/mnist                            handwritten digits\n"
      "  mnist --model cnn --device gpu                  on an NVIDIA GPU");
  app.add_option("--data", options.data, "Folder of IDX files, gzip or not")->capture_default_str();
  auto* model =
      app.add_option("--model", given.model, "mlp (default) or cnn")->check(CLI::IsMember({"mlp", "cnn"}));
  app.add_option("--epochs", options.epochs, "Passes over the data, those of a resumed model included")
      ->capture_default_str()
      ->check(CLI::Range(0, 1'000'000));
  auto* batch_size =
      app.add_option("--batch-size", given.batch_size, "Images in a step (default 256, for cnn 64)")
          ->check(CLI::Range(1, 1'000'000));
  auto* lr =
      app.add_option("--lr", given.lr, "Learning rate (default 0.01 for sgd, 0.001 for adam and adamw)")
          ->check([](const std::string& text) {
            double value = std::strtod(text.c_str(), nullptr);  // not a number fails the comparison
            return value > 0 && value <= 1e6 ? "" : "must be a positive number, not " + text;
          });
  auto* optimizer =
      app.add_option("--optimizer", given.optimizer, "sgd (default of mlp), adam or adamw (of cnn)")
          ->check(CLI::IsMember({"sgd", "adam", "adamw"}));
  auto* seed = app.add_option("--seed", given.seed, "Seed of all random numbers (default 0)");
  auto* save_to = app.add_option("--save", options.save, "Save model and optimizer here after each epoch");
  auto* resume =
      app.add_option("--resume", options.resume, "Continue from a saved file, exactly as if never stopped");
  app.add_option("--predict", options.predict,
                 "MODEL [IMAGE...]: classify images (IDX or PGM), or the test images of --data")
      ->expected(1, -1)
      ->excludes(save_to)
      ->excludes(resume);
  std::string device;
  app.add_option("--device", device,
                 "Where to compute: cpu or gpu (default: what LAZULI_DEVICE says, or cpu)")
      ->check(CLI::IsMember({"cpu", "gpu"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    throw std::runtime_error(e.what());
  }

  if (!device.empty()) lz::set_default_device(device == "gpu" ? lz::Device::gpu : lz::Device::cpu);
  if (!options.predict.empty()) {
    predict(options);
    return 0;
  }
  Settings& s = options.settings;
  if (!options.resume.empty()) {
    s = load_settings(options.resume);
    if (*model && given.model != s.model)
      throw std::runtime_error(
          fmt::format("{} holds a model of kind {}, not {}", options.resume, s.model, given.model));
    if (*optimizer && given.optimizer != s.optimizer)
      throw std::runtime_error(
          fmt::format("{} was trained by {}, not {}", options.resume, s.optimizer, given.optimizer));
  } else {
    s.model = given.model;
    s.optimizer = *optimizer ? given.optimizer : s.model == "cnn" ? "adamw" : "sgd";
    s.lr = s.optimizer == "sgd" ? 1e-2 : 1e-3;
    s.batch_size = s.model == "cnn" ? 64 : 256;
  }
  if (*lr) s.lr = given.lr;
  if (*batch_size) s.batch_size = given.batch_size;
  if (*seed) s.seed = given.seed;
  train(options);
  return 0;
}

}  // namespace mnist

int main(int argc, char** argv) {
  try {
    return mnist::run(argc, argv);
  } catch (const std::exception& e) {
    std::string line = e.what();
    std::ranges::replace(line, '\n', ' ');
    std::fflush(stdout);
    std::cerr << "mnist: " << line << std::endl;
    return 1;
  }
}
