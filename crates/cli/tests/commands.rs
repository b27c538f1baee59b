//! The command line without models: configuration, the model store, bad arguments, and what each says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::World;

#[test]
fn help_names_every_command() {
    let help = World::empty().run(&["--help"]).expect(0).stdout();
    for command in
        ["quickstart", "serve", "ingest", "query", "search", "collections", "models", "config", "usage", "probe"]
    {
        assert!(help.contains(command), "{command} is missing in: {help}");
    }
}

#[test]
fn a_valid_configuration_is_shown_with_its_sources() {
    let world = World::empty();
    world.run(&["config", "check"]).expect(0);
    world.write("edgewise.toml", "[server]\nport = 9001\n");
    let shown = world.run(&["--set", "planner.top_k=3", "config", "show"]).expect(0).stdout();
    assert!(shown.contains("port = 9001 # edgewise.toml:2"), "{shown}");
    assert!(shown.contains("top_k = 3 # flag"), "{shown}");
    let variables = world.run(&["config", "env"]).expect(0).stdout();
    assert!(variables.contains("EDGEWISE_SERVER__PORT"), "{variables}");
}

#[test]
fn a_mistake_in_the_configuration_is_refused_with_its_line() {
    let world = World::empty();
    world.write("edgewise.toml", "[server]\nhost = \"127.0.0.1\"\nprot = 9001\n");
    world.run(&["config", "check"]).fails_with(2, &["edgewise.toml", "3", "prot"]);
    world.write("edgewise.toml", "[server]\nport = \"many\"\n");
    world.run(&["config", "check"]).fails_with(2, &["edgewise.toml", "2", "port"]);
    world.write("edgewise.toml", "");
    world.run(&["--set", "server.prot=1", "config", "check"]).fails_with(2, &["server.prot"]);
    world.run(&["--set", "server", "config", "check"]).fails_with(2, &["KEY=VALUE"]);
    world.run(&["--config", "nowhere.toml", "config", "check"]).fails_with(2, &["nowhere.toml"]);
    let ran = world.command().args(["config", "check"]).env("EDGEWISE_SERVER__PROT", "1").output().unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("EDGEWISE_SERVER__PROT"));
}

#[test]
fn a_missing_model_says_how_to_get_it() {
    let world = World::empty();
    world.write("a.md", "# A\n\ntext");
    for arguments in [
        &["query", "why?", "--collection", "x"][..],
        &["ingest", "a.md", "--collection", "x"],
        &["serve", "--port", "0"],
    ] {
        world.run(arguments).fails_with(4, &["edgewise models pull"]);
    }
    let listed = world.run(&["models", "list", "--json"]).expect(0).json();
    assert!(listed.as_array().unwrap().iter().all(|m| m["state"] == "missing"), "{listed}");
}

#[test]
fn an_unknown_model_names_the_known_ones() {
    let world = World::empty();
    world.run(&["models", "pull", "smolm2-135m-instruct"]).fails_with(4, &["smolm2", "all-minilm-l6-v2"]);
}

#[test]
fn a_wrong_checksum_is_refused_with_both_sums_and_leaves_nothing() {
    let world = World::empty();
    world.write("files/config.json", "{}");
    world.write("files/tokenizer.json", "{}");
    world.write("files/model.safetensors", "not a model");
    let ran = world.run(&["models", "pull", "all-minilm-l6-v2", "--from", "files"]).expect(1);
    let message = ran.stderr();
    assert!(message.contains("SHA-256") || message.contains("bytes"), "{message}");
    assert!(!world.path("models/all-minilm-l6-v2").exists());
    world.run(&["query", "why?", "--collection", "x"]).fails_with(4, &["edgewise models pull"]);
}

#[test]
fn bad_arguments_exit_with_two() {
    let world = World::empty();
    for arguments in [
        &["ingest"][..],
        &["ingest", "x", "--collection", "Not Allowed"],
        &["query", "why?"],
        &["query", "why?", "--collection", "x", "--max-cost", "free"],
        &["frobnicate"],
    ] {
        world.run(arguments).expect(2);
    }
}

#[test]
fn a_shape_is_measured_without_a_checkpoint() {
    let world = World::empty();
    let shape = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false}"#;
    world.write("shape.json", shape);
    let arguments = |shape: &str| {
        let more = "--random-weights --depths 64,9999 --batches 1,2 --batch-prompt 32 --decode 2 --prefix 128 --runs 1";
        let all = ["bench", "engine", "--json", "--shape", shape].into_iter().chain(more.split(' '));
        all.map(str::to_owned).collect::<Vec<String>>()
    };
    let run = |shape: &str| {
        let arguments = arguments(shape);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        world.run(&[&["--set", "engine.device=cpu"][..], &arguments].concat())
    };
    let ran = run("shape.json").expect(0);
    let lines: Vec<serde_json::Value> = ran.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [machine, prefill, left_out, prefix, one, two] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(machine["device"], "cpu");
    assert_eq!((&prefill["prefill"], &prefill["cached_tokens"]), (&64.into(), &0.into()));
    assert!(left_out["left_out"].as_str().unwrap().contains("9999"));
    assert_eq!((&prefix["cold_cached_tokens"], &prefix["warm_cached_tokens"]), (&0.into(), &64.into()));
    assert!(one["limit_tokens_per_s"].as_f64().unwrap() > 0.0 && two["decode"] == 2);
    run("nothing.json").fails_with(2, &["llama-3.1-8b", "config.json"]);
    let refused = world.run(&["bench", "engine", "--shape", "llama-3.1-8b"]).expect(2);
    assert!(refused.stderr().contains("--random-weights"), "{}", refused.stderr());
}

#[test]
fn quickstart_without_a_terminal_asks_for_yes() {
    let world = World::empty();
    world.run(&["quickstart", "--no-serve"]).fails_with(2, &["--yes"]);
}
