//! Bad files, bad batches, and a full disk: a typed error that says what to do, and no harm.

use std::{fs, path::Path};

use edgewise_catalog::{Batch, Catalog, CatalogError, OpenMode};
use edgewise_types::{Generation, MetadataValue, PageMap, Span};

use super::{Change, build, document, meta};

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

/// Overwrites one stretch after another of a sound file: no panic, no hang, no untyped error.
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
            CatalogError::Damaged { .. }
                | CatalogError::NotACatalog { .. }
                | CatalogError::NewerSchema { .. }
                | CatalogError::CannotMigrate { .. }
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

/// What version 1 lacked is taken away: what is left is a file as that version wrote it.
fn back_to_version_1(path: &Path) {
    let statements = "ALTER TABLE texts DROP COLUMN pages; ALTER TABLE chunks DROP COLUMN section_start; \
         ALTER TABLE chunks DROP COLUMN section_end; DROP TABLE document_seals; DROP TABLE tombstone_seals; \
         DROP TABLE meta_seal; DROP TABLE tree_members; DROP TABLE tree_nodes; \
         DROP TABLE tree_parts; DROP TABLE tree_former; DROP TABLE tree_tombstones; DROP TABLE tree_tombstone_seals; \
         DROP TABLE tree_state; DROP TABLE jobs; DROP TABLE summaries; PRAGMA user_version = 1;";
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn a_catalog_of_the_first_version_is_brought_to_this_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
        let path = folder.path().join(format!("{mode:?}"));
        let before = filled(&path, 3);
        let (id, chunks) = (before.id().to_owned(), before.chunks_of(&document("1.md", "", 1).id()).unwrap());
        drop(before);
        back_to_version_1(&path);

        let catalog = Catalog::open(&path, mode).unwrap();
        assert_eq!((catalog.id(), catalog.stats().unwrap().documents), (id.as_str(), 3));
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        let name = document("1.md", "", 1).id();
        assert_eq!(catalog.document_pages(&name).unwrap(), Some(PageMap::default()));
        let text = catalog.document_text(&name).unwrap().unwrap();
        for (found, before) in catalog.chunks_of(&name).unwrap().iter().zip(&chunks) {
            assert_eq!((found.id, found.span, &found.text), (before.id, before.span, &before.text));
            assert_eq!((found.section, &found.pages), (Span::new(0, text.len()), &None));
        }
        catalog.content_fingerprint().unwrap();
        drop(catalog);

        // From then on it takes what the first version could not hold.
        let catalog = Catalog::open(&path, OpenMode::ReadWrite).unwrap();
        let paged = document("paged", "odd", 2);
        assert!(!paged.pages.is_empty());
        catalog.commit(&Batch { upserts: vec![paged.clone()], deletes: Vec::new() }).unwrap();
        assert_eq!(catalog.document_pages(&paged.id()).unwrap(), Some(paged.pages));
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_catalog_of_the_first_version_that_cannot_be_written_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(filled(&path, 1));
    back_to_version_1(&path);
    // Another process keeps the write lock: the catalog stays as it is.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let Err(error) = Catalog::open(&path, OpenMode::ReadOnly) else { panic!("it was migrated") };
    let said = error.to_string();
    assert!(said.contains("version 1") && said.contains("ingest the documents again"), "{said}");
    other.execute_batch("ROLLBACK").unwrap();
    drop(Catalog::open(&path, OpenMode::ReadOnly).unwrap());
}

/// All rows of all tables, read without this crate.
fn dump(path: &Path) -> Option<Vec<String>> {
    let connection = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let mut tables = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").ok()?;
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).ok()?.collect::<Result<_, _>>().ok()?;
    let mut lines = vec![format!("{:?}", connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)))];
    for table in tables {
        // One table has no row numbers.
        let mut statement = connection
            .prepare(&format!("SELECT rowid, * FROM {table} ORDER BY rowid"))
            .or_else(|_| connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")))
            .ok()?;
        let columns = statement.column_count();
        let mut rows = statement.query([]).ok()?;
        while let Some(row) = rows.next().ok()? {
            lines.push(format!("{table} {:?}", (0..columns).map(|at| row.get_ref(at).unwrap()).collect::<Vec<_>>()));
        }
    }
    Some(lines)
}

/// One flipped bit anywhere: either it is found, or every row is still what it was (pages have unused bytes, and the
/// header fields that mean nothing to a reader).
#[test]
fn a_flipped_bit_that_changes_anything_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = filled(&path, 40);
    build(&catalog);
    let deletes = (0..9).map(|n| document(&format!("{n}.md"), "", 1).id()).collect();
    catalog.commit(&Batch { upserts: Vec::new(), deletes }).unwrap();
    drop(catalog);
    let (sound, rows) = (fs::read(&path).unwrap(), dump(&path).unwrap());
    let (mut found, mut harmless, mut bit) = (0, 0, 12_345usize);
    for _ in 0..150 {
        // A linear congruential generator (Knuth): the same places in every run.
        bit = bit.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (bit >> 20) % sound.len();
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (bit >> 60 & 7);
        fs::write(&path, &damaged).unwrap();
        if is_found_damaged(&path) {
            found += 1;
        } else {
            assert_eq!(dump(&path).as_ref(), Some(&rows), "byte {at} of {}", sound.len());
            harmless += 1;
        }
    }
    assert!(found > 50, "{found} found, {harmless} harmless");
}

#[test]
fn a_changed_letter_is_found_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = filled(&path, 3);
    catalog.commit(&Batch { upserts: Vec::new(), deletes: vec![document("0.md", "", 1).id()] }).unwrap();
    drop(catalog);
    let sound = fs::read(&path).unwrap();
    for (change, named) in [
        ("UPDATE texts SET text = replace(text, 'few', 'fox')", "`1.md`"),
        ("UPDATE documents SET title = 'Another' WHERE uri = '2.md'", "`2.md`"),
        ("UPDATE documents SET metadata = '{}' WHERE uri = '2.md'", "`2.md`"),
        ("UPDATE chunks SET heading_path = '[\"x\"]' WHERE ordinal = 1", "`1.md`"),
        ("UPDATE chunks SET section_end = section_end - 1 WHERE ordinal = 1", "`1.md`"),
        ("UPDATE texts SET pages = '[]' WHERE document = 2", "`1.md`"),
        ("UPDATE embeddings SET vector = x'0000803f0000000000000000' WHERE chunk = 15", "`1.md`"),
        ("UPDATE tombstones SET chunk = chunk + 1000", "removed in generation 2"),
        ("DELETE FROM tombstones", "removed in generation 2"),
        ("UPDATE meta SET profile = 'other'", ""),
        ("UPDATE sqlite_sequence SET seq = 1", "description of the collection"),
        ("DELETE FROM document_seals WHERE document = 2", "lost its checksum"),
        ("DELETE FROM meta_seal", "lost its checksum"),
    ] {
        let changed = rusqlite::Connection::open(&path).unwrap().execute(change, []).unwrap();
        assert!(changed > 0, "{change}");
        let result = Catalog::open(&path, OpenMode::ReadOnly).and_then(|catalog| catalog.check());
        match result {
            Ok(findings) => assert!(findings.iter().any(|finding| finding.contains(named)), "{change}: {findings:?}"),
            Err(error) => assert!(matches!(error, CatalogError::Damaged { .. }), "{change}: {error}"),
        }
        fs::write(&path, &sound).unwrap();
    }
}
