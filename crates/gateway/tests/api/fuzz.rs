//! Requests that are nearly right: valid bodies of every path, changed at random where they have structure, and bytes that
//! are no requests at all. Whatever comes, the answer has a status that says whose fault it is, a body in the form of its
//! path's dialect, and the server goes on.

use std::sync::LazyLock;

use axum::{
    Router,
    body::Body,
    http::{Method, header},
};
use edgewise_gateway::{ErrorBody, GatewayOptions};
use edgewise_test_support::ScriptedGenerator;
use proptest::{prelude::*, test_runner::Config};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use crate::harness::{Gateway, events, request};

/// A server that all cases share.
struct World {
    runtime: Runtime,
    router: Router,
    gateway: Gateway,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let gateway = runtime.block_on(async {
        let generator = ScriptedGenerator::replies(["The harbour was founded in 1742 by Elsa Brandt [1]."]);
        Gateway::new(generator, GatewayOptions::default()).with_corpus().await
    });
    World { router: gateway.router(), runtime, gateway }
});

/// Whose form an error has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Native,
    Anthropic,
    OpenAi,
}

/// Paths that take JSON, each with a body that is right.
fn valid() -> Vec<(&'static str, Form, Value)> {
    let cached = json!({"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}});
    let tool = json!({"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let function = json!({"name": "weather", "arguments": "{\"city\":\"Oslo\"}"});
    vec![
        (
            "/v1/query",
            Form::Native,
            json!({"collection": "guide", "question": "Who founded the harbour?", "route": "passages",
            "objective": "balanced", "budget": {"max_cost": "0.1", "max_input_tokens": 2000}, "top_k": 4, "filter": "language = 'en'",
            "sampling": {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "seed": 7}, "max_output_tokens": 20, "stop": ["x"],
            "history": [{"question": "q", "answer": "a", "route": "passages", "sources": [], "generation": 1}],
            "instructions": "Be brief.", "escalate": false, "stream": false}),
        ),
        (
            "/v1/query",
            Form::Native,
            json!({"collection": "guide", "question": "Who founded the harbour?", "stream": true}),
        ),
        (
            "/v1/routes/explain",
            Form::Native,
            json!({"collection": "guide", "question": "Who?", "documents": ["d_0123456789abcdef0123456789abcdef"]}),
        ),
        (
            "/v1/collections/guide/search",
            Form::Native,
            json!({"query": "harbour", "limit": 3, "fusion": {"method": "rrf", "k": 60.0}, "diversity": 0.2, "rerank": false}),
        ),
        ("/v1/conversations", Form::Native, json!({"collection": "guide", "title": "t"})),
        ("/v1/feedback", Form::Native, json!({"request_id": "last", "rating": 0.5, "comment": "c"})),
        ("/v1/cache/prefixes", Form::Native, json!({"collection": "guide", "route": "passages", "ttl": "5m"})),
        (
            "/v1/messages",
            Form::Anthropic,
            json!({"model": "scripted", "max_tokens": 9, "system": [cached.clone()], "tools": [tool],
            "tool_choice": {"type": "auto"}, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "stop_sequences": ["z"], "metadata": {"user_id": "u"},
            "messages": [{"role": "user", "content": [cached]}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "4 degrees"}]}]}),
        ),
        (
            "/v1/messages",
            Form::Anthropic,
            json!({"model": "edgewise/guide", "max_tokens": 9, "stream": true, "system": "Be brief.",
            "messages": [{"role": "user", "content": "Who founded the harbour?"}], "edgewise": {"route": "passages", "top_k": 3}}),
        ),
        (
            "/v1/messages/count_tokens",
            Form::Anthropic,
            json!({"model": "scripted", "messages": [{"role": "user", "content": "x"}]}),
        ),
        (
            "/v1/chat/completions",
            Form::OpenAi,
            json!({"model": "scripted", "n": 2, "temperature": 0.1, "seed": 3, "stop": ["q"], "logprobs": true,
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
                {"role": "tool", "tool_call_id": "c1", "content": "4"}]}),
        ),
        (
            "/v1/chat/completions",
            Form::OpenAi,
            json!({"model": "edgewise/guide", "stream": true, "stream_options": {"include_usage": true},
            "max_completion_tokens": 9, "messages": [{"role": "user", "content": "Who?"}]}),
        ),
        ("/v1/embeddings", Form::OpenAi, json!({"model": "hash", "input": ["a", "b"], "encoding_format": "base64"})),
        ("/v1/collections/guide/tree/search", Form::Native, json!({"query": "harbour", "budget_tokens": 100})),
    ]
}

/// What takes a value's place.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0i64), Just(-1), Just(i64::MAX), Just(i64::MIN), any::<i64>()].prop_map(Value::from),
        prop_oneof![Just(1e308), Just(-0.0), Just(0.1), any::<f32>().prop_map(f64::from)].prop_map(|x| json!(x)),
        Just(json!(u64::MAX)),
        "\\PC{0,20}".prop_map(Value::from),
        Just(json!("\u{0}\u{202e}<|im_end|>\n\nevent: done")),
        Just(json!("x".repeat(70_000))),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[[[[[[[[{}]]]]]]]]]])),
        Just(json!({"type": "text"})),
    ]
}

/// A change at one place of a body: the place is chosen by `at` among all there are.
#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    Double,
    Rename(String),
    Add(String, Value),
}

fn changes() -> impl Strategy<Value = Vec<(usize, Change)>> {
    let name = prop_oneof![Just("type".to_owned()), Just("stream".to_owned()), "[a-z_]{1,8}", "\\PC{0,5}"];
    let change = prop_oneof![
        4 => odd().prop_map(Change::Replace),
        2 => Just(Change::Remove),
        1 => Just(Change::Double),
        1 => name.clone().prop_map(Change::Rename),
        1 => (name, odd()).prop_map(|(name, value)| Change::Add(name, value)),
    ];
    prop::collection::vec((any::<usize>(), change), 0..4)
}

fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(places).sum(),
        Value::Object(map) => map.values().map(places).sum(),
        _ => 0,
    }
}

/// Applies `change` at place `at`; what is left of `at` if the place is not in here.
fn change_at(value: &mut Value, at: usize, change: &Change) -> Option<usize> {
    if at == 0 {
        match change {
            Change::Replace(with) => *value = with.clone(),
            Change::Add(name, added) => {
                if let Value::Object(map) = value {
                    map.insert(name.clone(), added.clone());
                }
            }
            Change::Remove => match value {
                Value::Array(list) => drop(list.pop()),
                Value::Object(map) => {
                    let first = map.keys().next().cloned();
                    first.and_then(|name| map.remove(&name));
                }
                other => *other = Value::Null,
            },
            Change::Double => match value {
                Value::Array(list) => list.extend(list.clone()),
                Value::String(text) => *text = text.repeat(2),
                other => *other = json!([other.clone(), other.clone()]),
            },
            Change::Rename(name) => {
                if let Value::Object(map) = value {
                    let last = map.keys().next_back().cloned();
                    let moved = last.and_then(|old| map.remove(&old));
                    moved.and_then(|moved| map.insert(name.clone(), moved));
                }
            }
        }
        return None;
    }
    let mut at = at - 1;
    let parts: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(list) => Box::new(list.iter_mut()),
        Value::Object(map) => Box::new(Map::values_mut(map)),
        _ => return Some(at),
    };
    for part in parts {
        let inside = places(part);
        if at < inside {
            return change_at(part, at, change);
        }
        at -= inside;
    }
    Some(at)
}

/// Sends a body and checks that what comes back is in order.
fn check(
    path: &str,
    form: Form,
    media_type: &str,
    body: Vec<u8>,
    headers: &[(&'static str, String)],
) -> Result<(), TestCaseError> {
    let world = &*WORLD;
    let shown = String::from_utf8_lossy(&body).into_owned();
    let mut request = request(Method::POST, path, Body::from(body));
    request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    for (name, value) in headers {
        if let Ok(value) = header::HeaderValue::from_bytes(value.as_bytes()) {
            request.headers_mut().insert(*name, value);
        }
    }
    let (status, media_type, text) = world.runtime.block_on(async {
        let response = world.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let limit = std::time::Duration::from_secs(20);
        let body = tokio::time::timeout(limit, axum::body::to_bytes(body, usize::MAX)).await.unwrap().unwrap();
        let media_type = parts.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
        (parts.status, media_type.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
    });
    prop_assert!(!status.is_server_error(), "{path} {status}: {text} of {shown}");
    if status.is_client_error() {
        let told: Value = serde_json::from_str(&text).unwrap();
        let message = match form {
            Form::Native => {
                let ErrorBody { error } = serde_json::from_value(told).unwrap();
                prop_assert_eq!(error.kind.status(), status);
                error.message
            }
            Form::Anthropic => {
                prop_assert_eq!(&told["type"], "error");
                prop_assert!(told["error"]["type"].is_string());
                told["error"]["message"].as_str().unwrap_or_default().to_owned()
            }
            Form::OpenAi => {
                prop_assert!(told["error"]["type"].is_string() && told["error"]["code"].is_string(), "{}", told);
                told["error"]["message"].as_str().unwrap_or_default().to_owned()
            }
        };
        prop_assert!(!message.is_empty());
    } else if media_type.starts_with("text/event-stream") {
        match form {
            Form::OpenAi => prop_assert!(text.ends_with("data: [DONE]\n\n") || text.contains("\"error\""), "{}", text),
            Form::Native | Form::Anthropic => {
                let all = events(&text);
                let last = all.last().map(|(name, _)| name.as_str());
                prop_assert!(matches!(last, Some("done" | "message_stop" | "error")), "{:?}", last);
            }
        }
    } else {
        prop_assert!(serde_json::from_str::<Value>(&text).is_ok(), "{}", text);
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 400, max_shrink_iters: 200, ..Config::default() })]

    /// Bodies that are right but for a few changes.
    #[test]
    fn nearly_right_requests_are_answered_or_refused(which in any::<prop::sample::Index>(), changes in changes()) {
        let all = valid();
        let (path, form, mut body) = all[which.index(all.len())].clone();
        for (at, change) in &changes {
            let at = at % places(&body);
            change_at(&mut body, at, change);
        }
        check(path, form, "application/json", body.to_string().into_bytes(), &[])?;
    }

    /// Bodies cut off, or with bytes changed.
    #[test]
    fn broken_bytes_are_refused(
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        splices in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        media_type in prop_oneof![9 => Just("application/json"), 1 => Just("text/plain"), 1 => Just("multipart/form-data; boundary=x")],
    ) {
        let all = valid();
        let (path, form, body) = all[which.index(all.len())].clone();
        let mut bytes = body.to_string().into_bytes();
        for (at, byte) in splices {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        check(path, form, media_type, bytes, &[])?;
    }

    /// Forms and lines of uploads.
    #[test]
    fn uploads_are_taken_or_refused(
        batch in any::<bool>(),
        kind in 0..4usize,
        text in prop_oneof!["\\PC{0,60}", Just("--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.md\"\r\n\r\ntext\r\n--b--\r\n".to_owned()),
            Just("{\"uri\": \"a.md\", \"text\": \"x\"}\n".to_owned()), Just("PK\u{3}\u{4}".to_owned())],
        key in prop_oneof![3 => Just(None), 1 => "[ -~]{0,12}".prop_map(Some)],
        tag in prop_oneof![3 => Just(None), 1 => "[ -~]{0,12}".prop_map(Some)],
    ) {
        let path = if batch { "/v1/collections/guide/documents:batch" } else { "/v1/collections/guide/documents" };
        let media_type = ["multipart/form-data; boundary=b", "application/x-ndjson", "application/zip", "application/json"][kind];
        let mut headers = Vec::new();
        headers.extend(key.map(|key| ("idempotency-key", key)));
        headers.extend(tag.map(|tag| ("if-none-match", tag)));
        check(path, Form::Native, media_type, text.into_bytes(), &headers)?;
    }

    /// Paths and query strings.
    #[test]
    fn odd_addresses_are_answered(
        path in prop::sample::select(vec!["/v1/collections/X", "/v1/collections/guide/documents/X", "/v1/collections/guide/documents/X/text",
            "/v1/jobs/X", "/v1/conversations/X", "/v1/cache/prefixes/X", "/v1/models/X", "/v1/X", "/v1/collections/guide/tree", "/v1/usage"]),
        name in "(%[0-9a-fA-F]{2}|[a-z0-9._~-]){0,12}",
        query in "([a-z]{1,8}=(%[0-9a-f]{2}|[a-z0-9.-]){0,8}&?){0,3}",
    ) {
        let world = &*WORLD;
        let path = format!("{}?{query}", path.replace('X', &name));
        let Ok(uri) = path.parse::<axum::http::Uri>() else { return Ok(()) };
        let (status, text) = world.runtime.block_on(async {
            let request = request(Method::GET, &uri.to_string(), Body::empty());
            let response = world.router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            (status, axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap())
        });
        prop_assert!(!status.is_server_error(), "{path} {status} {text:?}");
        if status.is_client_error() {
            let told: Value = serde_json::from_slice(&text).unwrap();
            prop_assert!(told["error"]["message"].is_string(), "{path} {told}");
        }
    }
}

#[test]
fn the_bodies_that_are_changed_are_right() {
    for (path, form, body) in valid() {
        // Embeddings name the model of another embedder, and nothing was answered yet that could be rated.
        if !matches!(path, "/v1/embeddings" | "/v1/feedback" | "/v1/routes/explain") {
            let world = &*WORLD;
            let reply = world.runtime.block_on(world.gateway.post(path, &body));
            let allowed = reply.status.is_success() || path == "/v1/collections/guide/tree/search";
            assert!(allowed, "{path} {form:?} {}: {}", reply.status, reply.text());
        }
    }
}
