//! Every file of a collection, cut short and with flipped bits: found, and mended where the catalog allows it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use edgewise_retrieval::{CheckReport, Part, RetrievalError, check, compact, repair};
use edgewise_types::DocumentId;

use crate::support::*;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files below `folder` by path, without SQLite's shared memory, which it makes anew.
fn read(folder: &Path) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(read(&path));
        } else if !path.to_str().unwrap().ends_with("-shm") {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn restore(folder: &Path, files: &Files) {
    fs::remove_dir_all(folder).unwrap();
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// All that a user can read: documents, texts, chunks, profile, and what searches answer, scores included.
fn content(root: &Path) -> Vec<String> {
    let guide = open(root).get(&name()).unwrap();
    let mut content = vec![format!("{:?} {}", guide.profile(), guide.generation().unwrap())];
    for document in guide.documents(0, 1000).unwrap() {
        content.push(format!("{document:?} {}", guide.document_text(&document.id).unwrap()));
        content.extend(guide.chunks_of(&document.id).unwrap().iter().map(|chunk| format!("{chunk:?}")));
    }
    for question in ["crust of bread", "singing whales", "evicted pages", "number seven of the series"] {
        let results = search(&guide, question);
        assert!(results.notes.is_empty(), "{:?}", results.notes);
        content.extend(results.hits.iter().map(|hit| format!("{} {:?} {:?}", hit.uri, hit.lexical, hit.vector)));
    }
    content
}

/// Places in a file of `len` bytes, the same in every run.
fn places(seed: &str, len: usize, count: usize) -> Vec<(usize, u8)> {
    let mut state =
        seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 16) as usize % len, 1 << (state >> 60 & 7))
        })
        .collect()
}

/// How many damages there were, by what came of them.
#[derive(Debug, Default)]
struct Tally {
    mended: usize,
    catalog: usize,
    harmless: usize,
}

/// Damages one file after another in every way and looks at what comes of it.
fn damage_all(root: &Path, pristine: &Files, flips: usize, tally: &mut Tally) {
    let folder = root.join("guide");
    restore(&folder, pristine);
    let sound = content(root);
    for (path, bytes) in pristine {
        let len = bytes.len();
        let what = path.strip_prefix(&folder).unwrap().display().to_string();
        let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
        for cut in [0, 1, len / 2, len.saturating_sub(1)] {
            if cut < len {
                damages.push((format!("{what} cut to {cut} of {len} bytes"), bytes[..cut].to_vec()));
            }
        }
        if len > 0 {
            for (at, bit) in places(&what, len, flips) {
                let mut flipped = bytes.clone();
                flipped[at] ^= bit;
                damages.push((format!("{what} with bit {bit:#x} of byte {at} of {len} flipped"), flipped));
            }
        }
        for (how, damaged) in damages {
            restore(&folder, pristine);
            fs::write(path, &damaged).unwrap();
            judge(root, &how, &sound, tally);
        }
    }
    restore(&folder, pristine);
}

fn judge(root: &Path, how: &str, sound: &[String], tally: &mut Tally) {
    let report: CheckReport = check(root, &name()).unwrap();
    if report.findings.is_empty() {
        assert_eq!(content(root), sound, "{how}: not found, and not harmless");
        // Nor does it come up later.
        ingest(&guide(root), &[("later.txt", "This came later.")]);
        assert_eq!(check(root, &name()).unwrap().findings, [], "{how}");
        tally.harmless += 1;
    } else if report.concerns(Part::Catalog) {
        let error = repair(root, &name()).unwrap_err();
        assert!(matches!(error, RetrievalError::CatalogDamaged { .. }), "{how}: {error}");
        assert!(error.to_string().contains("import an export"), "{error}");
        tally.catalog += 1;
    } else {
        let repaired = repair(root, &name()).unwrap_or_else(|error| panic!("{how}: {error}; {report:?}"));
        assert!(repaired.after.findings.is_empty() && repaired.after.notes.is_empty(), "{how}: {repaired:?}");
        assert_eq!(content(root), sound, "{how}");
        tally.mended += 1;
    }
}

#[test]
fn every_damage_of_every_file_is_found_and_mended_or_harmless() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let flips = std::env::var("EDGEWISE_TEST_FLIPS").map_or(2, |n| n.parse().unwrap());
    let mut tally = Tally::default();
    let series: Vec<(String, String)> = (0..12)
        .map(|i| (format!("{i}.txt"), format!("This is number {i} of the series. The river meets delta {i}.")))
        .collect();
    let series: Vec<(&str, &str)> = series.iter().map(|(uri, text)| (uri.as_str(), text.as_str())).collect();
    let guide = guide(root);
    ingest(&guide, FILES);
    ingest(&guide, &series);
    guide.delete_document(&DocumentId::from_uri("3.txt")).unwrap();
    guide.flush().unwrap();
    // Beside a living writer the last commits stand in the log.
    let with_log = read(&root.join("guide"));
    drop(guide);
    compact(root, &name()).unwrap();
    let closed = read(&root.join("guide"));
    let log = root.join("guide/catalog.sqlite-wal");
    assert!(with_log[&log].len() > 10_000 && closed.get(&log).is_none_or(Vec::is_empty));
    damage_all(root, &closed, flips, &mut tally);
    let only = |wanted: &dyn Fn(&str) -> bool| -> Files {
        with_log
            .iter()
            .filter(|(path, _)| wanted(path.to_str().unwrap()))
            .map(|(p, b)| (p.clone(), b.clone()))
            .collect()
    };
    let catalog = only(&|path| path.contains("catalog.sqlite"));
    let mut tally_log = Tally::default();
    restore(&root.join("guide"), &with_log);
    let sound = content(root);
    for (path, bytes) in &catalog {
        let what = format!("{} beside a log", path.file_name().unwrap().display());
        let cuts = [0, 100, bytes.len() / 2, bytes.len() - 1].map(|cut| bytes[..cut.min(bytes.len())].to_vec());
        let flipped = places(&what, bytes.len(), flips * 5).into_iter().map(|(at, bit)| {
            let mut flipped = bytes.clone();
            flipped[at] ^= bit;
            flipped
        });
        for (at, damaged) in cuts.into_iter().chain(flipped).enumerate() {
            restore(&root.join("guide"), &with_log);
            fs::write(path, damaged).unwrap();
            judge(root, &format!("{what}, {at}"), &sound, &mut tally_log);
        }
    }
    println!("closed: {tally:?}; catalog with a log: {tally_log:?}");
    assert!(tally.mended > 40 && tally.catalog >= 3 && tally_log.catalog > 10, "{tally:?} {tally_log:?}");
}
