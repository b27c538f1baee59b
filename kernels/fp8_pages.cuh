// Pages of keys and values in FP8: their layout and their numbers.
//
//   a pool   [pages, kv_heads, page_tokens * (head_dim + 4)]  bytes: for each page and key-value head first the codes
//            [page_tokens, head_dim], e4m3, then the scales [page_tokens], fp32
//
// A number is its code times the scale of its token and head, which is the largest of the head's magnitudes over 448,
// the largest e4m3. Codes and scales of a head are one run of bytes, so that attention, which reads a head at a time,
// reads whole runs: 8.4 kB for 64 tokens of 128 dimensions, 3 % of it scales.
//
// Error: e4m3 has 4 significant bits, so rounding moves a number by a sixteenth at most, by 2^-10 of the head's largest
// where it is small.
#pragma once

#include "hopper.cuh"

namespace edgewise {
inline namespace EDGEWISE_FORMAT {

constexpr float kMostCode = 448.f;

// Bytes of one key-value head in a page.
__host__ __device__ constexpr int64_t head_page_bytes(int page_tokens, int head_dim) {
  return static_cast<int64_t>(page_tokens) * (head_dim + 4);
}

// Two codes, the first in the low byte; to nearest, NaN stays NaN.
__device__ __forceinline__ uint32_t to_codes(float low, float high) {
  uint16_t codes;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
  return codes;
}

// The four codes of a word as two pairs of half precision, which has every e4m3 exactly.
__device__ __forceinline__ void from_codes(uint32_t codes, uint32_t& low, uint32_t& high) {
  asm("{\n .reg .b16 a, b;\n"
      " mov.b32 {a, b}, %2;\n"
      " cvt.rn.f16x2.e4m3x2 %0, a;\n"
      " cvt.rn.f16x2.e4m3x2 %1, b;\n}"
      : "=r"(low), "=r"(high)
      : "r"(codes));
}

}  // namespace EDGEWISE_FORMAT
}  // namespace edgewise
