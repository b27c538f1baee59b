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

template <int D, int MT>
struct DecodeShared {
  static constexpr int kStages = 3 * MT;
  static constexpr int kTileBytes = tile_tokens(D) * D * 2;
  alignas(1024) unsigned char keys[kStages][kTileBytes];
  unsigned char values[kStages][kTileBytes];
  DecodeState state;
  alignas(8) uint64_t full[kStages];
  uint64_t empty[kStages];
};

template <int D, int MT>
__device__ void produce(const DecodeParams& p, const CUtensorMap* key_map, const CUtensorMap* value_map,
                        DecodeShared<D, MT>& shared, int lane) {
  using Shared = DecodeShared<D, MT>;
  constexpr int kTile = tile_tokens(D);
  Items items{p, shared.state.first_item, shared.state.context};
  Item item, next;
  int stage = 0;
  uint32_t phase = 1;  // the first pass over the stages finds them empty
  const int boxes = kTile / p.box_tokens;
  bool more = items.at(blockIdx.x, item);
  int rows = more ? box_rows(p, item, 0, lane) : 0;
  for (int index = blockIdx.x + gridDim.x; more; index += gridDim.x) {
    more = items.at(index, next);
    const int next_rows = more ? box_rows(p, next, 0, lane) : 0;
    int box = 0;
    for (int tile = item.begin; tile < item.end; tile += kTile) {
      if (box == 32) {
        box = 0;
        rows = box_rows(p, item, (tile - item.begin) / p.box_tokens, lane);
      }
      barrier_wait(&shared.empty[stage], phase);
      if (lane == 0) barrier_expect(&shared.full[stage], 2 * Shared::kTileBytes);
      for (int b = 0; b < boxes; ++b) {
        const int offset = b * p.box_tokens * 128, row = __shfl_sync(0xffffffff, rows, box + b);
        if (lane == 0) {
#pragma unroll
          for (int half = 0; half < D / kSwizzleRow; ++half) {
            load_box_3d(shared.keys[stage] + half * kTile * 128 + offset, key_map, &shared.full[stage],
                        half * kSwizzleRow, item.kv_head, row);
          }
#pragma unroll
          for (int half = 0; half < D / kSwizzleRow; ++half) {
            load_box_3d(shared.values[stage] + half * kTile * 128 + offset, value_map, &shared.full[stage],
                        half * kSwizzleRow, item.kv_head, row);
          }
        }
      }
      box += boxes;
      if (++stage == Shared::kStages) {
        stage = 0;
        phase ^= 1;
      }
    }
    item = next;
    rows = next_rows;
  }
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

// This warp's share of 16 rows and those of the three others become one.
template <int D, int Rows>
__device__ __forceinline__ void combine_warps(const DecodeParams& p, DecodeState& state, const Item& item, int tile_row,
                                              int warp, int lane, const float (&o)[D / 8][4], const float (&maximum)[2],
                                              float (&sum)[2]) {
  const int own_row = lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 1);
    sum[half] += __shfl_xor_sync(0xffffffff, sum[half], 2);
    if (lane % 4 == 0) {
      state.maximum[warp][half * 8 + own_row] = maximum[half];
      state.sum[warp][half * 8 + own_row] = sum[half];
    }
  }
  combine_rows<D, Rows>(p, state, item, tile_row, warp, lane, [&](auto dims, int first, float* to, int stride) {
    if (own_row >= Rows) return;
#pragma unroll
    for (int half = 0; half < (Rows == 16 ? 2 : 1); ++half) {
      const int row = half * 8 + own_row;
      const float factor = exp2_fast(maximum[half] - block_maximum(state, row));
#pragma unroll
      for (int j = 0; j < dims.value / 8; ++j) {
        const float(&part)[4] = o[first / 8 + j];
        *reinterpret_cast<float2*>(to + row * stride + lane % 4 * 2 + j * 8) =
            make_float2(part[half * 2] * factor, part[half * 2 + 1] * factor);
      }
    }
  });
}

template <int D, int MT>
__device__ void consume(const DecodeParams& p, DecodeShared<D, MT>& shared, int warp, int lane) {
  using Shared = DecodeShared<D, MT>;
  constexpr int kTile = tile_tokens(D), kSteps = D / 16;
  constexpr int kParts = kTile / (16 * kConsumerWarps);  // of 16 tokens, per warp and tile
  const int matrix = lane / 8, row_in_matrix = lane % 8;
  const int key_token = warp * 16 * kParts + (matrix / 2) * 8 + row_in_matrix;
  const int value_token = warp * 16 * kParts + (matrix % 2) * 8 + row_in_matrix;
  Items items{p, shared.state.first_item, shared.state.context};
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
        combine_warps<D, 4>(p, shared.state, item, tile_row, warp, lane, o[mt], maximum[mt], sum[mt]);
      } else if (MT == 1 && p.rows <= 8) {
        combine_warps<D, 8>(p, shared.state, item, tile_row, warp, lane, o[mt], maximum[mt], sum[mt]);
      } else {
        combine_warps<D, 16>(p, shared.state, item, tile_row, warp, lane, o[mt], maximum[mt], sum[mt]);
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

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], kConsumerWarps);
    }
    barrier_init_fence();
    prefetch_map(&key_map);
    prefetch_map(&value_map);
  }
  count_items(p, shared.state);

  // So far only the batch's lengths were read; queries, keys and values come from the kernel before.
  wait_for_previous();
  if (warp < kConsumerWarps) {
    consume<D, MT>(p, shared, warp, lane);
  } else {
    produce<D, MT>(p, &key_map, &value_map, shared, lane);
  }
  let_next_start();  // Not earlier: see decode_matmul.cu.
}

template <int D, int MT>
cudaError_t launch_pages(const CUtensorMap& keys, const CUtensorMap& values, const DecodeParams& p,
                         cudaStream_t stream) {
  constexpr int bytes = sizeof(DecodeShared<D, MT>) + 1024;
  return launch_decode<D>(decode_kernel<D, MT>, bytes, MT == 1 ? 2 : 1, p, stream, keys, values);
}

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
  DecodeParams p;
  if (!make_params(p, q, out, table, context, workspace, batch, q_len, heads, kv_heads, head_dim, pages, page_tokens,
                   table_stride, splits, min_split, window, scale)) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap key_map, value_map;
  EDGEWISE_TRY(make_page_map(&key_map, keys, pages, page_tokens, kv_heads, head_dim, p.box_tokens));
  EDGEWISE_TRY(make_page_map(&value_map, values, pages, page_tokens, kv_heads, head_dim, p.box_tokens));
  if (head_dim == 128) {
    return p.rows > 16 ? launch_pages<128, 2>(key_map, value_map, p, stream)
                       : launch_pages<128, 1>(key_map, value_map, p, stream);
  }
  return p.rows > 16 ? launch_pages<64, 2>(key_map, value_map, p, stream)
                     : launch_pages<64, 1>(key_map, value_map, p, stream);
}
