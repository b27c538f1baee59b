//! The whole path with real models: quickstart, ingest of good and bad files, questions, and the server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::World;

const FERNS: &str = "# Ferns\n\n## Water\n\nWater the ferns every 3 days in summer. In winter, once a week is enough.\n\n\
    ## Light\n\nFerns want shade. Direct sun burns their fronds within hours.\n";
const BIKES: &str =
    "# Bicycles\n\n## Chain\n\nOil the chain every 200 kilometres. A dry chain wears out the sprockets.\n";

fn garden() -> World {
    let world = World::with_models();
    world.write("notes/ferns.md", FERNS);
    world.write("notes/bikes.md", BIKES);
    world
}

/// Every citation's quote must stand in the source at its span; the sources here normalise to themselves but for markup.
fn check_citations(answer: &Value) {
    for citation in answer["citations"].as_array().unwrap() {
        let quote = citation["quote"].as_str().unwrap();
        let source = if citation["uri"] == "ferns.md" { FERNS } else { BIKES };
        let flat = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ").replace('#', "");
        assert!(flat(source).contains(flat(quote).trim()), "{quote}");
    }
}

#[test]
fn quickstart_answers_from_the_guide() {
    let world = World::with_models();
    let ran = world.run(&["quickstart", "--yes", "--no-serve"]).expect(0);
    let text = ran.stdout();
    for part in ["Routes", "passages", "documents", "full", "Used", "tokens", "cost", "prefill"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(!text.contains("the whole scope needs"), "the sample model can read the whole sample: {text}");
    // The second time everything is there already.
    let again = world.run(&["quickstart", "--yes", "--no-serve"]).expect(0).stdout();
    assert!(again.contains("0 chunks embedded"), "{again}");
}

#[test]
fn ingest_search_and_query_without_a_server() {
    let world = garden();
    let report = world.run(&["ingest", "notes", "--collection", "garden", "--json"]).expect(0).json();
    let outcomes: Vec<&str> =
        report["report"]["sources"].as_array().unwrap().iter().map(|s| s["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["added", "added"]);

    let hits = world.run(&["search", "how often do ferns need water?", "-c", "garden", "--json"]).expect(0).json();
    assert_eq!(hits["hits"][0]["uri"], "ferns.md", "{hits}");
    assert!(hits["hits"][0]["lexical"]["score"].as_f64().unwrap() > 0.0);
    assert!(hits["hits"][0]["vector"]["score"].as_f64().unwrap() > 0.0);

    let answer = world
        .run(&["query", "How often should ferns be watered in summer?", "-c", "garden", "--json"])
        .expect(0)
        .json();
    assert!(!answer["text"].as_str().unwrap().trim().is_empty());
    let usage = &answer["usage"];
    let prompt: u64 = ["input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"]
        .iter()
        .map(|key| usage[key].as_u64().unwrap())
        .sum();
    let chosen = &answer["explanation"]["candidates"][0];
    assert_eq!(chosen["prompt_tokens"].as_u64().unwrap(), prompt, "the predicted prompt length is exact");
    assert_eq!(answer["prompt_map"].as_array().unwrap().last().unwrap()["end"].as_u64().unwrap(), prompt);
    check_citations(&answer);

    // Content decides what is new; --prune removes what is gone.
    world.write("notes/ferns.md", FERNS.replace("3 days", "4 days"));
    std::fs::remove_file(world.path("notes/bikes.md")).unwrap();
    let report = world.run(&["ingest", "notes", "-c", "garden", "--prune", "--json"]).expect(0).json();
    let sources = report["report"]["sources"].as_array().unwrap();
    assert_eq!(sources[0]["outcome"], "removed");
    assert_eq!(sources[1]["outcome"], "changed");
}

#[test]
fn bad_files_fail_alone() {
    let world = garden();
    world.write("notes/empty.md", "");
    world.write("notes/picture.md", [0x89, b'P', b'N', b'G', 0, 0, 0, 1, 2, 3, 0, 0]);
    world.write("notes/wide.txt", [0xff, 0xfe, b'h', 0, b'i', 0, b'!', 0]);
    world.write("notes/deep.html", "<div>".repeat(50_000) + "deep");
    let ran = world.run(&["ingest", "notes", "--collection", "garden", "--json"]).expect(3);
    let report = ran.json();
    let outcome = |uri: &str| {
        let sources = report["report"]["sources"].as_array().unwrap();
        sources.iter().find(|s| s["uri"] == uri).unwrap_or_else(|| panic!("{uri}: {report}")).clone()
    };
    assert_eq!(outcome("ferns.md")["outcome"], "added");
    assert_eq!(outcome("wide.txt")["outcome"], "added", "UTF-16 is understood");
    for bad in ["empty.md", "picture.md"] {
        let line = outcome(bad);
        assert_eq!(line["outcome"], "failed", "{line}");
        assert!(line["reason"].as_str().unwrap().len() > 10);
    }
}

#[test]
fn questions_that_cannot_be_answered_say_why() {
    let world = garden();
    world.run(&["query", "why?", "-c", "nothing"]).fails_with(4, &["nothing"]);
    world.run(&["ingest", "notes", "-c", "garden"]).expect(0);
    world.run(&["query", "why?", "-c", "gardn"]).fails_with(4, &["gardn", "garden"]);
    world.run(&["query", "   ", "-c", "garden"]).fails_with(2, &["empty"]);
    let long = "why ".repeat(20_000);
    world.run(&["query", &long, "-c", "garden"]).fails_with(6, &["tokens"]);
    world
        .run(&["query", "How often do ferns need water?", "-c", "garden", "--max-input-tokens", "20"])
        .fails_with(6, &["20"]);
    world.run(&["query", "How often?", "-c", "garden", "--max-cost", "0.000000001"]).fails_with(6, &["cost"]);
    world.run(&["query", "How often?", "-c", "garden", "--temperature", "99"]).fails_with(2, &["temperature"]);
    world.run(&["ingest", "no-such-folder", "-c", "garden"]).fails_with(2, &["no-such-folder"]);
    world.run(&["collections", "info", "garden"]).expect(0);
}

#[test]
fn a_spent_budget_stops_answers_without_a_server_too() {
    let world = garden();
    world.run(&["ingest", "notes", "-c", "garden"]).expect(0);
    let ask = ["query", "How often do ferns need water?", "-c", "garden", "--max-tokens", "8", "--json"];
    let limit = |most| {
        let set = ["usage", "budgets", "set", "tight", "--period", "day", "--hard", "--limit", most];
        world.run(&set).expect(0);
    };
    world.run(&ask).expect(0);
    limit("0.000000001");
    world.run(&ask).fails_with(5, &["tight", "usage budgets set"]);
    world.run(&["tree", "build", "garden"]).fails_with(5, &["tight"]);
    limit("10");
    world.run(&ask).expect(0);
}

#[test]
fn a_server_answers_streams_and_stops() {
    let world = garden();
    let mut server = world.serve();
    let url = server.url.clone();

    // The CLI finds the server and works through it: the collection's lock stays with the server.
    let report = world.run(&["ingest", "notes", "-c", "garden", "--json"]).expect(0).json();
    assert_eq!(report["report"]["sources"].as_array().unwrap().len(), 2, "{report}");
    world.run(&["ingest", "notes", "-c", "garden", "--local", "--json"]).fails_with(5, &["locked"]);
    world.run(&["serve", "--port", "0"]).fails_with(5, &["already running"]);
    let text = world.run(&["query", "How often should I oil the chain?", "-c", "garden"]).expect(0).stdout();
    assert!(text.contains("Routes"), "{text}");

    let question = json!({ "collection": "garden", "question": "Do ferns like direct sun?" });
    let mut response = ureq::post(format!("{url}/v1/query")).send_json(&question).unwrap();
    let answer: Value = response.body_mut().read_json().unwrap();
    check_citations(&answer);

    // The same question again: the whole prompt but its last token is resident.
    let mut response = ureq::post(format!("{url}/v1/query")).send_json(&question).unwrap();
    let warm: Value = response.body_mut().read_json().unwrap();
    assert_eq!(warm["text"], answer["text"], "greedy output is the same cached and cold");
    assert!(warm["usage"]["cache_read_tokens"].as_u64() > answer["usage"]["cache_read_tokens"].as_u64());

    let mut streaming = question.clone();
    streaming["stream"] = json!(true);
    let mut response = ureq::post(format!("{url}/v1/query")).send_json(&streaming).unwrap();
    let events = response.body_mut().read_to_string().unwrap();
    for event in ["event: plan", "event: sources", "event: token", "event: usage", "event: done"] {
        assert!(events.contains(event), "{event} is missing in: {events}");
    }

    for path in ["/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/usage", "/v1/collections"] {
        let status = ureq::get(format!("{url}{path}")).call().unwrap().status();
        assert_eq!(status, 200, "{path}");
    }
    let usage: Value = ureq::get(format!("{url}/v1/usage")).call().unwrap().body_mut().read_json().unwrap();
    assert!(usage.to_string().contains("garden"), "{usage}");

    let start = Instant::now();
    assert_eq!(server.interrupt(), 0);
    assert!(start.elapsed() < Duration::from_secs(30));
    // It has let go of everything: the collection can be written again, and nothing is found at its address.
    world.run(&["ingest", "notes", "-c", "garden", "--json"]).expect(0);
}

#[test]
fn a_taken_port_is_said_before_any_model_is_loaded() {
    let world = World::empty();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    world.run(&["serve", "--port", &port]).fails_with(5, &["taken", "--port"]);
    world.run(&["quickstart", "--yes", "--port", &port]).fails_with(5, &["taken", "--port"]);
}

#[test]
fn an_answer_ends_when_its_reader_is_gone() {
    let world = garden();
    world.run(&["ingest", "notes", "-c", "garden"]).expect(0);
    let server = world.serve();
    let address = server.url.strip_prefix("http://").unwrap();
    let body = json!({ "collection": "garden", "question": "Tell me everything about ferns.", "stream": true,
        "max_output_tokens": 512 })
    .to_string();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /v1/query HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut first = [0; 256];
    assert!(stream.read(&mut first).unwrap() > 0);
    drop(stream);
    // The engine is free again long before 512 tokens could have been decoded: a short question is answered at once.
    let question = json!({ "collection": "garden", "question": "Do ferns like sun?", "max_output_tokens": 4 });
    let mut response = ureq::post(format!("{}/v1/query", server.url)).send_json(&question).unwrap();
    let answer: Value = response.body_mut().read_json().unwrap();
    assert!(answer["timings"]["queue_ms"].as_f64().unwrap() < 2_000.0, "{answer}");
}
