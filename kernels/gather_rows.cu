// Rows of a table by their ids: the embedding of tokens, and the rows of a batch that go on.
//
//   table  [any, width]    bf16
//   ids    [rows]          int32, rows of the table
//   out    [rows, width]   bf16, or fp32 where `to_float`; not the table itself
//
// width: a multiple of 8. Floors: bytes = 2 * 2 * rows * width over the copy rate; no arithmetic.
#include "hopper.cuh"

namespace edgewise {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    gather_floats_kernel(const uint4* __restrict__ table, const int* __restrict__ ids, float4* __restrict__ out,
                         int vectors) {
  const uint4* from = table + static_cast<int64_t>(ids[blockIdx.x]) * vectors;
  float4* to = out + static_cast<int64_t>(blockIdx.x) * vectors * 2;
  for (int at = threadIdx.x; at < vectors; at += kThreads) {
    const uint4 vector = __ldg(from + at);
    const HalfPair* pairs = reinterpret_cast<const HalfPair*>(&vector);
    const float2 a = to_floats(pairs[0]), b = to_floats(pairs[1]);
    const float2 c = to_floats(pairs[2]), d = to_floats(pairs[3]);
    to[2 * at] = make_float4(a.x, a.y, b.x, b.y);
    to[2 * at + 1] = make_float4(c.x, c.y, d.x, d.y);
  }
}

__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(const uint4* __restrict__ table, const int* __restrict__ ids, uint4* __restrict__ out,
                       int vectors) {
  const uint4* from = table + static_cast<int64_t>(ids[blockIdx.x]) * vectors;
  uint4* to = out + static_cast<int64_t>(blockIdx.x) * vectors;
  for (int at = threadIdx.x; at < vectors; at += kThreads) to[at] = __ldg(from + at);
}

}  // namespace
}  // namespace edgewise

extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_gather_rows)(
    const void* table, const int* ids, void* out, int rows, int width, int to_float, cudaStream_t stream) {
  using namespace edgewise;
  if (rows < 1 || width < 8 || width % 8 != 0) return cudaErrorInvalidValue;
  if (to_float) {
    gather_floats_kernel<<<rows, kThreads, 0, stream>>>(static_cast<const uint4*>(table), ids,
                                                        static_cast<float4*>(out), width / 8);
  } else {
    gather_rows_kernel<<<rows, kThreads, 0, stream>>>(static_cast<const uint4*>(table), ids, static_cast<uint4*>(out),
                                                      width / 8);
  }
  return cudaGetLastError();
}
