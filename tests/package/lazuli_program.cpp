// A program that uses an installed Lazuli.
#include <cstdio>

#include "lazuli/lazuli.h"

int main() {
  using namespace lazuli;
  array x = random::normal({64, 8}, random::key(1));
  array w = random::normal({8, 3}, random::key(2));
  array y = matmul(x, w);
  auto loss = [&](const array& v) { return mean(square(matmul(x, v) - y)); };
  array v = zeros({8, 3});
  for (int i = 0; i < 200; ++i) {
    v = v - 0.5f * grad(loss)(v);
    eval(v);
  }
  float off = max(abs(v - w)).item<float>();
  std::printf("version %s, largest error %g\n", version(), off);
  if (off > 1e-3f) return 1;
  std::printf("all is well\n");
}
