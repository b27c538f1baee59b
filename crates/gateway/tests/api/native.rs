//! Conversations on the server, keys against doing things twice, cursors, entity tags, batches and warm prefixes.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use edgewise_gateway::{ErrorKind, GatewayOptions};
use edgewise_test_support::ScriptedGenerator;
use serde_json::{Value, json};

use crate::harness::{Gateway, Reply, events, request};

const ANSWER: &str = "The harbour was founded in 1742 by Elsa Brandt [1].";
const QUESTION: &str = "Who founded the harbour of Westmar?";

/// A request with headers and a body of this type.
fn with(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    media_type: &str,
    body: impl Into<Body>,
) -> Request<Body> {
    let mut request = request(method, path, body.into());
    request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().unwrap());
    for (name, value) in headers {
        request.headers_mut().insert(header::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    request
}

async fn keyed(gateway: &Gateway, path: &str, key: &str, body: &Value) -> Reply {
    gateway.send(with(Method::POST, path, &[("idempotency-key", key)], "application/json", body.to_string())).await
}

async fn begin(gateway: &Gateway) -> String {
    let made = gateway.post("/v1/conversations", &json!({"collection": "guide"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(made.headers["location"], format!("/v1/conversations/{id}"));
    id
}

#[tokio::test]
async fn a_conversation_goes_on_from_what_the_server_kept() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let id = begin(&gateway).await;
    let ask = |question: &str| json!({"conversation": id, "question": question});
    let first = gateway.post("/v1/query", &ask(QUESTION)).await;
    let (request_id, first) = (first.headers["x-request-id"].to_str().unwrap().to_owned(), first.ok());
    let second = gateway.post("/v1/query", &ask("And what happened to its pier?")).await.ok();
    assert_eq!((first["turn"]["continues"].as_u64(), second["turn"]["continues"].as_u64()), (Some(0), Some(1)));
    // The same prompt as if the client had kept the turn itself.
    let own = json!({"collection": "guide", "question": "And what happened to its pier?", "history": [first["turn"]]});
    let own = gateway.post("/v1/query", &own).await.ok();
    assert_eq!(own["turn"], second["turn"]);
    // It survives the server.
    let gateway = gateway.restarted();
    let kept = gateway.get(&format!("/v1/conversations/{id}")).await.ok();
    assert_eq!(kept["conversation"]["turn_count"], 2);
    assert_eq!(kept["conversation"]["title"], QUESTION);
    assert_eq!(kept["turns"][0]["request_id"], request_id.as_str());
    assert_eq!(kept["turns"][0]["answer"], first["text"]);
    assert_eq!(kept["turns"][1]["turn"], second["turn"]);
    // Pages of its turns.
    let page = gateway.get(&format!("/v1/conversations/{id}?limit=1")).await.ok();
    assert_eq!(page["turns"].as_array().unwrap().len(), 1);
    let next = page["next"].as_str().unwrap();
    let page = gateway.get(&format!("/v1/conversations/{id}?limit=1&cursor={next}")).await.ok();
    assert_eq!((page["turns"][0]["n"].as_u64(), page["next"].as_str()), (Some(2), None));
    let listed = gateway.get("/v1/conversations?collection=guide").await.ok();
    assert_eq!(listed["conversations"].as_array().unwrap().len(), 1);
    // Looking at the routes adds nothing.
    let explained = gateway.post("/v1/routes/explain", &ask("By whom?")).await.ok();
    assert_eq!(explained["collection"], "guide");
    assert_eq!(gateway.get(&format!("/v1/conversations/{id}")).await.ok()["conversation"]["turn_count"], 2);
    assert_eq!(gateway.delete(&format!("/v1/conversations/{id}")).await.status, StatusCode::NO_CONTENT);
    gateway.get(&format!("/v1/conversations/{id}")).await.error(ErrorKind::UnknownConversation);
    gateway.post("/v1/query", &ask(QUESTION)).await.error(ErrorKind::UnknownConversation);
}

#[tokio::test]
async fn what_contradicts_a_conversation_is_refused() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let id = begin(&gateway).await;
    gateway.post("/v1/collections", &json!({"name": "other"})).await.ok();
    for (body, kind) in [
        (json!({"question": "x"}), ErrorKind::InvalidRequest),
        (json!({"question": "x", "conversation": id, "collection": "other"}), ErrorKind::InvalidRequest),
        (json!({"question": "x", "conversation": "conv_none"}), ErrorKind::UnknownConversation),
    ] {
        gateway.post("/v1/query", &body).await.error(kind);
    }
    for body in [json!({"collection": "nowhere"}), json!({"collection": "guide", "title": ""})] {
        assert!(gateway.post("/v1/conversations", &body).await.status.is_client_error(), "{body}");
    }
    let turn =
        gateway.post("/v1/query", &json!({"collection": "guide", "question": QUESTION})).await.ok()["turn"].clone();
    let both = json!({"question": "x", "conversation": id, "history": [turn]});
    gateway.post("/v1/query", &both).await.error(ErrorKind::InvalidRequest);
    assert_eq!(
        gateway.get(&format!("/v1/conversations/{id}")).await.ok()["turns"],
        json!([]),
        "nothing failed into it"
    );
}

#[tokio::test]
async fn one_question_at_a_time_in_a_conversation() {
    let generator = ScriptedGenerator::replies([ANSWER]).with_token_delay(Duration::from_millis(20));
    let gateway = Gateway::new(generator, GatewayOptions::default()).with_corpus().await;
    let id = begin(&gateway).await;
    let ask = json!({"conversation": id, "question": QUESTION});
    let (a, b) = tokio::join!(gateway.post("/v1/query", &ask), gateway.post("/v1/query", &ask));
    let (done, refused) = if a.status.is_success() { (a, b) } else { (b, a) };
    done.ok();
    refused.error(ErrorKind::Conflict);
    assert_eq!(refused.headers["retry-after"], "1");
    let kept = gateway.get(&format!("/v1/conversations/{id}")).await.ok();
    assert_eq!(kept["turns"].as_array().unwrap().len(), 1);
    // The end of a stream is told when the next question may come.
    let stream = json!({"conversation": id, "question": QUESTION, "stream": true});
    let streamed = gateway.post("/v1/query", &stream).await;
    assert_eq!(events(streamed.text()).last().unwrap().0, "done");
    gateway.post("/v1/query", &ask).await.ok();
}

#[tokio::test]
async fn a_key_does_a_question_once() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let ask = json!({"collection": "guide", "question": QUESTION});
    let first = keyed(&gateway, "/v1/query", "k1", &ask).await;
    let again = keyed(&gateway, "/v1/query", "k1", &ask).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.headers["x-original-request-id"], first.headers["x-request-id"]);
    assert_eq!(first.ok(), again.ok());
    assert_eq!(gateway.answers(9).len(), 1, "it was answered and paid for once");
    let other = json!({"collection": "guide", "question": "Another?"});
    keyed(&gateway, "/v1/query", "k1", &other).await.error(ErrorKind::IdempotencyMismatch);
    keyed(&gateway, "/v1/query", "a key", &ask).await.error(ErrorKind::InvalidRequest);
    // Streams come again as they were, byte for byte.
    let stream = json!({"collection": "guide", "question": QUESTION, "stream": true});
    let first = keyed(&gateway, "/v1/query", "k2", &stream).await;
    let again = keyed(&gateway, "/v1/query", "k2", &stream).await;
    assert_eq!(again.headers["content-type"], "text/event-stream");
    assert_eq!(first.text(), again.text());
    // In the dialects too.
    let chat = json!({"model": "scripted", "messages": [{"role": "user", "content": "x"}], "stream": true});
    let first = keyed(&gateway, "/v1/chat/completions", "k3", &chat).await;
    assert_eq!(first.text(), keyed(&gateway, "/v1/chat/completions", "k3", &chat).await.text());
    assert_eq!(gateway.answers(9).len(), 3);
    // Kept over a restart.
    let gateway = gateway.restarted();
    assert_eq!(keyed(&gateway, "/v1/query", "k1", &ask).await.headers["idempotent-replayed"], "true");
    assert_eq!(gateway.answers(9).len(), 0);
}

#[tokio::test]
async fn what_failed_is_done_anew_and_what_runs_is_not_done_twice() {
    let generator = ScriptedGenerator::replies([ANSWER]).with_token_delay(Duration::from_millis(20));
    let gateway = Gateway::new(generator, GatewayOptions::default());
    let ask = json!({"collection": "guide", "question": QUESTION});
    keyed(&gateway, "/v1/query", "k", &ask).await.error(ErrorKind::UnknownCollection);
    let gateway = gateway.with_corpus().await;
    let (a, b) = tokio::join!(keyed(&gateway, "/v1/query", "k", &ask), keyed(&gateway, "/v1/query", "k", &ask));
    let (done, refused) = if a.status.is_success() { (a, b) } else { (b, a) };
    refused.error(ErrorKind::Conflict);
    assert_eq!(keyed(&gateway, "/v1/query", "k", &ask).await.ok(), done.ok());
    // A conversation is begun once.
    let new = json!({"collection": "guide"});
    let first = keyed(&gateway, "/v1/conversations", "c", &new).await;
    let again = keyed(&gateway, "/v1/conversations", "c", &new).await;
    assert_eq!((again.status, &again.headers["location"]), (StatusCode::CREATED, &first.headers["location"]));
    let listed = gateway.get("/v1/conversations").await.ok();
    assert_eq!(listed["conversations"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_list_goes_on_where_its_cursor_says() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    for name in ["a", "b", "c"] {
        gateway.post("/v1/collections", &json!({"name": name})).await.ok();
        gateway.post("/v1/conversations", &json!({"collection": name})).await.ok();
    }
    for (path, list, key) in [
        ("/v1/collections", "collections", "/name"),
        ("/v1/collections/guide/documents", "documents", "/uri"),
        ("/v1/conversations", "conversations", "/id"),
    ] {
        let whole = gateway.get(path).await.ok();
        let names = |page: &Value| -> Vec<String> {
            let items = page[list].as_array().unwrap().iter();
            items.map(|item| item.pointer(key).unwrap().as_str().unwrap().to_owned()).collect()
        };
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = gateway.get(&format!("{path}?limit=2{cursor}")).await.ok();
            seen.extend(names(&page));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, names(&whole), "{path}");
        gateway.get(&format!("{path}?cursor=zz")).await.error(ErrorKind::InvalidRequest);
        gateway.get(&format!("{path}?limit=0")).await.error(ErrorKind::InvalidRequest);
    }
    let filtered = "/v1/collections/guide/documents?limit=1&filter=uri%20like%20'*.md'";
    let page = gateway.get(filtered).await.ok();
    let next = page["next"].as_str().unwrap();
    let second = gateway.get(&format!("{filtered}&cursor={next}")).await.ok();
    assert_ne!(page["documents"][0]["uri"], second["documents"][0]["uri"]);
    gateway
        .get(&format!("/v1/collections/guide/documents?offset=1&cursor={next}"))
        .await
        .error(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn a_client_is_spared_what_it_has_and_changes_only_what_it_saw() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let tag = |reply: &Reply| reply.headers["etag"].to_str().unwrap().to_owned();
    let get = |path: &str, tag: &str| {
        gateway.send(with(Method::GET, path, &[("if-none-match", tag)], "text/plain", Body::empty()))
    };
    let collection = gateway.get("/v1/collections/guide").await;
    let seen = tag(&collection);
    let unchanged = get("/v1/collections/guide", &seen).await;
    assert_eq!((unchanged.status, unchanged.body.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(tag(&unchanged), seen);
    let documents = gateway.get("/v1/collections/guide/documents").await.ok();
    let path = format!("/v1/collections/guide/documents/{}", documents["documents"][0]["id"].as_str().unwrap());
    let document = gateway.get(&path).await;
    assert_eq!(get(&path, &tag(&document)).await.status, StatusCode::NOT_MODIFIED);
    let text = gateway.get(&format!("{path}/text")).await;
    assert_eq!(get(&format!("{path}/text"), &tag(&text)).await.status, StatusCode::NOT_MODIFIED);

    // One document, replaced only as it was seen.
    let uri = document.json()["uri"].as_str().unwrap().to_owned();
    let put = |text: &str, header: &'static str, tag: &str| {
        let body = json!({"uri": uri, "text": text}).to_string();
        let path = "/v1/collections/guide/documents";
        gateway.send(with(Method::POST, path, &[(header, tag)], "application/json", body))
    };
    put("Other text, once.", "if-none-match", "*").await.error(ErrorKind::PreconditionFailed);
    put("Other text, once.", "if-match", &tag(&document)).await.ok();
    put("Other text, twice.", "if-match", &tag(&document)).await.error(ErrorKind::PreconditionFailed);
    let now = gateway.get(&path).await;
    assert_ne!(tag(&now), tag(&document));
    assert_eq!(get("/v1/collections/guide", &seen).await.status, StatusCode::OK, "the collection changed with it");

    // Many at once: one of them was first.
    let seen = tag(&now);
    let (a, b) = tokio::join!(put("By one.", "if-match", &seen), put("By the other.", "if-match", &seen));
    assert_eq!(u8::from(a.status.is_success()) + u8::from(b.status.is_success()), 1, "{a:?} {b:?}");

    let delete = |path: &str, tag: &str| {
        gateway.send(with(Method::DELETE, path, &[("if-match", tag)], "text/plain", Body::empty()))
    };
    delete(&path, &seen).await.error(ErrorKind::PreconditionFailed);
    let seen = tag(&gateway.get(&path).await);
    assert_eq!(delete(&path, &seen).await.status, StatusCode::NO_CONTENT);
    delete("/v1/collections/guide", "\"0\"").await.error(ErrorKind::PreconditionFailed);
    let again = json!({"name": "guide"}).to_string();
    let again = with(Method::POST, "/v1/collections", &[("if-none-match", "*")], "application/json", again);
    gateway.send(again).await.error(ErrorKind::PreconditionFailed);
    let seen = tag(&gateway.get("/v1/collections/guide").await);
    assert_eq!(delete("/v1/collections/guide", &seen).await.status, StatusCode::NO_CONTENT);
}

/// The job once it is over.
async fn finished(gateway: &Gateway, id: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let job = gateway.get(&format!("/v1/jobs/{id}")).await.ok();
        if ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap()) {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

const BATCH: &str = "/v1/collections/guide/documents:batch";

fn batch(media_type: &str, body: impl Into<Body>) -> Request<Body> {
    with(Method::POST, BATCH, &[], media_type, body)
}

#[tokio::test]
async fn a_batch_is_ingested_as_a_job() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let lines: String = (0..150)
        .map(|n| {
            json!({"uri": format!("notes/{n:03}.md"), "text": format!("Note {n}: the ferry leaves.")}).to_string()
                + "\n"
        })
        .collect();
    let accepted = gateway.send(batch("application/x-ndjson", lines + "\n")).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{}", accepted.text());
    let job = accepted.json();
    assert_eq!((job["kind"].as_str(), job["request"]["documents"].as_u64()), (Some("upload"), Some(150)));
    let id = job["id"].as_str().unwrap();
    assert_eq!(accepted.headers["location"], format!("/v1/jobs/{id}"));
    let done = finished(&gateway, id).await;
    assert_eq!(
        (done["state"].as_str(), done["done"].as_u64(), done["total"].as_u64()),
        (Some("done"), Some(150), Some(150))
    );
    assert_eq!(done["detail"]["added"], 150, "{done}");
    let listed = gateway.get("/v1/collections/guide/documents?limit=1000").await.ok();
    assert!(listed["total"].as_u64().unwrap() >= 150);

    // An archive; a file that can't be read keeps no other out.
    let archive = zipped(&[("a/one.md", b"One."), ("a/", b""), ("two.txt", b"Two."), ("bad.pdf", b"%PDF-1.4 no")]);
    let job = gateway.send(batch("application/zip", archive)).await.ok();
    let done = finished(&gateway, job["id"].as_str().unwrap()).await;
    assert_eq!((done["detail"]["added"].as_u64(), done["detail"]["failed"].as_u64()), (Some(2), Some(1)), "{done}");
    assert_eq!(done["detail"]["failures"][0]["uri"], "bad.pdf");
    let left = std::fs::read_dir(gateway.folder.path().join("_uploads")).unwrap().count();
    assert_eq!(left, 0, "nothing stays on disk of what is done");
}

#[tokio::test]
async fn a_batch_that_is_wrong_leaves_nothing_behind() {
    let options = GatewayOptions { max_batch_bytes: 20_000, max_upload_bytes: 5_000, ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies([ANSWER]), options).with_corpus().await;
    let line = |uri: &str, text: &str| json!({"uri": uri, "text": text}).to_string() + "\n";
    let bomb = zipped(&[
        ("zeros.txt", &vec![b'0'; 4_900]),
        ("more.txt", &vec![b'0'; 4_900]),
        ("x.txt", &vec![b'0'; 4_900]),
        ("y.txt", &vec![b'0'; 4_900]),
        ("z.txt", &vec![b'0'; 4_900]),
    ]);
    assert!(bomb.len() < 2_000);
    let many: String = (0..40).map(|n| line(&format!("{n}"), &"word ".repeat(200))).collect();
    for (media_type, body, kind) in [
        ("application/x-ndjson", Vec::new(), ErrorKind::InvalidRequest),
        ("application/x-ndjson", b"{\"uri\": \"a\"}\n".to_vec(), ErrorKind::MalformedRequest),
        ("application/x-ndjson", (line("a", "x") + &line("a", "y")).into_bytes(), ErrorKind::InvalidRequest),
        ("application/x-ndjson", line("a", &"x".repeat(6_000)).into_bytes(), ErrorKind::TooLarge),
        ("application/x-ndjson", many.into_bytes(), ErrorKind::TooLarge),
        ("application/zip", b"PK no archive".to_vec(), ErrorKind::MalformedRequest),
        ("application/zip", zipped(&[("../../etc/passwd", b"x")]), ErrorKind::MalformedRequest),
        ("application/zip", zipped(&[("big.txt", &vec![b'0'; 6_000])]), ErrorKind::TooLarge),
        ("application/zip", bomb, ErrorKind::TooLarge),
        ("text/plain", b"x".to_vec(), ErrorKind::UnsupportedMediaType),
    ] {
        let reply = gateway.send(batch(media_type, body)).await;
        reply.error(kind);
    }
    let left = std::fs::read_dir(gateway.folder.path().join("_uploads")).unwrap().count();
    assert_eq!(left, 0);
    assert_eq!(gateway.get("/v1/jobs").await.ok()["jobs"], json!([]));
}

#[tokio::test]
async fn a_batch_that_a_killed_server_accepted_is_ingested_by_the_next() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    // As a server leaves it that was killed before the job had its first turn.
    let folder = gateway.folder.path().join("_uploads/0123456789abcdef");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("bytes"), "First note.Second note.").unwrap();
    let entry =
        |uri: &str, start: u64, length: u64| json!({"uri": uri, "media_type": null, "start": start, "length": length});
    let manifest = json!({"job": "feedbeef00000000", "collection": "guide",
        "entries": [entry("one.txt", 0, 11), entry("two.txt", 11, 12)]});
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    // And one that never arrived as a whole.
    let torn = gateway.folder.path().join("_uploads/torn");
    std::fs::create_dir_all(&torn).unwrap();
    std::fs::write(torn.join("bytes"), "half").unwrap();
    let gateway = gateway.restarted();
    let deadline = Instant::now() + Duration::from_secs(20);
    while gateway.get("/v1/jobs/feedbeef00000000").await.status != StatusCode::OK {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let done = finished(&gateway, "feedbeef00000000").await;
    assert_eq!((done["state"].as_str(), done["detail"]["added"].as_u64()), (Some("done"), Some(2)), "{done}");
    let left = std::fs::read_dir(gateway.folder.path().join("_uploads")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn instructions_stand_in_the_prompt_and_the_rules_stay() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let ask = json!({"collection": "guide", "question": QUESTION, "instructions": "Speak like a pirate."});
    gateway.post("/v1/query", &ask).await.ok();
    let prompt = gateway.generator.prompts().pop().unwrap();
    assert!(prompt.contains("Speak like a pirate.") && prompt.contains("numbered passages"), "{prompt}");
    // A system prompt of a dialect is the same.
    let system = json!({"model": "edgewise/guide", "max_tokens": 50, "system": "Speak like a poet.",
        "messages": [{"role": "user", "content": QUESTION}]});
    gateway.post("/v1/messages", &system).await.ok();
    assert!(gateway.generator.prompts().pop().unwrap().contains("Speak like a poet."));
    let long = json!({"collection": "guide", "question": QUESTION, "instructions": "x".repeat(20_000)});
    gateway.post("/v1/query", &long).await.error(ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn the_stop_sequence_that_was_met_is_told() {
    let gateway = Gateway::saying("One two. Three four.").with_corpus().await;
    let mut request = json!({"model": "scripted", "max_tokens": 50, "stop_sequences": ["five", "Three", "four"],
        "messages": [{"role": "user", "content": "Count."}]});
    let whole = gateway.post("/v1/messages", &request).await.ok();
    assert_eq!(
        (whole["stop_reason"].as_str(), whole["stop_sequence"].as_str()),
        (Some("stop_sequence"), Some("Three"))
    );
    request["stream"] = json!(true);
    let events = events(gateway.post("/v1/messages", &request).await.text());
    let delta = &events[events.len() - 2].1["delta"];
    assert_eq!(delta["stop_sequence"], "Three");
    request["model"] = json!("edgewise/guide");
    request["stream"] = json!(false);
    let whole = gateway.post("/v1/messages", &request).await.ok();
    assert_eq!(whole["stop_sequence"], "Three", "{whole}");
}

#[tokio::test]
async fn warming_computes_what_questions_begin_with() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let warm = gateway.post("/v1/cache/prefixes", &json!({"collection": "guide", "ttl": "5m"})).await.ok();
    let tokens = warm["tokens"].as_u64().unwrap();
    assert!(tokens > 100, "{warm}");
    assert!(warm["usage"]["cache_write_5m_tokens"].as_u64().unwrap() > 0, "{warm}");
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!((record.route.as_str(), record.usage.output_tokens), ("warm", 1));
    assert!(record.cost.nanos() > 0);
    // A question then reads it.
    let ask = json!({"collection": "guide", "question": QUESTION, "route": "full"});
    let answer = gateway.post("/v1/query", &ask).await.ok();
    assert!(answer["usage"]["cache_read_tokens"].as_u64().unwrap() >= tokens, "{} of {tokens}", answer["usage"]);
    gateway.post("/v1/cache/prefixes", &json!({"collection": "nowhere"})).await.error(ErrorKind::UnknownCollection);
    let tree = json!({"collection": "guide", "route": "tree"});
    gateway.post("/v1/cache/prefixes", &tree).await.error(ErrorKind::InvalidRequest);
    assert_eq!(gateway.get("/v1/cache/prefixes").await.ok()["prefixes"], json!([]), "a scripted model keeps none");
    gateway.delete("/v1/cache/prefixes/7").await.error(ErrorKind::UnknownPrefix);
}
