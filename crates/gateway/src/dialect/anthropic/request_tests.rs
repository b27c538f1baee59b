//! Tests of what requests ask for.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn chat(body: Value) -> Result<(Chat, Reading), String> {
    let request: MessagesRequest = serde_json::from_value(body).map_err(|error| error.to_string())?;
    match request.into_task(&Model::Engine).map_err(|error| error.to_string())? {
        (Task::Engine(chat), reading) => Ok((*chat, reading)),
        (Task::Collection(_), _) => panic!("a collection was not asked"),
    }
}

fn body(system: Value, messages: Value) -> Value {
    json!({"model": "m", "max_tokens": 8, "system": system, "messages": messages})
}

fn block(text: &str, ttl: Option<&str>) -> Value {
    match ttl {
        None => json!({"type": "text", "text": text}),
        Some(ttl) => json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}),
    }
}

#[test]
fn breakpoints_stand_behind_their_blocks() {
    let system = json!([block("rules", Some("1h")), block("more", None)]);
    let messages = json!([
        {"role": "user", "content": [block("a", None), block("b", Some("5m"))]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]);
    let mut request = body(system, messages);
    request["cache_control"] = json!({"type": "ephemeral"});
    let (chat, _) = chat(request).unwrap();
    let marks: Vec<(usize, Retention)> = chat.marks.iter().map(|mark| (mark.part, mark.retention)).collect();
    let expected = [(0, Retention::OneHour), (3, Retention::FiveMinutes), (5, Retention::FiveMinutes)];
    assert_eq!(marks, expected);
    let texts: Vec<&str> = chat.messages.iter().flat_map(|m| &m.parts).map(|part| part.text.as_str()).collect();
    assert_eq!(texts, ["rules", "\nmore", "a", "\nb", "c", "d"]);
}

#[test]
fn what_can_not_be_honoured_is_refused_by_name() {
    let five = |n: usize| json!((0..n).map(|i| block(&i.to_string(), Some("5m"))).collect::<Vec<_>>());
    let user = json!([{"role": "user", "content": "x"}]);
    assert!(chat(body(five(4), user.clone())).is_ok());
    assert!(chat(body(five(5), user.clone())).unwrap_err().contains("at most 4"));
    let order = json!([block("a", Some("5m")), block("b", Some("1h"))]);
    assert!(chat(body(order, user.clone())).unwrap_err().contains("1h"));
    assert!(chat(body(json!([block("", Some("5m"))]), user.clone())).unwrap_err().contains("empty"));
    let image = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
    assert!(chat(body(json!("s"), image)).unwrap_err().contains("image"));
    for (field, value) in [
        ("thinking", json!({"type": "enabled", "budget_tokens": 1024})),
        ("invented", json!(1)),
        ("temperature", json!(1.5)),
        ("tool_choice", json!({"type": "any"})),
        ("edgewise", json!({"route": "full"})),
        ("messages", json!([])),
    ] {
        let mut request = body(json!("s"), user.clone());
        request[field] = value;
        assert!(chat(request).is_err(), "{field}");
    }
}

#[test]
fn tools_come_first_and_their_results_name_them() {
    let mut request = body(
        json!("s"),
        json!([
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "4 degrees"}]},
        ]),
    );
    let control = json!({"type": "ephemeral"});
    request["tools"] = json!([{"name": "weather", "input_schema": {"type": "object"}, "cache_control": control}]);
    let (told, reading) = chat(request.clone()).unwrap();
    assert_eq!(told.marks, [Mark { part: 0, retention: Retention::FiveMinutes }]);
    assert!(told.messages[0].parts[0].text.contains("\"weather\"") && told.messages[0].parts[1].text == "\ns");
    assert!(told.messages[3].parts[0].text.contains("result of weather: 4 degrees"));
    assert!(!reading.must_call && told.constraint.is_none());
    request["tool_choice"] = json!({"type": "tool", "name": "weather"});
    assert!(chat(request.clone()).unwrap().1.must_call);
    request["messages"][2]["content"][0]["tool_use_id"] = json!("t2");
    assert!(chat(request).unwrap_err().contains("t2"));
}

#[test]
fn a_last_message_of_the_assistant_is_continued() {
    let messages = json!([{"role": "user", "content": "capital?"}, {"role": "assistant", "content": "It is"}]);
    let (begun, _) = chat(body(json!("s"), messages)).unwrap();
    assert_eq!((begun.prefill.as_str(), begun.messages.len()), ("It is", 2));
    let messages = json!([{"role": "user", "content": "capital?"}, {"role": "assistant", "content": "It is "}]);
    assert!(chat(body(json!("s"), messages)).is_err());
}

#[test]
fn conversations_become_exchanges() {
    let said = [(true, "q1"), (false, "a1"), (true, "q2"), (true, "q3"), (false, "a3"), (false, "a4")];
    let pairs = exchanges(said.into_iter().map(|(user, text)| (user, text.to_owned())));
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(q, a)| (q.as_str(), a.as_str())).collect();
    assert_eq!(pairs, [("q1", "a1"), ("q2", ""), ("q3", "a3"), ("", "a4")]);
}

proptest! {
    /// A longer conversation keeps the prompt of the shorter one as its prefix, part by part.
    #[test]
    fn growing_conversations_share_their_prefix(texts in prop::collection::vec("[a-z]{1,8}", 1..8)) {
        let messages = |n: usize| {
            let list = texts[..n].iter().enumerate().map(|(i, text)| {
                json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": [block(text, None)]})
            });
            json!(list.collect::<Vec<_>>())
        };
        let odd = if texts.len() % 2 == 0 { texts.len() - 1 } else { texts.len() };
        let parts = |n| {
            let (chat, _) = chat(body(json!("s"), messages(n))).unwrap();
            chat.messages.into_iter().flat_map(|m| m.parts.into_iter().map(move |p| (m.role, p.text))).collect::<Vec<_>>()
        };
        let whole = parts(odd);
        for n in (1..odd).step_by(2) {
            let short = parts(n);
            prop_assert_eq!(&whole[..short.len()], &short[..]);
        }
    }

    /// Nothing that parses as JSON makes the parser panic.
    #[test]
    fn any_json_is_read_or_refused(text in "\\PC{0,80}", n in 0usize..9) {
        let value = json!({"type": text, "text": text, "cache_control": {"type": text}, "n": n});
        let _ = chat(body(json!([value.clone()]), json!([{"role": "user", "content": [value]}])));
    }
}
