//! Tools in a prompt of plain text, and calls in an answer of plain text.
//!
//! The engine's chat templates know system, user and assistant. So declarations go into the system message, in the words
//! that instruction-tuned models of the SmolLM2 and Qwen families were trained on (`<tool_call>[{"name", "arguments"}]`),
//! and an answer that consists of such calls to declared tools is given to the client as calls. Where the client demands a
//! call, the output is constrained to one by a JSON schema, so that any model makes one.
//!
//! Invariants:
//! - The declarations are one text at the front of the prompt, a function of the declarations alone: a stable prefix.
//! - A text is a call only when all of it is calls to tools that were declared; everything else is given as text.

use serde_json::{Value, json};

use edgewise_model_api::Constraint;

use super::invalid;
use crate::ApiError;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A tool as declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    /// JSON schema of the arguments.
    pub(crate) schema: Value,
}

/// Whether a tool is to be called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Choice {
    /// The model decides.
    #[default]
    Auto,
    /// None.
    None,
    /// One of them.
    Any,
    /// This one.
    Named(String),
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// Checks names: `[a-zA-Z0-9_-]{1,128}`, none twice, and that what is demanded is declared.
pub(crate) fn check(tools: &[Tool], choice: &Choice) -> Result<(), ApiError> {
    for (index, tool) in tools.iter().enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if tool.name.is_empty() || tool.name.len() > 128 || !tool.name.chars().all(plain) {
            return Err(invalid(format!(
                "`{}` is not a tool name: use 1 to 128 letters, digits, `_` or `-`",
                tool.name
            )));
        }
        if tools[..index].iter().any(|other| other.name == tool.name) {
            return Err(invalid(format!("the tool `{}` is declared twice", tool.name)));
        }
    }
    match choice {
        Choice::Any if tools.is_empty() => Err(invalid("a tool call is demanded, but no tool is declared")),
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            Err(invalid(format!("a call of `{name}` is demanded, but it is not declared")))
        }
        _ => Ok(()),
    }
}

/// The declarations as the first part of the system message.
pub(crate) fn declarations(tools: &[Tool]) -> String {
    let list: Vec<Value> = tools
        .iter()
        .map(|tool| {
            let description = tool.description.as_deref().unwrap_or_default();
            json!({"name": tool.name, "description": description, "parameters": tool.schema})
        })
        .collect();
    let list = Value::Array(list);
    format!(
        "You can call functions. These are their names, descriptions and parameters:\n<tools>{list}</tools>\n\
         To call some, answer with nothing but this:\n\
         {OPEN}[{{\"name\": \"function\", \"arguments\": {{\"argument\": \"value\"}}}}]{CLOSE}\n\
         If none helps, answer in plain text.\n\n"
    )
}

/// A call as the model would have written it.
pub(crate) fn call_text(calls: &[Call]) -> String {
    let list = calls.iter().map(|call| json!({"name": call.name, "arguments": call.arguments})).collect();
    format!("{OPEN}{}{CLOSE}", Value::Array(list))
}

/// What a tool gave, as a message to the model.
pub(crate) fn result_text(name: Option<&str>, content: &str, failed: bool) -> String {
    let mark = if failed { "error" } else { "result" };
    let name = name.map_or(String::new(), |name| format!(" of {name}"));
    format!("<tool_response>\n{mark}{name}: {content}\n</tool_response>")
}

/// The constraint of an output that must be a call; none where it may be text.
pub(crate) fn constraint(tools: &[Tool], choice: &Choice) -> Option<Constraint> {
    let one = |tool: &Tool| {
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": arguments_schema(&tool.schema)},
            "required": ["name", "arguments"],
            "additionalProperties": false,
        })
    };
    match choice {
        Choice::Auto | Choice::None => None,
        Choice::Any => Some(Constraint::JsonSchema(json!({"anyOf": tools.iter().map(one).collect::<Vec<_>>()}))),
        Choice::Named(name) => {
            tools.iter().find(|tool| tool.name == *name).map(|tool| Constraint::JsonSchema(one(tool)))
        }
    }
}

/// A schema that says nothing of the type means an object.
fn arguments_schema(schema: &Value) -> Value {
    match schema {
        Value::Object(map) if !map.is_empty() => schema.clone(),
        _ => json!({"type": "object"}),
    }
}

/// Whether `text` may yet become calls: as long as it may, none of it is shown.
pub(crate) fn may_be_calls(text: &str, constrained: bool) -> bool {
    let text = text.trim_start();
    constrained || text.starts_with(OPEN) || OPEN.starts_with(text)
}

/// The calls that `text` consists of, if it does.
pub(crate) fn calls(text: &str, tools: &[Tool], constrained: bool) -> Option<Vec<Call>> {
    let text = text.trim();
    let inner = match text.strip_prefix(OPEN) {
        Some(rest) => rest.strip_suffix(CLOSE).unwrap_or(rest).trim(),
        None if constrained => text,
        None => return None,
    };
    let list = match serde_json::from_str(inner).ok()? {
        Value::Array(list) => list,
        one @ Value::Object(_) => vec![one],
        _ => return None,
    };
    let call = |value: Value| {
        let name = value.get("name")?.as_str()?.to_owned();
        let arguments = value.get("arguments").cloned().unwrap_or_else(|| json!({}));
        (tools.iter().any(|tool| tool.name == name) && arguments.is_object()).then_some(Call { name, arguments })
    };
    let calls: Option<Vec<Call>> = list.into_iter().map(call).collect();
    calls.filter(|calls| !calls.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Tool {
        Tool { name: name.to_owned(), description: None, schema: json!({"type": "object"}) }
    }

    #[test]
    fn only_whole_calls_to_declared_tools_are_calls() {
        let tools = [tool("weather"), tool("time")];
        let call = Call { name: "weather".to_owned(), arguments: json!({"city": "Oslo"}) };
        let text = call_text(std::slice::from_ref(&call));
        assert_eq!(calls(&text, &tools, false).unwrap(), std::slice::from_ref(&call));
        assert_eq!(calls(&format!("  {text}\n"), &tools, false).unwrap().len(), 1);
        let bare = json!({"name": "time", "arguments": {}}).to_string();
        assert_eq!(calls(&bare, &tools, true).unwrap()[0].name, "time");
        assert_eq!(calls(&bare, &tools, false), None, "JSON in an answer is not a call");
        for other in ["It is <tool_call>", "<tool_call>[]</tool_call>", "<tool_call>nonsense</tool_call>", "Sunny.", ""]
        {
            assert_eq!(calls(other, &tools, false), None, "{other}");
        }
        assert_eq!(calls(&text, &[tool("time")], false), None, "not declared");
    }

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_call() {
        for held in ["", " ", "<", "<tool", "<tool_call>", "<tool_call>[{"] {
            assert!(may_be_calls(held, false), "{held}");
        }
        for shown in ["S", "<b>", "a <tool_call>"] {
            assert!(!may_be_calls(shown, false), "{shown}");
        }
    }

    #[test]
    fn what_is_demanded_must_be_declared() {
        assert!(check(&[tool("a")], &Choice::Named("a".to_owned())).is_ok());
        assert!(check(&[tool("a")], &Choice::Named("b".to_owned())).is_err());
        assert!(check(&[], &Choice::Any).is_err());
        assert!(check(&[tool("a"), tool("a")], &Choice::Auto).is_err());
        assert!(check(&[tool("a b")], &Choice::Auto).is_err());
    }
}
