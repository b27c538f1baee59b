//! The bodies of Chat Completions, as <https://platform.openai.com/docs/api-reference/chat> defines them. Unknown fields
//! are refused.

#![allow(dead_code, reason = "fields that are accepted and not used are named, so that unknown ones can be refused")]

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::dialect::CollectionOptions;

/// A request for a completion of a chat.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatRequest {
    /// The generator's registry name, or `edgewise/<collection>`.
    #[schema(example = "edgewise/guide")]
    pub(crate) model: String,
    /// The conversation.
    pub(crate) messages: Vec<Message>,
    /// Whether to stream the answer as server-sent events.
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    /// Of a stream.
    #[serde(default)]
    pub(crate) stream_options: Option<StreamOptions>,
    /// Most tokens of the answer; absent is what the window has room for.
    #[serde(default)]
    pub(crate) max_completion_tokens: Option<usize>,
    /// The same, by its older name.
    #[serde(default)]
    pub(crate) max_tokens: Option<usize>,
    /// 0 to 2; absent is 1.
    #[serde(default)]
    pub(crate) temperature: Option<f32>,
    /// Above 0, to 1.
    #[serde(default)]
    pub(crate) top_p: Option<f32>,
    /// Answers to give, 1 to 16.
    #[serde(default)]
    pub(crate) n: Option<usize>,
    /// Strings that end the answer.
    #[serde(default)]
    pub(crate) stop: Option<Stop>,
    /// The same seed gives the same answer.
    #[serde(default)]
    pub(crate) seed: Option<i64>,
    /// Whether to give each token's probability.
    #[serde(default)]
    pub(crate) logprobs: Option<bool>,
    /// Only 0: the engine reports the token it chose.
    #[serde(default)]
    pub(crate) top_logprobs: Option<usize>,
    /// The form of the answer.
    #[serde(default)]
    pub(crate) response_format: Option<ResponseFormat>,
    /// Functions the model may call.
    #[serde(default)]
    pub(crate) tools: Option<Vec<ToolParam>>,
    /// `none`, `auto`, `required`, or a function by its name.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) tool_choice: Option<Value>,
    /// Calls come as the model makes them.
    #[serde(default)]
    pub(crate) parallel_tool_calls: Option<bool>,
    /// Only 0.
    #[serde(default)]
    pub(crate) presence_penalty: Option<f32>,
    /// Only 0.
    #[serde(default)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Only empty.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) logit_bias: Option<Value>,
    /// Only `["text"]`.
    #[serde(default)]
    pub(crate) modalities: Option<Vec<String>>,
    /// Accepted and not used.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Accepted and not used.
    #[serde(default)]
    pub(crate) safety_identifier: Option<String>,
    /// Accepted and not used: prefixes are found by their tokens.
    #[serde(default)]
    pub(crate) prompt_cache_key: Option<String>,
    /// Accepted and not used.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Value>,
    /// Accepted and not used.
    #[serde(default)]
    pub(crate) service_tier: Option<String>,
    /// Only `false`: nothing is stored.
    #[serde(default)]
    pub(crate) store: Option<bool>,
    /// How to ask a collection.
    #[serde(default)]
    pub(crate) edgewise: Option<CollectionOptions>,
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk has the usage.
    pub(crate) include_usage: Option<bool>,
    /// Accepted: chunks are never padded.
    pub(crate) include_obfuscation: Option<bool>,
}

/// One string, or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Stop {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// The form of an answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ResponseFormat {
    /// Any text.
    Text {},
    /// A JSON object.
    JsonObject {},
    /// JSON of a schema.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
}

/// A schema with a name.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    /// Its name.
    pub(crate) name: String,
    /// What it is for.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// The schema.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) schema: Option<Value>,
    /// Answers always match.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// A function the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ToolParam {
    /// A function.
    Function {
        /// It.
        function: Function,
    },
}

/// A function.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// What it does.
    #[serde(default)]
    pub(crate) description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) parameters: Option<Value>,
    /// Arguments always match the schema when a call is demanded.
    #[serde(default)]
    pub(crate) strict: Option<bool>,
}

/// A message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Message {
    /// The operator's.
    #[serde(alias = "developer")]
    System {
        /// What it says.
        content: Content,
        /// Not used.
        #[serde(default)]
        name: Option<String>,
    },
    /// The person's.
    User {
        /// What it says.
        content: Content,
        /// Not used.
        #[serde(default)]
        name: Option<String>,
    },
    /// The model's.
    Assistant {
        /// What it says.
        #[serde(default)]
        content: Option<Content>,
        /// Functions it called.
        #[serde(default)]
        tool_calls: Option<Vec<ToolCallParam>>,
        /// Not used.
        #[serde(default)]
        name: Option<String>,
        /// Not used.
        #[serde(default)]
        refusal: Option<String>,
        /// Of an answer that is sent back; not used.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        annotations: Option<Value>,
    },
    /// What a function gave.
    Tool {
        /// What it says.
        content: Content,
        /// The call.
        tool_call_id: String,
    },
}

/// A text, or parts that are texts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    /// One text.
    Text(String),
    /// Parts, in order.
    #[schema(value_type = Vec<Object>)]
    Parts(Vec<Value>),
}

/// A call the model made.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolCallParam {
    /// Its id.
    pub(crate) id: String,
    /// `function`.
    #[serde(rename = "type", default)]
    pub(crate) kind: Option<String>,
    /// The function and its arguments.
    pub(crate) function: CalledFunction,
}

/// A called function.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalledFunction {
    /// Its name.
    pub(crate) name: String,
    /// Its arguments, as JSON in a string.
    pub(crate) arguments: String,
}
