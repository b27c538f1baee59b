// Products of rows with weight matrices on Hopper, one or many: wgmma, bulk tensor copies, warp-specialised, persistent, with
// what follows a product done on its sums before they leave the registers.
//
//   x           [rows, columns]         bf16
//   weights[i]  [outputs[i], columns]   bf16
//   bias[i]     [outputs[i]] or null    bf16
//   out[i]      [rows, outputs[i]]      bf16 or fp32
//
// mode 0: out[i] = x weights[i]^T + bias[i], in bf16; 1: in fp32; 2: added to what out[i] holds, in fp32 (the residual
// stream); 3: out[0] = silu(x weights[0]^T + bias[0]) * (x weights[1]^T + bias[1]), in bf16 (the gate of a feed-forward
// layer, Shazeer 2020, "GLU Variants Improve Transformer").
//
// Floors: FLOPs = 2 * rows * columns * sum of outputs over the matrix rate. Bytes: weights, x and out once; the matrix units
// are the limit from some 300 rows on. What mode 2 saves of the normalisation after it is a read and a write of 16-bit rows
// and one of fp32 ones, 6 of its 12 bytes a value; mode 3 saves all of the gate's kernel, 6 bytes a value.
//
// Design: a tile is Groups * 64 rows by Width rows of weights, summed up in the registers of Groups consumer warpgroups (64 x
// Width each), fed by one thread that copies. Tiles are 128 x 256 where that keeps the card busy, in clusters of two
// blocks: both need the same weights, each copies half of them to both. Without that, shared memory is filled at 50 bytes a
// cycle and multiprocessor, more than L2 gives; with it, 33. Blocks are persistent and walk over the tiles in bands of 8
// tiles of rows, so that what runs at a time shares rows and weights in L2. For few rows tiles are smaller, and weights are
// copied from before the kernel ahead has ended: they are read once, at the rate of memory.
// In mode 3 the upper half of a tile's weights are the gate's, the lower half the other matrix's: a thread's registers hold
// both of an output.
//
// A value is summed up in steps of 16 columns, from the first to the last, in one place of one accumulator, whatever the tile:
// so a row's result depends, bit for bit, on that row only. In mode 2 one thread adds each value once.
//
// Reached (H100, in turn with cuBLAS, which leaves out what follows): 8192 rows of Llama 3.1 8B's products at 774 (queries,
// keys and values), 672 (added), 748 (gated) and 743 TFLOP/s (added), cuBLAS 788, 796, 750 and 785; with the gate's kernel
// 8 % and with the normalisation's share 0 to 2 % less time. Under load both are limited by the card's power: see
// check/NOTES.md, which also tells what did not help. A feed-forward layer of 1 / 64 rows: 94 / 90 % of copy.
#include "wgmma.cuh"

namespace edgewise {
namespace {

constexpr int kStep = 64;       // columns of a stage
constexpr int kMostParts = 3;   // matrices of a launch
constexpr int kBand = 8;        // tiles of rows that are walked along the weights together
constexpr int kWarpsPerGroup = 4;

enum Mode { kStore = 0, kStoreFloat = 1, kAdd = 2, kGate = 3 };

struct Maps {
  CUtensorMap x, weights[kMostParts];
};

struct Part {
  const Half* bias;
  void* out;
  int outputs, tiles;
};

struct MatmulParams {
  Part part[kMostParts];
  const Half* up_bias;  // of mode 3
  int parts, rows, steps, row_tiles, tiles, copied_rows;
};

template <int Groups, int Width, int Stages>
struct MatmulShared {
  alignas(1024) unsigned char x[Stages][Groups * 64 * 128];
  unsigned char weights[Stages][Width * 128];
  alignas(8) uint64_t full[Stages], empty[Stages];
};

// ---- clusters ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Arrives at the barrier that lies at the same place of another block of the cluster. It orders nothing but what the tensor
// cores have read, which is over, before what the copy engine writes: with `.release.cluster` it would wait for all of this
// thread's memory accesses instead, 900 cycles a stage.
__device__ __forceinline__ void barrier_arrive_at(uint64_t* barrier, uint32_t block) {
  asm volatile(
      "{\n .reg .b32 there;\n mapa.shared::cluster.u32 there, %0, %1;\n"
      " mbarrier.arrive.shared::cluster.b64 _, [there];\n}"
      ::"r"(shared_address(barrier)), "r"(block)
      : "memory");
}

__device__ __forceinline__ void load_box_2d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
      ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory");
}

// To the same place of each block of the cluster whose bit is set, with the bytes counted at each one's own barrier.
__device__ __forceinline__ void load_box_2d_to_all(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y,
                                                   uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%4, %5}], [%2], %3;"
      ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "h"(blocks), "r"(x), "r"(y)
      : "memory");
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

// `row_tile` counts tiles of a whole cluster; `first_output` is within the part's matrix.
struct Tile {
  int row_tile, part, first_output;
};

template <int OutWidth>
__device__ __forceinline__ Tile tile_at(const MatmulParams& p, int index) {
  const int column_tiles = p.tiles / p.row_tiles;
  const int band = index / (kBand * column_tiles), within = index - band * kBand * column_tiles;
  const int height = min(kBand, p.row_tiles - band * kBand);
  Tile tile;
  int column = within / height;
  tile.row_tile = band * kBand + within % height;
  tile.part = 0;
  while (tile.part + 1 < p.parts && column >= p.part[tile.part].tiles) column -= p.part[tile.part++].tiles;
  tile.first_output = column * OutWidth;
  return tile;
}

template <int Groups, int Width, int Cluster, int Stages, Mode Kind>
__device__ void copy_tiles(const MatmulParams& p, const Maps& maps, MatmulShared<Groups, Width, Stages>& shared) {
  constexpr int kOutWidth = Kind == kGate ? Width / 2 : Width;
  constexpr int kHalf = Width / 2;
  const int rank = Cluster > 1 ? cluster_rank() : 0;
  const auto copy_x = [&](const Tile& tile, int step, int stage) {
    const int row = (tile.row_tile * Cluster + rank) * Groups * 64;
    load_box_2d(shared.x[stage], &maps.x, &shared.full[stage], step * kStep, row);
  };
  const auto copy_weights = [&](const Tile& tile, int step, int stage) {
    barrier_expect(&shared.full[stage], (p.copied_rows + Width) * 128);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const CUtensorMap* map = &maps.weights[Kind == kGate ? half : tile.part];
      const int output = tile.first_output + (Kind == kGate ? 0 : half * kHalf);
      unsigned char* to = shared.weights[stage] + half * kHalf * 128;
      if (Cluster == 1) {
        load_box_2d(to, map, &shared.full[stage], step * kStep, output);
      } else if (half == rank) {
        load_box_2d_to_all(to, map, &shared.full[stage], step * kStep, output, (1 << Cluster) - 1);
      }
    }
  };
  // Weights are nobody's result: as many as there is room for come while the kernel before is still at work.
  int index = blockIdx.x / Cluster;
  Tile tile = tile_at<kOutWidth>(p, index);
  const int ahead = min(Stages, p.steps);
  for (int step = 0; step < ahead; ++step) copy_weights(tile, step, step);
  wait_for_previous();
  for (int step = 0; step < ahead; ++step) copy_x(tile, step, step);
  int step = ahead, stage = ahead % Stages;
  uint32_t phase = ahead < Stages ? 1 : 0;
  while (true) {
    for (; step < p.steps; ++step) {
      barrier_wait(&shared.empty[stage], phase);
      copy_weights(tile, step, stage);
      copy_x(tile, step, stage);
      if (++stage == Stages) {
        stage = 0;
        phase ^= 1;
      }
    }
    index += gridDim.x / Cluster;
    if (index >= p.tiles) return;
    tile = tile_at<kOutWidth>(p, index);
    step = 0;
  }
}

// ---- what follows a product ----------------------------------------------------------------------------------------

// Four lanes hold four values each; afterwards lane q has what each of them held at q.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4], int q) {
  uint32_t a = q & 1 ? v[0] : v[1], b = q & 1 ? v[2] : v[3];
  a = __shfl_xor_sync(0xffffffff, a, 1);
  b = __shfl_xor_sync(0xffffffff, b, 1);
  if (q & 1) {
    v[0] = a;
    v[2] = b;
  } else {
    v[1] = a;
    v[3] = b;
  }
  a = q & 2 ? v[0] : v[2];
  b = q & 2 ? v[1] : v[3];
  a = __shfl_xor_sync(0xffffffff, a, 2);
  b = __shfl_xor_sync(0xffffffff, b, 2);
  if (q & 2) {
    v[0] = a;
    v[1] = b;
  } else {
    v[2] = a;
    v[3] = b;
  }
}

__device__ __forceinline__ float gated(float gate, float up) {
  return __fdividef(gate, 1.f + exp2_fast(-1.44269504088896340736f * gate)) * up;
}

template <int Width>
__device__ __forceinline__ void add_bias(float (&d)[Width / 2], const Half* bias, int first, int outputs, int from,
                                         int blocks) {
  const int column = first + threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < Width / 8; ++j) {
    if (j < from || j >= from + blocks) continue;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = column + (j - from) * 8 + i;
      const float value = at < outputs ? to_float(bias[at]) : 0.f;
      d[j * 4 + i] += value;
      d[j * 4 + 2 + i] += value;
    }
  }
}

// `row`: this thread's first row; its second is 8 further.
template <int Width, Mode Kind>
__device__ __forceinline__ void finish_tile(const MatmulParams& p, const Tile& tile, float (&d)[Width / 2], int row) {
  constexpr int kOutBlocks = (Kind == kGate ? Width / 2 : Width) / 8;  // groups of 8 outputs
  const int q = threadIdx.x % 4;
  const Part& part = p.part[tile.part];
  const int outputs = part.outputs, first = tile.first_output;
  if (part.bias != nullptr) add_bias<Width>(d, part.bias, first, outputs, 0, kOutBlocks);
  if constexpr (Kind == kGate) {
    if (p.up_bias != nullptr) add_bias<Width>(d, p.up_bias, first, outputs, kOutBlocks, kOutBlocks);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + half * 8;
    const int64_t begin = static_cast<int64_t>(at) * outputs + first;
    if constexpr (Kind == kStore || Kind == kGate) {
      Half* out = static_cast<Half*>(part.out) + begin;
      const bool whole = outputs % 8 == 0;
#pragma unroll
      for (int j = 0; j < kOutBlocks; j += 4) {
        uint32_t packed[4] = {};
#pragma unroll
        for (int b = 0; b < 4 && j + b < kOutBlocks; ++b) {
          const float* at_block = &d[(j + b) * 4 + half * 2];
          if constexpr (Kind == kGate) {
            const float* up = &d[(kOutBlocks + j + b) * 4 + half * 2];
            packed[b] = pack_half(gated(at_block[0], up[0]), gated(at_block[1], up[1]));
          } else {
            packed[b] = pack_half(at_block[0], at_block[1]);
          }
        }
        transpose_quad(packed, q);
        const int column = (j + q) * 8;  // of the tile
        if (at >= p.rows || first + column >= outputs || j + q >= kOutBlocks) continue;
        if (whole) {
          *reinterpret_cast<uint4*>(out + column) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
        } else {
#pragma unroll
          for (int i = 0; i < 8; ++i) {
            const HalfPair pair = *reinterpret_cast<const HalfPair*>(&packed[i / 2]);
            if (first + column + i < outputs) out[column + i] = i % 2 == 0 ? pair.x : pair.y;
          }
        }
      }
    } else {
      float* out = static_cast<float*>(part.out) + begin;
      if (at >= p.rows) continue;
#pragma unroll
      for (int j = 0; j < kOutBlocks; ++j) {
        const int column = j * 8 + q * 2;
        const float low = d[j * 4 + half * 2], high = d[j * 4 + half * 2 + 1];
        if (outputs % 2 == 0) {
          if (first + column >= outputs) continue;
          if constexpr (Kind == kAdd) {
            asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(out + column), "f"(low), "f"(high)
                         : "memory");
          } else {
            *reinterpret_cast<float2*>(out + column) = make_float2(low, high);
          }
        } else {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            if (first + column + i >= outputs) continue;
            float* to = out + column + i;
            *to = (Kind == kAdd ? *to : 0.f) + (i == 0 ? low : high);
          }
        }
      }
    }
  }
}

template <int Groups, int Width, int Cluster, int Stages, Mode Kind>
__device__ void multiply_tiles(const MatmulParams& p, MatmulShared<Groups, Width, Stages>& shared, int group,
                               int thread) {
  constexpr int kOutWidth = Kind == kGate ? Width / 2 : Width;
  const int rank = Cluster > 1 ? cluster_rank() : 0;
  const int warp = thread / 32, lane = thread % 32;
  const uint64_t x = tile_descriptor(shared_address(shared.x[0]) + group * 64 * 128, 0);
  const uint64_t weights = tile_descriptor(shared_address(shared.weights[0]), 0);
  const auto release = [&](int stage) {
    if (Cluster == 1) {
      if (lane == 0) barrier_arrive(&shared.empty[stage]);
    } else if (lane < Cluster) {
      barrier_arrive_at(&shared.empty[stage], lane);
    }
  };
  int stage = 0;
  uint32_t phase = 0;
  float d[Width / 2];
#pragma unroll 1
  for (int index = blockIdx.x / Cluster; index < p.tiles; index += gridDim.x / Cluster) {
    int last = 0;
#pragma unroll 1
    for (int step = 0; step < p.steps; ++step) {
      barrier_wait(&shared.full[stage], phase);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kStep / 16; ++k) {
        wgmma_shared<Width>(d, x + ((stage * (Groups * 64 * 128) + k * 32) >> 4),
                            weights + ((stage * (Width * 128) + k * 32) >> 4), (step | k) != 0);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (step > 0) release(last);
      last = stage;
      if (++stage == Stages) {
        stage = 0;
        phase ^= 1;
      }
    }
    wgmma_wait<0>();
    pin(d);
    release(last);
    if (index + static_cast<int>(gridDim.x) / Cluster >= p.tiles) let_next_start();
    const Tile tile = tile_at<kOutWidth>(p, index);
    const int row = (tile.row_tile * Cluster + rank) * Groups * 64 + group * 64 + warp * 16 + lane / 4;
    finish_tile<Width, Kind>(p, tile, d, row);
  }
}

template <int Groups, int Width, int Cluster, int Stages, Mode Kind>
__global__ void __launch_bounds__((Groups + 1) * 128, 1)
    fused_matmul_kernel(const __grid_constant__ Maps maps, const __grid_constant__ MatmulParams p) {
  extern __shared__ unsigned char raw[];
  using Shared = MatmulShared<Groups, Width, Stages>;
  Shared& shared = *reinterpret_cast<Shared*>((reinterpret_cast<uintptr_t>(raw) + 1023) & ~uintptr_t{1023});
  if (threadIdx.x == 0) {
    prefetch_map(&maps.x);
    for (int i = 0; i < p.parts; ++i) prefetch_map(&maps.weights[i]);
    for (int stage = 0; stage < Stages; ++stage) {
      barrier_init(&shared.full[stage], 1);
      barrier_init(&shared.empty[stage], Groups * kWarpsPerGroup * Cluster);
    }
    barrier_init_fence();
  }
  if (Cluster > 1) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    if constexpr (Groups > 1) registers_shrink<40>();
    if (threadIdx.x == 0) copy_tiles<Groups, Width, Cluster, Stages, Kind>(p, maps, shared);
    __syncwarp();
  } else {
    if constexpr (Groups > 1) registers_grow<232>();
    multiply_tiles<Groups, Width, Cluster, Stages, Kind>(p, shared, warpgroup - 1, threadIdx.x % 128);
  }
  // The other block may still copy to this one, and arrive at its barriers.
  if (Cluster > 1) cluster_sync();
}

template <int Groups, int Width, int Cluster, int Stages, Mode Kind>
cudaError_t launch(const void* x, const void* const* weights, int columns, MatmulParams p, int multiprocessors,
                   cudaStream_t stream) {
  constexpr int kOutWidth = Kind == kGate ? Width / 2 : Width;
  const int matrices = Kind == kGate ? 2 : p.parts;
  Maps maps;
  const uint64_t stride[1] = {static_cast<uint64_t>(columns) * 2};
  const uint64_t x_extent[2] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(p.rows)};
  // Of fewer rows than a tile has, no more are copied: what the others multiply is left unwritten.
  p.copied_rows = min(Groups * 64, ceil_div(p.rows, 8) * 8);
  const uint32_t x_box[2] = {kStep, static_cast<uint32_t>(p.copied_rows)}, weight_box[2] = {kStep, Width / 2};
  EDGEWISE_TRY(make_tensor_map(&maps.x, x, 2, x_extent, stride, x_box));
  for (int i = 0; i < kMostParts; ++i) {
    const int from = i < matrices ? i : 0;
    const int outputs = p.part[Kind == kGate ? 0 : from].outputs;
    const uint64_t extent[2] = {static_cast<uint64_t>(columns), static_cast<uint64_t>(outputs)};
    EDGEWISE_TRY(make_tensor_map(&maps.weights[i], weights[from], 2, extent, stride, weight_box));
  }
  p.steps = ceil_div(columns, kStep);
  p.row_tiles = ceil_div(p.rows, Groups * 64 * Cluster);
  p.tiles = 0;
  for (int i = 0; i < p.parts; ++i) {
    p.part[i].tiles = ceil_div(p.part[i].outputs, kOutWidth);
    p.tiles += p.part[i].tiles * p.row_tiles;
  }
  constexpr int bytes = sizeof(MatmulShared<Groups, Width, Stages>) + 1024;
  const auto kernel = fused_matmul_kernel<Groups, Width, Cluster, Stages, Kind>;
  EDGEWISE_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  const int clusters = min(p.tiles, multiprocessors / Cluster);
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {Cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = clusters * Cluster;
  config.blockDim = (Groups + 1) * 128;
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = Cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, maps, p);
}

// What the card takes for as many tiles of a kind as it works on at a time, in relation, as measured for columns 4096 and
// 14336: of 64 x 32, 64 x 64, 128 x 128, and 128 x 256 in clusters of two.
constexpr int kTileCost[4] = {22, 30, 55, 100};

// The kind of tile that is done soonest with all rows and outputs.
inline int fitting_tile(const MatmulParams& p, int multiprocessors, bool gate) {
  constexpr int kRows[4] = {64, 64, 128, 256}, kOutputs[4] = {32, 64, 128, 256};
  int best = 4;
  int64_t least = INT64_MAX;
  for (int kind = 3; kind >= 0; --kind) {
    int64_t tiles = 0;
    for (int i = 0; i < p.parts; ++i) tiles += ceil_div(p.part[i].outputs, kOutputs[kind] / (gate ? 2 : 1));
    tiles *= ceil_div(p.rows, kRows[kind]);
    const int at_once = kind == 3 ? multiprocessors / 2 : multiprocessors;
    const int64_t cost = (tiles + at_once - 1) / at_once * kTileCost[kind];
    if (cost < least) {
      least = cost;
      best = kind + 1;
    }
  }
  return best;
}

template <Mode Kind>
cudaError_t launch_fitting(const void* x, const void* const* weights, int columns, const MatmulParams& p, int tile,
                           cudaStream_t stream) {
  int device, multiprocessors;
  EDGEWISE_TRY(cudaGetDevice(&device));
  EDGEWISE_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  if (tile == 0) tile = fitting_tile(p, multiprocessors, Kind == kGate);
  if (tile == 4) return launch<2, 256, 2, 4, Kind>(x, weights, columns, p, multiprocessors, stream);
  if (tile == 3) return launch<2, 128, 1, 6, Kind>(x, weights, columns, p, multiprocessors, stream);
  if (tile == 2) return launch<1, 64, 1, 12, Kind>(x, weights, columns, p, multiprocessors, stream);
  return launch<1, 32, 1, 16, Kind>(x, weights, columns, p, multiprocessors, stream);
}

}  // namespace
}  // namespace edgewise

// `count` matrices, at most 3; exactly 2 of equal height for mode 3, whose second output is not used. `tile`: 0 lets the number
// of rows decide, 1 to 4 ask for tiles of 64 x 32, 64 x 64, 128 x 128, 128 x 256; results are the same. Not valid: `columns` that is no
// multiple of 8, operands that do not begin at multiples of 16 bytes.
extern "C" cudaError_t EDGEWISE_LAUNCHER(edgewise_fused_matmul)(const void* x, const void* const* weights,
                                                                 const void* const* bias, void* const* out,
                                                                 const int* outputs, int count, int mode, int rows,
                                                                 int columns, int tile, cudaStream_t stream) {
  using namespace edgewise;
  if (count < 1 || count > kMostParts || rows < 1 || columns < 8 || columns % 8 != 0 || tile < 0 || tile > 4) {
    return cudaErrorInvalidValue;
  }
  if (mode == kGate && (count != 2 || outputs[0] != outputs[1])) return cudaErrorInvalidValue;
  MatmulParams p = {};
  p.rows = rows;
  p.parts = mode == kGate ? 1 : count;
  for (int i = 0; i < p.parts; ++i) {
    if (outputs[i] < 1) return cudaErrorInvalidValue;
    p.part[i] = {static_cast<const Half*>(bias[i]), out[i], outputs[i], 0};
  }
  if (mode == kStore) return launch_fitting<kStore>(x, weights, columns, p, tile, stream);
  if (mode == kStoreFloat) return launch_fitting<kStoreFloat>(x, weights, columns, p, tile, stream);
  if (mode == kAdd) return launch_fitting<kAdd>(x, weights, columns, p, tile, stream);
  p.up_bias = static_cast<const Half*>(bias[1]);
  if (mode == kGate) return launch_fitting<kGate>(x, weights, columns, p, tile, stream);
  return cudaErrorInvalidValue;
}
