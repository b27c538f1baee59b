//! Summary trees through the binary: planned, built, shown, kept up, killed, interrupted, with and without a server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use edgewise_catalog::{Catalog, OpenMode};
use serde_json::{Value, json};
use support::World;

/// The user guide of this repository.
const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide");

/// Builds that are killed.
const KILLS: u64 = 20;

/// A world whose collection `guide` holds the guide, cut into short documents so that there is much to do.
fn guide() -> World {
    let world = World::with_models();
    for entry in fs::read_dir(GUIDE).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        world.write(&format!("guide/{name}.md"), &text);
        for (at, section) in text.split("\n## ").enumerate().skip(1) {
            world.write(&format!("guide/{name}/{at}.md"), format!("## {section}"));
        }
    }
    world.run(&["ingest", "guide", "-c", "guide"]).expect(0);
    world
}

fn catalog(world: &World) -> Catalog {
    Catalog::open(&world.path("data/guide/catalog.sqlite"), OpenMode::ReadOnly).unwrap()
}

/// Ids of all nodes that are kept.
fn nodes(world: &World) -> BTreeSet<String> {
    let catalog = catalog(world);
    let rows: Vec<_> = catalog.tree_shape().unwrap().nodes.iter().map(|node| node.row).collect();
    catalog.tree_node_texts(&rows).unwrap().iter().map(|node| node.id.to_string()).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

/// Numbers that look random and are the same in every run (SplitMix64, Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn a_build_that_is_killed_again_and_again_makes_the_same_tree_and_nothing_twice() {
    let world = guide();
    let other = World::with_models();
    copy(&world.path("data"), &other.path("data"));
    let report = world.run(&["tree", "build", "-c", "guide", "--json"]).expect(0).json();
    let total = report["summaries_made"].as_u64().unwrap() as usize;
    assert!(report["complete"] == true && total > 20, "{report}");
    assert_eq!(catalog(&world).tree_overview().unwrap().summaries, total);

    // Killed when a number of summaries, or of parts of the tree, is there: the points are spread over the whole build,
    // whatever the speed of the machine.
    let mut random = Random(6);
    let parts = catalog(&world).tree_version().unwrap().0 as usize;
    let (mut kept, mut killed) = (0, 0);
    for point in 0..KILLS {
        let wanted = ((point + 1) * (total + parts) as u64 / (KILLS + 1)) as usize;
        let delay = Duration::from_micros(random.below(4000));
        let mut victim = other
            .command()
            .args(["tree", "build", "-c", "guide", "--json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let ended = loop {
            let there = catalog(&other);
            if there.tree_overview().unwrap().summaries + there.tree_version().unwrap().0 as usize >= wanted {
                std::thread::sleep(delay);
                break victim.try_wait().unwrap().is_some();
            }
            if let Some(status) = victim.try_wait().unwrap() {
                assert!(status.success(), "the build failed: {status}");
                break true;
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
        };
        victim.kill().unwrap();
        victim.wait().unwrap();
        killed += usize::from(!ended);
        let there = catalog(&other);
        let summaries = there.tree_overview().unwrap().summaries;
        assert!(summaries >= kept, "summaries were lost: {kept} before, {summaries} now");
        kept = summaries;
        assert_eq!(there.check().unwrap(), Vec::<String>::new());
        if ended {
            break;
        }
    }
    assert!(killed as u64 >= KILLS / 2, "only {killed} builds were killed before they ended");
    let report = other.run(&["tree", "build", "-c", "guide", "--json"]).expect(0).json();
    assert_eq!(report["complete"], true);
    assert_eq!(kept + report["summaries_made"].as_u64().unwrap() as usize, total, "a summary was made twice: {report}");
    assert_eq!(nodes(&other), nodes(&world));
    other.run(&["collections", "check", "guide"]).expect(0);
}

#[test]
fn a_tree_is_planned_built_shown_kept_up_and_deleted() {
    let world = World::with_models();
    for entry in fs::read_dir(GUIDE).unwrap().take(4) {
        let path = entry.unwrap().path();
        world.write(&format!("guide/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
    }
    let ingest = ["ingest", "guide", "-c", "guide"];
    world.run(&ingest).expect(0);
    let status = world.run(&["tree", "status", "-c", "guide"]).expect(0).stdout();
    assert!(status.contains("no summary tree") && status.contains("tree build -c guide"), "{status}");
    world.run(&["tree", "status", "-c", "gide"]).fails_with(4, &["gide", "guide"]);

    let plan = world.run(&["tree", "plan", "-c", "guide", "--json"]).expect(0).json();
    assert_eq!((&plan["documents"], &plan["documents_kept"], &plan["calls"]), (&4.into(), &0.into(), &0.into()));
    let text = world.run(&["tree", "plan", "-c", "guide"]).expect(0).stdout();
    assert!(text.contains("4 documents") && text.contains("no cost"), "{text}");
    assert!(nodes(&world).is_empty(), "a plan builds nothing");

    let report = world.run(&["tree", "build", "-c", "guide", "--json"]).expect(0).json();
    assert_eq!((&report["complete"], &report["documents_done"]), (&true.into(), &4.into()));
    let (made, planned) = (report["summaries_made"].as_u64().unwrap(), plan["summaries"].as_u64().unwrap());
    assert!(made.abs_diff(planned) <= planned / 4 + 1, "planned {planned}, made {made}");
    let again = world.run(&["tree", "build", "-c", "guide"]).expect(0).stdout();
    assert!(again.contains("up to date") && again.contains("0 summaries made"), "{again}");
    let upto = world.run(&["tree", "plan", "-c", "guide"]).expect(0).stdout();
    assert!(upto.contains("nothing to build"), "{upto}");

    let shown = world.run(&["tree", "show", "-c", "guide"]).expect(0).stdout();
    assert!(shown.contains("all 4 documents") && !shown.contains("passage 1,"), "{shown}");
    let id = shown.split_whitespace().next().unwrap().to_owned();
    let one = world.run(&["tree", "show", "-c", "guide", "--node", &id]).expect(0).stdout();
    assert!(one.starts_with(&id) && one.contains("level"), "{one}");
    world.run(&["tree", "show", "-c", "guide", "--node", "zz"]).fails_with(4, &["zz", "no node"]);
    let view = world.run(&["tree", "show", "-c", "guide", "--depth", "1", "--json"]).expect(0).json();
    assert_eq!(view["roots"][0]["documents"], 4);
    let uri = fs::read_dir(world.path("guide")).unwrap().next().unwrap().unwrap().file_name();
    let uri = uri.to_str().unwrap();
    let of_one = world.run(&["tree", "show", "-c", "guide", "--document", uri]).expect(0).stdout();
    assert!(of_one.contains(uri), "{of_one}");

    // Behind, said at the ingest, then brought up to date at little cost.
    let text = fs::read_to_string(world.path("guide").join(uri)).unwrap();
    world.write(&format!("guide/{uri}"), format!("{text}\n\n## Addendum\n\nMagpies collect 31 buttons a year.\n"));
    let told = world.run(&ingest).expect(0).stderr();
    assert!(told.contains("1 document changed") && told.contains("edgewise tree build -c guide"), "{told}");
    let report = world.run(&["tree", "build", "-c", "guide", "--json"]).expect(0).json();
    assert_eq!((&report["documents_done"], &report["documents_kept"]), (&1.into(), &3.into()));
    assert!(report["summaries_made"].as_u64().unwrap() < made, "{report}");
    assert!(world.run(&ingest).expect(0).stderr().is_empty(), "nothing is behind");
    world.write(&format!("guide/{uri}"), text);
    let built = world.run(&["ingest", "guide", "-c", "guide", "--tree"]).expect(0).stdout();
    assert!(built.contains("summary tree of guide up to date"), "{built}");

    world.run(&["tree", "delete", "-c", "guide"]).fails_with(2, &["--yes"]);
    world.run(&["tree", "delete", "-c", "guide", "--yes"]).expect(0);
    let status = world.run(&["tree", "status", "-c", "guide", "--json"]).expect(0).json();
    assert_eq!((&status["built"], &status["documents"]), (&false.into(), &4.into()));
}

#[test]
fn a_build_ends_cleanly_at_an_interrupt_and_goes_through_a_server() {
    let world = guide();
    let mut build = world
        .command()
        .args(["tree", "build", "-c", "guide"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while catalog(&world).tree_overview().unwrap().summaries == 0 {
        assert!(build.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(60));
    }
    assert!(Command::new("kill").args(["-INT", &build.id().to_string()]).status().unwrap().success());
    let second = world.run(&["tree", "build", "-c", "guide"]);
    let ended = build.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    if ended.status.code() == Some(130) {
        assert!(
            said.contains("stopped: ") && said.contains("edgewise tree build -c guide goes on from there"),
            "{said}"
        );
    } else {
        assert!(ended.status.success(), "it was done before the interrupt came: {said}");
    }
    // Meanwhile another build was refused, unless the first was gone by then.
    if second.code() != 0 {
        second.fails_with(5, &["locked for writing"]);
    }

    let server = world.serve();
    let report = world.run(&["tree", "build", "-c", "guide", "--full", "--json"]).expect(0).json();
    assert_eq!((&report["complete"], &report["summaries_made"]), (&true.into(), &0.into()), "{report}");
    let shown = world.run(&["tree", "show", "-c", "guide", "--depth", "1"]).expect(0).stdout();
    assert!(shown.contains("documents: level"), "{shown}");
    let status: Value = world.run(&["tree", "status", "-c", "guide", "--json"]).expect(0).json();
    assert_eq!(status["current"], true);
    world.run(&["tree", "build", "-c", "guide", "--local"]).fails_with(5, &["locked for writing", "that server"]);
    world.run(&["tree", "delete", "-c", "guide", "--yes"]).expect(0);
    drop(server);
}

fn get(url: &str) -> Value {
    ureq::get(url).call().unwrap().body_mut().read_json().unwrap()
}

#[test]
fn a_server_that_is_killed_during_a_build_goes_on_with_it_when_it_starts_again() {
    let world = guide();
    let mut server = world.serve();
    let started = ureq::post(format!("{}/v1/collections/guide/tree", server.url)).send_json(json!({})).unwrap();
    assert_eq!(started.status(), 202);
    let job = started.headers()["location"].to_str().unwrap().to_owned();
    let begun = Instant::now();
    while catalog(&world).tree_overview().unwrap().summaries < 5 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", get(&format!("{}{job}", server.url)));
    }
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let kept = catalog(&world).tree_overview().unwrap().summaries;
    assert_eq!(catalog(&world).check().unwrap(), Vec::<String>::new());

    let server = world.serve();
    let begun = Instant::now();
    let ended = loop {
        let job = get(&format!("{}{job}", server.url));
        match job["state"].as_str().unwrap() {
            "queued" | "running" => assert!(begun.elapsed() < Duration::from_secs(120), "{job}"),
            _ => break job,
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((&ended["state"], &ended["detail"]["complete"]), (&json!("done"), &json!(true)), "{ended}");
    let all = catalog(&world).tree_overview().unwrap().summaries;
    let made = ended["detail"]["summaries_made"].as_u64().unwrap() as usize;
    assert_eq!(kept + made, all, "a summary was made twice, or lost: {ended}");
    drop(server);
    let again = world.run(&["tree", "build", "-c", "guide", "--full", "--json"]).expect(0).json();
    assert_eq!((&again["complete"], &again["summaries_made"]), (&json!(true), &json!(0)), "{again}");
}

#[test]
fn the_whole_is_found_in_summaries_and_a_detail_in_its_passage() {
    let world = guide();
    world.run(&["tree", "build", "-c", "guide"]).expect(0);
    let server = world.serve();
    let url = format!("{}/v1/collections/guide/tree/search", server.url);
    let search = |body: Value| -> Value { ureq::post(&url).send_json(&body).unwrap().body_mut().read_json().unwrap() };
    let nodes = |found: &Value| {
        let picks = found["picks"].as_array().unwrap().clone();
        (picks.iter().filter(|pick| pick["kind"] == "node").count(), picks)
    };
    let documents = |picks: &[Value]| -> BTreeSet<String> {
        let of = |pick: &Value| pick["documents"].as_array().unwrap().clone();
        picks.iter().flat_map(of).map(|id| id.as_str().unwrap().to_owned()).collect()
    };
    let budget = 600;
    let whole =
        search(json!({"query": "What is all of this about, as a whole?", "budget_tokens": budget, "breadth": 1.0}));
    let (summaries, picks) = nodes(&whole);
    assert!(summaries > 0 && whole["tokens"].as_u64().unwrap() <= budget, "{whole}");
    let detail = json!({"query": "How do I stop the server from writing prefixes to disk?", "budget_tokens": budget});
    let mut narrow = detail.clone();
    narrow["breadth"] = json!(0.0);
    let (few, hits) = nodes(&search(narrow));
    assert!(few < summaries && hits[0]["kind"] == "chunk", "{hits:?}");
    assert!(documents(&picks).len() > documents(&hits).len(), "the whole is told of more documents");
    // Without a breadth, the question decides.
    let mut asked = json!({"query": "What is all of this about, as a whole?", "budget_tokens": budget});
    let (unsaid, picks) = nodes(&search(asked.clone()));
    asked["breadth"] = json!(0.0);
    let (as_a_detail, _) = nodes(&search(asked));
    assert!(unsaid > as_a_detail, "{unsaid} against {as_a_detail}: {picks:?}");
}
