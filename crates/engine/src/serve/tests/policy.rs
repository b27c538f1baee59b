//! What the scheduler promises, step by step.

use edgewise_kv_cache::{Boundary, Ttl};
use edgewise_types::TenantId;
use proptest::prelude::*;

use super::{
    scripted::PAGE,
    simulation::{Setup, Simulation, spec},
};
use crate::serve::{scheduler::Budget, task::Spec};

fn prompt(first: u32, tokens: usize) -> Vec<u32> {
    (0..tokens as u32).map(|i| 3 + (first + i) % 90).collect()
}

#[test]
fn decodes_come_first_and_prompts_get_what_is_left() {
    let mut engine = Simulation::new(Setup::default());
    let first = engine.push("a", &prompt(0, 10), 5);
    let second = engine.push("a", &prompt(50, 40), 5);
    let step = engine.step();
    let sizes =
        |step: &crate::serve::scheduler::Step| step.entries.iter().map(|e| (e.task, e.tokens)).collect::<Vec<_>>();
    assert_eq!(sizes(&step), [(first, 10), (second, 6)]);
    assert_eq!(sizes(&engine.step()), [(first, 1), (second, 8)]);
    engine.run();
    assert_eq!(engine.finished, [first, second]);
}

/// Eight identical cold prompts are prefilled once; what each computes for itself is less than a page and its output.
#[test]
fn identical_cold_prompts_are_prefilled_once() {
    let mut engine = Simulation::new(Setup::default());
    let prompt = prompt(0, 41);
    for _ in 0..8 {
        engine.push("a", &prompt, 3);
    }
    engine.run();
    let own = 8 * (PAGE + 3);
    assert!(engine.computed <= prompt.len() + own, "{} computed", engine.computed);

    // Other tenants don't see it, but they don't wait for it either, and each prefills once.
    let mut engine = Simulation::new(Setup::default());
    for tenant in ["a", "b"] {
        for _ in 0..4 {
            engine.push(tenant, &prompt, 3);
        }
    }
    engine.run();
    assert!(engine.computed >= 2 * prompt.len(), "tenants share nothing");
    assert!(engine.computed <= 2 * prompt.len() + own, "{} computed", engine.computed);
}

#[test]
fn public_prefixes_are_prefilled_once_for_all_tenants() {
    let mut engine = Simulation::new(Setup::default());
    let prompt = prompt(0, 41);
    for tenant in ["a", "b", "c"] {
        engine.push_spec(Spec { public_tokens: 40, ..spec(tenant, &prompt) }, 1);
    }
    engine.run();
    assert!(engine.computed < prompt.len() + 3 * PAGE, "{} computed", engine.computed);
}

#[test]
fn followers_take_over_from_a_leader_that_leaves() {
    let mut engine = Simulation::new(Setup::default());
    let prompt = prompt(0, 60);
    let leader = engine.push("a", &prompt, 3);
    let followers: Vec<_> = (0..3).map(|_| engine.push("a", &prompt, 3)).collect();
    engine.step();
    engine.step();
    engine.cancel(leader);
    engine.run();
    assert_eq!(engine.finished, followers);
    assert!(engine.computed <= prompt.len() + 4 * (PAGE + 3), "{} computed", engine.computed);
}

#[test]
fn a_cancelled_task_holds_nothing() {
    let mut engine = Simulation::new(Setup::default());
    let during_prefill = engine.push("a", &prompt(0, 60), 3);
    let during_decode = engine.push("b", &prompt(30, 4), 50);
    for _ in 0..3 {
        engine.step();
    }
    assert!(engine.cache.stats().used > 0);
    engine.cancel(during_prefill);
    engine.cancel(during_decode);
    assert_eq!(engine.cache.stats().used, 0);
    assert!(engine.scheduler.is_empty());
}

/// One tenant floods the engine with long prompts. Another's short prompt waits for no more than the step that runs, and
/// as long as both have work, neither is served more than a step's work beyond the other.
#[test]
fn a_flood_starves_nobody() {
    let mut engine = Simulation::new(Setup { pages: 200, ..Setup::default() });
    for i in 0..40 {
        engine.push("flood", &prompt(i, 60), 2);
    }
    for _ in 0..20 {
        engine.step();
    }
    let short = engine.push("other", &prompt(70, 12), 1);
    let before = engine.steps;
    while !engine.finished.contains(&short) {
        engine.step();
    }
    // 12 tokens, 8 a step beside decodes, and no more than every other turn is the flood's.
    assert!(engine.steps - before <= 4, "{} steps", engine.steps - before);

    for i in 0..20 {
        engine.push("other", &prompt(i + 45, 60), 2);
    }
    let served = |engine: &Simulation, tenant: &str| engine.scheduler.served(&TenantId(tenant.into()));
    let waits = |engine: &Simulation, tenant: &str| engine.scheduler.waiting_of(&TenantId(tenant.into())) > 0;
    while waits(&engine, "flood") && waits(&engine, "other") {
        let (a, b) = (served(&engine, "flood"), served(&engine, "other"));
        // A step's prompt tokens, and its decodes, which are nobody's choice: two for each of at most 16 sequences.
        assert!(a.abs_diff(b) <= 16 + 2 * 16, "{a} and {b}");
        engine.step();
    }
    engine.run();
}

/// Sequences that outgrow the pool together: the older ones finish first, the younger ones are computed again.
#[test]
fn preemption_gets_everybody_to_the_end() {
    let mut engine = Simulation::new(Setup { pages: 10, ..Setup::default() });
    let tasks: Vec<_> = (0..4).map(|i| engine.push("a", &prompt(20 * i, 6), 30)).collect();
    engine.run();
    assert!(engine.preempted > 0, "the test does not test anything");
    assert_eq!(engine.finished.first(), tasks.first(), "the oldest is never preempted");
    assert_eq!(engine.finished.len(), 4);
    assert!(engine.preempted <= 12, "{} preemptions of 4 tasks", engine.preempted);
}

#[test]
fn samples_share_the_pages_of_their_prompt() {
    let mut engine = Simulation::new(Setup::default());
    let prompt = prompt(0, 42);
    engine.push_spec(Spec { samples: 5, ..spec("a", &prompt) }, 4);
    while engine.scheduler.counts().0 < 5 {
        engine.step();
    }
    engine.step();
    // Ten whole pages together, and for each sample the one they diverge in.
    assert!(engine.cache.stats().used <= 10 + 5, "{} pages", engine.cache.stats().used);
    engine.run();
    assert_eq!(engine.finished.len(), 5);
    assert!(engine.computed <= prompt.len() + 5 * 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever comes in whatever order, with however little memory: every output is the one it would be alone, pages add
    /// up after each step, every cancelled or finished task has given back all it held, and all come to an end.
    #[test]
    fn outputs_never_depend_on_what_else_runs(
        pages in 10_usize..40, host_pages in 0_usize..12, max_sequences in 2_usize..8,
        alone in 1_usize..20, beside in 1_usize..20, min_prefix in 1_usize..12,
        requests in prop::collection::vec(
            // Tenant, length of a common beginning, own tokens, output, samples, steps before the next, boundary, when to cancel.
            (0_usize..3, 0_usize..16, 1_usize..12, 1_usize..12, 1_usize..3, 0_usize..6, 0_usize..20, prop::option::weighted(0.2, 0_usize..8)),
            1..30,
        ),
    ) {
        let budget = Budget { alone, beside_decodes: beside.min(alone) };
        let mut engine = Simulation::new(Setup { pages, host_pages, max_sequences, budget, min_prefix });
        let mut cancels = Vec::new();
        for (i, (tenant, common, own, output, samples, steps, boundary, cancel)) in requests.into_iter().enumerate() {
            let mut tokens = prompt(0, common);
            tokens.extend(prompt(7 * (i as u32 % 5) + 40, own));
            let boundaries = vec![Boundary { at: boundary.min(tokens.len()), ttl: Ttl::FiveMinutes }];
            let tenant = ["a", "b", "c"][tenant];
            let public_tokens = if i % 3 == 0 { common } else { 0 };
            let samples = if cancel.is_some() { 1 } else { samples };
            let id = engine.push_spec(Spec { boundaries, public_tokens, samples, ..spec(tenant, &tokens) }, output);
            cancels.extend(cancel.map(|after| (engine.steps + after, id)));
            for _ in 0..steps {
                if !engine.scheduler.is_empty() {
                    engine.step();
                }
                let steps = engine.steps;
                for (_, id) in cancels.extract_if(.., |(at, _)| *at <= steps) {
                    engine.cancel(id);
                }
            }
        }
        engine.run();
    }
}
