//! OpenAI's API: `POST /v1/chat/completions`, `POST /v1/embeddings`, `GET /v1/models`.
//!
//! `prompt_tokens_details.cached_tokens` is what was read from the cache. Prefixes are found by their tokens without being
//! marked; they are kept for a time only where Anthropic's dialect marks them.

mod params;
mod reply;
mod request;

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use edgewise_model_api::ModelError;
use edgewise_types::Usage;

use crate::{
    ApiError, ErrorKind, budgets,
    caller::Caller,
    extract::ApiJson,
    middleware::{RequestId, new_id},
    state::AppState,
};

pub(crate) use params::ChatRequest;
pub(crate) use reply::Completion;

use super::{Model, invalid, model_of, unsupported};

/// Most inputs of one request for embeddings.
const MAX_INPUTS: usize = 2048;

/// Complete a chat, in the form of OpenAI's Chat Completions.
///
/// The model is the generator's name, or `edgewise/<collection>`, which asks that collection: the last message is the
/// question, and citations come as `url_citation` annotations. Without `stream`, the completion; with it, its chunks and
/// `[DONE]`. Failures have the body `{"error": {"message", "type", "param", "code"}}`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "dialects",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The completion, or its chunks", content(
            (Completion = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", description = "Malformed, unknown, too large, or too much", body = Object),
        (status = "5XX", description = "Failure inside the server, loading, or shutting down", body = Object),
    )
)]
pub(crate) async fn completions(
    State(state): State<AppState>,
    caller: Caller,
    id: RequestId,
    ApiJson(request): ApiJson<ChatRequest>,
) -> Result<Response, ApiError> {
    let model = Model::parse(&state, &request.model)?;
    let (name, stream) = (request.model.clone(), request.stream.unwrap_or(false));
    let (task, reading) = request.into_task(&model)?;
    let mut running = task.start(&state, caller, id.clone()).await?;
    let completion = reply::Builder::new(&id.0, name, reading);
    if stream {
        return reply::stream(running, completion).await;
    }
    Ok(Json(completion.whole(running.collect().await?)).into_response())
}

/// Texts to embed.
#[allow(dead_code, reason = "`user` is accepted and not used")]
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingsRequest {
    /// The embedder's registry name.
    pub(crate) model: String,
    /// A text, or several; not token ids.
    #[schema(value_type = Object)]
    pub(crate) input: Value,
    /// `float`, or `base64` of little-endian 32-bit floats; absent is `float`.
    #[serde(default)]
    pub(crate) encoding_format: Option<EncodingFormat>,
    /// Only the embedder's own.
    #[serde(default)]
    pub(crate) dimensions: Option<usize>,
    /// Accepted and not used.
    #[serde(default)]
    pub(crate) user: Option<String>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EncodingFormat {
    /// Numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats.
    Base64,
}

/// Vectors of texts.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct EmbeddingsReply {
    /// `list`.
    pub(crate) object: &'static str,
    /// One vector a text, in order.
    pub(crate) data: Vec<Embedded>,
    /// The embedder.
    pub(crate) model: String,
    /// Tokens read.
    pub(crate) usage: EmbeddingsUsage,
}

/// The vector of a text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Embedded {
    /// `embedding`.
    pub(crate) object: &'static str,
    /// Which text.
    pub(crate) index: usize,
    /// The vector, of length 1.
    pub(crate) embedding: Vector,
}

/// A vector, as it was asked for.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian 32-bit floats.
    Base64(String),
}

/// Tokens read by the embedder.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct EmbeddingsUsage {
    /// Of the texts.
    pub(crate) prompt_tokens: usize,
    /// The same.
    pub(crate) total_tokens: usize,
}

/// Embed texts, in the form of OpenAI's Embeddings.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "dialects",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "The vectors", body = EmbeddingsReply),
        (status = "4XX", description = "Malformed, unknown, too large, or too much", body = Object),
        (status = "5XX", description = "Failure inside the server, loading, or shutting down", body = Object),
    )
)]
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<EmbeddingsRequest>,
) -> Result<Json<EmbeddingsReply>, ApiError> {
    let info = state.parts().planner.embedder().info().clone();
    if request.model != info.model {
        return Err(ApiError::new(ErrorKind::UnknownModel, format!("there is no embedder `{}`", request.model))
            .hint(format!("use `{}`", info.model)));
    }
    if request.dimensions.is_some_and(|dimensions| dimensions != info.dimension) {
        return Err(unsupported("dimensions", &format!("vectors of `{}` have {}", info.model, info.dimension)));
    }
    let texts = read_inputs(&request.input)?;
    let format = request.encoding_format.unwrap_or_default();
    let whose = caller.pays(None);
    budgets::admit(state.parts(), &caller, None)?;
    let slot = state.answer_slot()?;
    let (vectors, tokens) = state
        .blocking(slot, move |parts| {
            let (id, at, began) = (new_id(), jiff::Timestamp::now(), Instant::now());
            let embedder = parts.planner.embedder();
            let mut tokens = 0;
            for (index, text) in texts.iter().enumerate() {
                let count = embedder.tokenizer().count(text)? + 2;
                if count > info.max_tokens {
                    return Err(ApiError::new(
                        ErrorKind::DoesNotFit,
                        format!(
                            "input {index} has {count} tokens, but `{}` reads at most {}",
                            info.model, info.max_tokens
                        ),
                    )
                    .hint("split it; nothing is cut silently"));
                }
                tokens += count;
            }
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let vectors = embedder.embed(&texts).map_err(|error: ModelError| ApiError::from(error))?;
            parts.recorder.embedded(&id, at, whose, &info.model, tokens, began.elapsed());
            Ok::<_, ApiError>((vectors, tokens))
        })
        .await?;
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Embedded {
        object: "embedding",
        index,
        embedding: match format {
            EncodingFormat::Float => Vector::Float(vector),
            EncodingFormat::Base64 => Vector::Base64(base64(&vector)),
        },
    });
    state.keys().spent(&caller, &Usage { input_tokens: tokens, ..Usage::default() });
    let usage = EmbeddingsUsage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(Json(EmbeddingsReply { object: "list", data: data.collect(), model: request.model, usage }))
}

fn read_inputs(input: &Value) -> Result<Vec<String>, ApiError> {
    let wrong = || invalid("`input` must be a text or a list of texts; token ids are those of another tokenizer");
    let texts = match input {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => {
            list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect::<Result<Vec<_>, _>>()?
        }
        _ => return Err(wrong()),
    };
    if texts.is_empty() || texts.len() > MAX_INPUTS {
        return Err(invalid(format!("`input` takes 1 to {MAX_INPUTS} texts, not {}", texts.len())));
    }
    match texts.iter().position(String::is_empty) {
        Some(index) => Err(invalid(format!("input {index} is empty"))),
        None => Ok(texts),
    }
}

/// RFC 4648, with padding.
fn base64(vector: &[f32]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text
}

/// A model that can be asked. Has the fields of both dialects' lists.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelEntry {
    /// Its name.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// `model`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Seconds since 1970; 0, as it is not known.
    pub(crate) created: i64,
    /// The same as a time.
    pub(crate) created_at: &'static str,
    /// Who serves it.
    pub(crate) owned_by: &'static str,
    /// What it is.
    pub(crate) display_name: String,
}

impl ModelEntry {
    fn new(id: String, display_name: String) -> Self {
        Self {
            id,
            object: "model",
            kind: "model",
            created: 0,
            created_at: "1970-01-01T00:00:00Z",
            owned_by: "edgewise",
            display_name,
        }
    }
}

/// The models that can be asked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    /// The models: generator, embedder, and each collection.
    pub(crate) data: Vec<ModelEntry>,
    /// Never.
    pub(crate) has_more: bool,
    /// Name of the first.
    pub(crate) first_id: Option<String>,
    /// Name of the last.
    pub(crate) last_id: Option<String>,
}

async fn entries(state: &AppState, caller: &Caller) -> Result<Vec<ModelEntry>, ApiError> {
    let collections = state.collections(caller)?;
    state
        .read(move |parts| {
            let generator = parts.planner.generator().info();
            let embedder = parts.planner.embedder().info();
            let about = |text: &str| text.to_owned();
            let mut entries = vec![
                ModelEntry::new(generator.model.clone(), about("The generator, without a collection")),
                ModelEntry::new(embedder.model.clone(), about("The embedder")),
            ];
            for name in collections.names()? {
                entries.push(ModelEntry::new(model_of(&name), format!("The collection {name}")));
            }
            Ok(entries)
        })
        .await
}

/// List the models: the generator, the embedder, and each collection.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "dialects",
    responses(
        (status = 200, description = "The models", body = ModelList),
        (status = "5XX", description = "Failure inside the server, loading, or shutting down", body = Object),
    )
)]
pub(crate) async fn models(State(state): State<AppState>, caller: Caller) -> Result<Json<ModelList>, ApiError> {
    let data = entries(&state, &caller).await?;
    let id = |entry: Option<&ModelEntry>| entry.map(|entry| entry.id.clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Ok(Json(ModelList { object: "list", data, has_more: false, first_id, last_id }))
}

/// One model.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "dialects",
    params(("model" = String, Path, description = "Its name; a `/` is sent as `%2F`")),
    responses(
        (status = 200, description = "The model", body = ModelEntry),
        (status = "4XX", description = "No such model, or a name that is none", body = Object),
        (status = "5XX", description = "Failure inside the server, loading, or shutting down", body = Object),
    )
)]
pub(crate) async fn model(
    State(state): State<AppState>,
    caller: Caller,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelEntry>, ApiError> {
    let Path(name) = name.map_err(|rejection| ApiError::new(ErrorKind::InvalidName, rejection.body_text()))?;
    let found = entries(&state, &caller).await?.into_iter().find(|entry| entry.id == name);
    found.map(Json).ok_or_else(|| {
        ApiError::new(ErrorKind::UnknownModel, format!("there is no model `{name}`")).hint("GET /v1/models lists them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // Bytes 0, 0, 128, 63 (1.0), and 0, 0, 0, 192 (-2.0): computed with `base64` of GNU coreutils.
        assert_eq!(base64(&[1.0]), "AACAPw==");
        assert_eq!(base64(&[1.0, -2.0]), "AACAPwAAAMA=");
        assert_eq!(base64(&[1.0, -2.0, 1.0]), "AACAPwAAAMAAAIA/");
        assert_eq!(base64(&[]), "");
    }
}
