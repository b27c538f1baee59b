//! Clients that read slowly, stop reading, go away, or lie about what they send, over real connections. Afterwards every
//! place is free again and nothing was kept for them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use edgewise_gateway::{GatewayOptions, bind, serve};
use edgewise_test_support::ScriptedGenerator;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
};

use crate::harness::Gateway;

const ANSWERS: usize = 8;

/// A gateway that listens.
struct Listening {
    gateway: Gateway,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

async fn listening(answer: String, delay: Duration) -> Listening {
    let generator = ScriptedGenerator::replies([answer]).with_token_delay(delay).with_context_window(1_000_000);
    let options = GatewayOptions {
        max_concurrent_requests: ANSWERS,
        shutdown_grace: Duration::from_millis(200),
        ..GatewayOptions::default()
    };
    let gateway = Gateway::new(generator, options).with_corpus().await;
    let listener = bind(Ipv4Addr::LOCALHOST.into(), 0).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let state = gateway.state.clone();
    let served = tokio::spawn(async move {
        serve(listener, state, async {
            let _ = stopped.await;
        })
        .await
        .unwrap();
    });
    Listening { gateway, address, stop, served }
}

impl Listening {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection whose receive buffer is as small as the system allows.
    async fn narrow(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    fn request(&self, path: &str, body: &Value) -> Vec<u8> {
        let body = body.to_string();
        let (address, length) = (self.address, body.len());
        format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Waits until every place is free and the model is idle.
    async fn all_free(&self) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.gateway.state.free_answers() < ANSWERS {
            assert!(Instant::now() < deadline, "{} of {ANSWERS} places are free", self.gateway.state.free_answers());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.served).await.unwrap().unwrap();
    }
}

fn streamed() -> Value {
    json!({"collection": "guide", "question": "Who founded the harbour of Westmar?", "stream": true})
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_its_whole_answer_and_gives_its_place_back() {
    let world = listening("word ".repeat(400) + "end.", Duration::ZERO).await;
    let mut connection = world.narrow().await;
    connection.write_all(&world.request("/v1/query", &streamed())).await.unwrap();
    // Its place is free once the answer is there, however slowly it is read.
    let mut text = Vec::new();
    let mut piece = [0; 512];
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut reads = 0;
    while !text.windows(11).any(|window| window == b"event: done") {
        assert!(Instant::now() < deadline);
        let read = connection.read(&mut piece).await.unwrap();
        assert!(read > 0, "the connection ended before the answer: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
        reads += 1;
        if reads < 100 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    world.all_free().await;
    drop(connection);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_hold_no_place_and_little_memory() {
    // Long enough that no socket buffer swallows it.
    let world = listening("word ".repeat(20_000) + "end.", Duration::ZERO).await;
    let ask = json!({"model": "scripted", "max_tokens": 30_000, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let before = resident();
    let mut held = Vec::new();
    for _ in 0..ANSWERS {
        let mut connection = world.narrow().await;
        connection.write_all(&world.request("/v1/chat/completions", &ask)).await.unwrap();
        let mut head = [0; 64];
        connection.read_exact(&mut head).await.unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        held.push(connection);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = resident().saturating_sub(before);
    // Each answer is some 4 MB of events; what is held is the engine's tokens and a few events.
    assert!(grown < 64 << 20, "{} MB for {ANSWERS} readers that stopped", grown >> 20);
    drop(held);
    world.all_free().await;
    world.gateway.generator.wait_idle();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_cancel_their_answers() {
    let world = listening("word ".repeat(2_000) + "end.", Duration::from_millis(5)).await;
    for (path, body) in [
        ("/v1/query", streamed()),
        ("/v1/query", json!({"collection": "guide", "question": "Who founded the harbour of Westmar?"})),
        (
            "/v1/messages",
            json!({"model": "scripted", "max_tokens": 3000, "stream": true, "messages": [{"role": "user", "content": "x"}]}),
        ),
        ("/v1/chat/completions", json!({"model": "scripted", "messages": [{"role": "user", "content": "x"}]})),
    ] {
        let mut connection = world.connect().await;
        connection.write_all(&world.request(path, &body)).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while world.gateway.state.free_answers() == ANSWERS {
            assert!(Instant::now() < deadline, "{path} never began");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(connection);
        world.all_free().await;
    }
    world.gateway.generator.wait_idle();
    assert_eq!(world.gateway.generator.cancelled(), 4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_lengths_cost_nothing() {
    let world = listening("Fine.".to_owned(), Duration::ZERO).await;
    let host = world.address;
    let body = streamed().to_string();
    let head = |rest: &str| {
        format!("POST /v1/query HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{rest}\r\n\r\n")
    };
    let more = body.len() + 1000;
    let less = body.len() - 10;
    for (what, bytes, refused) in [
        ("more than it sends, then gone", head(&format!("content-length: {more}")) + &body, false),
        ("less than it sends", head(&format!("content-length: {less}")) + &body, true),
        ("a number that is none", head("content-length: many") + &body, true),
        ("more than is accepted", head("content-length: 99999999999") + &body, true),
        ("two lengths", head("content-length: 5\r\ncontent-length: 6") + &body, true),
        ("a chunk that is no number", head("transfer-encoding: chunked") + "zz\r\nhello\r\n0\r\n\r\n", true),
        ("a chunk longer than it is", head("transfer-encoding: chunked") + "ffffff\r\nhello", false),
        ("no request at all", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".to_owned(), true),
    ] {
        let mut connection = world.connect().await;
        connection.write_all(bytes.as_bytes()).await.unwrap();
        if refused {
            let mut text = vec![0; 256];
            let read = tokio::time::timeout(Duration::from_secs(10), connection.read(&mut text)).await;
            let read = read.unwrap_or_else(|_| panic!("no answer to {what}")).unwrap_or(0);
            let text = String::from_utf8_lossy(&text[..read]);
            assert!(read == 0 || text.starts_with("HTTP/1.1 4"), "{what}: {text}");
        }
        drop(connection);
    }
    world.all_free().await;
    // And it still works.
    let mut connection = world.connect().await;
    connection
        .write_all(&world.request("/v1/query", &json!({"collection": "guide", "question": "Who?"})))
        .await
        .unwrap();
    let mut head = [0; 12];
    connection.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    drop(connection);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_never_ends_is_not_waited_for_at_shutdown() {
    let world = listening("Fine.".to_owned(), Duration::ZERO).await;
    let mut connection = world.connect().await;
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{{",
        world.address
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.gateway.state.free_answers(), ANSWERS, "a place is taken only once the request is there");
    world.end().await;
}
