//! Several processes on one data root. A second [`Collections`] over the same root stands for another process where only
//! files matter: the lock is held by an open file, not by a process.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use edgewise_retrieval::{IngestOptions, RetrievalError, Silent};
use edgewise_types::DocumentId;

use crate::support::*;

const LOCK_ROOT: &str = "EDGEWISE_TEST_LOCK_ROOT";

/// Not a test: a process that writes once and then lives until its input ends.
#[test]
#[ignore = "run by the test below"]
fn child_writes_and_waits() {
    let root = std::path::PathBuf::from(std::env::var_os(LOCK_ROOT).unwrap());
    let guide = guide(&root);
    ingest(&guide, &FILES[..1]);
    let mut out = std::io::stdout();
    writeln!(out, "written").unwrap();
    out.flush().unwrap();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[test]
fn one_process_writes_while_others_read() {
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child_writes_and_waits", "--ignored", "--nocapture"])
        .env(LOCK_ROOT, root.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("written")));

    let guide = guide(root.path());
    assert_eq!(found(&guide, "crust"), ["bread.md"]);
    let error = guide.ingest(sources(FILES), &IngestOptions::default(), &Silent).unwrap_err();
    assert!(matches!(error, RetrievalError::Locked { pid: Some(pid), .. } if pid == child.id()), "{error}");
    let error = guide.delete_document(&DocumentId::from_uri("bread.md")).unwrap_err();
    assert!(matches!(error, RetrievalError::Locked { .. }), "{error}");
    assert!(matches!(open(root.path()).delete(&name()), Err(RetrievalError::Locked { .. })));

    // Killed, not ended: the system drops the lock either way.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ingest(&guide, FILES).sources.len(), 3);
}

#[test]
fn a_reader_sees_each_commit_of_a_writer() {
    let root = tempfile::tempdir().unwrap();
    let (writer, reader) = (guide(root.path()), guide(root.path()));
    assert!(found(&reader, "whales").is_empty());
    ingest(&writer, FILES);
    assert_eq!(found(&reader, "whales")[0], "whales.txt");
    ingest(&writer, &[("whales.txt", "Nothing about the sea any more.")]);
    let results = search(&reader, "whales sing");
    assert!(results.hits.iter().all(|hit| !hit.chunk.text.contains("sing")));
    assert_eq!(results.generation, writer.generation().unwrap());
    assert!(results.notes.is_empty(), "{:?}", results.notes);
    writer.delete_document(&DocumentId::from_uri("bread.md")).unwrap();
    assert!(!found(&reader, "crust").contains(&"bread.md".to_owned()));
    assert!(search(&reader, "engine prefixes").hits[0].lexical.is_some(), "the lexical arm followed too");
}

#[test]
fn a_reader_takes_over_an_index_whose_writer_died() {
    let root = tempfile::tempdir().unwrap();
    let reader = guide(root.path());
    let folder = root.path().join("guide");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    // As if killed between the catalog's commit and the index's: the index is put back to what it was.
    copy(&folder.join("lexical"), &root.path().join(".before"));
    let writer = guide(root.path());
    ingest(&writer, FILES);
    drop(writer);
    std::fs::remove_dir_all(folder.join("lexical")).unwrap();
    copy(&root.path().join(".before"), &folder.join("lexical"));
    let results = search(&reader, "whales sing");
    assert!(results.hits[0].lexical.is_some());
    assert!(results.notes.is_empty(), "{:?}", results.notes);
    // And gives the lock back.
    ingest(&guide(root.path()), &[("new.md", "A new one.")]);
}

#[test]
fn a_deleted_collection_is_gone_for_all() {
    let root = tempfile::tempdir().unwrap();
    let (here, there) = (open(root.path()), open(root.path()));
    let reader = there.get_or_create_default(&name()).unwrap();
    ingest(&here.get_or_create_default(&name()).unwrap(), FILES);
    there.get_or_create_default(&"other".parse().unwrap()).unwrap();
    here.delete(&name()).unwrap();
    for error in [
        here.get(&name()).unwrap_err(),
        there.get(&name()).unwrap_err(),
        reader.search(&request("whales")).unwrap_err(),
        here.delete(&name()).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "there is no collection `guide`; existing: other");
    }
    assert_eq!(here.list().unwrap().collections.len(), 1);
    let left: Vec<String> =
        std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.contains("guide")), "{left:?}");

    // A new one of the same name is another collection, also for who knew the old one.
    ingest(&here.get_or_create_default(&name()).unwrap(), &FILES[..1]);
    assert_eq!(found(&reader, "crust whales"), ["bread.md"]);
}

#[test]
fn a_damaged_collection_is_listed_beside_the_others_and_can_be_deleted() {
    let root = tempfile::tempdir().unwrap();
    ingest(&guide(root.path()), FILES);
    open(root.path()).get_or_create_default(&"broken".parse().unwrap()).unwrap();
    std::fs::write(root.path().join("broken/catalog.sqlite"), "no database, but long enough to look at".repeat(200))
        .unwrap();
    let collections = open(root.path());
    let listing = collections.list().unwrap();
    assert_eq!(listing.collections.len(), 1);
    assert_eq!((listing.collections[0].name.as_str(), listing.collections[0].documents), ("guide", 3));
    assert_eq!(listing.damaged.len(), 1);
    assert_eq!(listing.damaged[0].0.as_str(), "broken");
    collections.delete(&"broken".parse().unwrap()).unwrap();
    assert!(collections.list().unwrap().damaged.is_empty());
}
