//! Model loading, decoding, sampling, embedding and reranking on this machine; implements the model API.
//!
//! - [`load_generator`]: a GGUF file, or a folder with safetensors, becomes a [`LocalGenerator`] with tokenizer, chat template, prefix cache and
//!   calibrated latency curve.
//! - [`load_embedder`]: a folder with a BERT-family checkpoint becomes a [`BertEmbedder`].
//! - [`load_reranker`]: a folder with a sequence classifier of the BERT family becomes a [`BertReranker`].
//!
//! Invariants:
//! - The traits of the model API are the only way in; nothing here knows of collections, routes or prices.
//! - Files are never trusted: missing, truncated or foreign ones give one clear sentence, never a panic.
//!
//! Deliberately not here: fetching and checking model files, prompts, HTTP.

// The mapped model files and the matrix kernels need it; each block says why it is sound.
#![allow(unsafe_code)]

mod backend;
mod bert;
mod chat_template;
mod chat_tokenizer;
mod constraint;
pub mod decoder;
mod detokenizer;
mod digest;
mod durable;
mod embedder;
mod error;
mod grammar;
mod load;
mod model_files;
pub mod rates;
mod reranker;
mod sampler;
mod serve;
mod step_model;
mod stop;
mod tokenizer;

pub use bert::EncoderArithmetic;
pub use chat_tokenizer::{ChatTokenizer, load_chat_tokenizer};
pub use embedder::BertEmbedder;
pub use error::EngineError;
pub use load::{load_embedder, load_embedder_with, load_generator, load_reranker, load_reranker_with, load_tokenizer};
pub use reranker::BertReranker;
#[doc(hidden)]
pub use serve::SteadyBatch;
pub use serve::{
    Clock, EngineOptions, KvPrecision, LocalGenerator, Placement, Precision, PromptAttention, SystemClock,
};
