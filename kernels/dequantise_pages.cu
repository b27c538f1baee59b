// FP8 pages of some sequences as 16-bit pages, for the prefill attention kernel.
//
//   keys, values           pools of FP8 pages (fp8_pages.cuh)
//   out_keys, out_values   [out_pages, page_tokens, kv_heads, head_dim]   bf16; page j of sequence b becomes
//                          page b * out_stride + j; out_pages is at least batch * out_stride
//   table   [batch, table_stride]   int32 page ids, at least out_stride of them
//   starts  [batch + 1]             int32 first row of each sequence's chunk; only differences count
//   context [batch]                 int32 tokens held, the chunk included
//
// A code times its scale, in fp32, rounded once: a token's keys and values are the same numbers whatever chunk or
// batch they are made for. What lies behind the context becomes whatever it becomes.
//
// Floors: bytes = 2 * kv_heads * (3 head_dim + 4) * sum(context) over the copy rate; no arithmetic to speak of. Beside
// the attention that follows: a chunk of n rows over a context of c makes 4 * n * c * heads * head_dim operations and
// 6 * c * kv_heads * head_dim bytes of this, so at 670 TFLOP/s, 3 TB/s and four query heads to a key head this takes
// 80 / n of attention's time: 2 % of it for chunks of 4096 rows, 16 % for chunks of 512.
//
// Reached (H100): 8 x 32k, 8 heads of 128, 567 us, 2.87 TB/s, 95 % of a copy; 1 x 32k 74 us, 91 %; 32 x 8k, 8 heads of
// 64, 299 us, 91 %.
#include "fp8_pages.cuh"

namespace edgewise {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = 128;  // Attention reads whole blocks of keys, of 128 tokens at most.

struct DequantiseParams {
  const unsigned char *keys, *values;
  uint4 *out_keys, *out_values;
  const int *table, *starts, *context;
  int table_stride, out_stride, kv_heads, page_tokens, window;
};

// One block per page and head, keys and values; eight dimensions per thread and load.
template <int D>
__global__ void __launch_bounds__(kThreads) dequantise_kernel(const DequantiseParams p) {
  constexpr int kLanes = D / 8, kTokens = kThreads / kLanes, kLoads = 64 / kTokens;
  const int page = blockIdx.x / p.kv_heads, kv_head = blockIdx.x % p.kv_heads, sequence = blockIdx.y;
  const int context = p.context[sequence];
  const int first = page * p.page_tokens;
  if (first >= context) return;
  if (p.window > 0) {  // Of a window, the pages that the chunk's first row sees, and what shares a block with them.
    const int rows = p.starts[sequence + 1] - p.starts[sequence];
    if (first + p.page_tokens <= max(0, context - rows - p.window + 1) / kStep * kStep) return;
  }
  const int64_t slot = static_cast<int64_t>(sequence) * p.out_stride + page;
  const int64_t id = p.table[static_cast<int64_t>(sequence) * p.table_stride + page];
  const int64_t run = id * p.kv_heads + kv_head;
  const int64_t first_byte = run * head_page_bytes(p.page_tokens, D);
  const unsigned char* from[2] = {p.keys + first_byte, p.values + first_byte};
  uint4* to[2] = {p.out_keys, p.out_values};
  const int lane = threadIdx.x % kLanes;
  for (int base = threadIdx.x / kLanes; base < p.page_tokens; base += kTokens * kLoads) {
    uint2 codes[2][kLoads];
    float scales[2][kLoads];
#pragma unroll
    for (int a = 0; a < 2; ++a) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int token = base + i * kTokens;
        if (token < p.page_tokens) {
          codes[a][i] = __ldcs(reinterpret_cast<const uint2*>(from[a] + token * D) + lane);
          scales[a][i] = reinterpret_cast<const float*>(from[a] + p.page_tokens * D)[token];
        }
      }
    }
#pragma unroll
    for (int a = 0; a < 2; ++a) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int token = base + i * kTokens;
        if (token < p.page_tokens) {
          uint32_t exact[4], rounded[4];
          from_codes(codes[a][i].x, exact[0], exact[1]);
          from_codes(codes[a][i].y, exact[2], exact[3]);
#pragma unroll
          for (int w = 0; w < 4; ++w) {
            const float2 pair = __half22float2(reinterpret_cast<const __half2&>(exact[w]));
            rounded[w] = pack_half(pair.x * scales[a][i], pair.y * scales[a][i]);
          }
          to[a][((slot * p.page_tokens + token) * p.kv_heads + kv_head) * kLanes + lane] =
              make_uint4(rounded[0], rounded[1], rounded[2], rounded[3]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace edgewise

// `window`: as attention's; 0 for all. Not valid: head_dim other than 64 and 128, more than 65535 sequences.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_dequantise_pages)(
    const void* keys, const void* values, void* out_keys, void* out_values, const int* table, const int* starts,
    const int* context, int batch, int kv_heads, int head_dim, int page_tokens, int table_stride, int out_stride,
    int window, cudaStream_t stream) {
  using namespace edgewise;
  if (batch < 1 || batch > 65535 || kv_heads < 1 || page_tokens < 1 || out_stride < 1 ||
      table_stride < out_stride || window < 0 || (head_dim != 64 && head_dim != 128)) {
    return cudaErrorInvalidValue;
  }
  const DequantiseParams p = {static_cast<const unsigned char*>(keys),
                              static_cast<const unsigned char*>(values),
                              static_cast<uint4*>(out_keys),
                              static_cast<uint4*>(out_values),
                              table,
                              starts,
                              context,
                              table_stride,
                              out_stride,
                              kv_heads,
                              page_tokens,
                              window};
  const dim3 grid(static_cast<unsigned>(out_stride) * kv_heads, batch);
  if (head_dim == 128) {
    dequantise_kernel<128><<<grid, kThreads, 0, stream>>>(p);
  } else {
    dequantise_kernel<64><<<grid, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}
