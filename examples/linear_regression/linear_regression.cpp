// Finds the weights behind noisy measurements by gradient descent on arrays alone.
#include <chrono>
#include <iostream>

#include "lazuli/lazuli.h"

using namespace lazuli;

int main() {
  constexpr int kFeatures = 100, kExamples = 1'000, kSteps = 10'000;
  constexpr float kLearningRate = 0.01f, kNoise = 1e-2f;
  random::seed(0);

  array truth = random::normal({kFeatures});
  array x = random::normal({kExamples, kFeatures});
  array y = matmul(x, truth) + kNoise * random::normal({kExamples});

  auto loss = [&](const array& w) { return 0.5f * mean(square(matmul(x, w) - y)); };
  auto gradient = grad(loss);

  array w = kNoise * random::normal({kFeatures});
  auto start = std::chrono::steady_clock::now();
  for (int step = 0; step < kSteps; ++step) {
    w = w - kLearningRate * gradient(w);
    eval(w);
  }
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  std::cout << "loss: " << loss(w).item<float>()
            << "\ndistance to the true weights: " << sqrt(sum(square(w - truth))).item<float>()
            << "\nsteps per second: " << kSteps / seconds.count() << "\n";
}
