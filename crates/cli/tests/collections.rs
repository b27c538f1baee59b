//! The life of a collection through the binary: check, mend, copy, rename, make anew, watch, with and without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use serde_json::Value;
use support::World;

const FERNS: &str = "# Ferns\n\n## Water\n\nWater the ferns every 3 days in summer.\n\n## Light\n\nFerns want shade.\n";
const BIKES: &str = "# Bicycles\n\n## Chain\n\nOil the chain every 200 kilometres.\n";
const PROFILE: &str = include_str!("../../../indexes/default.toml");

fn garden() -> World {
    let world = World::with_models();
    world.write("notes/ferns.md", FERNS);
    world.write("notes/bikes.md", BIKES);
    world.run(&["ingest", "notes", "-c", "garden"]).expect(0);
    world
}

/// Where `ferns` comes first.
fn answers(world: &World, collection: &str) {
    let hits = world.run(&["search", "how often do ferns need water?", "-c", collection, "--json"]).expect(0).json();
    assert_eq!(hits["hits"][0]["uri"], "ferns.md", "{hits}");
}

#[test]
fn a_collection_is_checked_copied_renamed_and_mended() {
    let world = garden();
    world.run(&["collections", "check"]).expect(0);
    let report = world.run(&["collections", "check", "garden", "--json"]).expect(0).json();
    assert_eq!((&report[0]["documents"], report[0]["findings"].as_array().unwrap().len()), (&2.into(), 0));
    world.run(&["collections", "check", "gardn"]).fails_with(4, &["gardn", "garden"]);
    let compacted = world.run(&["collections", "compact", "garden", "--json"]).expect(0).json();
    assert_eq!(compacted["held_by_reader"], false, "{compacted}");

    let exported = world.run(&["collections", "export", "garden", "garden.edgewise", "--json"]).expect(0).json();
    assert_eq!(exported["documents"], 2);
    world.run(&["collections", "export", "garden", "garden.edgewise"]).fails_with(2, &["already", "another name"]);
    world.run(&["collections", "export", "garden", "no/where"]).fails_with(1, &["no"]);
    let imported = world.run(&["collections", "import", "garden.edgewise", "copy"]).expect(0).stdout();
    assert!(imported.contains("imported copy: 2 documents"), "{imported}");
    answers(&world, "copy");
    world.run(&["collections", "import", "garden.edgewise", "copy"]).fails_with(2, &["copy", "another name"]);
    world.run(&["collections", "import", "notes/ferns.md", "third"]).fails_with(2, &["not an export"]);
    world.run(&["collections", "import", "nothing.edgewise", "third"]).fails_with(2, &["no such file"]);
    let mut bytes = fs::read(world.path("garden.edgewise")).unwrap();
    let middle = bytes.len() / 2;
    bytes.truncate(middle);
    world.write("damaged.edgewise", bytes);
    world.run(&["collections", "import", "damaged.edgewise", "third"]).fails_with(2, &["damaged", "export"]);

    world.run(&["collections", "rename", "copy", "garden"]).fails_with(2, &["garden", "another name"]);
    world.run(&["collections", "rename", "copy", "twin"]).expect(0);
    world.run(&["collections", "info", "copy"]).fails_with(4, &["copy", "twin"]);
    answers(&world, "twin");

    let listed = world.run(&["documents", "list", "twin", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    world
        .run(&["documents", "remove", "twin", "ferns.md", "fern.md"])
        .fails_with(4, &["fern.md", "nothing is removed"]);
    world.run(&["documents", "remove", "twin", "bikes.md"]).expect(0);
    let listed = world.run(&["documents", "list", "twin"]).expect(0).stdout();
    assert!(listed.contains("ferns.md") && !listed.contains("bikes.md"), "{listed}");

    fs::remove_dir_all(world.path("data/twin/lexical")).unwrap();
    let ran = world.run(&["collections", "check", "twin"]).fails_with(1, &["collections repair"]);
    assert!(ran.stdout().contains("lexical index: it is missing"), "{}", ran.stdout());
    let mended = world.run(&["collections", "repair", "twin"]).expect(0).stdout();
    assert!(mended.contains("mended lexical index") && mended.contains("sound"), "{mended}");
    world.run(&["collections", "check", "twin", "garden"]).expect(0);

    world.write("data/twin/collection.json", "{");
    world.run(&["search", "ferns", "-c", "twin"]).fails_with(1, &["collections repair twin"]);
    world.run(&["collections", "repair", "twin"]).expect(0);
    answers(&world, "twin");
    let mut catalog = fs::read(world.path("data/twin/catalog.sqlite")).unwrap();
    let middle = catalog.len() / 2;
    catalog[middle..].fill(0x5a);
    world.write("data/twin/catalog.sqlite", catalog);
    world.run(&["collections", "check", "twin"]).fails_with(1, &["import an export"]);
    world.run(&["collections", "repair", "twin"]).fails_with(1, &["import an export"]);
    world.run(&["collections", "delete", "twin", "--yes"]).expect(0);
    world.run(&["collections", "import", "garden.edgewise", "twin"]).expect(0);
    answers(&world, "twin");
}

#[test]
fn a_collection_is_made_anew_only_when_the_plan_is_agreed_to() {
    let world = garden();
    for i in 0..40 {
        let sentences = format!("Bed {i} grows beans, and row {i} grows peas beside it. ").repeat(12);
        world.write(&format!("notes/bed-{i}.txt"), sentences);
    }
    let new = world.run(&["ingest", "notes", "-c", "garden", "--plan", "--json"]).expect(0).json();
    assert_eq!((&new["added"], &new["unchanged"], &new["anew"]), (&40.into(), &2.into(), &Value::Null));
    world.run(&["ingest", "notes", "-c", "garden"]).expect(0);
    let before = world.run(&["collections", "info", "garden", "--json"]).expect(0).json();
    let smaller: String = PROFILE
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some(("max_tokens", _)) => "max_tokens = 60\n".to_owned(),
            Some(("target_tokens", _)) => "target_tokens = 40\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    world.write("small.toml", smaller);
    let anew = ["ingest", "notes", "-c", "garden", "--profile", "small.toml"];
    let asked = world.run(&anew).fails_with(2, &["--yes", "garden"]);
    for part in ["must be made anew, because the index profile", "42 now; 42 to cut anew", "tokens/s", "until the new"]
    {
        assert!(asked.stderr().contains(part), "`{part}` is missing in: {}", asked.stderr());
    }
    let planned = world.run(&[&anew[..], &["--plan", "--json"]].concat()).expect(0).json();
    assert_eq!(planned["recut"], 42, "{planned}");
    world
        .run(&["ingest", "notes/bikes.md", "-c", "garden", "--profile", "small.toml", "--yes"])
        .fails_with(2, &["all sources"]);
    let after = world.run(&["collections", "info", "garden", "--json"]).expect(0).json();
    assert_eq!(after, before, "nothing was done");

    // Killed in the middle, the old collection serves, and the same command goes on from there.
    let agreed = [&anew[..], &["--yes", "--json"]].concat();
    let mut victim = world.command().args(&agreed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !world.path("data/.next-garden/lexical/meta.json").exists() {
        assert!(victim.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    answers(&world, "garden");
    let after = world.run(&["collections", "info", "garden", "--json"]).expect(0).json();
    assert_eq!(after, before, "nothing of it is seen yet");
    let report = world.run(&agreed).expect(0).json();
    assert!(report["report"]["chunks_embedded"].as_u64() <= planned["chunks_to_embed"].as_u64(), "{report}");
    answers(&world, "garden");
    world.run(&["collections", "check", "garden"]).expect(0);
    let done = world.run(&[&anew[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(done["report"]["chunks_embedded"], 0, "asked for again, there is nothing to do or to ask");
}

#[test]
fn upkeep_goes_through_a_running_server() {
    let world = garden();
    let server = world.serve();
    // The server becomes the writer.
    world.write("notes/beans.md", "# Beans\n\nBeans climb.\n");
    let report = world.run(&["ingest", "notes", "-c", "garden", "--json"]).expect(0).json();
    let outcomes: Vec<&str> =
        report["report"]["sources"].as_array().unwrap().iter().map(|s| s["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["added", "unchanged", "unchanged"]);
    world.run(&["collections", "check"]).expect(0);
    world.run(&["collections", "compact", "garden"]).expect(0);
    world.run(&["collections", "export", "garden", "garden.edgewise"]).expect(0);
    world.run(&["collections", "import", "garden.edgewise", "copy"]).expect(0);
    world.run(&["collections", "rename", "garden", "copy"]).fails_with(5, &["copy"]);
    world.run(&["collections", "rename", "garden", "yard"]).expect(0);
    answers(&world, "yard");
    world.run(&["collections", "info", "garden"]).fails_with(4, &["garden"]);
    fs::remove_dir_all(world.path("data/yard/vectors")).unwrap();
    world.run(&["collections", "check", "yard"]).expect(1);
    world.run(&["collections", "repair", "yard"]).expect(0);
    world.run(&["documents", "remove", "yard", "beans.md", "peas.md"]).fails_with(4, &["peas.md"]);
    world.run(&["documents", "remove", "yard", "beans.md"]).expect(0);
    let listed = world.run(&["documents", "list", "yard", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    let plan = world.run(&["ingest", "notes", "-c", "yard", "--plan", "--json"]).expect(0).json();
    assert_eq!((&plan["added"], &plan["unchanged"]), (&1.into(), &2.into()), "planning only reads");
    drop(server);
}

/// Waits until a line with every one of `parts` comes, passing over others.
#[track_caller]
fn wait_for(lines: &Receiver<String>, parts: &[&str]) {
    let mut passed = Vec::new();
    let until = Instant::now() + Duration::from_secs(20);
    while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if parts.iter().all(|part| line.contains(part)) {
            return;
        }
        passed.push(line);
    }
    panic!("no line with {parts:?} among {passed:?}");
}

#[test]
#[cfg(unix)]
fn a_watched_folder_is_kept_in_step() {
    let world = World::with_models();
    world.write("notes/ferns.md", FERNS);
    world.write("notes/bikes.md", BIKES);
    let arguments = ["--set", "paths.data=notes/.data", "ingest", "notes", "single.txt", "-c", "garden", "--watch"];
    world.write("single.txt", "A file that is watched by itself.");
    let mut child = world
        .command()
        .env_remove("EDGEWISE_PATHS__DATA")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let also = sender.clone();
    std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).for_each(|l| drop(sender.send(l))));
    std::thread::spawn(move || BufReader::new(err).lines().map_while(Result::ok).for_each(|l| drop(also.send(l))));
    wait_for(&lines, &["watching"]);

    let notes = world.path("notes");
    world.write("notes/new.md", "# New\n\nA new one.\n");
    wait_for(&lines, &["added new.md", "1 chunk"]);
    // Many saves in a row are one change, with the last content.
    for i in 0..20 {
        world.write("notes/new.md", format!("# New\n\nSaved {i} times.\n"));
        std::thread::sleep(Duration::from_millis(10));
    }
    wait_for(&lines, &["changed new.md"]);
    // As editors save: a new file is put in the place of the old.
    for (file, aside) in [("notes/ferns.md", "notes/.ferns.md.swp"), ("single.txt", ".single.tmp")] {
        world.write(aside, format!("{FERNS}\nSaved aside.\n"));
        fs::rename(world.path(aside), world.path(file)).unwrap();
    }
    wait_for(&lines, &["changed ferns.md"]);
    world.write("single.txt.new", "Put in its place once more.");
    fs::rename(world.path("single.txt.new"), world.path("single.txt")).unwrap();
    wait_for(&lines, &["changed single.txt"]);
    fs::rename(notes.join("bikes.md"), notes.join("bicycles.md")).unwrap();
    wait_for(&lines, &["added bicycles.md"]);
    wait_for(&lines, &["removed bikes.md"]);
    // A folder that comes with files in it, is renamed, gets one more, and goes.
    world.write("elsewhere/deep/a.md", "# A\n\nFrom elsewhere.\n");
    fs::rename(world.path("elsewhere"), notes.join("moved")).unwrap();
    wait_for(&lines, &["added moved/deep/a.md"]);
    fs::rename(notes.join("moved"), notes.join("renamed")).unwrap();
    wait_for(&lines, &["removed moved/deep/a.md"]);
    world.write("notes/renamed/deep/b.md", "# B\n\nLater.\n");
    wait_for(&lines, &["added renamed/deep/b.md"]);
    fs::remove_dir_all(notes.join("renamed")).unwrap();
    wait_for(&lines, &["removed renamed/deep/b.md"]);
    // A file that can't be read for a while keeps what the collection holds of it.
    world.write("notes/new.md", [0xff, 0x00, 0x12, 0x00, 0xff, 0x03]);
    wait_for(&lines, &["failed new.md"]);
    world.write("notes/new.md", "# New\n\nMended.\n");
    wait_for(&lines, &["changed new.md"]);
    // The whole folder is away for a while: nothing is removed.
    fs::rename(&notes, world.path("away")).unwrap();
    wait_for(&lines, &["is gone", "nothing is removed"]);
    fs::rename(world.path("away"), &notes).unwrap();
    world.write("notes/last.md", "# Last\n\nAfter the folder came back.\n");
    wait_for(&lines, &["added last.md"]);

    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let rest: Vec<String> = lines.iter().collect();
    assert!(rest.iter().all(|line| !line.contains("removed") && !line.contains("error")), "{rest:?}");
    let listed = world
        .command()
        .env_remove("EDGEWISE_PATHS__DATA")
        .args(["--set", "paths.data=notes/.data", "documents", "list", "garden", "--json"])
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let mut uris: Vec<&str> = listed.as_array().unwrap().iter().map(|d| d["uri"].as_str().unwrap()).collect();
    uris.sort_unstable();
    assert_eq!(uris, ["bicycles.md", "ferns.md", "last.md", "new.md", "single.txt"]);
}

#[test]
fn a_collection_keeps_its_budget_and_questions_are_refused_before_any_work() {
    let world = garden();
    let budget = |options: &[&str]| {
        let mut arguments = vec!["collections", "budget", "garden", "--json"];
        arguments.extend(options);
        world.run(&arguments).expect(0).json()
    };
    assert_eq!(budget(&[])["max_cost"], Value::Null);
    assert_eq!(budget(&["--max-cost", "0.000000001", "--max-input-tokens", "900"])["max_input_tokens"], 900);
    let set = budget(&["--max-latency-ms", "60000"]);
    assert_eq!((&set["max_cost"], &set["max_latency_ms"]), (&"0.000000001".into(), &60_000.into()), "others stay");
    let question = ["query", "how often do ferns need water?", "-c", "garden", "--local"];
    world.run(&question).fails_with(6, &["max_cost of the collection", "allow at least"]);
    world.run(&["collections", "budget", "garden", "--max-cost", "0"]).fails_with(2, &["max_cost", "above 0"]);
    world.run(&["collections", "budget", "gardn"]).fails_with(4, &["gardn", "garden"]);
    assert_eq!(budget(&["--clear", "--max-input-tokens", "800"])["max_cost"], Value::Null);
    world.run(&question).expect(0);
    let compared = world.run(&["usage", "--predictions", "--json"]).expect(0).json();
    assert_eq!((&compared[0]["requests"], &compared[0]["prompt_cost_exact"]), (&1.into(), &1.0.into()), "{compared}");
}
