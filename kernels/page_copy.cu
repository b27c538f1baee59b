// Copies of KV pages: page to page (copy on write), pages to a contiguous buffer and back (host tier).
//
//   pools     [count]   device array of base pointers, one per layer for keys and one for values
//   a pool    [pages, page_tokens, token_bytes]          token_bytes = kv_heads * head_dim * 2, a multiple of 16
//   staging   [copies, count, page_tokens * token_bytes] device or mapped pinned host memory
//
// Floors: bytes = 2 * copies * count * tokens * token_bytes over the copy rate (or the bus's, where staging is on the
// host); no arithmetic.
//
// Reached (H100): 32 pages of 64 tokens in 64 pools (268 MB each way) 193 us, 2.78 TB/s, 92 % of a device-to-device
// copy; one page in 64 pools 6.4 us.
#include "hopper.cuh"

namespace edgewise {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = 4;  // 16-byte loads in flight per thread
constexpr int kChunk = kThreads * kVectors;

enum class Direction { kPages, kGather, kScatter };

template <Direction direction>
__global__ void __launch_bounds__(kThreads)
    page_copy_kernel(uint4* const* pools, uint4* staging, const int* from, const int* to, const int* tokens,
                     int64_t page_vectors, int token_vectors) {
  const int copy = blockIdx.z;
  uint4* pool = pools[blockIdx.y];
  uint4* packed = staging + (static_cast<int64_t>(copy) * gridDim.y + blockIdx.y) * page_vectors;
  const uint4* source = direction == Direction::kScatter ? packed : pool + from[copy] * page_vectors;
  uint4* target = direction == Direction::kGather ? packed : pool + to[copy] * page_vectors;
  const int64_t vectors = tokens != nullptr ? static_cast<int64_t>(tokens[copy]) * token_vectors : page_vectors;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kChunk + threadIdx.x;
  uint4 value[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (first + v * kThreads < vectors) value[v] = __ldcs(source + first + v * kThreads);
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (first + v * kThreads < vectors) __stcs(target + first + v * kThreads, value[v]);
  }
}

template <Direction direction>
cudaError_t launch(void* const* pools, int count, void* staging, const int* from, const int* to, const int* tokens,
                   int copies, int page_tokens, int token_bytes, cudaStream_t stream) {
  if (count < 1 || count > 65535 || copies < 1 || copies > 65535 || page_tokens < 1 || token_bytes < 16 ||
      token_bytes % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  const int64_t vectors = static_cast<int64_t>(page_tokens) * (token_bytes / 16);
  const dim3 grid(static_cast<unsigned>((vectors + kChunk - 1) / kChunk), count, copies);
  page_copy_kernel<direction><<<grid, kThreads, 0, stream>>>(reinterpret_cast<uint4* const*>(pools),
                                                             static_cast<uint4*>(staging), from, to, tokens, vectors,
                                                             token_bytes / 16);
  return cudaGetLastError();
}

}  // namespace
}  // namespace edgewise

// Copies the leading tokens[i] tokens (all of the page where `tokens` is null) of page from[i] to page to[i], in every
// pool. No page may be both read and written in one call.
extern "C" cudaError_t edgewise_page_copy(void* const* pools, int count, const int* from, const int* to,
                                          const int* tokens, int copies, int page_tokens, int token_bytes,
                                          cudaStream_t stream) {
  using namespace edgewise;
  return launch<Direction::kPages>(pools, count, nullptr, from, to, tokens, copies, page_tokens, token_bytes, stream);
}

// Copies whole pages into `staging`.
extern "C" cudaError_t edgewise_page_gather(void* const* pools, int count, const int* from, void* staging, int copies,
                                            int page_tokens, int token_bytes, cudaStream_t stream) {
  using namespace edgewise;
  return launch<Direction::kGather>(pools, count, staging, from, from, nullptr, copies, page_tokens, token_bytes,
                                    stream);
}

// Copies `staging` into whole pages.
extern "C" cudaError_t edgewise_page_scatter(void* const* pools, int count, const void* staging, const int* to,
                                             int copies, int page_tokens, int token_bytes, cudaStream_t stream) {
  using namespace edgewise;
  return launch<Direction::kScatter>(pools, count, const_cast<void*>(staging), to, to, nullptr, copies, page_tokens,
                                     token_bytes, stream);
}
