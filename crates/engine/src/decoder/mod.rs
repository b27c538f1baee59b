//! The decoder-only transformer: weights from GGUF, keys and values of one sequence, and the forward pass.
//!
//! Invariants:
//! - Weights are immutable after loading and shared: a [`Decoder`] is cheap to clone, `Send` and `Sync`.
//! - The logits of a token depend only on the tokens before it, bit for bit: not on how a sequence was cut into
//!   [`Decoder::forward`] calls, nor on what was truncated before. Prefix reuse rests on this.
//! - A failed [`Decoder::forward`] leaves its [`KvState`] as it was.
//!
//! Deliberately not here: tokenisation, sampling, scheduling, paging. Families: Llama (architecture `llama`), which
//! covers SmolLM2 and every other model exported under that name without RoPE scaling.

mod config;
mod error;
mod gguf;
mod kv;
mod llama;
#[allow(dead_code)]
mod pages;
mod step;
mod weights;

pub use config::DecoderConfig;
pub use error::DecoderError;
pub use gguf::GgufFile;
pub use kv::KvState;
pub use llama::{Arithmetic, Decoder};
pub use pages::PagedKv;
