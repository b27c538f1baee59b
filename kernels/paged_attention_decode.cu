// Paged attention of a decoding step: few query tokens per sequence against a long context, split over the keys.
//
//   q        [batch * q_len, heads, head_dim]                bf16, the last q_len positions of each sequence
//   out      [batch * q_len, heads, head_dim]                bf16
//   keys, values [pages, page_tokens, kv_heads, head_dim]    bf16, page_tokens a multiple of 32
//   table    [batch, table_stride]                           int32 page ids
//   context  [batch]                                         int32 tokens held, the q_len new ones included; 0: an
//                                                            idle slot, whose output is not written
//
// Floors: bytes = 2 * 2 * kv_heads * head_dim * sum(context) over the copy rate; FLOPs = 4 * q_len * heads * head_dim *
// sum(context), a few per byte, far below the tensor cores' rate. So the keys and values must stream, and nothing else
// may take time.
//
// Design: one warp keeps the copy engine three tiles of 64 tokens (128 at head_dim 64) ahead; four warps take 16 (32)
// tokens of every tile each, with all query rows of one key head (GQA-packed: row = token * group + head) as the M side
// of m16n8k16, so a key is read once for all its query heads. A block walks over (sequence, split, head) items without
// draining its pipeline; a second kernel, launched early and waiting on the chip, merges the splits.
//
// A split's length depends on that sequence's context alone and splits merge in order, so for given `splits`,
// `min_split` and `q_len` a row's result is the same, bit for bit, in any batch. Values beyond the context are masked
// to zero: pages may hold anything there, NaN included.
//
// Reached (H100; share of a copy's 3.03 TB/s; 32/8 heads of 128 unless said): 32 x 8k 93 % (FlashAttention-2 89 %,
// cuDNN 100 %, both on contiguous keys), 128 x 2k 90 % (94 % at min_split 512), 8 x 32k 96 %, 1 x 128k 95 %, 1 x 32k
// 83 %, 1 x 8k 57 % (19.5 us), 1 x 4k 40 % (13.9 us); 32/32 heads 98 %, 28/4 heads 82 % (88 % at 16 splits), head_dim
// 64 87 %. Short of: at batch 1 launch, first look-ups and merge take some 8 us whatever the context.
#include "paged_attention_decode.cuh"

namespace edgewise {
namespace {

// Four consecutive dimensions of one output row.
template <int D>
__device__ __forceinline__ void store_output(const DecodeParams& p, const Item& item, int row, int dim, float4 value) {
  const int token = row / p.group, head = item.kv_head * p.group + row % p.group;
  Half* to =
      p.out + (static_cast<int64_t>(item.sequence * p.q_len + token) * p.heads + head) * D + dim;
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_half(value.x, value.y), pack_half(value.z, value.w));
}

// Queries of one item as fragments of m16n8k16's A, straight from device memory.
template <int D, int MT>
__device__ __forceinline__ void load_queries(const DecodeParams& p, const Item& item, int lane,
                                             uint32_t (&q)[MT][D / 16][4]) {
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = item.row_tile * 16 * MT + mt * 16 + half * 8 + lane / 4;
      const int token = row < p.rows ? row / p.group : 0;
      const int head = item.kv_head * p.group + (row < p.rows ? row % p.group : 0);
      const uint32_t* from = reinterpret_cast<const uint32_t*>(
          p.q + (static_cast<int64_t>(item.sequence * p.q_len + token) * p.heads + head) * D);
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        q[mt][k][half] = from[k * 8 + lane % 4];
        q[mt][k][half + 2] = from[k * 8 + 4 + lane % 4];
      }
    }
  }
}

// The four warps' shares of 16 rows, of which the first Rows can be valid, become the split's result: the output itself
// or a part for the merge. Rows also sets how many dimensions pass through the buffer at once.
template <int D, int MT, int Rows>
__device__ __forceinline__ void combine_warps(const DecodeParams& p, DecodeShared<D, MT>& shared, const Item& item,
                                              int tile_row, int warp, int lane, const float (&o)[D / 8][4],
                                              const float (&maximum)[2], float (&sum)[2]) {
  constexpr int kDims = 512 / Rows < D ? 512 / Rows : D, kStride = kDims + 8;
  const int thread = warp * 32 + lane, own_row = lane / 4;
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 2);
    if (lane % 4 == 0) {
      shared.maximum[warp][half * 8 + own_row] = maximum[half];
      shared.sum[warp][half * 8 + own_row] = sum[half];
    }
  }
  named_sync(1, kConsumers);
  const auto block_maximum = [&](int row) {
    float top = shared.maximum[0][row];
#pragma unroll
    for (int w = 1; w < kConsumerWarps; ++w) top = fmaxf(top, shared.maximum[w][row]);
    return top == -INFINITY ? 0.f : top;
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) factor[half] = exp2_fast(maximum[half] - block_maximum(half * 8 + own_row));

  const int row = thread / (kDims / 4), dim = thread % (kDims / 4) * 4;  // this thread's part of the sum
  const bool valid = row < Rows && tile_row + row < p.rows;
  float top = 0.f, total = 1.f;
  if (valid) {
    top = block_maximum(row);
    total = 0.f;
#pragma unroll
    for (int w = 0; w < kConsumerWarps; ++w) total += shared.sum[w][row] * exp2_fast(shared.maximum[w][row] - top);
  }
  const int64_t slot =
      ((static_cast<int64_t>(item.sequence) * p.splits + item.split) * p.kv_heads + item.kv_head) * p.rows + tile_row +
      row;
  if (valid && item.count > 1 && dim == 0) p.partial_state[slot] = make_float2(top, total);
#pragma unroll
  for (int c = 0; c < D / kDims; ++c) {
    float* mine = shared.reduce + (warp * Rows + own_row) * kStride + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kDims / 8; ++j) {
      const float(&part)[4] = o[c * (kDims / 8) + j];
      if (own_row < Rows) {
        *reinterpret_cast<float2*>(mine + j * 8) = make_float2(part[0] * factor[0], part[1] * factor[0]);
      }
      if (Rows == 16) {
        *reinterpret_cast<float2*>(mine + 8 * kStride + j * 8) =
            make_float2(part[2] * factor[1], part[3] * factor[1]);
      }
    }
    named_sync(1, kConsumers);
    if (valid) {
      float4 value = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
      for (int w = 0; w < kConsumerWarps; ++w) {
        const float4 part = *reinterpret_cast<const float4*>(shared.reduce + (w * Rows + row) * kStride + dim);
        value.x += part.x;
        value.y += part.y;
        value.z += part.z;
        value.w += part.w;
      }
      if (item.count > 1) {
        *reinterpret_cast<float4*>(p.partial + slot * D + c * kDims + dim) = value;
      } else {
        const float scale = 1.f / total;
        store_output<D>(p, item, tile_row + row, c * kDims + dim,
                        make_float4(value.x * scale, value.y * scale, value.z * scale, value.w * scale));
      }
    }
    named_sync(1, kConsumers);
  }
}

template <int D, int MT>
__device__ void consume(const DecodeParams& p, DecodeShared<D, MT>& shared, int warp, int lane) {
  using Shared = DecodeShared<D, MT>;
  constexpr int kTile = tile_tokens(D), kSteps = D / 16;
  constexpr int kParts = kTile / (16 * kConsumerWarps);  // of 16 tokens, per warp and tile
  const int matrix = lane / 8, row_in_matrix = lane % 8;
  const int key_token = warp * 16 * kParts + (matrix / 2) * 8 + row_in_matrix;
  const int value_token = warp * 16 * kParts + (matrix % 2) * 8 + row_in_matrix;
  Items items{p, shared.first_item, shared.context};
  Item item, next;
  int stage = 0;
  uint32_t phase = 0;
  uint32_t q[MT][kSteps][4];
  bool more = items.at(blockIdx.x, item);
  if (MT == 1 && more) load_queries<D, MT>(p, item, lane, q);

  for (int index = blockIdx.x + gridDim.x; more; index += gridDim.x) {
    if (MT > 1) load_queries<D, MT>(p, item, lane, q);  // too many registers to hold them through the merge
    const int row0 = item.row_tile * 16 * MT;
    float o[MT][D / 8][4], maximum[MT][2], sum[MT][2];
    int visible[MT][2];
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + mt * 16 + half * 8 + lane / 4;
        const int token = row < p.rows ? row / p.group : 0;
        visible[mt][half] = item.context - p.q_len + token + 1;
        maximum[mt][half] = -INFINITY;
        sum[mt][half] = 0.f;
      }
#pragma unroll
      for (int j = 0; j < D / 8; ++j) o[mt][j][0] = o[mt][j][1] = o[mt][j][2] = o[mt][j][3] = 0.f;
    }

    for (int tile = item.begin; tile < item.end; tile += kTile) {
      barrier_wait(&shared.full[stage], phase);
      const uint32_t keys = shared_address(shared.keys[stage]) + key_token * 128;
      const uint32_t values = shared_address(shared.values[stage]) + value_token * 128;
      float s[MT][2 * kParts][4] = {};
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        const int chunk = k * 2 + matrix % 2;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          uint32_t b[4];
          load_matrices(b, keys + chunk / 8 * (kTile * 128) + part * (16 * 128) +
                               ((chunk % 8 ^ row_in_matrix) << 4));
#pragma unroll
          for (int mt = 0; mt < MT; ++mt) {
            mma_16x8x16(s[mt][part * 2], q[mt][k], b[0], b[1]);
            mma_16x8x16(s[mt][part * 2 + 1], q[mt][k], b[2], b[3]);
          }
        }
      }

      const int column = tile + warp * 16 * kParts + lane % 4 * 2;
      const bool masked = tile + kTile > item.context - p.q_len + 1 ||
                          (p.window > 0 && tile < item.context - p.window);
      uint32_t p_fragment[MT][kParts][4];
#pragma unroll
      for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float top = maximum[mt][half];
#pragma unroll
          for (int j = 0; j < 2 * kParts; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& score = s[mt][j][half * 2 + e];
              score *= p.scale_log2;
              if (masked) {
                const int at = column + j * 8 + e;
                const bool seen = at < visible[mt][half] && (p.window <= 0 || at >= visible[mt][half] - p.window);
                score = seen ? score : -INFINITY;
              }
              top = fmaxf(top, score);
            }
          }
          top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
          top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
          const float base = top == -INFINITY ? 0.f : top;
          const float scale = exp2_fast(maximum[mt][half] - base);
          maximum[mt][half] = top;
          float part = 0.f;
#pragma unroll
          for (int j = 0; j < 2 * kParts; ++j) {
            const float a = exp2_fast(s[mt][j][half * 2] - base), b = exp2_fast(s[mt][j][half * 2 + 1] - base);
            part += a + b;
            p_fragment[mt][j / 2][j % 2 * 2 + half] = pack_half(a, b);
          }
          sum[mt][half] = sum[mt][half] * scale + part;
          // Multiplying by exactly 1 changes nothing, so the whole warp may skip it.
          if (__any_sync(0xffffffff, scale != 1.f)) {
#pragma unroll
            for (int j = 0; j < D / 8; ++j) {
              o[mt][j][half * 2] *= scale;
              o[mt][j][half * 2 + 1] *= scale;
            }
          }
        }
      }

      const auto held = [&](int at) {
        return (at < item.context ? 0x0000ffffu : 0u) | (at + 1 < item.context ? 0xffff0000u : 0u);
      };
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint32_t held_low = held(column + part * 16), held_high = held(column + part * 16 + 8);
#pragma unroll
        for (int n = 0; n < D / 16; ++n) {
          const int chunk = n * 2 + matrix / 2;
          uint32_t b[4];
          load_matrices_transposed(b, values + chunk / 8 * (kTile * 128) + part * (16 * 128) +
                                          ((chunk % 8 ^ row_in_matrix) << 4));
#pragma unroll
          for (int mt = 0; mt < MT; ++mt) {
            mma_16x8x16(o[mt][n * 2], p_fragment[mt][part], b[0] & held_low, b[1] & held_high);
            mma_16x8x16(o[mt][n * 2 + 1], p_fragment[mt][part], b[2] & held_low, b[3] & held_high);
          }
        }
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&shared.empty[stage]);
      if (++stage == Shared::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }

    // The next item's queries come in while the four warps' shares of this split become one.
    more = items.at(index, next);
    if (MT == 1 && more) load_queries<D, MT>(p, next, lane, q);
#pragma unroll
    for (int mt = 0; mt < MT; ++mt) {
      const int tile_row = row0 + mt * 16;
      if (MT == 1 && p.rows <= 4) {
        combine_warps<D, MT, 4>(p, shared, item, tile_row, warp, lane, o[mt], maximum[mt], sum[mt]);
      } else if (MT == 1 && p.rows <= 8) {
        combine_warps<D, MT, 8>(p, shared, item, tile_row, warp, lane, o[mt], maximum[mt], sum[mt]);
      } else {
        combine_warps<D, MT, 16>(p, shared, item, tile_row, warp, lane, o[mt], maximum[mt], sum[mt]);
      }
    }
    item = next;
  }
}

template <int D, int MT>
__global__ void __launch_bounds__(kThreads, MT == 1 ? 2 : 1)
    decode_kernel(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap value_map,
                  const DecodeParams p) {
  extern __shared__ unsigned char raw[];
  using Shared = DecodeShared<D, MT>;
  Shared& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  for (int b = threadIdx.x; b < p.batch; b += kThreads) {
    const int context = p.context[b];
    shared.context[b] = context;
    shared.first_item[b + 1] = splits_of(p, context).count;
  }
  if (threadIdx.x == 0) {
    shared.first_item[0] = 0;
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], kConsumerWarps);
    }
    barrier_init_fence();
    prefetch_map(&key_map);
    prefetch_map(&value_map);
  }
  __syncthreads();
  if (warp == 0) {  // prefix sums, 32 sequences at a time
    int before = 0;
    for (int b = 0; b < p.batch; b += 32) {
      int count = b + lane < p.batch ? shared.first_item[b + lane + 1] : 0;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffff, count, step);
        if (lane >= step) count += other;
      }
      if (b + lane < p.batch) shared.first_item[b + lane + 1] = before + count;
      before += __shfl_sync(0xffffffff, count, 31);
    }
  }
  __syncthreads();

  // So far only the batch's lengths were read; queries, keys and values come from the kernel before.
  wait_for_previous();
  if (warp < kConsumerWarps) {
    consume<D, MT>(p, shared, warp, lane);
  } else {
    produce<D, MT>(p, &key_map, &value_map, shared, lane);
  }
  let_next_start();  // Not earlier: see decode_matmul.cu.
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

template <int D, int MT>
cudaError_t launch_decode(const CUtensorMap& keys, const CUtensorMap& values, const DecodeParams& p,
                          cudaStream_t stream) {
  constexpr int bytes = sizeof(DecodeShared<D, MT>) + 1024;
  int device, multiprocessors;
  EDGEWISE_TRY(cudaGetDevice(&device));
  EDGEWISE_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  EDGEWISE_TRY(cudaFuncSetAttribute(decode_kernel<D, MT>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int64_t most = static_cast<int64_t>(p.batch) * p.splits * p.kv_heads * p.row_tiles;
  const int64_t resident = multiprocessors * (MT == 1 ? 2 : 1);
  const int blocks = static_cast<int>(most < resident ? most : resident);
  EDGEWISE_TRY(launch_early(decode_kernel<D, MT>, blocks, kThreads, bytes, stream, keys, values, p));
  const int merge_blocks = ceil_div(p.batch * p.q_len * p.heads, kMergeThreads / 32);
  return launch_early(merge_kernel<D>, merge_blocks, kMergeThreads, 0, stream, p);
}

constexpr int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace
}  // namespace edgewise

// Bytes of the workspace below, of any content.
extern "C" int64_t EDGEWISE_LAUNCHER(edgewise_attention_decode_workspace)(
    int batch, int q_len, int heads, int kv_heads, int head_dim, int splits) {
  using namespace edgewise;
  const int64_t rows = static_cast<int64_t>(batch) * splits * q_len * heads;
  return aligned(rows * 8) + aligned(rows * head_dim * 4);
}

// `splits`: most parts a context is cut into, at most 64; 128 / kv_heads keeps an H100 busy from one sequence on, and
// more only cost. `min_split`: fewest tokens of a part, a multiple of 128 (64 suffice at head_dim 128); 256 is a good
// one. `window`: positions a query sees, itself included; 0 for all. Not valid: head_dim other than 64 and 128, batch
// over 512, a page that is no multiple of 32 tokens.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_attention_decode)(
    const void* q, void* out, const void* keys, const void* values, const int* table, const int* context,
    void* workspace, int batch, int q_len, int heads, int kv_heads, int head_dim, int pages, int page_tokens,
    int table_stride, int splits, int min_split, int window, float scale, cudaStream_t stream) {
  using namespace edgewise;
  if (batch < 1 || batch > kMaxBatch || q_len < 1 || kv_heads < 1 || heads % kv_heads != 0 || splits < 1 ||
      splits > kMaxSplits || (head_dim != 64 && head_dim != 128) || min_split < 1 ||
      min_split % tile_tokens(head_dim) != 0) {
    return cudaErrorInvalidValue;
  }
  DecodeParams p;
  p.tile = tile_tokens(head_dim);
  p.box_tokens = page_box_tokens(page_tokens, p.tile);
  if (p.box_tokens == 0) return cudaErrorInvalidValue;
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

  CUtensorMap key_map, value_map;
  EDGEWISE_TRY(make_page_map(&key_map, keys, pages, page_tokens, kv_heads, head_dim, p.box_tokens));
  EDGEWISE_TRY(make_page_map(&value_map, values, pages, page_tokens, kv_heads, head_dim, p.box_tokens));
  if (head_dim == 128) {
    return wide ? launch_decode<128, 2>(key_map, value_map, p, stream)
                : launch_decode<128, 1>(key_map, value_map, p, stream);
  }
  return wide ? launch_decode<64, 2>(key_map, value_map, p, stream)
              : launch_decode<64, 1>(key_map, value_map, p, stream);
}
