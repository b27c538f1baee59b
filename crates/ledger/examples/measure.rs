//! What the ledger costs: taking records on the path of a request, and answering what pages ask over many of them.
//!
//! `cargo run --release -p edgewise-ledger --example measure -- overhead` compares a loop with and without the ledger, turn by
//! turn, for both kinds of durability. `… -- queries 1000000` fills a ledger with that many records of 30 days and prints how
//! long each question takes, first and warm. With a folder behind it, the ledger is kept there, its days end now, and the next
//! run takes it as it is.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use edgewise_ledger::{
    Dimension, Durability, Interval, Ledger, LedgerOptions, PricedRoute, RequestQuery, RequestRecord, UsageFilter,
    UsageQuery,
};
use edgewise_types::{Money, TenantId, Timings, Usage};
use jiff::Timestamp;

/// End of the time that records are of.
const END: i64 = 1_780_000_000_000_000;
const DAY: i64 = 86_400_000_000;

/// A small generator of numbers (SplitMix64, Steele, Lea and Flood), so that runs are alike.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// A request like those of a busy server: 5 tenants with 10 keys, 8 collections, 4 routes.
fn record(n: u64, at: i64, numbers: &mut Numbers) -> RequestRecord {
    let tenant = numbers.next(5);
    let route = ["passages", "passages", "documents", "full"][numbers.next(4) as usize];
    let usage = Usage {
        input_tokens: numbers.next(500) as usize,
        cache_read_tokens: numbers.next(4000) as usize,
        cache_write_5m_tokens: numbers.next(3000) as usize,
        output_tokens: numbers.next(200) as usize,
        ..Usage::default()
    };
    let cost = Money::from_nanos(numbers.next(1_000_000) as i64);
    let priced = |route: &str, factor: i64| PricedRoute {
        route: route.to_owned(),
        feasible: true,
        prompt_tokens: 3000,
        resident_tokens: 1000,
        cost: Money::from_nanos(cost.nanos() * factor),
        latency_ms: 700.0,
        quality: 0.7,
    };
    let mut record = RequestRecord::begun(
        format!("{at}-{n:016x}"),
        Timestamp::from_microsecond(at).unwrap(),
        TenantId(format!("tenant-{tenant}").into()),
        "smollm2-135m-instruct",
        route,
    );
    record.key = Some(format!("ewk_{tenant}_{}", numbers.next(2)));
    record.collection = Some(format!("collection-{}", numbers.next(8)).parse().unwrap());
    record.template_hash = "0f343b0931126a20f133d67c2b018a3b".to_owned();
    record.miss =
        [None, Some("never_written"), Some("expired"), Some("evicted")][numbers.next(4) as usize].map(str::to_owned);
    (record.usage, record.cost, record.full_cost) = (usage, cost, Some(Money::from_nanos(cost.nanos() * 3)));
    record.candidates = vec![priced("passages", 1), priced("documents", 2), priced("full", 3)];
    record.predicted.usage = Some(usage);
    record.question_chars = 60;
    let total = 200.0 + numbers.next(3000) as f64;
    record.timings = Timings { ttft_ms: total / 3.0, total_ms: total, decode_ms: total / 2.0, ..Timings::default() };
    record
}

fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    times[((share * times.len() as f64) as usize).min(times.len() - 1)].as_secs_f64() * 1e6
}

/// A request's own work, so that the processor does something in between: half a millisecond of arithmetic.
fn request(numbers: &mut Numbers) -> u64 {
    let until = Instant::now() + Duration::from_micros(500);
    let mut sum = 0;
    while Instant::now() < until {
        sum ^= black_box(numbers.next(1000));
    }
    sum
}

fn overhead(folder: &Path, requests: usize) {
    println!("{requests} requests of 0.5 ms each way, turn by turn, in one thread; microseconds");
    println!("{:<28} {:>10} {:>10} {:>10}", "", "p50", "p99", "max");
    for (name, durability) in
        [("survives a kill", Durability::Process), ("survives a power failure", Durability::Power)]
    {
        let path = folder.join(format!("{durability:?}.sqlite"));
        let options = LedgerOptions { durability, ..LedgerOptions::default() };
        let ledger = Ledger::open_with(&path, options).unwrap();
        let mut numbers = Numbers(1);
        let (mut without, mut with, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for n in 0..requests {
            let entry = record(n as u64, END + n as i64, &mut numbers);
            let began = Instant::now();
            black_box(request(&mut numbers));
            without.push(began.elapsed());
            let began = Instant::now();
            black_box(request(&mut numbers));
            let worked = Instant::now();
            ledger.record(&entry).unwrap();
            added.push(worked.elapsed());
            with.push(began.elapsed());
        }
        let row = |name: &str, times: &mut [Duration]| {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(times, share));
            println!("{name:<28} {p50:>10.1} {p99:>10.1} {max:>10.1}");
        };
        row("without the ledger", &mut without);
        row(&format!("with it, {name}"), &mut with);
        row("  of that in the ledger", &mut added);
        assert_eq!(ledger.totals(None).unwrap().all.requests, requests);
    }
}

fn fill(path: &Path, records: u64, end: i64) {
    let ledger = Ledger::open(path).unwrap();
    let (began, mut numbers) = (Instant::now(), Numbers(7));
    let step = 30 * DAY / records as i64;
    for n in 0..records {
        ledger.record(&record(n, end - 30 * DAY + n as i64 * step, &mut numbers)).unwrap();
    }
    ledger.totals(None).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!("{records} records entered in {seconds:.1} s, {:.0} a second", records as f64 / seconds);
}

fn queries(folder: &Path, records: u64, end: i64) {
    let path = folder.join("ledger.sqlite");
    if !path.exists() {
        fill(&path, records, end);
    }
    println!("{} MiB", std::fs::metadata(&path).unwrap().len() >> 20);
    let began = Instant::now();
    let ledger = Ledger::open(&path).unwrap();
    println!("{:<60} {:>8.1} ms", "opening", began.elapsed().as_secs_f64() * 1e3);
    let newest = ledger.requests(&RequestQuery { limit: 1, ..RequestQuery::default() }).unwrap();
    let step = 30 * DAY / records as i64;
    let end = newest.requests.first().unwrap().at.as_microsecond() + step;
    let at = |us: i64| Some(Timestamp::from_microsecond(us).unwrap());
    // A moment within a minute, as a page asks.
    let now = end - 17_123_456;
    let usage = |from, by: &[Dimension], interval| UsageQuery {
        from: at(from),
        to: at(now),
        by: by.to_vec(),
        interval,
        filter: UsageFilter::default(),
    };
    use Dimension::{Collection, Key, Model, Route, Status, Tenant};
    let time = |name: &str, ask: &dyn Fn() -> usize| {
        let mut times = [0.0; 3];
        let mut rows = 0;
        for time in &mut times {
            let began = Instant::now();
            rows = ask();
            *time = began.elapsed().as_secs_f64() * 1e3;
        }
        println!("{name:<60} {:>8.1} ms {:>8.1} ms {rows:>8} rows", times[0], times[1].min(times[2]));
    };
    let ask = |name: &str, query: UsageQuery| time(name, &|| ledger.usage(&query).unwrap().groups.len());
    ask("overview, 24 h by hour and route", usage(now - DAY, &[Route], Some(Interval::Hour)));
    ask("overview, 24 h by minute and route", usage(now - DAY, &[Route], Some(Interval::Minute)));
    ask("overview, 30 days by day and route", usage(now - 30 * DAY, &[Route], Some(Interval::Day)));
    ask("overview, 30 days by hour and route", usage(now - 30 * DAY, &[Route], Some(Interval::Hour)));
    ask(
        "cost, 30 days by day, tenant and collection",
        usage(now - 30 * DAY, &[Tenant, Collection], Some(Interval::Day)),
    );
    ask(
        "cost, 30 days by every dimension",
        usage(now - 30 * DAY, &[Tenant, Key, Collection, Model, Route, Status], None),
    );
    let mut of_tenant = usage(now - 30 * DAY, &[Route], Some(Interval::Day));
    of_tenant.filter.tenant = Some("tenant-3".to_owned());
    ask("one tenant's overview, 30 days by day", of_tenant);
    ask("everything there ever was", UsageQuery::default());
    let list = |name: &str, query: RequestQuery| time(name, &|| ledger.requests(&query).unwrap().requests.len());
    let newest = RequestQuery { limit: 50, ..RequestQuery::default() };
    list("requests, the newest 50", newest.clone());
    list("requests, page at the middle", RequestQuery { to: at(now - 15 * DAY), ..newest.clone() });
    let filter =
        UsageFilter { tenant: Some("tenant-3".to_owned()), route: Some("full".to_owned()), ..UsageFilter::default() };
    list("requests of a tenant and a route", RequestQuery { filter, ..newest.clone() });
    let filter = UsageFilter { status: Some("failed".to_owned()), ..UsageFilter::default() };
    list("requests that failed, of which there are none", RequestQuery { filter, ..newest.clone() });
    list("requests, search by an id", RequestQuery { text: Some(format!("{}", end - 30 * DAY)), ..newest });
    time("one request", &|| {
        let last = ledger.recent(1).unwrap().remove(0).id;
        usize::from(ledger.request(&last, None).unwrap().is_some())
    });
    time("predictions of the newest 10,000", &|| ledger.predictions(None).unwrap().len());
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = arguments.get(1).and_then(|n| n.parse().ok());
    let own = tempfile::tempdir().unwrap();
    let folder = arguments.get(2).map_or_else(|| own.path().to_owned(), PathBuf::from);
    match arguments.first().map(String::as_str) {
        Some("overhead") => overhead(&folder, number.unwrap_or(5000) as usize),
        Some("queries") => {
            // What is kept is to be looked at with the pages, which show what is new.
            let end = arguments.get(2).map_or(END, |_| Timestamp::now().as_microsecond());
            queries(&folder, number.unwrap_or(1_000_000), end);
        }
        _ => println!("say what to measure: overhead [requests] [folder], or queries [records] [folder]"),
    }
}
