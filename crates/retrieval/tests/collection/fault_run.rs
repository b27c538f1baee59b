//! A process that works on a collection is killed with SIGKILL at random points of everything it does, and once more the
//! disk is full. Whatever was acknowledged must be there, what was deleted must stay deleted, `check` must find nothing, and
//! in the end the collection must be what an undisturbed run makes.
//!
//! `scripts/fault-run` runs this with more points, and on a small disk.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use edgewise_documents::IndexProfile;
use edgewise_retrieval::{IngestOptions, RetrievalError, Silent, check, compact, export, import, repair};
use edgewise_types::DocumentId;

use crate::support::*;

const ROOT: &str = "EDGEWISE_TEST_FAULT_ROOT";
const SEED: &str = "EDGEWISE_TEST_FAULT_SEED";
const POINTS: &str = "EDGEWISE_TEST_FAULT_POINTS";
const FROM: &str = "EDGEWISE_TEST_FAULT_FROM";
const SMALL_DISK: &str = "EDGEWISE_TEST_SMALL_DISK";

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A number for a seed and what it is for (SplitMix64; Steele, Lea and Flood 2014).
fn random(seed: u64, of: u64) -> u64 {
    let mut z = seed.wrapping_add(of.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Ingest,
    Update,
    Delete,
    Rechunk,
    Compact,
    Reindex,
}

const STEPS: [Step; 6] = [Step::Ingest, Step::Update, Step::Rechunk, Step::Delete, Step::Compact, Step::Reindex];

/// What the collection must hold.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    documents: BTreeMap<String, String>,
    small_chunks: bool,
}

fn text(uri: &str, revision: u64) -> String {
    let more = (0..uri.len() % 5 + 3).map(|n| format!(" Sentence {n} of {uri} speaks of rivers and deltas."));
    format!("Revision {revision} of {uri}.{}", more.collect::<String>())
}

impl Model {
    fn profile(&self) -> IndexProfile {
        let mut profile = IndexProfile::default();
        if self.small_chunks {
            (profile.chunk.max_tokens, profile.chunk.target_tokens) = (24, 12);
        }
        profile
    }

    fn files(&self) -> Vec<(&str, &str)> {
        self.documents.iter().map(|(uri, text)| (uri.as_str(), text.as_str())).collect()
    }
}

/// The model after step `at`.
fn after(seed: u64, at: u64) -> (Step, Model) {
    let mut model = Model::default();
    let mut step = Step::Ingest;
    for i in 0..=at {
        step = if i == 0 { Step::Ingest } else { STEPS[(i as usize - 1) % STEPS.len()] };
        match step {
            Step::Ingest => {
                for j in 0..if i == 0 { 40 } else { 10 } {
                    let uri = format!("{i}-{j}.txt");
                    model.documents.insert(uri.clone(), text(&uri, 0));
                }
            }
            Step::Update => {
                let uris: Vec<String> = model.documents.keys().cloned().collect();
                for (n, uri) in uris.iter().enumerate() {
                    match random(seed ^ i, n as u64) % 6 {
                        0 | 1 => drop(model.documents.insert(uri.clone(), text(uri, i))),
                        // Another name, same content.
                        2 => {
                            let text = model.documents.remove(uri).unwrap();
                            model.documents.insert(format!("moved-{i}-{n}.txt"), text);
                        }
                        _ => {}
                    }
                }
            }
            Step::Delete => {
                let uris: Vec<String> = model.documents.keys().cloned().collect();
                for (n, uri) in uris.iter().enumerate() {
                    if random(seed ^ i, n as u64).is_multiple_of(4) {
                        model.documents.remove(uri);
                    }
                }
            }
            Step::Rechunk => model.small_chunks = !model.small_chunks,
            Step::Compact | Step::Reindex => {}
        }
    }
    (step, model)
}

/// Does a step; may have been interrupted in it before.
fn perform(root: &Path, step: Step, before: &Model, after: &Model) -> Result<(), RetrievalError> {
    let options = IngestOptions { batch_documents: 6, ..IngestOptions::default() };
    match step {
        Step::Ingest => {
            let new: Vec<(&str, &str)> =
                after.files().into_iter().filter(|(uri, _)| !before.documents.contains_key(*uri)).collect();
            open(root).get_or_create(&name(), &IndexProfile::default())?.ingest(sources(&new), &options, &Silent)?;
        }
        Step::Update => {
            let options = IngestOptions { remove_missing: Some(String::new()), ..options };
            guide(root).ingest(sources(&after.files()), &options, &Silent)?;
        }
        Step::Delete => {
            let guide = guide(root);
            for uri in before.documents.keys().filter(|uri| !after.documents.contains_key(*uri)) {
                match guide.delete_document(&DocumentId::from_uri(uri)) {
                    // Before it was interrupted.
                    Ok(()) | Err(RetrievalError::UnknownDocument { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            guide.flush()?;
        }
        Step::Rechunk => {
            let options = IngestOptions { profile: Some(after.profile()), ..options };
            guide(root).ingest(sources(&after.files()), &options, &Silent)?;
        }
        Step::Compact => drop(compact(root, &name())?),
        Step::Reindex => {
            for part in ["lexical", "vectors"] {
                let folder = root.join("guide").join(part);
                if folder.exists() {
                    fs::remove_dir_all(folder).unwrap();
                }
            }
            let repaired = repair(root, &name())?;
            assert!(repaired.after.findings.is_empty(), "{repaired:?}");
        }
    }
    Ok(())
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{text}").unwrap();
    out.flush().unwrap();
}

/// Not a test: goes through the steps and says where it is.
#[test]
#[ignore = "run by the test below"]
fn child_steps() {
    let root = PathBuf::from(std::env::var_os(ROOT).unwrap());
    let (seed, from, points) = (number(SEED, 0), number(FROM, 0), number(POINTS, 0));
    for at in from..=points {
        let before = if at == 0 { Model::default() } else { after(seed, at - 1).1 };
        let (step, after) = after(seed, at);
        say(&format!("start {at}"));
        perform(&root, step, &before, &after).unwrap();
        say(&format!("done {at}"));
    }
}

fn child(root: &Path, seed: u64, from: u64, points: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "fault_run::child_steps", "--ignored", "--nocapture"])
        .env(ROOT, root)
        .env(SEED, seed.to_string())
        .env(FROM, from.to_string())
        .env(POINTS, points.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The documents there are, with their texts.
fn documents(root: &Path) -> BTreeMap<String, String> {
    let Ok(guide) = open(root).get(&name()) else { return BTreeMap::new() };
    let documents = guide.documents(0, 100_000).unwrap();
    let text = |id| guide.document_text(id).unwrap().trim_end().to_owned();
    documents.iter().map(|document| (document.uri.clone(), text(&document.id))).collect()
}

/// Every document is as it was before the step or as it is after; as it is after once that was acknowledged.
fn verify(held: &BTreeMap<String, String>, before: &Model, after: &Model, acknowledged: bool) {
    for uri in before.documents.keys().chain(after.documents.keys()) {
        let (found, new) = (held.get(uri), after.documents.get(uri));
        let old = before.documents.get(uri);
        assert!(found == new || (!acknowledged && found == old), "{uri}: {found:?}, not {new:?} nor {old:?}");
    }
    for uri in held.keys() {
        assert!(before.documents.contains_key(uri) || after.documents.contains_key(uri), "{uri} came from nowhere");
    }
}

#[test]
fn killed_at_random_points_nothing_acknowledged_is_lost() {
    let (seed, points) = (number(SEED, 20), number(POINTS, 9));
    println!("fault run: seed {seed}, {points} points");
    let calm = tempfile::tempdir().unwrap();
    let mut undisturbed = child(calm.path(), seed, 0, points).stderr(Stdio::null()).spawn().unwrap();
    let mut seconds = vec![Duration::ZERO; points as usize + 1];
    let mut begun = Instant::now();
    for line in BufReader::new(undisturbed.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if line.starts_with("start ") {
            begun = Instant::now();
        } else if let Some(at) = line.strip_prefix("done ") {
            seconds[at.parse::<usize>().unwrap()] = begun.elapsed();
        }
    }
    assert!(undisturbed.wait().unwrap().success(), "the undisturbed run failed");

    let root = tempfile::tempdir().unwrap();
    let (mut from, mut inside) = (0, BTreeMap::<Step, usize>::new());
    for point in 1..=points {
        let (step, model) = after(seed, point);
        let before = after(seed, point - 1).1;
        let mut victim = child(root.path(), seed, from, point).spawn().unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        if !lines.any(|line| line == format!("start {point}")) {
            let said = std::io::read_to_string(victim.stderr.take().unwrap()).unwrap();
            panic!("point {point}: the process failed: {said}");
        }
        let share = (random(seed, point) % 1000) as f64 / 1000.0;
        std::thread::sleep(seconds[point as usize].mul_f64(share));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let acknowledged = lines.any(|line| line == format!("done {point}"));
        let report = check(root.path(), &name()).unwrap();
        let findings: Vec<&str> = report.findings.iter().map(|finding| finding.problem.as_str()).collect();
        // Only where the step itself had deleted the indexes may they be missing.
        let expected = |problem: &&str| {
            step == Step::Reindex && (problem.ends_with("is missing") || problem.contains("creation was interrupted"))
        };
        assert!(findings.iter().all(expected), "point {point}, {step:?}: {report:?}");
        let held = documents(root.path());
        verify(&held, &before, &model, acknowledged);
        println!(
            "point {point:2}: {step:?} killed at {:5.1} ms of {:5.1} ms{}; {} documents; {}",
            share * seconds[point as usize].as_secs_f64() * 1e3,
            seconds[point as usize].as_secs_f64() * 1e3,
            if acknowledged { ", already done" } else { "" },
            held.len(),
            match (findings.is_empty(), report.notes.is_empty()) {
                (true, true) => "sound",
                (true, false) => "sound, an index lags",
                (false, _) => "an index is not there yet again, which the step had deleted",
            }
        );
        *inside.entry(step).or_default() += usize::from(!acknowledged);
        from = if acknowledged { point + 1 } else { point };
    }
    let rest = child(root.path(), seed, from, points).output().unwrap();
    assert!(rest.status.success(), "{}", String::from_utf8_lossy(&rest.stderr));

    let model = after(seed, points).1;
    let held = documents(root.path());
    verify(&held, &model, &model, true);
    let [survived, expected] = [root.path(), calm.path()].map(|root| {
        // Lexical scores count removed chunks until segments are merged, which depends on how commits fell.
        fs::remove_dir_all(root.join("guide/lexical")).unwrap();
        repair(root, &name()).unwrap();
        let report = check(root, &name()).unwrap();
        assert!(report.findings.is_empty() && report.notes.is_empty(), "{report:?}");
        let guide = open(root).get(&name()).unwrap();
        let hits: Vec<String> = ["rivers and deltas", "revision of 0-7.txt", "sentence 3"]
            .iter()
            .flat_map(|question| search(&guide, question).hits)
            .map(|hit| format!("{} {} {:?} {:?}", hit.uri, hit.chunk.ordinal, hit.lexical, hit.vector))
            .collect();
        let mut hits = hits;
        // Chunk ids, which decide between equals, are handed out in order of arrival.
        hits.sort();
        let stats = guide.stats().unwrap();
        (guide.content_fingerprint().unwrap(), stats.documents, stats.chunks, hits.len())
    });
    assert_eq!(survived, expected);
    let killed: usize = inside.values().sum();
    println!("{killed} of {points} kills hit the step they were meant for: {inside:?}; equal to the undisturbed run");
    assert!(killed as u64 * 2 >= points, "only {killed} of {points}");
}

/// Fills the disk but for about `free` bytes.
fn fill(disk: &Path, free: u64) -> PathBuf {
    let path = disk.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for block in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(free)).unwrap();
    path
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// On a small disk of its own, which `scripts/fault-run` mounts.
#[test]
#[ignore = "needs a small disk: scripts/fault-run mounts one"]
fn a_full_disk_loses_nothing() {
    let disk = PathBuf::from(std::env::var_os(SMALL_DISK).expect("the folder of a small disk"));
    let pristine = tempfile::tempdir().unwrap();
    let seed = number(SEED, 20);
    let (_, start) = after(seed, 0);
    perform(pristine.path(), Step::Ingest, &Model::default(), &start).unwrap();
    let exported = tempfile::tempdir().unwrap();
    export(pristine.path(), &name(), &exported.path().join("export")).unwrap();
    let root = disk.join("data");
    let file = disk.join("exported");
    let copied = "copied".parse().unwrap();
    let mut full = BTreeMap::<&str, usize>::new();
    for free in [0u64, 4 << 10, 20 << 10, 60 << 10, 120 << 10, 250 << 10, 500 << 10, 1 << 20] {
        for (at, what) in ["ingest", "update", "rebuild", "compact", "reindex", "export", "import"].iter().enumerate() {
            for path in [&root, &file] {
                let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
            }
            copy(pristine.path(), &root);
            // What comes with the next steps; each from the start.
            let mut target = start.clone();
            let step = [Step::Ingest, Step::Update, Step::Rechunk, Step::Compact, Step::Reindex].get(at).copied();
            match step {
                Some(Step::Ingest) => (0..30).for_each(|n| {
                    let uri = format!("new-{n}.txt");
                    target.documents.insert(uri.clone(), text(&uri, 1).repeat(8));
                }),
                Some(Step::Update) => {
                    target.documents.iter_mut().for_each(|(uri, t)| *t = text(uri, 9).repeat(4));
                }
                Some(Step::Rechunk) => target.small_chunks = true,
                _ => {}
            }
            let run = || match (step, *what) {
                (Some(step), _) => perform(&root, step, &start, &target),
                (None, "export") => export(&root, &name(), &file).map(drop),
                (None, _) => import(&root, &copied, &exported.path().join("export")).map(drop),
            };
            if step == Some(Step::Reindex) {
                // Before the disk is filled, or deleting them would make room.
                ["lexical", "vectors"]
                    .iter()
                    .for_each(|part| fs::remove_dir_all(root.join("guide").join(part)).unwrap());
            }
            let filler = fill(&disk, free);
            let result = run();
            if let Err(error) = &result {
                let said = error.to_string();
                assert!(said.contains("free some"), "{what} with {free} bytes: {said}");
                *full.entry(what).or_default() += 1;
                assert!(!file.exists(), "{what}");
            }
            // While the disk is still full.
            let held = documents(&root);
            verify(&held, &start, &target, result.is_ok());
            let report = check(&root, &name()).unwrap();
            let missing = |problem: &str| problem.ends_with("is missing") || problem.contains("interrupted");
            let fine = report.findings.iter().all(|f| step == Some(Step::Reindex) && missing(&f.problem));
            assert!(fine, "{what} with {free} bytes: {report:?}");
            fs::remove_file(&filler).unwrap();
            if result.is_err() {
                run().unwrap_or_else(|error| panic!("{what} after {free} bytes: {error}"));
            }
            verify(&documents(&root), &start, &target, true);
            if *what == "import" {
                assert_eq!(open(&root).get(&copied).unwrap().stats().unwrap().documents, start.documents.len());
            }
            let after = repair(&root, &name()).unwrap().after;
            assert!(after.findings.is_empty() && after.notes.is_empty(), "{what}: {after:?}");
        }
    }
    println!("met a full disk: {full:?}");
    assert!(full.len() == 7 && full.values().all(|times| *times >= 1), "{full:?}");
}
