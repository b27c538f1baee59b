//! Traits of the models Edgewise runs on, and the introspection the planner prices routes with.
//!
//! Engines depend on this crate, never the reverse. A scripted model, the local engine and a remote server are all
//! implementations; the planner and the gateway know only what is here.
//!
//! Contracts:
//! - All traits are object-safe, `Send + Sync`, and may be called from any thread. Calls block; none needs an async
//!   runtime, except that a [`GenerationStream`] can be read from async code too.
//! - A [`Prompt`] is token ids. Whoever composes it knows its exact length before anything is prefilled.
//! - Dropping a [`GenerationStream`] cancels the request at the engine's next step, prefill included.
//!
//! Deliberately not here: any implementation, templates, prices, retrieval.

mod cache;
mod embed;
mod error;
mod generate;
mod latency;
mod rerank;
mod tokenize;

pub use cache::{CacheState, MissReason, PrefixState, RetainedPrefix, prompt_usage};
pub use embed::{Embedder, EmbedderInfo};
pub use error::ModelError;
pub use generate::{
    Boundary, ChatMessage, ChatPart, Constraint, EncodedChat, FinishReason, GenerateRequest, GenerationEvent,
    GenerationSender, GenerationStream, GenerationTimings, Generator, GeneratorInfo, NextEvent, Prompt, QueueState,
    Retention, Role, Sampling,
};
pub use latency::{Ahead, LatencyCurve};
pub use rerank::{Reranker, RerankerInfo};
pub use tokenize::Tokenizer;
