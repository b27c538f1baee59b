//! The kernels for NVIDIA Hopper, behind safe types: one device, its memory, its stream, and a launcher for each
//! operation.
//!
//! Invariants:
//! - Everything is issued on the one stream of a [`Device`], in order, or recorded into a [`Graph`]. A buffer may be
//!   reused or freed as soon as the last operation on it was issued.
//! - A launcher checks every shape and every length against the memory it is given. Launchers that read indices from
//!   device memory (pages, rows, positions) can't check those and are `unsafe`.
//! - The program starts without a driver; [`Device::open`] says what is missing. cuBLAS is needed by [`VendorProduct`] alone.
//!   (With the feature `flash-attn` the program needs what candle links.)
//!
//! Deliberately not here: models, memory planning, more than one device (`CUDA_VISIBLE_DEVICES` says which one).

mod attention;
mod cublas;
mod device;
mod ffi;
#[cfg(feature = "flash-attn")]
mod flash;
mod fp8;
mod graph;
mod memory;
mod pages;
mod precision;
mod products;
mod rows;
mod top_k;

use std::ffi::CStr;

pub use attention::{DecodeAttention, PagedShape, PrefillAttention, RopePages};
pub use cublas::VendorProduct;
pub use device::{Device, Event};
#[cfg(feature = "flash-attn")]
pub use flash::{FLASH_VERSION, FlashAttention, FlashKeys};
pub use fp8::{DequantisePages, KvFormat};
pub use graph::Graph;
pub use memory::{DeviceMemory, PinnedMemory, Slice};
pub use pages::PagePools;
pub use precision::Half;
pub use products::{Factor, MatrixProduct, matmul, matmul_add, matmul_gate};
pub use rows::{RmsNorm, gather_rows};
pub use top_k::{TopK, TopKRow};

/// A failure on the device or a refusal of a launcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no usable device.
    #[error("no usable NVIDIA GPU: {reason}")]
    NoDevice {
        /// Why.
        reason: String,
    },
    /// The device's memory does not suffice.
    #[error("{bytes} bytes of {what} memory are not to be had")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// Whose memory: the device's, or pinned memory of the host.
        what: &'static str,
    },
    /// A call of the runtime or a kernel failed.
    #[error("{call} failed: {reason}")]
    Call {
        /// Which call.
        call: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// Arguments that don't fit each other, or a size the kernels do not have.
    #[error("{what} is {actual} but must be {rule}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// Its value.
        actual: usize,
        /// What is required of it.
        rule: &'static str,
    },
}

/// Turns a status of the runtime into a result.
fn check(call: &'static str, status: ffi::Status) -> Result<(), CudaError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: both take any status; the text is static.
    let reason = unsafe {
        ffi::cudaGetLastError(); // Or a later call would report this failure once more.
        CStr::from_ptr(ffi::cudaGetErrorString(status))
    };
    Err(CudaError::Call { call, reason: reason.to_string_lossy().into_owned() })
}

/// Refuses an argument unless it is as `rule` says.
fn require(holds: bool, what: &'static str, actual: usize, rule: &'static str) -> Result<(), CudaError> {
    if holds { Ok(()) } else { Err(CudaError::Argument { what, actual, rule }) }
}

/// A size as the launchers take it.
fn int(what: &'static str, value: usize) -> Result<i32, CudaError> {
    i32::try_from(value).map_err(|_| CudaError::Argument { what, actual: value, rule: "below 2^31" })
}
