// Hopper building blocks shared by the kernels: mbarriers, bulk tensor copies (TMA), named barriers, register
// reallocation, warp-level matrix instructions, and the host side of tensor maps.
//
// Every wrapper is one PTX instruction of the PTX ISA 9.0 manual, named after what it does. Shared-memory tiles are
// always "128-byte rows": a tile of R rows of 64 bf16 values, row r at byte 128 r from a 1024-byte aligned base, whose
// 16-byte chunks are permuted by chunk ^= r & 7 (the copy engine's SWIZZLE_128B). A head of 128 dimensions is two such
// tiles, one per 64 dimensions.
//
// Files that compute with 16-bit numbers are compiled twice: for bf16, and with EDGEWISE_F16 for IEEE half precision, whose
// launchers end in _f16. Where comments say bf16, the other one is meant there. Half precision rounds to an eighth of
// what bf16 does, and ends at 65504: what is larger becomes infinite, and is found in the logits.
//
// Deliberately not here: wgmma (wgmma.cuh) and anything that knows about attention.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define EDGEWISE_TRY(call)                         \
  do {                                             \
    cudaError_t status_ = (call);                  \
    if (status_ != cudaSuccess) return status_;    \
  } while (0)

#ifdef EDGEWISE_F16
#define EDGEWISE_FORMAT f16
#define EDGEWISE_HALF "f16"
#define EDGEWISE_LAUNCHER(name) name##_f16
#else
#define EDGEWISE_FORMAT bf16
#define EDGEWISE_HALF "bf16"
#define EDGEWISE_LAUNCHER(name) name
#endif

namespace edgewise {
inline namespace EDGEWISE_FORMAT {

#ifdef EDGEWISE_F16
using Half = __half;
using HalfPair = __half2;
__device__ __forceinline__ float to_float(Half x) { return __half2float(x); }
__device__ __forceinline__ float2 to_floats(HalfPair x) { return __half22float2(x); }
__device__ __forceinline__ Half to_half(float x) { return __float2half_rn(x); }
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
#else
using Half = __nv_bfloat16;
using HalfPair = __nv_bfloat162;
__device__ __forceinline__ float to_float(Half x) { return __bfloat162float(x); }
__device__ __forceinline__ float2 to_floats(HalfPair x) { return __bfloat1622float2(x); }
__device__ __forceinline__ Half to_half(float x) { return __float2bfloat16_rn(x); }
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
#endif

constexpr int kSwizzleRow = 64;  // bf16 values in one 128-byte row of a swizzled tile

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- mbarrier ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ bool barrier_try_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n .reg .pred p;\n"
      " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      " selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  while (!barrier_try_wait(barrier, parity)) {
  }
}

// ---- named barriers, fences, registers -----------------------------------------------------------------------------

__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Orders this thread's ordinary shared-memory writes before later reads by the tensor cores or the copy engine.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int Registers>
__device__ __forceinline__ void registers_grow() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

template <int Registers>
__device__ __forceinline__ void registers_shrink() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}

// ---- bulk tensor copies --------------------------------------------------------------------------------------------

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void load_box_3d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
      ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

__device__ __forceinline__ void load_box_4d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, int z,
                                            int w) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
      ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
}

// ---- warp-level matrix instructions --------------------------------------------------------------------------------

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// d[16 x 8] += a[16 x 16] b[16 x 8], bf16 operands, fp32 sums.
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32." EDGEWISE_HALF "." EDGEWISE_HALF ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack_half(float low, float high) {
  uint32_t packed;
  asm("cvt.rn." EDGEWISE_HALF "x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x on the special-function unit; exactly 0 at -infinity and exactly 1 at 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- starting early (programmatic dependent launch) ------------------------------------------------------------------
//
// A kernel launched by `launch_early` may start while the one before it in the stream still runs. Until
// `wait_for_previous` returns it must not read what earlier kernels write, nor write what they read; weights and the
// numbers of a batch are neither. Every such kernel waits, so that whatever is before the one before is done, too.
//
// A kernel lets the next one start when its sums are done, not before: one that waits holds places of multiprocessors, and
// behind several that start at once, the one that works gets few. (A decoding step of one sequence took 2.10 ms of 8 layers
// with the start let at the beginning, 1.84 without early starts, 1.77 so.)

__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next kernel start once every block has come here or ended.
__device__ __forceinline__ void let_next_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

template <typename... Parameters, typename... Arguments>
inline cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                                cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute early;
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// ---- host side of tensor maps --------------------------------------------------------------------------------------

// The driver's encoder, found through the runtime so that nothing links against libcuda.
inline cudaError_t tensor_map_encoder(decltype(&cuTensorMapEncodeTiled)* encoder) {
  static void* found = nullptr;
  if (found == nullptr) {
    cudaDriverEntryPointQueryResult result;
    void* entry = nullptr;
    EDGEWISE_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result));
    if (result != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
    found = entry;
  }
  *encoder = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  return cudaSuccess;
}

// A map over bf16 data: `extent` in elements, fastest first; `stride` in bytes of dimensions 1.. (the first is dense);
// `box` in elements, its first 64 so that a row is 128 bytes. Reads outside the extent give zeros.
inline cudaError_t make_tensor_map(CUtensorMap* map, const void* base, int rank, const uint64_t* extent,
                                   const uint64_t* stride, const uint32_t* box) {
  decltype(&cuTensorMapEncodeTiled) encode;
  EDGEWISE_TRY(tensor_map_encoder(&encode));
  const uint32_t element_stride[5] = {1, 1, 1, 1, 1};
  CUresult result = encode(map, kMapType, rank, const_cast<void*>(base), extent, stride, box,
                           element_stride, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// Tokens of one box of a page pool: the largest of 128, 64, 32 that divides both the page and a kernel's step.
// 0 when the page is no multiple of 32 tokens.
inline int page_box_tokens(int page_tokens, int step) {
  for (int tokens = 128; tokens >= 32; tokens /= 2) {
    if (step % tokens == 0 && page_tokens % tokens == 0) return tokens;
  }
  return 0;
}

// The pool [pages, page_tokens, kv_heads, head_dim] as [pages * page_tokens, kv_heads, head_dim].
inline cudaError_t make_page_map(CUtensorMap* map, const void* pool, int pages, int page_tokens, int kv_heads,
                                 int head_dim, int box_tokens) {
  const uint64_t extent[3] = {static_cast<uint64_t>(head_dim), static_cast<uint64_t>(kv_heads),
                              static_cast<uint64_t>(pages) * page_tokens};
  const uint64_t stride[2] = {static_cast<uint64_t>(head_dim) * 2, static_cast<uint64_t>(kv_heads) * head_dim * 2};
  const uint32_t box[3] = {kSwizzleRow, 1, static_cast<uint32_t>(box_tokens)};
  return make_tensor_map(map, pool, 3, extent, stride, box);
}

}  // namespace EDGEWISE_FORMAT
}  // namespace edgewise
