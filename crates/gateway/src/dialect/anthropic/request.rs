//! Requests of the Messages API, and what they ask for.
//!
//! Follows <https://docs.anthropic.com/en/api/messages> and, for `cache_control`,
//! <https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching>: the prompt is tools, then system, then messages;
//! at most four breakpoints; those of an hour stand before those of five minutes.

use edgewise_model_api::{ChatMessage, ChatPart, Constraint, Retention, Role, Sampling};
use serde_json::Value;

use crate::{
    ApiError,
    dialect::{
        CollectionTask, Model, Task,
        engine::{Chat, Mark},
        exchanges, invalid,
        tools::{self, Call, Choice, Tool},
        unsupported, within,
    },
};

use super::params::{
    Block, CacheControl, CountRequest, DocumentSource, MessageParam, MessagesRequest, OutputFormat, Speaker,
    TextOrBlocks, ToolChoice, ToolParam, Ttl,
};

/// Most breakpoints of one request.
const MAX_BREAKPOINTS: usize = 4;

/// What is needed to read the answer, beside the task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) tools: Vec<Tool>,
    /// Whether the output is constrained to a call.
    pub(crate) must_call: bool,
    pub(crate) stop: Vec<String>,
}

/// Builds the parts of a prompt and its breakpoints.
#[derive(Default)]
struct Prompt {
    messages: Vec<ChatMessage>,
    parts: usize,
    marks: Vec<Mark>,
    breakpoints: usize,
    /// Names of the calls that results refer to.
    calls: Vec<(String, String)>,
}

impl Prompt {
    /// Appends text to the message of `role`, opening one if another spoke last. Blocks of one message stand on lines of
    /// their own; the break belongs to the later one, so that it does not change what stands before a breakpoint.
    fn push(&mut self, role: Role, text: String, cache_control: Option<CacheControl>) -> Result<(), ApiError> {
        if cache_control.is_some() && text.is_empty() {
            return Err(invalid("`cache_control` can't be set on an empty block"));
        }
        let label = format!("block {}", self.parts);
        match self.messages.last_mut() {
            Some(last) if last.role == role => last.parts.push(ChatPart { label, text: format!("\n{text}") }),
            _ => self.messages.push(ChatMessage { role, parts: vec![ChatPart { label, text }] }),
        }
        self.parts += 1;
        cache_control.map_or(Ok(()), |control| self.mark(control))
    }

    /// Sets a breakpoint behind the last part.
    fn mark(&mut self, control: CacheControl) -> Result<(), ApiError> {
        self.breakpoints += 1;
        if self.breakpoints > MAX_BREAKPOINTS {
            return Err(invalid(format!("a request may have at most {MAX_BREAKPOINTS} blocks with `cache_control`")));
        }
        let retention = match control.ttl.unwrap_or(Ttl::FiveMinutes) {
            Ttl::FiveMinutes => Retention::FiveMinutes,
            Ttl::OneHour => Retention::OneHour,
        };
        let part = self.parts.checked_sub(1).ok_or_else(|| invalid("there is nothing to cache"))?;
        match self.marks.last_mut() {
            Some(last) if last.retention == Retention::FiveMinutes && retention == Retention::OneHour => {
                return Err(invalid(
                    "a block with `ttl` `1h` stands behind one with `5m`: the prompt is read as tools, system, messages, \
                     and longer times come first",
                ));
            }
            Some(last) if last.part == part => last.retention = retention,
            _ => self.marks.push(Mark { part, retention }),
        }
        Ok(())
    }

    fn blocks(&mut self, role: Role, content: TextOrBlocks) -> Result<(), ApiError> {
        let blocks = match content {
            TextOrBlocks::Text(text) => return self.push(role, text, None),
            TextOrBlocks::Blocks(blocks) => blocks,
        };
        for block in blocks {
            match parse_block(block)? {
                Block::Text { text, cache_control, .. } => self.push(role, text, cache_control)?,
                Block::Document { source: DocumentSource::Text { data, .. }, title, context, cache_control } => {
                    let head: String = [title, context].into_iter().flatten().map(|line| line + "\n").collect();
                    self.push(role, format!("{head}{data}"), cache_control)?;
                }
                Block::ToolUse { id, name, input, cache_control, .. } => {
                    let text = tools::call_text(&[Call { name: name.clone(), arguments: input }]);
                    self.calls.push((id, name));
                    self.push(role, text, cache_control)?;
                }
                Block::ToolResult { tool_use_id, content, is_error, cache_control } => {
                    let content = content.map(plain_text).transpose()?.unwrap_or_default();
                    let Some((_, name)) = self.calls.iter().find(|(id, _)| *id == tool_use_id) else {
                        return Err(invalid(format!(
                            "no `tool_use` block before this `tool_result` has the id `{tool_use_id}`"
                        )));
                    };
                    let text = tools::result_text(Some(name), &content, is_error);
                    self.push(role, text, cache_control)?;
                }
            }
        }
        Ok(())
    }
}

fn parse_block(block: Value) -> Result<Block, ApiError> {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or("of no type").to_owned();
    serde_json::from_value(block).map_err(|error| invalid(format!("a content block ({kind}) is not valid: {error}")))
}

/// The text of a content that holds nothing else.
fn plain_text(content: TextOrBlocks) -> Result<String, ApiError> {
    let blocks = match content {
        TextOrBlocks::Text(text) => return Ok(text),
        TextOrBlocks::Blocks(blocks) => blocks,
    };
    let mut texts = Vec::with_capacity(blocks.len());
    for block in blocks {
        match parse_block(block)? {
            Block::Text { text, .. } => texts.push(text),
            _ => return Err(invalid("only `text` blocks are read here")),
        }
    }
    Ok(texts.join("\n"))
}

impl MessagesRequest {
    /// What to do, and how to read what comes back.
    pub(crate) fn into_task(self, model: &Model) -> Result<(Task, Reading), ApiError> {
        refuse_thinking(self.thinking.as_ref())?;
        if self.messages.is_empty() {
            return Err(invalid("`messages` is empty: send at least one message"));
        }
        if self.stop_sequences.iter().any(|stop| stop.trim().is_empty()) {
            return Err(invalid("`stop_sequences` holds one that is empty or white space"));
        }
        let sampling = Sampling {
            temperature: within("temperature", self.temperature.unwrap_or(1.0), 1.0)?,
            top_p: self.top_p.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(0),
            ..Sampling::default()
        };
        match model {
            Model::Engine => self.chat(sampling),
            Model::Collection(name) => self.question(name.clone(), sampling),
        }
    }

    fn chat(self, sampling: Sampling) -> Result<(Task, Reading), ApiError> {
        if self.edgewise.is_some() {
            return Err(unsupported("edgewise", "the model is the bare engine, not a collection"));
        }
        let (tools, choice) = read_tools(&self.tools, self.tool_choice)?;
        let (prompt, prefill) = compose(&self.tools, &tools, &choice, self.system, self.messages, self.cache_control)?;
        let format = self.output_config.and_then(|config| config.format);
        let format = format.map(|OutputFormat::JsonSchema { schema }| Constraint::JsonSchema(schema));
        let call = tools::constraint(&tools, &choice);
        if call.is_some() && format.is_some() {
            return Err(invalid("an answer can't be a demanded tool call and of an `output_config.format` at once"));
        }
        let reading = Reading {
            must_call: call.is_some(),
            tools: if choice == Choice::None { Vec::new() } else { tools },
            stop: self.stop_sequences.clone(),
        };
        if !prefill.is_empty() && (reading.must_call || format.is_some()) {
            return Err(invalid("the last message is the assistant's, which does not go with a constrained answer"));
        }
        let chat = Chat {
            messages: prompt.messages,
            marks: prompt.marks,
            prefill,
            sampling,
            max_tokens: Some(self.max_tokens.max(1)),
            stop: self.stop_sequences,
            samples: 1,
            constraint: call.or(format),
            warm_only: self.max_tokens == 0,
        };
        Ok((Task::Engine(Box::new(chat)), reading))
    }

    fn question(
        self,
        collection: edgewise_types::CollectionName,
        sampling: Sampling,
    ) -> Result<(Task, Reading), ApiError> {
        let why = "a collection answers from its documents";
        if !self.tools.is_empty() {
            return Err(unsupported("tools", why));
        }
        if self.output_config.is_some_and(|config| config.format.is_some()) {
            return Err(unsupported("output_config.format", why));
        }
        if self.max_tokens == 0 {
            return Err(invalid("`max_tokens` must be at least 1 for a collection"));
        }
        let mut said: Vec<(Speaker, String)> = Vec::new();
        for message in self.messages {
            let text = plain_text(message.content)?;
            match said.last_mut() {
                Some((role, before)) if *role == message.role => {
                    before.push('\n');
                    before.push_str(&text);
                }
                _ => said.push((message.role, text)),
            }
        }
        let Some((Speaker::User, question)) = said.pop() else {
            return Err(invalid("the last message must be the user's: it is the question"));
        };
        // Greedy unless asked otherwise: an answer from documents is to be found, not invented.
        let sampling = if self.temperature.is_some() { sampling } else { Sampling { temperature: 0.0, ..sampling } };
        let instructions = self.system.map(plain_text).transpose()?.filter(|text| !text.trim().is_empty());
        let task = CollectionTask {
            collection,
            exchanges: exchanges(said.into_iter().map(|(role, text)| (role == Speaker::User, text))),
            question,
            options: self.edgewise.unwrap_or_default(),
            sampling,
            max_tokens: Some(self.max_tokens),
            stop: self.stop_sequences.clone(),
            instructions,
            stream: self.stream,
        };
        Ok((Task::Collection(Box::new(task)), Reading { stop: self.stop_sequences, ..Reading::default() }))
    }
}

impl CountRequest {
    /// The chat whose tokens are to be counted.
    pub(crate) fn into_chat(self) -> Result<Chat, ApiError> {
        refuse_thinking(self.thinking.as_ref())?;
        if self.messages.is_empty() {
            return Err(invalid("`messages` is empty: send at least one message"));
        }
        let (tools, choice) = read_tools(&self.tools, self.tool_choice)?;
        let (prompt, prefill) = compose(&self.tools, &tools, &choice, self.system, self.messages, None)?;
        Ok(Chat { messages: prompt.messages, prefill, samples: 1, max_tokens: Some(1), ..Chat::default() })
    }
}

fn refuse_thinking(thinking: Option<&Value>) -> Result<(), ApiError> {
    match thinking.and_then(|thinking| thinking.get("type")).and_then(Value::as_str) {
        None if thinking.is_none() => Ok(()),
        Some("disabled") => Ok(()),
        _ => Err(unsupported("thinking", "no model here thinks apart from its answer")),
    }
}

fn read_tools(params: &[ToolParam], choice: Option<ToolChoice>) -> Result<(Vec<Tool>, Choice), ApiError> {
    let mut tools = Vec::with_capacity(params.len());
    for param in params {
        if param.kind.as_deref().is_some_and(|kind| kind != "custom") {
            let kind = param.kind.as_deref().unwrap_or_default();
            return Err(unsupported(
                "tools",
                &format!("`{kind}` would run at the provider; declare it as a custom tool"),
            ));
        }
        tools.push(Tool {
            name: param.name.clone(),
            description: param.description.clone(),
            schema: param.input_schema.clone(),
        });
    }
    let choice = match choice {
        None | Some(ToolChoice::Auto { .. }) => Choice::Auto,
        Some(ToolChoice::Any { .. }) => Choice::Any,
        Some(ToolChoice::Tool { name, .. }) => Choice::Named(name),
        Some(ToolChoice::None {}) => Choice::None,
    };
    tools::check(&tools, &choice)?;
    Ok((tools, choice))
}

/// The prompt, and the beginning of the answer where the last message is the assistant's.
fn compose(
    params: &[ToolParam],
    tools: &[Tool],
    choice: &Choice,
    system: Option<TextOrBlocks>,
    mut messages: Vec<MessageParam>,
    cache_control: Option<CacheControl>,
) -> Result<(Prompt, String), ApiError> {
    let prefill = match messages.last() {
        Some(MessageParam { role: Speaker::Assistant, content: TextOrBlocks::Text(_) }) => messages.pop(),
        Some(MessageParam { role: Speaker::Assistant, content: TextOrBlocks::Blocks(_) }) => messages.pop(),
        _ => None,
    };
    if messages.is_empty() {
        return Err(invalid("there is no message of the user"));
    }
    let mut prompt = Prompt::default();
    if !tools.is_empty() && *choice != Choice::None {
        // All declarations are one part: a breakpoint on any of them stands behind the last.
        prompt.push(Role::System, tools::declarations(tools), None)?;
        for control in params.iter().filter_map(|param| param.cache_control) {
            prompt.mark(control)?;
        }
    }
    if let Some(system) = system {
        prompt.blocks(Role::System, system)?;
    }
    for message in messages {
        let role = if message.role == Speaker::User { Role::User } else { Role::Assistant };
        prompt.blocks(role, message.content)?;
    }
    if let Some(control) = cache_control {
        prompt.mark(control)?;
    }
    let prefill = prefill.map(|message| plain_text(message.content)).transpose()?.unwrap_or_default();
    if prefill.ends_with(char::is_whitespace) {
        return Err(invalid("the last message, which the answer continues, must not end in white space"));
    }
    Ok((prompt, prefill))
}

#[cfg(test)]
#[path = "request_tests.rs"]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
