//! One behaviour each.

use super::{simulation::Simulation, *};
use crate::{Boundary, Miss, MissReason, Move, OpenRequest, PrefixRecord, Ttl};

const FIVE_MINUTES: u64 = 300;
const HOUR: u64 = 3600;

fn five_minutes(at: usize) -> Boundary {
    Boundary { at, ttl: Ttl::FiveMinutes }
}

fn hour(at: usize) -> Boundary {
    Boundary { at, ttl: Ttl::OneHour }
}

/// `length` tokens that agree with those of another kind in none.
fn tokens(kind: u32, length: u32) -> Vec<u32> {
    (0..length).map(|i| kind * 1000 + i).collect()
}

fn followed_by(prefix: &[u32], kind: u32, length: u32) -> Vec<u32> {
    [prefix, &tokens(kind, length)].concat()
}

/// Uses every page of the pool that isn't retained within budget.
fn fill(simulation: &mut Simulation, kind: u32) {
    let stats = simulation.cache.stats();
    for i in 0..stats.total as u32 + 1 {
        simulation.request(2, &tokens(kind + i, PAGE as u32), &[]);
    }
}

#[test]
fn a_common_beginning_is_shared_and_the_rest_copied() {
    let mut simulation = Simulation::new(options(16, 0));
    simulation.request(0, &tokens(1, 10), &[]);
    // Two whole pages, then two of the four tokens of the third.
    let mut live = simulation.open(0, &followed_by(&tokens(1, 10), 2, 3), 0, &[]);
    assert_eq!((live.resident, simulation.moves), (10, 0));
    simulation.prefill(&mut live).unwrap();
    assert_eq!(simulation.moves, 1);
    // The last token of a prompt is never resident, not even of the same prompt.
    let same = simulation.open(0, &tokens(1, 8), 0, &[]);
    assert_eq!((same.resident, same.miss), (7, None));
    simulation.close(same, true);
    simulation.close(live, true);
    simulation.cache.audit(&[]);
}

#[test]
fn tenants_share_whole_public_pages_and_nothing_else() {
    let mut simulation = Simulation::new(options(64, 0));
    let system = tokens(1, 10);
    let prompt = followed_by(&system, 2, 20);
    let mut live = simulation.open(0, &prompt, 10, &[]);
    simulation.prefill(&mut live).unwrap();
    simulation.close(live, true);
    // The same prompt of another tenant: two whole pages of the ten public tokens.
    let other = simulation.open(1, &prompt, 10, &[]);
    assert_eq!(other.resident, 8);
    // Not all public: everything in it is the tenant's.
    let private = simulation.open(1, &prompt, 0, &[]);
    assert_eq!(private.resident, 0);
    // The operator learns that another tenant has what follows; this one is told what it would be told otherwise.
    assert_eq!(private.miss, Some(Miss::NeverWritten));
    assert_eq!(other.miss, Some(Miss::NeverWritten));
    let stats = simulation.cache.stats();
    assert_eq!(stats.missed(MissReason::OtherTenant).prompts, 1);
    // Twice: the first time, and by the tenant that asked for public pages as if they were private.
    assert_eq!(stats.missed(MissReason::NeverWritten).prompts, 2);
    let own = simulation.open(0, &prompt, 10, &[]);
    assert_eq!(own.resident, 29);
    [other, private, own].into_iter().for_each(|live| simulation.close(live, false));
}

#[test]
fn a_page_is_published_as_soon_as_it_is_complete() {
    let mut simulation = Simulation::new(options(32, 0));
    let prompt = tokens(1, 30);
    let mut first = simulation.open(0, &prompt, 0, &[]);
    let mut second = simulation.open(0, &prompt, 0, &[]);
    assert_eq!((second.resident, second.coming, second.miss), (0, 28, Some(Miss::InFlight)));
    let stranger = simulation.open(1, &prompt, 0, &[]);
    assert_eq!((stranger.coming, stranger.miss), (0, Some(Miss::NeverWritten)));
    simulation.step(&mut first, &prompt[..10]).unwrap();
    assert_eq!(simulation.refresh(&mut second), 8);
    assert_eq!(second.coming, 28);
    // The first never waits for the second.
    simulation.refresh(&mut first);
    assert_eq!(first.coming, 0);
    // The second gets ahead; what both computed is kept once.
    simulation.step(&mut second, &prompt[8..20]).unwrap();
    assert_eq!(simulation.refresh(&mut first), 20);
    assert_eq!(first.sequence.pages()[..5], second.sequence.pages()[..5]);
    simulation.close(first, false);
    simulation.refresh(&mut second);
    assert_eq!(second.coming, 0);
    simulation.close(second, true);
    simulation.close(stranger, true);
    assert_eq!(simulation.cache.stats().cached, 5);
    simulation.cache.audit(&[]);
}

#[test]
fn the_same_page_computed_twice_is_kept_once() {
    let mut simulation = Simulation::new(options(32, 0));
    let prompt = tokens(1, 9);
    let mut one = simulation.open(0, &prompt, 0, &[]);
    let mut two = simulation.open(0, &prompt, 0, &[]);
    simulation.prefill(&mut one).unwrap();
    simulation.prefill(&mut two).unwrap();
    assert_eq!(one.sequence.pages()[..2], two.sequence.pages()[..2]);
    assert_eq!(simulation.cache.stats().used, 4);
    simulation.cache.audit(&[&one.sequence, &two.sequence]);
    simulation.close(one, true);
    simulation.close(two, true);
    assert_eq!(simulation.cache.stats().cached, 3);
}

#[test]
fn a_fork_copies_the_last_page_when_it_is_written() {
    let mut simulation = Simulation::new(options(16, 0));
    let mut one = simulation.open(0, &tokens(1, 10), 0, &[]);
    simulation.prefill(&mut one).unwrap();
    let mut two = simulation.fork(&one);
    let mut three = simulation.fork(&one);
    assert_eq!(simulation.cache.stats().used, 3);
    simulation.step(&mut two, &[1]).unwrap();
    simulation.step(&mut one, &[2]).unwrap();
    assert_eq!((simulation.cache.stats().used, simulation.moves), (5, 2));
    // The last one has the page to itself.
    simulation.step(&mut three, &[3]).unwrap();
    assert_eq!((simulation.cache.stats().used, simulation.moves), (5, 2));
    simulation.step(&mut two, &[1, 1, 1]).unwrap();
    let forks = [one, two, three];
    forks.iter().for_each(|live| simulation.check(live));
    simulation.cache.audit(&forks.each_ref().map(|live| &live.sequence));
    forks.into_iter().for_each(|live| simulation.close(live, true));
    assert_eq!(simulation.request(0, &followed_by(&tokens(1, 10), 0, 5), &[]), 10);
}

#[test]
fn a_failed_sequence_leaves_only_what_was_published() {
    let mut simulation = Simulation::new(options(16, 0));
    let mut live = simulation.open(0, &tokens(1, 10), 0, &[hour(10)]);
    simulation.prefill(&mut live).unwrap();
    simulation.close(live, false);
    let stats = simulation.cache.stats();
    assert_eq!((stats.cached, stats.retained, stats.prefixes), (2, 0, 0));
    let live = simulation.open(0, &tokens(1, 10), 0, &[]);
    assert_eq!(live.resident, 8);
    simulation.close(live, false);
}

#[test]
fn retention_lasts_its_time_after_the_last_use() {
    for (boundary, time) in [(five_minutes(9), FIVE_MINUTES), (hour(9), HOUR)] {
        let mut simulation = Simulation::new(CacheOptions { reserved: reserved(3, 0), ..options(12, 0) });
        let prefix = tokens(1, 9);
        let ask = |kind| followed_by(&prefix, kind, 3);
        simulation.request(0, &ask(2), &[boundary]);
        for kind in 3..6 {
            // Just in time: the use gives it its full time again, with or without asking for it.
            simulation.now += seconds(time) - Duration::from_millis(1);
            fill(&mut simulation, kind * 100);
            let again = [boundary];
            assert_eq!(simulation.request(0, &ask(kind), &again[..kind as usize % 2]), 9);
            let infos = simulation.cache.prefixes(simulation.now);
            assert_eq!((infos.len(), infos[0].tokens, infos[0].left), (1, 9, seconds(time)));
            assert_eq!(infos[0].hits, u64::from(kind) - 2);
        }
        simulation.now += seconds(time);
        assert_eq!(simulation.cache.expire(simulation.now), 3);
        assert_eq!(simulation.cache.stats().retained, 0);
        // Still there while nobody needs the room.
        let live = simulation.open(0, &ask(7), 0, &[]);
        assert_eq!(live.resident, 9);
        simulation.close(live, false);
        simulation.now += seconds(1);
        fill(&mut simulation, 900);
        assert!(simulation.cache.prefixes(simulation.now).is_empty());
        simulation.cache.audit(&[]);
    }
}

#[test]
fn within_budget_nothing_is_evicted_and_beyond_it_the_least_used_first() {
    // Budget of three pages, five retained: two of them may go.
    let mut simulation = Simulation::new(CacheOptions { reserved: reserved(3, 0), ..options(12, 0) });
    simulation.request(0, &tokens(1, 8), &[hour(8)]);
    simulation.now += seconds(1);
    simulation.request(0, &tokens(2, 12), &[five_minutes(12)]);
    fill(&mut simulation, 100);
    let stats = simulation.cache.stats();
    // Nothing retained goes while there is anything else.
    assert_eq!((stats.retained, stats.evictions.over_budget, stats.evictions.within_budget), (5, 0, 0));
    let mut greedy = simulation.open(2, &tokens(9, 36), 0, &[]);
    simulation.prefill(&mut greedy).unwrap();
    let stats = simulation.cache.stats();
    assert_eq!((stats.retained, stats.evictions.over_budget, stats.evictions.within_budget), (3, 2, 0));
    // The lower priority went first, from its end: an hour is more than five minutes, used later or not.
    let infos = simulation.cache.prefixes(simulation.now);
    assert_eq!(infos.iter().map(|info| (info.tokens, info.pages)).collect::<Vec<_>>(), [(8, 2), (12, 1)]);
    // A second sequence gets nothing: what is left is within budget or in use.
    let mut second = simulation.open(1, &tokens(10, 4), 0, &[]);
    assert!(simulation.prefill(&mut second).is_err());
    simulation.close(greedy, false);
    simulation.prefill(&mut second).unwrap();
    simulation.close(second, false);
    // Alone, a sequence gets what it needs.
    let mut all = simulation.open(2, &tokens(11, 12 * PAGE as u32), 0, &[]);
    simulation.prefill(&mut all).unwrap();
    let stats = simulation.cache.stats();
    assert_eq!((stats.used, stats.retained, stats.prefixes, stats.evictions.within_budget), (12, 0, 0, 3));
    simulation.close(all, false);
    simulation.cache.audit(&[]);
}

#[test]
fn public_pages_stay_as_long_as_private_ones_behind_them() {
    // The public has no budget, the tenant has one for its own page behind two public ones.
    let mut simulation = Simulation::new(CacheOptions { reserved: reserved(1, 0), ..options(6, 6) });
    let mut live = simulation.open(0, &tokens(1, 12), 8, &[hour(12)]);
    simulation.prefill(&mut live).unwrap();
    simulation.close(live, true);
    let mut holder = simulation.open(1, &tokens(2, 4), 0, &[]);
    simulation.prefill(&mut holder).unwrap();
    let mut greedy = simulation.open(2, &tokens(3, 12), 0, &[]);
    assert!(simulation.prefill(&mut greedy).is_err());
    let stats = simulation.cache.stats();
    assert_eq!((stats.retained, stats.host_used, stats.evictions.over_budget), (3, 0, 0));
    simulation.cache.audit(&[&holder.sequence, &greedy.sequence]);
    // Once the private page is gone, they are what they are: beyond a budget.
    assert!(simulation.cache.release(simulation.cache.prefixes(simulation.now)[0].id));
    simulation.prefill(&mut greedy).unwrap();
    simulation.close(greedy, true);
    simulation.close(holder, true);
}

#[test]
fn a_request_that_fits_the_pool_needs_no_page_for_the_copy() {
    let mut simulation = Simulation::new(options(4, 0));
    simulation.request(0, &tokens(1, 14), &[hour(14)]);
    // It shares three pages and a half with what is there and fills the whole pool.
    let mut live = simulation.open(0, &followed_by(&tokens(1, 14), 2, 2), 0, &[]);
    assert_eq!(live.resident, 14);
    simulation.prefill(&mut live).unwrap();
    assert_eq!(simulation.moves, 0);
    assert!(simulation.step(&mut live, &[1]).is_err());
    simulation.close(live, true);
    simulation.cache.audit(&[]);
}

#[test]
fn a_shortened_prefix_grows_again() {
    let mut simulation = Simulation::new(CacheOptions { reserved: reserved(1, 0), ..options(6, 0) });
    simulation.request(0, &tokens(1, 16), &[hour(16)]);
    let mut other = simulation.open(1, &tokens(2, 16), 0, &[]);
    simulation.prefill(&mut other).unwrap();
    simulation.close(other, false);
    let infos = simulation.cache.prefixes(simulation.now);
    assert_eq!((infos[0].tokens, infos[0].pages), (16, 2));
    assert_eq!(simulation.cache.export(infos[0].id, simulation.now), None);
    // Another use of what is left keeps it, and computing the rest again completes it.
    simulation.now += seconds(HOUR - 1);
    simulation.request(0, &tokens(1, 16), &[hour(16)]);
    let again = simulation.cache.prefixes(simulation.now);
    assert_eq!((again.len(), again[0].id, again[0].pages), (1, infos[0].id, 4));
    assert_eq!((again[0].left, again[0].hits), (seconds(HOUR), 1));
    simulation.cache.audit(&[]);
}

#[test]
fn questions_behind_a_boundary_do_not_pile_up() {
    let mut simulation = Simulation::new(options(64, 0));
    let prefix = tokens(1, 10);
    for kind in 2..20 {
        simulation.now += seconds(1);
        simulation.request(0, &followed_by(&prefix, kind, 5), &[hour(10)]);
    }
    let stats = simulation.cache.stats();
    // One page holds the end of the prefix, whatever else is in it.
    assert_eq!((stats.prefixes, stats.retained), (1, 3));
    let info = &simulation.cache.prefixes(simulation.now)[0];
    assert_eq!((info.hits, info.left), (17, seconds(HOUR)));
    simulation.cache.audit(&[]);
}

#[test]
fn every_miss_has_its_reason() {
    let mut simulation =
        Simulation::new(CacheOptions { min_prefix_tokens: 6, reserved: reserved(4, 0), ..options(12, 0) });
    let miss = |simulation: &mut Simulation, prompt: &[u32], boundaries: &[Boundary]| {
        let live = simulation.open(0, prompt, 0, boundaries);
        let miss = live.miss;
        simulation.close(live, false);
        miss
    };
    let prefix = tokens(1, 10);
    assert_eq!(miss(&mut simulation, &tokens(1, 5), &[]), Some(Miss::BelowMinimum));
    assert_eq!(miss(&mut simulation, &prefix, &[]), Some(Miss::NeverWritten));
    simulation.request(0, &followed_by(&prefix, 2, 6), &[five_minutes(10)]);
    // Everything up to the boundary is there; what follows isn't stable, so it isn't missed.
    assert_eq!(miss(&mut simulation, &followed_by(&prefix, 3, 6), &[hour(10)]), None);
    assert_eq!(miss(&mut simulation, &tokens(1, 9), &[hour(9)]), None);
    let diverged = |token, segment| Some(Miss::DivergedAt { token, segment });
    assert_eq!(miss(&mut simulation, &followed_by(&prefix, 3, 6), &[hour(5), hour(10), hour(14)]), diverged(10, 2));
    assert_eq!(miss(&mut simulation, &followed_by(&prefix[..8], 3, 6), &[hour(10)]), diverged(8, 0));
    assert_eq!(miss(&mut simulation, &followed_by(&prefix[..3], 3, 6), &[]), diverged(3, 0));
    assert_eq!(miss(&mut simulation, &tokens(7, 10), &[]), Some(Miss::NeverWritten));
    // Beyond the end of what was written nothing differs.
    let longer = [followed_by(&prefix, 2, 6), tokens(3, 4)].concat();
    assert_eq!(miss(&mut simulation, &longer, &[]), Some(Miss::NeverWritten));
    // What follows the boundary was evicted, the prefix stays.
    let fill = |simulation: &mut Simulation, kind| {
        (0..8u32).for_each(|i| _ = simulation.request(2, &tokens(kind + i, 8), &[]));
    };
    fill(&mut simulation, 100);
    let written = followed_by(&prefix, 2, 6);
    assert_eq!(miss(&mut simulation, &written, &[]), Some(Miss::Evicted));
    assert_eq!(miss(&mut simulation, &written, &[hour(10)]), None);
    simulation.now += seconds(FIVE_MINUTES);
    simulation.cache.expire(simulation.now);
    fill(&mut simulation, 200);
    assert_eq!(miss(&mut simulation, &written, &[hour(10)]), Some(Miss::Expired));
    // Another question, so that no whole page was ever the same: the prefix is remembered by its end.
    assert_eq!(miss(&mut simulation, &tokens(1, 10), &[hour(9)]), Some(Miss::Expired));
    let stats = simulation.cache.stats();
    assert_eq!(stats.missed(MissReason::Expired).prompts, 2);
    assert_eq!(stats.missed(MissReason::DivergedAt).prompts, 3);
    assert_eq!(stats.missed(MissReason::BelowMinimum).tokens, 4);
    assert!(stats.evictions.expired > 0 && stats.evictions.unretained > 0);
}

#[test]
fn pages_that_were_of_use_go_to_host_memory_and_come_back() {
    let mut simulation = Simulation::new(options(6, 4));
    let prefix = tokens(1, 9);
    simulation.request(0, &followed_by(&prefix, 2, 3), &[hour(9)]);
    fill(&mut simulation, 100);
    let request = followed_by(&prefix, 3, 3);
    let name = tenant("a");
    let look = OpenRequest { tenant: &name, prompt: &request, public_tokens: 0, boundaries: &[hour(9)] };
    // Retained without a budget: it left the device last, but it left. The fill was never of use and is gone.
    let mut greedy = simulation.open(2, &tokens(50, 24), 0, &[]);
    simulation.prefill(&mut greedy).unwrap();
    let stats = simulation.cache.stats();
    assert_eq!((stats.retained, stats.host_used, stats.to_host), (0, 3, 3));
    let lookup = simulation.cache.lookup(&look, simulation.now);
    assert_eq!((lookup.resident, lookup.host, lookup.miss), (9, 9, None));
    let info = &simulation.cache.prefixes(simulation.now)[0];
    assert_eq!((info.pages, info.host_pages), (0, 3));
    // No room to come back while everything is in use: not reused, not lost.
    let live = simulation.open(0, &request, 0, &[hour(9)]);
    assert_eq!((live.resident, live.miss), (0, Some(Miss::Evicted)));
    simulation.close(live, false);
    simulation.close(greedy, false);
    let live = simulation.open(0, &request, 0, &[hour(9)]);
    assert_eq!((live.resident, live.miss), (9, None));
    simulation.cache.audit(&[&live.sequence]);
    // Two pages moved; the third, of which one token is of use, was copied.
    let stats = simulation.cache.stats();
    assert_eq!((stats.host_used, stats.from_host), (1, 3));
    simulation.close(live, true);
    // A prefix in host memory can be written elsewhere, too.
    let id = simulation.cache.prefixes(simulation.now)[0].id;
    let mut other = Simulation::new(options(6, 0));
    assert!(simulation.transfer(id, &mut other).is_some());
    let there = other.open(0, &request, 0, &[]);
    assert_eq!(there.resident, 9);
    other.close(there, true);
}

#[test]
fn moves_of_a_refused_reservation_are_not_lost() {
    let mut simulation = Simulation::new(options(4, 4));
    simulation.request(0, &tokens(1, 8), &[hour(8)]);
    let mut holder = simulation.open(1, &tokens(2, 8), 0, &[]);
    simulation.prefill(&mut holder).unwrap();
    let mut greedy = simulation.open(2, &tokens(3, 12), 0, &[]);
    assert!(simulation.prefill(&mut greedy).is_err());
    assert_eq!((simulation.moves, simulation.cache.stats().host_used), (0, 2));
    simulation.close(holder, false);
    simulation.prefill(&mut greedy).unwrap();
    assert_eq!(simulation.moves, 2);
    simulation.close(greedy, false);
    assert_eq!(simulation.request(0, &tokens(1, 9), &[]), 8);
}

#[test]
fn a_restored_prefix_keeps_the_time_it_had_left() {
    let mut simulation = Simulation::new(options(16, 0));
    simulation.request(0, &tokens(1, 14), &[hour(10)]);
    simulation.now += seconds(1000);
    let info = simulation.cache.prefixes(simulation.now).remove(0);
    let export = simulation.cache.export(info.id, simulation.now).unwrap();
    assert_eq!((export.record.tokens.as_slice(), export.pages.len()), (&tokens(1, 10)[..], 3));
    let mut other = Simulation::new(options(16, 0));
    other.now = seconds(5);
    let restored = simulation.transfer(info.id, &mut other).unwrap();
    let there = other.cache.prefixes(other.now).remove(0);
    assert_eq!((there.id, there.digest, there.left), (restored, info.digest, seconds(HOUR - 1000)));
    // Once more changes nothing, and writes nothing.
    let again = other.cache.import(export.record.clone(), other.now).unwrap();
    assert_eq!(again.write.len(), 1);
    assert_eq!(other.cache.finish_import(again, false, other.now), None);
    assert_eq!(other.cache.stats().prefixes, 1);
    other.cache.audit(&[]);
    // A use gives it its full time.
    other.now += seconds(HOUR - 1001);
    assert_eq!(other.request(0, &tokens(1, 14), &[]), 10);
    assert_eq!(other.cache.prefixes(other.now)[0].left, seconds(HOUR));

    let refused = |record: PrefixRecord| Simulation::new(options(2, 0)).cache.import(record, seconds(0)).is_err();
    assert!(refused(export.record.clone()), "three pages into two");
    assert!(refused(PrefixRecord { at: 11, ..export.record.clone() }));
    assert!(refused(PrefixRecord { at: 0, ..export.record.clone() }));
    assert!(refused(PrefixRecord { left: Duration::ZERO, ..export.record }));
}

#[test]
fn a_failed_import_leaves_nothing() {
    let mut cache = crate::KvCache::new(options(8, 0)).unwrap();
    let record = PrefixRecord {
        tenant: tenant("a"),
        public_tokens: 4,
        tokens: tokens(1, 10),
        at: 10,
        ttl: Ttl::FiveMinutes,
        left: seconds(10),
    };
    let importing = cache.import(record, seconds(0)).unwrap();
    assert_eq!((importing.write.len(), importing.moves.clone()), (3, Vec::<Move>::new()));
    assert_eq!(cache.finish_import(importing, false, seconds(0)), None);
    let stats = cache.stats();
    assert_eq!((stats.free, stats.prefixes, stats.sequences), (8, 0, 0));
    cache.audit(&[]);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let refused = |options: CacheOptions| crate::KvCache::new(options).is_err();
    assert!(!refused(options(4, 0)));
    assert!(refused(options(0, 0)));
    assert!(refused(CacheOptions { page_tokens: 0, ..options(4, 0) }));
    assert!(refused(CacheOptions { reserved: reserved(3, 2), ..options(4, 0) }));
    let more_than_the_limit = Reserved { limit: 2, ..reserved(2, 1) };
    assert!(refused(CacheOptions { reserved: more_than_the_limit, ..options(4, 0) }));
}

#[test]
fn two_servers_name_the_same_prefix_differently() {
    let digest = |change: &dyn Fn(&mut CacheOptions)| {
        let mut options = options(8, 0);
        change(&mut options);
        let mut simulation = Simulation::new(options);
        simulation.request(0, &tokens(1, 8), &[hour(8)]);
        simulation.cache.prefixes(simulation.now)[0].digest
    };
    assert_eq!(digest(&|_| {}), digest(&|_| {}));
    assert_ne!(digest(&|_| {}), digest(&|o| o.secret = [8; 32]));
    assert_ne!(digest(&|_| {}), digest(&|o| o.identity = crate::Identity::new(&[("model", b"n")])));
}

#[test]
fn a_prefix_names_the_longest_one_of_its_own_tenant_that_it_begins_with() {
    let mut simulation = Simulation::new(options(20, 0));
    for tenant in [0, 1] {
        simulation.request(tenant, &tokens(1, 16), &[hour(8), five_minutes(16)]);
        simulation.request(tenant, &followed_by(&tokens(1, 16), 2, 8), &[hour(24)]);
    }
    let infos = simulation.cache.prefixes(simulation.now);
    for info in &infos {
        let parent = infos.iter().find(|other| Some(other.id) == info.parent);
        let expected = match info.tokens {
            24 => Some(16),
            16 => Some(8),
            _ => None,
        };
        assert_eq!(parent.map(|parent| parent.tokens), expected, "{info:?}");
        assert!(parent.is_none_or(|parent| parent.tenant == info.tenant));
    }
    assert_eq!(infos.len(), 6);
}
