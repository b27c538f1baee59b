//! What the caller brings: the model's tokenizer and chat template.

use edgewise_model_api::{ChatMessage, EncodedChat, ModelError, Tokenizer};

/// A prompt as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, control tokens written out.
    pub text: String,
    /// Bytes at its start that are the token for the beginning of a text; 0 where the prompt does not begin with one.
    pub bos: usize,
}

/// The tokenizer and chat template of the model that the servers run.
pub trait ChatEncoder: Send + Sync {
    /// Its tokenizer.
    fn tokenizer(&self) -> &dyn Tokenizer;

    /// As [`edgewise_model_api::Generator::encode_chat`].
    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError>;

    /// `tokens` as a text, for servers that take no token ids. Such a server finds control tokens in the text; so what
    /// merely looks like one in a content must be broken up here, and a prompt for which that is not possible refused.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    fn render(&self, tokens: &[u32]) -> Result<Rendered, ModelError>;
}
