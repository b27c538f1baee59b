//! Usage by any dimension, single requests, events, and budgets that refuse and tell.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::mpsc,
    time::Duration,
};

use axum::{body::Body, http::Method};
use edgewise_gateway::ErrorKind;
use edgewise_types::Money;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tower::ServiceExt;

use crate::harness::{Gateway, events, request};

const ANSWER: &str = "The harbour was founded in 1742 by Elsa Brandt [1].";

fn question() -> Value {
    json!({"collection": "guide", "question": "Who founded the harbour of Westmar?", "route": "passages"})
}

fn money(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<Money>().unwrap().nanos()
}

#[tokio::test]
async fn groups_steps_and_csv_say_the_same() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let mut whole = question();
    whole["route"] = json!("full");
    let answers = [gateway.post("/v1/query", &question()).await.ok(), gateway.post("/v1/query", &whole).await.ok()];
    let paid: i64 = answers.iter().map(|answer| money(&answer["cost"])).sum();

    let report = gateway.get("/v1/usage?by=route,collection,status&interval=hour&work=answer").await.ok();
    let groups = report["groups"].as_array().unwrap();
    let routes: Vec<&str> = groups.iter().map(|group| group["keys"]["route"].as_str().unwrap()).collect();
    assert_eq!(routes, ["full", "passages"]);
    assert!(groups.iter().all(|g| g["keys"]["collection"] == "guide" && g["keys"]["status"] == "answered"));
    assert!(groups.iter().all(|g| g["at"].as_str().unwrap().ends_with(":00:00Z")), "{groups:?}");
    assert_eq!(groups.iter().map(|group| money(&group["sums"]["cost"])).sum::<i64>(), paid);
    assert_eq!((money(&report["total"]["cost"]), money(&report["totals"]["cost"])), (paid, paid));
    assert!(report["total"]["ttft_ms"]["p95"].as_f64().unwrap() >= 0.0);
    let full = &report["total"]["alternatives"]["full"];
    assert_eq!(full["requests"], 2, "both could have read everything: {report}");
    assert_eq!(money(&full["cost"]), money(&report["total"]["full_cost"]));

    let csv = gateway.get("/v1/usage?by=route,collection&work=answer&format=csv").await;
    assert_eq!(csv.headers["content-type"], "text/csv; charset=utf-8");
    let lines: Vec<Vec<&str>> = csv.text().lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (lines[0][..3].join(","), lines[1][..3].join(",")),
        ("route,collection,requests".into(), "full,guide,1".into())
    );
    let cost = lines[0].iter().position(|column| *column == "cost").unwrap();
    let sum: i64 = lines[1..].iter().map(|line| line[cost].parse::<Money>().unwrap().nanos()).sum();
    assert_eq!(sum, paid);

    // What was embedded is paid for too, and is no answer.
    let embedded = gateway.get("/v1/usage?work=embedding").await.ok();
    assert!(embedded["totals"]["requests"].as_u64().unwrap() >= 1 && money(&embedded["totals"]["cost"]) > 0);
    assert_eq!(embedded["total"]["ttft_ms"], Value::Null);
    for wrong in ["by=colour", "interval=year", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "format=xml"] {
        gateway.get(&format!("/v1/usage?{wrong}")).await.error(ErrorKind::InvalidRequest);
    }
}

#[tokio::test]
async fn a_request_is_found_again_with_all_that_was_kept_of_it() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let answer = gateway.post("/v1/query", &question()).await;
    let id = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let answer = answer.ok();
    let view = gateway.get(&format!("/v1/requests/{id}")).await.ok();
    let (record, detail) = (&view["record"], &view["detail"]);
    assert_eq!((&record["cost"], &record["usage"]), (&answer["cost"], &answer["usage"]));
    assert_eq!(record["candidates"][0]["route"], answer["explanation"]["candidates"][0]["route"]);
    assert_eq!(detail["question"], question()["question"]);
    for same in ["citations", "sources", "prompt_map", "explanation"] {
        assert_eq!(detail[same], answer[same], "{same}");
    }
    assert_eq!(detail["answer"], answer["text"]);
    let stages = detail["timeline"].as_array().unwrap();
    let mut ends = stages.iter().map(|stage| stage["start_ms"].as_f64().unwrap() + stage["ms"].as_f64().unwrap());
    assert!(
        stages.len() >= 3 && ends.next_back().unwrap() <= record["timings"]["total_ms"].as_f64().unwrap() + 1.0,
        "{stages:?}"
    );

    let listed = async |query: &str| {
        let page = gateway.get(&format!("/v1/requests?{query}")).await.ok();
        page["requests"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect::<Vec<_>>()
    };
    let own = record["id"].clone();
    assert_eq!(listed("q=FOUNDED%20the%20harbour").await, std::slice::from_ref(&own));
    assert_eq!(listed(&format!("q={id}")).await, std::slice::from_ref(&own));
    assert_eq!(listed("route=passages&status=answered&collection=guide").await, std::slice::from_ref(&own));
    assert!(listed("q=lighthouse").await.is_empty());
    assert_eq!(listed("work=answer&limit=1").await, [own]);
    gateway.get("/v1/requests?limit=0").await.error(ErrorKind::InvalidRequest);
    gateway.get("/v1/requests?cursor=x").await.error(ErrorKind::InvalidRequest);
    gateway.get("/v1/requests/nobody").await.error(ErrorKind::UnknownRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_told_as_it_happens() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let listening = gateway.router().oneshot(request(Method::GET, "/v1/events", Body::empty())).await.unwrap();
    let mut body = listening.into_body().into_data_stream();
    let answer = gateway.post("/v1/query", &question()).await.ok();
    let budget = json!({"period": "month", "limit": "0.000000001", "alert_at": [1.0]});
    gateway.put("/v1/budgets/tiny", &budget).await.ok();
    let mut heard = String::new();
    let all = async {
        while !["event: request", "event: cache", "event: alert"].iter().all(|event| heard.contains(event)) {
            heard.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
    let heard = events(&heard);
    let of = |name: &str| heard.iter().find(|(event, _)| event == name).unwrap().1.clone();
    assert_eq!(of("request")["cost"], answer["cost"]);
    assert!(of("cache")["pages_total"].is_u64());
    assert_eq!((of("alert")["budget"].as_str(), of("alert")["share"].as_f64()), (Some("tiny"), Some(1.0)));
}

#[tokio::test]
async fn a_hard_budget_refuses_before_any_work() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let spent = money(&gateway.get("/v1/usage").await.ok()["totals"]["cost"]);
    let limit = Money::from_nanos(spent + 1).to_string();
    let budget = json!({"scope": {"collection": "guide"}, "period": "month", "limit": limit, "hard": true});
    let set = gateway.put("/v1/budgets/guide", &budget).await.ok();
    assert_eq!((set["name"].as_str(), money(&set["spent"])), (Some("guide"), spent));
    gateway.post("/v1/query", &question()).await.ok();
    let asked = gateway.generator.requests().len();
    let refused = gateway.post("/v1/query", &question()).await;
    assert!(refused.error(ErrorKind::BudgetExhausted).contains("`guide`"));
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    let stream = json!({"collection": "guide", "question": "Who?", "stream": true});
    gateway.post("/v1/query", &stream).await.error(ErrorKind::BudgetExhausted);
    assert_eq!(gateway.generator.requests().len(), asked, "nothing was computed");
    let message =
        json!({"model": "edgewise/guide", "max_tokens": 9, "messages": [{"role": "user", "content": "Who?"}]});
    assert_eq!(gateway.post("/v1/messages", &message).await.status, 429);
    let list = gateway.get("/v1/budgets").await.ok();
    let listed = &list["budgets"][0];
    assert_eq!((&listed["limit"], &listed["hard"]), (&json!(limit), &json!(true)));
    assert!(money(&listed["spent"]) > spent && money(&listed["forecast"]) >= money(&listed["spent"]));

    gateway.delete("/v1/budgets/guide").await;
    gateway.post("/v1/query", &question()).await.ok();
    gateway.get("/v1/budgets/guide").await.error(ErrorKind::UnknownBudget);
    gateway.delete("/v1/budgets/guide").await.error(ErrorKind::UnknownBudget);
    let negative = json!({"period": "day", "limit": "-1"});
    gateway.put("/v1/budgets/b", &negative).await.error(ErrorKind::InvalidRequest);
    gateway.put("/v1/budgets/b", &json!({"period": "week", "limit": "1"})).await.error(ErrorKind::MalformedRequest);
}

/// A webhook that answers with these statuses, one after the other, and passes on what it was sent.
fn webhook(statuses: Vec<u16>) -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let mut read = Vec::new();
            let mut buffer = [0; 4096];
            let body = loop {
                let n = stream.read(&mut buffer).unwrap();
                read.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8_lossy(&read).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
                });
                match length {
                    Some(length) if body.len() >= length => break body.to_owned(),
                    // Chunked: the last chunk is empty.
                    None if body.ends_with("0\r\n\r\n") => break body.lines().nth(1).unwrap().to_owned(),
                    _ => {}
                }
            };
            let reply = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(reply.as_bytes()).unwrap();
            sender.send(serde_json::from_str(&body).unwrap()).unwrap();
        }
    });
    (url, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_is_posted_until_it_is_taken_and_blocks_nobody() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let (url, received) = webhook(vec![500, 204]);
    let budget = json!({"period": "month", "limit": "1000000", "alert_at": [0.5], "webhook": url});
    gateway.put("/v1/budgets/b", &budget).await.ok();
    let spent = money(&gateway.get("/v1/usage").await.ok()["totals"]["cost"]);
    let budget =
        json!({"period": "month", "limit": Money::from_nanos(spent).to_string(), "alert_at": [0.5], "webhook": url});
    gateway.put("/v1/budgets/b", &budget).await.ok();
    let first = received.recv_timeout(Duration::from_secs(10)).unwrap();
    gateway.post("/v1/query", &question()).await.ok();
    let second = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(first, second, "the same alert again");
    assert_eq!((first["budget"].as_str(), first["share"].as_f64()), (Some("b"), Some(0.5)));
    assert_eq!(money(&first["spent"]), spent);
    for _ in 0..100 {
        if gateway.ledger.due_alerts().unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it was taken and is still to be posted");
}

#[tokio::test]
async fn a_tenant_sees_its_own_and_the_operator_all() {
    let gateway = Gateway::saying(ANSWER);
    let [operator, acme, blue] = ["local", "acme", "blue"].map(|tenant| gateway.key(tenant, "query,ingest,admin"));
    let call =
        async |key: &str, method: Method, path: &str, body: Option<&Value>| gateway.call(key, method, path, body).await;
    for key in [&acme.key, &blue.key] {
        call(key, Method::POST, "/v1/collections", Some(&json!({"name": "guide"}))).await.ok();
        let text = json!({"uri": "a.md", "text": "The harbour was founded in 1742 by Elsa Brandt."});
        call(key, Method::POST, "/v1/collections/guide/documents", Some(&text)).await.ok();
    }
    let asked = call(&acme.key, Method::POST, "/v1/query", Some(&question())).await;
    let id = asked.headers["x-request-id"].to_str().unwrap().to_owned();
    let requests = async |key: &str, path: &str| {
        call(key, Method::GET, path, None).await.ok()["totals"]["requests"].as_u64().unwrap()
    };
    assert_eq!(requests(&acme.key, "/v1/usage?work=answer").await, 1);
    assert_eq!(requests(&blue.key, "/v1/usage?work=answer").await, 0);
    assert_eq!(requests(&blue.key, "/v1/usage?work=answer&tenant=acme").await, 0, "whatever it asks for");
    assert_eq!(requests(&operator.key, "/v1/usage?work=answer").await, 1);
    assert_eq!(requests(&operator.key, "/v1/usage?work=answer&tenant=blue").await, 0);
    let by_key = call(&operator.key, Method::GET, "/v1/usage?work=answer&by=tenant,key", None).await.ok();
    let keys = &by_key["groups"][0]["keys"];
    assert_eq!(keys["tenant"], "acme");
    assert!(acme.key.contains(keys["key"].as_str().unwrap()), "the public part of the key: {keys}");
    let path = format!("/v1/requests/{id}");
    call(&blue.key, Method::GET, &path, None).await.error(ErrorKind::UnknownRequest);
    call(&acme.key, Method::GET, &path, None).await.ok();
    call(&operator.key, Method::GET, &path, None).await.ok();

    let budget = |tenant: &str| json!({"scope": {"tenant": tenant}, "period": "day", "limit": "1"});
    call(&blue.key, Method::PUT, "/v1/budgets/b", Some(&budget("acme"))).await.error(ErrorKind::Forbidden);
    let own = call(&blue.key, Method::PUT, "/v1/budgets/b", Some(&json!({"period": "day", "limit": "1"}))).await.ok();
    assert_eq!((&own["scope"]["tenant"], &own["owner"]), (&json!("blue"), &json!("blue")));
    call(&acme.key, Method::GET, "/v1/budgets/b", None).await.error(ErrorKind::UnknownBudget);
    let all = call(&operator.key, Method::GET, "/v1/budgets", None).await.ok();
    assert_eq!(all["budgets"].as_array().unwrap().len(), 1);
    let none = call(&acme.key, Method::GET, "/v1/budgets", None).await.ok();
    assert_eq!(none["budgets"], json!([]));
}
