//! Collections and search.

use axum::http::StatusCode;
use edgewise_gateway::ErrorKind;
use serde_json::json;

use crate::harness::Gateway;

#[tokio::test]
async fn a_collection_is_made_listed_looked_at_and_deleted() {
    let gateway = Gateway::saying("yes");
    assert_eq!(gateway.get("/v1/collections").await.ok(), json!({"collections": [], "damaged": [], "next": null}));

    let made = gateway.post("/v1/collections", &json!({"name": "notes"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.json()["documents"], 0);
    let again = gateway.post("/v1/collections", &json!({"name": "notes"})).await;
    assert_eq!(again.status, StatusCode::OK, "making it again changes nothing");

    let list = gateway.get("/v1/collections").await.ok();
    assert_eq!(list["collections"][0]["name"], "notes");
    assert_eq!(gateway.get("/v1/collections/notes").await.ok(), list["collections"][0]);

    assert_eq!(gateway.delete("/v1/collections/notes").await.status, StatusCode::NO_CONTENT);
    gateway.get("/v1/collections/notes").await.error(ErrorKind::UnknownCollection);
    gateway.delete("/v1/collections/notes").await.error(ErrorKind::UnknownCollection);
}

#[tokio::test]
async fn search_finds_the_document_and_says_how() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    let path = "/v1/collections/guide/search";
    let found = gateway.post(path, &json!({"query": "lighthouse flashes", "limit": 3})).await.ok();
    let hits = found["hits"].as_array().unwrap();
    assert!(!hits.is_empty() && hits.len() <= 3);
    assert_eq!(hits[0]["uri"], "harbour.md");
    assert!(hits[0]["lexical"]["rank"].is_u64(), "{}", hits[0]);

    let fused = json!({"query": "lighthouse", "fusion": {"method": "convex", "lexical_weight": 0.5}});
    gateway.post(path, &fused).await.ok();
    let telescope = gateway.get("/v1/collections/guide/documents").await.ok()["documents"][3]["id"].clone();
    let only = gateway.post(path, &json!({"query": "lighthouse flashes", "documents": [telescope]})).await.ok();
    assert!(only["hits"].as_array().unwrap().iter().all(|hit| hit["uri"] == "telescope.md"));

    for (wrong, kind) in [
        (json!({"query": "x", "limit": 0}), ErrorKind::InvalidRequest),
        (json!({"query": "x", "limit": 1001}), ErrorKind::InvalidRequest),
        (json!({"query": "  "}), ErrorKind::InvalidRequest),
        (json!({"query": "x", "documents": ["nonsense"]}), ErrorKind::InvalidName),
        (json!({"query": "x", "fusion": {"method": "magic"}}), ErrorKind::MalformedRequest),
    ] {
        gateway.post(path, &wrong).await.error(kind);
    }
    // This server has no reranker: going without is fine, wanting one says what to set.
    assert_eq!(found["rerank_ms"], 0.0);
    gateway.post(path, &json!({"query": "lighthouse", "rerank": false})).await.ok();
    let wanting = gateway.post(path, &json!({"query": "lighthouse", "rerank": true})).await;
    assert!(wanting.error(ErrorKind::InvalidRequest).contains("`retrieval.reranker`"));
}

#[tokio::test]
async fn a_damaged_collection_is_reported_beside_the_others_without_its_path() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    gateway.post("/v1/collections", &json!({"name": "broken"})).await.ok();
    let folder = gateway.folder.path().join("broken");
    for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            std::fs::write(entry, "this is not what it was").unwrap();
        }
    }
    // A second server over the same folder, as after a restart.
    let gateway = gateway.restarted();
    let list = gateway.get("/v1/collections").await.ok();
    assert_eq!(list["collections"][0]["name"], "guide");
    assert_eq!(list["damaged"][0]["name"], "broken", "{list}");
    let message = list["damaged"][0]["error"]["message"].as_str().unwrap();
    assert!(!message.contains(gateway.folder.path().to_str().unwrap()), "{message}");
}

#[tokio::test]
async fn a_collection_another_process_writes_to_is_a_conflict() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    let gateway = gateway.restarted();
    // The lock is one of the operating system, so a second handle is as good as a second process.
    let lock = std::fs::File::options().write(true).open(gateway.folder.path().join(".locks/guide")).unwrap();
    lock.lock().unwrap();
    let message = gateway.upload("guide", &[("new.md", b"# New")]).await.error(ErrorKind::Conflict);
    assert!(message.contains("`guide`"), "{message}");
    gateway.get("/v1/collections/guide/documents").await.ok();
    lock.unlock().unwrap();
    gateway.upload("guide", &[("new.md", b"# New\n\nText.")]).await.ok();
}

#[tokio::test]
async fn a_collection_is_checked_compacted_renamed_and_downloaded() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    let report = gateway.post("/v1/collections/guide/check", &json!({})).await.ok();
    assert_eq!(report["findings"], json!([]), "{report}");
    let documents = report["documents"].as_u64().unwrap();

    // The server has written to it and holds its lock; it makes way for itself.
    let compacted = gateway.post("/v1/collections/guide/compact", &json!({})).await.ok();
    assert!(compacted["bytes_after"].as_u64().unwrap() > 0, "{compacted}");
    std::fs::remove_dir_all(gateway.folder.path().join("guide/lexical")).unwrap();
    let repaired = gateway.post("/v1/collections/guide/repair", &json!({})).await.ok();
    assert_eq!(
        (&repaired["before"]["findings"][0]["part"], &repaired["after"]["findings"]),
        (&json!("lexical"), &json!([]))
    );

    let export = gateway.get("/v1/collections/guide/export").await;
    assert_eq!(export.status, StatusCode::OK);
    assert_eq!(export.headers["content-disposition"], "attachment; filename=\"guide.edgewise\"");
    let file = gateway.folder.path().join("downloaded");
    std::fs::write(&file, &export.body).unwrap();
    let imported = edgewise_retrieval::import(gateway.folder.path(), &"copy".parse().unwrap(), &file).unwrap();
    assert_eq!(imported.documents as u64, documents);
    assert_eq!(gateway.get("/v1/collections/copy").await.ok()["documents"], documents);

    let path = "/v1/collections/guide/rename";
    gateway.post(path, &json!({"name": "copy"})).await.error(ErrorKind::Conflict);
    gateway.post(path, &json!({"name": "no/name"})).await.error(ErrorKind::InvalidName);
    assert_eq!(gateway.post(path, &json!({"name": "handbook"})).await.ok()["name"], "handbook");
    gateway.get("/v1/collections/guide").await.error(ErrorKind::UnknownCollection);
    let query = json!({"query": "lighthouse flashes"});
    let found = gateway.post("/v1/collections/handbook/search", &query).await.ok();
    assert_eq!(found["hits"][0]["uri"], "harbour.md");
    gateway.upload("handbook", &[("new.md", b"# New\n\nText.")]).await.ok();
    for path in ["check", "compact", "repair"] {
        let path = format!("/v1/collections/guide/{path}");
        gateway.post(&path, &json!({})).await.error(ErrorKind::UnknownCollection);
    }
    gateway.get("/v1/collections/guide/export").await.error(ErrorKind::UnknownCollection);
    let left: Vec<String> = std::fs::read_dir(gateway.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".export"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_damaged_catalog_says_what_to_do_and_names_no_file() {
    let gateway = Gateway::saying("yes").with_corpus().await.restarted();
    let catalog = gateway.folder.path().join("guide/catalog.sqlite");
    let _ = std::fs::remove_file(gateway.folder.path().join("guide/catalog.sqlite-wal"));
    let mut bytes = std::fs::read(&catalog).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&catalog, bytes).unwrap();
    let report = gateway.post("/v1/collections/guide/check", &json!({})).await.ok();
    assert_eq!(report["findings"][0]["part"], "catalog", "{report}");
    let root = gateway.folder.path().to_str().unwrap();
    assert!(!report.to_string().contains(root), "{report}");
    let message = gateway.post("/v1/collections/guide/repair", &json!({})).await.error(ErrorKind::Internal);
    assert!(message.contains("import an export") && !message.contains(root), "{message}");

    let gateway = Gateway::saying("yes").with_corpus().await.restarted();
    std::fs::write(gateway.folder.path().join("guide/collection.json"), "{").unwrap();
    let message = gateway.get("/v1/collections/guide").await.error(ErrorKind::Internal);
    assert!(message.contains("/v1/collections/guide/repair"), "{message}");
    gateway.post("/v1/collections/guide/repair", &json!({})).await.ok();
    gateway.get("/v1/collections/guide").await.ok();
}

#[tokio::test]
async fn a_collection_keeps_its_budget_and_questions_are_held_to_it() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    let path = "/v1/collections/guide/budget";
    let none = json!({"max_cost": null, "max_input_tokens": null, "max_latency_ms": null});
    assert_eq!(gateway.get(path).await.ok(), none);
    gateway.put(path, &json!({"max_cost": "0.000000001"})).await.ok();
    assert_eq!(gateway.get(path).await.ok()["max_cost"], "0.000000001");
    let question = json!({"collection": "guide", "question": "Who founded the harbour?"});
    let refused = gateway.post("/v1/query", &question).await;
    assert!(refused.error(ErrorKind::DoesNotFit).contains("max_cost of the collection"));
    gateway.put(path, &json!({"max_cost": "0"})).await.error(ErrorKind::InvalidRequest);
    gateway.put(path, &json!({"max_price": "1"})).await.error(ErrorKind::MalformedRequest);
    gateway.put("/v1/collections/other/budget", &json!({})).await.error(ErrorKind::UnknownCollection);
    assert_eq!(gateway.put(path, &json!({})).await.ok(), none);
    gateway.post("/v1/query", &question).await.ok();

    let compared = gateway.get("/v1/usage/predictions").await.ok();
    let route = &compared["routes"][0];
    assert_eq!((&route["requests"], &route["tokens_exact"]), (&json!(1), &json!(1.0)), "{compared}");
    assert_eq!(route["prompt_cost_exact"], json!(1.0), "{compared}");
    gateway.get("/v1/usage/predictions?since=yesterday").await.error(ErrorKind::InvalidRequest);
}
