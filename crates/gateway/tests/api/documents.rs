//! Uploads, lists, texts and deletes.

use axum::{
    body::Body,
    http::{Method, StatusCode, header},
};
use edgewise_gateway::{ErrorKind, GatewayOptions};
use edgewise_test_support::{ScriptedGenerator, corpus};
use serde_json::{Value, json};

use crate::harness::{Gateway, request};

async fn empty() -> Gateway {
    let gateway = Gateway::saying("yes");
    gateway.post("/v1/collections", &json!({"name": "notes"})).await.ok();
    gateway
}

/// URI and outcome of each line of a report.
fn outcomes(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["sources"].as_array().unwrap().iter().map(|s| (text(&s["uri"]), text(&s["outcome"]))).collect()
}

#[tokio::test]
async fn each_file_of_an_upload_gets_its_own_outcome() {
    let gateway = empty().await;
    let binary: Vec<u8> = (0..4096u32).map(|i| (i * 31 % 256) as u8).collect();
    let files: [(&str, &[u8]); 3] =
        [("a.md", b"# A\n\nText of a."), ("picture.bin", &binary), ("deep/b.txt", b"Text of b.")];
    let report = gateway.upload("notes", &files).await;
    assert_eq!(report.status, StatusCode::OK, "{}", report.text());
    let pairs = outcomes(&report.json());
    let expected = [("a.md", "added"), ("deep/b.txt", "added"), ("picture.bin", "failed")];
    assert_eq!(pairs, expected.map(|(uri, outcome)| (uri.to_owned(), outcome.to_owned())));
    let failed = report.json()["sources"][2].clone();
    assert!(!failed["reason"].as_str().unwrap().is_empty(), "{failed}");

    let again = gateway.upload("notes", &[("a.md", b"# A\n\nOther text."), ("deep/b.txt", b"Text of b.")]).await.ok();
    let kinds: Vec<String> = outcomes(&again).into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(kinds, ["changed", "unchanged"]);
}

#[tokio::test]
async fn a_text_can_be_sent_as_json() {
    let gateway = empty().await;
    let path = "/v1/collections/notes/documents";
    let report = gateway.post(path, &json!({"uri": "memo.md", "text": "# Memo\n\nBuy bread."})).await.ok();
    assert_eq!(outcomes(&report), [("memo.md".to_owned(), "added".to_owned())]);
    let typed = json!({"uri": "memo", "text": "<h1>Memo</h1><p>Bread</p>", "media_type": "text/html"});
    assert_eq!(outcomes(&gateway.post(path, &typed).await.ok())[0].1, "added");

    for wrong in [
        json!({"uri": "", "text": "x"}),
        json!({"uri": "a\nb", "text": "x"}),
        json!({"uri": "x".repeat(2000), "text": "x"}),
    ] {
        gateway.post(path, &wrong).await.error(ErrorKind::InvalidRequest);
    }
    gateway.post(path, &json!({"uri": "a.md"})).await.error(ErrorKind::MalformedRequest);
}

#[tokio::test]
async fn documents_are_listed_in_pages_and_deleted() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    let path = "/v1/collections/guide/documents";
    let page = gateway.get(&format!("{path}?offset=1&limit=2")).await.ok();
    let uris: Vec<&str> = page["documents"].as_array().unwrap().iter().map(|d| d["uri"].as_str().unwrap()).collect();
    assert_eq!(uris, ["harbour.md", "sourdough.md"]);
    assert_eq!((&page["total"], &page["offset"]), (&json!(4), &json!(1)));

    let id = page["documents"][0]["id"].as_str().unwrap();
    let one = format!("{path}/{id}");
    assert_eq!(gateway.get(&one).await.ok(), page["documents"][0]);
    assert_eq!(gateway.delete(&one).await.status, StatusCode::NO_CONTENT);
    gateway.get(&one).await.error(ErrorKind::UnknownDocument);
    gateway.delete(&one).await.error(ErrorKind::UnknownDocument);
    gateway.get(&format!("{one}/text")).await.error(ErrorKind::UnknownDocument);
    assert_eq!(gateway.get(path).await.ok()["total"], 3);

    for wrong in ["limit=0", "limit=1001", "limit=many", "offset=-1", "page=2"] {
        gateway.get(&format!("{path}?{wrong}")).await.error(ErrorKind::InvalidRequest);
    }
}

#[tokio::test]
async fn a_text_is_read_whole_or_between_two_characters() {
    let gateway = empty().await;
    let text = "Größe und Maß.";
    gateway.post("/v1/collections/notes/documents", &json!({"uri": "a.txt", "text": text})).await.ok();
    let list = gateway.get("/v1/collections/notes/documents").await.ok();
    let path = format!("/v1/collections/notes/documents/{}/text", list["documents"][0]["id"].as_str().unwrap());
    let whole = gateway.get(&path).await;
    assert_eq!(whole.headers[header::CONTENT_TYPE], "text/plain; charset=utf-8");
    assert_eq!(whole.text().trim_end(), text);
    assert_eq!(gateway.get(&format!("{path}?start=0&end=7")).await.text(), "Größe");
    assert_eq!(gateway.get(&format!("{path}?start=8&end=11")).await.text(), "und");
    assert_eq!(gateway.get(&format!("{path}?end=2")).await.text(), "Gr");
    for wrong in ["start=3", "end=3", "start=9&end=8", "end=1000", "start=-1"] {
        gateway.get(&format!("{path}?{wrong}")).await.error(ErrorKind::InvalidRequest);
    }
}

#[tokio::test]
async fn wrong_uploads_are_refused() {
    let options = GatewayOptions { max_upload_bytes: 2000, ..GatewayOptions::default() };
    let gateway = Gateway::new(ScriptedGenerator::replies(["yes"]), options);
    gateway.post("/v1/collections", &json!({"name": "notes"})).await.ok();
    let large = vec![b'x'; 4000];
    gateway.upload("notes", &[("large.txt", &large)]).await.error(ErrorKind::TooLarge);
    let text = json!({"uri": "large.txt", "text": "x".repeat(4000)});
    let message = gateway.post("/v1/collections/notes/documents", &text).await.error(ErrorKind::TooLarge);
    assert!(message.contains("2000 bytes"), "{message}");
    gateway.upload("notes", &[]).await.error(ErrorKind::InvalidRequest);
    gateway.upload("nowhere", &[("a.md", b"# A")]).await.error(ErrorKind::UnknownCollection);

    let send = async |media_type: &str, body: &str| {
        let mut request = request(Method::POST, "/v1/collections/notes/documents", Body::from(body.to_owned()));
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().unwrap());
        gateway.send(request).await
    };
    send("text/plain", "hello").await.error(ErrorKind::UnsupportedMediaType);
    send("multipart/form-data", "no boundary").await.error(ErrorKind::MalformedRequest);
    send("multipart/form-data; boundary=b", "--b\r\nnot a part").await.error(ErrorKind::MalformedRequest);
    let nameless = "--b\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\ntext\r\n--b--\r\n";
    let message = send("multipart/form-data; boundary=b", nameless).await.error(ErrorKind::MalformedRequest);
    assert!(message.contains("file name"), "{message}");
    assert_eq!(gateway.get("/v1/collections/notes/documents").await.ok()["total"], 0);
}

#[tokio::test]
async fn what_was_uploaded_can_be_asked_for() {
    let gateway = Gateway::saying("It flashes twice every 15 seconds [1].");
    gateway.post("/v1/collections", &json!({"name": "notes"})).await.ok();
    let (uri, text) = corpus::DOCUMENTS[1];
    gateway.upload("notes", &[(uri, text.as_bytes())]).await.ok();
    let answer = gateway
        .post("/v1/query", &json!({"collection": "notes", "question": "How often does the lighthouse flash?"}))
        .await;
    assert_eq!(answer.ok()["citations"][0]["uri"], "harbour.md", "{}", answer.text());
}

#[tokio::test]
async fn an_upload_brings_the_passwords_of_its_files() {
    const ENCRYPTED: &[u8] = include_bytes!("../../../documents/tests/fixtures/encrypted.pdf");
    let gateway = empty().await;
    let files = [("cave.pdf", ENCRYPTED)];
    let reason = |report: &Value| report["sources"][0]["reason"].as_str().unwrap_or_default().to_owned();
    let without = gateway.upload("notes", &files).await.ok();
    assert!(reason(&without).contains("no password was given") && reason(&without).contains("`password`"), "{without}");
    let wrong = gateway.upload_with("notes", &files, &["wrong"]).await.ok();
    assert!(reason(&wrong).contains("none of the given passwords opens it"), "{wrong}");
    assert!(!wrong.to_string().contains("`wrong`"), "{wrong}");
    let right = gateway.upload_with("notes", &files, &["wrong", "open sesame"]).await.ok();
    assert_eq!(outcomes(&right), [("cave.pdf".to_owned(), "added".to_owned())]);
    let question = json!({"query": "behind the rock", "limit": 1});
    let hits = gateway.post("/v1/collections/notes/search", &question).await.ok();
    assert_eq!(hits["hits"][0]["chunk"]["pages"], json!({"first": 1, "last": 1}), "{hits}");
    gateway.upload_with("notes", &[], &["open sesame"]).await.error(ErrorKind::InvalidRequest);
}
