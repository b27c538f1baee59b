//! Damaged and foreign indexes are refused with the one error that means "rebuild".

use std::{fs, path::Path};

use edgewise_lexical_index::{Language, LexicalConfig, LexicalError, LexicalHit, LexicalIndex};
use edgewise_types::{ChunkId, Generation};

use super::{config, entry};

fn fill(path: &Path) {
    let index = LexicalIndex::open_or_create(path, config(Language::English)).unwrap();
    for generation in 1..=2 {
        let entries = (0..20).map(|n| {
            entry(
                generation * 100 + n,
                "Title",
                &["Heading"],
                &format!("word{n} and shared words {}", "x ".repeat(n as usize)),
            )
        });
        index.apply(entries, &[ChunkId(105)], Generation(generation)).unwrap();
    }
    index.close().unwrap();
}

fn answer(index: &LexicalIndex) -> (Generation, Vec<LexicalHit>) {
    (index.generation(), index.search("word7 shared title", 50, None).unwrap())
}

#[test]
fn another_language_or_catalog_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let other_catalog = LexicalConfig { source: "other".to_owned(), ..config(Language::English) };
    for other in [config(Language::None), config(Language::German), other_catalog.clone()] {
        let result = LexicalIndex::open_or_create(folder.path(), other);
        assert!(matches!(result, Err(LexicalError::NeedsRebuild { .. })), "{result:?}");
    }
    let rebuilt = LexicalIndex::rebuild(folder.path(), other_catalog.clone()).unwrap();
    assert_eq!((rebuilt.generation(), rebuilt.len()), (Generation(0), 0));
    drop(rebuilt);
    assert_eq!(LexicalIndex::open(folder.path(), other_catalog).unwrap().len(), 0);
}

#[test]
fn a_folder_without_meta_file_is_no_index() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    fs::remove_file(folder.path().join("meta.json")).unwrap();
    let result = LexicalIndex::open(folder.path(), config(Language::English));
    assert!(matches!(result, Err(LexicalError::Missing { .. })), "{result:?}");
    assert!(LexicalIndex::open_or_create(folder.path(), config(Language::English)).unwrap().is_empty());
}

/// Damages every file at many places. Opening either refuses, or nothing that matters was damaged: the answers are the
/// same.
#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fill(path);
    let sound_answer = answer(&LexicalIndex::open(path, config(Language::English)).unwrap());
    assert_eq!(sound_answer.0, Generation(2));
    let files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut refused = 0;
    for file in &files {
        let sound = fs::read(file).unwrap();
        let mut damages: Vec<Vec<u8>> =
            [0, 1, 10, 50, 90].iter().map(|share| sound[..sound.len() * share / 100].to_vec()).collect();
        let step = if file.ends_with("meta.json") { 1 } else { sound.len() / 25 + 1 };
        for at in (0..sound.len()).step_by(step) {
            let mut flipped = sound.clone();
            flipped[at] ^= 1 << (at % 8);
            damages.push(flipped);
        }
        for damaged in damages.iter().filter(|damaged| **damaged != sound) {
            fs::write(file, damaged).unwrap();
            match LexicalIndex::open(path, config(Language::English)) {
                Err(LexicalError::NeedsRebuild { .. }) => refused += 1,
                Err(error) => panic!("{}: {error}", file.display()),
                Ok(index) => assert_eq!(answer(&index), sound_answer, "{}", file.display()),
            }
        }
        fs::remove_file(file).unwrap();
        if let Ok(index) = LexicalIndex::open(path, config(Language::English)) {
            assert_eq!(answer(&index), sound_answer, "without {}", file.display());
        }
        fs::write(file, &sound).unwrap();
    }
    assert!(refused > 100, "only {refused} damages were refused");
    assert_eq!(answer(&LexicalIndex::open(path, config(Language::English)).unwrap()), sound_answer);
}
