//! Bad files, bad batches, and a full disk: a typed error that says what to do, and no harm.

use std::{fs, path::Path};

use edgewise_catalog::{Batch, Catalog, CatalogError, OpenMode};
use edgewise_types::{Generation, MetadataValue, Span};

use super::{Change, document, meta};

fn filled(path: &Path, documents: usize) -> Catalog {
    let catalog = Catalog::create(path, &meta()).unwrap();
    let text = "a text with a few words. ".repeat(20);
    let upserts = (0..documents).map(|n| document(&format!("{n}.md"), &text, 50)).collect();
    catalog.commit(&Batch { upserts, deletes: Vec::new() }).unwrap();
    catalog
}

macro_rules! assert_error {
    ($result:expr, $pattern:pat) => {
        let result = $result;
        assert!(matches!(result, Err($pattern)), "{:?}", result.map(|_| ()));
    };
}

#[test]
fn files_that_are_no_catalog_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let open = || Catalog::open(&path, OpenMode::ReadWrite);
    assert_error!(open(), CatalogError::Missing { .. });
    assert_error!(Catalog::create(&folder.path().join("no/folder"), &meta()), CatalogError::CannotOpen { .. });

    for text in ["?".to_owned(), "A short note.".to_owned(), "This is a letter, not a database. ".repeat(100)] {
        fs::write(&path, &text).unwrap();
        assert_error!(open(), CatalogError::NotACatalog { .. });
        assert_error!(Catalog::create(&path, &meta()), CatalogError::NotACatalog { .. });
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    let foreign = fs::read(&path).unwrap();
    assert_error!(open(), CatalogError::NotACatalog { .. });
    assert_error!(Catalog::create(&path, &meta()), CatalogError::NotACatalog { .. });
    assert_eq!(fs::read(&path).unwrap(), foreign);

    // What an interrupted creation leaves.
    fs::write(&path, "").unwrap();
    assert_error!(open(), CatalogError::Missing { .. });
    drop(Catalog::create(&path, &meta()).unwrap());
    assert_error!(Catalog::create(&path, &meta()), CatalogError::AlreadyExists { .. });
    assert_eq!(open().unwrap().generation().unwrap(), Generation(0));

    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_error!(open(), CatalogError::NewerSchema { found: 99, .. });
}

#[test]
fn a_reader_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(filled(&path, 1));
    let reader = Catalog::open(&path, OpenMode::ReadOnly).unwrap();
    assert_error!(
        reader.commit(&Batch { upserts: vec![document("b", "text", 2)], deletes: Vec::new() }),
        CatalogError::ReadOnly { .. }
    );
    assert_eq!(reader.stats().unwrap().documents, 1);
}

#[test]
fn a_batch_that_breaks_an_invariant_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = filled(&folder.path().join("catalog.sqlite"), 2);
    let before = catalog.content_fingerprint().unwrap();
    let breaks: [(&str, Change); 9] = [
        ("outside the text", |d| d.chunks[0].span.end = 1000),
        ("inside a character", |d| d.chunks[0].span = Span::new(0, 1)),
        ("inverted", |d| d.chunks[0].span = Span { start: 4, end: 2 }),
        ("dimension", |d| d.chunks[0].embedding.push(0.0)),
        ("length 2", |d| d.chunks[0].embedding = vec![2.0, 0.0, 0.0]),
        ("NaN", |d| d.chunks[0].embedding[0] = f32::NAN),
        ("infinite", |d| d.chunks[0].embedding[0] = f32::INFINITY),
        ("no URI", |d| d.uri.clear()),
        ("metadata", |d| {
            d.metadata.insert("x".to_owned(), MetadataValue::Float(f64::NAN));
        }),
    ];
    for (name, change) in breaks {
        let mut broken = document("é.md", "éa text", 4);
        change(&mut broken);
        let batch = Batch {
            upserts: vec![document("fine.md", "fine", 2), broken],
            deletes: vec![document("0.md", "", 1).id()],
        };
        let result = catalog.commit(&batch);
        assert!(matches!(result, Err(CatalogError::InvalidBatch { .. })), "{name}: {result:?}");
    }
    let twice = document("twice.md", "text", 2);
    assert_error!(
        catalog.commit(&Batch { upserts: vec![twice.clone(), twice], deletes: Vec::new() }),
        CatalogError::InvalidBatch { .. }
    );
    assert_eq!(catalog.content_fingerprint().unwrap(), before);
    assert_eq!(catalog.generation().unwrap(), Generation(1));
}

/// Overwrites one stretch after another of a sound file. SQLite has no checksums, so a flipped letter may go unnoticed;
/// a panic, a hang or an untyped error may not happen, and damaged structure must be found.
#[test]
fn damaged_files_give_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(filled(&path, 30));
    let sound = fs::read(&path).unwrap();
    let mut found = 0;
    for start in (0..sound.len()).step_by(997) {
        let mut damaged = sound.clone();
        let end = (start + 64).min(damaged.len());
        damaged[start..end].fill(0xA5);
        fs::write(&path, &damaged).unwrap();
        found += usize::from(is_found_damaged(&path));
    }
    assert!(found > 20, "only {found} of the damages were found");
    for len in [1, 50, 100, 4096, sound.len() / 2, sound.len() - 4096] {
        fs::write(&path, &sound[..len]).unwrap();
        assert!(is_found_damaged(&path), "cut to {len} bytes");
    }
    fs::write(&path, &sound).unwrap();
    assert!(!is_found_damaged(&path));
}

fn is_found_damaged(path: &Path) -> bool {
    let typed = |error: &CatalogError| {
        let typed = matches!(
            error,
            CatalogError::Damaged { .. } | CatalogError::NotACatalog { .. } | CatalogError::NewerSchema { .. }
        );
        assert!(typed, "{error:?}");
    };
    let result = Catalog::open(path, OpenMode::ReadOnly).and_then(|catalog| {
        for result in [
            catalog.documents(None, 100).map(drop),
            catalog.chunk_documents().map(drop),
            catalog.for_each_embedding(|_, _| ()).map(drop),
            catalog.content_fingerprint().map(drop),
        ] {
            let _ = result.inspect_err(typed);
        }
        catalog.check()
    });
    match result {
        Ok(findings) => !findings.is_empty(),
        Err(error) => {
            typed(&error);
            true
        }
    }
}
