//! Budgets: what counts, what is refused, who is told, what is expected.
#![allow(clippy::unwrap_used)]

use edgewise_ledger::{BudgetScope, Ledger, LedgerError, MoneyBudget, Period, RequestRecord};
use edgewise_types::{Money, TenantId};
use jiff::Timestamp;

const HOUR: i64 = 3600;

/// A Tuesday in the middle of a month.
fn noon() -> Timestamp {
    "2026-06-16T12:00:00Z".parse().unwrap()
}

fn after(at: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_second(at.as_second() + seconds).unwrap()
}

fn spend(ledger: &Ledger, at: Timestamp, tenant: &str, key: Option<&str>, collection: &str, nanos: i64) {
    let id = format!("{at}-{tenant}-{collection}-{nanos}");
    let mut record = RequestRecord::begun(id, at, TenantId(tenant.into()), "m", "full");
    record.key = key.map(str::to_owned);
    record.collection = Some(collection.parse().unwrap());
    record.cost = Money::from_nanos(nanos);
    ledger.record(&record).unwrap();
}

fn budget(limit: i64, period: Period, hard: bool) -> MoneyBudget {
    let (limit, scope) = (Money::from_nanos(limit), BudgetScope::default());
    MoneyBudget { scope, period, limit, alert_at: vec![0.5, 0.9, 1.0], webhook: None, hard }
}

#[test]
fn a_hard_budget_refuses_what_it_counts_until_it_begins_anew() {
    let ledger = Ledger::in_memory().unwrap();
    let (now, tomorrow) = (noon(), after(noon(), 12 * HOUR));
    let scope = BudgetScope { tenant: Some("a".to_owned()), collection: Some("x".to_owned()), key: None };
    ledger.set_budget("local", "x-of-a", &MoneyBudget { scope, ..budget(100, Period::Day, true) }, now).unwrap();
    ledger.set_budget("local", "soft", &budget(1, Period::Day, false), now).unwrap();
    let refused = |at, tenant: &str, collection| ledger.exhausted(at, tenant, Some("k"), collection);
    spend(&ledger, now, "a", None, "x", 99);
    spend(&ledger, now, "b", None, "x", 1000);
    spend(&ledger, now, "a", None, "y", 1000);
    assert_eq!(refused(now, "a", Some("x")), None, "there is a little left");
    spend(&ledger, now, "a", Some("k"), "x", 1);
    let spent = refused(now, "a", Some("x")).unwrap();
    assert_eq!((spent.name.as_str(), spent.limit.nanos(), spent.until), ("x-of-a", 100, tomorrow));
    assert_eq!(refused(now, "a", Some("y")), None);
    assert_eq!(refused(now, "a", None), None, "a chat is with no collection");
    assert_eq!(refused(now, "b", Some("x")), None, "and a soft one refuses nobody");
    assert_eq!(refused(tomorrow, "a", Some("x")), None, "it begins anew");
    ledger.recount(now).unwrap();
    assert!(refused(now, "a", Some("x")).is_some(), "counted anew it is the same");
    ledger.delete_budget("local", "x-of-a", now).unwrap();
    assert_eq!(refused(now, "a", Some("x")), None);
    let gone = ledger.delete_budget("local", "x-of-a", now);
    assert!(matches!(gone, Err(LedgerError::UnknownBudget { name }) if name == "x-of-a"));
}

#[test]
fn a_spent_budget_stays_spent_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    {
        let ledger = Ledger::open(&path).unwrap();
        ledger.set_budget("local", "all", &budget(100, Period::Month, true), noon()).unwrap();
        spend(&ledger, noon(), "a", None, "x", 100);
    }
    let ledger = Ledger::open(&path).unwrap();
    ledger.recount(noon()).unwrap();
    assert_eq!(ledger.exhausted(noon(), "b", None, None).unwrap().until, "2026-07-01T00:00:00Z".parse().unwrap());
    // A second process that spends is seen at the next count.
    let other = Ledger::open(&path).unwrap();
    let july = "2026-07-02T00:00:00Z".parse().unwrap();
    spend(&other, july, "a", None, "x", 200);
    assert_eq!(ledger.exhausted(july, "b", None, None), None);
    ledger.recount(july).unwrap();
    assert!(ledger.exhausted(july, "b", None, None).is_some());
}

#[test]
fn each_share_is_told_once_a_period_and_the_highest_of_several() {
    let ledger = Ledger::in_memory().unwrap();
    let now = noon();
    let webhook = Some("http://127.0.0.1:1/hook".to_owned());
    ledger.set_budget("local", "b", &MoneyBudget { webhook, ..budget(1000, Period::Day, false) }, now).unwrap();
    let told = |at| ledger.new_alerts(at).unwrap().into_iter().map(|alert| alert.share).collect::<Vec<_>>();
    spend(&ledger, now, "a", None, "x", 499);
    assert_eq!(told(now), Vec::<f64>::new());
    spend(&ledger, now, "a", None, "x", 1);
    assert_eq!(told(now), [0.5]);
    assert_eq!(told(now), Vec::<f64>::new(), "once");
    spend(&ledger, now, "a", None, "x", 600);
    assert_eq!(told(now), [1.0], "of two shares the higher one");
    let tomorrow = after(now, 24 * HOUR);
    spend(&ledger, tomorrow, "a", None, "x", 950);
    assert_eq!(told(tomorrow), [0.9]);

    // They are posted until they are taken or given up.
    let due = ledger.due_alerts().unwrap();
    assert_eq!(
        due.iter().map(|due| (due.alert.share, due.attempts)).collect::<Vec<_>>(),
        [(0.5, 0), (1.0, 0), (0.9, 0)]
    );
    assert_eq!((due[1].alert.spent.nanos(), due[1].alert.limit.nanos(), due[1].alert.at), (1100, 1000, now));
    ledger.posted(&due[0], None, 3).unwrap();
    ledger.posted(&due[1], Some("it answered with status 500"), 3).unwrap();
    for _ in 0..3 {
        let last = ledger.due_alerts().unwrap().into_iter().find(|due| due.alert.share == 0.9);
        if let Some(last) = last {
            ledger.posted(&last, Some("it cannot be reached"), 3).unwrap();
        }
    }
    let left = ledger.due_alerts().unwrap();
    assert_eq!(left.iter().map(|due| (due.alert.share, due.attempts)).collect::<Vec<_>>(), [(1.0, 1)]);
    // Another limit is told anew.
    ledger.set_budget("local", "b", &budget(2000, Period::Day, false), now).unwrap();
    assert_eq!((told(now), ledger.due_alerts().unwrap()), (vec![0.5], Vec::new()));
}

#[test]
fn what_is_expected_goes_on_at_the_rate_of_late() {
    let ledger = Ledger::in_memory().unwrap();
    let now = noon();
    ledger.set_budget("local", "day", &budget(1_000_000, Period::Day, false), now).unwrap();
    ledger.set_budget("local", "month", &budget(1_000_000, Period::Month, false), now).unwrap();
    // 100 an hour for three days.
    for hour in 0..72 {
        spend(&ledger, after(now, -hour * HOUR - 1800), "a", None, "x", 100);
    }
    let of = |owner| ledger.budgets(now, owner).unwrap();
    let [day, month] = <[_; 2]>::try_from(of(Some("local"))).unwrap();
    assert_eq!((day.spent.nanos(), month.spent.nanos()), (1200, 7200));
    assert_eq!(day.forecast.nanos(), 2400, "twelve hours more");
    // 14.5 days more; the first record is 71.5 hours back, and the day before that counts from its midnight.
    let rate = 7200.0 / 84.0;
    let expected = 7200.0 + 14.5 * 24.0 * rate;
    assert!((month.forecast.nanos() as f64 - expected).abs() <= 1.0, "{} {expected}", month.forecast);
    assert_eq!(month.to, "2026-07-01T00:00:00Z".parse().unwrap());
    assert!(of(Some("another")).is_empty());
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let ledger = Ledger::in_memory().unwrap();
    let refused = |name: &str, budget: &MoneyBudget| {
        let error = ledger.set_budget("local", name, budget, noon()).unwrap_err();
        assert!(matches!(error, LedgerError::Budget { .. }), "{error}");
        error.to_string()
    };
    let good = budget(1, Period::Day, false);
    assert!(refused("", &good).contains("a name"));
    assert!(refused("a/b", &good).contains("a name"));
    assert!(refused("b", &budget(0, Period::Day, false)).contains("limit"));
    for share in [0.0, 1.5, f64::NAN] {
        assert!(refused("b", &MoneyBudget { alert_at: vec![share], ..good.clone() }).contains("alert_at"));
    }
    let webhook = Some("file:///etc/passwd".to_owned());
    assert!(refused("b", &MoneyBudget { webhook, ..good }).contains("https://"));
    assert!(ledger.budgets(noon(), None).unwrap().is_empty());
}
