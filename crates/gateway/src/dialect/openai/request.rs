//! Requests of Chat Completions (<https://platform.openai.com/docs/api-reference/chat>), and what they ask for.

use edgewise_model_api::{ChatMessage, Constraint, Role, Sampling};
use serde_json::{Value, json};

use edgewise_types::CollectionName;

use crate::{
    ApiError,
    dialect::{
        CollectionTask, Model, Task,
        engine::Chat,
        exchanges, invalid,
        tools::{self, Call, Choice, Tool},
        unsupported, within,
    },
};

use super::params::{ChatRequest, Content, Message, ResponseFormat, Stop, ToolParam};

/// Most samples of one request.
const MAX_SAMPLES: usize = 16;
/// Most stop strings.
const MAX_STOPS: usize = 16;

/// What is needed to read the answer, beside the task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) tools: Vec<Tool>,
    /// Whether the output is constrained to a call.
    pub(crate) must_call: bool,
    pub(crate) logprobs: bool,
    pub(crate) include_usage: bool,
    pub(crate) samples: usize,
}

impl Content {
    fn text(self) -> Result<String, ApiError> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let mut texts = Vec::with_capacity(parts.len());
        for part in parts {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or("of no type").to_owned();
            match (kind.as_str(), part.get("text").and_then(Value::as_str)) {
                ("text", Some(text)) => texts.push(text.to_owned()),
                _ => return Err(invalid(format!("a content part is `{kind}`, but only `text` parts are read here"))),
            }
        }
        Ok(texts.join("\n"))
    }
}

impl ChatRequest {
    /// What to do, and how to read what comes back.
    pub(crate) fn into_task(self, model: &Model) -> Result<(Task, Reading), ApiError> {
        if self.messages.is_empty() {
            return Err(invalid("`messages` is empty: send at least one message"));
        }
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if value.is_some_and(|value| value != 0.0) {
                return Err(unsupported(name, "the engine has a repetition penalty of another form"));
            }
        }
        if self.logit_bias.as_ref().is_some_and(|bias| bias.as_object().is_none_or(|map| !map.is_empty())) {
            return Err(unsupported("logit_bias", "the engine does not take one"));
        }
        if self.top_logprobs.is_some_and(|top| top > 0) {
            return Err(unsupported("top_logprobs", "the engine reports the probability of the token it chose"));
        }
        if self.modalities.as_ref().is_some_and(|list| list.iter().any(|modality| modality != "text")) {
            return Err(unsupported("modalities", "answers are text"));
        }
        if self.store == Some(true) {
            return Err(unsupported("store", "completions are not stored"));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(invalid("`stream_options` needs `stream`"));
        }
        let stop = match self.stop.clone() {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        if stop.len() > MAX_STOPS || stop.iter().any(String::is_empty) {
            return Err(invalid(format!("`stop` takes at most {MAX_STOPS} strings, none of them empty")));
        }
        let samples = self.n.unwrap_or(1);
        if !(1..=MAX_SAMPLES).contains(&samples) {
            return Err(invalid(format!("`n` must be from 1 to {MAX_SAMPLES}, not {samples}")));
        }
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        if max_tokens == Some(0) {
            return Err(invalid("`max_completion_tokens` must be at least 1"));
        }
        let sampling = Sampling {
            temperature: within("temperature", self.temperature.unwrap_or(1.0), 2.0)?,
            top_p: self.top_p.unwrap_or(1.0),
            // Any integer is a seed; its bits are as good as its value.
            seed: self.seed.map(|seed| u64::from_ne_bytes(seed.to_ne_bytes())),
            ..Sampling::default()
        };
        let reading = Reading {
            logprobs: self.logprobs.unwrap_or(false),
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            samples,
            ..Reading::default()
        };
        match model {
            Model::Engine => self.chat(sampling, max_tokens, stop, reading),
            Model::Collection(name) => self.question(name.clone(), sampling, max_tokens, stop, reading),
        }
    }

    fn chat(
        self,
        sampling: Sampling,
        max_tokens: Option<usize>,
        stop: Vec<String>,
        mut reading: Reading,
    ) -> Result<(Task, Reading), ApiError> {
        if self.edgewise.is_some() {
            return Err(unsupported("edgewise", "the model is the bare engine, not a collection"));
        }
        let declared: Vec<Tool> = self
            .tools
            .unwrap_or_default()
            .into_iter()
            .map(|ToolParam::Function { function }| Tool {
                name: function.name,
                description: function.description,
                schema: function.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}})),
            })
            .collect();
        let choice = read_choice(self.tool_choice.as_ref())?;
        tools::check(&declared, &choice)?;
        let call = tools::constraint(&declared, &choice);
        let format = match self.response_format {
            None | Some(ResponseFormat::Text {}) => None,
            Some(ResponseFormat::JsonObject {}) => Some(json!({"type": "object"})),
            Some(ResponseFormat::JsonSchema { json_schema }) => {
                Some(json_schema.schema.ok_or_else(|| invalid("`response_format.json_schema.schema` is missing"))?)
            }
        };
        if call.is_some() && format.is_some() {
            return Err(invalid("an answer can't be a demanded tool call and of a `response_format` at once"));
        }
        let messages = compose(&declared, &choice, self.messages)?;
        reading.must_call = call.is_some();
        reading.tools = if choice == Choice::None { Vec::new() } else { declared };
        let chat = Chat {
            messages,
            sampling,
            max_tokens,
            stop,
            samples: reading.samples,
            constraint: call.or(format.map(Constraint::JsonSchema)),
            ..Chat::default()
        };
        Ok((Task::Engine(Box::new(chat)), reading))
    }

    fn question(
        self,
        collection: CollectionName,
        sampling: Sampling,
        max_tokens: Option<usize>,
        stop: Vec<String>,
        reading: Reading,
    ) -> Result<(Task, Reading), ApiError> {
        let why = "a collection answers from its documents";
        if self.tools.is_some_and(|tools| !tools.is_empty()) {
            return Err(unsupported("tools", why));
        }
        if !matches!(self.response_format, None | Some(ResponseFormat::Text {})) {
            return Err(unsupported("response_format", why));
        }
        if reading.samples > 1 {
            return Err(unsupported("n", "a question to a collection has one answer"));
        }
        if reading.logprobs {
            return Err(unsupported("logprobs", "citations and `edgewise` tell how far an answer is supported"));
        }
        let (mut said, mut system) = (Vec::new(), Vec::new());
        for message in self.messages {
            match message {
                Message::System { content, .. } => system.push(content.text()?),
                Message::User { content, .. } => said.push((true, content.text()?)),
                Message::Assistant { content, tool_calls: None, .. } => {
                    said.push((false, content.map(Content::text).transpose()?.unwrap_or_default()));
                }
                Message::Assistant { .. } | Message::Tool { .. } => return Err(unsupported("tool_calls", why)),
            }
        }
        let Some((true, question)) = said.pop() else {
            return Err(invalid("the last message must be the user's: it is the question"));
        };
        // Greedy unless asked otherwise: an answer from documents is to be found, not invented.
        let sampling = if self.temperature.is_some() { sampling } else { Sampling { temperature: 0.0, ..sampling } };
        let task = CollectionTask {
            collection,
            exchanges: exchanges(said.into_iter()),
            question,
            options: self.edgewise.unwrap_or_default(),
            sampling,
            max_tokens,
            stop,
            instructions: Some(system.join("\n")).filter(|text| !text.trim().is_empty()),
            stream: self.stream.unwrap_or(false),
        };
        Ok((Task::Collection(Box::new(task)), reading))
    }
}

fn read_choice(choice: Option<&Value>) -> Result<Choice, ApiError> {
    let named = |choice: &Value| choice.pointer("/function/name").and_then(Value::as_str).map(str::to_owned);
    match choice {
        None => Ok(Choice::Auto),
        Some(Value::String(word)) if word == "auto" => Ok(Choice::Auto),
        Some(Value::String(word)) if word == "none" => Ok(Choice::None),
        Some(Value::String(word)) if word == "required" => Ok(Choice::Any),
        Some(other) => named(other).map(Choice::Named).ok_or_else(|| {
            invalid("`tool_choice` must be `none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\"}}")
        }),
    }
}

fn compose(declared: &[Tool], choice: &Choice, messages: Vec<Message>) -> Result<Vec<ChatMessage>, ApiError> {
    let mut chat: Vec<ChatMessage> = Vec::with_capacity(messages.len() + 1);
    let mut calls: Vec<(String, String)> = Vec::new();
    let declarations = (!declared.is_empty() && *choice != Choice::None).then(|| tools::declarations(declared));
    if let Some(text) = declarations {
        chat.push(ChatMessage::text(Role::System, text));
    }
    for message in messages {
        let (role, text) = match message {
            Message::System { content, .. } => (Role::System, content.text()?),
            Message::User { content, .. } => (Role::User, content.text()?),
            Message::Assistant { content, tool_calls, .. } => {
                let mut text = content.map(Content::text).transpose()?.unwrap_or_default();
                let mut called = Vec::new();
                for call in tool_calls.unwrap_or_default() {
                    let arguments = serde_json::from_str(&call.function.arguments).map_err(|error| {
                        invalid(format!("the arguments of call `{}` are not JSON: {error}", call.id))
                    })?;
                    calls.push((call.id, call.function.name.clone()));
                    called.push(Call { name: call.function.name, arguments });
                }
                if !called.is_empty() {
                    text.push_str(&tools::call_text(&called));
                }
                (Role::Assistant, text)
            }
            Message::Tool { content, tool_call_id } => {
                let Some((_, name)) = calls.iter().find(|(id, _)| *id == tool_call_id) else {
                    return Err(invalid(format!("no call before this `tool` message has the id `{tool_call_id}`")));
                };
                (Role::User, tools::result_text(Some(name), &content.text()?, false))
            }
        };
        match chat.last_mut() {
            Some(last) if last.role == Role::System && role == Role::System => {
                let label = format!("system {}", last.parts.len());
                last.parts.push(edgewise_model_api::ChatPart { label, text });
            }
            _ => chat.push(ChatMessage::text(role, text)),
        }
    }
    if chat.last().is_none_or(|last| last.role != Role::User) {
        return Err(invalid("the last message must be the user's or a tool's"));
    }
    Ok(chat)
}

#[cfg(test)]
#[path = "request_tests.rs"]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
