#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

/// Uniform numbers in [0, 1), the same everywhere (splitmix64, Steele et al. 2014).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn at() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Where ranks 1 to 6 stand by the rule of edges: the best last, the second best first.
fn by_rule(rank: usize) -> PromptRegion {
    match rank {
        1 | 3 => PromptRegion::End,
        2 | 4 => PromptRegion::Beginning,
        _ => PromptRegion::Middle,
    }
}

/// Answers that cite a passage of rank r with probability 0.8 / r, times what its region is read.
fn answers(
    noise: &mut Noise,
    count: usize,
    place: fn(usize) -> PromptRegion,
    read: impl Fn(PromptRegion) -> f64,
) -> Vec<Vec<Sighting>> {
    let mut answer = || {
        let sighting = |rank: usize| {
            let region = place(rank);
            Sighting { region, rank, used: noise.next() < 0.8 / rank as f64 * read(region) }
        };
        (1..=6).map(sighting).collect()
    };
    (0..count).map(|_| answer()).collect()
}

fn alerts(monitor: &ReadingMonitor, signal: ReadingSignal) -> Vec<PromptRegion> {
    let report = monitor.report().into_iter().find(|report| report.signal == signal).unwrap();
    let now = report.now.unwrap();
    now.regions.into_iter().filter(|figures| figures.alert).map(|figures| figures.region).collect()
}

#[test]
fn a_region_that_falls_raises_its_alert_and_recovers() {
    let (monitor, mut noise) = (ReadingMonitor::in_memory(), Noise(1));
    let signal = ReadingSignal::Citations;
    let mut run = |count, end: f64| {
        let read = |region| if region == PromptRegion::End { end } else { 1.0 };
        monitor.count(signal, at(), &answers(&mut noise, count, by_rule, read));
        alerts(&monitor, signal)
    };
    assert!(run(200, 1.0).is_empty(), "the baseline itself");
    assert!(run(50, 1.0).is_empty());
    assert_eq!(run(50, 0.4), [PromptRegion::End]);
    assert!(run(50, 1.0).is_empty());
    assert_eq!(run(8 * 50, 0.4), [PromptRegion::End]);
    let history = monitor.report()[1].history.clone();
    assert_eq!(history.iter().filter(|block| block.baseline).count(), 1);
    assert_eq!(history.len(), 1 + 3 + 8);
    // One block of 50 answers tells the fall to about 0.08, eight to 0.03.
    let end = |block: &ReadingBlock| *block.regions.iter().find(|figures| figures.region == PromptRegion::End).unwrap();
    let before = end(&history[0]).recall;
    let fallen = history[4..].iter().map(|block| end(block).recall / before).sum::<f64>() / 8.0;
    assert!((fallen - 0.4).abs() < 0.1, "{fallen}");
}

#[test]
fn noise_raises_no_more_alerts_than_stated() {
    let mut noise = Noise(2);
    let (mut judged, mut raised) = (0, 0);
    for _ in 0..60 {
        let monitor = ReadingMonitor::in_memory();
        monitor.count(ReadingSignal::Citations, at(), &answers(&mut noise, 200 + 20 * 50, by_rule, |_| 1.0));
        for block in monitor.report()[1].history.iter().filter(|block| !block.baseline) {
            judged += block.regions.len();
            raised += block.regions.iter().filter(|figures| figures.alert).count();
        }
    }
    assert_eq!(judged, 60 * 20 * 3);
    // 3,600 at one in a thousand: 3.6 expected, and 10 has a probability of 0.5 % of being passed.
    assert!(raised <= 10, "{raised} of {judged}, more than {FALSE_ALARM}");
}

#[test]
fn another_placement_is_not_mistaken_for_worse_reading() {
    // First the best last; then the best first, so that the end holds what is rarely cited.
    fn reversed(rank: usize) -> PromptRegion {
        match rank {
            1 | 3 => PromptRegion::Beginning,
            2 | 4 => PromptRegion::End,
            _ => PromptRegion::Middle,
        }
    }
    let (monitor, mut noise) = (ReadingMonitor::in_memory(), Noise(3));
    let mut both = answers(&mut noise, 150, by_rule, |_| 1.0);
    both.extend(answers(&mut noise, 50, reversed, |_| 1.0));
    monitor.count(ReadingSignal::Citations, at(), &both);
    for round in 0..6 {
        let place: fn(usize) -> PromptRegion = if round % 2 == 0 { reversed } else { by_rule };
        monitor.count(ReadingSignal::Citations, at(), &answers(&mut noise, 50, place, |_| 1.0));
        assert!(alerts(&monitor, ReadingSignal::Citations).is_empty(), "{round}");
    }
}

#[test]
fn probes_are_judged_too() {
    let (monitor, mut noise) = (ReadingMonitor::in_memory(), Noise(4));
    let mut facts = |count: usize, middle: f64| -> Vec<Vec<Sighting>> {
        let fact = |n: usize| {
            let region = PromptRegion::ALL[n % 3];
            let found = if region == PromptRegion::Middle { middle } else { 0.95 };
            vec![Sighting { region, rank: 0, used: noise.next() < found }]
        };
        (0..count).map(fact).collect()
    };
    monitor.count(ReadingSignal::Probes, at(), &facts(72 + 24, 0.95));
    assert!(alerts(&monitor, ReadingSignal::Probes).is_empty());
    monitor.count(ReadingSignal::Probes, at(), &facts(24, 0.2));
    assert_eq!(alerts(&monitor, ReadingSignal::Probes), [PromptRegion::Middle]);
}

#[test]
fn figures_survive_a_restart_and_begin_anew_with_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("profiles/m.monitor.json");
    let mut noise = Noise(5);
    let monitor = ReadingMonitor::open(&path, "model a").unwrap();
    monitor.count(ReadingSignal::Citations, at(), &answers(&mut noise, 253, by_rule, |_| 1.0));
    let report = monitor.report();
    assert_eq!((report[1].pending, report[1].needed, report[1].history.len()), (3, 50, 2));
    drop(monitor);
    assert_eq!(ReadingMonitor::open(&path, "model a").unwrap().report(), report);
    assert!(ReadingMonitor::open(&path, "model b").unwrap().report()[1].now.is_none());
    fs::write(&path, "{}").unwrap();
    assert!(matches!(ReadingMonitor::open(&path, "model a"), Err(ProfileStoreError::Damaged { .. })));
}

#[test]
fn what_is_kept_is_bounded() {
    let (monitor, mut noise) = (ReadingMonitor::in_memory(), Noise(6));
    for _ in 0..50 {
        let some = answers(&mut noise, 500, by_rule, |_| 1.0);
        monitor.count(ReadingSignal::Citations, at(), &some);
    }
    assert_eq!(monitor.report()[1].history.len(), BLOCKS_KEPT);
}
