// Products of a few rows with weight matrices, as decoding needs them: the weights stream past once, whatever the
// number of rows, and a row's result does not depend on the other rows.
//
//   x        [rows, columns]        bf16, rows at most 64
//   weights  [outputs, columns]     bf16; up to three matrices with the same columns in one launch
//   bias     [outputs]              bf16, or null
//   out      [rows, outputs]        bf16 or fp32, one for each matrix: x * weights^T + bias, fp32 sums, rounded once
//
// columns: a multiple of 8; pointers 16-byte aligned.
//
// Floors: bytes = 2 * outputs * columns over the copy rate; FLOPs = 2 * rows * outputs * columns, at 64 rows a tenth of
// what the tensor cores do meanwhile.
//
// Design: m16n8k16 with 16 outputs as M and 8 rows as N. A block takes 16, 32 or 64 outputs of one matrix; its eight warps
// take chunks of 32 columns in turn and their sums meet in shared memory. A thread loads 16 bytes, eight successive
// columns, of a weight row and of x, and feeds them to two instructions as they are: a sum does not care which of its
// terms the instruction calls k, as long as both operands agree. Weights bypass L1, x is served by it.
//
// The kernel starts while the one before it ends, and lets the next one start when its sums are done, not before: a
// kernel that waits holds places of multiprocessors, and behind several that start at once, the one that works gets
// few. (A decoding step of one sequence took 2.10 ms of 8 layers with the start let at the beginning, 1.84 without early
// starts, 1.77 so. Fetching weights into L2 while waiting made no difference then.)
//
// Bit for bit: an output's terms are added in an order that only the number of columns decides (chunks of a warp in
// ascending order, then warps in ascending order), so the result of a row is the same for 1 to 64 rows.
#include "hopper.cuh"

namespace edgewise {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kChunk = 32;
constexpr int kMatrices = 3;
constexpr int kManyOutputs = 12000;  // enough for a multiprocessor to have several blocks of 64

struct Part {
  const Half *weights, *bias;
  void* out;
  int outputs, first_block;
};

struct MatmulParams {
  const Half* x;
  Part parts[kMatrices];
  int count, rows, columns;
};

__device__ __forceinline__ uint4 load_streaming(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// Not the read-only path: x may still be written while this kernel starts.
__device__ __forceinline__ uint4 load_shared_rows(const void* from) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(Half* to, float value) { *to = to_half(value); }

// OutTiles: tiles of 16 outputs; RowTiles: tiles of 8 rows; Ahead: chunks loaded before the first is used.
template <typename T, int OutTiles, int RowTiles, int Ahead>
__global__ void __launch_bounds__(kThreads) decode_matmul_kernel(const __grid_constant__ MatmulParams p) {
  constexpr int kOutputs = OutTiles * 16, kRows = RowTiles * 8;
  extern __shared__ float sums[];  // [kWarps][kRows][kOutputs + 4]
  constexpr int kStride = kOutputs + 4;
  int index = 0;
#pragma unroll
  for (int i = 1; i < kMatrices; ++i) index += i < p.count && static_cast<int>(blockIdx.x) >= p.parts[i].first_block;
  const Part& part = p.parts[index];
  const int first = (blockIdx.x - part.first_block) * kOutputs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, quarter = lane % 4;
  const uint4 zero = make_uint4(0, 0, 0, 0);

  float acc[OutTiles][RowTiles][4] = {};
  const Half* weight_rows[OutTiles][2];
  bool weight_valid[OutTiles][2];
#pragma unroll
  for (int o = 0; o < OutTiles; ++o) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int output = first + o * 16 + h * 8 + group;
      weight_valid[o][h] = output < part.outputs;
      weight_rows[o][h] = part.weights + static_cast<int64_t>(weight_valid[o][h] ? output : 0) * p.columns + quarter * 8;
    }
  }
  wait_for_previous();
  const int chunks = ceil_div(p.columns, kChunk);
  for (int base = warp; base < chunks; base += kWarps * Ahead) {
    uint4 w[Ahead][OutTiles][2], b[Ahead][RowTiles];
#pragma unroll
    for (int a = 0; a < Ahead; ++a) {
      const int column = (base + a * kWarps) * kChunk;
      const bool inside = column + quarter * 8 < p.columns;
#pragma unroll
      for (int o = 0; o < OutTiles; ++o) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          w[a][o][h] = inside && weight_valid[o][h] ? load_streaming(weight_rows[o][h] + column) : zero;
        }
      }
    }
#pragma unroll
    for (int a = 0; a < Ahead; ++a) {
      const int column = (base + a * kWarps) * kChunk + quarter * 8;
#pragma unroll
      for (int r = 0; r < RowTiles; ++r) {
        const int row = r * 8 + group;
        b[a][r] = row < p.rows && column < p.columns
                      ? load_shared_rows(p.x + static_cast<int64_t>(row) * p.columns + column)
                      : zero;
      }
    }
#pragma unroll
    for (int a = 0; a < Ahead; ++a) {
      if ((base + a * kWarps) >= chunks) break;
#pragma unroll
      for (int r = 0; r < RowTiles; ++r) {
#pragma unroll
        for (int o = 0; o < OutTiles; ++o) {
          const uint32_t low[4] = {w[a][o][0].x, w[a][o][1].x, w[a][o][0].y, w[a][o][1].y};
          const uint32_t high[4] = {w[a][o][0].z, w[a][o][1].z, w[a][o][0].w, w[a][o][1].w};
          mma_16x8x16(acc[o][r], low, b[a][r].x, b[a][r].y);
          mma_16x8x16(acc[o][r], high, b[a][r].z, b[a][r].w);
        }
      }
    }
  }
  let_next_start();
#pragma unroll
  for (int o = 0; o < OutTiles; ++o) {
#pragma unroll
    for (int r = 0; r < RowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int output = o * 16 + group + (i / 2) * 8, row = r * 8 + quarter * 2 + i % 2;
        sums[(warp * kRows + row) * kStride + output] = acc[o][r][i];
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kOutputs; i += kThreads) {
    const int row = i / kOutputs, output = i % kOutputs;
    if (row >= p.rows || first + output >= part.outputs) continue;
    float total = 0.f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[(w * kRows + row) * kStride + output];
    if (part.bias != nullptr) total += to_float(part.bias[first + output]);
    store(static_cast<T*>(part.out) + static_cast<int64_t>(row) * part.outputs + first + output, total);
  }
}

template <typename T, int OutTiles, int RowTiles, int Ahead>
cudaError_t launch(MatmulParams p, cudaStream_t stream) {
  constexpr int kOutputs = OutTiles * 16;
  constexpr int kBytes = kWarps * RowTiles * 8 * (kOutputs + 4) * static_cast<int>(sizeof(float));
  int blocks = 0;
  for (int i = 0; i < p.count; ++i) {
    p.parts[i].first_block = blocks;
    blocks += ceil_div(p.parts[i].outputs, kOutputs);
  }
  const auto kernel = decode_matmul_kernel<T, OutTiles, RowTiles, Ahead>;
  if (kBytes > 48 * 1024) {
    EDGEWISE_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  }
  return launch_early(kernel, blocks, kThreads, kBytes, stream, p);
}

template <typename T>
cudaError_t dispatch(const MatmulParams& p, cudaStream_t stream) {
  if (p.rows <= 8) return launch<T, 1, 1, 4>(p, stream);
  if (p.rows <= 16) return launch<T, 1, 2, 4>(p, stream);
  if (p.rows <= 32) return launch<T, 2, 4, 2>(p, stream);
  // Every block reads all of x: with more outputs to a block it is read less often. The order of sums stays.
  int outputs = 0;
  for (int i = 0; i < p.count; ++i) outputs += p.parts[i].outputs;
  return outputs < kManyOutputs ? launch<T, 2, 8, 2>(p, stream) : launch<T, 4, 8, 1>(p, stream);
}

}  // namespace
}  // namespace edgewise

// `count`: matrices, 1 to 3; `is_float`: 1 for fp32 outputs, 0 for bf16.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_decode_matmul)(
    const void* x, const void* const* weights, const void* const* bias, void* const* out, const int* outputs,
    int count, int is_float, int rows, int columns, cudaStream_t stream) {
  using namespace edgewise;
  if (count < 1 || count > kMatrices || rows < 1 || rows > 64 || columns < 8 || columns % 8 != 0) {
    return cudaErrorInvalidValue;
  }
  MatmulParams p = {};
  p.x = static_cast<const Half*>(x);
  p.count = count;
  p.rows = rows;
  p.columns = columns;
  for (int i = 0; i < count; ++i) {
    if (outputs[i] < 1) return cudaErrorInvalidValue;
    p.parts[i] = {static_cast<const Half*>(weights[i]), static_cast<const Half*>(bias[i]), out[i],
                  outputs[i], 0};
  }
  return is_float ? dispatch<float>(p, stream) : dispatch<Half>(p, stream);
}
