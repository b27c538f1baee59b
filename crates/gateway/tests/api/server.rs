//! Over a real socket: streams, clients that leave, and shutdown.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use edgewise_gateway::{ErrorKind, GatewayError, GatewayOptions, bind, serve};
use edgewise_test_support::ScriptedGenerator;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use crate::harness::{Gateway, events};

struct Running {
    address: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), GatewayError>>,
}

impl Running {
    async fn start(gateway: &Gateway) -> Self {
        let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, asked) = oneshot::channel();
        let server = tokio::spawn(serve(listener, gateway.state.clone(), async {
            let _ = asked.await;
        }));
        Self { address, shutdown: Some(shutdown), server }
    }

    /// A connection on which a streamed question was sent and its first token has come.
    async fn streaming(&self) -> (TcpStream, String) {
        let body = json!({"collection": "guide", "question": "What is a hive?", "route": "passages", "stream": true});
        let mut stream = self.send("POST /v1/query", &body.to_string()).await;
        let mut seen = String::new();
        while !seen.contains("event: token") {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "ended before its first token: {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        (stream, seen)
    }

    async fn send(&self, line: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    fn shut_down(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) {
        tokio::time::timeout(Duration::from_secs(10), self.server).await.expect("the server ends").unwrap().unwrap();
    }
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    String::from_utf8(rest).unwrap()
}

/// The body of a chunked response (RFC 9112, 7.1); enough for text in which no chunk looks like another's length.
fn unchunked(text: &str) -> String {
    let (_, mut rest) = text.split_once("\r\n\r\n").unwrap();
    let mut body = String::new();
    while let Some((length, tail)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            break;
        }
        body.push_str(&tail[..length]);
        rest = tail[length..].strip_prefix("\r\n").unwrap();
    }
    body
}

/// A gateway whose answers take `tokens` times 20 ms.
async fn slow(tokens: usize, grace: Duration) -> Gateway {
    let generator = ScriptedGenerator::new(move |_| "word ".repeat(tokens)).with_token_delay(Duration::from_millis(20));
    let options = GatewayOptions { shutdown_grace: grace, ..GatewayOptions::default() };
    Gateway::new(generator, options).with_corpus().await
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn closing_the_connection_cancels_the_generation() {
    let gateway = slow(250, Duration::from_secs(5)).await;
    let mut running = Running::start(&gateway).await;
    let (stream, _) = running.streaming().await;
    assert_eq!(gateway.generator.cancelled(), 0);
    drop(stream);
    until("the generation is cancelled", || gateway.generator.cancelled() == 1).await;
    until("it is recorded", || !gateway.answers(1).is_empty()).await;
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(record.status, edgewise_ledger::RequestStatus::Cancelled);
    running.shut_down();
    running.ended().await;
}

#[tokio::test]
async fn a_shutdown_lets_streams_finish() {
    let gateway = slow(20, Duration::from_secs(10)).await;
    let mut running = Running::start(&gateway).await;
    let (stream, seen) = running.streaming().await;
    running.shut_down();
    let address = running.address;
    until("the listener is closed", || std::net::TcpStream::connect(address).is_err()).await;
    let text = seen + &read_to_end(stream).await;
    let events = events(&unchunked(&text));
    assert_eq!(events.last().unwrap().0, "done");
    assert_eq!(gateway.generator.cancelled(), 0);
    running.ended().await;
}

#[tokio::test]
async fn after_the_grace_period_streams_are_told_and_cancelled() {
    let gateway = slow(250, Duration::from_millis(200)).await;
    let mut running = Running::start(&gateway).await;
    let (stream, seen) = running.streaming().await;
    let started = Instant::now();
    running.shut_down();
    let text = seen + &read_to_end(stream).await;
    let events = events(&unchunked(&text));
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "error");
    assert_eq!(data["error"]["type"], ErrorKind::Unavailable.as_str());
    assert_eq!(data["error"]["message"], "the server is shutting down");
    running.ended().await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
    until("the generation is cancelled", || gateway.generator.cancelled() == 1).await;
}

#[tokio::test]
async fn an_idle_server_goes_down_at_once() {
    let gateway = slow(1, Duration::from_secs(30)).await;
    let mut running = Running::start(&gateway).await;
    let answer = read_to_end(running.send("GET /readyz", "").await).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let started = Instant::now();
    running.shut_down();
    running.ended().await;
    assert!(started.elapsed() < Duration::from_secs(2));
}
