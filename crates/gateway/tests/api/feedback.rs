//! Ratings of answers: stored, learned from, replaced, forgotten.

use edgewise_gateway::{ErrorKind, learned};
use serde_json::{Value, json};

use crate::harness::Gateway;

const QUESTION: &str = "Who founded the harbour of Westmar?";

async fn ask(gateway: &Gateway) -> String {
    let question = json!({"collection": "guide", "question": QUESTION, "route": "passages"});
    let reply = gateway.post("/v1/query", &question).await;
    reply.ok();
    reply.headers["x-request-id"].to_str().unwrap().to_owned()
}

async fn passages(gateway: &Gateway) -> Value {
    let explained =
        gateway.post("/v1/routes/explain", &json!({"collection": "guide", "question": QUESTION})).await.ok();
    let candidates = explained["candidates"].as_array().unwrap().clone();
    candidates.into_iter().find(|candidate| candidate["route"] == "passages").unwrap()
}

/// All of a candidate but what depends on how long planning took just now, and thereby on the machine.
fn expected(candidate: &Value) -> Value {
    let mut candidate = candidate.as_object().unwrap().clone();
    for timed in ["ttft_ms", "latency_ms", "score", "reason", "worth_of_keeping"] {
        assert!(candidate.remove(timed).is_some(), "{timed}");
    }
    assert!(candidate.contains_key("quality") && candidate.contains_key("usage"), "{candidate:?}");
    Value::Object(candidate)
}

#[tokio::test]
async fn ratings_move_the_expected_quality_and_say_by_how_much() {
    let gateway = Gateway::saying("Elsa Brandt founded it [1].").with_corpus().await;
    // From here on the prompt is in the cache, and stays there.
    ask(&gateway).await;
    let before = passages(&gateway).await;
    assert_eq!(before["feedback_shift"], 0.0);
    for n in 1..=8 {
        let id = ask(&gateway).await;
        let stored = gateway.post("/v1/feedback", &json!({"request_id": id, "good": false})).await.ok();
        assert_eq!(
            (&stored["rating"], &stored["replaced"], &stored["ratings"]),
            (&json!(-1.0), &json!(false), &json!(n))
        );
        assert!(stored["request_id"].as_str().unwrap().ends_with(&id));
    }
    let after = passages(&gateway).await;
    let shift = after["feedback_shift"].as_f64().unwrap();
    assert!((-0.1501..-0.03).contains(&shift), "{after}");
    let moved = after["quality"].as_f64().unwrap() - before["quality"].as_f64().unwrap();
    assert!((moved - shift).abs() < 1e-9, "{before} {after}");

    // The same ledger teaches a new process the same.
    let again = learned(&gateway.ledger).unwrap();
    assert_eq!(again.count(), 8);
    assert_eq!(again, learned(&gateway.ledger).unwrap());

    assert_eq!(gateway.delete("/v1/feedback").await.ok()["forgotten"], 8);
    assert_eq!(expected(&passages(&gateway).await), expected(&before), "nothing is left of it");
}

#[tokio::test]
async fn a_second_rating_replaces_the_first() {
    let gateway = Gateway::saying("Elsa Brandt founded it [1].").with_corpus().await;
    let id = ask(&gateway).await;
    let rate =
        async |rating: f64| gateway.post("/v1/feedback", &json!({"request_id": id, "rating": rating})).await.ok();
    rate(-1.0).await;
    let bad = passages(&gateway).await;
    let stored = rate(1.0).await;
    assert_eq!((&stored["replaced"], &stored["ratings"]), (&json!(true), &json!(1)));
    let good = passages(&gateway).await;
    assert!(good["feedback_shift"].as_f64().unwrap() > 0.0 && bad["feedback_shift"].as_f64().unwrap() < 0.0);
    rate(-1.0).await;
    assert_eq!(expected(&passages(&gateway).await), expected(&bad), "as if the other had never been given");
    let stored =
        gateway.post("/v1/feedback", &json!({"request_id": "last", "rating": 0.5, "comment": "hm"})).await.ok();
    assert_eq!(stored["replaced"], true);
}

#[tokio::test]
async fn wrong_ratings_say_what_is_wrong() {
    let gateway = Gateway::saying("ok").with_corpus().await;
    let unknown = gateway.post("/v1/feedback", &json!({"request_id": "nobody", "good": true})).await;
    let message = unknown.error(ErrorKind::UnknownRequest);
    assert!(message.contains("`nobody`") && message.contains("x-request-id"), "{message}");
    gateway.post("/v1/feedback", &json!({"request_id": "last", "good": true})).await.error(ErrorKind::UnknownRequest);
    let id = ask(&gateway).await;
    for body in [
        json!({"request_id": id}),
        json!({"request_id": id, "good": true, "rating": 1.0}),
        json!({"request_id": id, "rating": 1.5}),
        json!({"request_id": id, "good": true, "comment": "x".repeat(2001)}),
    ] {
        gateway.post("/v1/feedback", &body).await.error(ErrorKind::InvalidRequest);
    }
    gateway.post("/v1/feedback", &json!({"request_id": id, "god": true})).await.error(ErrorKind::MalformedRequest);
    assert!(gateway.ledger.ratings(10).unwrap().is_empty());
}

#[tokio::test]
async fn the_ledger_keeps_no_word_of_the_question() {
    let gateway = Gateway::saying("ok").with_corpus().await;
    let id = ask(&gateway).await;
    gateway.post("/v1/feedback", &json!({"request_id": id, "good": true})).await.ok();
    let kept = gateway.ledger.ratings(10).unwrap();
    assert_eq!(kept.len(), 1);
    for word in ["founded", "harbour", "Westmar"] {
        assert!(!kept[0].0.contains(word), "{}", kept[0].0);
    }
}
