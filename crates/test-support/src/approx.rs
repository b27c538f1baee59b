//! Comparing floating-point results with a tolerance.

/// Whether `a` and `b` differ by at most `tolerance`, absolute or relative to the larger of the two, whichever is
/// wider. Never true if either is not a number.
pub fn approx_eq(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
}

/// Fails the test unless [`approx_eq`] holds.
#[track_caller]
pub fn assert_approx_eq(a: f64, b: f64, tolerance: f64) {
    assert!(approx_eq(a, b, tolerance), "{a} and {b} differ by {}, more than {tolerance} allows", (a - b).abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerance_is_relative_above_one_and_absolute_below() {
        assert!(approx_eq(1000.0, 1000.9, 1e-3));
        assert!(!approx_eq(1000.0, 1001.1, 1e-3));
        assert!(approx_eq(0.0, 0.0009, 1e-3));
        assert!(!approx_eq(0.0, 0.0011, 1e-3));
        assert!(!approx_eq(f64::NAN, f64::NAN, 1.0));
    }
}
