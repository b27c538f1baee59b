#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn tenant(name: &str) -> TenantId {
    TenantId(name.into())
}

fn finished<'a>(name: &str, tokens: &[u32], boundaries: &'a [Boundary]) -> Finished<'a> {
    Finished { tenant: tenant(name), tokens: tokens.to_vec(), bytes: tokens.len(), boundaries, inherited: Vec::new() }
}

fn boundary(at: usize, retention: Retention) -> Boundary {
    Boundary { at, retention }
}

#[test]
fn the_last_token_of_a_prompt_is_never_resident() {
    let now = Instant::now();
    let mut slots = PrefixSlots::new(4, 100);
    slots.keep(finished("a", &[1, 2, 3, 4], &[]), now);
    assert_eq!(slots.resident(&tenant("a"), &[1, 2, 3], now), 2);
    assert_eq!(slots.resident(&tenant("a"), &[1, 2, 3, 4, 5], now), 4);
    assert_eq!(slots.resident(&tenant("a"), &[1], now), 0);
    assert_eq!(slots.resident(&tenant("a"), &[], now), 0);
}

#[test]
fn tenants_do_not_find_each_others_prefixes() {
    let now = Instant::now();
    let mut slots = PrefixSlots::new(4, 100);
    slots.keep(finished("a", &[1, 2, 3], &[]), now);
    assert_eq!(slots.resident(&tenant("b"), &[1, 2, 3, 4], now), 0);
    assert_eq!(slots.reuse(&tenant("b"), &[1, 2, 3, 4], now), Reuse::Nothing);
}

#[test]
fn another_question_takes_over_and_another_conversation_gets_a_copy() {
    let now = Instant::now();
    let mut slots = PrefixSlots::new(4, 100);
    let documents: Vec<u32> = (0..20).chain([90, 91]).collect();
    let (id, _) = slots.keep(finished("a", &documents, &[]), now);
    // Shares two tokens only: taking over would lose the other twenty.
    let other = [0, 1, 50, 51];
    assert_eq!(slots.reuse(&tenant("a"), &other, now), Reuse::Copy { slot: id.unwrap(), tokens: 2 });
    let question: Vec<u32> = (0..20).chain([80, 81, 82]).collect();
    assert_eq!(slots.reuse(&tenant("a"), &question, now), Reuse::Take { slot: id.unwrap(), tokens: 20, marks: vec![] });
    assert_eq!(slots.bytes(), 0, "a slot taken over has left the table");
}

#[test]
fn what_was_asked_to_be_kept_is_copied_not_taken() {
    let now = Instant::now();
    let mut slots = PrefixSlots::new(4, 100);
    let tokens: Vec<u32> = (0..20).collect();
    let at_twenty = [boundary(20, Retention::FiveMinutes)];
    let (id, _) = slots.keep(finished("a", &tokens, &at_twenty), now);
    let shorter: Vec<u32> = (0..18).chain([99]).collect();
    assert_eq!(slots.reuse(&tenant("a"), &shorter, now), Reuse::Copy { slot: id.unwrap(), tokens: 18 });
    // After the boundary has expired it protects nothing, but nothing is resident either.
    assert_eq!(slots.reuse(&tenant("a"), &shorter, now + 6 * MINUTE), Reuse::Nothing);
}

#[test]
fn tokens_expire_mark_by_mark_and_a_use_renews_them() {
    let now = Instant::now();
    let mut slots = PrefixSlots::new(4, 100);
    let tokens: Vec<u32> = (0..10).collect();
    let boundaries = [boundary(4, Retention::OneHour), boundary(6, Retention::FiveMinutes)];
    let (id, _) = slots.keep(finished("a", &tokens, &boundaries), now);
    let id = id.unwrap();
    let prompt: Vec<u32> = (0..30).collect();
    let resident = |slots: &PrefixSlots, at| slots.resident(&tenant("a"), &prompt, at);
    assert_eq!(resident(&slots, now + 4 * MINUTE), 10);
    // A use of six tokens renews the marks at four and six, not the whole.
    let six = [0, 1, 2, 3, 4, 5, 77, 78, 79];
    assert_eq!(
        slots.reuse(&tenant("a"), &six, now + 4 * MINUTE),
        Reuse::Take {
            slot: id,
            tokens: 6,
            marks: vec![
                Mark { at: 4, time_to_live: 60 * MINUTE, expires: now + 60 * MINUTE, asked: true },
                Mark { at: 6, time_to_live: 5 * MINUTE, expires: now + 5 * MINUTE, asked: true },
            ]
        }
    );
    let (id, _) = slots.keep(finished("a", &tokens, &boundaries), now);
    let four = [0, 1, 2, 3, 77];
    assert_eq!(slots.reuse(&tenant("a"), &four, now + 4 * MINUTE), Reuse::Copy { slot: id.unwrap(), tokens: 4 });
    assert_eq!(resident(&slots, now + 6 * MINUTE), 4, "only the hour's mark is left");
    assert_eq!(slots.expire(now + 6 * MINUTE), [Change::Truncate(id.unwrap(), 4)]);
    assert_eq!(resident(&slots, now + 63 * MINUTE), 4, "renewed at four minutes");
    assert_eq!(slots.expire(now + 64 * MINUTE), [Change::Drop(id.unwrap())]);
    assert_eq!(slots.bytes(), 0);
}

#[test]
fn the_least_recently_used_goes_first_and_retained_slots_last() {
    let now = Instant::now();
    let mut slots = PrefixSlots::new(3, 100);
    let retained = slots.keep(finished("a", &[1, 1, 1], &[boundary(3, Retention::FiveMinutes)]), now).0.unwrap();
    let old = slots.keep(finished("a", &[2, 2, 2], &[]), now).0.unwrap();
    let new = slots.keep(finished("a", &[3, 3, 3], &[]), now).0.unwrap();
    assert_eq!(slots.keep(finished("a", &[4, 4, 4], &[]), now).1, [Change::Drop(old)]);
    let (_, changes) = slots.keep(finished("a", &[5; 97], &[]), now);
    assert_eq!(changes[0], Change::Drop(new));
    assert_eq!(slots.resident(&tenant("a"), &[1, 1, 1, 1], now), 3);
    // Retention is a preference within the budget, not a claim against it.
    assert_eq!(slots.keep(finished("a", &[6; 100], &[]), now).1.len(), 2);
    assert_eq!(slots.resident(&tenant("a"), &[1, 1, 1, 1], now), 0);
    let (refused, changes) = slots.keep(finished("a", &[7; 101], &[]), now);
    assert_eq!((refused, changes.len()), (None, 0), "what can't fit drives nothing out");
    let _ = retained;
}

#[derive(Debug, Clone)]
enum Step {
    Request { tenant: u8, tokens: Vec<u32>, boundaries: Vec<(usize, bool)> },
    Wait(u64),
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let request =
        (0..2_u8, prop::collection::vec(0..2_u32, 1..12), prop::collection::vec((0..12_usize, any::<bool>()), 0..3))
            .prop_map(|(tenant, tokens, boundaries)| Step::Request { tenant, tokens, boundaries });
    prop::collection::vec(
        prop_oneof![6 => request, 1 => (1..400_u64).prop_map(Step::Wait), 1 => Just(Step::Expire)],
        1..60,
    )
}

proptest! {
    /// Drives the table as the worker does, with token lists in place of keys and values, and checks every promise.
    #[test]
    fn reuse_is_always_a_true_prefix_within_tenant_and_budget(steps in steps()) {
        let mut now = Instant::now();
        let (max_slots, max_bytes) = (4, 30);
        let mut slots = PrefixSlots::new(max_slots, max_bytes);
        let mut states: HashMap<SlotId, (u8, Vec<u32>)> = HashMap::new();
        let apply = |changes: Vec<Change>, slots: &mut PrefixSlots, states: &mut HashMap<SlotId, (u8, Vec<u32>)>| {
            for change in changes {
                match change {
                    Change::Drop(id) => assert!(states.remove(&id).is_some()),
                    Change::Truncate(id, tokens) => {
                        let state = states.get_mut(&id).unwrap();
                        assert!(tokens < state.1.len());
                        state.1.truncate(tokens);
                        slots.set_bytes(id, tokens);
                    }
                }
            }
        };
        for step in steps {
            match step {
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Expire => {
                    let changes = slots.expire(now);
                    apply(changes, &mut slots, &mut states);
                }
                Step::Request { tenant: owner, tokens, boundaries } => {
                    let name = tenant(&owner.to_string());
                    let promised = slots.resident(&name, &tokens, now);
                    let (reused, inherited) = match slots.reuse(&name, &tokens, now) {
                        Reuse::Nothing => (0, Vec::new()),
                        Reuse::Copy { slot, tokens: n } => {
                            prop_assert_eq!(states[&slot].0, owner);
                            prop_assert_eq!(&states[&slot].1[..n], &tokens[..n]);
                            (n, Vec::new())
                        }
                        Reuse::Take { slot, tokens: n, marks } => {
                            let state = states.remove(&slot).unwrap();
                            prop_assert_eq!(state.0, owner);
                            prop_assert_eq!(&state.1[..n], &tokens[..n]);
                            (n, marks)
                        }
                    };
                    prop_assert_eq!(reused, promised);
                    prop_assert!(reused < tokens.len());
                    let boundaries: Vec<Boundary> = boundaries
                        .into_iter()
                        .filter(|(at, _)| *at <= tokens.len())
                        .map(|(at, hour)| boundary(at, if hour { Retention::OneHour } else { Retention::FiveMinutes }))
                        .collect();
                    let bytes = tokens.len();
                    let (id, changes) = slots.keep(
                        Finished { tenant: name.clone(), tokens: tokens.clone(), bytes, boundaries: &boundaries, inherited },
                        now,
                    );
                    apply(changes, &mut slots, &mut states);
                    states.insert(id.unwrap(), (owner, tokens.clone()));
                    let longer: Vec<u32> = tokens.iter().copied().chain([9]).collect();
                    prop_assert_eq!(slots.resident(&name, &longer, now), tokens.len(), "what was kept is found");
                }
            }
            prop_assert!(slots.bytes() <= max_bytes && slots.slots.len() <= max_slots);
            prop_assert_eq!(slots.slots.len(), states.len());
            prop_assert_eq!(slots.bytes(), states.values().map(|s| s.1.len()).sum::<usize>());
        }
    }
}
