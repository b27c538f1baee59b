// Rows of a table by their ids: the embedding of tokens, and the rows of a batch that go on.
//
//   table  [any, width]    bf16
//   ids    [rows]          int32, rows of the table
//   out    [rows, width]   bf16; not the table itself
//
// width: a multiple of 8. Floors: bytes = 2 * 2 * rows * width over the copy rate; no arithmetic.
#include "hopper.cuh"

namespace edgewise {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    gather_rows_kernel(const uint4* __restrict__ table, const int* __restrict__ ids, uint4* __restrict__ out,
                       int vectors) {
  const uint4* from = table + static_cast<int64_t>(ids[blockIdx.x]) * vectors;
  uint4* to = out + static_cast<int64_t>(blockIdx.x) * vectors;
  for (int at = threadIdx.x; at < vectors; at += kThreads) to[at] = __ldg(from + at);
}

}  // namespace
}  // namespace edgewise

extern "C" cudaError_t edgewise_gather_rows(const void* table, const int* ids, void* out, int rows, int width,
                                            cudaStream_t stream) {
  using namespace edgewise;
  if (rows < 1 || width < 8 || width % 8 != 0) return cudaErrorInvalidValue;
  gather_rows_kernel<<<rows, kThreads, 0, stream>>>(static_cast<const uint4*>(table), ids, static_cast<uint4*>(out),
                                                    width / 8);
  return cudaGetLastError();
}
