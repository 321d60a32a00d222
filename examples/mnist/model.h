// The two models, and the choice between them.
#pragma once

#include <stdexcept>
#include <string>
#include <variant>

#include "lazuli/nn.h"
#include "lazuli/ops.h"

namespace mnist {

namespace lz = lazuli;
namespace nn = lazuli::nn;
using lazuli::array;

// Two hidden layers of 32.
struct MLP {
  int64_t inputs, classes;
  nn::Linear fc1{inputs, 32};
  nn::Linear fc2{32, 32};
  nn::Linear fc3{32, classes};

  array operator()(const array& x) const {  // (n, height, width)
    array y = lz::flatten(x, 1);
    return fc3(nn::relu(fc2(nn::relu(fc1(y)))));
  }
};

// Two convolutions, each halving the image, then two linear layers.
struct CNN {
  int64_t height, width, classes;
  nn::Conv2d conv1{1, 16, {.kernel = 3, .padding = 1}};
  nn::Conv2d conv2{16, 32, {.kernel = 3, .padding = 1}};
  nn::Linear fc1{32 * (height / 4) * (width / 4), 128};
  nn::Dropout dropout{0.25};
  nn::Linear fc2{128, classes};
  nn::MaxPool2d pool{{.kernel = 2}};

  array operator()(const array& x) const {  // (n, height, width)
    array y = lz::expand_dims(x, 3);
    y = pool(nn::relu(conv1(y)));
    y = pool(nn::relu(conv2(y)));
    return fc2(dropout(nn::relu(fc1(lz::flatten(y, 1)))));
  }
};

// Classifies uint8 images (n, height, width): returns logits (n, classes).
class Classifier {
 public:
  Classifier(const std::string& kind, int64_t height, int64_t width, int64_t classes)
      : net_(make(kind, height, width, classes)) {}

  array operator()(const array& images) const {
    array x = lz::astype(images, lz::float32) / 255.0f;
    return std::visit([&](const auto& net) { return net(x); }, net_);
  }
  // The keys of the model's parts, without a prefix: fc1.weight, ...
  void members(nn::Visitor& visit) {
    std::visit([&](auto& net) { nn::ModuleRef(net).members(visit); }, net_);
  }

 private:
  using Net = std::variant<MLP, CNN>;
  static Net make(const std::string& kind, int64_t height, int64_t width, int64_t classes) {
    if (kind == "mlp") return MLP{height * width, classes};
    if (height < 4 || width < 4)
      throw std::invalid_argument("the CNN needs images of at least 4 by 4 pixels");
    return CNN{height, width, classes};
  }
  Net net_;
};

}  // namespace mnist
