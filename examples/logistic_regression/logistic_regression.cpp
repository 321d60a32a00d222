// Separates two classes of points by gradient descent on the log loss.
#include <chrono>
#include <iostream>

#include "lazuli/lazuli.h"

using namespace lazuli;

int main() {
  constexpr int kFeatures = 100, kExamples = 1'000, kSteps = 10'000;
  constexpr float kLearningRate = 0.1f;
  random::seed(0);

  array truth = random::normal({kFeatures});
  array x = random::normal({kExamples, kFeatures});
  array y = astype(matmul(x, truth) > 0.0f, float32);

  // -log p of a label y in {0, 1} with logit z is log(1 + e^z) - y z.
  auto loss = [&](const array& w) {
    array z = matmul(x, w);
    return mean(logaddexp(array(0.0f), z) - y * z);
  };
  auto gradient = grad(loss);

  array w = 1e-2f * random::normal({kFeatures});
  auto start = std::chrono::steady_clock::now();
  for (int step = 0; step < kSteps; ++step) {
    w = w - kLearningRate * gradient(w);
    eval(w);
  }
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  array right = (matmul(x, w) > 0.0f) == (y > 0.5f);
  std::cout << "loss: " << loss(w).item<float>()
            << "\naccuracy: " << mean(astype(right, float32)).item<float>()
            << "\nsteps per second: " << kSteps / seconds.count() << "\n";
}
