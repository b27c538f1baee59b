//! What one client may use: of its key, of the server's memory, and of its patience.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{Method, StatusCode, header},
};
use edgewise_access::{Limits, NewKey, tenant_name};
use edgewise_gateway::{ErrorKind, GatewayOptions, bind, serve};
use edgewise_test_support::ScriptedGenerator;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::StreamExt;
use tower::ServiceExt;

use crate::harness::{Gateway, Reply, request};

fn limited(gateway: &Gateway, limits: Limits) -> String {
    let new = NewKey {
        name: "limited".to_owned(),
        tenant: tenant_name("local").unwrap(),
        scopes: "query,ingest".parse().unwrap(),
        expires_at: None,
        limits,
    };
    gateway.access.create(new, "test", jiff::Timestamp::now()).unwrap().key
}

fn chat(stream: bool) -> Value {
    json!({"model": "scripted", "max_tokens": 200, "stream": stream, "messages": [{"role": "user", "content": "How are you?"}]})
}

fn wait(reply: &Reply) -> u64 {
    reply.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_key_has_its_rate_and_others_theirs() {
    let gateway = Gateway::saying("Fine.");
    let key = limited(&gateway, Limits { requests_per_minute: Some(3), ..Limits::default() });
    let other = gateway.key("local", "query").key;
    for _ in 0..3 {
        gateway.call(&key, Method::GET, "/v1/collections", None).await.ok();
    }
    let reply = gateway.call(&key, Method::GET, "/v1/collections", None).await;
    assert!(reply.error(ErrorKind::LimitReached).contains("3 requests a minute"));
    assert!((1..=20).contains(&wait(&reply)), "{:?}", reply.headers);
    let reply = gateway.call(&key, Method::POST, "/v1/messages", Some(&chat(false))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["type"]), (429, &json!("rate_limit_error")));
    assert!(wait(&reply) >= 1);
    gateway.call(&other, Method::GET, "/v1/collections", None).await.ok();
}

#[tokio::test]
async fn a_stream_takes_its_place_until_it_ends() {
    let generator = ScriptedGenerator::new(|_: &str| "word ".repeat(200)).with_token_delay(Duration::from_millis(20));
    let gateway = Gateway::new(generator, GatewayOptions::default());
    let key = limited(&gateway, Limits { concurrent_requests: Some(1), ..Limits::default() });
    let mut streaming = request(Method::POST, "/v1/messages", Body::from(chat(true).to_string()));
    streaming.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    streaming.headers_mut().insert("x-api-key", key.parse().unwrap());
    let mut body = gateway.router().oneshot(streaming).await.unwrap().into_body().into_data_stream();
    body.next().await.unwrap().unwrap();
    let reply = gateway.call(&key, Method::GET, "/v1/collections", None).await;
    assert!(reply.error(ErrorKind::LimitReached).contains("1 requests running"));
    drop(body);
    gateway.call(&key, Method::GET, "/v1/collections", None).await.ok();
    gateway.call(&key, Method::GET, "/v1/collections", None).await.ok();
}

#[tokio::test]
async fn the_tokens_of_a_day_are_counted_wherever_they_are_used() {
    let gateway = Gateway::saying("Fine.").with_corpus().await;
    let question = json!({"collection": "guide", "question": "Who founded the harbour?"});
    let texts = json!({"model": gateway.get("/v1/info").await.ok()["embedder"], "input": "a text"});
    for (path, body) in [("/v1/messages", &chat(false)), ("/v1/query", &question), ("/v1/embeddings", &texts)] {
        let key = limited(&gateway, Limits { tokens_per_day: Some(1), ..Limits::default() });
        gateway.call(&key, Method::POST, path, Some(body)).await.ok();
        let reply = gateway.call(&key, Method::POST, path, Some(body)).await;
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "{path}: {}", reply.text());
        assert!(reply.text().contains("tokens of today") && wait(&reply) <= 24 * 3600, "{}", reply.text());
        gateway.call(&key, Method::GET, "/v1/collections", None).await.ok();
    }
}

#[tokio::test]
async fn what_a_request_of_a_key_may_use_is_checked_before_any_prefill() {
    let gateway = Gateway::saying("Fine.").with_corpus().await;
    let question = json!({"collection": "guide", "question": "Who founded the harbour?", "route": "full"});
    let warm = json!({"collection": "guide", "ttl": "5m"});
    let one_nano = "0.000000001".parse().unwrap();
    let cases = [
        ("max_input_tokens", Limits { max_input_tokens: Some(5), ..Limits::default() }),
        ("max_cost", Limits { max_cost: Some(one_nano), ..Limits::default() }),
    ];
    for (name, limits) in cases {
        let key = limited(&gateway, limits);
        let asked = gateway.generator.requests().len();
        let bodies = [
            ("/v1/messages", &chat(false)),
            ("/v1/query", &question),
            ("/v1/routes/explain", &question),
            ("/v1/cache/prefixes", &warm),
        ];
        for (path, body) in bodies {
            let reply = gateway.call(&key, Method::POST, path, Some(body)).await;
            assert!(reply.status.is_client_error(), "{name} {path}: {} {}", reply.status, reply.text());
            let text = reply.text();
            assert!(text.contains(name) && text.contains("of the API key"), "{name} {path}: {text}");
        }
        assert_eq!(gateway.generator.requests().len(), asked, "nothing was generated");
    }
    let wide = Limits { max_input_tokens: Some(4000), max_cost: Some("1".parse().unwrap()), ..Limits::default() };
    let key = limited(&gateway, wide);
    gateway.call(&key, Method::POST, "/v1/messages", Some(&chat(false))).await.ok();
    gateway.call(&key, Method::POST, "/v1/query", Some(&question)).await.ok();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn post_encoded(gateway: &Gateway, encoding: &str, body: Vec<u8>) -> Reply {
    let mut request = request(Method::POST, "/v1/collections", Body::from(body));
    request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    request.headers_mut().insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
    gateway.send(request).await
}

#[tokio::test]
async fn compressed_bodies_are_unpacked_within_the_same_limit() {
    let options = GatewayOptions { max_body_bytes: 10_000, ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    let good = json!({"name": "packed"}).to_string();
    post_encoded(&gateway, "gzip", gzip(good.as_bytes())).await.ok();
    gateway.get("/v1/collections/packed").await.ok();
    // Ten megabytes in ten kilobytes.
    let bomb = gzip(format!("{{\"name\": \"{}\"}}", "a".repeat(10 << 20)).as_bytes());
    assert!(bomb.len() < 12_000, "{}", bomb.len());
    let small = gzip(format!("{{\"name\": \"{}\"}}", "a".repeat(20_000)).as_bytes());
    for bomb in [bomb, small] {
        assert!(post_encoded(&gateway, "gzip", bomb).await.error(ErrorKind::TooLarge).contains("10000"));
    }
    let whole = gzip(good.as_bytes());
    post_encoded(&gateway, "gzip", whole[..whole.len() / 2].to_vec()).await.error(ErrorKind::MalformedRequest);
    post_encoded(&gateway, "gzip", b"not gzip at all".to_vec()).await.error(ErrorKind::MalformedRequest);
    post_encoded(&gateway, "br", good.into_bytes()).await.error(ErrorKind::UnsupportedMediaType);
}

/// A server with short patience, until its handle is dropped.
async fn impatient(max_connections: usize) -> (SocketAddr, tokio::sync::oneshot::Sender<()>, Gateway) {
    let options = GatewayOptions {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        shutdown_grace: Duration::from_millis(100),
        max_connections,
        ..GatewayOptions::default()
    };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(serve(listener, gateway.state.clone(), async {
        let _ = stopped.await;
    }));
    (address, stop, gateway)
}

/// What the server says until it closes the connection, and how long that took.
async fn answer(mut stream: TcpStream) -> (String, Duration) {
    let started = Instant::now();
    let mut text = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut text)).await;
    // A reset is an end too.
    let _ = read.expect("the server closes the connection");
    (String::from_utf8_lossy(&text).into_owned(), started.elapsed())
}

#[tokio::test]
async fn clients_that_dawdle_are_let_go() {
    let (address, _stop, _gateway) = impatient(100).await;
    for head in ["", "P", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: "] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (text, took) = answer(stream).await;
        assert!(took < Duration::from_secs(2), "{head:?}: {took:?} {text}");
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{head:?}: {text}");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/collections HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"name\"";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (text, took) = answer(stream).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"), "{text}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_body_that_flows_slowly_arrives_and_a_slow_start_is_no_matter() {
    let (address, _stop, gateway) = impatient(100).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = json!({"name": "slow"}).to_string();
    let head = format!(
        "POST /v1/collections HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for byte in body.as_bytes().chunks(3) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(byte).await.unwrap();
        stream.flush().await.unwrap();
    }
    let (text, _) = answer(stream).await;
    assert!(text.starts_with("HTTP/1.1 201"), "{text}");
    gateway.get("/v1/collections/slow").await.ok();
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let (address, _stop, _gateway) = impatient(1).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    let n = first.read(&mut buffer).await.unwrap();
    assert!(std::str::from_utf8(&buffer[..n]).unwrap().starts_with("HTTP/1.1 200"));
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut buffer)).await;
    assert!(early.is_err(), "the only place is taken");
    drop(first);
    let (text, _) = answer(second).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn names_are_served_only_where_the_settings_say_so() {
    let options = GatewayOptions { allowed_hosts: vec!["docs.example.org".to_owned()], ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    for (host, status) in [("docs.example.org", 200), ("DOCS.example.org:8443", 200), ("evil.example.org", 421)] {
        let mut request = request(Method::GET, "/healthz", Body::empty());
        request.headers_mut().insert(header::HOST, host.parse().unwrap());
        assert_eq!(gateway.send(request).await.status.as_u16(), status, "{host}");
    }
}
