//! Killed at any moment, content and generation of the index agree.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use edgewise_lexical_index::{Language, LexicalIndex};
use edgewise_types::{ChunkId, Generation};

use super::{config, entry};

const INDEX_VARIABLE: &str = "EDGEWISE_TEST_CRASH_INDEX";
const KILLS: u64 = 6;

/// Generation `n` adds chunks `10 n` to `10 n + 9` and removes `10 n - 9`. All hold the word `all`.
fn write_forever(path: &Path) -> ! {
    let index = LexicalIndex::open(path, config(Language::None)).unwrap();
    loop {
        let next = index.generation().0 + 1;
        let added = (10 * next..10 * next + 10).map(|chunk| entry(chunk, "", &[], "all"));
        index.apply(added, &[ChunkId(10 * next - 9)], Generation(next)).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {next}").unwrap();
        out.flush().unwrap();
    }
}

/// The test is also the writer: it starts itself again with the variable set.
#[test]
fn content_and_generation_agree_after_sigkill() {
    if let Some(path) = std::env::var_os(INDEX_VARIABLE) {
        write_forever(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    drop(LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap());
    for kill in 0..KILLS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::content_and_generation_agree_after_sigkill", "--nocapture"])
            .env(INDEX_VARIABLE, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok);
        let acknowledged_in = |line: String| line.strip_prefix("acknowledged ").map(|n| n.parse::<u64>().unwrap());
        let first = lines.find_map(acknowledged_in).expect("the writer writes");
        std::thread::sleep(Duration::from_millis(7 + kill * 23));
        writer.kill().unwrap(); // SIGKILL
        writer.wait().unwrap();
        let acknowledged = lines.filter_map(acknowledged_in).last().unwrap_or(first);

        let index = LexicalIndex::open(folder.path(), config(Language::None)).unwrap();
        let generation = index.generation().0;
        assert!(generation == acknowledged || generation == acknowledged + 1, "{generation} after {acknowledged}");
        let expected: Vec<u64> =
            (10..10 * generation + 10).filter(|chunk| chunk % 10 != 1 || chunk / 10 == generation).collect();
        let mut found: Vec<u64> =
            index.search("all", usize::MAX, None).unwrap().into_iter().map(|hit| hit.chunk.0).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}

/// Killed between writing a list of removed chunks and the commit that names it.
#[test]
fn what_a_killed_commit_left_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap();
    let index = open();
    index.apply((0..10).map(|chunk| entry(chunk, "", &[], "all")), &[], Generation(1)).unwrap();
    index.close().unwrap();
    let meta = folder.path().join("meta.json");
    let committed = std::fs::read(&meta).unwrap();
    // From a writer that opens the index as it is, as the one after the kill does.
    let remove = || {
        let index = open();
        index.apply([], &[ChunkId(3)], Generation(2)).unwrap();
        assert_eq!(index.search("all", usize::MAX, None).unwrap().len(), 9);
        index.close().unwrap();
    };
    remove();
    let lists = || {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().ends_with(".del")).count()
    };
    assert_eq!(lists(), 1);
    std::fs::write(&meta, committed).unwrap();
    remove();
}
