//! The least that a day could have cost: every route chosen by someone who knows who comes next.
//!
//! Of each question, what its routes cost cold and warm and what quality is expected of them. At a price of quality, the
//! best choice over the whole day is found exactly for the full scope, whose prefix is one for all questions to a
//! collection. For whole documents it is bounded from below: their prefix is taken as warm if any question before could
//! have read the same documents. The cache holds everything all day, nothing is paid for keeping it, and nobody waits. So
//! no policy with these prices and routes can pay less for the same expected quality, and a real cache, which forgets,
//! does not let any policy pay as little.
//!
//! Deliberately not here: latency, and routes that a limit refuses.

use std::collections::{BTreeSet, HashMap};

use edgewise_ledger::ModelPrices;
use edgewise_planner::{Candidate, Explanation, Route};
use edgewise_types::{DocumentId, Usage};

use super::day::{Arrival, Day};

/// Prices of quality tried: score lost for each dollar, between these powers of ten.
const POWERS: (f64, f64) = (0.0, 5.5);
/// And how many.
const PRICES: usize = 45;

/// Dollars and expected quality.
pub(super) type Point = (f64, f64);

/// What a question's routes come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choices {
    /// From passages.
    passages: Option<Point>,
    /// From documents, cold and warm, and which documents.
    documents: Option<(Point, Point, BTreeSet<DocumentId>)>,
    /// From the full scope, cold and warm.
    full: Option<(Point, Point)>,
}

impl Choices {
    /// Of an explanation with nothing resident, whose prompt map shows `documents`.
    pub(super) fn of(explanation: &Explanation, documents: BTreeSet<DocumentId>, prices: &ModelPrices) -> Self {
        let of = |route| explanation.candidates.iter().find(|candidate| candidate.route == route && candidate.feasible);
        let both = |candidate: &Candidate| {
            let Usage { cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, input_tokens, .. } =
                candidate.usage;
            let kept = cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens;
            let cost = |input_tokens, cache_read_tokens| {
                let usage = Usage {
                    input_tokens,
                    cache_read_tokens,
                    cache_write_5m_tokens: 0,
                    cache_write_1h_tokens: 0,
                    ..candidate.usage
                };
                (prices.cost(&usage).as_dollars_lossy(), candidate.quality)
            };
            (cost(input_tokens + kept, 0), cost(input_tokens, kept))
        };
        let documents_of = |candidate: &Candidate| {
            let (cold, warm) = both(candidate);
            (cold, warm, documents)
        };
        Self {
            passages: of(Route::Passages).map(|candidate| both(candidate).1),
            documents: of(Route::Documents).map(documents_of),
            full: of(Route::Full).map(both),
        }
    }
}

/// Cost and quality of the day at each price of quality, per question. `choices` gives those of a question to a
/// collection.
pub(super) fn frontier(day: &Day, choices: &HashMap<(usize, usize), Choices>) -> Vec<Point> {
    let mut collections: HashMap<usize, Vec<Step>> = HashMap::new();
    let mut seen: BTreeSet<(usize, &BTreeSet<DocumentId>)> = BTreeSet::new();
    for Arrival { collection, question, .. } in &day.arrivals {
        let Some(Choices { passages, documents, full }) = choices.get(&(*collection, *question)) else { continue };
        let mut others: Vec<Point> = passages.iter().copied().collect();
        if let Some((cold, warm, documents)) = documents {
            others.push(if seen.insert((*collection, documents)) { *cold } else { *warm });
        }
        collections.entry(*collection).or_default().push(Step { others, full: *full });
    }
    let count = day.arrivals.len().max(1) as f64;
    let at = |n: usize| {
        let price = 10_f64.powf(POWERS.0 + (POWERS.1 - POWERS.0) * n as f64 / (PRICES - 1) as f64);
        let (dollars, quality) = collections.values().map(|steps| best(steps, price)).fold((0.0, 0.0), add);
        (dollars / count, quality / count)
    };
    (0..PRICES).map(at).collect()
}

fn add(a: Point, b: Point) -> Point {
    (a.0 + b.0, a.1 + b.1)
}

/// A question with what it can be answered by, apart from the full scope, and with that.
struct Step {
    others: Vec<Point>,
    full: Option<(Point, Point)>,
}

/// Sum of cost and quality of the best choices at `price`, score lost for each dollar.
fn best(steps: &[Step], price: f64) -> Point {
    let score = |(dollars, quality): Point| quality - price * dollars;
    let better = |a: Point, b: Point| if score(b) > score(a) { b } else { a };
    // Best sums so far while the full scope was not read yet, and since it was.
    let (mut cold_sum, mut warm_sum): (Point, Option<Point>) = ((0.0, 0.0), None);
    for Step { others, full } in steps {
        let other = others.iter().copied().reduce(better);
        let stay = |sum: Point| other.map(|other| add(sum, other));
        let read = |sum: Point, warm: bool| full.map(|full| add(sum, if warm { full.1 } else { full.0 }));
        let options = [warm_sum.and_then(stay), warm_sum.and_then(|sum| read(sum, true)), read(cold_sum, false)];
        // A question that nothing answers adds nothing.
        warm_sum = options.into_iter().flatten().reduce(better).or(warm_sum);
        cold_sum = stay(cold_sum).unwrap_or(cold_sum);
    }
    warm_sum.map_or(cold_sum, |warm_sum| better(cold_sum, warm_sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Point = (1.0, 0.5);
    const COLD: Point = (10.0, 0.8);
    const WARM: Point = (1.0, 0.8);

    fn questions(count: usize) -> Vec<Step> {
        (0..count).map(|_| Step { others: vec![OTHER], full: Some((COLD, WARM)) }).collect()
    }

    #[test]
    fn a_prefix_is_written_where_enough_come_after() {
        // Cold it costs 0.9 more and gains 0.3 each time: that takes more than three questions.
        let price = 0.1;
        assert_eq!(best(&questions(2), price), (2.0, 1.0));
        let (dollars, quality) = best(&questions(4), price);
        assert!((dollars - 13.0).abs() < 1e-9 && (quality - 3.2).abs() < 1e-9, "{dollars} {quality}");
    }

    #[test]
    fn it_is_written_at_the_question_that_gains_most_by_it_unless_it_comes_too_late() {
        let mut steps = questions(6);
        steps[0].full = Some(((10.0, 0.4), (1.0, 0.4)));
        let (dollars, quality) = best(&steps, 0.1);
        assert!((dollars - 15.0).abs() < 1e-9 && (quality - 4.5).abs() < 1e-9, "{dollars} {quality}");
        assert_eq!(best(&[], 0.1), (0.0, 0.0));
    }
}
