//! A catalog of the version before is brought to this one, in place.

use std::path::Path;

use edgewise_catalog::{Batch, Catalog, OpenMode};
use edgewise_types::TreeScope;

use super::{build, document, meta, versioned};

/// As version 2 sealed it: the description, the schema and the counters, field by field.
fn seal_as_version_2(connection: &rusqlite::Connection) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut field = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for sql in [
        "SELECT id, collection, profile, profile_hash, embedder_model, embedder_digest, embedder_dimension, \
         generator_tokenizer, generation FROM meta",
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name",
        "SELECT name, seq FROM sqlite_sequence ORDER BY name",
    ] {
        let mut statement = connection.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get_ref(column).unwrap() {
                    rusqlite::types::ValueRef::Null => field(0, &[]),
                    rusqlite::types::ValueRef::Integer(value) => field(1, &value.to_le_bytes()),
                    rusqlite::types::ValueRef::Text(bytes) => field(3, bytes),
                    other => panic!("{other:?}"),
                }
            }
            field(5, &[]);
        }
        field(6, &[]);
    }
    hasher.finalize()
}

/// What version 2 lacked is taken away and the rest sealed as it did: what is left is a file as that version wrote it.
fn back_to_version_2(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let statements = "DROP TABLE tree_members; DROP TABLE tree_nodes; DROP TABLE tree_parts; DROP TABLE tree_former; \
         DROP TABLE tree_tombstones; DROP TABLE tree_tombstone_seals; DROP TABLE tree_state; DROP TABLE jobs; \
         DROP TABLE summaries; PRAGMA user_version = 2;";
    connection.execute_batch(statements).unwrap();
    let seal = seal_as_version_2(&connection);
    connection.execute("UPDATE meta_seal SET hash = ?1", [seal.as_bytes()]).unwrap();
}

fn version_2(path: &Path) -> Catalog {
    let catalog = Catalog::create(path, &meta()).unwrap();
    let upserts = vec![versioned("a", 1, 7), versioned("b", 1, 1), document("c", "odd", 2)];
    catalog.commit(&Batch { upserts, deletes: Vec::new() }).unwrap();
    catalog.commit(&Batch { upserts: vec![versioned("a", 2, 6)], deletes: Vec::new() }).unwrap();
    catalog
}

#[test]
fn a_catalog_of_the_second_version_is_brought_to_this_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
        let path = folder.path().join(format!("{mode:?}"));
        let before = version_2(&path);
        let (id, fingerprint) = (before.id().to_owned(), before.content_fingerprint().unwrap());
        drop(before);
        back_to_version_2(&path);

        let catalog = Catalog::open(&path, mode).unwrap();
        assert_eq!((catalog.id(), catalog.generation().unwrap().0), (id.as_str(), 2));
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        assert_eq!(catalog.content_fingerprint().unwrap(), fingerprint);
        assert_eq!((catalog.tree_version().unwrap().0, catalog.tree_overview().unwrap().nodes()), (0, 0));
        drop(catalog);

        // From then on it takes what the second version could not hold.
        let catalog = Catalog::open(&path, OpenMode::ReadWrite).unwrap();
        build(&catalog);
        assert!(catalog.tree_part(&TreeScope::Collection).unwrap().unwrap().current);
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn damage_from_before_is_not_sealed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(version_2(&path));
    back_to_version_2(&path);
    rusqlite::Connection::open(&path).unwrap().execute("UPDATE meta SET embedder_model = 'tina'", []).unwrap();
    let catalog = Catalog::open(&path, OpenMode::ReadOnly).unwrap();
    let findings = catalog.check().unwrap();
    assert!(findings.iter().any(|finding| finding.contains("description of the collection")), "{findings:?}");
}

#[test]
fn a_migration_that_is_cut_short_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(version_2(&path));
    back_to_version_2(&path);
    // A table of the new version is in the way: the last statement of the migration that can fail does.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE jobs (id TEXT)").unwrap();
    let error = Catalog::open(&path, OpenMode::ReadWrite).unwrap_err().to_string();
    assert!(error.contains("version 2") && error.contains("version 3"), "{error}");
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('summaries', 'tree_nodes')", [], |row| row.get(0))
        .unwrap();
    assert_eq!((version, tables), (2, 0));
    connection.execute_batch("DROP TABLE jobs").unwrap();
    assert_eq!(Catalog::open(&path, OpenMode::ReadWrite).unwrap().check().unwrap(), Vec::<String>::new());
}
