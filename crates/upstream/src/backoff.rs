//! Pauses between attempts: exponential with full jitter (Brooker, "Exponential Backoff And Jitter", 2015), so that
//! requests that failed together do not come back together.

use std::time::Duration;

/// The pause before attempt `attempt` (the first further one is 1), for a `draw` from 0 to 1: any length up to `first`
/// doubled with every attempt, and at most `most`.
pub(crate) fn pause(first: Duration, most: Duration, attempt: u32, draw: f64) -> Duration {
    let doubled = first.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(most).mul_f64(draw.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_spread_down_to_nothing() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let longest: Vec<u128> = (1..7).map(|attempt| pause(first, most, attempt, 1.0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(pause(first, most, 4, 0.0), Duration::ZERO);
        assert_eq!(pause(first, most, 2, 0.5), Duration::from_millis(100));
        assert_eq!(pause(first, most, 500, 1.0), most);
    }
}
