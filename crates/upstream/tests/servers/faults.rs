//! Servers that fail, and what a request makes of it.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use edgewise_model_api::{FinishReason, GenerateRequest, Generator, ModelError};
use edgewise_upstream::{Timeouts, UpstreamOptions};
use serde_json::{Value, json};

use crate::{
    TEXT,
    fake::{Fake, Reply, Speech},
    generator, hear, options, request,
};

fn status(code: u16, body: Value) -> Reply {
    Reply::Status(code, Vec::new(), body)
}

#[test]
fn a_failure_before_the_first_token_is_tried_again() {
    for failure in [
        status(503, json!({ "error": "starting" })),
        status(500, json!({ "error": { "message": "out of memory" } })),
        Reply::Say(Speech { cut: Some(0), ..Speech::new(TEXT) }),
        Reply::Raw(vec![b"<html>gateway</html>"]),
        Reply::Raw(vec![b"data: {\"choices\": [{\"te", b"xt\": 5}]}\n\n"]),
        Reply::Raw(vec![b": ping\n\n", b"data: {\"error\":{\"message\":\"no\"}}\n\n"]),
        Reply::Raw(vec![]),
    ] {
        let first = failure.clone();
        let server = Fake::scripted(move |nth| if nth == 0 { first.clone() } else { TEXT.into() });
        let heard = hear(generator(options(&[&server])).generate(request(20, 40)).unwrap());
        assert_eq!(heard.text, TEXT, "{failure:?}: {heard:?}");
        assert_eq!(server.requests(), 2, "{failure:?}");
    }
}

#[test]
fn attempts_end_and_say_why() {
    let server = Fake::scripted(|_| status(500, json!({ "error": { "message": "out of memory" } })));
    let model = generator(UpstreamOptions { breaker_failures: 100, ..options(&[&server]) });
    let error = hear(model.generate(request(20, 40)).unwrap()).end.unwrap_err();
    assert!(matches!(&error, ModelError::Stopped(why) if why.contains("500: out of memory")), "{error}");
    assert_eq!(server.requests(), 3, "one and two more");
}

#[test]
fn what_another_attempt_cannot_mend_is_not_tried_again() {
    for (code, body, says) in [
        (
            400,
            json!({ "error": { "message": "temperature is wrong" } }),
            "refused the request (400): temperature is wrong",
        ),
        (404, json!({ "detail": "Not Found" }), "knows no model `m`"),
        (400, json!({ "message": "This model's maximum context length is 10 tokens" }), "set upstream.context_window"),
    ] {
        let server = Fake::scripted(move |_| status(code, body.clone()));
        let heard = hear(generator(options(&[&server])).generate(request(20, 40)).unwrap());
        let error = heard.end.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_request_of_which_a_token_has_come_is_never_sent_again() {
    for cut in [1, 4] {
        let server = Fake::scripted(move |_| Reply::Say(Speech { cut: Some(cut), ..Speech::new(TEXT) }));
        let heard = hear(generator(options(&[&server])).generate(request(20, 40)).unwrap());
        assert!(heard.end.is_err());
        assert_eq!(heard.tokens, cut, "what came is passed on and accounted");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(server.requests(), 1);
    }
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let busy = || Reply::Status(429, vec![("retry-after", "60".to_owned())], json!({ "error": "busy" }));
    let server = Fake::scripted(move |_| busy());
    let model = generator(options(&[&server]));
    let begun = Instant::now();
    let error = hear(model.generate(request(20, 40)).unwrap()).end.unwrap_err();
    assert_eq!(error, ModelError::Overloaded { retry_after_s: 60 });
    assert!(begun.elapsed() < Duration::from_secs(5), "it does not wait longer than the first token may take");
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_busy_servers_request_goes_elsewhere_at_once() {
    let (a, b) = (
        Fake::scripted(|_| Reply::Status(429, vec![("retry-after", "60".to_owned())], json!({}))),
        Fake::scripted(|_| Reply::Status(429, vec![("retry-after", "60".to_owned())], json!({}))),
    );
    let free = Fake::saying(TEXT);
    let model = generator(options(&[&a, &b, &free]));
    for first in 0..8 {
        let heard = hear(model.generate(request(1000 * first, 40)).unwrap());
        assert_eq!(heard.text, TEXT, "{heard:?}");
    }
    assert!(a.requests() <= 1 && b.requests() <= 1, "who is busy is not asked again");
}

fn short() -> Timeouts {
    Timeouts {
        connect: Duration::from_millis(300),
        first_token: Duration::from_millis(400),
        idle: Duration::from_millis(200),
    }
}

#[test]
fn a_server_that_says_nothing_does_not_hold_a_request() {
    for (hang, tokens) in [(0, 0), (3, 3)] {
        // It keeps the connection alive with comments.
        let server = Fake::scripted(move |_| Reply::Say(Speech { hang: Some(hang), ..Speech::new(TEXT) }));
        let model = generator(UpstreamOptions { timeouts: short(), ..options(&[&server]) });
        let begun = Instant::now();
        let heard = hear(model.generate(request(20, 40)).unwrap());
        let error = heard.end.unwrap_err().to_string();
        assert_eq!(heard.tokens, tokens);
        assert!(error.contains("timeout_ms") && begun.elapsed() < Duration::from_secs(3), "{error}");
    }
}

#[test]
fn lies_about_lengths_are_not_billed() {
    for usage in [
        json!({ "prompt_tokens": 1, "completion_tokens": 1_000_000, "prompt_tokens_details": { "cached_tokens": 1_000 } }),
        json!({ "prompt_tokens": 4_000_000_000u64, "completion_tokens": 0, "prompt_tokens_details": { "cached_tokens": null } }),
        Value::Null,
    ] {
        let told = usage.clone();
        let speech = Speech { usage: Some(usage), done: !told.is_null(), ..Speech::new("one two three") };
        let server = Fake::scripted(move |_| Reply::Say(speech.clone()));
        let heard = hear(generator(options(&[&server])).generate(request(20, 40)).unwrap());
        let (_, usage) = heard.end.unwrap();
        assert_eq!(usage.prompt_tokens(), 40, "{told}");
        assert_eq!((usage.cache_read_tokens, usage.output_tokens), (0, 3), "{told}");
    }
}

#[test]
fn more_tokens_than_were_asked_for_do_not_count() {
    let server = Fake::scripted(|_| {
        Reply::Raw(vec![
            b"data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: {\"choices\":[{\"text\":\"b\"}]}\n\n",
            b"data: {\"choices\":[{\"text\":\"c\"}]}\n\ndata: {\"choices\":[{\"text\":\"d\"}]}\n\ndata: [DONE]\n\n",
        ])
    });
    let heard =
        hear(generator(options(&[&server])).generate(GenerateRequest { max_tokens: 2, ..request(20, 40) }).unwrap());
    assert_eq!((heard.text.as_str(), heard.tokens), ("ab", 2));
    let (reason, usage) = heard.end.unwrap();
    assert_eq!((reason, usage.output_tokens), (FinishReason::Length, 2));
}

#[test]
fn nobody_listening_ends_the_work_of_the_server() {
    let speech = Speech { delay: Duration::from_millis(20), ..Speech::new(TEXT) };
    let server = Fake::scripted(move |_| Reply::Say(speech.clone()));
    let model = generator(options(&[&server]));
    let mut stream = model.generate(request(20, 40)).unwrap();
    assert!(stream.next_blocking().is_some() && stream.next_blocking().is_some());
    drop(stream);
    let begun = Instant::now();
    while server.shared.abandoned.load(Ordering::Relaxed) == 0 || model.queue().requests > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "the server still works for nobody");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_any_server_a_request_fails_soon_and_says_so() {
    let mut server = Fake::saying(TEXT);
    let options = options(&[&server]);
    server.kill();
    let model = generator(options);
    let begun = Instant::now();
    let error = model.generate(request(20, 40)).map(hear).map_or_else(|error| error, |heard| heard.end.unwrap_err());
    assert!(matches!(error, ModelError::Stopped(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
