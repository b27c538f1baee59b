//! The forms of other APIs: what their clients send, what they must get back, and what the ledger keeps.

use std::time::Duration;

use edgewise_gateway::GatewayOptions;
use edgewise_ledger::RequestStatus;
use edgewise_model_api::ModelError;
use edgewise_test_support::{Reply, ScriptedGenerator};
use serde_json::{Value, json};

use crate::harness::{Gateway, events};

const ANSWER: &str = "The harbour was founded in 1742 by Elsa Brandt [1].";
const QUESTION: &str = "Who founded the harbour of Westmar?";

fn message(text: &str) -> Value {
    json!({"model": "scripted", "max_tokens": 50, "messages": [{"role": "user", "content": text}]})
}

fn kept(text: &str, ttl: &str) -> Value {
    json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}})
}

/// Data of every chunk of an OpenAI stream, which must end with `[DONE]`.
fn chunks(text: &str) -> Vec<Value> {
    let mut lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
    lines.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_message_reads_what_an_earlier_one_kept() {
    let gateway = Gateway::saying("Fine.");
    let long = "Answer in one word and always politely, whatever is asked of you today.";
    let mut request = message("How are you?");
    request["system"] = json!([kept(long, "1h")]);
    request["messages"] = json!([{"role": "user", "content": [kept("How are you?", "5m")]}]);
    let first = gateway.post("/v1/messages", &request).await;
    assert_eq!(first.headers["x-edgewise-cache-skipped-breakpoints"], "0");
    let first = first.ok();
    assert_eq!((first["type"].as_str(), first["role"].as_str()), (Some("message"), Some("assistant")));
    assert_eq!(first["content"], json!([{"type": "text", "text": "Fine."}]));
    assert_eq!(first["stop_reason"], "end_turn");
    let usage = &first["usage"];
    let creation = &usage["cache_creation"];
    assert_eq!(usage["cache_read_input_tokens"], 0);
    let sum = creation["ephemeral_5m_input_tokens"].as_u64().unwrap()
        + creation["ephemeral_1h_input_tokens"].as_u64().unwrap();
    assert_eq!(usage["cache_creation_input_tokens"].as_u64(), Some(sum));
    assert!(creation["ephemeral_1h_input_tokens"].as_u64().unwrap() > 10, "{usage}");

    // The conversation grows, and so does its last breakpoint.
    request["messages"] = json!([
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [kept("And tomorrow?", "5m")]},
    ]);
    let second = gateway.post("/v1/messages", &request).await.ok();
    let read = second["usage"]["cache_read_input_tokens"].as_u64().unwrap();
    assert!(read >= sum, "{read} of {sum} tokens were read");
    assert_eq!(second["usage"]["cache_creation"]["ephemeral_1h_input_tokens"], 0);
    assert!(second["usage"]["cache_creation"]["ephemeral_5m_input_tokens"].as_u64().unwrap() > 0);

    let records = gateway.answers(9);
    assert_eq!(records.len(), 2);
    assert!(
        records.iter().all(|r| r.route == "engine" && r.collection.is_none() && r.status == RequestStatus::Answered)
    );
    assert_eq!(records[0].usage.cache_read_tokens as u64, read);
    assert!(records[1].cost.nanos() > 0);
}

#[tokio::test]
async fn breakpoints_that_are_too_early_are_told() {
    let generator = ScriptedGenerator::replies(["Fine."]).with_min_prefix_tokens(1000);
    let gateway = Gateway::new(generator, GatewayOptions::default());
    let mut request = message("x");
    request["system"] = json!([kept("Be short.", "5m")]);
    let reply = gateway.post("/v1/messages", &request).await;
    assert_eq!(reply.headers["x-edgewise-cache-min-tokens"], "1000");
    assert_eq!(reply.headers["x-edgewise-cache-skipped-breakpoints"], "1");
    assert_eq!(reply.ok()["usage"]["cache_creation_input_tokens"], 0);
}

#[tokio::test]
async fn a_streamed_message_has_the_events_of_its_api() {
    let gateway = Gateway::saying("One two three.");
    let whole = gateway.post("/v1/messages", &message("Count.")).await.ok();
    let mut request = message("Count.");
    request["stream"] = json!(true);
    let reply = gateway.post("/v1/messages", &request).await;
    let events = events(reply.text());
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert!(events.iter().all(|(name, data)| data["type"] == *name));
    names.dedup();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    let text: String = events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
    assert_eq!(text, whole["content"][0]["text"].as_str().unwrap());
    let delta = &events[events.len() - 2].1;
    assert_eq!(delta["delta"]["stop_reason"], "end_turn");
    assert_eq!(delta["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
}

#[tokio::test]
async fn a_demanded_or_chosen_tool_call_is_a_block() {
    let call = "<tool_call>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}]</tool_call>";
    let gateway = Gateway::saying(call);
    let mut request = message("Weather in Oslo?");
    request["tools"] = json!([{"name": "weather", "description": "d", "input_schema": {"type": "object"}}]);
    let whole = gateway.post("/v1/messages", &request).await.ok();
    assert_eq!(whole["stop_reason"], "tool_use");
    let block = &whole["content"][0];
    assert_eq!((block["type"].as_str(), block["name"].as_str()), (Some("tool_use"), Some("weather")));
    assert_eq!(block["input"], json!({"city": "Oslo"}));

    request["stream"] = json!(true);
    let events = events(gateway.post("/v1/messages", &request).await.text());
    assert!(events.iter().all(|(_, data)| data["delta"]["type"] != "text_delta"), "a call is not shown as text");
    let json: String = events.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!({"city": "Oslo"}));

    let chat = json!({"model": "scripted", "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "function": {"name": "weather"}}]});
    let whole = gateway.post("/v1/chat/completions", &chat).await.ok();
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    let function = &whole["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(function["arguments"], "{\"city\":\"Oslo\"}");
}

#[tokio::test]
async fn tokens_are_counted_as_the_engine_will() {
    let gateway = Gateway::saying("Fine.");
    let whole = gateway.post("/v1/messages", &message("How are you today?")).await.ok();
    let mut request = message("How are you today?");
    request.as_object_mut().unwrap().remove("max_tokens");
    let count = gateway.post("/v1/messages/count_tokens", &request).await.ok();
    assert_eq!(count["input_tokens"], whole["usage"]["input_tokens"]);
    assert_eq!(gateway.answers(9).len(), 1, "counting costs nothing");
}

#[tokio::test]
async fn zero_tokens_fill_the_cache_and_say_nothing() {
    let gateway = Gateway::saying("Fine.");
    let mut request = message("x");
    request["system"] = json!([kept("Be short and polite to everybody.", "1h")]);
    request["max_tokens"] = json!(0);
    let warmed = gateway.post("/v1/messages", &request).await.ok();
    assert_eq!(warmed["content"], json!([]));
    request["max_tokens"] = json!(9);
    let read = gateway.post("/v1/messages", &request).await.ok();
    assert!(
        read["usage"]["cache_read_input_tokens"].as_u64() >= warmed["usage"]["cache_creation_input_tokens"].as_u64()
    );
}

#[tokio::test]
async fn failures_have_the_body_of_the_dialect() {
    let gateway = Gateway::saying("Fine.").with_corpus().await;
    let mut unknown = message("x");
    unknown["model"] = json!("gpt-none");
    let reply = gateway.post("/v1/messages", &unknown).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["type"].as_str()), (404, Some("not_found_error")));
    assert!(reply.text().contains("scripted"), "it says what there is: {}", reply.text());
    let chat = json!({"model": "gpt-none", "messages": [{"role": "user", "content": "x"}]});
    let reply = gateway.post("/v1/chat/completions", &chat).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["code"].as_str()), (404, Some("model_not_found")));

    let reply = gateway.post_text("/v1/messages", "{").await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["type"].as_str()), (400, Some("invalid_request_error")));
    let reply = gateway.get("/v1/chat/completions").await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["type"].as_str()), (405, Some("invalid_request_error")));

    gateway.generator.set_refusal(Some(ModelError::Overloaded { retry_after_s: 7 }));
    let reply = gateway.post("/v1/messages", &message("x")).await;
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(reply.headers["retry-after"], "7");
    assert!(gateway.answers(1).is_empty(), "nothing was computed");
}

#[tokio::test]
async fn a_failure_midway_is_the_dialects_error_event_and_is_recorded() {
    let broken = || Reply::new("One two three.").failing_after(2, ModelError::Internal("/secret: lost".to_owned()));
    let gateway = Gateway::new(ScriptedGenerator::replies([broken()]), GatewayOptions::default());
    let mut request = message("x");
    request["stream"] = json!(true);
    let reply = gateway.post("/v1/messages", &request).await;
    let (name, data) = events(reply.text()).pop().unwrap();
    assert_eq!((name.as_str(), data["error"]["type"].as_str()), ("error", Some("api_error")));
    let chat = json!({"model": "scripted", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let second = gateway.post("/v1/chat/completions", &chat).await;
    assert!(!second.text().contains("[DONE]") && second.text().contains("server_error"), "{}", second.text());
    assert!(!reply.text().contains("secret") && !second.text().contains("secret"));
    let records = gateway.answers(9);
    assert!(records.iter().all(|r| r.status == RequestStatus::Failed && r.usage.output_tokens == 2), "{records:?}");
    assert_eq!(records.len(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_and_pays_for_what_it_got() {
    let generator = ScriptedGenerator::replies(["word ".repeat(500)]).with_token_delay(Duration::from_millis(5));
    let gateway = Gateway::new(generator, GatewayOptions::default());
    let mut body = message("x");
    body["stream"] = json!(true);
    body["max_tokens"] = json!(5000);
    let mut request = crate::harness::request(axum::http::Method::POST, "/v1/messages", body.to_string().into());
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let response = tower::ServiceExt::oneshot(gateway.router(), request).await.unwrap();
    let mut stream = response.into_body().into_data_stream();
    tokio_stream::StreamExt::next(&mut stream).await.unwrap().unwrap();
    drop(stream);
    let mut waited = 0;
    while gateway.answers(1).is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        waited += 1;
        assert!(waited < 500, "the chat was never recorded");
    }
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(record.status, RequestStatus::Cancelled);
    assert!(record.usage.output_tokens < 500 && record.usage.prompt_tokens() > 0, "{record:?}");
    gateway.generator.wait_idle();
    assert_eq!(gateway.generator.cancelled(), 1);
}

#[tokio::test]
async fn a_completion_has_its_samples_probabilities_and_usage() {
    let gateway = Gateway::saying("One two three.");
    let chat = json!({"model": "scripted", "n": 2, "logprobs": true, "seed": 7, "stop": "x",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Count."}]});
    let whole = gateway.post("/v1/chat/completions", &chat).await.ok();
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!((choice["index"].as_u64(), choice["finish_reason"].as_str()), (Some(index as u64), Some("stop")));
        assert_eq!(choice["message"]["content"], "One two three.");
        let tokens: String =
            choice["logprobs"]["content"].as_array().unwrap().iter().map(|t| t["token"].as_str().unwrap()).collect();
        assert_eq!(tokens, "One two three.");
    }
    let usage = &whole["usage"];
    let (prompt, completion) = (usage["prompt_tokens"].as_u64().unwrap(), usage["completion_tokens"].as_u64().unwrap());
    assert_eq!(usage["total_tokens"].as_u64(), Some(prompt + completion));
    let again = gateway.post("/v1/chat/completions", &chat).await.ok();
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64(), Some(prompt - 1));

    let mut streamed = chat.clone();
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let reply = gateway.post("/v1/chat/completions", &streamed).await;
    let chunks = chunks(reply.text());
    for sample in 0..2 {
        let of = |chunk: &Value| chunk["choices"].get(0).filter(|choice| choice["index"] == sample).cloned();
        let choices: Vec<Value> = chunks.iter().filter_map(of).collect();
        let text: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "One two three.");
        assert_eq!(choices.last().unwrap()["finish_reason"], "stop");
    }
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"].as_u64(), Some(completion));
    assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"].is_null()));
}

#[tokio::test]
async fn a_collection_answers_with_annotations_and_goes_on_from_its_prompt() {
    let gateway = Gateway::saying(ANSWER).with_corpus().await;
    let chat = json!({"model": "edgewise/guide",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        "edgewise": {"route": "passages", "top_k": 2}});
    let first = gateway.post("/v1/chat/completions", &chat).await.ok();
    let message = &first["choices"][0]["message"];
    let annotation = &message["annotations"][0]["url_citation"];
    assert_eq!(annotation["url"], "harbour.md", "{first}");
    assert!(annotation["end_index"].as_u64() > annotation["start_index"].as_u64());
    assert_eq!(first["edgewise"]["route"], "passages");

    let mut follow_up = chat.clone();
    follow_up["messages"] = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": "And when was it?"},
    ]);
    let second = gateway.post("/v1/chat/completions", &follow_up).await.ok();
    let requests = gateway.generator.requests();
    let (before, after) = (&requests[0].prompt.tokens, &requests[1].prompt.tokens);
    assert!(after.len() > before.len() && after[..before.len()] == before[..], "the prompt goes on from the first");
    assert!(second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() as usize >= before.len());

    // What the server never said is continued too, without sources.
    follow_up["messages"][2]["content"] = json!("Something else entirely.");
    gateway.post("/v1/chat/completions", &follow_up).await.ok();

    let message = json!({"model": "edgewise/guide", "max_tokens": 60, "stream": true,
        "messages": [{"role": "user", "content": QUESTION}], "edgewise": {"route": "passages"}});
    let events = events(gateway.post("/v1/messages", &message).await.text());
    let citation = events.iter().find(|(_, data)| data["delta"]["type"] == "citations_delta").unwrap();
    assert_eq!(citation.1["delta"]["citation"]["source"], "harbour.md");
    let record = &gateway.ledger.recent(1).unwrap()[0];
    assert_eq!(record.collection.as_ref().map(|c| c.as_str()), Some("guide"));
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_bytes_and_nothing_is_cut() {
    let gateway = Gateway::saying("x");
    let models = gateway.get("/v1/models").await.ok();
    let embedder = models["data"][1]["id"].as_str().unwrap().to_owned();
    let request = |input: Value, format: &str| json!({"model": embedder, "input": input, "encoding_format": format});
    let numbers = gateway.post("/v1/embeddings", &request(json!(["a bee", "a ship"]), "float")).await.ok();
    let bytes = gateway.post("/v1/embeddings", &request(json!("a ship"), "base64")).await.ok();
    let vector = numbers["data"][1]["embedding"].as_array().unwrap();
    let text = bytes["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), (vector.len() * 4).div_ceil(3) * 4);
    assert!(numbers["usage"]["prompt_tokens"].as_u64() > bytes["usage"]["prompt_tokens"].as_u64());
    for (input, status) in
        [(json!([]), 400), (json!([1, 2]), 400), (json!(""), 400), (json!("word ".repeat(5000)), 422)]
    {
        let reply = gateway.post("/v1/embeddings", &request(input, "float")).await;
        assert_eq!(reply.status.as_u16(), status, "{}", reply.text());
    }
}

#[tokio::test]
async fn models_are_the_engine_the_embedder_and_the_collections() {
    let gateway = Gateway::saying("x").with_corpus().await;
    let list = gateway.get("/v1/models").await.ok();
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[2]), ("scripted", "edgewise/guide"));
    assert_eq!(gateway.get("/v1/models/edgewise%2Fguide").await.ok()["id"], "edgewise/guide");
    let missing = gateway.get("/v1/models/none").await;
    assert_eq!((missing.status.as_u16(), missing.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
}
