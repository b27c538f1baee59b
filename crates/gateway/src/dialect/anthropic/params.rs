//! The bodies of the Messages API, as <https://docs.anthropic.com/en/api/messages> defines them. Unknown fields are refused.

#![allow(dead_code, reason = "fields that are accepted and not used are named, so that unknown ones can be refused")]

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::dialect::CollectionOptions;

/// A request to create a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The generator's registry name, or `edgewise/<collection>`.
    #[schema(example = "edgewise/guide")]
    pub(crate) model: String,
    /// Most tokens of the answer. 0 computes and keeps the prompt and answers nothing.
    pub(crate) max_tokens: usize,
    /// The conversation. A last message of the assistant is continued.
    pub(crate) messages: Vec<MessageParam>,
    /// System prompt.
    #[serde(default)]
    pub(crate) system: Option<TextOrBlocks>,
    /// A breakpoint behind the last block of the request.
    #[serde(default)]
    pub(crate) cache_control: Option<CacheControl>,
    /// Strings that end the answer.
    #[serde(default)]
    pub(crate) stop_sequences: Vec<String>,
    /// Whether to stream the answer as server-sent events.
    #[serde(default)]
    pub(crate) stream: bool,
    /// 0 to 1; absent is 1.
    #[serde(default)]
    pub(crate) temperature: Option<f32>,
    /// Above 0, to 1.
    #[serde(default)]
    pub(crate) top_p: Option<f32>,
    /// Absent keeps all tokens.
    #[serde(default)]
    pub(crate) top_k: Option<usize>,
    /// Functions the model may call.
    #[serde(default)]
    pub(crate) tools: Vec<ToolParam>,
    /// Whether it must.
    #[serde(default)]
    pub(crate) tool_choice: Option<ToolChoice>,
    /// The form of the answer.
    #[serde(default)]
    pub(crate) output_config: Option<OutputConfig>,
    /// Only `disabled`: no model here thinks apart from its answer.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) thinking: Option<Value>,
    /// Accepted and not used.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Value>,
    /// Accepted and not used.
    #[serde(default)]
    pub(crate) service_tier: Option<String>,
    /// How to ask a collection.
    #[serde(default)]
    pub(crate) edgewise: Option<CollectionOptions>,
}

/// A request to count the tokens of a message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountRequest {
    /// The generator's registry name.
    pub(crate) model: String,
    /// The conversation.
    pub(crate) messages: Vec<MessageParam>,
    /// System prompt.
    #[serde(default)]
    pub(crate) system: Option<TextOrBlocks>,
    /// Functions the model may call.
    #[serde(default)]
    pub(crate) tools: Vec<ToolParam>,
    /// Whether it must.
    #[serde(default)]
    pub(crate) tool_choice: Option<ToolChoice>,
    /// Does not change the count.
    #[serde(default)]
    pub(crate) cache_control: Option<CacheControl>,
    /// Does not change the count.
    #[serde(default)]
    pub(crate) output_config: Option<OutputConfig>,
    /// Only `disabled`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) thinking: Option<Value>,
}

/// A message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageParam {
    /// Who speaks.
    pub(crate) role: Speaker,
    /// What.
    pub(crate) content: TextOrBlocks,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Speaker {
    /// The person asking, or a tool.
    User,
    /// The model.
    Assistant,
}

/// A text, or blocks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TextOrBlocks {
    /// One text.
    Text(String),
    /// Blocks, in order.
    #[schema(value_type = Vec<Block>)]
    Blocks(Vec<Value>),
}

/// A piece of content.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Block {
    /// Text.
    Text {
        /// The text.
        text: String,
        /// A breakpoint behind it.
        #[serde(default)]
        cache_control: Option<CacheControl>,
        /// Of an answer that is sent back; not used.
        #[serde(default)]
        #[schema(value_type = Option<Vec<Object>>)]
        citations: Option<Value>,
    },
    /// A document as plain text.
    Document {
        /// Its text.
        source: DocumentSource,
        /// Its title.
        #[serde(default)]
        title: Option<String>,
        /// What else the model should know of it.
        #[serde(default)]
        context: Option<String>,
        /// A breakpoint behind it.
        #[serde(default)]
        cache_control: Option<CacheControl>,
    },
    /// A call the model made.
    ToolUse {
        /// Its id.
        id: String,
        /// The function.
        name: String,
        /// Its arguments.
        #[schema(value_type = Object)]
        input: Value,
        /// A breakpoint behind it.
        #[serde(default)]
        cache_control: Option<CacheControl>,
        /// Not used.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        caller: Option<Value>,
    },
    /// What a call gave.
    ToolResult {
        /// The call.
        tool_use_id: String,
        /// The result: a text, or `text` blocks.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        content: Option<TextOrBlocks>,
        /// Whether it failed.
        #[serde(default)]
        is_error: bool,
        /// A breakpoint behind it.
        #[serde(default)]
        cache_control: Option<CacheControl>,
    },
}

/// A document's text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum DocumentSource {
    /// Plain text.
    Text {
        /// `text/plain`.
        media_type: String,
        /// The text.
        data: String,
    },
}

/// The end of a prefix to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheControl {
    /// `ephemeral`.
    #[serde(rename = "type")]
    pub(crate) kind: CacheKind,
    /// How long after each use; absent is `5m`.
    #[serde(default)]
    pub(crate) ttl: Option<Ttl>,
}

/// The only kind of cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CacheKind {
    /// Kept for a time.
    Ephemeral,
}

/// How long a prefix is kept after each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) enum Ttl {
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// One hour.
    #[serde(rename = "1h")]
    OneHour,
}

/// A function the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolParam {
    /// `custom`, or absent: tools that run at the provider do not exist here.
    #[serde(rename = "type", default)]
    pub(crate) kind: Option<String>,
    /// Its name.
    pub(crate) name: String,
    /// What it does.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    #[schema(value_type = Object)]
    pub(crate) input_schema: Value,
    /// A breakpoint behind it.
    #[serde(default)]
    pub(crate) cache_control: Option<CacheControl>,
    /// Arguments always match the schema when a call is demanded.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// Whether a function must be called.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ToolChoice {
    /// The model decides.
    Auto {
        /// Accepted: calls come as the model makes them.
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    },
    /// Any of them.
    Any {
        /// One call is made either way.
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    },
    /// This one.
    Tool {
        /// Its name.
        name: String,
        /// One call is made either way.
        #[serde(default)]
        disable_parallel_tool_use: Option<bool>,
    },
    /// None.
    None {},
}

/// The form of the answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    /// JSON of a schema.
    #[serde(default)]
    pub(crate) format: Option<OutputFormat>,
}

/// A form of answers.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum OutputFormat {
    /// JSON of this schema.
    JsonSchema {
        /// The schema.
        #[schema(value_type = Object)]
        schema: Value,
    },
}
