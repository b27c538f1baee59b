//! Two tenants on one server: what one has, the other can neither see nor tell from what nobody has.

use axum::http::{Method, StatusCode};
use edgewise_gateway::{ErrorKind, GatewayOptions};
use edgewise_test_support::{ScriptedGenerator, corpus};
use serde_json::{Value, json};

use crate::harness::{Gateway, Reply};

const QUESTION: &str = "Who founded the harbour of Westmar?";

/// A gateway with the keys of two tenants; the first has the collection `guide`, the second none.
async fn two_tenants() -> (Gateway, String, String) {
    let gateway = Gateway::saying("The harbour was founded in 1742 by Elsa Brandt [1].");
    let (a, b) = (gateway.key("acme", "query,ingest,admin").key, gateway.key("blue", "query,ingest,admin").key);
    fill(&gateway, &a, "guide").await;
    (gateway, a, b)
}

async fn fill(gateway: &Gateway, key: &str, collection: &str) {
    gateway.call(key, Method::POST, "/v1/collections", Some(&json!({"name": collection}))).await.ok();
    for (uri, text) in corpus::DOCUMENTS {
        let document = json!({"uri": uri, "text": text});
        let path = format!("/v1/collections/{collection}/documents");
        let report = gateway.call(key, Method::POST, &path, Some(&document)).await.ok();
        assert_eq!(report["sources"][0]["outcome"], "added", "{report}");
    }
}

/// Status and body, with `name` made anonymous.
fn seen(reply: &Reply, name: &str) -> (StatusCode, String) {
    (reply.status, reply.text().replace(name, "NAME"))
}

#[tokio::test]
async fn what_another_tenant_has_is_as_unknown_as_what_nobody_has() {
    let (gateway, a, b) = two_tenants().await;
    let documents = gateway.call(&a, Method::GET, "/v1/collections/guide/documents", None).await.ok();
    let document = documents["documents"][0]["id"].as_str().unwrap().to_owned();
    let started = gateway.call(&a, Method::POST, "/v1/collections/guide/tree", Some(&json!({}))).await.ok();
    let job = started["id"].as_str().unwrap().to_owned();
    gateway.call(&a, Method::GET, &format!("/v1/jobs/{job}"), None).await.ok();

    let question = |name: &str| json!({"collection": name, "question": QUESTION});
    let message = |name: &str| json!({"model": format!("edgewise/{name}"), "max_tokens": 9, "messages": [{"role": "user", "content": "Who?"}]});
    let stream = |name: &str| json!({"collection": name, "question": QUESTION, "stream": true});
    type Body<'a> = Option<&'a dyn Fn(&str) -> Value>;
    let (search, empty, budget) =
        (|_: &str| json!({"query": "harbour"}), |_: &str| json!({}), |_: &str| json!({"max_input_tokens": 5}));
    let rename = |_: &str| json!({"name": "mine"});
    let text = |_: &str| json!({"uri": "a.md", "text": "text"});
    let cases: Vec<(Method, &str, Body<'_>)> = vec![
        (Method::GET, "/v1/collections/NAME", None),
        (Method::DELETE, "/v1/collections/NAME", None),
        (Method::GET, "/v1/collections/NAME/documents", None),
        (Method::POST, "/v1/collections/NAME/documents", Some(&text)),
        (Method::GET, "/v1/collections/NAME/documents/DOCUMENT", None),
        (Method::GET, "/v1/collections/NAME/documents/DOCUMENT/text", None),
        (Method::DELETE, "/v1/collections/NAME/documents/DOCUMENT", None),
        (Method::POST, "/v1/collections/NAME/search", Some(&search)),
        (Method::GET, "/v1/collections/NAME/budget", None),
        (Method::PUT, "/v1/collections/NAME/budget", Some(&budget)),
        (Method::POST, "/v1/collections/NAME/check", None),
        (Method::POST, "/v1/collections/NAME/repair", None),
        (Method::POST, "/v1/collections/NAME/compact", None),
        (Method::POST, "/v1/collections/NAME/rename", Some(&rename)),
        (Method::GET, "/v1/collections/NAME/export", None),
        (Method::GET, "/v1/collections/NAME/tree", None),
        (Method::POST, "/v1/collections/NAME/tree", Some(&empty)),
        (Method::POST, "/v1/collections/NAME/tree/plan", Some(&empty)),
        (Method::POST, "/v1/collections/NAME/tree/search", Some(&search)),
        (Method::DELETE, "/v1/collections/NAME/tree", None),
        (Method::POST, "/v1/query", Some(&question)),
        (Method::POST, "/v1/query", Some(&stream)),
        (Method::POST, "/v1/routes/explain", Some(&question)),
        (Method::POST, "/v1/messages", Some(&message)),
        (Method::POST, "/v1/chat/completions", Some(&message)),
        (Method::GET, "/v1/models/edgewise%2FNAME", None),
    ];
    for (method, path, body) in cases {
        let ask = async |name: &str| {
            let path = path.replace("NAME", name).replace("DOCUMENT", &document);
            let body = body.map(|body| body(name));
            seen(&gateway.call(&b, method.clone(), &path, body.as_ref()).await, name)
        };
        let (of_a, of_nobody) = (ask("guide").await, ask("nowhere").await);
        assert_eq!(of_a.0, StatusCode::NOT_FOUND, "{method} {path}: {}", of_a.1);
        assert_eq!(of_a, of_nobody, "{method} {path}");
    }
    for (method, suffix) in [
        (Method::GET, ""),
        (Method::GET, "/events"),
        (Method::POST, "/pause"),
        (Method::POST, "/resume"),
        (Method::POST, "/cancel"),
    ] {
        let other = "0123456789abcdef";
        let of_a = gateway.call(&b, method.clone(), &format!("/v1/jobs/{job}{suffix}"), None).await;
        let of_nobody = gateway.call(&b, method, &format!("/v1/jobs/{other}{suffix}"), None).await;
        of_a.error(ErrorKind::UnknownJob);
        assert_eq!(seen(&of_a, &job), seen(&of_nobody, other));
    }
    assert_eq!(gateway.call(&b, Method::GET, "/v1/jobs", None).await.ok()["jobs"], json!([]));
    assert_eq!(gateway.call(&b, Method::GET, "/v1/collections", None).await.ok()["collections"], json!([]));
    let models = gateway.call(&b, Method::GET, "/v1/models", None).await;
    assert!(!models.text().contains("guide"), "{}", models.text());
}

#[tokio::test]
async fn the_same_name_is_another_collection_for_each_tenant() {
    let (gateway, a, b) = two_tenants().await;
    gateway.call(&b, Method::POST, "/v1/collections", Some(&json!({"name": "guide"}))).await.ok();
    let document = json!({"uri": "secret.md", "text": "# Plans\n\nThe tower of Blue is forty metres high."});
    gateway.call(&b, Method::POST, "/v1/collections/guide/documents", Some(&document)).await.ok();
    let listed = gateway.call(&b, Method::GET, "/v1/collections/guide/documents", None).await.ok();
    assert_eq!((&listed["total"], &listed["documents"][0]["uri"]), (&json!(1), &json!("secret.md")));
    let search = json!({"query": "how high is the tower", "limit": 100});
    let found = gateway.call(&a, Method::POST, "/v1/collections/guide/search", Some(&search)).await;
    assert!(!found.text().contains("secret.md"), "{}", found.text());
    gateway.call(&b, Method::DELETE, "/v1/collections/guide", None).await;
    let left = gateway.call(&a, Method::GET, "/v1/collections/guide", None).await.ok();
    assert_eq!(left["documents"], corpus::DOCUMENTS.len());
    assert!(gateway.folder.path().join("_tenants/acme/guide/catalog.sqlite").exists());
}

#[tokio::test]
async fn cached_prefixes_serve_their_tenant_alone() {
    let (gateway, a, b) = two_tenants().await;
    let long = "Answer in one word and always politely, whatever is asked of you today and tomorrow.";
    let request = json!({
        "model": "scripted", "max_tokens": 20,
        "system": [{"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "How are you?"}],
    });
    let read = async |key: &str| {
        let reply = gateway.call(key, Method::POST, "/v1/messages", Some(&request)).await.ok();
        reply["usage"]["cache_read_input_tokens"].as_u64().unwrap()
    };
    assert_eq!(read(&a).await, 0);
    assert_eq!(read(&b).await, 0, "the same text of another tenant is not found");
    assert!(read(&a).await > 10);
    assert!(read(&b).await > 10);
}

#[tokio::test]
async fn conversations_are_remembered_for_their_tenant_alone() {
    let (gateway, a, b) = two_tenants().await;
    fill(&gateway, &b, "guide").await;
    let model = "edgewise/guide";
    let first = json!({"model": model, "messages": [{"role": "user", "content": QUESTION}]});
    let answer = gateway.call(&a, Method::POST, "/v1/chat/completions", Some(&first)).await.ok();
    let answer = answer["choices"][0]["message"]["content"].clone();
    let follow_up = json!({"model": model, "messages": [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And in which year?"},
    ]});
    // What a remembered turn adds to the prompt are its sources.
    let prompt_of = async |key: &str| {
        gateway.call(key, Method::POST, "/v1/chat/completions", Some(&follow_up)).await.ok();
        gateway.generator.requests().last().unwrap().prompt.tokens.clone()
    };
    let (remembered, forgotten) = (prompt_of(&a).await, prompt_of(&b).await);
    assert_ne!(remembered, forgotten, "the tenant that never asked has no turn to go on from");
}

#[tokio::test]
async fn records_and_ratings_are_their_tenants() {
    let (gateway, a, b) = two_tenants().await;
    let question = json!({"collection": "guide", "question": QUESTION});
    let answer = gateway.call(&a, Method::POST, "/v1/query", Some(&question)).await;
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(&*record.tenant.0, "acme");
    let rating = json!({"request_id": id, "good": true});
    gateway.call(&b, Method::POST, "/v1/feedback", Some(&rating)).await.error(ErrorKind::UnknownRequest);
    let last = json!({"request_id": "last", "good": true});
    gateway.call(&b, Method::POST, "/v1/feedback", Some(&last)).await.error(ErrorKind::UnknownRequest);
    gateway.call(&a, Method::POST, "/v1/feedback", Some(&rating)).await.ok();
    gateway.call(&b, Method::DELETE, "/v1/feedback", None).await.error(ErrorKind::Forbidden);
    for path in ["/v1/usage", "/v1/usage/predictions", "/metrics"] {
        let reply = gateway.call(&b, Method::GET, path, None).await;
        assert!(!reply.text().contains("acme"), "{path}: {}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_takes_up_the_jobs_of_every_tenant() {
    let (gateway, a, b) = two_tenants().await;
    let started = gateway.call(&a, Method::POST, "/v1/collections/guide/tree", Some(&json!({}))).await.ok();
    let path = format!("/v1/jobs/{}", started["id"].as_str().unwrap());
    let job = async |gateway: &Gateway, key: &str| {
        for _ in 0..500 {
            let reply = gateway.call(key, Method::GET, &path, None).await;
            if reply.status == StatusCode::OK && reply.json()["state"] == "done" {
                return reply;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        gateway.call(key, Method::GET, &path, None).await
    };
    assert_eq!(job(&gateway, &a).await.ok()["state"], "done");
    // Its record is written within a moment.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let gateway = gateway.restarted();
    assert_eq!(job(&gateway, &a).await.ok()["state"], "done");
    gateway.call(&b, Method::GET, &path, None).await.error(ErrorKind::UnknownJob);
    let local = gateway.key("local", "query,ingest,admin").key;
    gateway.call(&local, Method::GET, &path, None).await.error(ErrorKind::UnknownJob);
}

#[tokio::test]
async fn a_published_prefix_is_shared_and_nothing_behind_it() {
    let generator = ScriptedGenerator::replies(["Fine."]).sharing_public_tokens();
    let gateway = Gateway::new(generator, GatewayOptions::default());
    let [operator, a, b, c] =
        ["local", "acme", "blue", "cyan"].map(|tenant| gateway.key(tenant, "query,ingest,admin").key);
    let rules = "You are the assistant of Westmar. Be brief, be kind, and never speak of the lighthouse keeper.";
    let path = "/v1/shared-prefixes/rules";
    let body = json!({"text": rules});
    gateway.call(&a, Method::PUT, path, Some(&body)).await.error(ErrorKind::Forbidden);
    let published = gateway.call(&operator, Method::PUT, path, Some(&body)).await.ok();
    let public = published["tokens"].as_u64().unwrap();
    assert!(public > 15, "{published}");
    let listed = gateway.call(&a, Method::GET, "/v1/shared-prefixes", None).await.ok();
    assert_eq!((&listed["prefixes"][0]["name"], &listed["prefixes"][0]["text"]), (&json!("rules"), &json!(rules)));

    let read = async |key: &str, system: &str, question: &str| {
        let request = json!({"model": "scripted", "messages": [
            {"role": "system", "content": system},
            {"role": "user", "content": question},
        ]});
        let reply = gateway.call(key, Method::POST, "/v1/chat/completions", Some(&request)).await.ok();
        reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let question = "What did the captain say on the second day of the storm?";
    assert_eq!(read(&a, rules, question).await, 0);
    assert_eq!(read(&b, rules, question).await, public, "the published part is shared, and ends there");
    assert!(read(&a, rules, question).await > public + 10);
    let own = format!("{rules} We of Acme answer in verse, always.");
    assert!(read(&a, &own, question).await <= public);
    assert!(read(&b, &own, question).await <= public, "what a tenant adds to it is its own");

    gateway.call(&operator, Method::DELETE, path, None).await;
    gateway.call(&operator, Method::DELETE, path, None).await.error(ErrorKind::UnknownPrefix);
    assert_eq!(read(&c, rules, question).await, 0, "withdrawn");
}
