//! Check, repair, compact, export and import, against damage and kills.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use edgewise_documents::IndexProfile;
use edgewise_retrieval::{IngestOptions, Part, RetrievalError, Silent, check, compact, export, import, rename, repair};
use edgewise_types::DocumentId;

use crate::support::*;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn sound(root: &Path) -> bool {
    let report = check(root, &name()).unwrap();
    report.findings.is_empty() && report.notes.is_empty()
}

#[test]
fn check_finds_every_damage_and_repair_mends_it() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    ingest(&guide(root), FILES);
    let before: Vec<String> = found(&guide(root), "engine crust whales");
    assert!(sound(root), "{:?}", check(root, &name()).unwrap());
    let folder = root.join("guide");
    let mut damages = 0;
    for part in ["lexical", "vectors"] {
        for at in 0..files(&folder.join(part)).len() {
            for how in 0..3 {
                // Repair may have written other files.
                let Some(file) = files(&folder.join(part)).get(at).cloned() else { continue };
                let bytes = fs::read(&file).unwrap();
                if bytes.is_empty() {
                    continue;
                }
                match how {
                    0 => fs::write(&file, &bytes[..bytes.len() / 2]).unwrap(),
                    1 => {
                        let mut flipped = bytes.clone();
                        flipped[bytes.len() * 2 / 3] ^= 8;
                        fs::write(&file, flipped).unwrap();
                    }
                    _ => fs::remove_file(&file).unwrap(),
                }
                let report = check(root, &name()).unwrap();
                // tantivy's lock files and its list of managed files hold nothing of the index.
                let bookkeeping = file.file_name().unwrap().to_str().unwrap().starts_with('.');
                let expected = if part == "lexical" { Part::Lexical } else { Part::Vectors };
                assert!(bookkeeping || report.concerns(expected), "{} damaged ({how}): {report:?}", file.display());
                damages += usize::from(!bookkeeping);
                let repaired = repair(root, &name()).unwrap();
                assert!(repaired.after.findings.is_empty() && repaired.after.notes.is_empty(), "{repaired:?}");
            }
        }
    }
    assert!(damages > 15, "{damages}");
    for manifest in ["", "{}", "{\"catalog\":\"x\",\"profile\":\"\"}"] {
        fs::write(folder.join("collection.json"), manifest).unwrap();
        assert!(check(root, &name()).unwrap().concerns(Part::Manifest));
        assert!(repair(root, &name()).unwrap().after.findings.is_empty());
    }
    assert_eq!(found(&guide(root), "engine crust whales"), before);

    // A catalog that is damaged is told from indexes that are, and is not touched.
    let mut catalog = fs::read(folder.join("catalog.sqlite")).unwrap();
    let wal = folder.join("catalog.sqlite-wal");
    if wal.exists() {
        fs::remove_file(wal).unwrap();
    }
    let middle = catalog.len() / 2;
    catalog[middle..].fill(0x5a);
    fs::write(folder.join("catalog.sqlite"), &catalog).unwrap();
    assert!(check(root, &name()).unwrap().concerns(Part::Catalog));
    assert!(matches!(repair(root, &name()), Err(RetrievalError::CatalogDamaged { .. })));
    assert_eq!(fs::read(folder.join("catalog.sqlite")).unwrap(), catalog);
}

#[test]
fn an_export_comes_back_as_it_was() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let guide_1 = guide(root);
    ingest(&guide_1, FILES);
    let file = root.join("guide.export");
    export(root, &name(), &file).unwrap();
    let again = export(root, &name(), &file);
    assert!(matches!(again, Err(RetrievalError::FileExists { .. })), "never overwritten: {again:?}");
    let nowhere = export(root, &name(), &root.join("no/folder"));
    assert!(matches!(nowhere, Err(RetrievalError::Io { .. })), "{nowhere:?}");
    guide_1.delete_document(&DocumentId::from_uri("bread.md")).unwrap();
    let copy = "copy".parse().unwrap();
    let report = import(root, &copy, &file).unwrap();
    assert_eq!((report.documents, report.findings.len(), report.notes.len()), (3, 0, 0));
    assert!(matches!(import(root, &copy, &file), Err(RetrievalError::CollectionExists { .. })));
    let copy = open(root).get(&copy).unwrap();
    assert_eq!(found(&copy, "crust")[0], "bread.md");
    assert!(!found(&guide_1, "crust").contains(&"bread.md".to_owned()));
    assert_eq!(ingest(&copy, FILES).chunks_embedded, 0, "content and profile are known");

    let mut damaged = fs::read(&file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle..].fill(7);
    fs::write(&file, damaged).unwrap();
    let third = "third".parse().unwrap();
    let refused = |file: &Path, because: &str| {
        let error = import(root, &third, file).unwrap_err();
        assert!(matches!(error, RetrievalError::UnusableExport { .. }), "{error}");
        assert!(error.to_string().contains(because), "{error}");
        assert!(open(root).get(&third).is_err());
        assert!(!root.join(".next-third").exists());
    };
    refused(&file, "damaged");
    fs::write(&file, "").unwrap();
    refused(&file, "empty");
    fs::write(&file, "A letter, not a collection. ".repeat(500)).unwrap();
    refused(&file, "not an export");
    refused(&root.join("nothing"), "no such file");
}

#[test]
fn a_renamed_collection_is_found_under_its_new_name_by_all() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let collections = open(root);
    let before = collections.get_or_create_default(&name()).unwrap();
    ingest(&before, FILES);
    let elsewhere = guide(root);
    let (handbook, other) = ("handbook".parse().unwrap(), "other".parse().unwrap());
    collections.get_or_create_default(&other).unwrap();
    assert!(matches!(rename(root, &name(), &handbook), Err(RetrievalError::Locked { .. })), "it has a writer");
    assert!(matches!(collections.rename(&name(), &other), Err(RetrievalError::CollectionExists { .. })));
    collections.rename(&name(), &handbook).unwrap();
    assert!(matches!(elsewhere.generation(), Err(RetrievalError::UnknownCollection { .. })));
    assert!(matches!(collections.get(&name()), Err(RetrievalError::UnknownCollection { .. })));
    let renamed = collections.get(&handbook).unwrap();
    assert_eq!(found(&renamed, "whales")[0], "whales.txt");
    assert_eq!(ingest(&renamed, FILES).chunks_embedded, 0);
    let report = check(root, &handbook).unwrap();
    assert!(report.findings.is_empty() && report.notes.is_empty(), "{report:?}");
    assert!(matches!(rename(root, &name(), &other), Err(RetrievalError::UnknownCollection { .. })));
}

#[test]
fn a_process_that_writes_can_compact_and_repair_its_collection() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let collections = open(root);
    let guide = collections.get_or_create_default(&name()).unwrap();
    ingest(&guide, FILES);
    guide.delete_document(&DocumentId::from_uri("bread.md")).unwrap();
    collections.compact(&name()).unwrap();
    assert_eq!(found(&guide, "whales")[0], "whales.txt");
    fs::remove_dir_all(root.join("guide/lexical")).unwrap();
    let repaired = collections.repair(&name()).unwrap();
    assert!(repaired.before.concerns(Part::Lexical) && repaired.after.findings.is_empty());
    assert!(search(&guide, "whales sing").hits[0].lexical.is_some());
    ingest(&guide, &[FILES[0]]);
    assert_eq!(found(&guide, "crust")[0], "bread.md");
}

#[test]
fn what_did_not_change_is_not_embedded_again() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, FILES);
    let changed = "# Bread\n\nSourdough rises slowly in a cold oven.\n\n## Crust\n\nSteam makes the crust shine.";
    let report = ingest(&guide, &[("bread.md", changed)]);
    assert_eq!(report.chunks_embedded, 1, "one of two sections changed");
    let options = IngestOptions { remove_missing: Some(String::new()), ..IngestOptions::default() };
    let renamed: Vec<(&str, &str)> = FILES[1..].iter().map(|(uri, text)| (*uri, *text)).collect();
    let renamed = [("loaf.md", changed), ("motor.md", renamed[0].1), renamed[1]];
    let report = guide.ingest(sources(&renamed), &options, &Silent).unwrap();
    assert_eq!(report.chunks_embedded, 0, "two files have other names");
    assert_eq!(
        outcomes(&report),
        [
            ("bread.md", "removed"),
            ("engine.md", "removed"),
            ("loaf.md", "added"),
            ("motor.md", "added"),
            ("whales.txt", "unchanged")
        ]
    );
    assert_eq!(found(&guide, "steam on the crust")[0], "loaf.md");
}

const KILL_ROOT: &str = "EDGEWISE_TEST_MAINTAIN_ROOT";

/// Not a test: adds, changes, deletes and compacts until it is killed, and says what is done.
#[test]
#[ignore = "run by the test below"]
fn child_works() {
    let root = PathBuf::from(std::env::var_os(KILL_ROOT).unwrap());
    let mut round = guide(&root).generation().unwrap().0;
    loop {
        round += 1;
        let text = format!("# Round\n\nThis is round {round}.");
        {
            let guide = guide(&root);
            ingest(&guide, &[("constant.md", "# Constant\n\nAlways here."), ("round.md", &text)]);
            ingest(&guide, &[(&format!("{}.md", round % 9), &text)]);
            if guide.document(&DocumentId::from_uri("3.md")).is_ok() {
                guide.delete_document(&DocumentId::from_uri("3.md")).unwrap();
            }
            if round.is_multiple_of(2) {
                guide.flush().unwrap();
            }
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {round}").unwrap();
        out.flush().unwrap();
        if round.is_multiple_of(3) {
            compact(&root, &name()).unwrap();
        }
        if round.is_multiple_of(5) {
            fs::remove_dir_all(root.join("guide/vectors")).unwrap();
            repair(&root, &name()).unwrap();
        }
    }
}

#[test]
fn killed_at_any_point_it_is_sound_and_keeps_what_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for kill in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "maintain::child_works", "--ignored", "--nocapture"])
            .env(KILL_ROOT, root.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let number = |line: String| line.strip_prefix("acknowledged ").map(|n| n.parse::<u64>().unwrap());
        let first = lines.find_map(number).expect("the child works");
        std::thread::sleep(Duration::from_millis(3 + kill * kill * 9 % 131));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = lines.filter_map(number).last().unwrap_or(first).max(acknowledged);

        let report = check(root.path(), &name()).unwrap();
        // A kill may leave an index behind, or a snapshot not yet written; never one that is wrong.
        let unwritten = |problem: &str| problem.ends_with("is missing");
        assert!(report.findings.iter().all(|finding| unwritten(&finding.problem)), "{report:?}");
        let guide = open(root.path()).get_or_create(&name(), &IndexProfile::default()).unwrap();
        let text = guide.document_text(&DocumentId::from_uri("round.md")).unwrap();
        let round: u64 = text.split("round ").nth(1).unwrap().trim_end_matches(['.', '\n']).parse().unwrap();
        assert!(round >= acknowledged, "{round} after {acknowledged}");
        assert_eq!(found(&guide, "always here")[0], "constant.md");
        drop(guide);
        assert!(repair(root.path(), &name()).unwrap().after.findings.is_empty());
        assert!(sound(root.path()));
    }
    assert!(acknowledged >= 8);
}
