//! Ratings: found by either id, replaced, kept, forgotten.
#![allow(clippy::unwrap_used)]

use edgewise_ledger::{Decision, LAST, Ledger, LedgerError, Rating};
use edgewise_types::TenantId;
use jiff::Timestamp;

fn at(us: i64) -> Timestamp {
    Timestamp::from_microsecond(us).unwrap()
}

fn decide(ledger: &Ledger, tenant: &TenantId, id: &str, request_id: &str, us: i64) {
    let decision = format!("decision of {id}");
    ledger.decided(&Decision { id, request_id, at: at(us), tenant, decision: &decision }).unwrap();
}

fn rate(ledger: &Ledger, tenant: &TenantId, request: &str, rating: f64) -> Result<(String, bool), LedgerError> {
    let rated = ledger.rate(&Rating { tenant, request, rating, comment: Some("why"), at: at(99) })?;
    Ok((rated.id, rated.replaced))
}

#[test]
fn a_request_is_found_by_its_ids_and_rated_once() {
    let (ledger, tenant) = (Ledger::in_memory().unwrap(), TenantId::local());
    decide(&ledger, &tenant, "1-a", "a", 1);
    decide(&ledger, &tenant, "2-a", "a", 2);
    decide(&ledger, &tenant, "3-b", "b", 3);
    assert_eq!(rate(&ledger, &tenant, "a", 1.0).unwrap(), ("2-a".to_owned(), false), "the newest of the same name");
    assert_eq!(rate(&ledger, &tenant, "1-a", -1.0).unwrap(), ("1-a".to_owned(), false));
    assert_eq!(rate(&ledger, &tenant, LAST, 0.5).unwrap(), ("3-b".to_owned(), false));
    assert_eq!(rate(&ledger, &tenant, "a", -0.5).unwrap(), ("2-a".to_owned(), true));
    let expected = [("decision of 1-a", -1.0), ("decision of 2-a", -0.5), ("decision of 3-b", 0.5)];
    let expected: Vec<(String, f64)> = expected.iter().map(|(d, r)| ((*d).to_owned(), *r)).collect();
    assert_eq!(ledger.ratings(10).unwrap(), expected);
    assert_eq!(ledger.ratings(2).unwrap(), expected[1..], "the newest");
    assert_eq!(ledger.forget_ratings().unwrap(), 3);
    assert!(ledger.ratings(10).unwrap().is_empty());
    assert!(!rate(&ledger, &tenant, "a", 1.0).unwrap().1, "and can be rated again");
}

#[test]
fn what_is_unknown_or_of_another_tenant_is_not_rated() {
    let (ledger, tenant) = (Ledger::in_memory().unwrap(), TenantId::local());
    let error = rate(&ledger, &tenant, LAST, 1.0).unwrap_err();
    assert!(matches!(error, LedgerError::UnknownRequest { .. }), "{error}");
    decide(&ledger, &tenant, "1-a", "a", 1);
    for request in ["a", "1-a", LAST] {
        let error = rate(&ledger, &TenantId("other".into()), request, 1.0).unwrap_err();
        assert!(matches!(error, LedgerError::UnknownRequest { .. }), "{error}");
    }
    assert!(ledger.ratings(10).unwrap().is_empty());
}

#[test]
fn ratings_survive_reopening_in_an_older_ledger_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    {
        // As a ledger from before ratings would be.
        drop(Ledger::open(&path).unwrap());
        let plain = rusqlite::Connection::open(&path).unwrap();
        plain.execute_batch("DROP TABLE feedback; DROP TABLE decisions;").unwrap();
    }
    let tenant = TenantId::local();
    {
        let ledger = Ledger::open(&path).unwrap();
        decide(&ledger, &tenant, "1-a", "a", 1);
        rate(&ledger, &tenant, "a", -1.0).unwrap();
    }
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.ratings(10).unwrap(), [("decision of 1-a".to_owned(), -1.0)]);
}
