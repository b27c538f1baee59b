// Paged causal attention of prefill chunks on Hopper: wgmma, bulk tensor copies, warp-specialised.
//
//   q        [total_q, heads, head_dim]                      bf16, the chunks' tokens, sequence after sequence
//   out      [total_q, heads, head_dim]                      bf16
//   keys, values [pages, page_tokens, kv_heads, head_dim]    bf16, page_tokens a multiple of 32
//   table    [batch, table_stride]                           int32 page ids
//   starts   [batch + 1]                                     int32 first row of each chunk in q
//   context  [batch]                                         int32 tokens held, the chunk included: a chunk's first
//                                                            query stands at position context - rows of the chunk
//
// Floors: FLOPs = 4 * heads * head_dim * sum over queries of (position + 1) over the matrix rate; bytes (queries and
// outputs once, keys and values once per head) are far below it from a few hundred tokens on. The second limit is the
// special-function unit: one exponential per score, half the matrix time at head_dim 128, all of it at 64.
//
// Design: one block takes Groups * (64 / group) tokens of one key head with all its query heads (row = token * group +
// head, so that the diagonal wastes little and a key is read once for all of them). One warp copies; each of three
// consumer warpgroups owns 64 rows. Keys are walked from the diagonal to the left in absolute blocks of 64 (128 at
// head_dim 64). The scores of the next block are issued before the values of this one, so softmax overlaps the second
// product (Shah et al. 2024, "FlashAttention-3"); three warpgroups fill each other's gaps without taking turns.
//
// Variants measured at 32k tokens, 32/8 heads, in turn on one card. d 128: three warpgroups and blocks of 64, 662
// TFLOP/s; two and 128, 638 (two and 160: 12 % under that; two and 96: 13 %); three and 96 spill. d 64: three and 128,
// 517; three and 96, 473; two and 128, 447. No difference: turns at issuing by named barriers, queries in registers,
// persistent blocks with a tile counter. Slower: exponentials as polynomials, by 5 % for every eighth of them.
//
// With few tokens behind a long context there are fewer tiles than multiprocessors: tiles of two warpgroups or one then, whose
// single tile takes longer for its rows, but ends sooner. 64 tokens at 32k: 320 us instead of 512.
//
// A row's arithmetic depends only on its position and the keys up to it: blocks are absolute, blocks it does not see
// change nothing (factors of exactly 1 and 0). So chunking, batching and page size change no bit. Values beyond the
// context are zeroed in shared memory: pages may hold anything there, NaN included.
//
// Reached (H100, TFLOP/s, pages of 64; FlashAttention-2 and cuDNN beside it on contiguous keys, in turn): 32/8 heads of
// 128 at 2k / 8k / 32k / 128k: 403 / 682 / 672 / 677 (FlashAttention-2 210 / 320 / 327 / 324, cuDNN 403 / 619 / 656 /
// 563), 85 % of a large matrix product; a chunk of 2k at 30k 652. Heads of 64: 279 / 490 / 534 / 514 (180 / 278 / 297 /
// 307 and 291 / 441 / 483 / 442), where the exponentials are the limit. Pages of 32 cost 7 %.
#include "wgmma.cuh"

namespace edgewise {
namespace {

constexpr int kGroupRows = 64;
constexpr int kSharedLimit = 232448 - 2048;  // less alignment and barriers

struct PrefillParams {
  Half* out;
  const int *table, *starts, *context;
  int table_stride, batch, tiles, heads, group, group_tokens;
  int page_tokens, box_tokens, pool_tokens, window;
  float scale_log2;
};

// One block's share: `position` is that of its first token, `row` that token's row in q.
struct Tile {
  int sequence, kv_head, row, rows_end, position, context, first_block, last_block;
};

template <int D, int Groups, int Block>
struct PrefillShared {
  static_assert(Groups >= 1 && Groups <= 3, "registers are dealt out for up to three consumer warpgroups");
  static constexpr int kFitting = (kSharedLimit - Groups * kGroupRows * D * 2) / (2 * Block * D * 2);
  static constexpr int kStages = kFitting < 4 ? kFitting : 4;
  alignas(1024) unsigned char q[Groups][kGroupRows * D * 2];
  unsigned char keys[kStages][Block * D * 2];
  unsigned char values[kStages][Block * D * 2];
  alignas(8) uint64_t q_full, keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

// Tells the compiler that a value is the same in the whole warp: wgmma may not stand behind branches it thinks diverge.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xffffffff, value, 0); }

// Longest tiles first, so that the last ones to run are short. Lanes look at 32 sequences at a time.
template <int Groups, int Block>
__device__ bool find_tile(const PrefillParams& p, Tile& tile) {
  const int lane = threadIdx.x % 32, tokens = Groups * p.group_tokens;
  int rest = blockIdx.x % p.tiles;
  for (int b = 0; b < p.batch; b += 32) {
    const bool valid = b + lane < p.batch;
    const int start = valid ? p.starts[b + lane] : 0, end = valid ? p.starts[b + lane + 1] : 0;
    const int context = valid ? p.context[b + lane] : 0;
    const int count = ceil_div(end - start, tokens);
    int until = count;  // tiles of this and earlier sequences
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffff, until, step);
      if (lane >= step) until += other;
    }
    const unsigned reached = __ballot_sync(0xffffffff, rest < until);
    if (reached == 0) {
      rest -= __shfl_sync(0xffffffff, until, 31);
      continue;
    }
    const int owner = __ffs(reached) - 1;
    const int first = (until - 1 - rest) * tokens;
    const int position = context - (end - start) + first;
    tile.sequence = b + owner;
    tile.kv_head = blockIdx.x / p.tiles;
    tile.row = __shfl_sync(0xffffffff, start + first, owner);
    tile.rows_end = __shfl_sync(0xffffffff, end, owner);
    tile.position = __shfl_sync(0xffffffff, position, owner);
    tile.context = __shfl_sync(0xffffffff, context, owner);
    tile.last_block = (min(tile.position + tokens, tile.context) - 1) / Block;
    tile.first_block = p.window > 0 ? max(0, tile.position - p.window + 1) / Block : 0;
    return true;
  }
  return false;
}

template <int Block>
struct BlockRows {
  int row[Block / 32];
};

template <int Block>
__device__ __forceinline__ BlockRows<Block> block_rows(const PrefillParams& p, const Tile& tile, int block) {
  BlockRows<Block> rows;
  const int* table = p.table + static_cast<int64_t>(tile.sequence) * p.table_stride;
#pragma unroll
  for (int b = 0; b < Block / 32; ++b) {
    const int token = block * Block + b * p.box_tokens;
    const bool held = b * p.box_tokens < Block && token < tile.context;
    rows.row[b] = held ? table[token / p.page_tokens] * p.page_tokens + token % p.page_tokens : p.pool_tokens;
  }
  return rows;
}

template <int D, int Block>
__device__ __forceinline__ void load_block(const PrefillParams& p, const CUtensorMap* map, unsigned char* to,
                                           uint64_t* barrier, int kv_head, const BlockRows<Block>& rows) {
  barrier_expect(barrier, Block * D * 2);
#pragma unroll
  for (int b = 0; b < Block / 32; ++b) {
    if (b * p.box_tokens >= Block) break;
#pragma unroll
    for (int half = 0; half < D / kSwizzleRow; ++half) {
      load_box_3d(to + (half * Block + b * p.box_tokens) * 128, map, barrier, half * kSwizzleRow, kv_head,
                  rows.row[b]);
    }
  }
}

template <int D, int Groups, int Block>
__device__ void produce(const PrefillParams& p, const Tile& tile, const CUtensorMap* q_map, const CUtensorMap* key_map,
                        const CUtensorMap* value_map, PrefillShared<D, Groups, Block>& shared) {
  constexpr int kStages = PrefillShared<D, Groups, Block>::kStages;
  BlockRows<Block> rows = block_rows<Block>(p, tile, tile.last_block);
  barrier_expect(&shared.q_full, Groups * p.group_tokens * p.group * D * 2);
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
#pragma unroll
    for (int half = 0; half < D / kSwizzleRow; ++half) {
      load_box_4d(shared.q[g] + half * kGroupRows * 128, q_map, &shared.q_full, half * kSwizzleRow, 0, tile.kv_head,
                  tile.row + g * p.group_tokens);
    }
  }
  load_block<D, Block>(p, key_map, shared.keys[0], &shared.keys_full[0], tile.kv_head, rows);
  int key_stage = 1 % kStages, value_stage = 0;
  uint32_t key_phase = 1, value_phase = 1;
  for (int block = tile.last_block; block >= tile.first_block; --block) {
    BlockRows<Block> next = rows;
    if (block > tile.first_block) {
      next = block_rows<Block>(p, tile, block - 1);
      barrier_wait(&shared.keys_empty[key_stage], key_phase);
      load_block<D, Block>(p, key_map, shared.keys[key_stage], &shared.keys_full[key_stage], tile.kv_head, next);
      if (++key_stage == kStages) {
        key_stage = 0;
        key_phase ^= 1;
      }
    }
    barrier_wait(&shared.values_empty[value_stage], value_phase);
    load_block<D, Block>(p, value_map, shared.values[value_stage], &shared.values_full[value_stage], tile.kv_head,
                         rows);
    if (++value_stage == kStages) {
      value_stage = 0;
      value_phase ^= 1;
    }
    rows = next;
  }
}

template <int D, int Block>
__device__ __forceinline__ void issue_scores(float (&s)[Block / 2], uint64_t q, uint64_t keys) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    wgmma_shared<Block>(s, q + ((k / 4 * kGroupRows * 128 + k % 4 * 32) >> 4),
                         keys + ((k / 4 * Block * 128 + k % 4 * 32) >> 4), k != 0);
  }
}

template <int D, int Block>
__device__ __forceinline__ void issue_values(float (&o)[D / 2], const uint32_t (&probabilities)[Block / 16][4],
                                             uint64_t values) {
#pragma unroll
  for (int k = 0; k < Block / 16; ++k) {
    wgmma_registers<D>(o, probabilities[k], values + ((k * 16 * 128) >> 4), 1);
  }
}

// A thread's two rows: their positions, running maximum and its own share of the running sum.
struct Rows {
  int position[2];
  float maximum[2], sum[2];
};

template <int Block>
__device__ __forceinline__ void mask_scores(float (&s)[Block / 2], const Rows& rows, int column, int window) {
#pragma unroll
  for (int i = 0; i < Block / 2; ++i) {
    const int at = column + i / 4 * 8 + i % 2, position = rows.position[i / 2 % 2];
    if (at > position || (window > 0 && at <= position - window)) s[i] = -INFINITY;
  }
}

// Scores become weights relative to the new maximum; `scale` is what older sums must be multiplied by.
template <int Block>
__device__ __forceinline__ void soften(float (&s)[Block / 2], Rows& rows, float (&scale)[2], float scale_log2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = rows.maximum[half];
#pragma unroll
    for (int j = 0; j < Block / 8; ++j) top = fmaxf(top, fmaxf(s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, 2));
    const float base = top == -INFINITY ? 0.f : top * scale_log2;
    scale[half] = top == rows.maximum[half] ? 1.f : exp2_fast((rows.maximum[half] - top) * scale_log2);
    rows.maximum[half] = top;
    float even = 0.f, odd = 0.f;
#pragma unroll
    for (int j = 0; j < Block / 8; ++j) {
      float &a = s[j * 4 + half * 2], &b = s[j * 4 + half * 2 + 1];
      a = exp2_fast(a * scale_log2 - base);
      b = exp2_fast(b * scale_log2 - base);
      even += a;
      odd += b;
    }
    rows.sum[half] = rows.sum[half] * scale[half] + (even + odd);
  }
}

template <int Block>
__device__ __forceinline__ void pack_weights(uint32_t (&probabilities)[Block / 16][4], const float (&s)[Block / 2]) {
#pragma unroll
  for (int i = 0; i < Block / 4; ++i) probabilities[i / 4][i % 4] = pack_half(s[2 * i], s[2 * i + 1]);
}

template <int D, int Groups, int Block>
__device__ void consume(const PrefillParams& p, const Tile& tile, PrefillShared<D, Groups, Block>& shared, int group,
                        int thread) {
  constexpr int kStages = PrefillShared<D, Groups, Block>::kStages;
  const int warp = thread / 32, lane = thread % 32;
  const int first_position = tile.position + group * p.group_tokens;
  Rows rows;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    rows.position[half] = first_position + (warp * 16 + half * 8 + lane / 4) / p.group;
    rows.maximum[half] = -INFINITY;
    rows.sum[half] = 0.f;
  }
  const uint64_t q = tile_descriptor(shared_address(shared.q[group]), 0);
  const uint64_t keys = tile_descriptor(shared_address(shared.keys[0]), 0);
  const uint64_t values = tile_descriptor(shared_address(shared.values[0]), Block * 128);
  constexpr uint64_t kStageStep = (Block * D * 2) >> 4;
  const int turns = tile.last_block - tile.first_block;

  float s[Block / 2], o[D / 2], scale[2] = {1.f, 1.f};
  uint32_t probabilities[Block / 16][4];

  const auto mask = [&](int block) {
    const bool diagonal = (block + 1) * Block > first_position + 1;
    const bool edge = p.window > 0 && block * Block <= first_position + p.group_tokens - p.window;
    if (diagonal || edge) mask_scores<Block>(s, rows, block * Block + lane % 4 * 2, p.window);
  };
  barrier_wait(&shared.q_full, 0);
  barrier_wait(&shared.keys_full[0], 0);
  wgmma_fence();
  issue_scores<D, Block>(s, q, keys);
  wgmma_commit();
  wgmma_wait<0>();
  pin(s);
  if (lane == 0) barrier_arrive(&shared.keys_empty[0]);
  mask(tile.last_block);
  soften<Block>(s, rows, scale, p.scale_log2);
  pack_weights<Block>(probabilities, s);

  // The block that holds the context's end may hold anything behind it; 0 * NaN must not reach the sums.
  const int held = tile.context - tile.last_block * Block;
  if (held < Block) {
    barrier_wait(&shared.values_full[0], 0);
#pragma unroll 1
    for (int i = thread; i < (Block - held) * (D / 8); i += 128) {
      const int half = i % (D / 8) / 8, chunk = i % 8;
      *reinterpret_cast<uint4*>(shared.values[0] + (half * Block + held + i / (D / 8)) * 128 + chunk * 16) =
          make_uint4(0, 0, 0, 0);
    }
    fence_async_shared();
    named_sync(1 + group, 128);
  }

  int key_stage = 1 % kStages, value_stage = 0;
  uint32_t key_phase = 0, value_phase = 0;
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] = 0.f;
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    barrier_wait(&shared.keys_full[key_stage], key_phase);
    wgmma_fence();
    issue_scores<D, Block>(s, q, keys + key_stage * kStageStep);
    wgmma_commit();
    barrier_wait(&shared.values_full[value_stage], value_phase);
    wgmma_fence();
    issue_values<D, Block>(o, probabilities, values + value_stage * kStageStep);
    wgmma_commit();
    wgmma_wait<1>();
    pin(s);
    if (lane == 0) barrier_arrive(&shared.keys_empty[key_stage]);
    mask(tile.last_block - turn - 1);
    // Always true. A block of code of its own keeps the assembler from moving the wait in front of the softmax, which
    // is to run in the shadow of the second product.
    if (p.heads > 0) soften<Block>(s, rows, scale, p.scale_log2);
    wgmma_wait<0>();
    pin(o);
    if (lane == 0) barrier_arrive(&shared.values_empty[value_stage]);
    // Multiplying by exactly 1 changes nothing, so the whole warp may skip it.
    if (__any_sync(0xffffffff, scale[0] != 1.f || scale[1] != 1.f)) {
#pragma unroll
      for (int i = 0; i < D / 2; ++i) o[i] *= scale[i / 2 % 2];
    }
    pack_weights<Block>(probabilities, s);
    if (++key_stage == kStages) {
      key_stage = 0;
      key_phase ^= 1;
    }
    if (++value_stage == kStages) {
      value_stage = 0;
      value_phase ^= 1;
    }
  }
  barrier_wait(&shared.values_full[value_stage], value_phase);
  wgmma_fence();
  issue_values<D, Block>(o, probabilities, values + value_stage * kStageStep);
  wgmma_commit();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    rows.sum[half] += __shfl_xor_sync(0xffffffff, rows.sum[half], 1);
    rows.sum[half] += __shfl_xor_sync(0xffffffff, rows.sum[half], 2);
    scale[half] = 1.f / rows.sum[half];
  }
  wgmma_wait<0>();
  pin(o);

  // Through this warpgroup's query tile, whose use is over, to whole 16-byte chunks of the output rows.
  named_sync(1 + group, 128);
  constexpr int kRowBytes = D * 2;
  unsigned char* staged = shared.q[group] + warp * 16 * kRowBytes;
#pragma unroll
  for (int j = 0; j < D / 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = half * 8 + lane / 4;
      *reinterpret_cast<uint32_t*>(staged + row * kRowBytes + ((j ^ (row & 7)) * 16) + lane % 4 * 4) =
          pack_half(o[j * 4 + half * 2] * scale[half], o[j * 4 + half * 2 + 1] * scale[half]);
    }
  }
  __syncwarp();
  constexpr int kChunks = D / 8;  // per row
#pragma unroll
  for (int i = lane; i < 16 * kChunks; i += 32) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int tile_row = warp * 16 + row, token = tile_row / p.group;
    const int at = tile.row + group * p.group_tokens + token;
    if (token < p.group_tokens && at < tile.rows_end) {
      const int head = tile.kv_head * p.group + tile_row % p.group;
      *reinterpret_cast<uint4*>(p.out + (static_cast<int64_t>(at) * p.heads + head) * D + chunk * 8) =
          *reinterpret_cast<const uint4*>(staged + row * kRowBytes + ((chunk ^ (row & 7)) * 16));
    }
  }
}

template <int D, int Groups, int Block>
__global__ void __launch_bounds__((Groups + 1) * 128, 1)
    prefill_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap key_map,
                   const __grid_constant__ CUtensorMap value_map, const PrefillParams p) {
  extern __shared__ unsigned char raw[];
  using Shared = PrefillShared<D, Groups, Block>;
  Shared& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  if (threadIdx.x == 0) {
    prefetch_map(&q_map);
    prefetch_map(&key_map);
    prefetch_map(&value_map);
    barrier_init(&shared.q_full, 1);
    for (int stage = 0; stage < Shared::kStages; ++stage) {
      barrier_init(&shared.keys_full[stage], 1);
      barrier_init(&shared.values_full[stage], 1);
      barrier_init(&shared.keys_empty[stage], Groups * 4);
      barrier_init(&shared.values_empty[stage], Groups * 4);
    }
    barrier_init_fence();
  }
  Tile tile;
  const bool found = find_tile<Groups, Block>(p, tile);
  const int warpgroup = uniform(threadIdx.x / 128);
  __syncthreads();
  if (!found) return;
  // Of 64K registers: 3 * 128 * 160 + 128 * 32, or 2 * 128 * 216 + 128 * 32. With one consumer warpgroup all have enough.
  if (warpgroup == 0) {
    if constexpr (Groups > 1) registers_shrink<32>();
    if (threadIdx.x == 0) produce<D, Groups, Block>(p, tile, &q_map, &key_map, &value_map, shared);
  } else {
    if constexpr (Groups == 3) registers_grow<160>();
    if constexpr (Groups == 2) registers_grow<216>();
    consume<D, Groups, Block>(p, tile, shared, warpgroup - 1, threadIdx.x % 128);
  }
}

template <int D, int Groups, int Block>
cudaError_t launch_prefill(const void* q, const void* keys, const void* values, PrefillParams p, int pages,
                           int kv_heads, int total_q, cudaStream_t stream) {
  p.tiles = ceil_div(total_q, Groups * p.group_tokens) + p.batch - 1;
  p.box_tokens = page_box_tokens(p.page_tokens, Block);
  CUtensorMap q_map, key_map, value_map;
  const uint64_t head_bytes = static_cast<uint64_t>(D) * 2;
  const uint64_t extent[4] = {D, static_cast<uint64_t>(p.group), static_cast<uint64_t>(kv_heads),
                              static_cast<uint64_t>(total_q)};
  const uint64_t stride[3] = {head_bytes, head_bytes * p.group, head_bytes * p.heads};
  const uint32_t box[4] = {kSwizzleRow, static_cast<uint32_t>(p.group), 1, static_cast<uint32_t>(p.group_tokens)};
  EDGEWISE_TRY(make_tensor_map(&q_map, q, 4, extent, stride, box));
  EDGEWISE_TRY(make_page_map(&key_map, keys, pages, p.page_tokens, kv_heads, D, p.box_tokens));
  EDGEWISE_TRY(make_page_map(&value_map, values, pages, p.page_tokens, kv_heads, D, p.box_tokens));
  constexpr int bytes = sizeof(PrefillShared<D, Groups, Block>) + 1024;
  const auto kernel = prefill_kernel<D, Groups, Block>;
  EDGEWISE_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<p.tiles * kv_heads, (Groups + 1) * 128, bytes, stream>>>(q_map, key_map, value_map, p);
  return cudaGetLastError();
}

// What a tile of 1, 2 or 3 warpgroups takes, in relation: one alone waits for its own softmax, several fill each other's gaps.
constexpr int kTileCost[3] = {5, 8, 10};

// Tiles of three warpgroups where there are enough of them for the card, of fewer where more blocks end sooner.
template <int D, int Block>
cudaError_t launch_fitting(const void* q, const void* keys, const void* values, const PrefillParams& p, int pages,
                           int kv_heads, int total_q, int groups, cudaStream_t stream) {
  if (groups == 0) {
    int device, multiprocessors;
    EDGEWISE_TRY(cudaGetDevice(&device));
    EDGEWISE_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    int64_t least = 0;
    for (int candidate = 3; candidate >= 1; --candidate) {
      const int64_t tiles = ceil_div(total_q, candidate * p.group_tokens) + p.batch - 1;
      const int64_t waves = (tiles * kv_heads + multiprocessors - 1) / multiprocessors;
      if (groups == 0 || waves * kTileCost[candidate - 1] < least) {
        groups = candidate;
        least = waves * kTileCost[candidate - 1];
      }
    }
  }
  if (groups == 1) return launch_prefill<D, 1, Block>(q, keys, values, p, pages, kv_heads, total_q, stream);
  if (groups == 2) return launch_prefill<D, 2, Block>(q, keys, values, p, pages, kv_heads, total_q, stream);
  return launch_prefill<D, 3, Block>(q, keys, values, p, pages, kv_heads, total_q, stream);
}

}  // namespace
}  // namespace edgewise

// `window`: positions a query sees, itself included; 0 for all. `groups`: warpgroups of a tile, 1 to 3, or 0 to let the number of
// tiles decide; results are the same. Not valid: head_dim other than 64 and 128, more than 64 query heads per key head, a page
// that is no multiple of 32 tokens.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_attention_prefill)(
    const void* q, void* out, const void* keys, const void* values, const int* table, const int* starts,
    const int* context, int batch, int total_q, int heads, int kv_heads, int head_dim, int pages, int page_tokens,
    int table_stride, int window, int groups, float scale, cudaStream_t stream) {
  using namespace edgewise;
  if (groups < 0 || groups > 3) return cudaErrorInvalidValue;
  if (batch < 1 || total_q < 1 || kv_heads < 1 || heads % kv_heads != 0 || heads / kv_heads > kGroupRows) {
    return cudaErrorInvalidValue;
  }
  PrefillParams p = {};
  if (page_tokens < 32 || page_tokens % 32 != 0) return cudaErrorInvalidValue;
  p.out = static_cast<Half*>(out);
  p.table = table;
  p.starts = starts;
  p.context = context;
  p.table_stride = table_stride;
  p.batch = batch;
  p.heads = heads;
  p.group = heads / kv_heads;
  p.group_tokens = kGroupRows / p.group;
  p.page_tokens = page_tokens;
  p.pool_tokens = pages * page_tokens;
  p.window = window;
  p.scale_log2 = scale * 1.44269504088896340736f;
  if (head_dim == 128) return launch_fitting<128, 64>(q, keys, values, p, pages, kv_heads, total_q, groups, stream);
  if (head_dim == 64) return launch_fitting<64, 128>(q, keys, values, p, pages, kv_heads, total_q, groups, stream);
  return cudaErrorInvalidValue;
}
