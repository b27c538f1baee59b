//! The generator over other servers, from the settings.

use std::{path::PathBuf, sync::Arc, time::Duration};

use edgewise_engine::{ChatTokenizer, load_chat_tokenizer};
use edgewise_model_api::{ChatMessage, EncodedChat, GeneratorInfo, ModelError, Tokenizer};
use edgewise_upstream::{ChatEncoder, Rendered, Timeouts, UpstreamError, UpstreamGenerator, UpstreamOptions};

use crate::{
    app::{App, weights},
    error::CliError,
};

/// The engine's tokenizer as the upstream wants it.
struct Encoder(ChatTokenizer);

impl ChatEncoder for Encoder {
    fn tokenizer(&self) -> &dyn Tokenizer {
        self.0.tokenizer()
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        self.0.encode_chat(messages)
    }

    fn render(&self, tokens: &[u32]) -> Result<Rendered, ModelError> {
        let (text, bos) = self.0.render(tokens)?;
        Ok(Rendered { text, bos })
    }
}

impl App {
    /// Where the tokenizer of the model on other servers is.
    pub(crate) fn upstream_tokenizer(&self) -> Result<PathBuf, CliError> {
        let upstream = &self.settings().upstream;
        if let Some(path) = upstream.tokenizer_path() {
            return Ok(path);
        }
        let files = self.files(upstream.tokenizer_name().unwrap_or(&self.settings().models.generator))?;
        match files.find("tokenizer.json") {
            Some(_) => Ok(files.dir),
            None => Ok(weights(&files)?.to_owned()),
        }
    }

    /// The generator over other servers.
    pub(crate) fn upstream_generator(&self) -> Result<UpstreamGenerator, CliError> {
        let (upstream, name) = (&self.settings().upstream, &self.settings().models.generator);
        let window = Some(upstream.context_window).filter(|tokens| *tokens > 0);
        // The digest covers the name there: the same tokenizer before other weights is another model.
        let model = upstream.model_name(name).to_owned();
        let tokenizer = load_chat_tokenizer(&model, &self.upstream_tokenizer()?, window)?;
        let info = GeneratorInfo { model: name.clone(), ..tokenizer.info().clone() };
        let ms = Duration::from_millis;
        let api_key = match upstream.key_variable() {
            None => None,
            Some(variable) => Some(std::env::var(variable).map_err(|_| {
                CliError::Usage(format!(
                    "upstream.api_key_env names {variable}, which is not set: set it to the servers' key"
                ))
            })?),
        };
        let options = UpstreamOptions {
            api_key,
            kind: upstream.server.parse()?,
            prompt_as: upstream.prompt.parse()?,
            timeouts: Timeouts {
                connect: ms(upstream.connect_timeout_ms),
                first_token: ms(upstream.first_token_timeout_ms),
                idle: ms(upstream.idle_timeout_ms),
            },
            retries: upstream.retries,
            backoff: ms(upstream.backoff_ms),
            breaker_failures: upstream.breaker_failures,
            breaker_pause: ms(upstream.breaker_pause_ms),
            health_interval: ms(upstream.health_interval_ms),
            load_factor: upstream.load_factor,
            max_in_flight: upstream.max_in_flight,
            block_tokens: upstream.block_tokens,
            cache_tokens: upstream.cache_tokens,
            cache_ttl: Duration::from_secs(upstream.cache_ttl_s),
            ..UpstreamOptions::new(upstream.urls.clone(), model)
        };
        Ok(UpstreamGenerator::new(options, Arc::new(Encoder(tokenizer)), info)?)
    }
}

impl From<UpstreamError> for CliError {
    fn from(error: UpstreamError) -> Self {
        Self::Usage(error.to_string())
    }
}
