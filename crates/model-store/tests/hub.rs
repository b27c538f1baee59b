//! The Hugging Face hub as a source, played by a server on the loopback address. It answers as the hub does to the
//! requests of the client: size and commit for a request of one byte, the rest of a file from any byte on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use common::{MODEL, Recorder, World};
use edgewise_model_store::{HubOptions, PullOptions, Pulled, StoreError};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Closes each of the first connections that deliver content after this many bytes.
    CutAfter {
        bytes: usize,
        connections: usize,
    },
    /// Delivers another content of the same size.
    Altered,
    /// Knows no file.
    NotFound,
}

struct Hub {
    endpoint: String,
    /// Request lines and ranges of requests for content, and the tokens sent.
    log: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start(files: Vec<(&'static str, Vec<u8>)>, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &files, fault, &shared);
            }
        });
        Self { endpoint, log }
    }

    fn options(&self, world: &World) -> PullOptions {
        let hub = HubOptions {
            endpoint: Some(self.endpoint.clone()),
            token: Some("secret".to_owned()),
            home: Some(world.path("hub-home")),
        };
        PullOptions { hub, ..PullOptions::default() }
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, files: &[(&str, Vec<u8>)], fault: Fault, log: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let header = |name: &str| {
        let line = head.iter().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.map(|line| line[name.len() + 2..].to_owned()).unwrap_or_default()
    };
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let file = files.iter().find(|(name, _)| path == format!("/owner/tiny/resolve/{COMMIT}/sub/{name}"));
    let (Some((name, content)), false) = (file, fault == Fault::NotFound) else {
        let _ = write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let range = header("range");
    let size = content.len();
    let common = format!("ETag: \"{name}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n");
    if range == "bytes=0-0" {
        let _ = write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\n{common}Content-Range: bytes 0-0/{size}\r\nContent-Length: 1\r\n\r\nx"
        );
        return;
    }
    let start: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    let deliveries = {
        let mut log = log.lock().unwrap();
        log.push(format!("{name} from {start} {}", header("authorization")));
        log.len()
    };
    let mut rest = content[start..].to_vec();
    if fault == Fault::Altered {
        rest.reverse();
    }
    let _ = write!(stream, "HTTP/1.1 206 Partial Content\r\n{common}Content-Length: {}\r\n\r\n", rest.len());
    match fault {
        Fault::CutAfter { bytes, connections } if deliveries <= connections => {
            let _ = stream.write_all(&rest[..bytes.min(rest.len())]);
        }
        _ => {
            let _ = stream.write_all(&rest);
        }
    }
}

fn world() -> World {
    World {
        sources: format!(
            "[[models.tiny.sources]]\ntype = \"huggingface\"\nrepo = \"owner/tiny\"\nrevision = \"{COMMIT}\"\n\
             files = {{ \"weights.gguf\" = \"sub/weights.gguf\", \"config.json\" = \"sub/config.json\" }}\n"
        ),
        ..World::new()
    }
}

#[test]
fn files_are_downloaded_with_the_token_and_nothing_is_kept_twice() {
    let world = world();
    let hub = Hub::start(world.files.clone(), Fault::None);
    let progress = Recorder::default();
    let pulled = world.store().pull(MODEL, &hub.options(&world), &progress).unwrap();
    assert!(matches!(&pulled, Pulled::Installed { origin, .. } if origin == "the Hugging Face hub (owner/tiny)"));
    assert_eq!(hub.log(), ["weights.gguf from 0 Bearer secret", "config.json from 0 Bearer secret"]);
    let lines = progress.lines();
    assert_eq!(lines[..2], ["start downloading weights.gguf 200000", "finish 200000"], "{lines:?}");
    assert_eq!(world.leftovers(), Vec::<String>::new());
    assert!(!world.path("hub-home").exists(), "the hub's own cache is not filled");
}

#[test]
fn a_broken_connection_is_taken_up_where_it_ended() {
    let world = world();
    let hub = Hub::start(world.files.clone(), Fault::CutAfter { bytes: 70_000, connections: 1 });
    world.store().pull(MODEL, &hub.options(&world), &Recorder::default()).unwrap();
    let starts: Vec<String> = hub.log();
    assert!(starts[1].starts_with("weights.gguf from 7"), "{starts:?}");
    assert_eq!(starts.len(), 3, "{starts:?}");
}

#[test]
fn what_a_failed_pull_downloaded_is_used_by_the_next() {
    let world = world();
    let cut = Hub::start(world.files.clone(), Fault::CutAfter { bytes: 30_000, connections: 99 });
    let error = world.store().pull(MODEL, &cut.options(&world), &Recorder::default()).unwrap_err();
    assert!(matches!(error, StoreError::AllSourcesFailed { .. }), "{error}");
    assert_eq!(world.leftovers(), ["tiny.hub"]);
    let whole = Hub::start(world.files.clone(), Fault::None);
    world.store().pull(MODEL, &whole.options(&world), &Recorder::default()).unwrap();
    let first = &whole.log()[0];
    assert!(first.starts_with("weights.gguf from ") && !first.starts_with("weights.gguf from 0"), "{first}");
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn altered_content_is_refused_and_not_kept() {
    let world = world();
    let hub = Hub::start(world.files.clone(), Fault::Altered);
    let error = world.store().pull(MODEL, &hub.options(&world), &Recorder::default()).unwrap_err();
    assert!(matches!(error, StoreError::Checksum { .. }), "{error}");
    world.assert_untouched();
}

#[test]
fn a_file_the_hub_does_not_have_is_named() {
    let world = world();
    let hub = Hub::start(Vec::new(), Fault::NotFound);
    let message = world.store().pull(MODEL, &hub.options(&world), &Recorder::default()).unwrap_err().to_string();
    assert!(
        message.contains("sub/weights.gguf") && message.contains("(owner/tiny)") && message.contains("404"),
        "{message}"
    );
    world.assert_untouched();
}

#[test]
fn the_cache_of_the_hubs_own_tools_is_used() {
    let world = world();
    let snapshot = format!("hub-home/hub/models--owner--tiny/snapshots/{COMMIT}/sub");
    world.plain_files(&snapshot, |_, content| content.to_vec());
    // Another size: not finished by the other tool, so it is not taken.
    fs::write(world.path(&snapshot).join("config.json"), "{").unwrap();
    let hub = Hub::start(world.files.clone(), Fault::None);
    world.store().pull(MODEL, &hub.options(&world), &Recorder::default()).unwrap();
    assert_eq!(hub.log(), ["config.json from 0 Bearer secret"]);
}
