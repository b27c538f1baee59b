// What decode attention is made of besides its arithmetic, for 16-bit pages and for FP8 pages: the launch's parameters,
// how contexts are cut into splits and splits handed to blocks, how four warps' results become one, and the merge of
// splits. Layouts: paged_attention_decode.cu, paged_attention_decode_fp8.cu.
#pragma once

#include <type_traits>

#include "hopper.cuh"

namespace edgewise {
namespace {

// Tokens per stage: 8192 numbers of keys and as many of values.
__host__ __device__ constexpr int tile_tokens(int head_dim) { return 8192 / head_dim; }
constexpr int kConsumerWarps = 4;
constexpr int kConsumers = kConsumerWarps * 32;
constexpr int kThreads = kConsumers + 32;
constexpr int kMaxBatch = 512;
constexpr int kMaxSplits = 64;

struct DecodeParams {
  const Half* q;
  Half* out;
  const int* context;
  const int* table;
  int table_stride;
  int batch, q_len, heads, kv_heads, group, rows, row_tiles;
  int page_tokens, box_tokens, pool_tokens, tile;
  int splits, min_split, window;
  float scale_log2;
  float* partial;         // [batch, splits, kv_heads, rows, head_dim]
  float2* partial_state;  // [batch, splits, kv_heads, rows]: maximum (base 2) and sum
};

// What the splits of one sequence cover; a function of its context alone.
struct Splits {
  int first, length, count;
};

__device__ __forceinline__ Splits splits_of(const DecodeParams& p, int context) {
  Splits s;
  s.first = p.window > 0 ? max(0, context - p.q_len - p.window + 1) / p.tile * p.tile : 0;
  const int span = context - s.first;
  s.length = max(p.min_split, (span + p.splits * p.tile - 1) / (p.splits * p.tile) * p.tile);
  s.count = (span + s.length - 1) / s.length;
  return s;
}

struct Item {
  int sequence, split, kv_head, row_tile, context, begin, end, count;
};

// Walks this block's items in ascending order.
struct Items {
  const DecodeParams& p;
  const int *first_item, *context;
  int sequence = 0;

  __device__ bool at(int index, Item& item) {
    const int unit = p.kv_heads * p.row_tiles;
    const int group = index / unit;
    if (group >= first_item[p.batch]) return false;
    while (group >= first_item[sequence + 1]) ++sequence;
    const int rest = index % unit;
    item.sequence = sequence;
    item.split = group - first_item[sequence];
    item.kv_head = rest % p.kv_heads;
    item.row_tile = rest / p.kv_heads;
    item.context = context[sequence];
    const Splits s = splits_of(p, item.context);
    item.count = s.count;
    item.begin = s.first + item.split * s.length;
    item.end = min(item.begin + s.length, item.context);
    return true;
  }
};

// What a block's warps share besides the pages.
struct DecodeState {
  float reduce[kConsumerWarps * (512 + 16 * 8)];  // rows of 512 / Rows dimensions + 8: free of bank conflicts
  float maximum[kConsumerWarps][16];
  float sum[kConsumerWarps][16];
  int first_item[kMaxBatch + 1];
  int context[kMaxBatch];
};

// Finds where each sequence's items begin; all threads of the block.
__device__ __forceinline__ void count_items(const DecodeParams& p, DecodeState& state) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int b = threadIdx.x; b < p.batch; b += kThreads) {
    const int context = p.context[b];
    state.context[b] = context;
    state.first_item[b + 1] = splits_of(p, context).count;
  }
  if (threadIdx.x == 0) state.first_item[0] = 0;
  __syncthreads();
  if (warp == 0) {  // prefix sums, 32 sequences at a time
    int before = 0;
    for (int b = 0; b < p.batch; b += 32) {
      int count = b + lane < p.batch ? state.first_item[b + lane + 1] : 0;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffff, count, step);
        if (lane >= step) count += other;
      }
      if (b + lane < p.batch) state.first_item[b + lane + 1] = before + count;
      before += __shfl_sync(0xffffffff, count, 31);
    }
  }
  __syncthreads();
}

// Rows in the pool of boxes first..first + 31 of an item, one per lane: one look-up in the table for many tiles.
__device__ __forceinline__ int box_rows(const DecodeParams& p, const Item& item, int first, int lane) {
  const int token = item.begin + (first + lane) * p.box_tokens;
  if (token >= item.context) return p.pool_tokens;
  return p.table[static_cast<int64_t>(item.sequence) * p.table_stride + token / p.page_tokens] * p.page_tokens +
         token % p.page_tokens;
}

// Four consecutive dimensions of one output row.
template <int D>
__device__ __forceinline__ void store_output(const DecodeParams& p, const Item& item, int row, int dim, float4 value) {
  const int token = row / p.group, head = item.kv_head * p.group + row % p.group;
  Half* to =
      p.out + (static_cast<int64_t>(item.sequence * p.q_len + token) * p.heads + head) * D + dim;
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_half(value.x, value.y), pack_half(value.z, value.w));
}

__device__ __forceinline__ float block_maximum(const DecodeState& state, int row) {
  float top = state.maximum[0][row];
#pragma unroll
  for (int w = 1; w < kConsumerWarps; ++w) top = fmaxf(top, state.maximum[w][row]);
  return top == -INFINITY ? 0.f : top;
}

// The four warps' shares of 16 rows, of which the first Rows can be valid, become the split's result: the output itself
// or a part for the merge. Rows also sets how many dimensions pass through the buffer at once. The warps have written
// their maxima and sums; `write` puts this warp's rows, relative to the block's maxima, of kDims dimensions from the
// given one on, to its part of the buffer, rows kStride apart.
template <int D, int Rows, typename Write>
__device__ __forceinline__ void combine_rows(const DecodeParams& p, DecodeState& state, const Item& item, int tile_row,
                                             int warp, int lane, Write write) {
  constexpr int kDims = 512 / Rows < D ? 512 / Rows : D, kStride = kDims + 8;
  const int thread = warp * 32 + lane;
  named_sync(1, kConsumers);
  const int row = thread / (kDims / 4), dim = thread % (kDims / 4) * 4;  // this thread's part of the sum
  const bool valid = row < Rows && tile_row + row < p.rows;
  float top = 0.f, total = 1.f;
  if (valid) {
    top = block_maximum(state, row);
    total = 0.f;
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) total += state.sum[w][row] * exp2_fast(state.maximum[w][row] - top);
  }
  const int64_t slot =
      ((static_cast<int64_t>(item.sequence) * p.splits + item.split) * p.kv_heads + item.kv_head) * p.rows + tile_row +
      row;
  if (valid && item.count > 1 && dim == 0) p.partial_state[slot] = make_float2(top, total);
#pragma unroll
  for (int first = 0; first < D; first += kDims) {
    write(std::integral_constant<int, kDims>{}, first, state.reduce + warp * Rows * kStride, kStride);
    named_sync(1, kConsumers);
    if (valid) {
      float4 value = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
      for (int w = 0; w < kConsumerWarps; ++w) {
        const float4 part = *reinterpret_cast<const float4*>(state.reduce + (w * Rows + row) * kStride + dim);
        value.x += part.x;
        value.y += part.y;
        value.z += part.z;
        value.w += part.w;
      }
      if (item.count > 1) {
        *reinterpret_cast<float4*>(p.partial + slot * D + first + dim) = value;
      } else {
        const float scale = 1.f / total;
        store_output<D>(p, item, tile_row + row, first + dim,
                        make_float4(value.x * scale, value.y * scale, value.z * scale, value.w * scale));
      }
    }
    named_sync(1, kConsumers);
  }
}

constexpr int kMergeThreads = 128;

// One warp per output row: its splits, in order, weighted by their maxima.
template <int D>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(const DecodeParams p) {
  constexpr int kPerLane = D / 32;
  const int lane = threadIdx.x % 32;
  const int64_t out_row = static_cast<int64_t>(blockIdx.x) * (kMergeThreads / 32) + threadIdx.x / 32;
  if (out_row >= static_cast<int64_t>(p.batch) * p.q_len * p.heads) return;
  const int head = out_row % p.heads;
  const int sequence = out_row / p.heads / p.q_len, token = out_row / p.heads % p.q_len;
  const int count = splits_of(p, p.context[sequence]).count;
  // Also where there is nothing to merge: a grid that ended without waiting would let the next one read what the grid
  // before still writes.
  let_next_start();
  wait_for_previous();
  if (count < 2) return;
  const int64_t stride = static_cast<int64_t>(p.kv_heads) * p.rows;
  const int64_t base = (static_cast<int64_t>(sequence) * p.splits * p.kv_heads + head / p.group) * p.rows +
                       token * p.group + head % p.group;
  float2 state[2];
  float top = -INFINITY;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    state[i] = lane + i * 32 < count ? p.partial_state[base + (lane + i * 32) * stride] : make_float2(-INFINITY, 0.f);
    top = fmaxf(top, state[i].x);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, step));
  if (top == -INFINITY) top = 0.f;
  float weight[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) weight[i] = exp2_fast(state[i].x - top);
  float sum = weight[0] * state[0].y + weight[1] * state[1].y;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  float total[kPerLane] = {};
  const float* from = p.partial + base * D + lane * kPerLane;
#pragma unroll 16
  for (int s = 0; s < count; ++s) {
    const float w = __shfl_sync(0xffffffff, s < 32 ? weight[0] : weight[1], s % 32);
    if constexpr (D == 128) {
      const float4 part = *reinterpret_cast<const float4*>(from + s * stride * D);
      total[0] += w * part.x;
      total[1] += w * part.y;
      total[2] += w * part.z;
      total[3] += w * part.w;
    } else {
      const float2 part = *reinterpret_cast<const float2*>(from + s * stride * D);
      total[0] += w * part.x;
      total[1] += w * part.y;
    }
  }
  const float scale = 1.f / sum;
  uint32_t* to = reinterpret_cast<uint32_t*>(p.out + out_row * D + lane * kPerLane);
#pragma unroll
  for (int i = 0; i < kPerLane; i += 2) to[i / 2] = pack_half(total[i] * scale, total[i + 1] * scale);
}

constexpr int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// The launchers' arguments, checked. False: not valid.
inline bool make_params(DecodeParams& p, const void* q, void* out, const int* table, const int* context,
                        void* workspace, int batch, int q_len, int heads, int kv_heads, int head_dim, int pages,
                        int page_tokens, int table_stride, int splits, int min_split, int window, float scale) {
  if (batch < 1 || batch > kMaxBatch || q_len < 1 || kv_heads < 1 || heads % kv_heads != 0 || splits < 1 ||
      splits > kMaxSplits || (head_dim != 64 && head_dim != 128) || min_split < 1 ||
      min_split % tile_tokens(head_dim) != 0) {
    return false;
  }
  p.tile = tile_tokens(head_dim);
  p.box_tokens = page_box_tokens(page_tokens, p.tile);
  p.q = static_cast<const Half*>(q);
  p.out = static_cast<Half*>(out);
  p.context = context;
  p.table = table;
  p.table_stride = table_stride;
  p.batch = batch;
  p.q_len = q_len;
  p.heads = heads;
  p.kv_heads = kv_heads;
  p.group = heads / kv_heads;
  p.rows = q_len * p.group;
  const bool wide = p.rows > 16;
  p.row_tiles = ceil_div(p.rows, wide ? 32 : 16);
  p.page_tokens = page_tokens;
  p.pool_tokens = pages * page_tokens;
  p.splits = splits;
  p.min_split = min_split;
  p.window = window;
  p.scale_log2 = scale * 1.44269504088896340736f;
  unsigned char* space = static_cast<unsigned char*>(workspace);
  const int64_t slots = static_cast<int64_t>(batch) * splits * q_len * heads;
  p.partial_state = reinterpret_cast<float2*>(space);
  p.partial = reinterpret_cast<float*>(space + aligned(slots * 8));
  return p.box_tokens != 0;
}

// `kernel` takes `maps` and the parameters; the merge follows it. `resident` blocks fit a multiprocessor.
template <int D, typename Kernel, typename... Maps>
cudaError_t launch_decode(Kernel kernel, int bytes, int resident, const DecodeParams& p, cudaStream_t stream,
                          const Maps&... maps) {
  int device, multiprocessors;
  EDGEWISE_TRY(cudaGetDevice(&device));
  EDGEWISE_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  EDGEWISE_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int64_t most = static_cast<int64_t>(p.batch) * p.splits * p.kv_heads * p.row_tiles;
  const int64_t at_once = static_cast<int64_t>(multiprocessors) * resident;
  const int blocks = static_cast<int>(most < at_once ? most : at_once);
  EDGEWISE_TRY(launch_early(kernel, blocks, kThreads, bytes, stream, maps..., p));
  const int merge_blocks = ceil_div(p.batch * p.q_len * p.heads, kMergeThreads / 32);
  return launch_early(merge_kernel<D>, merge_blocks, kMergeThreads, 0, stream, p);
}

}  // namespace
}  // namespace edgewise
