// Writes the bits_WIDTH_SIZE lines at the end of random.txt; Python does not export `bits`:
//
//     g++ -std=c++20 -I$MLX/include make_random_bits.cpp -L$MLX/lib -lmlx -Wl,-rpath,$MLX/lib
#include <mlx/mlx.h>

#include <iostream>
namespace mx = mlx::core;
int main() {
  mx::set_default_device(mx::Device::cpu);
  auto k = mx::random::key(7);
  for (int w : {1, 2})
    for (int n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 16, 17}) {
      auto b = mx::astype(mx::random::bits({n}, w, k), mx::uint32);
      mx::eval(b);
      std::cout << "bits_" << w << "_" << n;
      for (int i = 0; i < n; i++) std::cout << " " << b.data<uint32_t>()[i];
      std::cout << "\n";
    }
  auto ks = mx::random::split(k, 3);
  auto f = mx::vmap([](mx::array q) { return mx::random::bits({7}, 1, q); });
  auto b = mx::astype(f(ks), mx::uint32);
  mx::eval(b);
  std::cout << "vbits_1_7";
  for (int i = 0; i < 21; i++) std::cout << " " << b.data<uint32_t>()[i];
  std::cout << "\n";
}
