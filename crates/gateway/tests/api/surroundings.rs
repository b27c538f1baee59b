//! Probes, metrics, the OpenAPI document, the dashboard, and headers.

use axum::http::{StatusCode, header};
use edgewise_gateway::ErrorKind;
use serde_json::json;

use crate::harness::Gateway;

#[tokio::test]
async fn readiness_follows_the_life_of_the_server() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    assert_eq!(gateway.get("/readyz").await.ok()["status"], "ready");
    gateway.state.lifecycle().loading();
    let reply = gateway.get("/readyz").await;
    assert_eq!((reply.status, reply.json()), (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "loading"})));
    let reply = gateway.get("/v1/collections").await;
    reply.error(ErrorKind::Unavailable);
    assert!(reply.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(gateway.get("/healthz").await.ok()["status"], "alive");
    gateway.state.lifecycle().ready();
    gateway.get("/v1/collections").await.ok();
}

#[tokio::test]
async fn metrics_are_counted_by_pattern_and_can_be_parsed() {
    let gateway = Gateway::saying("yes").with_corpus().await;
    gateway.get("/v1/collections/guide").await.ok();
    gateway.get("/v1/collections/nowhere").await.error(ErrorKind::UnknownCollection);
    gateway.get("/nothing/here").await.error(ErrorKind::UnknownPath);
    gateway.post("/v1/query", &json!({"collection": "guide", "question": "What?", "route": "full"})).await.ok();
    let reply = gateway.get("/metrics").await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    for line in reply.text().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(series.starts_with("edgewise_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(!line.contains("nowhere") && !line.contains("/nothing"), "a path of a request became a label: {line}");
    }
    for (path, status) in
        [("/v1/collections/{collection}", 200), ("/v1/collections/{collection}", 404), ("unmatched", 404)]
    {
        let found = reply.text().lines().any(|line| {
            line.starts_with("edgewise_http_requests_total")
                && line.contains(&format!("path=\"{path}\""))
                && line.contains(&format!("status=\"{status}\""))
        });
        assert!(found, "{path} {status} in\n{}", reply.text());
    }
    for series in [
        "edgewise_build_info{version=",
        "edgewise_http_request_duration_seconds_bucket{path=\"/v1/query\",method=\"POST\"",
        "edgewise_query_duration_seconds_count{route=\"full\"}",
        "edgewise_ttft_seconds_count",
        "edgewise_route_decisions_total{route=\"full\"}",
        "edgewise_cost_nanodollars_total{route=\"full\"}",
        "edgewise_ingest_documents_total{outcome=\"added\"}",
        "edgewise_ingest_chunks_total",
    ] {
        assert!(reply.text().contains(series), "{series} in\n{}", reply.text());
    }
}

#[tokio::test]
async fn the_way_the_model_reads_is_watched_and_told() {
    let gateway = Gateway::saying("The harbour was founded in 1742 by Elsa Brandt.").with_corpus().await;
    let reading = gateway.get("/v1/models/current/reading").await.ok();
    assert_eq!((&reading["model"], &reading["profile"]), (&json!("scripted"), &json!(null)));
    assert_eq!(reading["signals"][1]["signal"], "citations");
    assert_eq!((&reading["signals"][1]["pending"], &reading["signals"][1]["now"]), (&json!(0), &json!(null)));

    let question = json!({"collection": "guide", "question": "When was the harbour founded?", "route": "passages"});
    let answer = gateway.post("/v1/query", &question).await.ok();
    assert!(!answer["citations"].as_array().unwrap().is_empty());
    let reading = gateway.get("/v1/models/current/reading").await.ok();
    assert_eq!(reading["signals"][1]["pending"], 1, "an answer that cites a passage counts");
    let whole = json!({"collection": "guide", "question": "When was the harbour founded?", "route": "full"});
    gateway.post("/v1/query", &whole).await.ok();
    let reading = gateway.get("/v1/models/current/reading").await.ok();
    assert_eq!(reading["signals"][1]["pending"], 1, "whole documents span regions");

    for _ in 0..199 {
        gateway.post("/v1/query", &question).await.ok();
    }
    let reading = gateway.get("/v1/models/current/reading").await.ok();
    assert_eq!(reading["signals"][1]["now"]["baseline"], true);
    let metrics = gateway.get("/metrics").await;
    for series in ["edgewise_region_recall{region=\"end\",signal=\"citations\"}", "edgewise_region_alert{"] {
        assert!(metrics.text().contains(series), "{series}");
    }
}

#[tokio::test]
async fn the_document_describes_this_server() {
    let gateway = Gateway::saying("yes");
    let document = gateway.get("/openapi.json").await.ok();
    assert_eq!(document["info"]["title"], "Edgewise");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in
        ["Answer", "Explanation", "QueryRequest", "ErrorBody", "ErrorKind", "IngestReport", "TokenEvent", "Usage"]
    {
        assert!(schemas.contains_key(name), "{name} is missing");
    }
    assert_eq!(schemas["QueryRequest"]["additionalProperties"], false, "unknown fields are refused, and it says so");
    let kinds: Vec<&str> = schemas["ErrorKind"]["enum"]
        .as_array()
        .map(|kinds| kinds.iter().map(|kind| kind.as_str().unwrap()).collect())
        .unwrap_or_else(|| {
            let kinds = schemas["ErrorKind"]["oneOf"].as_array().unwrap();
            kinds.iter().map(|kind| kind["enum"][0].as_str().unwrap()).collect()
        });
    assert_eq!(kinds, ErrorKind::ALL.map(ErrorKind::as_str));
}

#[tokio::test]
async fn the_server_says_what_it_is() {
    let gateway = Gateway::saying("yes");
    let info = gateway.get("/v1/info").await.ok();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["generator"], "scripted");
}

#[tokio::test]
async fn the_dashboard_needs_nothing_from_elsewhere() {
    let gateway = Gateway::saying("yes");
    let page = gateway.get("/").await;
    assert_eq!(page.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for part in ["style=", " onclick=", "<script>", "<style", "https://", "//cdn"] {
        assert!(!page.text().contains(part), "the policy forbids {part}");
    }
    for line in page.text().lines().filter(|line| line.contains("<script") || line.contains("<link")) {
        let path = line.split('"').find(|part| part.starts_with('/')).unwrap();
        assert_eq!(gateway.get(path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/ask", "/requests/some-id", "/collections/guide/tree"] {
        assert_eq!(gateway.get(path).await.text(), page.text(), "{path}: every page is the same document");
    }
    let tag = page.headers[header::ETAG].to_str().unwrap();
    assert!(tag.len() > 2 && page.headers[header::CACHE_CONTROL] == "no-cache", "{tag}");
}

#[tokio::test]
async fn every_response_has_its_id_and_guards() {
    let gateway = Gateway::saying("yes");
    for path in ["/", "/healthz", "/v1/collections", "/nowhere"] {
        let reply = gateway.get(path).await;
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")]
        {
            assert_eq!(reply.headers[name], value, "{path}");
        }
        assert!(reply.headers.contains_key(header::CONTENT_SECURITY_POLICY), "{path}");
        assert_eq!(reply.headers["x-request-id"].len(), 16, "{path}");
    }
}
