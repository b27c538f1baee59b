//! Requests that can't be served: each gets its kind, its status, and a sentence that helps.

use axum::{
    body::Body,
    http::{Method, header},
};
use edgewise_gateway::{ErrorKind, GatewayOptions};
use edgewise_test_support::ScriptedGenerator;
use serde_json::json;

use crate::harness::{Gateway, request};

#[tokio::test]
async fn wrong_questions_are_refused_with_the_place_of_the_mistake() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    gateway.post("/v1/collections", &json!({"name": "empty"})).await.ok();
    let id = "d_00000000000000000000000000000000";
    let ask = |extra: serde_json::Value| {
        let mut request = json!({"collection": "guide", "question": "Who founded the harbour?"});
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        request
    };
    for (body, kind, part) in [
        (ask(json!({"qestion": "?"})), ErrorKind::MalformedRequest, "unknown field `qestion`"),
        (ask(json!({"budget": {"max_costs": "1"}})), ErrorKind::MalformedRequest, "max_costs"),
        (ask(json!({"budget": {"max_cost": "cheap"}})), ErrorKind::MalformedRequest, "not an amount"),
        (ask(json!({"route": "scenic"})), ErrorKind::MalformedRequest, "scenic"),
        (ask(json!({"top_k": "many"})), ErrorKind::MalformedRequest, "line 1"),
        (json!({"collection": "guide"}), ErrorKind::MalformedRequest, "question"),
        (json!([1]), ErrorKind::MalformedRequest, "line 1"),
        (ask(json!({"question": " \n"})), ErrorKind::InvalidRequest, "empty"),
        (ask(json!({"top_k": 0})), ErrorKind::InvalidRequest, "top_k"),
        (ask(json!({"max_output_tokens": 0})), ErrorKind::InvalidRequest, "max_output_tokens"),
        (ask(json!({"documents": []})), ErrorKind::InvalidRequest, "documents"),
        (ask(json!({"stop": [""]})), ErrorKind::InvalidRequest, "stop"),
        (ask(json!({"sampling": {"temperature": -1.0}})), ErrorKind::InvalidRequest, "temperature"),
        (ask(json!({"collection": "../etc"})), ErrorKind::InvalidName, "`../etc`"),
        (ask(json!({"documents": ["x"]})), ErrorKind::InvalidName, "`x`"),
        (ask(json!({"documents": [id]})), ErrorKind::UnknownDocument, id),
        (ask(json!({"collection": "nowhere"})), ErrorKind::UnknownCollection, "existing collections: empty, guide"),
        (ask(json!({"collection": "empty"})), ErrorKind::EmptyCollection, "POST /v1/collections/empty/documents"),
        (ask(json!({"budget": {"max_cost": "0"}})), ErrorKind::DoesNotFit, "allow at least"),
        (ask(json!({"budget": {"max_input_tokens": 5}})), ErrorKind::DoesNotFit, "5"),
        (ask(json!({"question": "why ".repeat(9000)})), ErrorKind::DoesNotFit, "shorten"),
    ] {
        for path in ["/v1/query", "/v1/routes/explain"] {
            let only_query = body.get("stop").is_some() || body.get("sampling").is_some();
            if path == "/v1/routes/explain" && only_query {
                continue;
            }
            let message = gateway.post(path, &body).await.error(kind);
            assert!(message.contains(part), "{path} {body}: {message}");
        }
    }
    assert!(gateway.generator.requests().is_empty(), "none of these costs anything");
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused() {
    let options = GatewayOptions { max_body_bytes: 500, ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    let message = gateway.post_text("/v1/query", "{\"collection\": ").await.error(ErrorKind::MalformedRequest);
    assert!(message.contains("column"), "{message}");
    let message = gateway.post_text("/v1/query", "").await.error(ErrorKind::MalformedRequest);
    assert!(message.contains("the body is empty"), "{message}");
    let large = json!({"collection": "guide", "question": "x".repeat(1000)});
    let message = gateway.post("/v1/query", &large).await.error(ErrorKind::TooLarge);
    assert!(message.contains("500 bytes"), "{message}");
    gateway.send(request(Method::POST, "/v1/query", Body::from("{}"))).await.error(ErrorKind::UnsupportedMediaType);
    let mut form = request(Method::POST, "/v1/query", Body::from("{}"));
    form.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
    gateway.send(form).await.error(ErrorKind::UnsupportedMediaType);
}

#[tokio::test]
async fn names_in_paths_are_checked() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    for path in
        ["/v1/collections/UPPER", "/v1/collections/%2e%2e", "/v1/collections/a%2Fb", "/v1/collections/-x/documents"]
    {
        gateway.get(path).await.error(ErrorKind::InvalidName);
    }
    gateway.get("/v1/collections/%ff").await.error(ErrorKind::InvalidName);
    gateway.get("/v1/collections/guide/documents/d_1").await.error(ErrorKind::InvalidName);
    gateway.post("/v1/collections", &json!({"name": "Not A Name"})).await.error(ErrorKind::InvalidName);
    gateway.get("/v1/collections/nowhere/documents").await.error(ErrorKind::UnknownCollection);
    gateway.get("/v1/usage?recent=1001").await.error(ErrorKind::InvalidRequest);
    gateway.get("/v1/usage?since=yesterday").await.error(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_same_body() {
    let gateway = Gateway::saying("yes");
    for path in ["/v2/query", "/v1", "/assets/other.js", "/v1/collections/a/b/c/d"] {
        gateway.get(path).await.error(ErrorKind::UnknownPath);
    }
    let reply = gateway.get("/v1/query").await;
    reply.error(ErrorKind::MethodNotAllowed);
    assert_eq!(reply.headers[header::ALLOW], "POST");
    gateway.delete("/healthz").await.error(ErrorKind::MethodNotAllowed);
}

#[tokio::test]
async fn pages_of_other_sites_are_kept_out() {
    let gateway = Gateway::saying("yes");
    let with = |pairs: &[(&'static str, &str)]| {
        let mut request = request(Method::POST, "/v1/collections", Body::from("{\"name\": \"a\"}"));
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        for (name, value) in pairs {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    };
    gateway.send(with(&[("host", "evil.example")])).await.error(ErrorKind::UnknownHost);
    gateway.send(with(&[("origin", "http://evil.example")])).await.error(ErrorKind::CrossOrigin);
    let mut nameless = with(&[]);
    nameless.headers_mut().remove(header::HOST);
    gateway.send(nameless).await.error(ErrorKind::MalformedRequest);
    assert_eq!(gateway.get("/v1/collections").await.ok()["collections"], json!([]), "nothing was made");
    let own = gateway.send(with(&[("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")])).await;
    own.ok();
    assert!(!own.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn the_cache_is_shown_and_a_prefix_it_does_not_keep_is_not_released() {
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), GatewayOptions::default());
    let state = gateway.get("/v1/cache").await.ok();
    assert_eq!((&state["pages_total"], &state["prefixes"]), (&json!(0), &json!([])), "a scripted model has no cache");
    let message = gateway.delete("/v1/cache/prefixes/7").await.error(ErrorKind::UnknownPrefix);
    assert!(message.contains('7'), "{message}");
    gateway.delete("/v1/cache/prefixes/first").await.error(ErrorKind::InvalidName);
}
