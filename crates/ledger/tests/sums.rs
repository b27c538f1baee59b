//! Sums over any grouping, time and step are those of the records, to the last unit: while records come, across a kill, a
//! roll-up of an older file, and the deletion of old records.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use edgewise_ledger::{
    Dimension, Interval, Ledger, PricedRoute, RequestRecord, RequestStatus, Retention, Sums, UsageFilter, UsageQuery,
    Work,
};
use edgewise_types::{Money, TenantId, Timings, Usage};
use jiff::Timestamp;
use proptest::prelude::*;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

fn at(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap()
}

prop_compose! {
    /// Records of ten days, some of the same minute, hour and day.
    fn any_record()(
        day in 0..10i64, hour in 0..3i64, minute in 0..3i64, within in 0..60_000_000i64,
        usage in (0..100_000usize, 0..100_000usize, 0..100_000usize, 0..100_000usize, 0..10_000usize),
        names in (0..3usize, 0..3usize, 0..3usize, 0..2usize, 0..4usize, 0..3usize, 0..3usize),
        cost in 0..1_000_000_000i64, full in prop::option::of(0..1_000_000_000i64), times in (0..5000u32, 0..5000u32),
    ) -> RequestRecord {
        let (u, n) = (usage, names);
        let us = 20_000 * DAY + day * DAY + hour * 11 * HOUR + minute * 60_000_000 + within;
        let route = ["passages", "documents", "full"][n.0];
        RequestRecord {
            key: [None, Some("k1".to_owned()), Some("k2".to_owned())][n.5].clone(),
            collection: [None, Some("x".parse().unwrap()), Some("y".parse().unwrap())][n.2].clone(),
            work: Work::ALL[n.6],
            status: RequestStatus::ALL[n.4],
            miss: [None, Some("expired".to_owned()), Some("evicted".to_owned())][n.5].clone(),
            usage: Usage {
                input_tokens: u.0,
                cache_read_tokens: u.1,
                cache_write_5m_tokens: u.2,
                cache_write_1h_tokens: u.3,
                output_tokens: u.4,
            },
            cost: Money::from_nanos(cost),
            full_cost: full.map(Money::from_nanos),
            candidates: full.into_iter().map(|full| PricedRoute {
                route: "full".to_owned(),
                feasible: n.3 == 0,
                prompt_tokens: 1,
                resident_tokens: 0,
                cost: Money::from_nanos(full),
                latency_ms: 1.0,
                quality: 0.5,
            }).collect(),
            timings: Timings { ttft_ms: f64::from(times.0), total_ms: f64::from(times.1), ..Timings::default() },
            ..RequestRecord::begun(
                String::new(), at(us), TenantId(["a", "b", "c"][n.1].into()), ["m", "n"][n.3], route,
            )
        }
    }
}

fn number(records: Vec<RequestRecord>) -> Vec<RequestRecord> {
    records.into_iter().enumerate().map(|(i, record)| RequestRecord { id: format!("r{i}"), ..record }).collect()
}

/// The integers of sums, from the records themselves.
type Integers = (usize, Usage, Money, Money, Money, Vec<(String, usize, usize)>, Vec<(String, usize, Money, Money)>);

fn integers(sums: &Sums) -> Integers {
    let miss = sums.miss.iter().map(|(reason, m)| (reason.clone(), m.requests, m.tokens)).collect();
    let others = sums.alternatives.iter().map(|(route, a)| (route.clone(), a.requests, a.cost, a.paid)).collect();
    (sums.requests, sums.usage, sums.cost, sums.full_cost, sums.saved_against_full, miss, others)
}

fn by_hand<'a>(records: impl Iterator<Item = &'a RequestRecord>) -> Sums {
    let mut sums = Sums::default();
    for record in records {
        sums.requests += 1;
        sums.usage = sums.usage.plus(&record.usage);
        sums.cost += record.cost;
        if let Some(full) = record.full_cost {
            sums.full_cost += full;
            sums.saved_against_full += full - record.cost;
        }
        if let Some(reason) = &record.miss {
            let missed = sums.miss.entry(reason.clone()).or_default();
            missed.requests += 1;
            missed.tokens += record.usage.prompt_tokens() - record.usage.cache_read_tokens;
        }
        for candidate in record.candidates.iter().filter(|c| c.feasible) {
            let other = sums.alternatives.entry(candidate.route.clone()).or_default();
            other.requests += 1;
            other.cost += candidate.cost;
            other.paid += record.cost;
        }
    }
    sums
}

/// Checks a report against the records it is of.
fn check(ledger: &Ledger, records: &[RequestRecord], query: &UsageQuery) -> Result<(), TestCaseError> {
    let within = |r: &&RequestRecord| {
        query.from.is_none_or(|from| r.at >= from)
            && query.to.is_none_or(|to| r.at < to)
            && query.filter.tenant.as_ref().is_none_or(|tenant| **tenant == *r.tenant.0)
    };
    let step = |r: &RequestRecord| {
        let us = r.at.as_microsecond();
        query.interval.map(|interval| match interval {
            Interval::Minute => us - us.rem_euclid(60_000_000),
            Interval::Hour => us - us.rem_euclid(HOUR),
            Interval::Day => us - us.rem_euclid(DAY),
        })
    };
    let value = |r: &RequestRecord, dimension: Dimension| match dimension {
        Dimension::Tenant => r.tenant.0.to_string(),
        Dimension::Key => r.key.clone().unwrap_or_default(),
        Dimension::Collection => r.collection.as_ref().map(ToString::to_string).unwrap_or_default(),
        Dimension::Model => r.model.clone(),
        Dimension::Route => r.route.clone(),
        Dimension::Status => r.status.as_str().to_owned(),
        Dimension::Work => r.work.as_str().to_owned(),
    };
    let mut expected: BTreeMap<_, Vec<&RequestRecord>> = BTreeMap::new();
    for record in records.iter().filter(within) {
        let keys: Vec<String> = query.by.iter().map(|dimension| value(record, *dimension)).collect();
        expected.entry((step(record), keys)).or_default().push(record);
    }
    let table = ledger.usage(query).unwrap();
    let found: BTreeMap<_, Integers> = table
        .groups
        .iter()
        .map(|group| {
            let keys: Vec<String> = query.by.iter().map(|by| group.keys[by.as_str()].clone()).collect();
            ((group.at.map(|at| at.as_microsecond()), keys), integers(&group.sums))
        })
        .collect();
    let expected: BTreeMap<_, Integers> =
        expected.into_iter().map(|(key, records)| (key, integers(&by_hand(records.into_iter())))).collect();
    prop_assert_eq!(&found, &expected, "{:?}", query);
    prop_assert_eq!(integers(&table.total), integers(&by_hand(records.iter().filter(within))));
    // Times are those of complete answers.
    let complete = |r: &&RequestRecord| {
        r.work == Work::Answer && matches!(r.status, RequestStatus::Answered | RequestStatus::Unanswerable)
    };
    let mut times: Vec<f64> = records.iter().filter(within).filter(complete).map(|r| r.timings.ttft_ms).collect();
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len().div_ceil(2).saturating_sub(1));
    match (median, table.total.ttft_ms) {
        (Some(exact), Some(found)) => prop_assert!((found.p50 - exact).abs() <= exact / 63.0, "{:?} {}", found, exact),
        (exact, found) => prop_assert!(exact.is_none() && found.is_none()),
    }
    Ok(())
}

prop_compose! {
    fn any_query()(
        from in prop::option::of(-DAY..11 * DAY), length in prop::option::of(0..11 * DAY),
        by in prop::sample::subsequence(Dimension::ALL.to_vec(), 0..=3),
        interval in prop::sample::select(vec![None, Some(Interval::Minute), Some(Interval::Hour), Some(Interval::Day)]),
        tenant in prop::option::of(prop::sample::select(vec!["a", "b", "nobody"])),
    ) -> UsageQuery {
        let from = from.map(|from| 20_000 * DAY + from);
        UsageQuery {
            from: from.map(at),
            to: length.map(|length| at(from.unwrap_or(20_000 * DAY) + length)),
            by,
            interval,
            filter: UsageFilter { tenant: tenant.map(str::to_owned), ..UsageFilter::default() },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_grouping_sums_to_its_records(
        records in prop::collection::vec(any_record(), 0..40), queries in prop::collection::vec(any_query(), 12)
    ) {
        let records = number(records);
        let ledger = Ledger::in_memory().unwrap();
        records.iter().for_each(|record| ledger.record(record).unwrap());
        for query in &queries {
            check(&ledger, &records, query)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn what_a_killed_process_leaves_behind_is_counted_once(
        records in prop::collection::vec(any_record(), 1..60), queries in prop::collection::vec(any_query(), 6),
        early in 0..60usize,
    ) {
        let records = number(records);
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
        for (i, record) in records.iter().enumerate() {
            ledger.record(record).unwrap();
            if i == early {
                // Part of them is in the database by then.
                ledger.totals(None).unwrap();
            }
        }
        // A copy of the files is what a killed process leaves. The journal is copied last, so that none of its records is in
        // neither; records may be in both.
        let copy = tempfile::tempdir().unwrap();
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
        let journal = files.iter().position(|file| file.to_string_lossy().contains(".pending-")).unwrap();
        let journal = files.remove(journal);
        let to = |file: &std::path::Path| copy.path().join(file.file_name().unwrap());
        std::fs::copy(&journal, to(&journal)).unwrap();
        // Copied while nothing is being written: a copy is not one moment.
        ledger.totals(None).unwrap();
        for file in &files {
            std::fs::copy(file, to(file)).unwrap();
        }
        let again = Ledger::open(&copy.path().join("ledger.sqlite")).unwrap();
        for query in &queries {
            check(&again, &records, query)?;
            check(&ledger, &records, query)?;
        }
        prop_assert!(!to(&journal).exists(), "the journal left behind is used up");
    }

    #[test]
    fn sums_outlive_the_records(
        records in prop::collection::vec(any_record(), 0..60), keep in 1..12u32, minutes in 1..4u32,
        queries in prop::collection::vec(any_query(), 6),
    ) {
        let records = number(records);
        let ledger = Ledger::in_memory().unwrap();
        records.iter().for_each(|record| ledger.record(record).unwrap());
        let now = 20_010 * DAY;
        let kept = Retention { records: keep, minutes, details: 1 };
        for _ in 0..2 {
            ledger.maintain(at(now), &kept).unwrap();
        }
        let oldest = now - i64::from(keep) * DAY;
        let left = records.iter().filter(|r| r.at.as_microsecond() >= oldest).count();
        prop_assert_eq!(ledger.recent(1000).unwrap().len(), left);
        let wide = UsageQuery { by: vec![Dimension::Route, Dimension::Key], ..UsageQuery::default() };
        check(&ledger, &records, &wide)?;
        for interval in [Interval::Hour, Interval::Day] {
            check(&ledger, &records, &UsageQuery { interval: Some(interval), ..wide.clone() })?;
        }
        for query in queries {
            // Where single records are gone, full hours are counted.
            let outward = |time: Timestamp, up: bool| {
                let us = time.as_microsecond();
                let hour = us - us.rem_euclid(HOUR);
                at(if us >= oldest || us == hour { us } else if up { hour + HOUR } else { hour })
            };
            let (from, to) = (query.from.map(|t| outward(t, false)), query.to.map(|t| outward(t, true)));
            let table = ledger.usage(&query).unwrap();
            prop_assert_eq!((table.from, table.to), (from, to));
            let interval = query.interval.filter(|interval| *interval != Interval::Minute);
            check(&ledger, &records, &UsageQuery { from, to, interval, ..query })?;
        }
    }
}
