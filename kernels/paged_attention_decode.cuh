// What decode attention is made of besides its arithmetic: the launch's parameters, how contexts are cut into splits
// and splits handed to blocks, the shared memory, and the warp that streams the pages. Layouts:
// paged_attention_decode.cu.
#pragma once

#include "hopper.cuh"

namespace edgewise {
namespace {

// Tokens per stage: 16 KiB of keys and as many of values.
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

template <int D, int MT>
struct DecodeShared {
  static constexpr int kStages = 3 * MT;
  static constexpr int kTileBytes = tile_tokens(D) * D * 2;
  alignas(1024) unsigned char keys[kStages][kTileBytes];
  unsigned char values[kStages][kTileBytes];
  float reduce[kConsumerWarps * (512 + 16 * 8)];  // rows of 512 / Rows dimensions + 8: free of bank conflicts
  float maximum[kConsumerWarps][16];
  float sum[kConsumerWarps][16];
  int first_item[kMaxBatch + 1];
  int context[kMaxBatch];
  alignas(8) uint64_t full[kStages];
  uint64_t empty[kStages];
};

// Rows in the pool of boxes first..first + 31 of an item, one per lane: one look-up in the table for many tiles.
__device__ __forceinline__ int box_rows(const DecodeParams& p, const Item& item, int first, int lane) {
  const int token = item.begin + (first + lane) * p.box_tokens;
  if (token >= item.context) return p.pool_tokens;
  return p.table[static_cast<int64_t>(item.sequence) * p.table_stride + token / p.page_tokens] * p.page_tokens +
         token % p.page_tokens;
}

template <int D, int MT>
__device__ void produce(const DecodeParams& p, const CUtensorMap* key_map, const CUtensorMap* value_map,
                        DecodeShared<D, MT>& shared, int lane) {
  using Shared = DecodeShared<D, MT>;
  constexpr int kTile = tile_tokens(D);
  Items items{p, shared.first_item, shared.context};
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

}  // namespace
}  // namespace edgewise
