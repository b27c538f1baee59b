//! What is called of the CUDA runtime, of the kernels' launchers and of the dynamic loader. Names and types as in their
//! headers (`cuda_runtime_api.h` of CUDA 13, `kernels/*.cu`, `dlfcn.h`).

use std::ffi::{c_char, c_float, c_int, c_uint, c_void};

use super::Half;

pub(super) type Status = c_int;
pub(super) type RawStream = *mut c_void;
pub(super) type RawEvent = *mut c_void;
pub(super) type RawGraph = *mut c_void;

pub(super) const MEMCPY_DEFAULT: c_int = 4;
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
pub(super) const EVENT_DEFAULT: c_uint = 0;
pub(super) const CAPTURE_RELAXED: c_int = 2;
pub(super) const ATTRIBUTE_MULTIPROCESSORS: c_int = 16;
pub(super) const ATTRIBUTE_MAJOR: c_int = 75;
pub(super) const ATTRIBUTE_MINOR: c_int = 76;

unsafe extern "C" {
    pub(super) fn cudaGetErrorString(status: Status) -> *const c_char;
    pub(super) fn cudaGetLastError() -> Status;
    pub(super) fn cudaGetDeviceCount(count: *mut c_int) -> Status;
    pub(super) fn cudaDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> Status;
    pub(super) fn cudaMemGetInfo(free: *mut usize, total: *mut usize) -> Status;
    pub(super) fn cudaMalloc(pointer: *mut *mut c_void, bytes: usize) -> Status;
    pub(super) fn cudaFree(pointer: *mut c_void) -> Status;
    pub(super) fn cudaMallocHost(pointer: *mut *mut c_void, bytes: usize) -> Status;
    pub(super) fn cudaFreeHost(pointer: *mut c_void) -> Status;
    pub(super) fn cudaMemcpyAsync(
        to: *mut c_void,
        from: *const c_void,
        bytes: usize,
        kind: c_int,
        stream: RawStream,
    ) -> Status;
    pub(super) fn cudaMemsetAsync(to: *mut c_void, value: c_int, bytes: usize, stream: RawStream) -> Status;
    pub(super) fn cudaStreamCreateWithFlags(stream: *mut RawStream, flags: c_uint) -> Status;
    pub(super) fn cudaStreamDestroy(stream: RawStream) -> Status;
    pub(super) fn cudaStreamSynchronize(stream: RawStream) -> Status;
    pub(super) fn cudaStreamBeginCapture(stream: RawStream, mode: c_int) -> Status;
    pub(super) fn cudaStreamEndCapture(stream: RawStream, graph: *mut RawGraph) -> Status;
    pub(super) fn cudaGraphInstantiate(executable: *mut RawGraph, graph: RawGraph, flags: u64) -> Status;
    pub(super) fn cudaGraphLaunch(executable: RawGraph, stream: RawStream) -> Status;
    pub(super) fn cudaGraphDestroy(graph: RawGraph) -> Status;
    pub(super) fn cudaGraphExecDestroy(executable: RawGraph) -> Status;
    pub(super) fn cudaEventCreateWithFlags(event: *mut RawEvent, flags: c_uint) -> Status;
    pub(super) fn cudaEventDestroy(event: RawEvent) -> Status;
    pub(super) fn cudaEventRecord(event: RawEvent, stream: RawStream) -> Status;
    pub(super) fn cudaEventSynchronize(event: RawEvent) -> Status;
    pub(super) fn cudaEventElapsedTime(milliseconds: *mut c_float, from: RawEvent, to: RawEvent) -> Status;

    pub(super) fn edgewise_attention_decode_workspace(
        batch: c_int,
        q_len: c_int,
        heads: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        splits: c_int,
    ) -> i64;

    pub(super) fn edgewise_top_k_workspace(rows: c_int, vocabulary: c_int, k: c_int) -> i64;
    pub(super) fn edgewise_top_k(
        logits: *const c_void,
        is_float: c_int,
        top_logits: *mut c_float,
        top_ids: *mut c_int,
        log_sum: *mut c_float,
        workspace: *mut c_void,
        rows: c_int,
        vocabulary: c_int,
        k: c_int,
        stream: RawStream,
    ) -> Status;

    pub(super) fn edgewise_page_copy(
        pools: *const *mut c_void,
        count: c_int,
        from: *const c_int,
        to: *const c_int,
        tokens: *const c_int,
        copies: c_int,
        page_tokens: c_int,
        token_bytes: c_int,
        stream: RawStream,
    ) -> Status;
    pub(super) fn edgewise_page_gather(
        pools: *const *mut c_void,
        count: c_int,
        from: *const c_int,
        staging: *mut c_void,
        copies: c_int,
        page_tokens: c_int,
        token_bytes: c_int,
        stream: RawStream,
    ) -> Status;
    pub(super) fn edgewise_page_scatter(
        pools: *const *mut c_void,
        count: c_int,
        staging: *const c_void,
        to: *const c_int,
        copies: c_int,
        page_tokens: c_int,
        token_bytes: c_int,
        stream: RawStream,
    ) -> Status;

    pub(super) fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    pub(super) fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Launchers that exist for both kinds of 16-bit numbers: declares them, and makes each a method of [`Half`].
macro_rules! launchers {
    ($(fn $bf16:ident / $f16:ident($($name:ident: $kind:ty),* $(,)?);)*) => {
        mod raw {
            use super::*;
            unsafe extern "C" {
                $(
                    pub(super) fn $bf16($($name: $kind),*) -> Status;
                    pub(super) fn $f16($($name: $kind),*) -> Status;
                )*
            }
        }

        impl Half {
            $(
                /// The launcher of that name in `kernels/`.
                ///
                /// # Safety
                /// Buffers are as long as the launcher's comment says, and hold numbers of this kind.
                #[allow(clippy::too_many_arguments, reason = "as the launcher")]
                pub(super) unsafe fn $bf16(self, $($name: $kind),*) -> Status {
                    match self {
                        // SAFETY: the caller's.
                        Self::Bf16 => unsafe { raw::$bf16($($name),*) },
                        // SAFETY: the caller's.
                        Self::F16 => unsafe { raw::$f16($($name),*) },
                    }
                }
            )*
        }
    };
}

launchers! {
    fn edgewise_gather_rows / edgewise_gather_rows_f16(
        table: *const c_void,
        ids: *const c_int,
        out: *mut c_void,
        rows: c_int,
        width: c_int,
        to_float: c_int,
        stream: RawStream,
    );
    fn edgewise_rms_norm / edgewise_rms_norm_f16(
        x: *const c_void,
        residual: *mut c_void,
        weight: *const c_void,
        out: *mut c_void,
        rows: c_int,
        hidden: c_int,
        eps: c_float,
        stream: RawStream,
    );
    fn edgewise_fused_matmul / edgewise_fused_matmul_f16(
        x: *const c_void,
        weights: *const *const c_void,
        bias: *const *const c_void,
        out: *const *mut c_void,
        outputs: *const c_int,
        count: c_int,
        mode: c_int,
        rows: c_int,
        columns: c_int,
        tile: c_int,
        stream: RawStream,
    );
    fn edgewise_rope_pages / edgewise_rope_pages_f16(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        q_stride: c_int,
        k_stride: c_int,
        v_stride: c_int,
        q_out: *mut c_void,
        k_out: *mut c_void,
        keys: *mut c_void,
        values: *mut c_void,
        cosines: *const c_float,
        sines: *const c_float,
        positions: *const c_int,
        slots: *const c_int,
        q_norm: *const c_void,
        k_norm: *const c_void,
        eps: c_float,
        tokens: c_int,
        heads: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        rotary_dim: c_int,
        adjacent: c_int,
        stream: RawStream,
    );
    fn edgewise_attention_prefill / edgewise_attention_prefill_f16(
        q: *const c_void,
        out: *mut c_void,
        keys: *const c_void,
        values: *const c_void,
        table: *const c_int,
        starts: *const c_int,
        context: *const c_int,
        batch: c_int,
        total_q: c_int,
        heads: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        pages: c_int,
        page_tokens: c_int,
        table_stride: c_int,
        window: c_int,
        groups: c_int,
        scale: c_float,
        stream: RawStream,
    );
    fn edgewise_attention_decode / edgewise_attention_decode_f16(
        q: *const c_void,
        out: *mut c_void,
        keys: *const c_void,
        values: *const c_void,
        table: *const c_int,
        context: *const c_int,
        workspace: *mut c_void,
        batch: c_int,
        q_len: c_int,
        heads: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        pages: c_int,
        page_tokens: c_int,
        table_stride: c_int,
        splits: c_int,
        min_split: c_int,
        window: c_int,
        scale: c_float,
        stream: RawStream,
    );
    fn edgewise_rope_pages_fp8 / edgewise_rope_pages_fp8_f16(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        q_stride: c_int,
        k_stride: c_int,
        v_stride: c_int,
        q_out: *mut c_void,
        keys: *mut c_void,
        values: *mut c_void,
        cosines: *const c_float,
        sines: *const c_float,
        positions: *const c_int,
        slots: *const c_int,
        q_norm: *const c_void,
        k_norm: *const c_void,
        eps: c_float,
        tokens: c_int,
        heads: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        rotary_dim: c_int,
        adjacent: c_int,
        page_tokens: c_int,
        stream: RawStream,
    );
    fn edgewise_attention_decode_fp8 / edgewise_attention_decode_fp8_f16(
        q: *const c_void,
        out: *mut c_void,
        keys: *const c_void,
        values: *const c_void,
        table: *const c_int,
        context: *const c_int,
        workspace: *mut c_void,
        batch: c_int,
        q_len: c_int,
        heads: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        pages: c_int,
        page_tokens: c_int,
        table_stride: c_int,
        splits: c_int,
        min_split: c_int,
        window: c_int,
        scale: c_float,
        stream: RawStream,
    );
    fn edgewise_dequantise_pages / edgewise_dequantise_pages_f16(
        keys: *const c_void,
        values: *const c_void,
        out_keys: *mut c_void,
        out_values: *mut c_void,
        table: *const c_int,
        starts: *const c_int,
        context: *const c_int,
        batch: c_int,
        kv_heads: c_int,
        head_dim: c_int,
        page_tokens: c_int,
        table_stride: c_int,
        out_stride: c_int,
        window: c_int,
        stream: RawStream,
    );
}
