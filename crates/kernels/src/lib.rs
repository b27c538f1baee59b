//! CPU kernels of decoders and encoders: matrix products on quantised and dense weights, attention, normalisation, rotary
//! positions, the feed-forward gate; and [`reference`], the plain definition each of them is tested against.
//!
//! Invariants:
//! - The interface is safe. Instructions beyond the baseline are used only where the processor is found to have them;
//!   everything also runs as plain Rust.
//! - A token's result does not depend, bit for bit, on the other tokens in a call or on the number of threads. The
//!   prefix cache rests on this.
//! - Work is spread over the rayon pool of the caller; no kernel makes threads of its own. [`with_team`] makes the many
//!   short sections of a forward pass cheap.
//!
//! With the feature `cuda`, the module of that name launches the kernels in `kernels/` on NVIDIA Hopper.
//!
//! Deliberately not here: models, files.
// Register tiles are arrays indexed in step; iterators over several of them would hide which lane meets which.
#![allow(clippy::needless_range_loop)]
#![allow(unsafe_code)]

mod activations;
mod attention;
mod codes;
#[cfg(feature = "cuda")]
pub mod cuda;
mod encoder_attention;
mod error;
mod gates;
mod kv_layout;
mod matmul;
mod matrix;
mod parallel;
pub mod reference;
mod rotary;
mod rows;
mod simd;
#[cfg(test)]
mod testing;

pub use activations::Workspace;
pub use attention::PagedAttention;
pub use codes::{CodedQuery, MAX_WIDTH, ZERO_CODE};
pub use encoder_attention::EncoderAttention;
pub use error::KernelError;
pub use gates::{Gelu, gelu, silu_mul};
pub use kv_layout::{AttentionEntry, KvLayout, PAGE};
pub use matmul::{Product, matmul};
pub use matrix::{PackedMatrix, WeightFormat};
pub use parallel::with_team;
pub use rotary::{Pairing, Rope, Rotation, rope_frequencies};
pub use rows::{add, layer_norm, rms_norm};

/// The instruction set the kernels use on this machine: `avx512-vnni`, `avx2` or `portable`.
pub fn instruction_set() -> &'static str {
    simd::Isa::detect().name()
}
