//! A short trial that finds how a server takes prompts, once after it has come up: a chat of a few tokens, with one token
//! to make.
//!
//! A server takes token ids if it counts as many prompt tokens as it was sent. Else the same prompt goes as text. If it
//! then counts one more and the prompt begins with the token for the beginning of a text, the server writes that token
//! itself, and ours is left out from then on: there are never two. If its count differs in any other way its tokenizer is
//! not the one that prompts are counted and cut with here, and nothing is sent to it.

use std::time::Duration;

use edgewise_model_api::{ChatMessage, Role};
use serde_json::{Value, json};

use crate::{
    PromptAs, ServerKind,
    replica::{Form, Profile, Replica},
    shared::Shared,
    wire::{Chunk, Models, error_message},
};

/// Longest it may take to ask for the models.
const PATIENCE: Duration = Duration::from_secs(20);
const QUESTION: &str = "Say yes.";

/// Why a trial gave no result.
#[derive(Debug)]
pub(crate) enum ProbeError {
    /// It may another time.
    NotNow(String),
    /// It never will.
    Refused(String),
}

/// What is known of `replica`, from memory or by a trial.
pub(crate) async fn profile(shared: &Shared, replica: &Replica) -> Result<Profile, ProbeError> {
    if let Some(known) = known(replica) {
        return known;
    }
    let _probing = replica.probing.lock().await;
    if let Some(known) = known(replica) {
        return known;
    }
    let found = probe(shared, replica).await;
    let mut state = replica.state();
    match &found {
        Ok(profile) => {
            tracing::info!(replica = replica.base, kind = %profile.kind, form = ?profile.form, "an upstream server is there");
            state.profile = Some(*profile);
        }
        Err(ProbeError::Refused(why)) => {
            tracing::error!(replica = replica.base, why, "an upstream server cannot be used");
            state.refused = Some(why.clone());
        }
        Err(ProbeError::NotNow(_)) => {}
    }
    drop(state);
    found
}

fn known(replica: &Replica) -> Option<Result<Profile, ProbeError>> {
    let state = replica.state();
    match (&state.refused, state.profile) {
        (Some(why), _) => Some(Err(ProbeError::Refused(why.clone()))),
        (None, profile) => profile.map(Ok),
    }
}

async fn probe(shared: &Shared, replica: &Replica) -> Result<Profile, ProbeError> {
    let kind = match shared.options.kind {
        ServerKind::Auto => kind_of(shared, replica).await?,
        kind => kind,
    };
    let messages = [ChatMessage::text(Role::User, QUESTION)];
    let encoded = shared.encoder.encode_chat(&messages).map_err(|e| ProbeError::Refused(e.to_string()))?;
    let sent = encoded.tokens.len();
    if shared.options.prompt_as == PromptAs::Tokens {
        return Ok(Profile { kind, form: Form::Tokens });
    }
    if shared.options.prompt_as == PromptAs::Auto {
        let trial = trial(shared, replica, json!(encoded.tokens)).await?;
        if trial == Ok(Some(sent)) {
            return Ok(Profile { kind, form: Form::Tokens });
        }
    }
    let rendered = shared.encoder.render(&encoded.tokens).map_err(|e| ProbeError::Refused(e.to_string()))?;
    let counted = match trial(shared, replica, json!(rendered.text)).await? {
        Ok(counted) => counted,
        Err(why) => return Err(ProbeError::Refused(format!("{} refused a short trial: {why}", replica.base))),
    };
    let server_writes_bos = match counted {
        None => false,
        Some(counted) if counted == sent => false,
        Some(counted) if counted == sent + 1 && rendered.bos > 0 => true,
        Some(counted) => {
            return Err(ProbeError::Refused(format!(
                "{} counts {counted} tokens where the tokenizer here counts {sent}: set upstream.tokenizer to the model it runs",
                replica.base
            )));
        }
    };
    Ok(Profile { kind, form: Form::Text { server_writes_bos } })
}

/// The kind of server, by who owns its models.
async fn kind_of(shared: &Shared, replica: &Replica) -> Result<ServerKind, ProbeError> {
    let request = shared.get(replica, "/v1/models").timeout(PATIENCE);
    let response = request.send().await.map_err(|e| ProbeError::NotNow(plain(&e)))?;
    if !response.status().is_success() {
        return Ok(ServerKind::OpenAi);
    }
    let models: Models = response.json().await.unwrap_or_default();
    let ours = models.data.iter().find(|entry| entry.id == shared.options.model).or(models.data.first());
    Ok(ours.map_or(ServerKind::OpenAi, |entry| ServerKind::of_owner(&entry.owned_by)))
}

/// Sends a prompt. Inside: the tokens the server counted, if it says, or why it did not take the prompt.
async fn trial(shared: &Shared, replica: &Replica, prompt: Value) -> Result<Result<Option<usize>, String>, ProbeError> {
    let body = json!({ "model": shared.options.model, "prompt": prompt, "max_tokens": 1, "temperature": 0 });
    let patience = shared.options.timeouts.first_token;
    let request = shared.post(replica, "/v1/completions").timeout(patience).json(&body);
    let response = request.send().await.map_err(|e| ProbeError::NotNow(plain(&e)))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|e| ProbeError::NotNow(plain(&e)))?;
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = || error_message(&said).unwrap_or_else(|| format!("status {}", status.as_u16()));
    match status.as_u16() {
        200..300 => {
            let chunk: Chunk = serde_json::from_value(said).unwrap_or_default();
            let counted = chunk.usage.and_then(|usage| usage.prompt_tokens);
            Ok(Ok(counted.and_then(|n| usize::try_from(n).ok())))
        }
        // Overloaded, starting, or behind a proxy that finds nobody.
        408 | 425 | 429 | 502..=504 | 529 => Err(ProbeError::NotNow(message())),
        // A key that is wrong may be put right on the server.
        401 | 403 => Err(ProbeError::NotNow(format!(
            "the key is refused ({}): set the variable that upstream.api_key_env names",
            message()
        ))),
        // Including 500, which is what some servers say to a prompt they can't read.
        _ => Ok(Err(message())),
    }
}

impl Shared {
    pub(crate) fn get(&self, replica: &Replica, path: &str) -> reqwest::RequestBuilder {
        self.signed(self.client.get(format!("{}{path}", replica.base)))
    }

    pub(crate) fn post(&self, replica: &Replica, path: &str) -> reqwest::RequestBuilder {
        self.signed(self.client.post(format!("{}{path}", replica.base)))
    }

    fn signed(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.options.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// A failure of HTTP in one line: the innermost cause says most.
pub(crate) fn plain(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
