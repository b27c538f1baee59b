//! Distributions of times that can be merged: counts in buckets whose width grows with the value.
//!
//! A value is a whole number of microseconds. Values below 32 have a bucket each; above, every power of two is divided into
//! 32 buckets of equal width, so that a bucket is at most 1/32 of its lower bound wide and its middle is within 1.6 % of
//! every value in it. Counts are integers: merging is exact, in any order, and quantiles of a merged histogram are those of
//! the values together.
//!
//! This is the bucketing of HdrHistogram (hdrhistogram.org) with five bits of precision. It is stored sparse, as pairs of
//! variable-length integers: the distance to the bucket before, and the count.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bits of a value that tell buckets of one power of two apart.
const PRECISION: u32 = 5;

/// Three quantiles of a distribution, in milliseconds, each within 1.6 % of the true one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Percentiles {
    /// Half of the values are at most this.
    pub p50: f64,
    /// Nineteen of twenty are.
    pub p95: f64,
    /// Ninety-nine of a hundred are.
    pub p99: f64,
}

/// Counts of values by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Buckets in order, with their counts. Sorted rather than a tree, since a report merges thousands of these into few.
    counts: Vec<(u32, u64)>,
    total: u64,
}

fn bucket(value: u64) -> u32 {
    let power = 63 - (value | 1).leading_zeros();
    if power < PRECISION {
        return value as u32;
    }
    let shift = power - PRECISION;
    // The leading bit is always set; the `PRECISION` bits behind it are the place within the power.
    ((shift + 1) << PRECISION) + ((value >> shift) as u32 - (1 << PRECISION))
}

/// The middle of a bucket.
fn middle(bucket: u32) -> f64 {
    if bucket < 1 << PRECISION {
        return f64::from(bucket);
    }
    let shift = (bucket >> PRECISION) - 1;
    let lower = f64::from((1 << PRECISION) + (bucket & ((1 << PRECISION) - 1)));
    // A bucket of width 1 holds one value: its lower bound.
    let width = 2f64.powi(shift as i32);
    lower * width + (width - 1.0) / 2.0
}

impl Histogram {
    /// Adds a time in milliseconds. Negative and undefined times are counted as 0.
    pub fn record_ms(&mut self, ms: f64) {
        // The cast saturates; what does not fit is 584,000 years.
        self.add(bucket((ms.max(0.0) * 1e3).round() as u64), 1);
    }

    fn add(&mut self, bucket: u32, count: u64) {
        match self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(place) => self.counts[place].1 = self.counts[place].1.saturating_add(count),
            Err(place) => self.counts.insert(place, (bucket, count)),
        }
        self.total = self.total.saturating_add(count);
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        // Mostly every bucket is there already; each is looked for behind the one before.
        let (mut behind, mut missing) = (0, Vec::new());
        for (bucket, count) in &other.counts {
            match self.counts[behind..].binary_search_by_key(bucket, |(own, _)| *own) {
                Ok(place) => {
                    behind += place;
                    self.counts[behind].1 = self.counts[behind].1.saturating_add(*count);
                }
                Err(place) => {
                    behind += place;
                    missing.push((*bucket, *count));
                }
            }
        }
        if !missing.is_empty() {
            self.counts.append(&mut missing);
            // Two sorted runs: one pass.
            self.counts.sort_by_key(|(bucket, _)| *bucket);
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value in milliseconds that a share of all values does not exceed, `0 ≤ share ≤ 1`; `None` without values.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total.max(1));
        let mut before = 0u64;
        for (bucket, count) in &self.counts {
            before = before.saturating_add(*count);
            if before >= rank {
                return Some(middle(*bucket) / 1e3);
            }
        }
        None
    }

    /// The three quantiles that are reported; `None` without values.
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles { p50: self.quantile_ms(0.5)?, p95: self.quantile_ms(0.95)?, p99: self.quantile_ms(0.99)? })
    }

    /// As bytes, for [`Self::decode`].
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.counts.len() * 3);
        let mut last = 0;
        for (bucket, count) in &self.counts {
            put(&mut bytes, u64::from(bucket - last));
            put(&mut bytes, *count);
            last = *bucket;
        }
        bytes
    }

    /// Adds what [`Self::encode`] wrote; `None`, and nothing added, if the bytes are something else.
    pub(crate) fn merge_encoded(&mut self, mut bytes: &[u8]) -> Option<()> {
        let mut read = Self::default();
        while !bytes.is_empty() {
            let distance = u32::try_from(take(&mut bytes)?).ok()?;
            let count = take(&mut bytes)?;
            let bucket = match read.counts.last() {
                None => distance,
                // No bucket is written twice.
                Some(_) if distance == 0 => return None,
                Some((last, _)) => last.checked_add(distance)?,
            };
            read.counts.push((bucket, count));
            read.total = read.total.saturating_add(count);
        }
        self.merge(&read);
        Some(())
    }
}

/// LEB128: seven bits a byte, lowest first.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut last = 0;
        for value in 0..100_000u64 {
            let bucket = bucket(value);
            assert!(bucket == last || bucket == last + 1, "{value}");
            last = bucket;
        }
        assert!(bucket(u64::MAX) < 64 << PRECISION);
    }

    proptest! {
        #[test]
        fn the_middle_of_a_bucket_is_close_to_its_values(value in 0..1u64 << 50) {
            let error = (middle(bucket(value)) - value as f64).abs();
            prop_assert!(error <= value as f64 / 63.0, "{value} {}", middle(bucket(value)));
        }

        #[test]
        fn merged_quantiles_are_those_of_all_values(
            a in prop::collection::vec(0.0..1e7f64, 0..60), b in prop::collection::vec(0.0..1e4f64, 1..60)
        ) {
            let of = |values: &[f64]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|ms| histogram.record_ms(*ms));
                histogram
            };
            let mut merged = Histogram::default();
            merged.merge_encoded(&of(&a).encode()).unwrap();
            merged.merge_encoded(&of(&b).encode()).unwrap();
            let mut all = [a, b].concat();
            prop_assert_eq!(&merged, &of(&all));
            all.sort_by(f64::total_cmp);
            for share in [0.0, 0.3, 0.5, 0.95, 0.99, 1.0] {
                let rank = ((share * all.len() as f64).ceil() as usize).max(1);
                let (found, exact) = (merged.quantile_ms(share).unwrap(), all[rank - 1]);
                // Half a microsecond of rounding beside the width of the bucket.
                prop_assert!((found - exact).abs() <= exact / 63.0 + 0.001, "{share}: {found} for {exact}");
            }
        }

        #[test]
        fn damaged_bytes_are_noticed_or_read_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Histogram::default().merge_encoded(&bytes);
        }
    }

    #[test]
    fn nothing_has_no_quantiles() {
        assert_eq!(Histogram::default().percentiles(), None);
        let mut odd = Histogram::default();
        odd.record_ms(f64::NAN);
        odd.record_ms(-3.0);
        assert_eq!((odd.count(), odd.quantile_ms(1.0)), (2, Some(0.0)));
    }
}
