//! The ledger as its users see it: durability, ordering, and sums that always add up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use edgewise_ledger::{Ledger, LedgerError, Prediction, PricedRoute, RequestRecord, RequestStatus, Sums};
use edgewise_types::{Money, TenantId, Timings, Usage};
use jiff::Timestamp;

fn record(id: &str, at_us: i64) -> RequestRecord {
    RequestRecord {
        collection: Some("guide".parse().unwrap()),
        template_hash: "abc".to_owned(),
        usage: Usage {
            input_tokens: 1,
            cache_read_tokens: 20,
            cache_write_5m_tokens: 300,
            cache_write_1h_tokens: 4000,
            output_tokens: 50000,
        },
        cost: Money::from_nanos(123),
        full_cost: Some(Money::from_nanos(1000)),
        predicted: Prediction {
            cost: Money::from_nanos(120),
            ttft_ms: 1.5,
            latency_ms: 20.25,
            usage: Some(Usage { input_tokens: 2, cache_read_tokens: 19, output_tokens: 40000, ..Usage::default() }),
        },
        timings: Timings { prefill_ms: 3.25, total_ms: 21.5, ..Timings::default() },
        question_chars: 42,
        key: Some("ewk_1".to_owned()),
        escalated_from: Some("passages".to_owned()),
        miss: Some("expired".to_owned()),
        candidates: vec![PricedRoute {
            route: "full".to_owned(),
            feasible: true,
            prompt_tokens: 4000,
            resident_tokens: 20,
            cost: Money::from_nanos(1000),
            latency_ms: 30.0,
            quality: 0.5,
        }],
        ..RequestRecord::begun(
            id.to_owned(),
            Timestamp::from_microsecond(at_us).unwrap(),
            TenantId::local(),
            "small",
            "passages",
        )
    }
}

#[test]
fn a_record_survives_reopening_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut unpriced = record("b", 1_700_000_000_000_001);
    unpriced.full_cost = None;
    unpriced.forced = true;
    unpriced.status = RequestStatus::Failed;
    {
        let ledger = Ledger::open(&path).unwrap();
        ledger.record(&record("a", 1_700_000_000_000_000)).unwrap();
        ledger.record(&unpriced).unwrap();
    }
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.recent(10).unwrap(), [unpriced, record("a", 1_700_000_000_000_000)], "newest first");
    assert_eq!(ledger.recent(1).unwrap().len(), 1);
    assert_eq!(ledger.totals(None).unwrap().all.saved_against_full.nanos(), 877, "the unpriced one saves nothing");
}

#[test]
fn predictions_are_compared_by_route_warm_and_cold() {
    let ledger = Ledger::in_memory().unwrap();
    for n in 0..10_i64 {
        let mut answered = record(&format!("r{n}"), n);
        let (resident, input) = if n < 6 { (0, 100) } else { (90, 10) };
        answered.usage = Usage { input_tokens: input, cache_read_tokens: resident, ..Usage::default() };
        answered.predicted.usage = Some(Usage { input_tokens: input + usize::from(n == 0), ..answered.usage });
        (answered.predicted.ttft_ms, answered.timings.ttft_ms) = (100.0 + 10.0 * n as f64, 100.0);
        ledger.record(&answered).unwrap();
    }
    let mut failed = record("failed", 11);
    failed.status = RequestStatus::Failed;
    ledger.record(&failed).unwrap();
    let errors = ledger.predictions(None).unwrap();
    let found: Vec<(bool, usize)> = errors.iter().map(|e| (e.warm, e.requests)).collect();
    assert_eq!(found, [(false, 6), (true, 4)]);
    assert!((errors[0].tokens_exact - 5.0 / 6.0).abs() < 1e-9 && errors[0].resident_exact == 1.0);
    assert!((errors[0].prompt_cost_exact - 5.0 / 6.0).abs() < 1e-9 && errors[1].prompt_cost_exact == 1.0);
    assert!((errors[0].ttft.median - 0.2).abs() < 1e-9 && (errors[1].ttft.p90 - 0.9).abs() < 1e-9, "{errors:?}");
    let late = ledger.predictions(Some(Timestamp::from_microsecond(8).unwrap())).unwrap();
    assert_eq!(late.iter().map(|e| e.requests).collect::<Vec<_>>(), [2]);
}

#[test]
fn an_acknowledged_record_is_seen_by_another_process_without_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let writer = Ledger::open(&path).unwrap();
    let reader = Ledger::open(&path).unwrap();
    writer.record(&record("a", 5)).unwrap();
    assert_eq!(reader.recent(10).unwrap().len(), 1);
    // A copy of the files as they are now, which is what a killed process leaves behind.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    assert_eq!(Ledger::open(&copy.path().join("ledger.sqlite")).unwrap().recent(10).unwrap().len(), 1);
}

#[test]
fn a_record_is_counted_once_and_one_of_the_same_id_beside_it() {
    let ledger = Ledger::in_memory().unwrap();
    ledger.record(&record("a", 1)).unwrap();
    ledger.record(&record("a", 1)).unwrap();
    assert_eq!(ledger.totals(None).unwrap().all.requests, 1, "the same record");
    for _ in 0..2 {
        ledger.record(&record("a", 2)).unwrap();
    }
    let ids: Vec<String> = ledger.recent(9).unwrap().into_iter().map(|record| record.id).collect();
    assert_eq!(ids, ["a+2", "a"]);
    assert_eq!(ledger.totals(None).unwrap().all.cost.nanos(), 246, "no money is lost");
}

#[test]
fn a_newer_or_foreign_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let newer = folder.path().join("newer.sqlite");
    let connection = rusqlite::Connection::open(&newer).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(Ledger::open(&newer), Err(LedgerError::NewerSchema { found: 99, .. })));

    let foreign = folder.path().join("notes.txt");
    std::fs::write(&foreign, "not a database, and long enough to be read as a header of one").unwrap();
    let error = Ledger::open(&foreign).err().expect("a text file is no ledger").to_string();
    assert!(error.contains("notes.txt"), "{error}");
    assert!(std::fs::read_to_string(&foreign).unwrap().starts_with("not a database"));

    assert!(matches!(Ledger::open(&folder.path().join("no/folder.sqlite")), Err(LedgerError::Open { .. })));
}

#[test]
fn totals_start_at_the_time_given() {
    let ledger = Ledger::in_memory().unwrap();
    for at in [1, 2, 3] {
        ledger.record(&record(&at.to_string(), at)).unwrap();
    }
    assert_eq!(ledger.totals(Some(Timestamp::from_microsecond(2).unwrap())).unwrap().all.requests, 2);
    assert_eq!(ledger.totals(Some(Timestamp::from_microsecond(4).unwrap())).unwrap().all, Sums::default());
}
