//! Where passages stand in the prompt.
//!
//! Models read the beginning and the end of a long input best and the middle worst (Liu et al. 2023, "Lost in the
//! Middle"). Without a measured position curve of the model at hand, the best passage goes last, next to the question,
//! the second best first, the third last but one, and so on: the weakest ends up in the middle.

/// The order in which `count` ranked items are placed: for each position, front to back, the rank from 0 of the item
/// that goes there.
pub(crate) fn edges(count: usize) -> Vec<usize> {
    let front = (0..count).skip(1).step_by(2);
    let back = (0..count).step_by(2).collect::<Vec<_>>().into_iter().rev();
    front.chain(back).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_best_is_last_and_the_second_best_first() {
        assert_eq!(edges(6), [1, 3, 5, 4, 2, 0]);
        assert_eq!(edges(5), [1, 3, 4, 2, 0]);
        assert_eq!(edges(1), [0]);
        assert!(edges(0).is_empty());
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
    }
}
