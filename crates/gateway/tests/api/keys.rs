//! Keys: when they are needed, what they open, how they come, and what ends with them.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Method, StatusCode, header},
};
use edgewise_access::{AccessStore, Action};
use edgewise_gateway::{ErrorKind, GatewayOptions};
use edgewise_ledger::RequestStatus;
use edgewise_test_support::ScriptedGenerator;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tower::ServiceExt;

use crate::harness::{Gateway, events, request};

async fn with(gateway: &Gateway, name: header::HeaderName, value: &str, path: &str) -> crate::harness::Reply {
    let mut request = request(Method::GET, path, Body::empty());
    request.headers_mut().insert(name, value.parse().unwrap());
    gateway.send(request).await
}

#[tokio::test]
async fn a_server_without_keys_is_open_until_the_first_is_made_elsewhere() {
    let gateway = Gateway::saying("yes");
    gateway.call("ewk_whatever", Method::GET, "/v1/collections", None).await.ok();
    assert_eq!(gateway.get("/v1/session").await.ok()["keys_needed"], false);

    // Another process, as `edgewise keys create` is one.
    let command = AccessStore::open(&gateway.folder.path().join("_access.sqlite"), jiff::Timestamp::now()).unwrap();
    let new = edgewise_access::NewKey {
        name: String::new(),
        tenant: edgewise_access::tenant_name("local").unwrap(),
        scopes: "query".parse().unwrap(),
        expires_at: None,
        limits: edgewise_access::Limits::default(),
    };
    let made = command.create(new, "cli", jiff::Timestamp::now()).unwrap();
    let since = Instant::now();
    while gateway.get("/v1/collections").await.status == StatusCode::OK {
        assert!(since.elapsed() < Duration::from_secs(1), "a second later the server is still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reply = gateway.get("/v1/collections").await;
    assert!(reply.error(ErrorKind::Unauthorized).contains("needs a key"));
    assert!(reply.headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
    gateway.call(&made.key, Method::GET, "/v1/collections", None).await.ok();

    command.revoke(&made.record.id, "cli", jiff::Timestamp::now()).unwrap();
    let since = Instant::now();
    while gateway.call(&made.key, Method::GET, "/v1/collections", None).await.status == StatusCode::OK {
        assert!(since.elapsed() < Duration::from_secs(1), "a second later the key still works");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    gateway.get("/v1/collections").await.error(ErrorKind::Unauthorized);
}

#[tokio::test]
async fn where_strangers_can_connect_a_key_is_needed_from_the_start() {
    let options = GatewayOptions { keys_required: true, ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    gateway.get("/v1/collections").await.error(ErrorKind::Unauthorized);
    for free in ["/healthz", "/readyz", "/", "/sign-in", "/assets/style/base.css", "/assets/pages/signin.js"] {
        assert_eq!(gateway.get(free).await.status, StatusCode::OK, "{free}");
    }
    for path in ["/metrics", "/openapi.json", "/v1/info", "/v1/usage", "/v1/cache", "/v1/session", "/v1/models"] {
        assert_eq!(gateway.get(path).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    gateway.get("/nothing/here").await.error(ErrorKind::UnknownPath);
}

#[tokio::test]
async fn a_key_comes_as_clients_send_it_and_wrong_ones_are_refused_alike() {
    let gateway = Gateway::saying("yes");
    let made = gateway.key("local", "query");
    let good = &made.key;
    assert_eq!(with(&gateway, header::AUTHORIZATION, &format!("bearer {good}"), "/v1/info").await.status, 200);
    assert_eq!(with(&gateway, header::HeaderName::from_static("x-api-key"), good, "/v1/info").await.status, 200);
    let unknown = format!("ewk_{}_{}", "a".repeat(12), "b".repeat(43));
    let wrong = format!("{}_{}", made.record.id, "b".repeat(43));
    let mut bodies = Vec::new();
    for bad in [unknown.as_str(), &wrong, "ewk_", "", "sk-something"] {
        let reply = with(&gateway, header::AUTHORIZATION, &format!("Bearer {bad}"), "/v1/info").await;
        reply.error(ErrorKind::Unauthorized);
        bodies.push(reply.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "nothing tells a key that exists from one that does not");
    with(&gateway, header::AUTHORIZATION, "Basic dXNlcjpwYXNz", "/v1/info").await.error(ErrorKind::Unauthorized);

    let message = json!({"model": "scripted", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]});
    let anthropic = gateway.post("/v1/messages", &message).await;
    assert_eq!(anthropic.status, 401);
    assert_eq!(anthropic.json()["error"]["type"], "authentication_error");
    let openai = gateway.post("/v1/chat/completions", &message).await;
    assert_eq!((openai.status.as_u16(), &openai.json()["error"]["code"]), (401, &json!("invalid_api_key")));
}

#[tokio::test]
async fn each_scope_opens_its_part() {
    let gateway = Gateway::saying("yes");
    let [query, ingest, admin] = ["query", "ingest", "admin"].map(|scope| gateway.key("local", scope).key);
    let question = json!({"collection": "nowhere", "question": "Who?"});
    let name = json!({"name": "guide"});
    let cases: [(Method, &str, Option<&Value>, &str); 9] = [
        (Method::GET, "/v1/collections", None, "query"),
        (Method::POST, "/v1/query", Some(&question), "query"),
        (Method::POST, "/v1/routes/explain", Some(&question), "query"),
        (Method::GET, "/v1/usage", None, "query"),
        (Method::POST, "/v1/collections", Some(&name), "ingest"),
        (Method::POST, "/v1/collections/guide/check", None, "ingest"),
        (Method::DELETE, "/v1/collections/guide", None, "ingest"),
        (Method::DELETE, "/v1/cache/prefixes/7", None, "admin"),
        (Method::GET, "/metrics", None, "admin"),
    ];
    for (method, path, body, scope) in cases {
        for (has, key) in [("query", &query), ("ingest", &ingest), ("admin", &admin)] {
            let reply = gateway.call(key, method.clone(), path, body).await;
            let lacking = reply.status == StatusCode::FORBIDDEN && reply.text().contains("lacks the scope");
            assert_eq!(lacking, has != scope, "{has} for {method} {path}: {}", reply.text());
        }
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let log = gateway.access.audit_log(100).unwrap();
    assert!(log.iter().any(|entry| entry.action == Action::Forbidden && entry.detail["scope"] == "ingest"), "{log:?}");
}

#[tokio::test]
async fn a_browser_signs_in_and_out() {
    let gateway = Gateway::saying("yes");
    let made = gateway.key("acme", "query");
    let wrong = gateway.post("/v1/session", &json!({"key": format!("{}x", made.key)})).await;
    wrong.error(ErrorKind::Unauthorized);
    let reply = gateway.post("/v1/session", &json!({"key": made.key})).await;
    assert_eq!(reply.ok()["tenant"], "acme");
    let cookie = reply.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && !cookie.contains("Secure"),
        "{cookie}"
    );
    assert!(!cookie.contains(&made.key) && !cookie.contains(made.key.rsplit_once('_').unwrap().1));
    let pair = cookie.split(';').next().unwrap();
    let reply = with(&gateway, header::COOKIE, &format!("theme=dark; {pair}"), "/v1/session").await;
    assert_eq!(reply.ok()["key"], made.record.id.as_str());
    let mut sign_out = request(Method::DELETE, "/v1/session", Body::empty());
    sign_out.headers_mut().insert(header::COOKIE, pair.parse().unwrap());
    let reply = gateway.send(sign_out).await;
    assert!(reply.headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    with(&gateway, header::COOKIE, pair, "/v1/session").await.error(ErrorKind::Unauthorized);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let actions: Vec<Action> = gateway.access.audit_log(9).unwrap().into_iter().map(|entry| entry.action).collect();
    for expected in [Action::Refused, Action::SignedIn, Action::SignedOut, Action::KeyCreated] {
        assert!(actions.contains(&expected), "{expected:?} in {actions:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_within_a_second_of_its_key_and_what_came_is_charged() {
    let generator = ScriptedGenerator::new(|_: &str| "word ".repeat(500)).with_token_delay(Duration::from_millis(20));
    let gateway = Gateway::new(generator, GatewayOptions::default()).with_corpus().await;
    let made = gateway.key("local", "query");
    let bodies = [
        (
            "/v1/query",
            json!({"collection": "guide", "question": "What is a hive?", "route": "passages", "stream": true, "max_output_tokens": 400}),
        ),
        (
            "/v1/messages",
            json!({"model": "scripted", "max_tokens": 400, "stream": true, "messages": [{"role": "user", "content": "Hi"}]}),
        ),
    ];
    let mut streams = Vec::new();
    for (path, body) in &bodies {
        let mut request = request(Method::POST, path, Body::from(body.to_string()));
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        request.headers_mut().insert("x-api-key", made.key.parse().unwrap());
        let response = gateway.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body().into_data_stream();
        let mut text = String::new();
        while !text.contains("word") {
            text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
        }
        streams.push((body, text));
    }
    gateway.access.revoke(&made.record.id, "test", jiff::Timestamp::now()).unwrap();
    let revoked = Instant::now();
    let mut ends = Vec::new();
    for (mut body, mut text) in streams {
        while let Some(chunk) = tokio::time::timeout(Duration::from_secs(5), body.next()).await.unwrap() {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        ends.push(text);
    }
    assert!(revoked.elapsed() < Duration::from_secs(1), "{:?}", revoked.elapsed());
    let (name, data) = events(&ends[0]).pop().unwrap();
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("unauthorized")));
    let (name, data) = events(&ends[1]).pop().unwrap();
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("authentication_error")));

    let since = Instant::now();
    while gateway.generator.cancelled() < 2 || gateway.answers(9).len() < 2 {
        assert!(since.elapsed() < Duration::from_secs(5), "a generation goes on, or was not recorded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for record in gateway.answers(2) {
        assert!(matches!(record.status, RequestStatus::Cancelled | RequestStatus::Failed), "{record:?}");
        assert!(
            record.usage.output_tokens > 0 && record.usage.output_tokens < 400 && record.cost.nanos() > 0,
            "{record:?}"
        );
    }
}
