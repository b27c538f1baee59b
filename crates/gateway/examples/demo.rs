//! A gateway over scripted models and four small documents, to look at the dashboard without real models:
//! `cargo run -p edgewise-gateway --example demo`. The answers are canned, the citations are checked as always.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, unreachable_pub)]

#[allow(dead_code)]
#[path = "../tests/api/harness.rs"]
mod harness;

use std::{net::Ipv4Addr, time::Duration};

use edgewise_gateway::{GatewayOptions, bind, serve};
use edgewise_test_support::ScriptedGenerator;

/// What the model says to a prompt, by a word of the question.
fn script(prompt: &str) -> String {
    let question = prompt.rsplit("Question").next().unwrap_or(prompt);
    let answers = [
        (
            "lighthouse",
            "The lighthouse of Westmar flashes twice every 15 seconds [1]. Ferries leave every 40 minutes. It is painted red.",
        ),
        (
            "harbour",
            "The harbour was founded in 1742 by Elsa Brandt [1]. Its first pier was destroyed by a storm in 1803 and rebuilt in stone.",
        ),
        (
            "sourdough",
            "Feed the starter with equal weights of flour and water [1]. Bake the loaf at 240 degrees for 45 minutes.",
        ),
        ("hive", "A strong hive holds about 50000 bees in midsummer [1]."),
    ];
    let found = answers.iter().find(|(word, _)| question.contains(word));
    found.map_or("I cannot find this in the sources.", |(_, answer)| answer).to_owned()
}

#[tokio::main]
async fn main() {
    let generator = ScriptedGenerator::new(script).with_token_delay(Duration::from_millis(30));
    let gateway = harness::Gateway::new(generator, GatewayOptions::default()).with_corpus().await;
    let port = std::env::args().nth(1).map_or(8080, |port| port.parse().expect("the argument is a port"));
    let listener = bind(Ipv4Addr::LOCALHOST.into(), port).await.unwrap_or_else(|error| panic!("{error}"));
    println!("http://{}", listener.local_addr().unwrap());
    let interrupt = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    serve(listener, gateway.state.clone(), interrupt).await.unwrap();
}
