// The k most likely tokens of every row of logits, with the row's log-sum-exp: greedy decoding at k = 1, and all that
// temperature, top-k, top-p and min-p sampling need without moving a whole row to the host.
//
//   logits      [rows, vocabulary]   bf16 or fp32
//   top_logits  [rows, k]            fp32, descending; equal logits in order of their ids
//   top_ids     [rows, k]            int32
//   log_sum     [rows]               fp32, log(sum(exp(logits))) of the whole row; NaN where one of them is not finite
//
// Floors: bytes = rows * vocabulary * element size over the copy rate; one exponential per logit. At batch 1 the row is
// half a megabyte, so latency, not bandwidth, is the limit.
//
// Design: a block takes 4096 logits. The k-th largest of its 256 threads' maxima bounds the k-th largest logit from
// below; whatever reaches the bound is compacted (k + a few for any but hand-made rows, all of them at worst) and
// sorted as a 64-bit key (logit, reversed id), so that the result is exact and unique. The last block of a row to
// finish does the same to the blocks' winners. NaN counts as -infinity among the winners.
//
// Reached (H100, vocabulary 128256, fp32): 1 row 6.4 us at k = 1 and 16 us at k = 64 (torch.topk 56 and
// 61); 32 rows 17 and 45 us (97 and 101), where the bytes alone take 5.4; 128 rows at k = 64 126 us (264).
#include "hopper.cuh"

namespace edgewise {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 16;
constexpr int kSlice = kThreads * kPerThread;
constexpr int kMaxCandidates = 16384;
constexpr int kMaxRows = 65535;
using Key = unsigned long long;

// Order-preserving, unique, never 0: the float's bits made monotone, then the reversed id.
__device__ __forceinline__ Key key_of(float logit, int id) {
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ float logit_of(Key key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
__device__ __forceinline__ int id_of(Key key) {
  return static_cast<int>(0xffffffffu - static_cast<uint32_t>(key & 0xffffffffu));
}

struct Selection {
  uint4 maxima[kThreads / 4];  // upper halves of the keys
  Key best[kThreads / 32];
  uint32_t bound;
  int count;
  float maximum[kThreads / 32], sum[kThreads / 32];
  int last;
};

// Leaves the k largest of the block's keys (visited by `each`, which calls its argument on every key of the thread; 0
// means none) sorted in candidates[0..k).
template <typename Each>
__device__ void select(Selection& shared, Key* candidates, int k, Each each) {
  Key mine = 0;
  each([&](Key key) { mine = key > mine ? key : mine; });
  if (k == 1) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const Key other = __shfl_xor_sync(0xffffffff, mine, step);
      mine = other > mine ? other : mine;
    }
    if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < kThreads / 32; ++w) mine = shared.best[w] > mine ? shared.best[w] : mine;
      candidates[0] = mine;
    }
    __syncthreads();
    return;
  }
  const uint32_t high = static_cast<uint32_t>(mine >> 32);
  reinterpret_cast<uint32_t*>(shared.maxima)[threadIdx.x] = high;
  if (threadIdx.x == 0) shared.count = 0;
  __syncthreads();
  // Ties go by thread; threads without keys count as 0, which is the bound if there are fewer than k maxima.
  int rank = 0;
  const auto count_above = [&](uint32_t other, int thread) {
    rank += other > high || (other == high && thread < static_cast<int>(threadIdx.x));
  };
#pragma unroll 8
  for (int i = 0; i < kThreads / 4; ++i) {
    const uint4 others = shared.maxima[i];
    count_above(others.x, i * 4);
    count_above(others.y, i * 4 + 1);
    count_above(others.z, i * 4 + 2);
    count_above(others.w, i * 4 + 3);
  }
  if (rank == k - 1) shared.bound = high;
  __syncthreads();
  const uint32_t bound = shared.bound;
  each([&](Key key) {
    if (key != 0 && static_cast<uint32_t>(key >> 32) >= bound) candidates[atomicAdd(&shared.count, 1)] = key;
  });
  __syncthreads();
  const int count = shared.count;
  if (count <= kThreads) {  // by counting: keys are unique
    const Key key = static_cast<int>(threadIdx.x) < count ? candidates[threadIdx.x] : 0;
    int place = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) place += candidates[i] > key;
    __syncthreads();
    if (key != 0) candidates[place] = key;
    for (int i = count + threadIdx.x; i < k; i += kThreads) candidates[i] = 0;
    __syncthreads();
    return;
  }
  int size = 1;
  while (size < count || size < k) size *= 2;
  for (int i = count + threadIdx.x; i < size; i += kThreads) candidates[i] = 0;
  __syncthreads();
  // Bitonic sort, descending.
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kThreads) {
        const int i = pair / step * step * 2 + pair % step;
        const Key a = candidates[i], b = candidates[i + step];
        if ((a < b) == ((i & run) == 0)) {
          candidates[i] = b;
          candidates[i + step] = a;
        }
      }
      __syncthreads();
    }
  }
}

__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ float value(__nv_bfloat16 x) { return __bfloat162float(x); }

// Merges (maximum, sum of 2^(x - maximum)) pairs.
__device__ __forceinline__ void merge(float& maximum, float& sum, float other_maximum, float other_sum) {
  const float top = fmaxf(maximum, other_maximum);
  const float base = top == -INFINITY ? 0.f : top;
  sum = sum * exp2_fast(maximum - base) + other_sum * exp2_fast(other_maximum - base);
  maximum = top;
}

__device__ __forceinline__ void merge_warp(float& maximum, float& sum) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    merge(maximum, sum, __shfl_xor_sync(0xffffffff, maximum, step), __shfl_xor_sync(0xffffffff, sum, step));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    top_k_kernel(const T* __restrict__ logits, float* top_logits, int* top_ids, float* log_sum, Key* winners,
                 float2* sums, int* arrived, int vocabulary, int k) {
  extern __shared__ Key candidates[];
  __shared__ Selection shared;
  const int slice = blockIdx.x, slices = gridDim.x, row = blockIdx.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const T* from = logits + static_cast<int64_t>(row) * vocabulary;
  float x[kPerThread];
  float maximum = -INFINITY, sum = 0.f;
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int id = slice * kSlice + i * kThreads + threadIdx.x;
    x[i] = id < vocabulary ? value(from[id]) : -INFINITY;
    finite = finite && (id >= vocabulary || isfinite(x[i]));
    if (isnan(x[i])) x[i] = -INFINITY;
    maximum = fmaxf(maximum, x[i]);
  }
  constexpr float kLog2E = 1.44269504088896340736f;
  const float base = maximum == -INFINITY ? 0.f : maximum;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) sum += exp2_fast((x[i] - base) * kLog2E);
  if (!finite) sum = NAN;  // and stays so: whatever it is multiplied with and added to
  maximum *= kLog2E;
  merge_warp(maximum, sum);
  if (lane == 0) {
    shared.maximum[warp] = maximum;
    shared.sum[warp] = sum;
  }
  select(shared, candidates, k, [&](auto visit) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int id = slice * kSlice + i * kThreads + threadIdx.x;
      if (id < vocabulary) visit(key_of(x[i], id));
    }
  });
  // By rank, then slice: the last block's threads then all hold some of the best.
  Key* row_winners = winners + static_cast<int64_t>(row) * slices * k;
  for (int i = threadIdx.x; i < k; i += kThreads) row_winners[i * slices + slice] = candidates[i];
  if (threadIdx.x == 0) {
    maximum = shared.maximum[0];
    sum = shared.sum[0];
    for (int w = 1; w < kThreads / 32; ++w) merge(maximum, sum, shared.maximum[w], shared.sum[w]);
    sums[row * slices + slice] = make_float2(maximum, sum);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.last = atomicAdd(&arrived[row], 1) == slices - 1;
    if (shared.last) arrived[row] = 0;
  }
  __syncthreads();
  if (!shared.last) return;
  __threadfence();
  select(shared, candidates, k, [&](auto visit) {
    for (int i = threadIdx.x; i < slices * k; i += kThreads) visit(__ldcg(&row_winners[i]));
  });
  for (int i = threadIdx.x; i < k; i += kThreads) {
    top_logits[static_cast<int64_t>(row) * k + i] = logit_of(candidates[i]);
    top_ids[static_cast<int64_t>(row) * k + i] = id_of(candidates[i]);
  }
  if (warp == 0) {
    maximum = -INFINITY;
    sum = 0.f;
    for (int s = lane; s < slices; s += 32) {
      const float2 part = __ldcg(&sums[row * slices + s]);
      merge(maximum, sum, part.x, part.y);
    }
    merge_warp(maximum, sum);
    if (lane == 0) log_sum[row] = (maximum + log2f(sum)) * 0.69314718055994530942f;
  }
}

constexpr int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }
// Room for the counters of any number of rows, so that they stay where they are, and zero, from launch to launch.
constexpr int64_t kCounters = aligned(kMaxRows * 4);

}  // namespace
}  // namespace edgewise

// Bytes of the workspace below.
extern "C" int64_t edgewise_top_k_workspace(int rows, int vocabulary, int k) {
  using namespace edgewise;
  const int64_t slices = ceil_div(vocabulary, kSlice);
  return kCounters + aligned(rows * slices * 8) + aligned(rows * slices * k * 8);
}

// Workspace: zeroed once when it is allocated; the kernel leaves its counters zero, and it serves any launch that it is
// long enough for. k at most 256 and at most the vocabulary; ceil(vocabulary / 4096) * k at most 16384; rows at most
// 65535. `is_float`: 1 for fp32 logits, 0 for bf16.
extern "C" cudaError_t edgewise_top_k(const void* logits, int is_float, float* top_logits, int* top_ids, float* log_sum,
                                      void* workspace, int rows, int vocabulary, int k, cudaStream_t stream) {
  using namespace edgewise;
  const int slices = ceil_div(vocabulary, kSlice);
  if (rows < 1 || rows > kMaxRows || k < 1 || k > kThreads || k > vocabulary || slices * k > kMaxCandidates) {
    return cudaErrorInvalidValue;
  }
  int most = 1;  // the sort works on a power of two
  while (most < slices * k || most < kSlice) most *= 2;
  const int bytes = most * static_cast<int>(sizeof(Key));
  unsigned char* space = static_cast<unsigned char*>(workspace);
  int* arrived = reinterpret_cast<int*>(space);
  float2* sums = reinterpret_cast<float2*>(space + kCounters);
  Key* winners = reinterpret_cast<Key*>(space + kCounters + aligned(static_cast<int64_t>(rows) * slices * 8));
  const dim3 grid(slices, rows);
  if (is_float) {
    EDGEWISE_TRY(cudaFuncSetAttribute(top_k_kernel<float>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    top_k_kernel<float><<<grid, kThreads, bytes, stream>>>(static_cast<const float*>(logits), top_logits, top_ids,
                                                           log_sum, winners, sums, arrived, vocabulary, k);
  } else {
    EDGEWISE_TRY(
        cudaFuncSetAttribute(top_k_kernel<__nv_bfloat16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    top_k_kernel<__nv_bfloat16><<<grid, kThreads, bytes, stream>>>(static_cast<const __nv_bfloat16*>(logits),
                                                                   top_logits, top_ids, log_sum, winners, sums,
                                                                   arrived, vocabulary, k);
  }
  return cudaGetLastError();
}
