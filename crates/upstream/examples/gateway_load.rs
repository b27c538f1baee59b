//! The two ends of a measurement of gateways: a server that answers at once, and a load on whatever stands before it.
//!
//! `gateway_load fake PORT` serves `/v1/completions` and `/v1/chat/completions`, streamed and not. A request for 15 tokens
//! gets them 50 ms apart, any other all at once.
//! `gateway_load load URL CONNECTIONS REQUESTS BODY` posts the file BODY over so many connections that are kept open, each
//! one request after the other, until REQUESTS are done, and prints one line of JSON: requests per second, and
//! percentiles of the time to the first byte of the body and to its end, in milliseconds.
//!
//! Both run on one thread, so that they leave the machine to what is measured. `scripts/bench-gateway` puts them together.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    cell::RefCell,
    convert::Infallible,
    rc::Rc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::LocalSet};

const TOKENS: usize = 16;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match args.as_slice() {
        ["fake", port] => runtime.block_on(fake(port.parse().unwrap())),
        ["load", url, connections, requests, body] => {
            let body = Bytes::from(std::fs::read(body).expect("the body's file"));
            let load = load(url, connections.parse().unwrap(), requests.parse().unwrap(), body);
            LocalSet::new().block_on(&runtime, load);
        }
        _ => panic!("usage: gateway_load fake PORT | load URL CONNECTIONS REQUESTS BODY"),
    }
}

async fn fake(port: u16) {
    let router = Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/v1/models", get(|| async { Json(json!({ "data": [{ "id": "m", "owned_by": "fake" }] })) }))
        .route("/v1/completions", post(|Json(body): Json<Value>| async move { answer(&body, false) }))
        .route("/v1/chat/completions", post(|Json(body): Json<Value>| async move { answer(&body, true) }));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    axum::serve(listener, router).await.unwrap();
}

fn answer(body: &Value, chat: bool) -> Response {
    let prompt = &body["prompt"];
    let count = prompt.as_array().map_or(32, Vec::len);
    let most = usize::try_from(body["max_tokens"].as_u64().unwrap_or(TOKENS as u64)).unwrap();
    let tokens = most.min(TOKENS);
    let usage = json!({ "prompt_tokens": count, "completion_tokens": tokens, "total_tokens": count + tokens });
    let base = |choice: Value| {
        let object = if chat { "chat.completion" } else { "text_completion" };
        json!({ "id": "x", "object": object, "created": 1, "model": "m", "choices": [choice] })
    };
    if body["stream"] != true {
        let text = " word".repeat(tokens);
        let mut reply = base(match chat {
            true => json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }),
            false => json!({ "index": 0, "text": text, "finish_reason": "stop" }),
        });
        reply["usage"] = usage;
        return Json(reply).into_response();
    }
    let slow = body["max_tokens"] == 15;
    let mut events: Vec<String> = (0..tokens)
        .map(|i| {
            let reason = if i + 1 == tokens { json!("stop") } else { Value::Null };
            let chunk = base(match chat {
                true => {
                    json!({ "index": 0, "delta": { "role": "assistant", "content": " word" }, "finish_reason": reason })
                }
                false => json!({ "index": 0, "text": " word", "finish_reason": reason }),
            });
            format!("data: {chunk}\n\n")
        })
        .collect();
    let mut last = base(json!({}));
    last["choices"] = json!([]);
    last["usage"] = usage;
    events.push(format!("data: {last}\n\ndata: [DONE]\n\n"));
    if !slow {
        let all = events.concat();
        return ([(header::CONTENT_TYPE, "text/event-stream")], all).into_response();
    }
    let events = stream::unfold(events.into_iter(), |mut events| async move {
        let event = events.next()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Some((Ok::<_, Infallible>(Bytes::from(event)), events))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

#[derive(Default)]
struct Seen {
    left: usize,
    failed: usize,
    first_ms: Vec<f64>,
    total_ms: Vec<f64>,
}

async fn load(url: &str, connections: usize, requests: usize, body: Bytes) {
    let rest = url.strip_prefix("http://").expect("an http:// address");
    let (host, path) = rest.split_once('/').expect("a path");
    let (host, path) = (host.to_owned(), format!("/{path}"));
    let seen = Rc::new(RefCell::new(Seen { left: requests, ..Seen::default() }));
    let begun = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (host, path, body, seen) = (host.clone(), path.clone(), body.clone(), Rc::clone(&seen));
            tokio::task::spawn_local(async move {
                while seen.borrow().left > 0 {
                    // A connection that breaks costs the request it was at.
                    if connection(&host, &path, &body, &seen).await.is_none() {
                        seen.borrow_mut().failed += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut seen = seen.borrow_mut();
    let done = seen.total_ms.len();
    let at = |values: &mut Vec<f64>, share: f64| {
        values.sort_by(f64::total_cmp);
        values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1))).copied()
    };
    println!(
        "{}",
        json!({
            "requests": done, "failed": seen.failed, "connections": connections, "seconds": seconds,
            "per_second": done as f64 / seconds,
            "first_p50_ms": at(&mut seen.first_ms, 0.5), "first_p99_ms": at(&mut seen.first_ms, 0.99),
            "p50_ms": at(&mut seen.total_ms, 0.5), "p99_ms": at(&mut seen.total_ms, 0.99),
        })
    );
}

/// Requests on one connection until none is left; `None` if one fails.
async fn connection(host: &str, path: &str, body: &Bytes, seen: &Rc<RefCell<Seen>>) -> Option<()> {
    let stream = TcpStream::connect(host).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::task::spawn_local(connection);
    loop {
        {
            let mut seen = seen.borrow_mut();
            if seen.left == 0 {
                return Some(());
            }
            seen.left -= 1;
        }
        sender.ready().await.ok()?;
        let request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, "Bearer sk-bench")
            .body(Full::new(body.clone()))
            .ok()?;
        let asked = Instant::now();
        let mut response = sender.send_request(request).await.ok()?;
        let (mut first, mut failed) = (None, !response.status().is_success());
        while let Some(frame) = response.body_mut().frame().await {
            first.get_or_insert_with(|| asked.elapsed());
            let frame = frame.ok()?;
            failed |= frame.data_ref().is_some_and(|data| data.windows(8).any(|w| w == b"\"error\":"));
        }
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let mut seen = seen.borrow_mut();
        if failed {
            seen.failed += 1;
        } else {
            seen.first_ms.push(ms(first.unwrap_or_else(|| asked.elapsed())));
            seen.total_ms.push(ms(asked.elapsed()));
        }
    }
}
