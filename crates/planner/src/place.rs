//! Where passages stand in the prompt.
//!
//! Models read the beginning and the end of a long input best and the middle worst (Liu et al. 2023, "Lost in the
//! Middle"), but not all alike. Where the model's position curve was measured and some position is distinctly better
//! than another, the best passage goes to the position that is read best, the second best to the next, and so on. Without
//! a distinct curve the rule holds: the best last, next to the question, the second best first, the third last but one;
//! the weakest ends up in the middle.

use crate::{PositionCurve, ReadingProfile};

/// How often positions are worked out anew: passages differ in length, so that where one stands depends on the others.
const ROUNDS: usize = 8;

/// Differences in a position's value below this are none.
const SAME: f64 = 1e-9;

/// The order in which `count` ranked items are placed by the rule: for each position, front to back, the rank from 0 of
/// the item that goes there.
pub fn edges(count: usize) -> Vec<usize> {
    let front = (0..count).skip(1).step_by(2);
    let back = (0..count).step_by(2).collect::<Vec<_>>().into_iter().rev();
    front.chain(back).collect()
}

/// The order in which ranked items are placed for a model that reads like `profile`: for each position, front to back,
/// the rank from 0 of the item that goes there. `tokens` are the items' lengths by rank, `before` and `after` the lengths
/// of what stands around them in the prompt. The same input always gives the same order; positions that are read equally
/// well are filled as the rule would.
pub fn arrange(profile: Option<&ReadingProfile>, tokens: &[usize], before: usize, after: usize) -> Vec<usize> {
    let prompt = before + tokens.iter().sum::<usize>() + after;
    match profile.and_then(|profile| profile.curve(prompt)) {
        Some(curve) => by_curve(&curve, tokens, before, prompt),
        None => edges(tokens.len()),
    }
}

fn by_curve(curve: &PositionCurve, tokens: &[usize], before: usize, prompt: usize) -> Vec<usize> {
    let rule = edges(tokens.len());
    let (mut order, mut best) = (rule.clone(), (f64::NEG_INFINITY, rule.clone()));
    for _ in 0..ROUNDS {
        let values = values(curve, &order, tokens, before, prompt);
        let worth = worth(&order, &values);
        if worth > best.0 + SAME {
            best = (worth, order.clone());
        }
        let mut positions: Vec<usize> = (0..order.len()).collect();
        // A stable sort of positions as the rule fills them: equal ones stay in that order.
        positions.sort_by_key(|position| rule.get(*position));
        positions.sort_by(|a, b| {
            let (a, b) = (values.get(*a).copied().unwrap_or(0.0), values.get(*b).copied().unwrap_or(0.0));
            // In steps of `SAME`, so that the order is total.
            ((b / SAME).round()).total_cmp(&(a / SAME).round())
        });
        let mut next = vec![0; order.len()];
        for (rank, position) in positions.into_iter().enumerate() {
            if let Some(slot) = next.get_mut(position) {
                *slot = rank;
            }
        }
        if next == order {
            break;
        }
        order = next;
    }
    best.1
}

/// How well each position of `order` is read.
fn values(curve: &PositionCurve, order: &[usize], tokens: &[usize], before: usize, prompt: usize) -> Vec<f64> {
    let mut start = before;
    let share = |at: usize| at as f64 / prompt.max(1) as f64;
    order
        .iter()
        .map(|rank| {
            let end = start + tokens.get(*rank).copied().unwrap_or(0);
            let value = curve.mean(share(start), share(end));
            start = end;
            value
        })
        .collect()
}

/// What an order is worth: better items count for more.
fn worth(order: &[usize], values: &[f64]) -> f64 {
    order.iter().zip(values).map(|(rank, value)| (order.len() - rank) as f64 * value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::tests::{info, measurement, observed};
    use proptest::prelude::*;

    fn profile(read: impl Fn(f64) -> f64) -> ReadingProfile {
        let observations = observed(&[512, 2048], 5, 12, |_, depth| read(depth));
        ReadingProfile::of(&info(), measurement(), &observations)
    }

    #[test]
    fn the_best_is_last_and_the_second_best_first() {
        assert_eq!(edges(6), [1, 3, 5, 4, 2, 0]);
        assert_eq!(edges(5), [1, 3, 4, 2, 0]);
        assert_eq!(edges(1), [0]);
        assert!(edges(0).is_empty());
    }

    #[test]
    fn the_best_goes_where_the_model_reads_best() {
        let equal = [100; 5];
        let rising = profile(|depth| 0.3 + 0.4 * depth);
        assert_eq!(arrange(Some(&rising), &equal, 50, 50), [4, 3, 2, 1, 0]);
        let falling = profile(|depth| 0.7 - 0.4 * depth);
        assert_eq!(arrange(Some(&falling), &equal, 50, 50), [0, 1, 2, 3, 4]);
        let middle = profile(|depth| 0.7 - 1.6 * (depth - 0.5).powi(2));
        assert_eq!(arrange(Some(&middle), &equal, 50, 50)[2], 0);
        let edged = profile(|depth| 0.3 + 1.6 * (depth - 0.5).powi(2));
        assert_eq!(arrange(Some(&edged), &equal, 50, 50), edges(5), "a curve like the rule gives what the rule gives");
    }

    #[test]
    fn without_a_distinct_curve_the_rule_holds() {
        let level = profile(|_| 0.5);
        for tokens in [vec![], vec![7], vec![10, 300, 20, 5]] {
            assert_eq!(arrange(Some(&level), &tokens, 20, 20), edges(tokens.len()));
            assert_eq!(arrange(None, &tokens, 20, 20), edges(tokens.len()));
        }
    }

    proptest! {
        #[test]
        fn every_item_is_placed_once_and_quality_falls_towards_the_middle(count in 0..60usize) {
            let placed = edges(count);
            let mut sorted = placed.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            // An item nearer to an edge is never weaker than one between it and the weakest.
            let weakest = placed.iter().position(|rank| rank + 1 == count).unwrap_or(0);
            prop_assert!(placed[..weakest.min(count)].is_sorted());
            prop_assert!(placed[weakest.min(count)..].iter().rev().is_sorted());
            if count > 1 {
                prop_assert!(weakest.abs_diff(count / 2) <= 1);
            }
        }

        #[test]
        fn any_curve_places_every_item_once_and_no_worse_than_the_rule(
            values in prop::collection::vec(0.05f64..0.95, 5),
            tokens in prop::collection::vec(1..400usize, 0..20),
            before in 0..200usize,
            after in 0..200usize,
        ) {
            let profile = profile(|depth| values[(depth * 4.0).round() as usize]);
            let order = arrange(Some(&profile), &tokens, before, after);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..tokens.len()).collect::<Vec<_>>());
            prop_assert_eq!(&arrange(Some(&profile), &tokens, before, after), &order);
            let prompt = before + tokens.iter().sum::<usize>() + after;
            if let Some(curve) = profile.curve(prompt) {
                let of = |order: &[usize]| worth(order, &super::values(&curve, order, &tokens, before, prompt));
                prop_assert!(of(&order) + 1e-6 >= of(&edges(tokens.len())));
            } else {
                prop_assert_eq!(order, edges(tokens.len()));
            }
        }

        #[test]
        fn items_of_one_length_stand_by_how_well_their_positions_are_read(
            values in prop::collection::vec(0.05f64..0.95, 5),
            count in 1..20usize,
        ) {
            let profile = profile(|depth| values[(depth * 4.0).round() as usize]);
            let tokens = vec![60; count];
            let order = arrange(Some(&profile), &tokens, 40, 40);
            let prompt = 80 + 60 * count;
            if let Some(curve) = profile.curve(prompt) {
                let read = super::values(&curve, &order, &tokens, 40, prompt);
                for (a, x) in order.iter().zip(&read) {
                    for (b, y) in order.iter().zip(&read) {
                        prop_assert!(a >= b || *x + 1e-6 >= *y, "{:?} {:?}", order, read);
                    }
                }
            }
        }
    }
}
