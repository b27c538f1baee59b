//! Several servers: who gets what, and what happens when one dies.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use edgewise_model_api::Generator;
use edgewise_upstream::UpstreamOptions;

use crate::{
    TEXT,
    fake::{Fake, Manner, Reply, Speech},
    generator, hear, options, request,
};

#[test]
fn a_prefix_stays_with_one_server_and_prefixes_spread() {
    let servers = [Fake::saying(TEXT), Fake::saying(TEXT), Fake::saying(TEXT)];
    let model = generator(options(&servers.iter().collect::<Vec<_>>()));
    for _ in 0..5 {
        hear(model.generate(request(7000, 200)).unwrap()).end.unwrap();
    }
    let counts: Vec<usize> = servers.iter().map(Fake::requests).collect();
    assert_eq!(counts.iter().max(), Some(&5), "{counts:?}");
    for first in 0..30 {
        hear(model.generate(request(1000 * first, 40)).unwrap()).end.unwrap();
    }
    assert!(servers.iter().all(|server| server.requests() > 1), "every one has some");
}

#[test]
fn a_server_over_its_share_passes_requests_on() {
    let slow =
        || Fake::scripted(|_| Reply::Say(Speech { think: Duration::from_millis(1500), ..Speech::new("one two") }));
    let servers = [slow(), slow()];
    let model = generator(options(&[&servers[0], &servers[1]]));
    let streams: Vec<_> = (1..=8)
        .map(|n| {
            let stream = model.generate(request(7000, 200)).unwrap();
            // One after the other, so that each finds the load of those before it.
            while servers.iter().map(Fake::requests).sum::<usize>() < n {
                thread::sleep(Duration::from_millis(2));
            }
            stream
        })
        .collect();
    assert!(streams.into_iter().all(|stream| hear(stream).end.is_ok()));
    let counts = [servers[0].requests(), servers[1].requests()];
    assert!(counts.iter().all(|count| (3..=5).contains(count)), "{counts:?} of one prefix");
}

#[test]
fn a_server_that_fails_again_and_again_gets_nothing_for_a_while() {
    let bad = Fake::scripted(|_| Reply::Status(500, Vec::new(), serde_json::json!({})));
    let good = Fake::saying(TEXT);
    let model = generator(UpstreamOptions { breaker_pause: Duration::from_secs(60), ..options(&[&bad, &good]) });
    for first in 0..40 {
        assert_eq!(hear(model.generate(request(1000 * first, 40)).unwrap()).text, TEXT);
    }
    assert_eq!(bad.requests(), 3, "after three failures its circuit is open");
}

/// Requests under load while one of two servers is killed and comes back: each ends, and none is answered twice.
#[test]
fn a_killed_server_takes_nothing_with_it_but_what_it_had_begun() {
    let speech = || Reply::Say(Speech { delay: Duration::from_millis(4), ..Speech::new(TEXT) });
    let mut first = Fake::scripted(move |_| speech());
    let second = Fake::scripted(move |_| speech());
    let model = Arc::new(generator(options(&[&first, &second])));
    let port = first.port;
    let until = Instant::now() + Duration::from_millis(2500);
    let workers: Vec<_> = (0..8u32)
        .map(|worker| {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                let (mut answered, mut begun_and_failed, mut refused) = (0, 0, 0);
                let mut n = 0;
                while Instant::now() < until {
                    n += 1;
                    let asked = Instant::now();
                    match model.generate(request(100_000 * (worker + 1) + 97 * n, 40)).map(hear) {
                        Ok(heard) if heard.end.is_ok() => {
                            assert_eq!(heard.text, TEXT, "an answer is whole, and said once");
                            answered += 1;
                        }
                        Ok(heard) if heard.tokens > 0 => {
                            assert!(TEXT.starts_with(&heard.text), "{:?}", heard.text);
                            begun_and_failed += 1;
                        }
                        _ => refused += 1,
                    }
                    assert!(asked.elapsed() < Duration::from_secs(5), "no request hangs");
                }
                (answered, begun_and_failed, refused)
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(700));
    let before = first.requests();
    first.kill();
    thread::sleep(Duration::from_millis(600));
    let again = Fake::start(Manner { port, ..Manner::default() }, move |_| speech());
    let totals = workers.into_iter().map(|worker| worker.join().unwrap());
    let (answered, begun_and_failed, refused) =
        totals.fold((0, 0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1, sum.2 + n.2));
    assert!(before > 0 && again.requests() > 0, "both before and after the restart it had requests");
    assert!(answered > 20, "{answered}");
    assert!(begun_and_failed <= 8, "only what was under way there when it died: {begun_and_failed}");
    assert_eq!(refused, 0, "what had not begun was answered by the other");
    assert_eq!(model.queue().requests, 0);
}
