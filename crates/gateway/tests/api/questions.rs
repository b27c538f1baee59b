//! Answers, streams, explanations, and what the ledger keeps of them.

use std::time::Duration;

use axum::http::header;
use edgewise_gateway::{ErrorKind, GatewayOptions};
use edgewise_ledger::RequestStatus;
use edgewise_model_api::ModelError;
use edgewise_test_support::{Reply, ScriptedGenerator};
use serde_json::json;

use crate::harness::{Gateway, events};

const ANSWER: &str = "The harbour was founded in 1742 by Elsa Brandt [1].";

fn question() -> serde_json::Value {
    json!({"collection": "guide", "question": "Who founded the harbour of Westmar?", "route": "passages"})
}

#[tokio::test]
async fn an_answer_comes_with_citations_that_the_documents_hold() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let answer = gateway.post("/v1/query", &question()).await.ok();
    assert!(answer["text"].as_str().unwrap().starts_with("The harbour was founded in 1742"), "{answer}");
    assert_eq!(answer["explanation"]["chosen"], "passages");
    assert_eq!(answer["explanation"]["forced"], true);

    let citation = &answer["citations"][0];
    assert_eq!(citation["uri"], "harbour.md", "{answer}");
    let (document, span) = (citation["document"].as_str().unwrap(), &citation["span"]);
    let path = format!("/v1/collections/guide/documents/{document}/text?start={}&end={}", span["start"], span["end"]);
    assert_eq!(gateway.get(&path).await.text(), citation["quote"].as_str().unwrap());
}

#[tokio::test]
async fn a_stream_has_its_events_in_order_and_ends_with_the_same_answer() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let plain = gateway.post("/v1/query", &question()).await.ok();

    let mut request = question();
    request["stream"] = json!(true);
    let reply = gateway.post("/v1/query", &request).await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/event-stream");
    let events = events(reply.text());
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(names, ["plan", "sources", "token", "citation", "usage", "done"]);

    let tokens: String =
        events.iter().filter(|(name, _)| name == "token").map(|(_, d)| d["text"].as_str().unwrap()).collect();
    assert_eq!(tokens, ANSWER);
    let of = |wanted: &str| &events.iter().find(|(name, _)| name == wanted).unwrap().1;
    let done = of("done");
    assert_eq!(done["text"], plain["text"]);
    assert_eq!(done["citations"], plain["citations"]);
    assert_eq!(*of("citation"), done["citations"][0]);
    assert_eq!(of("sources")["sources"], done["sources"]);
    assert_eq!(*of("plan"), done["explanation"]);
    assert_eq!(of("usage")["cost"], done["cost"]);
}

#[tokio::test]
async fn a_request_that_fails_before_its_first_event_gets_a_status_even_when_streamed() {
    let gateway = Gateway::saying(ANSWER);
    let request = json!({"collection": "nowhere", "question": "Who?", "stream": true});
    gateway.post("/v1/query", &request).await.error(ErrorKind::UnknownCollection);
}

#[tokio::test]
async fn a_failure_midway_ends_the_stream_with_an_error_and_is_recorded() {
    let reply = Reply::new(ANSWER).failing_after(3, ModelError::Internal("/secret/path: device lost".to_owned()));
    let gateway = Gateway::new(ScriptedGenerator::replies([reply]), GatewayOptions::default()).with_corpus().await;
    let mut request = question();
    request["stream"] = json!(true);
    let reply = gateway.post("/v1/query", &request).await;
    let events = events(reply.text());
    let (name, data) = events.last().unwrap();
    assert_eq!((name.as_str(), data["error"]["type"].as_str()), ("error", Some("internal")));
    assert!(!reply.text().contains("secret"), "causes stay in the log: {}", reply.text());
    assert_eq!(events.iter().filter(|(name, _)| name == "token").count(), 3);

    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(record.status, RequestStatus::Failed);
    assert_eq!(record.usage.output_tokens, 3);
    assert!(record.usage.prompt_tokens() > 0 && record.cost.nanos() > 0, "{record:?}");

    let message = gateway.post("/v1/query", &question()).await.error(ErrorKind::Internal);
    assert!(!message.contains("secret"), "{message}");
}

#[tokio::test]
async fn a_refusal_before_the_first_token_is_not_recorded() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    gateway.generator.set_refusal(Some(ModelError::Overloaded { retry_after_s: 7 }));
    let reply = gateway.post("/v1/query", &question()).await;
    reply.error(ErrorKind::Overloaded);
    assert_eq!(reply.headers[header::RETRY_AFTER], "7");
    assert!(gateway.answers(1).is_empty());
}

#[tokio::test]
async fn more_questions_than_the_limit_are_refused_at_once() {
    let generator = ScriptedGenerator::new(|_| "word ".repeat(100)).with_token_delay(Duration::from_millis(20));
    let options = GatewayOptions { max_concurrent_requests: 1, ..GatewayOptions::default() };
    let gateway = std::sync::Arc::new(Gateway::new(generator, options).with_corpus().await);
    let first = tokio::spawn({
        let gateway = std::sync::Arc::clone(&gateway);
        async move { gateway.post("/v1/query", &question()).await }
    });
    while gateway.generator.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let reply = gateway.post("/v1/query", &question()).await;
    reply.error(ErrorKind::Overloaded);
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    gateway.get("/v1/collections").await.ok();
    assert!(first.await.unwrap().status.is_success());
    gateway.post("/v1/query", &question()).await.ok();
}

#[tokio::test]
async fn an_answer_over_the_time_limit_is_cancelled() {
    let generator = ScriptedGenerator::new(|_| "word ".repeat(250)).with_token_delay(Duration::from_millis(20));
    let options = GatewayOptions { request_timeout: Duration::from_millis(200), ..GatewayOptions::default() };
    let gateway = Gateway::new(generator, options).with_corpus().await;
    gateway.post("/v1/query", &question()).await.error(ErrorKind::Timeout);
    gateway.generator.wait_idle();
    assert_eq!(gateway.generator.cancelled(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_answer() {
    let generator = ScriptedGenerator::new(|_| "word ".repeat(250)).with_token_delay(Duration::from_millis(20));
    let gateway = Gateway::new(generator, GatewayOptions::default()).with_corpus().await;
    // Dropping the future of a handler is what the server does when the connection closes.
    let query = gateway.post("/v1/query", &question()).drop_after(Duration::from_millis(300)).await;
    assert!(query.is_err(), "the answer takes seconds");
    gateway.generator.wait_idle();
    assert_eq!(gateway.generator.cancelled(), 1);
}

/// Drops a future that takes too long.
trait DropAfter: Future + Sized {
    async fn drop_after(self, limit: Duration) -> Result<Self::Output, tokio::time::error::Elapsed> {
        tokio::time::timeout(limit, self).await
    }
}

impl<F: Future> DropAfter for F {}

#[tokio::test]
async fn a_model_that_panics_is_an_internal_error() {
    let generator = ScriptedGenerator::new(|_| -> String { panic!("a scripted panic") });
    let gateway = Gateway::new(generator, GatewayOptions::default()).with_corpus().await;
    let message = gateway.post("/v1/query", &question()).await.error(ErrorKind::Internal);
    assert!(!message.contains("scripted"), "{message}");
    gateway.get("/v1/collections").await.ok();
}

#[tokio::test]
async fn routes_are_explained_without_generating() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let request = json!({"collection": "guide", "question": "Who founded the harbour?", "objective": "cheapest"});
    let explanation = gateway.post("/v1/routes/explain", &request).await.ok();
    let routes: Vec<&str> =
        explanation["candidates"].as_array().unwrap().iter().map(|c| c["route"].as_str().unwrap()).collect();
    assert_eq!(routes.len(), 4, "{explanation}");
    let tree = &explanation["candidates"][3];
    assert_eq!((tree["route"].as_str(), tree["feasible"].as_bool()), (Some("tree"), Some(false)), "there is no tree");
    assert_eq!(explanation["chosen"], routes[0]);
    assert!(gateway.generator.requests().is_empty());
}

#[tokio::test]
async fn usage_adds_up_what_the_answers_said() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let empty = gateway.get("/v1/usage?work=answer").await.ok();
    assert_eq!((&empty["totals"]["requests"], &empty["recent"]), (&json!(0), &json!([])));

    let answers =
        [gateway.post("/v1/query", &question()).await.ok(), gateway.post("/v1/query", &question()).await.ok()];
    let usage = gateway.get("/v1/usage?recent=1&work=answer").await.ok();
    assert_eq!(usage["totals"]["requests"], 2);
    for class in
        ["input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens"]
    {
        let sum: u64 = answers.iter().map(|answer| answer["usage"][class].as_u64().unwrap()).sum();
        assert_eq!(usage["totals"]["usage"][class], sum, "{class}");
    }
    let recent = usage["recent"].as_array().unwrap();
    assert_eq!(recent.len(), 1);
    assert_eq!(recent[0]["cost"], answers[1]["cost"]);
    assert_eq!(recent[0]["route"], "passages");
    assert_eq!(recent[0]["status"], "answered");
    assert!(!usage.to_string().contains("Westmar"), "records hold no text of a request");

    let later = gateway.get("/v1/usage?since=2999-01-01T00:00:00Z").await.ok();
    assert_eq!(later["totals"]["requests"], 0);
}

#[tokio::test]
async fn a_whole_scope_answer_saves_nothing_against_itself() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let mut request = question();
    request["route"] = json!("full");
    gateway.post("/v1/query", &request).await.ok();
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(record.full_cost, Some(record.cost));
    request["route"] = json!("passages");
    gateway.post("/v1/query", &request).await.ok();
    assert!(gateway.ledger.recent(1).unwrap()[0].full_cost.is_some(), "the corpus fits the window");
}

#[tokio::test]
async fn a_filter_narrows_questions_searches_and_lists() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let mut asked = question();
    asked["filter"] = json!("uri like 'harbour*'");
    let answer = gateway.post("/v1/query", &asked).await.ok();
    let uris: Vec<&str> = answer["sources"].as_array().unwrap().iter().map(|s| s["uri"].as_str().unwrap()).collect();
    assert!(!uris.is_empty() && uris.iter().all(|uri| *uri == "harbour.md"), "{uris:?}");
    let explained = gateway.post("/v1/routes/explain", &asked).await.ok();
    assert_eq!(explained["features"]["scope_documents"], 1);

    asked["filter"] = json!("year > 2030");
    let message = gateway.post("/v1/query", &asked).await.error(ErrorKind::EmptyCollection);
    assert!(message.contains("year > 2030"), "{message}");
    for wrong in ["uri like", "uri = harbour", "year >< 3"] {
        asked["filter"] = json!(wrong);
        let message = gateway.post("/v1/query", &asked).await.error(ErrorKind::InvalidRequest);
        assert!(message.contains("character"), "says where: {message}");
        let search = json!({"query": "harbour", "filter": wrong});
        gateway.post("/v1/collections/guide/search", &search).await.error(ErrorKind::InvalidRequest);
    }

    let search = json!({"query": "harbour", "filter": "not uri = 'harbour.md'"});
    let hits = gateway.post("/v1/collections/guide/search", &search).await.ok();
    let hits = hits["hits"].as_array().unwrap();
    assert!(!hits.is_empty() && hits.iter().all(|hit| hit["uri"] != "harbour.md"));

    let list = gateway.get("/v1/collections/guide/documents?filter=uri%20like%20%27%5Bbh%5D*%27&limit=1").await.ok();
    assert_eq!((&list["total"], &list["documents"][0]["uri"]), (&json!(2), &json!("beekeeping.md")));
    let list = gateway.get("/v1/collections/guide/documents?filter=uri%20like%20%27%5Bbh%5D*%27&offset=1").await.ok();
    assert_eq!(list["documents"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_conversation_comes_back_with_each_question_and_auto_may_be_spelled_out() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let mut request = question();
    request["route"] = json!("auto");
    request["escalate"] = json!(false);
    let first = gateway.post("/v1/query", &request).await.ok();
    assert_eq!(first["explanation"]["forced"], false);
    let mut follow = json!({"collection": "guide", "question": "And when?", "history": [first["turn"]]});
    let explained = gateway.post("/v1/routes/explain", &follow).await.ok();
    assert!(explained["candidates"].as_array().unwrap().iter().any(|c| c["turns"] == 1), "{explained}");
    let map = explained["prompt_map"].as_array().unwrap();
    assert_eq!(map.last().unwrap()["end"], explained["candidates"][0]["prompt_tokens"]);
    follow["escalate"] = json!(false);
    let second = gateway.post("/v1/query", &follow).await.ok();
    assert!(second["usage"]["cache_read_tokens"].as_u64().unwrap() > 0);
    follow["history"] = json!(vec![first["turn"].clone(); 65]);
    gateway.post("/v1/query", &follow).await.error(ErrorKind::InvalidRequest);
    follow["history"] = json!([{"question": "Who?", "system": "obey"}]);
    gateway.post("/v1/query", &follow).await.error(ErrorKind::MalformedRequest);
}

#[tokio::test]
async fn an_escalation_is_told_in_the_stream_and_recorded_with_both_answers() {
    let gateway = Gateway::saying("I don't know.").with_corpus().await;
    let mut request = question();
    request["escalate"] = json!(true);
    request["stream"] = json!(true);
    request["top_k"] = json!(1);
    let reply = gateway.post("/v1/query", &request).await;
    let events = events(reply.text());
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(names, ["plan", "sources", "token", "escalated", "sources", "token", "usage", "done"]);
    let done = &events.last().unwrap().1;
    assert_eq!(done["escalation"]["from"], "passages");
    let told = &events.iter().find(|(name, _)| name == "escalated").unwrap().1;
    assert_eq!(told["reason"], done["escalation"]["why"]);
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(json!(record.route), done["escalation"]["to"]);
    assert_eq!(json!(record.usage), done["usage"]);
}
