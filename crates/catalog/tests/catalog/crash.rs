//! Killed at any moment, the catalog keeps every batch it acknowledged, and no half of one.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use edgewise_catalog::{Batch, Catalog, OpenMode};
use edgewise_types::{DocumentId, Generation};

use super::{document, meta};

const CATALOG_VARIABLE: &str = "EDGEWISE_TEST_CRASH_CATALOG";
const KILLS: u32 = 10;

/// The batch that leads to generation `number`. Adds, replaces and deletes, and always changes something.
fn batch(number: u64) -> Batch {
    let uri = |n: u64| format!("document-{}", n % 7);
    let text = format!("batch {number}: ").repeat(1 + (number % 50) as usize);
    Batch {
        upserts: vec![document(&uri(number), &text, 9), document(&format!("{}-b", uri(number)), &text, 30)],
        deletes: vec![DocumentId::from_uri(&uri(number + 3))],
    }
}

/// Commits batch after batch, and says so after each, until killed.
fn write_forever(path: &Path) -> ! {
    let catalog = Catalog::open(path, OpenMode::ReadWrite).unwrap();
    loop {
        let next = catalog.generation().unwrap().0 + 1;
        let committed = catalog.commit(&batch(next)).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {}", committed.generation).unwrap();
        out.flush().unwrap();
    }
}

fn spawn_writer(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::acknowledged_batches_survive_sigkill", "--nocapture"])
        .env(CATALOG_VARIABLE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The test is also the writer: it starts itself again with the variable set.
#[test]
fn acknowledged_batches_survive_sigkill() {
    if let Some(path) = std::env::var_os(CATALOG_VARIABLE) {
        write_forever(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    drop(Catalog::create(&path, &meta()).unwrap());
    let undisturbed = Catalog::create(&folder.path().join("undisturbed.sqlite"), &meta()).unwrap();
    let start = Instant::now();

    for kill in 0..KILLS {
        let before = Catalog::open(&path, OpenMode::ReadOnly).unwrap().generation().unwrap().0;
        let mut writer = spawn_writer(&path);
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let acknowledged_in = |line: String| line.strip_prefix("acknowledged ").map(|n| n.parse::<u64>().unwrap());
        let first = lines.by_ref().map_while(Result::ok).find_map(acknowledged_in).expect("the writer writes");
        assert_eq!(first, before + 1);
        // Spread over more than one commit, at moments nobody chose.
        let jitter = start.elapsed().subsec_nanos() % 9_000_000;
        std::thread::sleep(Duration::from_millis(u64::from(kill) * 3) + Duration::from_nanos(u64::from(jitter)));
        writer.kill().unwrap(); // SIGKILL
        writer.wait().unwrap();
        let acknowledged = lines.map_while(Result::ok).filter_map(acknowledged_in).last().unwrap_or(first);

        let catalog = Catalog::open(&path, OpenMode::ReadWrite).unwrap();
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        let generation = catalog.generation().unwrap().0;
        assert!(
            generation == acknowledged || generation == acknowledged + 1,
            "generation {generation} after {acknowledged} was acknowledged"
        );
        for number in undisturbed.generation().unwrap().0 + 1..=generation {
            undisturbed.commit(&batch(number)).unwrap();
        }
        assert_eq!(catalog.content_fingerprint().unwrap(), undisturbed.content_fingerprint().unwrap());
        assert_eq!(catalog.changes_since(Generation(0)).unwrap(), undisturbed.changes_since(Generation(0)).unwrap());
    }
}
