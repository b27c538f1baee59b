//! Single requests: pages, searches, details, and how long they are kept.
#![allow(clippy::unwrap_used)]

use edgewise_ledger::{
    Decided, Detail, Entry, Ledger, LedgerError, RequestQuery, RequestRecord, Retention, UsageFilter,
};
use edgewise_types::TenantId;
use jiff::Timestamp;

const DAY: i64 = 24 * 3_600_000_000;

fn at(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap()
}

fn enter(ledger: &Ledger, us: i64, request: &str, tenant: &str, route: &str, question: Option<&str>) {
    let id = format!("{us}-{request}");
    let record = RequestRecord::begun(id, at(us), TenantId(tenant.into()), "m", route);
    let decided = Some(Decided { request_id: request.to_owned(), decision: "{}".to_owned() });
    let question = question.map(str::to_owned);
    let detail = move || Some(Detail { body: format!("{{\"question\":{question:?}}}"), question });
    ledger.enter(Entry { record, decided, detail: Some(Box::new(detail)) }).unwrap();
}

fn ids(ledger: &Ledger, query: &RequestQuery) -> Vec<String> {
    let requests = ledger.requests(query).unwrap().requests;
    requests.into_iter().map(|record| record.id.split_once('-').unwrap().1.to_owned()).collect()
}

fn filled(ledger: &Ledger) {
    enter(ledger, 1, "one", "a", "full", Some("Where is the 100% mark?"));
    enter(ledger, 2, "two", "b", "full", Some("What of the HARBOUR?"));
    enter(ledger, 3, "three", "a", "passages", Some("Why?"));
    enter(ledger, 3, "four", "a", "full", None);
}

#[test]
fn pages_follow_each_other_also_through_one_moment() {
    let ledger = Ledger::in_memory().unwrap();
    filled(&ledger);
    for n in 0..5 {
        enter(&ledger, 9, &format!("same{n}"), "a", "full", None);
    }
    let all = ids(&ledger, &RequestQuery { limit: 100, ..RequestQuery::default() });
    assert_eq!(all, ["same4", "same3", "same2", "same1", "same0", "four", "three", "two", "one"]);
    for limit in [1, 2, 4, 9, 10] {
        let mut query = RequestQuery { limit, ..RequestQuery::default() };
        let mut seen = Vec::new();
        loop {
            let page = ledger.requests(&query).unwrap();
            assert!(page.requests.len() <= limit && !page.requests.is_empty());
            seen.extend(page.requests.into_iter().map(|record| record.id));
            // What comes meanwhile is not in later pages.
            enter(&ledger, 100 + seen.len() as i64, &format!("late{limit}"), "z", "full", None);
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        let late = seen.iter().filter(|id| id.contains("late")).count();
        assert_eq!(seen.len() - late, all.len(), "{limit}");
    }
    let wrong = RequestQuery { limit: 1, cursor: Some("x".to_owned()), ..RequestQuery::default() };
    assert!(matches!(ledger.requests(&wrong), Err(LedgerError::Cursor { .. })));
}

#[test]
fn requests_are_found_by_what_they_are_and_what_they_asked() {
    let ledger = Ledger::in_memory().unwrap();
    filled(&ledger);
    let found = |filter: UsageFilter, text: Option<&str>| {
        ids(&ledger, &RequestQuery { filter, text: text.map(str::to_owned), limit: 9, ..RequestQuery::default() })
    };
    let of = |tenant: &str| UsageFilter { tenant: Some(tenant.to_owned()), ..UsageFilter::default() };
    let all = UsageFilter::default;
    assert_eq!(found(of("b"), None), ["two"]);
    assert_eq!(found(UsageFilter { route: Some("passages".to_owned()), ..of("a") }, None), ["three"]);
    assert_eq!(found(UsageFilter { collection: Some(String::new()), ..all() }, None).len(), 4, "none has a collection");
    assert_eq!(found(all(), Some("harbour")), ["two"]);
    assert_eq!(found(of("a"), Some("harbour")), Vec::<String>::new(), "it is another tenant's");
    assert_eq!(found(all(), Some("100%")), ["one"], "a sign of the pattern is a sign");
    assert_eq!(found(all(), Some("_")), Vec::<String>::new());
    assert_eq!(found(all(), Some("thr")), ["three"], "the beginning of the request's id");
    assert_eq!(found(all(), Some("3-f")), ["four"], "and of the record's");
    assert_eq!(found(all(), Some("  ")).len(), 4);
    let between = RequestQuery { from: Some(at(2)), to: Some(at(3)), limit: 9, ..RequestQuery::default() };
    assert_eq!(ids(&ledger, &between), ["two"]);
}

#[test]
fn one_request_comes_with_its_detail_as_long_as_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger.sqlite")).unwrap();
    filled(&ledger);
    enter(&ledger, 9 * DAY, "one", "a", "tree", Some("Again?"));
    let (record, detail) = ledger.request("one", None).unwrap().unwrap();
    assert_eq!((record.route.as_str(), detail.unwrap().contains("Again")), ("tree", true), "the newest of the id");
    let (record, detail) = ledger.request("1-one", Some("a")).unwrap().unwrap();
    assert_eq!((record.route.as_str(), detail.is_some()), ("full", true));
    assert_eq!(ledger.request("two", Some("a")).unwrap(), None, "another tenant's");
    assert_eq!(ledger.request("nine", None).unwrap(), None);

    let deleted = ledger.maintain(at(10 * DAY), &Retention { records: 0, minutes: 7, details: 7 }).unwrap();
    assert_eq!((deleted.records, deleted.details), (0, 4));
    let (_, detail) = ledger.request("1-one", None).unwrap().unwrap();
    assert_eq!(detail, None);
    assert!(ledger.request("one", None).unwrap().unwrap().1.is_some());
    let deleted = ledger.maintain(at(10 * DAY), &Retention { records: 5, minutes: 7, details: 7 }).unwrap();
    assert_eq!(deleted.records, 4);
    assert_eq!(ledger.request("two", None).unwrap(), None);
    assert_eq!(ledger.totals(None).unwrap().all.requests, 5, "what was used is known for good");
}

#[test]
fn records_are_told_as_they_come() {
    let ledger = Ledger::in_memory().unwrap();
    let (sender, told) = std::sync::mpsc::channel();
    ledger.observe(move |record| drop(sender.send(record.id.clone())));
    filled(&ledger);
    assert_eq!(told.try_iter().count(), 4);
}
