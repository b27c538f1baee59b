//! Keys on disk: what is kept, what other processes see, and what never comes back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use edgewise_access::{
    AccessError, AccessStore, Action, AuditEvent, KeyState, Limits, NewKey, Refused, Scope, Scopes, tenant_name,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn new_key(tenant: &str) -> NewKey {
    NewKey {
        name: "a test".to_owned(),
        tenant: tenant_name(tenant).unwrap(),
        scopes: [Scope::Query, Scope::Ingest].into_iter().collect(),
        expires_at: None,
        limits: Limits { requests_per_minute: Some(60), ..Limits::default() },
    }
}

#[test]
fn a_key_works_until_it_is_revoked_and_the_secret_is_nowhere_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/access.sqlite");
    let store = AccessStore::open(&path, now()).unwrap();
    assert!(!store.has_keys() && !store.has_working_key(now()));
    let made = store.create(new_key("acme"), "tester", now()).unwrap();
    let found = store.verify(&made.key, later(1)).unwrap();
    assert_eq!((&found.id, &*found.tenant.0, found.limits.requests_per_minute), (&made.record.id, "acme", Some(60)));
    assert!(found.scopes.has(Scope::Query) && !found.scopes.has(Scope::Admin));
    assert!(!format!("{made:?}").contains(&made.key), "a key is not printed by accident");

    let secret = made.key.rsplit_once('_').unwrap().1;
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    store.revoke(&made.record.id, "tester", later(2)).unwrap();
    assert_eq!(store.verify(&made.key, later(3)), Err(Refused::Revoked(made.record.id.clone())));
    assert!(matches!(store.revoke(&made.record.id, "tester", later(4)), Err(AccessError::AlreadyRevoked { .. })));
    assert!(store.has_keys() && !store.has_working_key(later(3)), "a revoked key still locks the door");
    drop(store);
    let again = AccessStore::open(&path, later(5)).unwrap();
    assert_eq!(again.list()[0].state(later(5)), KeyState::Revoked);
    assert!(again.has_keys());
}

#[test]
fn what_another_process_does_is_seen_at_the_next_refresh() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.sqlite");
    let (server, command) = (AccessStore::open(&path, now()).unwrap(), AccessStore::open(&path, now()).unwrap());
    assert!(!server.refresh(now()).unwrap().keys);
    let made = command.create(new_key("local"), "cli", now()).unwrap();
    assert_eq!(server.verify(&made.key, now()), Err(Refused::Unknown));
    assert!(server.refresh(now()).unwrap().keys);
    server.verify(&made.key, now()).unwrap();
    assert!(!server.refresh(now()).unwrap().keys);
    command.revoke(&made.record.id, "cli", later(1)).unwrap();
    assert!(server.refresh(later(1)).unwrap().keys);
    assert_eq!(server.verify(&made.key, later(2)), Err(Refused::Revoked(made.record.id)));
}

#[test]
fn time_ends_keys_and_sessions() {
    let store = AccessStore::in_memory(now()).unwrap();
    let made = store.create(NewKey { expires_at: Some(later(60)), ..new_key("local") }, "tester", now()).unwrap();
    let token = store.sign_in(&made.record.id, &made.record.tenant, "tester", now()).unwrap();
    store.verify_session(&token, later(59)).unwrap();
    assert!(store.refresh(later(1)).unwrap().keys);
    assert!(!store.refresh(later(59)).unwrap().keys);
    assert!(store.refresh(later(61)).unwrap().keys, "whoever waits for a key's end hears of it");
    assert!(!store.works(&made.record.id, later(61)));
    assert_eq!(store.verify(&made.key, later(60)), Err(Refused::Expired(made.record.id.clone())));
    assert_eq!(store.verify_session(&token, later(60)), Err(Refused::Expired(made.record.id)));

    let lasting = store.create(new_key("local"), "tester", now()).unwrap();
    let token = store.sign_in(&lasting.record.id, &lasting.record.tenant, "tester", now()).unwrap();
    store.verify_session(&token, later(12 * 3600 - 1)).unwrap();
    assert!(store.verify_session(&token, later(12 * 3600)).is_err());
    let other = store.sign_in(&lasting.record.id, &lasting.record.tenant, "tester", now()).unwrap();
    assert!(store.sign_out(&other, "tester", now()).unwrap());
    assert!(!store.sign_out(&other, "tester", now()).unwrap());
    assert_eq!(store.verify_session(&other, now()), Err(Refused::Unknown));
    let third = store.sign_in(&lasting.record.id, &lasting.record.tenant, "tester", now()).unwrap();
    store.revoke(&lasting.record.id, "tester", now()).unwrap();
    assert!(store.verify_session(&third, now()).is_err(), "a session ends with its key");
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let store = AccessStore::in_memory(now()).unwrap();
    let zero = Limits { concurrent_requests: Some(0), ..Limits::default() };
    for (bad, says) in [
        (NewKey { scopes: Scopes::default(), ..new_key("a") }, "without a scope"),
        (NewKey { expires_at: Some(now()), ..new_key("a") }, "expired already"),
        (NewKey { limits: zero, ..new_key("a") }, "limit of 0"),
        (NewKey { name: "x".repeat(101), ..new_key("a") }, "100 characters"),
        (NewKey { tenant: edgewise_types::TenantId("../x".into()), ..new_key("a") }, "name of a tenant"),
    ] {
        let error = store.create(bad, "tester", now()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(!store.has_keys());
}

#[test]
fn tokens_of_the_day_survive_a_restart_and_end_with_the_day() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.sqlite");
    let store = AccessStore::open(&path, now()).unwrap();
    let key = store.create(new_key("local"), "tester", now()).unwrap().record.id;
    store.used_tokens(&key, 700, now());
    store.refresh(now()).unwrap();
    store.used_tokens(&key, 50, now());
    assert_eq!(store.tokens_today(&key, now()), 750);
    store.refresh(now()).unwrap();
    store.refresh(now()).unwrap();
    drop(store);
    let store = AccessStore::open(&path, later(60)).unwrap();
    assert_eq!(store.tokens_today(&key, later(60)), 750);
    assert_eq!(store.tokens_today(&key, later(24 * 3600)), 0);
}

#[test]
fn the_log_says_who_did_what_and_never_a_secret() {
    let store = AccessStore::in_memory(now()).unwrap();
    let made = store.create(new_key("acme"), "cli:ann", now()).unwrap();
    let refused = AuditEvent {
        actor: "192.0.2.7".to_owned(),
        action: Action::Refused,
        key: None,
        tenant: None,
        detail: serde_json::json!({"reason": "unknown"}),
    };
    store.audit(later(1), &refused, 12).unwrap();
    store.revoke(&made.record.id, "cli:bob", later(2)).unwrap();
    let log = store.audit_log(10).unwrap();
    let found: Vec<_> = log.iter().map(|entry| (entry.action, entry.actor.as_str(), entry.count)).collect();
    assert_eq!(
        found,
        [(Action::KeyRevoked, "cli:bob", 1), (Action::Refused, "192.0.2.7", 12), (Action::KeyCreated, "cli:ann", 1)]
    );
    assert_eq!(log[2].key.as_ref(), Some(&made.record.id));
    assert!(!serde_json::to_string(&log).unwrap().contains(made.key.rsplit_once('_').unwrap().1));
    assert_eq!(store.audit_log(1).unwrap().len(), 1);
}

#[test]
fn published_texts_are_replaced_withdrawn_and_noticed() {
    let store = AccessStore::in_memory(now()).unwrap();
    assert!(store.publish("../x", "text", "tester", now()).is_err());
    assert!(store.publish("rules", "  ", "tester", now()).is_err());
    store.publish("rules", "Be kind.", "tester", now()).unwrap();
    assert!(store.refresh(now()).unwrap().published);
    let fleeting = store.create(new_key("local"), "tester", now()).unwrap();
    store.revoke(&fleeting.record.id, "tester", now()).unwrap();
    assert!(store.refresh(now()).unwrap().keys, "a key that came and went since is a change");
    assert!(!store.refresh(now()).unwrap().published);
    store.publish("rules", "Be brief.", "tester", later(1)).unwrap();
    assert_eq!(store.published()[0].text, "Be brief.");
    assert!(matches!(store.withdraw("none", "tester", now()), Err(AccessError::UnknownPrefix { .. })));
    store.withdraw("rules", "tester", later(2)).unwrap();
    assert!(store.published().is_empty() && store.refresh(now()).unwrap().published);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No text but the key itself is admitted: not a part of it, not with a letter changed, not with the parts of two.
    #[test]
    fn only_the_whole_key_is_admitted(position in 0usize..60, letter in "[A-Za-z0-9_]", noise in ".{0,100}") {
        let store = AccessStore::in_memory(now()).unwrap();
        let (a, b) = (store.create(new_key("a"), "t", now()).unwrap(), store.create(new_key("b"), "t", now()).unwrap());
        let mut changed = a.key.clone();
        changed.replace_range(position..=position, &letter);
        let crossed = format!("{}_{}", a.record.id, b.key.rsplit_once('_').unwrap().1);
        for presented in [changed.as_str(), &a.key[..position], crossed.as_str(), noise.as_str()] {
            if presented != a.key {
                prop_assert!(matches!(store.verify(presented, now()), Err(Refused::Unknown | Refused::Malformed)));
            }
        }
        prop_assert_eq!(&*store.verify(&a.key, now()).unwrap().tenant.0, "a");
    }
}
