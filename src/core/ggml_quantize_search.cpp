// Q4_K, Q6_K and IQ4_NL: several scales are tried, each followed by the least-squares fit of the
// scale to the levels it gave, and the one with the least weighted squared error is kept. Large
// weights matter more to a product, so they weigh more.
#include <algorithm>
#include <cmath>

#include "core/ggml_quantize.h"

namespace lazuli::ggml {
namespace {

int nearest(float x, int least, int most) {
  // x is finite or, after a division by a tiny scale, infinite.
  return static_cast<int>(std::clamp(std::nearbyint(x), static_cast<float>(least), static_cast<float>(most)));
}

struct Affine {
  float scale = 0, min = 0;  // x = scale * q - min, both not negative
};

// The best scale and minimum of 32 values with levels 0 to 15.
Affine fit_affine(const float* x) {
  constexpr int n = 32, most = 15, steps = 20;
  auto [least, largest] = std::minmax_element(x, x + n);
  const float low = std::min(*least, 0.f), range = *largest - low;
  if (!(range > 0)) return {0, -low};

  float squares = 0, weight[n];
  for (int j = 0; j < n; ++j) squares += x[j] * x[j];
  const float typical = std::sqrt(squares / n);
  for (int j = 0; j < n; ++j) weight[j] = typical + std::abs(x[j]);

  Affine best;
  float best_error = std::numeric_limits<float>::infinity();
  auto consider = [&](Affine a) {
    float error = 0;
    for (int j = 0; j < n; ++j) {
      float q = static_cast<float>(nearest((x[j] + a.min) / a.scale, 0, most));
      float e = a.scale * q - a.min - x[j];
      error += weight[j] * e * e;
    }
    if (error < best_error) best = a, best_error = error;
  };
  consider({range / most, -low});
  for (int step = 0; step <= steps; ++step) {
    const float inverse = (most - 1 + 0.1f * static_cast<float>(step)) / range;
    if (!std::isfinite(inverse)) continue;
    // Minimizes the error over scale and offset for the levels that this inverse gives.
    double w = 0, wq = 0, wqq = 0, wx = 0, wxq = 0;
    for (int j = 0; j < n; ++j) {
      const int q = nearest(inverse * (x[j] - low), 0, most);
      w += weight[j];
      wq += weight[j] * q;
      wqq += weight[j] * q * q;
      wx += weight[j] * x[j];
      wxq += weight[j] * x[j] * q;
    }
    const double determinant = w * wqq - wq * wq;
    if (!(determinant > 0)) continue;
    double scale = (w * wxq - wx * wq) / determinant, offset = (wqq * wx - wq * wxq) / determinant;
    if (offset > 0) offset = 0, scale = wxq / wqq;
    if (scale > 0) consider({static_cast<float>(scale), static_cast<float>(-offset)});
  }
  return best;
}

// The scale for which levels(x / scale) fit x best, with weights x^2. `levels` gives the value on
// the grid nearest to its argument; `edge` is the grid's value of largest magnitude.
template <class Levels>
float fit_scale(const float* x, int n, float edge, float step, Levels levels) {
  float largest = *std::max_element(x, x + n, [](float a, float b) { return std::abs(a) < std::abs(b); });
  float best = largest / edge, best_gain = -1;
  if (largest == 0) return 0;
  for (int i = -9; i <= 9; ++i) {
    const float inverse = (edge + step * static_cast<float>(i)) / largest;
    if (!std::isfinite(inverse)) continue;
    double xq = 0, qq = 0;
    for (int j = 0; j < n; ++j) {
      const double q = levels(x[j] * inverse), w = static_cast<double>(x[j]) * x[j];
      xq += w * x[j] * q;
      qq += w * q * q;
    }
    // With the best scale xq / qq the error falls by xq^2 / qq.
    if (qq > 0 && xq * xq > static_cast<double>(best_gain) * qq) {
      best_gain = static_cast<float>(xq * xq / qq);
      best = static_cast<float>(xq / qq);
    }
  }
  return best;
}

int nearest_iq4(float x) {
  const int8_t* above = std::lower_bound(kIq4Values, kIq4Values + 16, x);
  if (above == kIq4Values) return 0;
  if (above == kIq4Values + 16) return 15;
  return static_cast<int>(above - kIq4Values) - (x - above[-1] < *above - x);
}

float safe_divide(float a, float b) { return b == 0 ? 0 : a / b; }

}  // namespace

void encode(const float* x, Q4_K& b) {
  Affine groups[8];
  float scale = 0, min = 0;
  for (int g = 0; g < 8; ++g) {
    groups[g] = fit_affine(x + 32 * g);
    scale = std::max(scale, groups[g].scale);
    min = std::max(min, groups[g].min);
  }
  b.d = half_scale(scale / 63);
  b.dmin = half_scale(min / 63);
  const float d = b.d, dmin = b.dmin;
  uint8_t s[8], m[8];
  for (int g = 0; g < 8; ++g) {
    s[g] = static_cast<uint8_t>(nearest(safe_divide(groups[g].scale, d), 0, 63));
    m[g] = static_cast<uint8_t>(nearest(safe_divide(groups[g].min, dmin), 0, 63));
  }
  for (int g = 0; g < 4; ++g) {
    b.scales[g] = static_cast<uint8_t>(s[g] | (s[g + 4] >> 4) << 6);
    b.scales[g + 4] = static_cast<uint8_t>(m[g] | (m[g + 4] >> 4) << 6);
    b.scales[g + 8] = static_cast<uint8_t>((s[g + 4] & 15) | (m[g + 4] & 15) << 4);
  }
  std::fill_n(b.qs, 128, uint8_t{0});
  for (int i = 0; i < kSuper; ++i) {
    const int g = i / 32;
    const float step = d * s[g], offset = dmin * m[g];
    const int q = step == 0 ? 0 : nearest((x[i] + offset) / step, 0, 15);
    b.qs[g / 2 * 32 + i % 32] |= static_cast<uint8_t>(q << (g % 2 * 4));
  }
}

void encode(const float* x, Q6_K& b) {
  float scales[16], largest = 0;
  for (int g = 0; g < 16; ++g) {
    scales[g] = fit_scale(x + 16 * g, 16, -32, 0.1f, [](float v) { return nearest(v, -32, 31); });
    if (std::abs(scales[g]) > std::abs(largest)) largest = scales[g];
  }
  b.d = half_scale(largest / -128);
  const float d = b.d;
  std::fill_n(b.ql, 128, uint8_t{0});
  std::fill_n(b.qh, 64, uint8_t{0});
  for (int g = 0; g < 16; ++g) {
    b.scales[g] = static_cast<int8_t>(nearest(safe_divide(scales[g], d), -128, 127));
    const float step = d * b.scales[g];
    for (int i = 16 * g; i < 16 * g + 16; ++i) {
      const int q = step == 0 ? 32 : nearest(x[i] / step, -32, 31) + 32;
      const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
      b.ql[half * 64 + quarter % 2 * 32 + j] |= static_cast<uint8_t>((q & 15) << (quarter / 2 * 4));
      b.qh[half * 32 + j] |= static_cast<uint8_t>((q >> 4) << (2 * quarter));
    }
  }
}

void encode(const float* x, IQ4_NL& b) {
  b.d = half_scale(fit_scale(x, 32, -127, 2, [](float v) { return kIq4Values[nearest_iq4(v)]; }));
  const float d = b.d;
  uint8_t q[32];
  for (int j = 0; j < 32; ++j) q[j] = static_cast<uint8_t>(d == 0 ? nearest_iq4(0) : nearest_iq4(x[j] / d));
  for (int j = 0; j < 16; ++j) b.qs[j] = static_cast<uint8_t>(q[j] | q[j + 16] << 4);
}

}  // namespace lazuli::ggml
