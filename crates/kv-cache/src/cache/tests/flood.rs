//! A retained prefix against thousands of requests that have nothing in common with it.

use super::{simulation::Simulation, *};
use crate::{Boundary, Ttl};

const PREFIX: u32 = 4096;
const FLOOD: u32 = 5000;

/// 5,000 requests of 64 to 192 tokens each, through a pool of twice the prefix; every 250th asks for the prefix.
/// Returns tokens of it that were resident, and tokens of it that were asked for.
fn flood(retain: bool) -> (usize, usize) {
    let pages = 2 * PREFIX as usize / PAGE;
    let reserved = reserved(PREFIX as usize / PAGE + 1, 0);
    let mut simulation = Simulation::new(CacheOptions { reserved, ..options(pages, 0) });
    let prefix: Vec<u32> = (0..PREFIX).collect();
    let boundary = Boundary { at: PREFIX as usize, ttl: Ttl::OneHour };
    let boundaries = if retain { &[boundary][..] } else { &[] };
    let with_question = |question: u32| prefix.iter().copied().chain([1 << 20, question]).collect::<Vec<_>>();
    simulation.request(0, &with_question(0), boundaries);
    let (mut found, mut asked) = (0, 0);
    for i in 1..=FLOOD {
        simulation.now += Duration::from_millis(500);
        // The flood retains, too, beyond its budget of nothing.
        let prompt: Vec<u32> = (0..64 + i * 7 % 128).map(|j| (i << 8) + j).collect();
        let all = Boundary { at: prompt.len(), ttl: Ttl::OneHour };
        simulation.request(1, &prompt, &[all][..usize::from(i % 3 == 0)]);
        if i % 250 == 0 {
            found += simulation.request(0, &with_question(i), &[]).min(PREFIX as usize);
            asked += PREFIX as usize;
        }
    }
    simulation.cache.audit(&[]);
    (found, asked)
}

#[test]
#[allow(clippy::print_stdout)]
fn a_retained_prefix_survives_a_flood() {
    let percent = |(found, asked): (usize, usize)| 100.0 * found as f64 / asked as f64;
    let (retained, unretained) = (flood(true), flood(false));
    println!("hit rate of a prefix of {PREFIX} tokens asked for 20 times among {FLOOD} other requests");
    println!("retained   {:5.1} %", percent(retained));
    println!("unretained {:5.1} %", percent(unretained));
    assert_eq!(retained.0, retained.1);
    assert_eq!(unretained.0, 0);
}
