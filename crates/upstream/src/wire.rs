//! What is sent to a server and what it sends back.
//!
//! Requests carry what every server knows, and of the rest only what the kind of server is known to take. Answers are
//! read leniently: unknown fields are ignored, and what is absent is absent.

use edgewise_model_api::{Constraint, ModelError, Sampling};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ServerKind;

/// A prompt as it travels.
#[derive(Debug, Clone)]
pub(crate) enum PromptBody {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Text.
    Text(String),
}

/// The parts of a completion request.
pub(crate) struct Completion<'a> {
    pub(crate) model: &'a str,
    pub(crate) kind: ServerKind,
    pub(crate) prompt: PromptBody,
    pub(crate) sampling: &'a Sampling,
    pub(crate) max_tokens: usize,
    pub(crate) stop: &'a [String],
    pub(crate) samples: usize,
    pub(crate) constraint: Option<&'a Constraint>,
    pub(crate) logprobs: bool,
    /// Keeps tenants' prefixes apart in the server's cache.
    pub(crate) salt: String,
}

impl Completion<'_> {
    /// The body of `POST /v1/completions`, streamed.
    pub(crate) fn body(self) -> Result<Value, ModelError> {
        let mut body = Map::new();
        let mut put = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
        put("model", json!(self.model));
        put(
            "prompt",
            match self.prompt {
                PromptBody::Tokens(ids) => json!(ids),
                PromptBody::Text(text) => json!(text),
            },
        );
        put("stream", json!(true));
        put("stream_options", json!({ "include_usage": true }));
        put("max_tokens", json!(self.max_tokens));
        put("temperature", json!(self.sampling.temperature));
        put("top_p", json!(self.sampling.top_p));
        if let Some(seed) = self.sampling.seed {
            // Servers keep seeds in 64 bits with sign, or in 32.
            put("seed", json!(seed & 0x7fff_ffff));
        }
        if !self.stop.is_empty() {
            put("stop", json!(self.stop));
        }
        if self.samples > 1 {
            put("n", json!(self.samples));
        }
        if self.logprobs {
            put("logprobs", json!(1));
        }
        check_sampling(self.kind, self.sampling)?;
        let Sampling { top_k, min_p, repetition_penalty, .. } = self.sampling;
        match self.kind {
            ServerKind::Vllm => {
                put("top_k", json!(top_k));
                put("min_p", json!(min_p));
                put("repetition_penalty", json!(repetition_penalty));
                put("return_token_ids", json!(true));
                put("add_special_tokens", json!(false));
                put("cache_salt", json!(self.salt));
            }
            ServerKind::Sglang => {
                put("top_k", if *top_k == 0 { json!(-1) } else { json!(top_k) });
                put("min_p", json!(min_p));
                put("repetition_penalty", json!(repetition_penalty));
                put("extra_key", json!(self.salt));
            }
            ServerKind::LlamaCpp | ServerKind::LlamaCppPython => {
                // Their own defaults differ: 40, 0.05, and in one 1.1.
                put("top_k", json!(top_k));
                put("min_p", json!(min_p));
                put("repeat_penalty", json!(repetition_penalty));
                put("cache_prompt", json!(true));
            }
            ServerKind::Auto | ServerKind::OpenAi => {}
        }
        if let Some(constraint) = self.constraint {
            let (key, value) = constraint_field(self.kind, constraint)?;
            put(key, value);
        }
        Ok(Value::Object(body))
    }
}

/// Refuses what a server of this kind could not honour.
pub(crate) fn check_sampling(kind: ServerKind, sampling: &Sampling) -> Result<(), ModelError> {
    let plain = sampling.top_k == 0 && sampling.min_p == 0.0 && sampling.repetition_penalty == 1.0;
    if plain || !matches!(kind, ServerKind::Auto | ServerKind::OpenAi) {
        return Ok(());
    }
    Err(ModelError::InvalidSampling(
        "the upstream server is only known to take temperature, top_p and seed: leave top_k, min_p and \
         repetition_penalty out, or name the kind of server in upstream.server"
            .to_owned(),
    ))
}

/// The field that carries a constraint, by the kind of server.
pub(crate) fn constraint_field(kind: ServerKind, constraint: &Constraint) -> Result<(&'static str, Value), ModelError> {
    let field = match (kind, constraint) {
        (ServerKind::Vllm, Constraint::JsonSchema(schema)) => ("structured_outputs", json!({ "json": schema })),
        (ServerKind::Vllm, Constraint::Regex(regex)) => ("structured_outputs", json!({ "regex": regex })),
        (ServerKind::Vllm, Constraint::Lark(grammar)) => ("structured_outputs", json!({ "grammar": grammar })),
        // SGLang takes the schema as a text.
        (ServerKind::Sglang, Constraint::JsonSchema(schema)) => ("json_schema", json!(schema.to_string())),
        (ServerKind::Sglang, Constraint::Regex(regex)) => ("regex", json!(regex)),
        (ServerKind::LlamaCpp, Constraint::JsonSchema(schema)) => ("json_schema", schema.clone()),
        _ => {
            let form = match constraint {
                Constraint::JsonSchema(_) => "a JSON schema",
                Constraint::Regex(_) => "a regular expression",
                Constraint::Lark(_) => "a Lark grammar",
            };
            let why = format!("an upstream server of the kind `{kind}` is not known to take {form}: leave it out");
            return Err(ModelError::InvalidConstraint(why));
        }
    };
    Ok(field)
}

/// A piece of a stream, or a whole answer that was not streamed.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    pub(crate) choices: Vec<Choice>,
    #[serde(default)]
    pub(crate) usage: Option<UsageBody>,
    /// llama.cpp's own account.
    #[serde(default)]
    pub(crate) timings: Option<LlamaTimings>,
    #[serde(default)]
    pub(crate) error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice {
    #[serde(default)]
    pub(crate) index: usize,
    #[serde(default)]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) finish_reason: Option<String>,
    /// vLLM: the stop string or token that ended it, null if neither did.
    #[serde(default, deserialize_with = "present")]
    pub(crate) stop_reason: Option<Value>,
    /// SGLang: the same.
    #[serde(default, deserialize_with = "present")]
    pub(crate) matched_stop: Option<Value>,
    #[serde(default)]
    pub(crate) logprobs: Option<Logprobs>,
    #[serde(default)]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// A value that is there, null included: what is left out says less than null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Logprobs {
    #[serde(default)]
    pub(crate) tokens: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) token_logprobs: Option<Vec<Option<f32>>>,
    /// The form of chats, which llama.cpp uses for completions, too.
    #[serde(default)]
    pub(crate) content: Option<Vec<TokenLogprob>>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct TokenLogprob {
    #[serde(default)]
    pub(crate) id: Option<u32>,
    #[serde(default)]
    pub(crate) token: Option<String>,
    #[serde(default)]
    pub(crate) logprob: Option<f32>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct UsageBody {
    #[serde(default)]
    pub(crate) prompt_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) completion_tokens: Option<u64>,
    #[serde(default)]
    pub(crate) prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct PromptDetails {
    #[serde(default)]
    pub(crate) cached_tokens: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct LlamaTimings {
    #[serde(default)]
    pub(crate) cache_n: Option<u64>,
}

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) id: Option<u32>,
    pub(crate) text: String,
    pub(crate) logprob: Option<f32>,
}

/// Id, text and log-probability of a token, as far as the server tells them.
type Named = (Option<u32>, Option<String>, Option<f32>);

impl Choice {
    /// The tokens in it. Where the server says what they are, one piece each; else its text is one.
    pub(crate) fn pieces(&mut self) -> Vec<Piece> {
        let text = self.text.take().unwrap_or_default();
        let mut tokens: Vec<Named> = Vec::new();
        if let Some(logprobs) = self.logprobs.take() {
            if let Some(content) = logprobs.content {
                tokens = content.into_iter().map(|t| (t.id, t.token, t.logprob)).collect();
            } else {
                let mut values = logprobs.token_logprobs.unwrap_or_default().into_iter();
                let names = logprobs.tokens.unwrap_or_default();
                tokens = names.into_iter().map(|name| (None, Some(name), values.next().flatten())).collect();
            }
        }
        if let Some(ids) = self.token_ids.take() {
            tokens.resize(ids.len().max(tokens.len()), (None, None, None));
            tokens.iter_mut().zip(ids).for_each(|(token, id)| token.0 = Some(id));
        }
        if tokens.is_empty() {
            let piece = Piece { id: None, text, logprob: None };
            return if piece.text.is_empty() { Vec::new() } else { vec![piece] };
        }
        // The text is what counts. Names of tokens divide it only where they are exactly it.
        let named: String = tokens.iter().filter_map(|(_, name, _)| name.as_deref()).collect();
        let divides = named == text;
        let last = tokens.len() - 1;
        let mut text = Some(text);
        let piece = |(i, (id, name, logprob)): (usize, Named)| {
            let text = match (divides, i == last) {
                (true, _) => name.unwrap_or_default(),
                (false, true) => text.take().unwrap_or_default(),
                (false, false) => String::new(),
            };
            Piece { id, text, logprob: logprob.filter(|p| p.is_finite()).map(|p| p.min(0.0)) }
        };
        tokens.into_iter().enumerate().map(piece).collect()
    }
}

/// What an error body says, shortened. Only fields meant for people: others may repeat the prompt.
pub(crate) fn error_message(body: &Value) -> Option<String> {
    let error = body.get("error").unwrap_or(body);
    let text = error
        .as_str()
        .or_else(|| error.get("message")?.as_str())
        .or_else(|| body.get("message")?.as_str())
        .or_else(|| body.get("detail")?.as_str())
        .or_else(|| body.get("detail")?.get(0)?.get("msg")?.as_str())?;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(200).collect();
    Some(if short.len() < line.len() { format!("{short}…") } else { short })
}

/// `/v1/models`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Models {
    #[serde(default)]
    pub(crate) data: Vec<ModelEntry>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct ModelEntry {
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) owned_by: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pieces(choice: Value) -> Vec<(Option<u32>, String, Option<f32>)> {
        let mut choice: Choice = serde_json::from_value(choice).unwrap();
        choice.pieces().into_iter().map(|p| (p.id, p.text, p.logprob)).collect()
    }

    #[test]
    fn tokens_are_told_apart_where_the_server_does() {
        assert_eq!(pieces(json!({ "text": "ab" })), [(None, "ab".to_owned(), None)]);
        assert!(pieces(json!({ "text": "" })).is_empty());
        assert!(pieces(json!({ "text": null, "logprobs": null })).is_empty());
        let openai = json!({ "text": " a b", "logprobs": { "tokens": [" a", " b"], "token_logprobs": [-0.5, null] } });
        assert_eq!(pieces(openai), [(None, " a".to_owned(), Some(-0.5)), (None, " b".to_owned(), None)]);
        let llama = json!({ "text": "é", "logprobs": { "content": [
            { "id": 7, "token": "", "logprob": -1.0 }, { "id": 8, "token": "é", "logprob": 0.1 } ] } });
        assert_eq!(pieces(llama), [(Some(7), String::new(), Some(-1.0)), (Some(8), "é".to_owned(), Some(0.0))]);
        let vllm = json!({ "text": "日", "token_ids": [3, 4], "logprobs": { "tokens": ["bytes:\\xe6", "x"], "token_logprobs": [-1, -2] } });
        assert_eq!(pieces(vllm), [(Some(3), String::new(), Some(-1.0)), (Some(4), "日".to_owned(), Some(-2.0))]);
    }

    #[test]
    fn messages_of_errors_are_found_and_short() {
        for (body, message) in [
            (json!({ "error": { "message": "no  such\nmodel", "code": 404 } }), Some("no such model")),
            (json!({ "error": "busy" }), Some("busy")),
            (json!({ "detail": "Not Found" }), Some("Not Found")),
            (json!({ "detail": [{ "msg": "field required", "input": "the whole prompt" }] }), Some("field required")),
            (json!({ "input": "the whole prompt" }), None),
        ] {
            assert_eq!(error_message(&body).as_deref(), message);
        }
        assert!(error_message(&json!({ "message": "x".repeat(5000) })).unwrap().chars().count() <= 201);
    }

    #[test]
    fn a_server_is_only_sent_what_it_knows() {
        let (plain_sampling, sampling) = (Sampling::default(), Sampling { top_k: 5, ..Sampling::default() });
        fn request(kind: ServerKind, sampling: &Sampling) -> Completion<'_> {
            Completion {
                model: "m",
                kind,
                prompt: PromptBody::Tokens(vec![1, 2]),
                sampling,
                max_tokens: 3,
                stop: &[],
                samples: 1,
                constraint: None,
                logprobs: false,
                salt: "s".to_owned(),
            }
        }
        let plain = request(ServerKind::OpenAi, &plain_sampling).body().unwrap();
        let mut keys: Vec<&str> = plain.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["max_tokens", "model", "prompt", "stream", "stream_options", "temperature", "top_p"]);
        assert!(request(ServerKind::OpenAi, &sampling).body().is_err());
        assert_eq!(request(ServerKind::Vllm, &sampling).body().unwrap()["cache_salt"], "s");
        assert_eq!(request(ServerKind::LlamaCpp, &plain_sampling).body().unwrap()["top_k"], 0);
        let regex = Constraint::Regex("a".to_owned());
        assert!(constraint_field(ServerKind::LlamaCpp, &regex).is_err());
        assert_eq!(constraint_field(ServerKind::Sglang, &regex).unwrap().0, "regex");
    }
}
