//! A generator over OpenAI-compatible servers: vLLM, SGLang, llama.cpp's and whatever speaks `POST /v1/completions`.
//!
//! ```text
//! generate ─► checks ─► choice of a replica ─► attempt ─► SSE ─► events
//!                       rendezvous hash of        │ before the first token: another attempt, after a jittered pause
//!                       tenant and first stable   │ after it: the failure is passed on, nothing is sent twice
//!                       prefix, bounded load      ▼
//!                                    residency, latency fit, breaker learn from the outcome
//! ```
//!
//! Invariants:
//! - **Charged once.** A request is sent again only while no token of it has come. From the first token on, whatever
//!   happens ends the stream as [`edgewise_model_api::GenerationEvent::Failed`], and the caller accounts the tokens so far.
//! - A stream always ends: connecting, the first token and every further one have their time limits.
//! - Prompts are tokens here as everywhere. They travel as token ids where the server takes them; where it does not, as a
//!   text that the server's tokenizer turns into the same ids (see [`ChatEncoder::render`]), and which was checked against
//!   the server's own count before the first request.
//! - What a server reports is checked against what was seen: a count that can't be is not billed.
//! - No text of a prompt or an answer is logged.
//!
//! Deliberately not here: loading tokenizers (the caller brings a [`ChatEncoder`]), prices, the choice of a route.

mod attempt;
mod backoff;
mod breaker;
mod call;
mod encoder;
mod generator;
mod health;
mod latency;
mod options;
mod probe;
mod replica;
mod residency;
mod ring;
mod shared;
mod sse;
mod usage;
mod wire;

pub use encoder::{ChatEncoder, Rendered};
pub use generator::UpstreamGenerator;
pub use options::{PromptAs, ServerKind, Timeouts, UpstreamError, UpstreamOptions};
