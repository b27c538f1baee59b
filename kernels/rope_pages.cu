// Rotary positions of queries and keys, and the write of keys and values into their pages, in one pass.
//
//   q, k, v   [tokens, heads or kv_heads, head_dim]          bf16, a token's rows q_stride, k_stride, v_stride apart:
//                                                            three matrices, or parts of one
//   q_out     [tokens, heads, head_dim]                      bf16, rotated
//   k_out     as k, its rows k_stride apart; may be k        bf16, rotated: for attention that reads keys from rows; or null
//   keys, values [pages, page_tokens, kv_heads, head_dim]    bf16
//   cosines, sines [positions, rotary_dim / 2]               fp32; frequency scaling and YaRN's attention factor are in
//                                                            the table, so every RoPE variant is the same kernel
//   positions [tokens]   int32 row of the tables
//   slots     [tokens]   int32 page * page_tokens + place in the page; negative: keys and values are not stored
//   q_norm, k_norm [head_dim]   bf16 weights of a per-head RMS normalisation before the rotation (Qwen3), or null
//
// Pairing: half-split (dimension i with i + rotary_dim / 2; transformers) or adjacent (2 i with 2 i + 1; GGUF's Llama).
// Dimensions from rotary_dim on pass through. In fp32, rounded once: with FP8 pages (fp8_pages.cuh) to e4m3, after the
// scale of a head is found. Source: Su et al. 2021, "RoFormer".
//
// Floors: bytes = 2 * 2 * tokens * (heads + 2 kv_heads) * head_dim + tables over the copy rate; FLOPs negligible.
//
// Reached (H100): 8192 tokens, 32/8 heads of 128, 80 us, 2.56 TB/s, 84 % of a device-to-device copy; 32 tokens 2.3 us.
// To FP8 pages 84 us, 2.25 TB/s, 74 %, and 2.5 us: a lane writes 8 bytes at a time, and finds the scale first.
#include "fp8_pages.cuh"
#include "hopper.cuh"

namespace edgewise {
namespace {

constexpr int kThreads = 256;
constexpr int kHeads = 3;  // 16-byte loads in flight per lane

struct RopeParams {
  const uint4 *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;  // in 16-byte vectors
  uint4 *q_out, *k_out, *keys, *values;
  const float *cosines, *sines;
  const int *positions, *slots;
  const uint4 *q_norm, *k_norm;
  float eps;
  int heads, kv_heads, rotary_dim;
  int page_tokens;  // of FP8 pages
};

__device__ __forceinline__ void unpack(uint4 vector, float (&x)[8]) {
  const HalfPair* pairs = reinterpret_cast<const HalfPair*>(&vector);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = to_floats(pairs[i]);
    x[2 * i] = pair.x;
    x[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void load_floats(const float* from, float (&x)[8], int count) {
#pragma unroll
  for (int i = 0; i < 8; i += 4) {
    if (i < count) {
      const float4 quad = __ldg(reinterpret_cast<const float4*>(from + i));
      x[i] = quad.x;
      x[i + 1] = quad.y;
      x[i + 2] = quad.z;
      x[i + 3] = quad.w;
    }
  }
}

// Eight dimensions of a head to an FP8 page: all lanes of a head find its scale together, those of `stored` write.
template <int D>
__device__ __forceinline__ void store_codes(const RopeParams& p, uint4* pool, int slot, int kv_head, int lane,
                                            bool stored, const float (&x)[8]) {
  float most = 0.f;
#pragma unroll
  for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(x[i]));
#pragma unroll
  for (int step = 1; step < D / 8; step *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, step));
  if (!stored) return;
  // What is too small to divide by is zero.
  const float inverse = most > 1e-30f ? kMostCode / most : 0.f;
  const int64_t run = static_cast<int64_t>(slot / p.page_tokens) * p.kv_heads + kv_head;
  unsigned char* to = reinterpret_cast<unsigned char*>(pool) + run * head_page_bytes(p.page_tokens, D);
  const int token = slot % p.page_tokens;
  uint32_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = to_codes(x[2 * i] * inverse, x[2 * i + 1] * inverse);
  reinterpret_cast<uint2*>(to + token * D)[lane] = make_uint2(codes[0] | codes[1] << 16, codes[2] | codes[3] << 16);
  if (lane == 0) reinterpret_cast<float*>(to + p.page_tokens * D)[token] = inverse > 0.f ? most / kMostCode : 0.f;
}

// One block per token. D / 8 lanes per head, 8 dimensions per lane, kHeads heads per lane in flight, which share the
// lane's angles. All lanes take part in the shuffles.
// RotatesKeys writes rotated keys to k_out, too; a branch instead takes 16 registers, and a third of the blocks.
template <int D, bool Adjacent, bool RotatesKeys, bool Codes>
__global__ void __launch_bounds__(kThreads) rope_pages_kernel(const RopeParams p) {
  constexpr int kLanes = D / 8, kSlots = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes, token = blockIdx.x;
  const int all_heads = p.heads + 2 * p.kv_heads;
  const int dim = lane * 8, half = p.rotary_dim / 2;
  const bool rotary = dim < p.rotary_dim, low = dim < half;
  const int partner = (threadIdx.x % 32 - lane + (low ? lane + half / 8 : lane - half / 8)) & 31;
  const uint4* q_from = p.q + token * p.q_stride + lane;
  const uint4* k_from = p.k + token * p.k_stride + lane;
  const uint4* v_from = p.v + token * p.v_stride + lane;
  const int slot = p.slots[token];
  const int64_t table = static_cast<int64_t>(p.positions[token]) * half;
  float cosine[8], sine[8];
  if (rotary) {
    const int first = Adjacent ? dim / 2 : low ? dim : dim - half;
    load_floats(p.cosines + table + first, cosine, Adjacent ? 4 : 8);
    load_floats(p.sines + table + first, sine, Adjacent ? 4 : 8);
  }

  let_next_start();
  wait_for_previous();
  for (int first = threadIdx.x / kLanes; first - static_cast<int>(threadIdx.x / kLanes) < all_heads;
       first += kSlots * kHeads) {
    uint4 vectors[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = first + h * kSlots, key = head - p.heads, value = key - p.kv_heads;
      if (head < all_heads) {
        vectors[h] = __ldcs(key < 0 ? q_from + head * kLanes : value < 0 ? k_from + key * kLanes : v_from + value * kLanes);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = first + h * kSlots;
      const bool is_query = head < p.heads, is_value = head >= p.heads + p.kv_heads;
      uint4 vector = vectors[h];
      float x[8], y[8];
      unpack(vector, x);
      const uint4* norm = is_query ? p.q_norm : p.k_norm;
      const bool normed = !is_value && norm != nullptr;
      if (p.q_norm != nullptr || p.k_norm != nullptr) {
        float square = 0.f;
#pragma unroll
        for (int i = 0; i < 8; ++i) square += x[i] * x[i];
#pragma unroll
        for (int step = 1; step < kLanes; step *= 2) square += __shfl_xor_sync(0xffffffff, square, step);
        if (normed) {
          float weight[8];
          unpack(__ldg(norm + lane), weight);
          const float scale = rsqrtf(square / D + p.eps);
#pragma unroll
          for (int i = 0; i < 8; ++i) x[i] *= scale * weight[i];
        }
      }
      if (Adjacent) {
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
          y[i] = x[i] * cosine[i / 2] - x[i + 1] * sine[i / 2];
          y[i + 1] = x[i + 1] * cosine[i / 2] + x[i] * sine[i / 2];
        }
      } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float other = __shfl_sync(0xffffffff, x[i], partner);
          y[i] = x[i] * cosine[i] + (low ? -other : other) * sine[i];
        }
      }
      const bool rotated = !is_value && rotary;
      if (rotated || normed) {
        uint32_t* words = reinterpret_cast<uint32_t*>(&vector);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          words[i] = rotated ? pack_half(y[2 * i], y[2 * i + 1]) : pack_half(x[2 * i], x[2 * i + 1]);
        }
      }
      const int kv_head = is_value ? head - p.heads - p.kv_heads : head - p.heads;
      if constexpr (Codes) {
        float stored[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) stored[i] = rotated ? y[i] : x[i];
        const bool mine = head >= p.heads && head < all_heads && slot >= 0;
        store_codes<D>(p, is_value ? p.values : p.keys, slot, kv_head, lane, mine, stored);
      }
      if (head >= all_heads) continue;
      if (RotatesKeys && !is_query && !is_value) {
        p.k_out[token * p.k_stride + (head - p.heads) * kLanes + lane] = vector;
      }
      if (is_query) {
        p.q_out[(static_cast<int64_t>(token) * p.heads + head) * kLanes + lane] = vector;
      } else if (!Codes && slot >= 0) {
        (is_value ? p.values : p.keys)[(static_cast<int64_t>(slot) * p.kv_heads + kv_head) * kLanes + lane] = vector;
      }
    }
  }
}

template <bool RotatesKeys, bool Codes>
auto pick(int head_dim, bool adjacent) {
  return head_dim == 128 ? (adjacent ? rope_pages_kernel<128, true, RotatesKeys, Codes>
                                     : rope_pages_kernel<128, false, RotatesKeys, Codes>)
                         : (adjacent ? rope_pages_kernel<64, true, RotatesKeys, Codes>
                                     : rope_pages_kernel<64, false, RotatesKeys, Codes>);
}

template <bool Codes>
cudaError_t launch_rope(const void* q, const void* k, const void* v, int q_stride, int k_stride, int v_stride,
                        void* q_out, void* k_out, void* keys, void* values, const float* cosines, const float* sines,
                        const int* positions, const int* slots, const void* q_norm, const void* k_norm, float eps,
                        int tokens, int heads, int kv_heads, int head_dim, int rotary_dim, int adjacent,
                        int page_tokens, cudaStream_t stream) {
  if (tokens < 1 || heads < 1 || kv_heads < 1 || rotary_dim < 16 || rotary_dim % 16 != 0 || rotary_dim > head_dim ||
      page_tokens < 1 || (head_dim != 64 && head_dim != 128) || q_stride % 8 != 0 || k_stride % 8 != 0 ||
      v_stride % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  const RopeParams p = {static_cast<const uint4*>(q),
                        static_cast<const uint4*>(k),
                        static_cast<const uint4*>(v),
                        q_stride / 8,
                        k_stride / 8,
                        v_stride / 8,
                        static_cast<uint4*>(q_out),
                        static_cast<uint4*>(k_out),
                        static_cast<uint4*>(keys),
                        static_cast<uint4*>(values),
                        cosines,
                        sines,
                        positions,
                        slots,
                        static_cast<const uint4*>(q_norm),
                        static_cast<const uint4*>(k_norm),
                        eps,
                        heads,
                        kv_heads,
                        rotary_dim,
                        page_tokens};
  const auto kernel = k_out != nullptr ? pick<true, Codes>(head_dim, adjacent) : pick<false, Codes>(head_dim, adjacent);
  return launch_early(kernel, tokens, kThreads, 0, stream, p);
}

}  // namespace
}  // namespace edgewise

// Pointers are 16-byte aligned. head_dim 64 or 128; rotary_dim a multiple of 16, at most head_dim. `adjacent`: 1 for
// adjacent pairs, 0 for half-split.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_rope_pages)(
    const void* q, const void* k, const void* v, int q_stride, int k_stride, int v_stride, void* q_out, void* k_out, void* keys,
    void* values, const float* cosines, const float* sines, const int* positions, const int* slots,
    const void* q_norm, const void* k_norm, float eps, int tokens, int heads, int kv_heads, int head_dim,
    int rotary_dim, int adjacent, cudaStream_t stream) {
  return edgewise::launch_rope<false>(q, k, v, q_stride, k_stride, v_stride, q_out, k_out, keys, values, cosines, sines,
                                      positions, slots, q_norm, k_norm, eps, tokens, heads, kv_heads, head_dim,
                                      rotary_dim, adjacent, 1, stream);
}

// With pools of FP8 pages of `page_tokens` tokens.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_rope_pages_fp8)(
    const void* q, const void* k, const void* v, int q_stride, int k_stride, int v_stride, void* q_out, void* keys,
    void* values, const float* cosines, const float* sines, const int* positions, const int* slots,
    const void* q_norm, const void* k_norm, float eps, int tokens, int heads, int kv_heads, int head_dim,
    int rotary_dim, int adjacent, int page_tokens, cudaStream_t stream) {
  return edgewise::launch_rope<true>(q, k, v, q_stride, k_stride, v_stride, q_out, nullptr, keys, values, cosines, sines,
                                     positions, slots, q_norm, k_norm, eps, tokens, heads, kv_heads, head_dim,
                                     rotary_dim, adjacent, page_tokens, stream);
}
