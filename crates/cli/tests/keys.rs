//! Keys from the command line and through a real server with the real models.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use edgewise_test_support::pem;
use serde_json::{Value, json};
use support::{Server, World};

/// Exit codes.
const USAGE: i32 = 2;
const NOT_FOUND: i32 = 4;
const DENIED: i32 = 7;

#[test]
fn keys_are_made_listed_revoked_and_logged() {
    let world = World::empty();
    assert!(world.run(&["keys", "list"]).expect(0).stdout().contains("no keys"));
    let made =
        world.run(&["keys", "create", "--name", "ci", "--tenant", "acme", "--scope", "query", "--expires", "30d"]);
    let made = made.expect(0);
    let key = made.stdout().trim().to_owned();
    assert!(
        key.starts_with("ewk_") && !key.contains(char::is_whitespace),
        "the key alone is on standard output: {key}"
    );
    assert!(made.stderr().contains("shown this once") && made.stderr().contains("acme"), "{}", made.stderr());
    let id = key.rsplit_once('_').unwrap().0;

    let listed = world.run(&["keys", "list", "--json"]).expect(0).json();
    let record = &listed["keys"][0];
    assert_eq!((&record["id"], &record["tenant"], &record["state"]), (&json!(id), &json!("acme"), &json!("active")));
    assert_eq!(record["scopes"], json!(["query"]));
    assert!(record["expires_at"].is_string());
    let table = world.run(&["keys", "list"]).expect(0).stdout();
    assert!(table.contains(id) && !table.contains(&key), "{table}");

    let second = world.run(&["keys", "create", "--scope", "admin", "--tokens-per-day", "5", "--json"]).expect(0).json();
    assert_eq!(second["record"]["limits"], json!({"tokens_per_day": 5}));
    let asking = ["--max-input-tokens", "3000", "--max-cost", "0.02", "--max-latency-ms", "9000", "--json"];
    let third = world.run(&[["keys", "create"].as_slice(), &asking].concat()).expect(0).json();
    let limits = json!({"max_input_tokens": 3000, "max_cost": "0.02", "max_latency_ms": 9000});
    assert_eq!(third["record"]["limits"], limits);
    assert!(world.run(&["keys", "list"]).expect(0).stdout().contains("$0.02 a request"));
    world.run(&["keys", "create", "--max-cost", "0"]).fails_with(USAGE, &["lets nothing through"]);
    world.run(&["keys", "revoke", third["record"]["id"].as_str().unwrap()]).expect(0);
    // A whole key names itself too.
    world.run(&["keys", "revoke", &key]).expect(0);
    world.run(&["keys", "revoke", id]).fails_with(USAGE, &["revoked already"]);
    world.run(&["keys", "revoke", "ewk_000000000000"]).fails_with(NOT_FOUND, &["there is no key"]);
    assert_eq!(world.run(&["keys", "list", "--json"]).expect(0).json()["keys"].as_array().unwrap().len(), 1);
    assert_eq!(world.run(&["keys", "list", "--all", "--json"]).expect(0).json()["keys"].as_array().unwrap().len(), 3);
    world.run(&["keys", "create", "--tenant", "../x"]).expect(USAGE);
    world.run(&["keys", "create", "--scope", "root"]).expect(USAGE);
    world.run(&["keys", "create", "--expires", "2020-01-01T00:00:00Z"]).fails_with(USAGE, &["expired already"]);

    let log = world.run(&["keys", "audit", "--json"]).expect(0);
    let actions: Vec<Value> = log.json()["entries"].as_array().unwrap().iter().map(|e| e["action"].clone()).collect();
    let named = ["key_revoked", "key_revoked", "key_created", "key_created", "key_created"];
    assert_eq!(actions, named.map(Value::from));
    assert!(!log.stdout().contains(key.rsplit_once('_').unwrap().1), "no secret is logged");
    assert!(world.run(&["keys", "audit"]).expect(0).stdout().contains("key_revoked"));
}

#[test]
fn strangers_are_not_let_in_without_a_key() {
    let world = World::empty();
    let refused = ["--host", "0.0.0.0", "--port", "0"];
    let serve = |world: &World| world.run(&[&["serve"], refused.as_slice()].concat());
    serve(&world).fails_with(USAGE, &["0.0.0.0", "edgewise keys create", "127.0.0.1"]);
    let key = world.run(&["keys", "create"]).expect(0).stdout();
    world.run(&["keys", "revoke", key.trim()]).expect(0);
    serve(&world).fails_with(USAGE, &["no key works"]);
    world.run(&["keys", "create"]).expect(0);
    // Now it is the models that are missing.
    let next = serve(&world);
    assert!(next.code() != 0 && !next.stderr().contains("keys create"), "{}", next.stderr());
}

fn chat(server: &Server, key: &str, system: &str, question: &str) -> (u64, Duration) {
    let body = json!({
        "model": "smollm2-135m-instruct", "max_tokens": 1, "temperature": 0,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
    });
    let started = Instant::now();
    let mut response = ureq::post(format!("{}/v1/chat/completions", server.url))
        .header("authorization", format!("Bearer {key}"))
        .send_json(&body)
        .unwrap();
    let reply: Value = response.body_mut().read_json().unwrap();
    (reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap(), started.elapsed())
}

#[test]
fn tenants_share_no_pages_but_those_the_operator_published() {
    let world = World::with_models();
    let key = |tenant: &str, scope: &str| {
        world.run(&["keys", "create", "--tenant", tenant, "--scope", scope]).expect(0).stdout().trim().to_owned()
    };
    let operator = key("local", "query,ingest,admin");
    let [a, b, c, d] = ["acme", "blue", "cyan", "dune"].map(|tenant| key(tenant, "query,ingest"));
    let server = world.serve();
    let rules: String =
        (0..60).map(|n| format!("Rule {n}: answer briefly, and name page {} when asked. ", n * 7)).collect();
    let question = "Which page does the third rule name?";
    // Whatever is done once only.
    chat(&server, &operator, "Warm up.", "Hello?");

    let (cold_a, time_cold_a) = chat(&server, &a, &rules, question);
    let (cold_b, time_cold_b) = chat(&server, &b, &rules, question);
    let (warm_a, time_warm_a) = chat(&server, &a, &rules, question);
    let (cold_c, time_cold_c) = chat(&server, &c, &rules, question);
    assert_eq!((cold_a, cold_b, cold_c), (0, 0, 0), "what another tenant sent is not found");
    assert!(warm_a > 500, "{warm_a}");
    eprintln!("cold {time_cold_a:?} {time_cold_b:?} {time_cold_c:?}, warm {time_warm_a:?}");
    let cold = [time_cold_a, time_cold_b, time_cold_c].into_iter().min().unwrap();
    assert!(time_warm_a * 3 < cold, "the tenant that asked before is answered much sooner");

    let path = format!("{}/v1/shared-prefixes/rules", server.url);
    let mut published = ureq::put(path)
        .header("authorization", format!("Bearer {operator}"))
        .send_json(json!({"text": rules}))
        .unwrap();
    let public = published.body_mut().read_json::<Value>().unwrap()["tokens"].as_u64().unwrap();
    assert_eq!(chat(&server, &c, &rules, question).0, 0, "what was cached before is still its tenant's");
    let (read, _) = chat(&server, &d, &rules, question);
    assert!(read > 0 && read <= public, "{read} of {public} public tokens are read by a tenant that never asked");
    let (own, _) = chat(&server, &d, &rules, "And which one the fifth?");
    assert!(own >= read);
}

#[test]
fn a_running_server_takes_up_what_becomes_of_keys_and_commands_bring_theirs() {
    let world = World::with_models();
    let made = rcgen::generate_simple_self_signed(["docs.example.org".to_owned()]).unwrap();
    let cert = world.write("cert.pem", pem("CERTIFICATE", made.cert.der()));
    let key_file = world.write("key.pem", pem("PRIVATE KEY", &made.signing_key.serialize_der()));
    world.write(
        "edgewise.toml",
        format!("[server]\ntls_cert = {cert:?}\ntls_key = {key_file:?}\nallowed_hosts = [\"docs.example.org\"]\n"),
    );
    let server = world.serve();
    assert!(server.url.starts_with("https://127.0.0.1:"), "{}", server.url);
    world.run(&["collections", "list"]).expect(0);
    let key = world.run(&["keys", "create", "--scope", "query"]).expect(0).stdout().trim().to_owned();
    std::thread::sleep(Duration::from_secs(1));
    let documents = ["documents", "list", "nowhere"];
    world.run(&documents).fails_with(DENIED, &["needs a key", "EDGEWISE_API_KEY"]);
    world.run(&[&["--api-key", &key], documents.as_slice()].concat()).fails_with(NOT_FOUND, &["nowhere"]);
    let with_variable = world.command().args(documents).env("EDGEWISE_API_KEY", &key).output().unwrap();
    assert_eq!(with_variable.status.code(), Some(NOT_FOUND));
    world.write("docs/a.md", "# A\n\nText.\n");
    let ingest = [&["--api-key", &key], ["ingest", "docs", "--collection", "a"].as_slice()].concat();
    world.run(&ingest).fails_with(DENIED, &["lacks the scope `ingest`"]);
    world.run(&["keys", "revoke", &key]).expect(0);
    std::thread::sleep(Duration::from_secs(1));
    world.run(&[&["--api-key", &key], documents.as_slice()].concat()).fails_with(DENIED, &["was revoked"]);
    // What is refused is written down soon, with what equals it, rather than before the answer.
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let log = world.run(&["keys", "audit", "--json"]).expect(0).json();
        if log["entries"].as_array().unwrap().iter().any(|entry| entry["action"] == "refused") {
            break;
        }
        assert!(Instant::now() < until, "{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
