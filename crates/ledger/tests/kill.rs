//! A process that is killed while it records loses nothing that it was told is recorded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use edgewise_ledger::{Dimension, Ledger, RequestRecord, UsageQuery};
use edgewise_types::{Money, TenantId};

const FOLDER: &str = "EDGEWISE_TEST_LEDGER_OF_CHILD";

/// Threads that record.
const THREADS: u64 = 4;

fn cost(thread: u64, n: u64) -> i64 {
    (thread * 1_000_003 + n * 7_919) as i64
}

/// Not a test: what the killed process runs. Prints the id of every record once it is acknowledged.
#[test]
#[ignore = "run by the other test, in a process of its own"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let ledger = Arc::new(Ledger::open(&Path::new(&folder).join("ledger.sqlite")).unwrap());
    let record = |thread: u64| {
        let ledger = Arc::clone(&ledger);
        move || {
            for n in 0.. {
                let mut record = RequestRecord::begun(
                    format!("{thread}-{n}"),
                    jiff::Timestamp::now(),
                    TenantId::local(),
                    "m",
                    ["passages", "full"][(n % 2) as usize],
                );
                record.cost = Money::from_nanos(cost(thread, n));
                ledger.record(&record).unwrap();
                // One write a line, so that no line is cut off but the last.
                std::io::stderr().write_all(format!("{thread} {n}\n").as_bytes()).unwrap();
            }
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| std::thread::spawn(record(thread))).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn every_acknowledged_record_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    // Killed at different moments.
    for (round, lines) in [3, 40, 700, 2500].into_iter().enumerate() {
        let of_round = folder.path().join(round.to_string());
        std::fs::create_dir(&of_round).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child", "--nocapture", "--test-threads", "1"])
            .env(FOLDER, &of_round)
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen: Vec<String> = output.by_ref().take(lines).map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        seen.extend(output.map_while(Result::ok));
        let ids: BTreeSet<(u64, u64)> = seen
            .iter()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(thread, n)| Some((thread.parse().ok()?, n.parse().ok()?)))
            .collect();
        assert!(ids.len() >= lines - 1, "{seen:?}");
        acknowledged.extend(ids.iter().map(|(thread, n)| (round, *thread, *n)));

        let ledger = Ledger::open(&of_round.join("ledger.sqlite")).unwrap();
        let records = ledger.recent(1_000_000).unwrap();
        let there: BTreeSet<(u64, u64)> = records
            .iter()
            .map(|record| record.id.split_once('-').unwrap())
            .map(|(thread, n)| (thread.parse().unwrap(), n.parse().unwrap()))
            .collect();
        let lost: Vec<_> = ids.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        // What was written and not acknowledged any more may be there too: at most one a thread.
        assert!(there.len() <= ids.len() + THREADS as usize, "{} {}", there.len(), ids.len());
        assert_eq!(records.len(), there.len(), "none twice");

        let expected: i64 = there.iter().map(|(thread, n)| cost(*thread, *n)).sum();
        let query = UsageQuery { by: vec![Dimension::Route], ..UsageQuery::default() };
        let table = ledger.usage(&query).unwrap();
        assert_eq!((table.total.requests, table.total.cost.nanos()), (there.len(), expected));
        let by_route: i64 = table.groups.iter().map(|group| group.sums.cost.nanos()).sum();
        assert_eq!(by_route, expected);
    }
    assert!(acknowledged.len() > 3000);
}
