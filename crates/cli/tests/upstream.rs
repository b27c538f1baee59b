//! The binary before another server: answers, accounts, traces, and what is in its logs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use support::World;

const DOCUMENT: &str = "# The harbour of Westmar\n\nThe harbour of Westmar was founded in 1742 by Quendolina Brandt.\n";
const QUESTION: &str = "Who founded the zyxwharbour of Westmar?";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// An OpenAI-compatible server that says five words to everything, and breaks off where `cut` says for a request's number.
struct Upstream {
    url: String,
    /// Headers and bodies of completions.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Upstream {
    fn start(cut: impl Fn(usize) -> Option<usize> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (shared, cut) = (Arc::clone(&seen), Arc::new(cut));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, cut) = (Arc::clone(&shared), Arc::clone(&cut));
                thread::spawn(move || serve(stream.unwrap(), &seen, cut.as_ref()));
            }
        });
        Self { url, seen }
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<(String, Value)>>,
    cut: &dyn Fn(usize) -> Option<usize>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if !head.starts_with("post /v1/completions") {
        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").ok();
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let prompt = body["prompt"].as_array().unwrap().len();
    let nth = {
        let mut seen = seen.lock().unwrap();
        seen.push((head, body));
        seen.len() - 1
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n").ok()?;
    let mut send = |event: Value| {
        let event = format!("data: {event}\n\n");
        write!(stream, "{:x}\r\n{event}\r\n", event.len()).ok()
    };
    for (i, word) in ["Quendolina", " Brandt", " founded", " it", "."].into_iter().enumerate() {
        if cut(nth) == Some(i) {
            return None;
        }
        send(
            json!({ "choices": [{ "index": 0, "text": word, "finish_reason": if i == 4 { json!("stop") } else { Value::Null } }] }),
        )?;
    }
    let cached = if nth == 0 { 0 } else { prompt / 2 };
    send(
        json!({ "choices": [], "usage": { "prompt_tokens": prompt, "completion_tokens": 5, "prompt_tokens_details": { "cached_tokens": cached } } }),
    )?;
    stream.write_all(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n").ok()
}

/// A server whose lines go to a file.
struct Server {
    child: Child,
    url: String,
    log: std::path::PathBuf,
}

impl Server {
    fn start(world: &World, settings: &str) -> Self {
        world.write("edgewise.toml", settings);
        let log = world.path("log");
        let mut command = world.command();
        command.args(["serve", "--port", "0"]).stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let failed = || panic!("the server did not start: {}", fs::read_to_string(&log).unwrap());
        let url = first.trim().strip_prefix("serving on ").map_or_else(failed, str::to_owned);
        Self { child, url, log }
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Option<String>, String) {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let request =
            agent.post(format!("{}{path}", self.url)).header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
        let mut response = request.send_json(body).unwrap();
        let trace = response.headers().get("traceparent").and_then(|v| v.to_str().ok()).map(str::to_owned);
        (response.status().as_u16(), trace, response.body_mut().read_to_string().unwrap())
    }

    fn usage(&self) -> Value {
        ureq::get(format!("{}/v1/usage?work=answer", self.url)).call().unwrap().body_mut().read_json().unwrap()
    }

    /// Ends it and gives its lines.
    fn log(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn world(upstream: &Upstream, telemetry: &str) -> (World, Server) {
    let world = World::with_models();
    world.write("docs/harbour.md", DOCUMENT);
    world.run(&["ingest", "docs", "--collection", "port"]).expect(0);
    let settings = format!(
        "[upstream]\nurls = [\"{}\"]\nmodel = \"m\"\nserver = \"openai\"\nprompt = \"tokens\"\nblock_tokens = 1\n[telemetry]\n{telemetry}",
        upstream.url
    );
    let server = Server::start(&world, &settings);
    (world, server)
}

#[test]
fn each_question_is_charged_once_and_a_broken_answer_as_far_as_it_came() {
    // The first answer is whole, the second breaks after two tokens, the third before any and is asked for again.
    let upstream = Upstream::start(|nth| match nth {
        1 => Some(2),
        2 => Some(0),
        _ => None,
    });
    let (_world, server) = world(&upstream, "log = \"warn\"\n");
    let question = json!({ "collection": "port", "question": QUESTION, "route": "full", "escalate": false });
    let (status, trace, body) = server.post("/v1/query", &question);
    assert_eq!(status, 200, "{body}");
    assert!(trace.unwrap().contains(TRACE));
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert!(answer["text"].as_str().unwrap().starts_with("Quendolina Brandt founded it"), "{body}");
    let (status, _, body) = server.post("/v1/query", &question);
    assert!(status >= 500, "{status} {body}");
    let (status, _, body) = server.post("/v1/query", &question);
    assert_eq!(status, 200, "{body}");
    let third: Value = serde_json::from_str(&body).unwrap();
    assert!(third["usage"]["cache_read_tokens"].as_u64().unwrap() > 0, "{body}");
    let seen = upstream.seen.lock().unwrap();
    assert_eq!(seen.len(), 4, "the broken one was not sent again, the one that had not begun was");
    assert!(seen.iter().all(|(head, _)| head.contains(&format!("traceparent: 00-{TRACE}-"))), "{}", seen[0].0);
    drop(seen);
    let usage = server.usage();
    assert_eq!(usage["totals"]["requests"], 3, "{usage}");
    assert_eq!(usage["totals"]["usage"]["output_tokens"], 5 + 2 + 5, "{usage}");
}

#[test]
fn no_text_is_in_the_logs_at_any_level_unless_it_is_asked_for() {
    for (log_texts, telemetry) in [(false, ""), (true, "log_texts = true\n")] {
        let upstream = Upstream::start(|_| None);
        let (_world, server) = world(&upstream, &format!("log = \"trace\"\nformat = \"json\"\n{telemetry}"));
        let chat = json!({ "model": "smollm2-135m-instruct", "messages": [{ "role": "user", "content": QUESTION }] });
        for (path, body) in [
            ("/v1/query", json!({ "collection": "port", "question": QUESTION })),
            ("/v1/query", json!({ "collection": "port", "question": QUESTION, "stream": true })),
            ("/v1/chat/completions", chat),
        ] {
            let (status, _, body) = server.post(path, &body);
            assert_eq!(status, 200, "{path}: {body}");
            assert!(body.contains("Quendolina"), "{body}");
        }
        let log = server.log();
        let lines: Vec<Value> = log
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert!(lines.iter().any(|line| line["trace_id"] == TRACE), "lines carry the trace of their request");
        assert!(lines.iter().any(|line| line["level"] == "TRACE" || line["level"] == "DEBUG"), "it is verbose");
        for text in ["zyxwharbour", "Quendolina"] {
            let found = log.lines().find(|line| line.contains(text));
            assert_eq!(found.is_some(), log_texts, "{text}: {found:?}");
        }
    }
}
