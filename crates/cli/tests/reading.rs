//! Probing the real model: plan, profile, interruption, and what a query makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use support::World;

const SMALL: [&str; 9] = ["probe", "--tasks", "needle", "--lengths", "192", "--depths", "2", "--questions", "1"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    SMALL.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn a_profile_is_measured_kept_and_shown() {
    let world = World::with_models();
    world.run(&["probe", "--show"]).fails_with(4, &["edgewise probe"]);
    let plan = world.run(&with(&["--plan", "--json"])).expect(0).json();
    assert_eq!((&plan["observations"], &plan["done"]), (&json!(2), &json!(0)));
    assert!(plan["predicted_ms"].as_f64().unwrap() > 0.0);

    let profile = world.run(&with(&["--json"])).expect(0).json();
    assert_eq!(profile["model"], "smollm2-135m-instruct");
    let cells = profile["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2);
    for cell in cells {
        let held = cell["gold_probability"].as_f64().unwrap();
        assert!(held > 0.0 && held <= 1.0, "the engine tells how likely a forced answer is: {cell}");
    }
    let shown: Value = world.run(&["probe", "--show", "--json"]).expect(0).json();
    assert_eq!(shown, profile);
    let table = world.run(&["probe", "--show"]).expect(0).stdout();
    for part in ["needle", "depth 0.00", "depth 1.00", "192", "effective window"] {
        assert!(table.contains(part), "`{part}` is missing in: {table}");
    }
    let left: Vec<String> = std::fs::read_dir(world.path("data/_profiles"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, [format!("{}.json", profile["digest"].as_str().unwrap())], "the rows are in the profile now");

    // Damage is said, and does not take questions away.
    std::fs::write(world.path("data/_profiles").join(&left[0]), "{").unwrap();
    world.run(&["probe", "--show"]).fails_with(1, &["not a reading profile", "edgewise probe"]);
}

#[test]
fn what_can_not_be_probed_is_said() {
    let world = World::with_models();
    world.run(&["probe", "--lengths", "20"]).fails_with(2, &["128"]);
    world.run(&["probe", "--depths", "1"]).fails_with(2, &["depths"]);
    world.run(&["probe", "--collection", "nowhere"]).fails_with(4, &["nowhere"]);
    world.run(&["probe", "--data", "nowhere"]).fails_with(2, &["lost_in_the_middle.jsonl"]);
    world.write("rows.jsonl", "my shopping list\n");
    world.run(&with(&["--rows", "rows.jsonl"])).fails_with(2, &["rows.jsonl", "name another file"]);
    world.run(&["eval", "placement", "--data", "nowhere"]).fails_with(2, &["lost_in_the_middle.jsonl"]);
}

#[test]
fn placement_is_measured_by_position_and_by_order_and_goes_on_from_its_rows() {
    let world = World::with_models();
    let mut passages = String::new();
    for n in 0..6 {
        let title = if n % 3 == 0 { "Ferns" } else { "Bicycles" };
        let line = json!({"_id": format!("p{n}"), "title": title, "text": format!("{title} number {n} is painted colour{n}.")});
        passages.push_str(&format!("{line}\n"));
    }
    let question = |n: usize| {
        let others: Vec<String> = (0..6).filter(|other| *other != 3 * n).map(|other| format!("p{other}")).collect();
        let asked = format!("How is ferns number {} painted?", 3 * n);
        let answers = [format!("colour{}", 3 * n)];
        json!({"id": format!("q{n}"), "question": asked, "answers": answers, "gold_id": format!("p{}", 3 * n), "distractor_ids": others})
    };
    world.write("set/passages.jsonl", passages);
    world.write("set/lost_in_the_middle.jsonl", format!("{}\n{}\n", question(0), question(1)));
    let arguments = [
        "eval",
        "placement",
        "--data",
        "set",
        "--documents",
        "3",
        "--positions",
        "2",
        "--questions",
        "2",
        "--rows",
        "rows",
    ];
    let run = |more: &[&'static str]| {
        let all: Vec<&str> = arguments.iter().copied().chain(more.iter().copied()).collect();
        world.run(&all).expect(0)
    };
    assert!(run(&["--plan"]).stdout().contains("12 prompts"));
    let report = run(&["--json"]).json();
    let part = &report["parts"][0];
    assert_eq!((part["positions"].as_array().unwrap().len(), part["orders"].as_array().unwrap().len()), (2, 4));
    assert!(part["orders"][3]["gold_logprob"]["mean"].as_f64().unwrap() < 0.0);
    let rows = std::fs::read(world.path("rows")).unwrap();
    assert_eq!(run(&["--json"]).json(), report, "nothing is asked again");
    assert_eq!(std::fs::read(world.path("rows")).unwrap(), rows);
    assert!(run(&[]).stdout().contains("edges"));
    world.run(&["eval", "placement", "--data", "set", "--documents", "9"]).fails_with(2, &["9 passages", "2 to 6"]);
}
