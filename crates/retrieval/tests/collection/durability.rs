//! Kills and damage: what was committed stays, and indexes come back from the catalog.

use std::{fs, path::Path, process::Command, time::Duration};

use edgewise_documents::IndexProfile;
use edgewise_retrieval::{Collection, IngestOptions, Silent, discover};

use crate::support::*;

/// Hits in comparable form: where they are and what each arm said.
fn answers(collection: &Collection) -> Vec<(String, usize, String)> {
    let questions = ["crust of bread", "evicted pages", "singing whales", "number 17 of the series", "river delta"];
    let mut answers = Vec::new();
    for question in questions {
        let results = search(collection, question);
        assert!(results.notes.is_empty(), "{:?}", results.notes);
        for hit in results.hits {
            let said = format!(
                "{:?} {:?}",
                hit.lexical.map(|s| (s.rank, (s.score * 1e4).round())),
                hit.vector.map(|s| (s.rank, (s.score * 1e4).round()))
            );
            answers.push((hit.uri, hit.chunk.ordinal, said));
        }
    }
    answers
}

#[test]
fn a_collection_is_the_same_after_opening_it_again() {
    let root = tempfile::tempdir().unwrap();
    let guide_1 = guide(root.path());
    ingest(&guide_1, FILES);
    let (before, fingerprint) = (answers(&guide_1), guide_1.content_fingerprint().unwrap());
    drop(guide_1);
    let guide_2 = guide(root.path());
    assert_eq!(answers(&guide_2), before);
    assert_eq!(guide_2.content_fingerprint().unwrap(), fingerprint);
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn missing_and_damaged_indexes_come_back_from_the_catalog() {
    let root = tempfile::tempdir().unwrap();
    let guide_1 = guide(root.path());
    ingest(&guide_1, FILES);
    guide_1.flush().unwrap();
    let before = answers(&guide_1);
    drop(guide_1);
    let folder = root.path().join("guide");
    let damages: [(&str, &dyn Fn()); 4] = [
        ("lexical folder gone", &|| fs::remove_dir_all(folder.join("lexical")).unwrap()),
        ("vectors folder gone", &|| fs::remove_dir_all(folder.join("vectors")).unwrap()),
        ("every index file cut in half", &|| {
            for file in files(&folder.join("lexical")).into_iter().chain(files(&folder.join("vectors"))) {
                let length = fs::metadata(&file).unwrap().len();
                fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length / 2).unwrap();
            }
        }),
        ("one bit of every index file", &|| {
            for file in files(&folder.join("lexical")).into_iter().chain(files(&folder.join("vectors"))) {
                let mut bytes = fs::read(&file).unwrap();
                let middle = bytes.len() / 2;
                if let Some(byte) = bytes.get_mut(middle) {
                    *byte ^= 1;
                }
                fs::write(&file, bytes).unwrap();
            }
        }),
    ];
    for (what, damage) in damages {
        damage();
        let guide = guide(root.path());
        assert_eq!(answers(&guide), before, "{what}");
        let stats = guide.stats().unwrap();
        assert_eq!(stats.lexical_generation, stats.generation, "{what}");
        guide.flush().unwrap();
        drop(guide);
    }
}

#[test]
fn a_replacement_killed_between_its_two_renames_is_finished() {
    let root = tempfile::tempdir().unwrap();
    ingest(&guide(root.path()), FILES);
    fs::rename(root.path().join("guide"), root.path().join(".next-guide")).unwrap();
    let collections = open(root.path());
    assert_eq!(collections.names().unwrap(), [name()]);
    assert_eq!(found(&collections.get(&name()).unwrap(), "whales")[0], "whales.txt");
    // Without a manifest it is not complete, so it is not a collection.
    drop(collections);
    fs::rename(root.path().join("guide"), root.path().join(".next-guide")).unwrap();
    fs::remove_file(root.path().join(".next-guide/collection.json")).unwrap();
    assert!(open(root.path()).get(&name()).is_err());
}

const KILL_ROOT: &str = "EDGEWISE_TEST_KILL_ROOT";

/// Not a test: what the killed process runs.
#[test]
#[ignore = "run by the test below"]
fn child_ingests() {
    let root = std::path::PathBuf::from(std::env::var_os(KILL_ROOT).unwrap());
    let options = IngestOptions { batch_documents: 7, remove_missing: Some(String::new()), ..IngestOptions::default() };
    let found = discover(&[root.join("files")], &[], &[], &IndexProfile::default()).unwrap();
    guide(&root.join("data")).ingest(found.sources, &options, &Silent).unwrap();
}

fn child(root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "durability::child_ingests", "--ignored"]).env(KILL_ROOT, root);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command
}

fn write_files(folder: &Path, changed: bool) {
    fs::create_dir_all(folder).unwrap();
    for (uri, text) in FILES {
        fs::write(folder.join(uri), text).unwrap();
    }
    for i in 0..300 {
        let more = if changed && i % 3 == 0 { "It was changed later." } else { "" };
        let text = format!(
            "# Part {i}\n\nThis is number {i} of the series. {more}\n\n## Detail\n\n{}",
            format!("The river {} meets delta {}. ", i % 13, i % 7).repeat(i % 40)
        );
        // A third of the first round goes in the second.
        if !(changed && i % 3 == 1) {
            fs::write(folder.join(format!("{i}.md")), text).unwrap();
        }
    }
}

/// First 300 documents, then a second round that adds, changes and removes a third each.
fn two_rounds(root: &Path, run: &dyn Fn(&Path)) {
    let files = root.join("files");
    write_files(&files, false);
    run(root);
    fs::remove_dir_all(&files).unwrap();
    write_files(&files, true);
    run(root);
}

#[test]
fn an_ingest_killed_ten_times_ends_like_an_undisturbed_one() {
    let undisturbed = tempfile::tempdir().unwrap();
    let start = std::time::Instant::now();
    two_rounds(undisturbed.path(), &|root| assert!(child(root).status().unwrap().success()));
    let seconds = start.elapsed().as_secs_f64() / 2.0;
    let expected = guide(&undisturbed.path().join("data"));

    let disturbed = tempfile::tempdir().unwrap();
    let kills = std::cell::Cell::new(0);
    two_rounds(disturbed.path(), &|root| {
        for round in 0..5_u32 {
            let mut victim = child(root).spawn().unwrap();
            // Each round gets further, since what was committed is not done again: together about one run.
            std::thread::sleep(Duration::from_secs_f64(seconds * share(root, round) * 0.35));
            if victim.try_wait().unwrap().is_none() {
                kills.set(kills.get() + 1);
            }
            victim.kill().unwrap();
            victim.wait().unwrap();
            // Readable and in step in between too.
            if let Ok(collection) = open(&root.join("data")).get(&name()) {
                let stats = collection.stats().unwrap();
                assert_eq!(stats.lexical_generation, stats.generation);
                assert_eq!(stats.vector_generation, stats.generation);
                search(&collection, "river delta");
            }
        }
        assert!(child(root).status().unwrap().success());
    });
    assert!(kills.get() >= 5, "only {} of 10 kills hit a running ingest", kills.get());
    let survived = guide(&disturbed.path().join("data"));
    assert_eq!(survived.content_fingerprint().unwrap(), expected.content_fingerprint().unwrap());
    assert_eq!(survived.stats().unwrap().documents, 203);
    // Commits fell differently, and with them removed chunks and segments: no score depends on that.
    assert_eq!(answers(&survived), answers(&expected));
    drop((survived, expected));
    let [survived, expected] = [&disturbed, &undisturbed].map(|root| {
        fs::remove_dir_all(root.path().join("data/guide/lexical")).unwrap();
        guide(&root.path().join("data"))
    });
    assert_eq!(answers(&survived), answers(&expected));
}

/// A number from 0 to 1, another one for each round and run.
fn share(root: &Path, round: u32) -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one((root, round)) % 1024) as f64 / 1023.0
}
