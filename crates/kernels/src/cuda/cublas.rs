//! The vendor's product of large matrices, as a yardstick: what a card can multiply is measured with cuBLASLt, not with our
//! own kernels. Nothing is served with it.
//!
//! cuBLASLt is loaded when it is measured, so that a program that never does so needs no such library. Source of names,
//! attributes and layouts: `cublasLt.h` of CUDA 13.

use std::{
    ffi::{CStr, c_int, c_void},
    mem::transmute,
    ptr::null_mut,
};

use super::{CudaError, Device, DeviceMemory, Half, Slice, ffi, int};

const HALF: usize = 2;
/// Bytes cuBLASLt may use beside its operands; NVIDIA's advice for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Algorithms to look at.
const CANDIDATES: usize = 16;

const TYPE_F32: c_int = 0;
const TYPE_F16: c_int = 2;
const TYPE_BF16: c_int = 14;
const COMPUTE_F32: c_int = 68;
const DESC_TRANSPOSE_A: c_int = 3;
const PREFERENCE_WORKSPACE: c_int = 1;

type Handle = *mut c_void;
type Status = c_int;

/// `cublasLtMatmulAlgo_t`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    status: Status,
    waves: f32,
    reserved: [c_int; 4],
}

type SetAttribute = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status;
type Destroy = unsafe extern "C" fn(Handle) -> Status;

/// The functions of the library that are used.
#[derive(Debug, Clone, Copy)]
struct Library {
    create: unsafe extern "C" fn(*mut Handle) -> Status,
    destroy: Destroy,
    desc_create: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> Status,
    desc_set: SetAttribute,
    desc_destroy: Destroy,
    layout_create: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> Status,
    layout_destroy: Destroy,
    preference_create: unsafe extern "C" fn(*mut Handle) -> Status,
    preference_set: SetAttribute,
    preference_destroy: Destroy,
    heuristic: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> Status,
    matmul: unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_void,
        *const c_void,
        Handle,
        *const c_void,
        Handle,
        *const c_void,
        *const c_void,
        Handle,
        *mut c_void,
        Handle,
        *const Algorithm,
        *mut c_void,
        usize,
        ffi::RawStream,
    ) -> Status,
}

impl Library {
    /// Loads cuBLASLt of CUDA 13 or 12.
    #[allow(clippy::missing_transmute_annotations, reason = "the fields' types are the annotations")]
    fn load() -> Result<Self, CudaError> {
        const NOW: c_int = 2;
        let missing = || CudaError::NoDevice {
            reason: "the library libcublasLt.so.13 of the CUDA toolkit is not found: install it, or add its folder to \
                     LD_LIBRARY_PATH"
                .to_owned(),
        };
        let names: [&CStr; 3] =
            [c"libcublasLt.so.13", c"/usr/local/cuda/lib64/libcublasLt.so.13", c"libcublasLt.so.12"];
        // SAFETY: the library is NVIDIA's, whose initialisers have no preconditions.
        let library = names.iter().map(|name| unsafe { ffi::dlopen(name.as_ptr(), NOW) }).find(|l| !l.is_null());
        let library = library.ok_or_else(missing)?;
        let symbol = |name: &CStr| -> Result<*mut c_void, CudaError> {
            // SAFETY: the library is open and stays so.
            let symbol = unsafe { ffi::dlsym(library, name.as_ptr()) };
            if symbol.is_null() { Err(missing()) } else { Ok(symbol) }
        };
        // SAFETY: the types of the fields are those of the functions in `cublasLt.h`; pointers to opaque structs and
        // enumerations are passed as `*mut c_void` and `c_int`.
        unsafe {
            Ok(Self {
                create: transmute::<*mut c_void, _>(symbol(c"cublasLtCreate")?),
                destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtDestroy")?),
                desc_create: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulDescCreate")?),
                desc_set: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulDescSetAttribute")?),
                desc_destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulDescDestroy")?),
                layout_create: transmute::<*mut c_void, _>(symbol(c"cublasLtMatrixLayoutCreate")?),
                layout_destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtMatrixLayoutDestroy")?),
                preference_create: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulPreferenceCreate")?),
                preference_set: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulPreferenceSetAttribute")?),
                preference_destroy: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulPreferenceDestroy")?),
                heuristic: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmulAlgoGetHeuristic")?),
                matmul: transmute::<*mut c_void, _>(symbol(c"cublasLtMatmul")?),
            })
        }
    }
}

/// A descriptor that is destroyed when dropped.
#[derive(Debug)]
struct Owned {
    raw: Handle,
    destroy: Destroy,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by the function that belongs to `destroy`.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// A product of square matrices that can be issued again and again.
#[derive(Debug)]
pub struct VendorProduct<'a> {
    device: &'a Device,
    library: Library,
    operands: [Slice<'a>; 3],
    // Before the handle they belong to.
    desc: Owned,
    layout: Owned,
    algorithm: Algorithm,
    handle: Owned,
    workspace: DeviceMemory,
}

fn blas(call: &'static str, status: Status) -> Result<(), CudaError> {
    if status == 0 { Ok(()) } else { Err(CudaError::Call { call, reason: format!("cuBLAS status {status}") }) }
}

impl<'a> VendorProduct<'a> {
    /// `out = x·weightsᵀ`, all three bf16 `[side, side]`, by the algorithm that cuBLASLt recommends.
    ///
    /// # Errors
    /// [`CudaError`] when the library or memory is missing, or an operand is too short.
    pub fn new(device: &'a Device, [x, weights, out]: [Slice<'a>; 3], side: usize) -> Result<Self, CudaError> {
        for operand in [x, weights, out] {
            operand.at_least("a square matrix", side * side * HALF)?;
        }
        let library = Library::load()?;
        let mut raw = null_mut();
        // SAFETY: writes a handle.
        blas("cublasLtCreate", unsafe { (library.create)(&mut raw) })?;
        let handle = Owned { raw, destroy: library.destroy };
        // SAFETY: writes a descriptor.
        blas("cublasLtMatmulDescCreate", unsafe { (library.desc_create)(&mut raw, COMPUTE_F32, TYPE_F32) })?;
        let desc = Owned { raw, destroy: library.desc_destroy };
        let transposed = 1i32;
        // SAFETY: the descriptor exists, and the library reads as many bytes as the value has.
        blas("cublasLtMatmulDescSetAttribute", unsafe {
            (library.desc_set)(desc.raw, DESC_TRANSPOSE_A, (&raw const transposed).cast(), size_of::<i32>())
        })?;
        let kind = match device.half() {
            Half::Bf16 => TYPE_BF16,
            Half::F16 => TYPE_F16,
        };
        // SAFETY: writes a descriptor. Columns lie one after the other.
        blas("cublasLtMatrixLayoutCreate", unsafe {
            (library.layout_create)(&mut raw, kind, side as u64, side as u64, side as i64)
        })?;
        let layout = Owned { raw, destroy: library.layout_destroy };
        // SAFETY: writes a preference.
        blas("cublasLtMatmulPreferenceCreate", unsafe { (library.preference_create)(&mut raw) })?;
        let preference = Owned { raw, destroy: library.preference_destroy };
        let bytes = WORKSPACE as u64;
        // SAFETY: the preference exists; the value has as many bytes.
        blas("cublasLtMatmulPreferenceSetAttribute", unsafe {
            let bytes = (&raw const bytes).cast();
            (library.preference_set)(preference.raw, PREFERENCE_WORKSPACE, bytes, size_of::<u64>())
        })?;
        let mut found = [Heuristic::default(); CANDIDATES];
        let mut count = 0;
        // SAFETY: all descriptors exist; at most `CANDIDATES` results are written.
        blas("cublasLtMatmulAlgoGetHeuristic", unsafe {
            (library.heuristic)(
                handle.raw,
                desc.raw,
                layout.raw,
                layout.raw,
                layout.raw,
                layout.raw,
                preference.raw,
                int("candidates", CANDIDATES)?,
                found.as_mut_ptr(),
                &mut count,
            )
        })?;
        let count = usize::try_from(count).unwrap_or(0);
        let best = found.iter().take(count).find(|candidate| candidate.status == 0 && candidate.workspace <= WORKSPACE);
        let Some(Heuristic { algorithm, .. }) = best.copied() else {
            let reason = "it has no algorithm for square matrices".to_owned();
            return Err(CudaError::Call { call: "cublasLtMatmulAlgoGetHeuristic", reason });
        };
        let workspace = DeviceMemory::new(device, WORKSPACE)?;
        Ok(Self { device, library, operands: [x, weights, out], desc, layout, algorithm, handle, workspace })
    }

    /// Issues it.
    ///
    /// # Errors
    /// [`CudaError`] of the library.
    pub fn issue(&self) -> Result<(), CudaError> {
        let (one, zero) = (1.0f32, 0.0f32);
        let [x, weights, out] = self.operands.map(|operand| operand.pointer());
        // SAFETY: the operands were found as long as their layout says; the workspace is this value's.
        blas("cublasLtMatmul", unsafe {
            (self.library.matmul)(
                self.handle.raw,
                self.desc.raw,
                (&raw const one).cast(),
                weights,
                self.layout.raw,
                x,
                self.layout.raw,
                (&raw const zero).cast(),
                out,
                self.layout.raw,
                out,
                self.layout.raw,
                &self.algorithm,
                self.workspace.all().pointer(),
                WORKSPACE,
                self.device.stream(),
            )
        })
    }
}
