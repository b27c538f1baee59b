// Paged attention of a decoding step over FP8 pages: paged_attention_decode.cu with half of the bytes.
//
//   q, out, table, context, workspace, splits, min_split, window   as there
//   keys, values   pools of FP8 pages (fp8_pages.cuh), page_tokens a multiple of 32
//
// Floors: bytes = 2 * kv_heads * (head_dim + 4) * sum(context) over the copy rate, 52 % of 16-bit pages at head_dim 128
// and 53 % at 64; FLOPs as there, far below the tensor cores' rate.
//
// Design: as there, with five stages of half the bytes. Codes become half precision in registers, in which each is
// exact, and the matrix instructions are those of half precision, also where queries are bf16: a row of queries is
// multiplied by a power of two that brings its largest to 2^14, and its scores are divided by it. Scales of keys multiply
// scores, in fp32. Scales of values multiply the weights before these are rounded, over a power of two, `unit`, that
// follows the largest scale met so far as the maximum of softmax follows the scores: neither small nor large values
// leave the range of half precision.
//
// ldmatrix hands a lane four successive codes. For keys these are two places of the contraction, whose order is free:
// queries are loaded in the same order. For values, 8 x 8 pairs of codes are transposed, the two codes of two tokens are
// exchanged bytewise, and even and odd dimensions are two products (`Quads` in paged_attention_decode.cuh).
//
// Bit for bit as there: a row's result depends on its own sequence, `splits`, `min_split` and `q_len` only. Codes and
// scales beyond the context are masked: pages may hold anything there, NaN included.
#include "fp8_pages.cuh"
#include "paged_attention_decode.cuh"

namespace edgewise {
namespace {

template <int D, int MT>
struct Fp8Shared {
  static constexpr int kStages = 5 * MT, kTile = tile_tokens(D);
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

// Queries of one item as fragments of m16n8k16's A, straight from device memory: of each step of 16 dimensions a lane has
// 4 (lane % 4) + {0, 1}, and + {2, 3} eight places on.
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
        q[mt][k][half] = from[k * 8 + lane % 4 * 2];
        q[mt][k][half + 2] = from[k * 8 + lane % 4 * 2 + 1];
      }
    }
  }
}

// Makes loaded queries half precision, and finds what scores are multiplied with.
template <int D, int MT>
__device__ __forceinline__ void convert_queries(const DecodeParams& p, uint32_t (&q)[MT][D / 16][4],
                                                float (&undo)[MT][2]) {
#pragma unroll
  for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#ifdef EDGEWISE_F16
      undo[mt][half] = p.scale_log2;
#else
      float most = 0.f;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        const float2 pair = to_floats(reinterpret_cast<const HalfPair&>(q[mt][i / 2][half + i % 2 * 2]));
        most = fmaxf(most, fmaxf(fabsf(pair.x), fabsf(pair.y)));
      }
      most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
      const float factor = power_to_top(most);
      undo[mt][half] = p.scale_log2 / factor;
#pragma unroll
      for (int i = 0; i < D / 8; ++i) {
        uint32_t& word = q[mt][i / 2][half + i % 2 * 2];
        const float2 pair = to_floats(reinterpret_cast<const HalfPair&>(word));
        word = pack_f16(pair.x * factor, pair.y * factor);
      }
#endif
    }
  }
}

template <int D, int MT>
__device__ void produce(const DecodeParams& p, const Fp8Maps& maps, Fp8Shared<D, MT>& shared, int lane) {
  using Shared = Fp8Shared<D, MT>;
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

template <int D, int MT>
__device__ void consume(const DecodeParams& p, Fp8Shared<D, MT>& shared, int warp, int lane) {
  using Shared = Fp8Shared<D, MT>;
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
  uint32_t q[MT][kSteps][4];
  bool more = items.at(blockIdx.x, item);
  if (MT == 1 && more) load_queries<D, MT>(p, item, lane, q);

  for (int index = blockIdx.x + gridDim.x; more; index += gridDim.x) {
    if (MT > 1) load_queries<D, MT>(p, item, lane, q);  // too many registers to hold them through the merge
    float undo[MT][2];
    convert_queries<D, MT>(p, q, undo);
    const int row0 = item.row_tile * 16 * MT;
    float o[MT][D / 8][4], maximum[MT][2], sum[MT][2];
    float power = power_to_top(0.f);  // 1 / unit
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
      const uint32_t keys = shared_address(shared.keys[stage]) + key_token * D;
      const uint32_t values = shared_address(shared.values[stage]) + value_token * D;
      float s[MT][2 * kParts][4] = {};
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
          for (int mt = 0; mt < MT; ++mt) {
#pragma unroll
            for (int i = 0; i < 4; ++i) mma_f16(s[mt][part * 2 + i / 2], q[mt][k * 2 + i % 2], low[i], high[i]);
          }
        }
      }

      // This lane's tokens of the tile: first + 8 j + {0, 1}.
      const int first = first_token + lane % 4 * 2, column = tile + first;
      const bool is_last = tile + kTile > item.context;
      const auto value_scales = [&](int j) {
        float2 scales = *reinterpret_cast<const float2*>(shared.value_scales[stage] + first + j * 8);
        if (is_last && column + j * 8 >= item.context) scales.x = 0.f;
        if (is_last && column + j * 8 + 1 >= item.context) scales.y = 0.f;
        return scales;
      };
      float most = 0.f;
#pragma unroll
      for (int j = 0; j < 2 * kParts; ++j) {
        const float2 scales = value_scales(j);
        most = fmaxf(most, fmaxf(scales.x, scales.y));
      }
      most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
      const float smaller = fminf(power, power_to_top(most)), change = smaller / power;
      power = smaller;

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
            const float2 scales = *reinterpret_cast<const float2*>(shared.key_scales[stage] + first + j * 8);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& score = s[mt][j][half * 2 + e];
              score *= (e == 0 ? scales.x : scales.y) * undo[mt][half];
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
            const float2 scales = value_scales(j);
            part += a + b;
            p_fragment[mt][j / 2][j % 2 * 2 + half] = pack_f16(a * (scales.x * power), b * (scales.y * power));
          }
          sum[mt][half] = sum[mt][half] * scale + part;
          // Multiplying by exactly 1 changes nothing, so the whole warp may skip it.
          const float older = scale * change;
          if (__any_sync(0xffffffff, older != 1.f)) {
#pragma unroll
            for (int j = 0; j < D / 8; ++j) {
              o[mt][j][half * 2] *= older;
              o[mt][j][half * 2 + 1] *= older;
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
        for (int n = 0; n < D / 32; ++n) {  // 32 dimensions, two chunks
          const int chunk = n * 2 + matrix / 2;
          uint32_t b[4];
          load_matrices_transposed(b, values + part * (16 * D) + ((chunk ^ swizzle) << 4));
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            // Of two tokens, two dimensions each: made two dimensions of two tokens each.
            uint32_t even[2], odd[2];
            from_codes(__byte_perm(b[i * 2] & held_low, 0, 0x3120), even[0], odd[0]);
            from_codes(__byte_perm(b[i * 2 + 1] & held_high, 0, 0x3120), even[1], odd[1]);
#pragma unroll
            for (int mt = 0; mt < MT; ++mt) {
              mma_f16(o[mt][n * 4 + i * 2], p_fragment[mt][part], even[0], even[1]);
              mma_f16(o[mt][n * 4 + i * 2 + 1], p_fragment[mt][part], odd[0], odd[1]);
            }
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
      combine_warps<D, MT, true>(p, shared.state, item, row0 + mt * 16, warp, lane, o[mt], maximum[mt], sum[mt],
                                 1.f / power);
    }
    item = next;
  }
}

template <int D, int MT>
__global__ void __launch_bounds__(kThreads, MT == 1 ? 2 : 1)
    decode_fp8_kernel(const __grid_constant__ CUtensorMap keys, const __grid_constant__ CUtensorMap values,
                      const __grid_constant__ CUtensorMap key_scales,
                      const __grid_constant__ CUtensorMap value_scales, const DecodeParams p) {
  extern __shared__ unsigned char raw[];
  using Shared = Fp8Shared<D, MT>;
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
    consume<D, MT>(p, shared, warp, lane);
  } else {
    produce<D, MT>(p, maps, shared, lane);
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

template <int D, int MT>
cudaError_t launch_fp8(const CUtensorMap (&codes)[2], const CUtensorMap (&scales)[2], const DecodeParams& p,
                       cudaStream_t stream) {
  constexpr int bytes = sizeof(Fp8Shared<D, MT>) + 1024;
  return launch_decode<D>(decode_fp8_kernel<D, MT>, bytes, MT == 1 ? 2 : 1, p, stream, codes[0], codes[1], scales[0],
                          scales[1]);
}

}  // namespace
}  // namespace edgewise

// As edgewise_attention_decode, whose workspace serves here, too; pools as fp8_pages.cuh says. 256 / kv_heads splits and
// a min_split of 512, the bytes of 256 tokens there, are good ones.
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
  if (head_dim == 128) {
    return p.rows > 16 ? launch_fp8<128, 2>(codes, scales, p, stream) : launch_fp8<128, 1>(codes, scales, p, stream);
  }
  return p.rows > 16 ? launch_fp8<64, 2>(codes, scales, p, stream) : launch_fp8<64, 1>(codes, scales, p, stream);
}
