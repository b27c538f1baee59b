//! Aligned rows, their dot product in 32-bit floats, and 8-bit codes for them.
//!
//! A row is a whole number of 64-byte blocks, the last one padded with zeros, so that every block is one cache line and
//! the inner loop has no remainder. Summation order is fixed: block lanes first, then a tree, so a score is the same
//! bits wherever the row stands and however rows are split among threads.

use edgewise_kernels::ZERO_CODE;

/// Floats in a block.
pub(crate) const LANES: usize = 16;

/// One cache line of floats.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [f32; LANES]);

impl Block {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
}

/// Blocks needed for `dimension` floats.
pub(crate) fn blocks_for(dimension: usize) -> usize {
    dimension.div_ceil(LANES)
}

/// `vector` in blocks.
pub(crate) fn pack(vector: &[f32]) -> Vec<Block> {
    let mut row = vec![Block::ZERO; blocks_for(vector.len())];
    pack_into(vector, &mut row);
    row
}

/// Writes `vector` to `row`; padding of `row` stays as it is.
pub(crate) fn pack_into(vector: &[f32], row: &mut [Block]) {
    for (block, values) in row.iter_mut().zip(vector.chunks(LANES)) {
        block.0[..values.len()].copy_from_slice(values);
    }
}

/// Dot products of a query with rows of its length that stand one after the other.
struct Dots<'r> {
    query: &'r [Block],
    rows: &'r [Block],
    scores: &'r mut [f32],
}

impl pulp::NullaryFnOnce for Dots<'_> {
    type Output = ();

    /// Compiled for each instruction set, so all it calls must be inlined.
    #[inline(always)]
    fn call(self) {
        for (row, score) in self.rows.chunks_exact(self.query.len()).zip(self.scores) {
            *score = dot(self.query, row);
        }
    }
}

/// Dot products of `query` with as many rows as there are `scores`, compiled for the widest vectors this processor has.
pub(crate) fn dots(query: &[Block], rows: &[Block], scores: &mut [f32]) {
    if !query.is_empty() {
        pulp::Arch::new().dispatch(Dots { query, rows, scores });
    }
}

/// Dot product of two rows of equal length. Two independent sets of sixteen sums keep the adders busy; the compiler
/// turns each into vector registers, as wide as the caller's instruction set.
#[inline(always)]
fn dot(a: &[Block], b: &[Block]) -> f32 {
    let (mut even, mut odd) = (Block::ZERO, Block::ZERO);
    let (a_pairs, a_rest) = a.as_chunks::<2>();
    let (b_pairs, b_rest) = b.as_chunks::<2>();
    for ([a0, a1], [b0, b1]) in a_pairs.iter().zip(b_pairs) {
        even.add_product(a0, b0);
        odd.add_product(a1, b1);
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        even.add_product(a, b);
    }
    even.sum_with(&odd)
}

impl Block {
    #[inline(always)]
    fn add_product(&mut self, a: &Block, b: &Block) {
        for lane in 0..LANES {
            self.0[lane] += a.0[lane] * b.0[lane];
        }
    }

    /// Sum of all lanes of both. Not inlined: seen together with the loop above, the compiler arranges the loop's
    /// registers to suit this sum and makes the loop half as fast.
    #[inline(never)]
    fn sum_with(&self, other: &Block) -> f32 {
        let mut sums: [f32; LANES] = std::array::from_fn(|lane| self.0[lane] + other.0[lane]);
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
            width /= 2;
        }
        sums[0]
    }
}

/// A row in 8 bits: `scale · (code − 128)` is near the row, and `error` is the length of the difference.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coded {
    pub(crate) scale: f32,
    pub(crate) error: f32,
}

/// Quantises `row` (symmetric, one scale a row) into `codes`, of the row's padded length.
pub(crate) fn encode(row: &[Block], codes: &mut [u8]) -> Coded {
    let largest = row.iter().flat_map(|block| block.0).fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let mut error = 0.0f64;
    for (value, code) in row.iter().flat_map(|block| block.0).zip(codes) {
        let rounded = (value / scale).round().clamp(-127.0, 127.0);
        *code = (rounded as i8 as u8) ^ ZERO_CODE;
        error += f64::from(value - rounded * scale).powi(2);
    }
    // Rounded up, so that it is a bound.
    Coded { scale, error: error.sqrt() as f32 * (1.0 + 1e-5) + 1e-7 }
}

#[cfg(test)]
mod tests {
    use edgewise_kernels::CodedQuery;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_dot_product_is_the_sum_of_products(pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 0..200)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let exact: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let mut score = [0.0];
            dots(&pack(&a), &pack(&b), &mut score);
            prop_assert!((f64::from(score[0]) - exact).abs() < 1e-4);
        }
    }

    proptest! {
        #[test]
        fn the_coded_dot_product_is_within_its_bound(
            pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 1..100),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            let exact: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let code = |v: &[f32]| {
                let row = pack(v);
                let mut codes = vec![0; row.len() * LANES];
                let coded = encode(&row, &mut codes);
                (codes, coded)
            };
            let ((a_codes, a_coded), (b_codes, b_coded)) = (code(&a), code(&b));
            let mut sum = [0];
            CodedQuery::of_row(&a_codes).dot_rows(&b_codes, &mut sum);
            let near = f64::from(sum[0]) * f64::from(a_coded.scale) * f64::from(b_coded.scale);
            // a·b − â·b̂ = (a − â)·b + â·(b − b̂), and |â| ≤ |a| + |a − â|.
            let bound = f64::from(a_coded.error) * norm(&b)
                + (norm(&a) + f64::from(a_coded.error)) * f64::from(b_coded.error);
            prop_assert!((exact - near).abs() <= bound + 1e-6, "{} against {}", (exact - near).abs(), bound);
        }
    }

    #[test]
    fn rows_start_on_cache_lines() {
        assert_eq!((std::mem::size_of::<Block>(), std::mem::align_of::<Block>()), (64, 64));
        assert_eq!((blocks_for(384), blocks_for(17), blocks_for(1)), (24, 2, 1));
    }
}
