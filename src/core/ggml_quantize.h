// Rounds the values of one block. Q4_K, Q6_K and IQ4_NL, which search for scales, have a file of
// their own.
#pragma once

#include "core/ggml_blocks.h"

namespace lazuli::ggml {

// A scale as float16. Throws std::invalid_argument where that would overflow.
float16_t half_scale(float scale);

// REQUIRES: |x| <= 1e9.
void encode(const float* x, Q4_0& b);
void encode(const float* x, Q4_1& b);
void encode(const float* x, Q5_0& b);
void encode(const float* x, Q5_1& b);
void encode(const float* x, Q8_0& b);
void encode(const float* x, Q4_K& b);
void encode(const float* x, Q6_K& b);
void encode(const float* x, IQ4_NL& b);

}  // namespace lazuli::ggml
