//! Tests of what requests ask for.

use proptest::prelude::*;

use super::*;

fn chat(body: Value) -> Result<(Chat, Reading), String> {
    let request: ChatRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
    match request.into_task(&Model::Engine).map_err(|error| error.to_string())? {
        (Task::Engine(chat), reading) => Ok((*chat, reading)),
        (Task::Collection(_), _) => panic!("a collection was not asked"),
    }
}

#[test]
fn parameters_are_honoured_or_refused_by_name() {
    let base = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let with = |field: &str, value: Value| {
        let mut body = base.clone();
        body[field] = value;
        chat(body)
    };
    assert_eq!(with("seed", json!(-7)).unwrap().0.sampling.seed, Some(u64::MAX - 6));
    assert_eq!(with("n", json!(3)).unwrap().0.samples, 3);
    assert_eq!(with("stop", json!("a")).unwrap().0.stop, ["a"]);
    assert_eq!(with("stop", json!(["a", "b"])).unwrap().0.stop, ["a", "b"]);
    assert_eq!(with("temperature", json!(0)).unwrap().0.sampling.temperature, 0.0);
    assert!(with("response_format", json!({"type": "json_object"})).unwrap().0.constraint.is_some());
    assert!(with("user", json!("u")).is_ok());
    for (field, value) in [
        ("presence_penalty", json!(0.5)),
        ("frequency_penalty", json!(-1)),
        ("logit_bias", json!({"7": 1})),
        ("top_logprobs", json!(2)),
        ("modalities", json!(["audio"])),
        ("store", json!(true)),
        ("n", json!(0)),
        ("stop", json!([""])),
        ("max_tokens", json!(0)),
        ("temperature", json!(2.5)),
        ("stream_options", json!({"include_usage": true})),
        ("tool_choice", json!("required")),
        ("response_format", json!({"type": "json_schema", "json_schema": {"name": "n"}})),
        ("audio", json!({})),
    ] {
        assert!(with(field, value.clone()).is_err(), "{field}: {value}");
    }
}

#[test]
fn calls_and_their_results_are_told_to_the_model() {
    let function = json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"});
    let body = json!({"model": "m",
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
    "messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
    ]});
    let (told, reading) = chat(body).unwrap();
    let roles: Vec<Role> = told.messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
    assert_eq!(told.messages[0].parts[1].text, "s");
    assert!(told.messages[2].parts[0].text.contains("Oslo") && told.messages[3].parts[0].text.contains("weather: 4"));
    assert_eq!(reading.tools.len(), 1);
}

proptest! {
    /// Nothing that parses as JSON makes the parser panic.
    #[test]
    fn any_json_is_read_or_refused(role in "system|user|assistant|tool|x", text in "\\PC{0,60}", call in "\\PC{0,20}") {
        let call = json!({"id": call.clone(), "function": {"name": call.clone(), "arguments": call}});
        let message = json!({"role": role, "content": text, "tool_call_id": text, "tool_calls": [call]});
        let _ = chat(json!({"model": "m", "messages": [message.clone(), {"role": role, "content": [message]}]}));
    }
}
