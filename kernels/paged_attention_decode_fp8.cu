// Paged attention of a decoding step over FP8 pages: paged_attention_decode.cu with half of the bytes.
//
//   q, out, table, context, workspace, splits, min_split, window   as there
//   keys, values   pools of FP8 pages (fp8_pages.cuh), page_tokens a multiple of 32
//
// Floors: bytes = 2 * kv_heads * (head_dim + 4) * sum(context) over the copy rate, 52 % of 16-bit pages at head_dim 128
// and 53 % at 64; FLOPs as there, far below the tensor cores' rate. But there is half of the time for all that is not
// bytes, which is why this kernel is not that one with another load.
//
// Design: items, splits and merge as there. Products are transposed: tokens, then dimensions, are the M side of
// m16n8k16, and the query rows of a key head its N side, in tiles of 8. With up to 8 rows (GQA) that is half of the
// instructions and registers of 16 rows, so that three blocks fit a multiprocessor and hide each other's ends of items.
//
// Codes become half precision in registers, in which each is exact, and the matrix instructions are those of half
// precision, also where queries are bf16: a row of queries is multiplied by a power of two that brings its largest to
// 2^14, and its scores are divided by it. Scales of keys multiply scores, in fp32. Scales of values multiply weights
// before these are rounded, over a power of two, `unit`, that follows the largest scale met so far as the maximum of
// softmax follows the scores: neither small nor large values leave the range of half precision.
//
// ldmatrix hands a lane four successive codes. For keys these are four places of the contraction, whose order is free:
// queries are loaded in the same order. For values, 8 x 8 pairs of codes are transposed, the codes of two tokens are
// exchanged bytewise, and even dimensions are the upper half of the M side, odd ones the lower. movmatrix makes the
// weights, which come as tokens by rows, the other product's operand.
//
// Variants, 32 x 8k / 1 x 32k / 1 x 8k, 32/8 heads of 128: query rows as the M side, 224 / 37.8 / 15.5 us (82 % of
// copy); with tiles of 128 tokens, which spill, 233 / 37.3 / 15.4; transposed, two blocks of five stages 216 / 32.9 /
// 14.1, three blocks of three stages 209 / 33.0 / 14.1. Parts of at least 512 tokens: 128 x 2k 219 to 209, 1 x 2k 9.8
// to 10.7. Twice as many parts: 1 x 32k 34.3, 1 x 128k 108 to 105.
//
// Bit for bit as there: a row's result depends on its own sequence, `splits`, `min_split` and `q_len` only. Codes and
// scales beyond the context are masked: pages may hold anything there, NaN included.
//
// Reached (H100; share of a copy's 3.03 TB/s; 32/8 heads of 128 unless said; us of 16-bit pages in the same run):
// 32 x 8k 88 % (209 us, 378), 128 x 2k 83 % (220, 392), 8 x 32k 87 % (211, 364), 1 x 128k 85 % (108, 186), 1 x 32k 69 %
// (33.0, 54.2), 1 x 8k 41 % (14.1, 20.0); 32/32 heads 93 % (197, 360), head_dim 64 80 % (117, 206). Short of: the ends
// of items (four warps' shares become one, new queries), at batch 1 latency, as there.
#include "fp8_pages.cuh"
#include "paged_attention_decode.cuh"

namespace edgewise {
namespace {

template <int D, int NT>
struct Fp8Shared {
  static constexpr int kBlocks = NT == 1 ? 3 : NT == 2 ? 2 : 1;  // on a multiprocessor
  static constexpr int kStages = kBlocks == 3 ? 3 : kBlocks == 2 ? 5 : 10, kTile = tile_tokens(D);
  alignas(1024) unsigned char keys[kStages][kTile * D];
  unsigned char values[kStages][kTile * D];
  alignas(128) float key_scales[kStages][kTile];
  float value_scales[kStages][kTile];
  DecodeState state;
  alignas(8) uint64_t full[kStages];
  uint64_t empty[kStages];
};

struct Fp8Maps {
  const CUtensorMap *keys, *values, *key_scales, *value_scales;
};

__device__ __forceinline__ void load_box_2d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
      ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}

// d[16 x 8] += a[16 x 16] b[16 x 8], operands in half precision whatever the file is compiled for, fp32 sums.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^14 over the power of two at or below `magnitude`, which is taken into a range where that and its inverse are
// normal.
__device__ __forceinline__ float power_to_top(float magnitude) {
  const uint32_t exponent = min(max(__float_as_uint(magnitude) >> 23, 30u), 254u);
  return __uint_as_float((268u - exponent) << 23);
}

// 8 x 8 halves, transposed: a lane gives two of a row, and gets two of a column.
__device__ __forceinline__ uint32_t transposed(uint32_t matrix) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(matrix));
  return result;
}

// Queries of one item as fragments of m16n8k16's B, straight from device memory: of each step of 16 dimensions a lane
// has 4 (lane % 4) + {0, 1}, and + {2, 3} eight places on.
template <int D, int NT>
__device__ __forceinline__ void load_queries(const DecodeParams& p, const Item& item, int lane,
                                             uint32_t (&q)[NT][D / 16][2]) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
    const int row = (item.row_tile * NT + nt) * 8 + lane / 4;
    const int token = row < p.rows ? row / p.group : 0;
    const int head = item.kv_head * p.group + (row < p.rows ? row % p.group : 0);
    const uint32_t* from = reinterpret_cast<const uint32_t*>(
        p.q + (static_cast<int64_t>(item.sequence * p.q_len + token) * p.heads + head) * D);
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      q[nt][k][0] = from[k * 8 + lane % 4 * 2];
      q[nt][k][1] = from[k * 8 + lane % 4 * 2 + 1];
    }
  }
}

// Makes loaded queries half precision, and finds what scores of rows 2 (lane % 4) + {0, 1} are multiplied with.
template <int D, int NT>
__device__ __forceinline__ void convert_queries(const DecodeParams& p, int lane, uint32_t (&q)[NT][D / 16][2],
                                                float (&undo)[NT][2]) {
#pragma unroll
  for (int nt = 0; nt < NT; ++nt) {
#ifdef EDGEWISE_F16
    undo[nt][0] = undo[nt][1] = p.scale_log2;
#else
    float most = 0.f;
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      const float2 pair = to_floats(reinterpret_cast<const HalfPair&>(q[nt][i / 2][i % 2]));
      most = fmaxf(most, fmaxf(fabsf(pair.x), fabsf(pair.y)));
    }
    most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
    const float factor = power_to_top(most);
#pragma unroll
    for (int i = 0; i < D / 8; ++i) {
      uint32_t& word = q[nt][i / 2][i % 2];
      const float2 pair = to_floats(reinterpret_cast<const HalfPair&>(word));
      word = pack_f16(pair.x * factor, pair.y * factor);
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      undo[nt][e] = p.scale_log2 / __shfl_sync(0xffffffff, factor, (lane % 4 * 2 + e) * 4);
    }
#endif
  }
}

template <int D, int NT>
__device__ void produce(const DecodeParams& p, const Fp8Maps& maps, Fp8Shared<D, NT>& shared, int lane) {
  using Shared = Fp8Shared<D, NT>;
  constexpr int kTile = Shared::kTile;
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
      if (lane == 0) barrier_expect(&shared.full[stage], 2 * kTile * (D + 4));
      for (int b = 0; b < boxes; ++b) {
        const int row = __shfl_sync(0xffffffff, rows, box + b), first = b * p.box_tokens;
        if (lane == 0) {
          // Behind the context this is a head of a page behind the pool, which is read as zeros.
          const int run = row / p.page_tokens * p.kv_heads + item.kv_head, place = row % p.page_tokens;
          uint64_t* full = &shared.full[stage];
          load_box_3d(shared.keys[stage] + first * D, maps.keys, full, 0, place, run);
          load_box_2d(shared.key_scales[stage] + first, maps.key_scales, full, place, run);
          load_box_3d(shared.values[stage] + first * D, maps.values, full, 0, place, run);
          load_box_2d(shared.value_scales[stage] + first, maps.value_scales, full, place, run);
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

// The largest, or the sum, of what the lanes of a column of a fragment have.
__device__ __forceinline__ float column_maximum(float x) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, step));
  return x;
}

__device__ __forceinline__ float column_sum(float x) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2) x += __shfl_xor_sync(0xffffffff, x, step);
  return x;
}

// This warp's share of Rows rows from tile `first_tile` on and those of the three others become one.
template <int D, int NT, int Rows>
__device__ __forceinline__ void combine_warps(const DecodeParams& p, DecodeState& state, const Item& item,
                                              int first_tile, int warp, int lane, const float (&o)[NT][D / 16][4],
                                              const float (&maximum)[NT][2], const float (&sum)[NT][2], float unit) {
  constexpr int kTiles = ceil_div(Rows, 8);
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float total = column_sum(sum[first_tile + i][e]);
      if (lane < 4) {
        state.maximum[warp][i * 8 + lane * 2 + e] = maximum[first_tile + i][e];
        state.sum[warp][i * 8 + lane * 2 + e] = total;
      }
    }
  }
  const int tile_row = (item.row_tile * NT + first_tile) * 8;
  combine_rows<D, Rows>(p, state, item, tile_row, warp, lane, [&](auto dims, int first, float* to, int stride) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = i * 8 + lane % 4 * 2 + e;
        if (row >= Rows) continue;
        const float factor = exp2_fast(maximum[first_tile + i][e] - block_maximum(state, row)) * unit;
#pragma unroll
        for (int c = 0; c < dims.value / 16; ++c) {
          const float(&part)[4] = o[first_tile + i][first / 16 + c];
          *reinterpret_cast<float2*>(to + row * stride + c * 16 + lane / 4 * 2) =
              make_float2(part[e] * factor, part[2 + e] * factor);
        }
      }
    }
  });
}

template <int D, int NT>
__device__ void consume(const DecodeParams& p, Fp8Shared<D, NT>& shared, int warp, int lane) {
  using Shared = Fp8Shared<D, NT>;
  constexpr int kTile = Shared::kTile, kSteps = D / 16;
  constexpr int kParts = kTile / (16 * kConsumerWarps);  // of 16 tokens, per warp and tile
  const int matrix = lane / 8, row_in_matrix = lane % 8;
  const int first_token = warp * 16 * kParts;
  const int key_token = first_token + (matrix / 2) * 8 + row_in_matrix;
  const int value_token = first_token + (matrix % 2) * 8 + row_in_matrix;
  // The copy engine's permutation of 16-byte chunks, by rows of 128 bytes or of 64.
  const int swizzle = D == 128 ? row_in_matrix : row_in_matrix / 2;
  Items items{p, shared.state.first_item, shared.state.context};
  Item item, next;
  int stage = 0;
  uint32_t phase = 0;
  uint32_t q[NT][kSteps][2];
  bool more = items.at(blockIdx.x, item);
  if (NT <= 2 && more) load_queries<D, NT>(p, item, lane, q);

  for (int index = blockIdx.x + gridDim.x; more; index += gridDim.x) {
    if (NT > 2) load_queries<D, NT>(p, item, lane, q);  // too many registers to hold them through the merge
    float undo[NT][2];
    convert_queries<D, NT>(p, lane, q, undo);
    float o[NT][D / 16][4], maximum[NT][2], sum[NT][2];
    float power = power_to_top(0.f);  // 1 / unit
    int visible[NT][2];
#pragma unroll
    for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = (item.row_tile * NT + nt) * 8 + lane % 4 * 2 + e;
        const int token = row < p.rows ? row / p.group : 0;
        visible[nt][e] = item.context - p.q_len + token + 1;
        maximum[nt][e] = -INFINITY;
        sum[nt][e] = 0.f;
      }
#pragma unroll
      for (int c = 0; c < D / 16; ++c) o[nt][c][0] = o[nt][c][1] = o[nt][c][2] = o[nt][c][3] = 0.f;
    }

    for (int tile = item.begin; tile < item.end; tile += kTile) {
      barrier_wait(&shared.full[stage], phase);
      const uint32_t keys = shared_address(shared.keys[stage]) + key_token * D;
      const uint32_t values = shared_address(shared.values[stage]) + value_token * D;
      // Scores of this lane's tokens, first + 16 part and 8 more, and of its rows, 2 (lane % 4) + {0, 1}.
      float s[kParts][NT][4] = {};
#pragma unroll
      for (int k = 0; k < kSteps / 2; ++k) {  // 32 dimensions, two chunks
        const int chunk = k * 2 + matrix % 2;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          uint32_t b[4], low[4], high[4];
          load_matrices(b, keys + part * (16 * D) + ((chunk ^ swizzle) << 4));
#pragma unroll
          for (int i = 0; i < 4; ++i) from_codes(b[i], low[i], high[i]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const uint32_t a[4] = {low[i], low[i + 2], high[i], high[i + 2]};
#pragma unroll
            for (int nt = 0; nt < NT; ++nt) mma_f16(s[part][nt], a, q[nt][k * 2 + i][0], q[nt][k * 2 + i][1]);
          }
        }
      }

      const int first = first_token + lane / 4, column = tile + first;
      const bool is_last = tile + kTile > item.context;
      const bool masked = tile + kTile > item.context - p.q_len + 1 ||
                          (p.window > 0 && tile < item.context - p.window);
      float value_scales[kParts][2], tops[NT][2];
      bool grows = false;
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) tops[nt][0] = tops[nt][1] = -INFINITY;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int place = part * 16 + half * 8, at = column + place;
          const float key_scale = shared.key_scales[stage][first + place];
          float& value_scale = value_scales[part][half];
          value_scale = shared.value_scales[stage][first + place];
          if (is_last && at >= item.context) value_scale = 0.f;
          grows |= power_to_top(value_scale) < power;
#pragma unroll
          for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& score = s[part][nt][half * 2 + e];
              score *= key_scale * undo[nt][e];
              if (masked) {
                const bool seen = at < visible[nt][e] && (p.window <= 0 || at >= visible[nt][e] - p.window);
                score = seen ? score : -INFINITY;
              }
              tops[nt][e] = fmaxf(tops[nt][e], score);
            }
          }
        }
      }
#pragma unroll
      for (int nt = 0; nt < NT; ++nt) grows |= tops[nt][0] > maximum[nt][0] || tops[nt][1] > maximum[nt][1];

      // Most tiles have no larger score nor value: then nothing is multiplied by anything but 1.
      if (__any_sync(0xffffffff, grows)) {
        float smaller = power;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          smaller = fminf(smaller, fminf(power_to_top(value_scales[part][0]), power_to_top(value_scales[part][1])));
        }
        smaller = -column_maximum(-smaller);
        const float change = smaller / power;
        power = smaller;
#pragma unroll
        for (int nt = 0; nt < NT; ++nt) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float top = fmaxf(maximum[nt][e], column_maximum(tops[nt][e]));
            const float scale = exp2_fast(maximum[nt][e] - (top == -INFINITY ? 0.f : top));
            maximum[nt][e] = top;
            sum[nt][e] *= scale;
#pragma unroll
            for (int c = 0; c < D / 16; ++c) {
              o[nt][c][e] *= scale * change;
              o[nt][c][2 + e] *= scale * change;
            }
          }
        }
      }

      uint32_t weights[kParts][NT][2];
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float factor = value_scales[part][half] * power;
#pragma unroll
          for (int nt = 0; nt < NT; ++nt) {
            float weight[2];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const float base = maximum[nt][e] == -INFINITY ? 0.f : maximum[nt][e];
              weight[e] = exp2_fast(s[part][nt][half * 2 + e] - base);
              sum[nt][e] += weight[e];
            }
            weights[part][nt][half] = transposed(pack_f16(weight[0] * factor, weight[1] * factor));
          }
        }
      }

      const int pair = tile + first_token + lane % 4 * 2;  // the tokens whose values this lane has, and 8 more
      const auto held = [&](int at) {
        return (at < item.context ? 0x0000ffffu : 0u) | (at + 1 < item.context ? 0xffff0000u : 0u);
      };
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint32_t held_low = held(pair + part * 16), held_high = held(pair + part * 16 + 8);
#pragma unroll
        for (int n = 0; n < D / 32; ++n) {  // 32 dimensions, two chunks
          const int chunk = n * 2 + matrix / 2;
          uint32_t b[4];
          load_matrices_transposed(b, values + part * (16 * D) + ((chunk ^ swizzle) << 4));
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            // Of two tokens, two dimensions each: made two dimensions of two tokens each, the even one a row of A's
            // upper half, the odd one of its lower half.
            uint32_t a[4];
            from_codes(__byte_perm(b[i * 2] & held_low, 0, 0x3120), a[0], a[1]);
            from_codes(__byte_perm(b[i * 2 + 1] & held_high, 0, 0x3120), a[2], a[3]);
#pragma unroll
            for (int nt = 0; nt < NT; ++nt) mma_f16(o[nt][n * 2 + i], a, weights[part][nt][0], weights[part][nt][1]);
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
    if (NT <= 2 && more) load_queries<D, NT>(p, next, lane, q);
    const float unit = 1.f / power;
    if (NT == 1 && p.rows <= 4) {
      combine_warps<D, NT, 4>(p, shared.state, item, 0, warp, lane, o, maximum, sum, unit);
    } else if (NT == 1) {
      combine_warps<D, NT, 8>(p, shared.state, item, 0, warp, lane, o, maximum, sum, unit);
    } else {
#pragma unroll
      for (int first = 0; first < NT / 2 * 2; first += 2) {
        combine_warps<D, NT, NT == 1 ? 8 : 16>(p, shared.state, item, first, warp, lane, o, maximum, sum, unit);
      }
    }
    item = next;
  }
}

template <int D, int NT>
__global__ void __launch_bounds__(kThreads, Fp8Shared<D, NT>::kBlocks)
    decode_fp8_kernel(const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap values,
                      const __grid_constant__ CUtensorMap key_scales,
                      const __grid_constant__ CUtensorMap value_scales, const DecodeParams p) {
  extern __shared__ unsigned char raw[];
  using Shared = Fp8Shared<D, NT>;
  Shared& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Fp8Maps maps = {&keys, &values, &key_scales, &value_scales};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], kConsumerWarps);
    }
    barrier_init_fence();
    for (const CUtensorMap* map : {maps.keys, maps.values, maps.key_scales, maps.value_scales}) prefetch_map(map);
  }
  count_items(p, shared.state);

  // So far only the batch's lengths were read; queries, keys and values come from the kernel before.
  wait_for_previous();
  if (warp < kConsumerWarps) {
    consume<D, NT>(p, shared, warp, lane);
  } else {
    produce<D, NT>(p, maps, shared, lane);
  }
  let_next_start();  // Not earlier: see decode_matmul.cu.
}

// A map over `inner` numbers of every token, of every head of every page.
inline cudaError_t make_map(CUtensorMap* map, const void* base, CUtensorMapDataType type, int rank,
                            const uint64_t* extent, const uint64_t* stride, const uint32_t* box,
                            CUtensorMapSwizzle swizzle) {
  decltype(&cuTensorMapEncodeTiled) encode;
  EDGEWISE_TRY(tensor_map_encoder(&encode));
  const uint32_t element_stride[3] = {1, 1, 1};
  const CUresult result = encode(map, type, rank, const_cast<void*>(base), extent, stride, box, element_stride,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// The codes [pages * kv_heads, page_tokens, head_dim] and the scales [pages * kv_heads, page_tokens] of a pool.
inline cudaError_t make_maps(CUtensorMap* codes, CUtensorMap* scales, const void* pool, int pages, int kv_heads,
                             int head_dim, const DecodeParams& p) {
  const uint64_t runs = static_cast<uint64_t>(pages) * kv_heads, tokens = p.page_tokens, dims = head_dim;
  const uint64_t run_bytes = head_page_bytes(p.page_tokens, head_dim);
  const uint32_t box_tokens = p.box_tokens;
  const uint64_t code_extent[3] = {dims, tokens, runs}, code_stride[2] = {dims, run_bytes};
  const uint32_t code_box[3] = {static_cast<uint32_t>(head_dim), box_tokens, 1};
  EDGEWISE_TRY(make_map(codes, pool, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, code_extent, code_stride, code_box,
                        head_dim == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B));
  const uint64_t scale_extent[2] = {tokens, runs}, scale_stride[1] = {run_bytes};
  const uint32_t scale_box[2] = {box_tokens, 1};
  return make_map(scales, static_cast<const unsigned char*>(pool) + tokens * dims, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2,
                  scale_extent, scale_stride, scale_box, CU_TENSOR_MAP_SWIZZLE_NONE);
}

template <int D, int NT>
cudaError_t launch_fp8(const CUtensorMap (&codes)[2], const CUtensorMap (&scales)[2], const DecodeParams& p,
                       cudaStream_t stream) {
  constexpr int bytes = sizeof(Fp8Shared<D, NT>) + 1024;
  return launch_decode<D>(decode_fp8_kernel<D, NT>, bytes, Fp8Shared<D, NT>::kBlocks, p, stream, codes[0], codes[1],
                          scales[0], scales[1]);
}

}  // namespace
}  // namespace edgewise

// As edgewise_attention_decode, whose workspace serves here, too; pools as fp8_pages.cuh says.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_attention_decode_fp8)(
    const void* q, void* out, const void* keys, const void* values, const int* table, const int* context,
    void* workspace, int batch, int q_len, int heads, int kv_heads, int head_dim, int pages, int page_tokens,
    int table_stride, int splits, int min_split, int window, float scale, cudaStream_t stream) {
  using namespace edgewise;
  DecodeParams p;
  if (!make_params(p, q, out, table, context, workspace, batch, q_len, heads, kv_heads, head_dim, pages, page_tokens,
                   table_stride, splits, min_split, window, scale)) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap codes[2], scales[2];
  EDGEWISE_TRY(make_maps(&codes[0], &scales[0], keys, pages, kv_heads, head_dim, p));
  EDGEWISE_TRY(make_maps(&codes[1], &scales[1], values, pages, kv_heads, head_dim, p));
  const bool narrow = p.rows <= 8, wide = p.rows > 16;
  if (head_dim == 128) {
    return narrow ? launch_fp8<128, 1>(codes, scales, p, stream)
           : wide ? launch_fp8<128, 4>(codes, scales, p, stream)
                  : launch_fp8<128, 2>(codes, scales, p, stream);
  }
  return narrow ? launch_fp8<64, 1>(codes, scales, p, stream)
         : wide ? launch_fp8<64, 4>(codes, scales, p, stream)
                : launch_fp8<64, 2>(codes, scales, p, stream);
}
