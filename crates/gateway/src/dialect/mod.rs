//! The API in the shapes that existing clients speak: Anthropic's Messages and OpenAI's Chat Completions.
//!
//! A dialect only translates. Its request becomes a [`Task`]: a chat for the bare engine ([`engine`]), or a question to a
//! collection for the planner; what comes back is one stream of [`Event`]s for both, which the dialect writes in its own
//! form.
//!
//! - `edgewise/<collection>` as the model asks that collection; the generator's registry name is the bare engine.
//! - A parameter that would change the result and can't be honoured is refused by name, never dropped. Those that have no
//!   meaning here (accounting labels, service tiers) are accepted and listed in the request types.
//! - Failures have the dialect's own body, whoever made them: [`errors`] rewrites the body of every [`ApiError`].
//! - Streams end with the dialect's own end; a failure behind the first event is the dialect's error event.
//!
//! Deliberately not here: how the engine or the planner answer; limits, which all paths share.

pub(crate) mod anthropic;
pub(crate) mod engine;
pub(crate) mod errors;
pub(crate) mod memory;
pub(crate) mod openai;
mod task;
pub(crate) mod tools;

pub(crate) use task::{CollectionOptions, CollectionReport};
pub(crate) use task::{CollectionTask, EndReason, Event, Reply, Running, Sample, Task, placed_citations};

use edgewise_types::CollectionName;

use crate::{ApiError, ErrorKind, state::AppState};

/// What comes before a collection's name in the name of a model.
const PREFIX: &str = "edgewise/";

/// What a model's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Model {
    /// The generator itself.
    Engine,
    /// A collection, answered by the planner.
    Collection(CollectionName),
}

impl Model {
    /// Reads a model's name.
    pub(crate) fn parse(state: &AppState, name: &str) -> Result<Self, ApiError> {
        if let Some(collection) = name.strip_prefix(PREFIX) {
            return Ok(Self::Collection(collection.parse()?));
        }
        let generator = &state.parts().planner.generator().info().model;
        if name == generator {
            return Ok(Self::Engine);
        }
        Err(ApiError::new(ErrorKind::UnknownModel, format!("there is no model `{name}`")).hint(format!(
            "use `{generator}`, or `{PREFIX}<collection>` to ask a collection; GET /v1/models lists them"
        )))
    }
}

/// The model name of a collection.
pub(crate) fn model_of(collection: &CollectionName) -> String {
    format!("{PREFIX}{collection}")
}

/// A refusal of a parameter that can't be honoured.
pub(crate) fn unsupported(what: &str, why: &str) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, format!("`{what}` is not supported: {why}"))
        .hint(format!("leave `{what}` out"))
}

/// A refusal of a value.
pub(crate) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, message)
}

/// A sampling parameter from 0 to `most`.
pub(crate) fn within(name: &str, value: f32, most: f32) -> Result<f32, ApiError> {
    if (0.0..=most).contains(&value) {
        Ok(value)
    } else {
        Err(invalid(format!("`{name}` must be from 0 to {most}, not {value}")))
    }
}

/// Pairs questions with answers; a question without an answer, or an answer without a question, has an empty other half.
pub(crate) fn exchanges(said: impl Iterator<Item = (bool, String)>) -> Vec<(String, String)> {
    let mut exchanges: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for (from_user, text) in said {
        match exchanges.last_mut() {
            Some((_, answer)) if open && !from_user => *answer = text,
            _ if from_user => exchanges.push((text, String::new())),
            _ => exchanges.push((String::new(), text)),
        }
        open = from_user;
    }
    exchanges
}
