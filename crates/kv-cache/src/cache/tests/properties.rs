//! Random operation sequences.

use proptest::prelude::*;

use super::{
    simulation::{Live, Simulation},
    *,
};
use crate::{Boundary, PrefixId, Ttl};

#[derive(Debug, Clone)]
enum Operation {
    Open {
        tenant: usize,
        prompt: Vec<u32>,
        public: usize,
        boundaries: Vec<Boundary>,
    },
    /// A forward pass over so many tokens of the prompt, or generated ones behind it.
    Step(usize, usize),
    Reserve(usize, usize),
    Refresh(usize),
    Fork(usize),
    Close(usize, bool),
    Preempt(usize),
    /// Everything but one sequence is preempted; then it gets the whole pool.
    Alone(usize),
    Wait(u64),
    Release(u64),
    Transfer(u64),
}

/// Prompts of a few pieces each, so that many begin alike.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec((0..3u32, prop::sample::select(vec![1, 2, 3, 4, 5, 8, 13])), 1..5).prop_map(|pieces| {
        pieces.into_iter().flat_map(|(kind, length)| (0..length).map(move |i| kind * 100 + i)).collect()
    })
}

fn open() -> impl Strategy<Value = Operation> {
    let boundary = (0..40usize, any::<bool>())
        .prop_map(|(at, hour)| Boundary { at, ttl: if hour { Ttl::OneHour } else { Ttl::FiveMinutes } });
    (0..3usize, prompt(), prop::sample::select(vec![0, 0, 3, 4, 8, 50]), prop::collection::vec(boundary, 0..3))
        .prop_map(|(tenant, prompt, public, boundaries)| Operation::Open { tenant, prompt, public, boundaries })
}

fn operation() -> impl Strategy<Value = Operation> {
    let any_sequence = 0..8usize;
    prop_oneof![
        4 => open(),
        8 => (any_sequence.clone(), 1..14usize).prop_map(|(i, n)| Operation::Step(i, n)),
        1 => (any_sequence.clone(), 1..14usize).prop_map(|(i, n)| Operation::Reserve(i, n)),
        1 => any_sequence.clone().prop_map(Operation::Refresh),
        1 => any_sequence.clone().prop_map(Operation::Fork),
        3 => (any_sequence.clone(), prop::bool::weighted(0.8)).prop_map(|(i, keep)| Operation::Close(i, keep)),
        1 => any_sequence.clone().prop_map(Operation::Preempt),
        1 => any_sequence.prop_map(Operation::Alone),
        2 => (1..2000u64).prop_map(Operation::Wait),
        1 => (1..12u64).prop_map(Operation::Release),
        1 => (1..12u64).prop_map(Operation::Transfer),
    ]
}

/// Runs operations and checks everything after each; `watch` sees every prompt just before it is opened and may check
/// what the cache makes of it.
fn run(options: CacheOptions, operations: Vec<Operation>, mut history: Option<History>) -> Simulation {
    let pages = options.pages;
    let mut simulation = Simulation::new(options.clone());
    let mut live: Vec<Live> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Open { tenant, prompt, public, boundaries } => {
                let opened = simulation.open(tenant, &prompt, public, &boundaries);
                if let Some(history) = &mut history {
                    assert_eq!(opened.resident, history.resident(&opened, &live));
                }
                live.push(opened);
            }
            Operation::Step(i, count) if i < live.len() => {
                let tokens = simulation.next(&live[i], count);
                let alone = live.iter().enumerate().all(|(j, other)| i == j || other.sequence.pages().is_empty());
                let before = simulation.cache.stats().evictions.within_budget;
                if let Err(error) = simulation.step(&mut live[i], &tokens) {
                    let fits = (live[i].sequence.tokens() + count).div_ceil(PAGE) <= pages;
                    assert!(!alone || !fits, "a sequence that is alone was refused: {error}");
                }
                let forced = simulation.cache.stats().evictions.within_budget > before;
                assert!(!forced || alone, "a page within budget was evicted for a sequence that isn't alone");
            }
            Operation::Reserve(i, count) if i < live.len() => {
                if let Ok(moves) = simulation.cache.reserve(&mut live[i].sequence, count, simulation.now) {
                    simulation.execute(moves);
                }
            }
            Operation::Refresh(i) if i < live.len() => {
                simulation.refresh(&mut live[i]);
            }
            Operation::Fork(i) if i < live.len() && live.len() < 8 => {
                let fork = simulation.fork(&live[i]);
                live.push(fork);
            }
            Operation::Close(i, keep) if i < live.len() => {
                let closed = live.swap_remove(i);
                if let Some(history) = &mut history {
                    history.closed(&closed, keep);
                }
                simulation.close(closed, keep);
            }
            Operation::Preempt(i) if i < live.len() => {
                let closed = live.swap_remove(i);
                if let Some(history) = &mut history {
                    history.closed(&closed, false);
                }
                simulation.cache.preempt(closed.sequence, simulation.now);
            }
            Operation::Alone(i) if i < live.len() && history.is_none() => {
                let mut only = live.swap_remove(i);
                live.drain(..).for_each(|other| simulation.cache.preempt(other.sequence, simulation.now));
                let room = pages * PAGE - only.sequence.tokens();
                let tokens = simulation.next(&only, room);
                simulation.step(&mut only, &tokens).expect("a sequence that is alone gets the whole pool");
                live.push(only);
            }
            Operation::Wait(seconds) => {
                simulation.now += Duration::from_secs(seconds);
                simulation.cache.expire(simulation.now);
            }
            Operation::Release(id) => {
                let known = simulation.cache.prefixes(simulation.now).iter().any(|info| info.id == PrefixId(id));
                assert_eq!(simulation.cache.release(PrefixId(id)), known);
            }
            Operation::Transfer(id) => transfer(&mut simulation, PrefixId(id), &options),
            _ => {}
        }
        simulation.cache.audit(&live.iter().map(|live| &live.sequence).collect::<Vec<_>>());
        live.iter().for_each(|live| simulation.check(live));
    }
    let mut left: Vec<Live> = std::mem::take(&mut live);
    left.drain(..).for_each(|live| simulation.close(live, true));
    simulation.cache.audit(&[]);
    assert_eq!(simulation.cache.stats().used, 0);
    simulation
}

/// A prefix that is put into an empty cache is found there as it was found here.
fn transfer(simulation: &mut Simulation, id: PrefixId, options: &CacheOptions) {
    let Some(info) = simulation.cache.prefixes(simulation.now).into_iter().find(|info| info.id == id) else { return };
    let Some(export) = simulation.cache.export(id, simulation.now) else { return };
    simulation.execute(export.moves);
    let mut other = Simulation::new(CacheOptions { pages: 64, ..options.clone() });
    let imported = simulation.transfer(id, &mut other).expect("an empty cache has room");
    let restored = other.cache.prefixes(other.now);
    assert_eq!((restored.len(), restored[0].id), (1, imported));
    assert_eq!((restored[0].digest, restored[0].tokens, restored[0].left), (info.digest, info.tokens, info.left));
    other.cache.audit(&[]);
    let tenant = simulation::TENANTS.iter().position(|name| tenant(name) == info.tenant).unwrap();
    let mut prompt = export.record.tokens;
    let length = prompt.len();
    prompt.push(7777);
    let found = other.open(tenant, &prompt, export.record.public_tokens, &[]);
    assert_eq!(found.resident, length);
    other.close(found, false);
}

/// Who wrote what, as a list.
#[derive(Default)]
struct History(Vec<(usize, usize, Vec<u32>)>);

impl History {
    fn closed(&mut self, live: &Live, keep: bool) {
        self.0.push((live.tenant, live.public_pages, published(live, keep)));
    }

    /// With nothing ever evicted, exactly the longest beginning that anybody wrote whom the tenant may see.
    fn resident(&self, opened: &Live, live: &[Live]) -> usize {
        let open = live.iter().map(|live| (live.tenant, live.public_pages, published(live, false)));
        let reusable = &opened.prompt[..opened.prompt.len() - 1];
        let resident = self.0.iter().cloned().chain(open).map(|(tenant, public_pages, tokens)| {
            let all = (tenant, public_pages) == (opened.tenant, opened.public_pages);
            let visible = if all { usize::MAX } else { public_pages.min(opened.public_pages) * PAGE };
            reusable.iter().zip(&tokens).take(visible).take_while(|(a, b)| a == b).count()
        });
        resident.max().unwrap_or(0)
    }
}

fn published(live: &Live, keep: bool) -> Vec<u32> {
    let tokens = live.sequence.token_ids();
    let end = if keep && tokens.len() / PAGE >= live.public_pages { tokens.len() } else { tokens.len() / PAGE * PAGE };
    tokens[..end].to_vec()
}

proptest! {
    /// A pool that is always too small, with and without host tier, budgets and a minimum.
    #[test]
    fn everything_holds_under_pressure(
        operations in prop::collection::vec(operation(), 1..70),
        pages in 6..20usize,
        host in prop::sample::select(vec![0, 3, 9]),
        budget in prop::sample::select(vec![0, 2, 5]),
        min_prefix_tokens in prop::sample::select(vec![0, 0, 9]),
    ) {
        let public = budget / 4;
        let reserved = Reserved { public, default: 1, limit: (2 * budget).min(pages - 1) + public, ..reserved(budget, 0) };
        prop_assume!(reserved.limit <= pages && reserved.promised() <= reserved.limit);
        run(CacheOptions { reserved, min_prefix_tokens, ..options(pages, host) }, operations, None);
    }

    /// A pool that is never full finds exactly what a list of everything ever written finds.
    #[test]
    fn everything_written_is_found(operations in prop::collection::vec(operation(), 1..40)) {
        let simulation = run(options(1000, 0), operations, Some(History::default()));
        prop_assert_eq!(simulation.cache.stats().evictions, crate::Evictions::default());
    }
}
