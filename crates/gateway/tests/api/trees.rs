//! Summary trees over HTTP, and the jobs that build them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::{StatusCode, header};
use edgewise_gateway::ErrorKind;
use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_test_support::HashEmbedder;
use serde_json::{Value, json};

use crate::harness::{Gateway, events};

/// An embedder that can be slowed down, and counts its calls.
#[derive(Clone)]
struct Slow {
    inner: Arc<HashEmbedder>,
    delay_ms: Arc<AtomicU64>,
    calls: Arc<AtomicUsize>,
}

impl Slow {
    fn new() -> Self {
        Self { inner: Arc::new(HashEmbedder::new()), delay_ms: Arc::default(), calls: Arc::default() }
    }

    fn take(&self, ms: u64) {
        self.delay_ms.store(ms, Ordering::Relaxed);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Embedder for Slow {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.inner.tokenizer()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed)));
        self.inner.embed(texts)
    }
}

/// A document of `n` sections that says something else in each.
fn story(name: &str, n: usize) -> String {
    let section = |at: usize| {
        format!(
            "# Part {at}\n\nIn part {at} of {name}, Captain Ada Brandt sailed to harbour {at} with {} barrels of salt. \
             The keeper of lighthouse {at} met her at the quay and told her of storm number {}. {}\n\n",
            at * 7,
            at * 13,
            format!("Nothing else that happened in {name} on day {at} is worth telling here. ").repeat(8),
        )
    };
    (1..=n).map(section).collect()
}

async fn with_stories(embedder: &Slow, tree: edgewise_settings::Tree) -> Gateway {
    let gateway = Gateway::embedding(Arc::new(embedder.clone()), tree);
    gateway.post("/v1/collections", &json!({"name": "tales"})).await.ok();
    let stories: Vec<(String, String)> =
        ["one", "two", "three"].into_iter().map(|name| (format!("{name}.md"), story(name, 14))).collect();
    let files: Vec<(&str, &[u8])> = stories.iter().map(|(uri, text)| (uri.as_str(), text.as_bytes())).collect();
    gateway.upload("tales", &files).await.ok();
    gateway
}

async fn start(gateway: &Gateway, request: &Value) -> String {
    let reply = gateway.post("/v1/collections/tales/tree", request).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
    let job = reply.json();
    let location = reply.headers[header::LOCATION].to_str().unwrap().to_owned();
    assert_eq!(location, format!("/v1/jobs/{}", job["id"].as_str().unwrap()));
    location
}

/// The job once `reached` holds for it.
async fn until(gateway: &Gateway, job: &str, reached: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let now = gateway.get(job).await.ok();
        if reached(&now) {
            return now;
        }
        assert!(now["state"] != "failed", "{now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the job did not get there: {}", gateway.get(job).await.text());
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |job| job["state"] == state
}

/// Ids of all nodes of a tree.
async fn nodes(gateway: &Gateway) -> Vec<String> {
    fn collect(item: &Value, found: &mut Vec<String>) {
        if item["kind"] == "node" {
            found.push(item["id"].as_str().unwrap().to_owned());
            item["members"].as_array().into_iter().flatten().for_each(|member| collect(member, found));
        }
    }
    let view = gateway.get("/v1/collections/tales/tree?depth=32&text_chars=20").await.ok();
    let mut found = Vec::new();
    view["roots"].as_array().unwrap().iter().for_each(|root| collect(root, &mut found));
    found.sort();
    found.dedup();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_planned_built_looked_at_and_deleted() {
    let gateway = with_stories(&Slow::new(), edgewise_settings::Tree::default()).await;
    let empty = gateway.get("/v1/collections/tales/tree").await.ok();
    assert_eq!((&empty["status"]["built"], &empty["roots"]), (&json!(false), &json!([])));
    let plan = gateway.post("/v1/collections/tales/tree/plan", &json!({})).await.ok();
    assert_eq!((&plan["documents"], &plan["documents_kept"], &plan["calls"]), (&json!(3), &json!(0), &json!(0)));
    assert!(plan["summaries"].as_u64().unwrap() > 3 && plan["seconds"].as_f64().unwrap() > 0.0, "{plan}");

    let job = start(&gateway, &json!({})).await;
    let done = until(&gateway, &job, is("done")).await;
    let report = &done["detail"];
    assert_eq!(
        (&report["complete"], &report["stopped"], &report["documents_done"]),
        (&json!(true), &Value::Null, &json!(3))
    );
    assert_eq!((&done["done"], &done["total"]), (&json!(3), &json!(3)));

    let view = gateway.get("/v1/collections/tales/tree?depth=1").await.ok();
    assert_eq!(view["status"]["current"], true);
    let root = &view["roots"][0];
    assert_eq!(
        (view["roots"].as_array().unwrap().len(), &root["documents"], &root["root"]),
        (1, &json!(3), &json!(true))
    );
    let one = gateway.get("/v1/collections/tales/documents").await.ok()["documents"][0].clone();
    let of_one = format!("/v1/collections/tales/tree?document={}&depth=32", one["id"].as_str().unwrap());
    let of_one = gateway.get(&of_one).await.ok();
    assert_eq!((&of_one["roots"][0]["leaves"], &of_one["roots"][0]["documents"]), (&one["chunks"], &json!(1)));
    let node = format!("/v1/collections/tales/tree?node={}&text_chars=9", root["id"].as_str().unwrap());
    let node = gateway.get(&node).await.ok();
    assert_eq!(node["roots"][0]["text"].as_str().unwrap().chars().count(), 10, "nine and an ellipsis: {node}");

    let kept = gateway.post("/v1/collections/tales/tree/plan", &json!({})).await.ok();
    assert_eq!((&kept["documents_kept"], &kept["summaries"]), (&json!(3), &json!(0)));
    let again = start(&gateway, &json!({})).await;
    assert_eq!(until(&gateway, &again, is("done")).await["detail"]["summaries_made"], 0);
    let listed = gateway.get("/v1/jobs?collection=tales").await.ok();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(gateway.get("/v1/jobs?collection=other").await.ok()["jobs"], json!([]));

    assert_eq!(gateway.delete("/v1/collections/tales/tree").await.status, StatusCode::NO_CONTENT);
    assert_eq!(gateway.get("/v1/collections/tales/tree").await.ok()["status"]["built"], false);
    assert_eq!(gateway.get("/v1/collections/tales").await.ok()["documents"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_is_paused_resumed_and_cancelled_and_makes_nothing_twice() {
    let embedder = Slow::new();
    let undisturbed = with_stories(&Slow::new(), edgewise_settings::Tree::default()).await;
    let job = start(&undisturbed, &json!({})).await;
    let all = until(&undisturbed, &job, is("done")).await["detail"]["summaries_made"].as_u64().unwrap();

    let gateway = with_stories(&embedder, edgewise_settings::Tree::default()).await;
    embedder.take(150);
    let job = start(&gateway, &json!({})).await;
    until(&gateway, &job, |job| job["detail"]["summaries_made"].as_u64() > Some(0)).await;
    let refused = gateway.post("/v1/collections/tales/tree", &json!({})).await.error(ErrorKind::Conflict);
    assert!(refused.contains("running") && refused.contains(&job), "{refused}");
    let refused = gateway.delete("/v1/collections/tales/tree").await.error(ErrorKind::Conflict);
    assert!(refused.contains("being built"), "{refused}");

    assert_eq!(gateway.post(&format!("{job}/pause"), &json!({})).await.ok()["state"], "paused");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let calls = embedder.calls();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((embedder.calls(), gateway.get(&job).await.ok()["state"].clone()), (calls, json!("paused")));
    gateway.post(&format!("{job}/resume"), &json!({})).await.ok();
    until(&gateway, &job, is("running")).await;
    gateway.post(&format!("{job}/cancel"), &json!({})).await.ok();
    let cancelled = until(&gateway, &job, is("cancelled")).await;
    let first = cancelled["detail"]["summaries_made"].as_u64().unwrap();
    assert!(first > 0 && first < all, "{cancelled}");
    for what in ["pause", "resume", "cancel"] {
        gateway.post(&format!("{job}/{what}"), &json!({})).await.error(ErrorKind::Conflict);
    }

    embedder.take(0);
    let job = start(&gateway, &json!({})).await;
    let second = until(&gateway, &job, is("done")).await["detail"]["summaries_made"].as_u64().unwrap();
    assert_eq!(first + second, all, "no summary is made twice");
    assert_eq!(nodes(&gateway).await, nodes(&undisturbed).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_ends_a_build_cleanly_and_the_next_goes_on() {
    let embedder = Slow::new();
    let gateway = with_stories(&embedder, edgewise_settings::Tree::default()).await;
    embedder.take(200);
    let job = start(&gateway, &json!({"budget": {"max_seconds": 0.3}})).await;
    let done = until(&gateway, &job, is("done")).await;
    let report = &done["detail"];
    assert_eq!(report["complete"], false);
    assert!(report["stopped"].as_str().unwrap().contains("0.3 s"), "{report}");
    assert!(report["summaries_made"].as_u64().unwrap() > 0, "{report}");
    embedder.take(0);
    let job = start(&gateway, &json!({})).await;
    assert_eq!(until(&gateway, &job, is("done")).await["detail"]["complete"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_changes_under_a_build_is_in_the_tree_in_the_end() {
    let embedder = Slow::new();
    let gateway = with_stories(&embedder, edgewise_settings::Tree::default()).await;
    embedder.take(60);
    let job = start(&gateway, &json!({})).await;
    until(&gateway, &job, |job| job["detail"]["summaries_made"].as_u64() > Some(0)).await;
    let changed = story("another", 15);
    gateway.upload("tales", &[("one.md", changed.as_bytes()), ("two.md", changed.as_bytes())]).await.ok();
    embedder.take(0);
    until(&gateway, &job, is("done")).await;
    let job = start(&gateway, &json!({})).await;
    assert_eq!(until(&gateway, &job, is("done")).await["detail"]["complete"], true);
    let view = gateway.get("/v1/collections/tales/tree?depth=32").await.ok();
    assert_eq!((&view["status"]["current"], &view["roots"][0]["documents"]), (&json!(true), &json!(3)));
    assert!(!view.to_string().contains("of one,"), "text that is gone is quoted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_by_its_events() {
    let embedder = Slow::new();
    let gateway = with_stories(&embedder, edgewise_settings::Tree::default()).await;
    embedder.take(100);
    let job = start(&gateway, &json!({})).await;
    let reply = gateway.get(&format!("{job}/events")).await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/event-stream");
    let told = events(reply.text());
    let (last, rest) = told.split_last().unwrap();
    assert_eq!((last.0.as_str(), &last.1["detail"]["complete"]), ("done", &json!(true)));
    assert!(rest.len() > 1 && rest.iter().all(|(name, _)| name == "progress"), "{told:?}");
    let made = |(_, job): &(String, Value)| job["detail"]["summaries_made"].as_u64().unwrap_or(0);
    assert!(rest.windows(2).all(|pair| made(&pair[0]) <= made(&pair[1])), "{told:?}");
    gateway.get("/v1/jobs/nowhere").await.error(ErrorKind::UnknownJob);
    gateway.get("/v1/jobs/nowhere/events").await.error(ErrorKind::UnknownJob);
    let node = "0".repeat(64);
    gateway.get(&format!("/v1/collections/tales/tree?node={node}")).await.error(ErrorKind::UnknownNode);
    gateway.get("/v1/collections/tales/tree?node=xyz").await.error(ErrorKind::InvalidName);
    gateway.get("/v1/collections/tales/tree?depth=33").await.error(ErrorKind::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_leaves_its_job_to_the_next_one() {
    let embedder = Slow::new();
    let gateway = with_stories(&embedder, edgewise_settings::Tree::default()).await;
    embedder.take(100);
    let job = start(&gateway, &json!({})).await;
    until(&gateway, &job, |job| job["detail"]["summaries_made"].as_u64() > Some(0)).await;
    let listener = edgewise_gateway::bind(std::net::Ipv4Addr::LOCALHOST.into(), 0).await.unwrap();
    edgewise_gateway::serve(listener, gateway.state.clone(), async {}).await.unwrap();
    // Its threads end by themselves, within a step of the work.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let gateway = gateway.restarted();
    let mut taken_up = gateway.get(&job).await;
    for _ in 0..100 {
        if taken_up.status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        taken_up = gateway.get(&job).await;
    }
    let done = until(&gateway, &job, is("done")).await;
    assert_eq!(done["detail"]["complete"], true);
    assert!(
        done["detail"]["summaries_kept"].as_u64().unwrap() + done["detail"]["documents_kept"].as_u64().unwrap() > 0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_follows_uploads_where_the_settings_say_so() {
    let gateway = with_stories(&Slow::new(), edgewise_settings::Tree { auto: true, ..Default::default() }).await;
    for _ in 0..500 {
        if gateway.get("/v1/collections/tales/tree").await.ok()["status"]["current"] == true {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no tree: {}", gateway.get("/v1/jobs").await.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_summaries_are_paid_for_within_the_budget_and_recorded() {
    let gateway = with_stories(&Slow::new(), edgewise_settings::Tree::default()).await;
    let plan = json!({"summariser": "abstractive"});
    let plan = gateway.post("/v1/collections/tales/tree/plan", &plan).await.ok();
    let (calls, summaries) = (plan["calls"].as_u64().unwrap(), plan["summaries"].as_u64().unwrap());
    assert!(calls >= summaries && summaries > 3 && plan["cost"] != "0.00", "{plan}");

    let request = json!({"summariser": "abstractive", "budget": {"max_calls": 4}});
    let job = start(&gateway, &request).await;
    let done = until(&gateway, &job, is("done")).await;
    let report = &done["detail"];
    assert!(report["calls"].as_u64().unwrap() <= 4 && report["calls"].as_u64() > Some(0), "{report}");
    assert!(report["stopped"].as_str().unwrap().contains("call the generator 4 times"), "{report}");
    assert_eq!(report["complete"], false);
    let usage = gateway.get("/v1/usage").await.ok();
    let build = &usage["totals"]["by_route"]["tree-build"];
    assert_eq!((&build["requests"], &build["usage"], &build["cost"]), (&json!(1), &report["usage"], &report["cost"]));

    let job = start(&gateway, &json!({"summariser": "abstractive"})).await;
    let report = until(&gateway, &job, is("done")).await["detail"].clone();
    assert_eq!(report["complete"], true, "{report}");
    let usage = gateway.get("/v1/usage").await.ok();
    assert_eq!(usage["totals"]["by_route"]["tree-build"]["requests"], 2);
    // Kept up by whoever wrote it.
    let plan = gateway.post("/v1/collections/tales/tree/plan", &json!({})).await.ok();
    assert!(plan["summariser"].as_str().unwrap().starts_with("abstractive") && plan["summaries"] == 0, "{plan}");
    let plan = gateway.post("/v1/collections/tales/tree/plan", &json!({"summariser": "extractive"})).await.ok();
    assert!(plan["anew"].as_str().unwrap().contains("abstractive") && plan["calls"] == 0, "{plan}");
    let free = json!({"summariser": "abstractive", "full": true, "budget": {"max_cost": "0.000000001"}});
    let job = start(&gateway, &free).await;
    let report = until(&gateway, &job, is("done")).await["detail"].clone();
    assert_eq!((&report["calls"], &report["complete"]), (&json!(0), &json!(true)), "all is kept by its key: {report}");
}
