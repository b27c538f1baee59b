//! Products of token activations with weight matrices: one kernel for decoding (one token) and prefill (many).
//!
//! `y[t, r] = Σ w[r, c]·x[t, c]`. For quantised weights the sum within a block of 32 is exact, in integers:
//! `Σ (d·u + m)·(s·q) = d·s·Σ u·q + m·s·Σ q`; blocks are added in f32, in order. A register tile is one panel of
//! sixteen rows by up to twelve tokens; weights are read once per tile, so decoding is bound by memory and prefill by
//! the integer dot product.
//!
//! Invariant: a token's result is the same, bit for bit, whatever other tokens are in the call, and however many
//! threads work on it.

use std::ops::Range;

use half::{bf16, f16};

use crate::{
    KernelError, PackedMatrix, Workspace,
    activations::{Activations, QuantisedTile},
    error::check_length,
    matrix::{BLOCK, DenseLine, FloatLine, ScaleLine, Storage},
    parallel::{self, SharedSlice},
    simd::{CodeLine, Element, Isa, Kernel, LANES, Simd, with_tile},
};

/// Bytes of packed activations a thread goes over before it takes the next panel; a part of a usual second-level cache.
const ACTIVATION_BYTES: usize = 128 * 1024;
/// How far ahead of their use weights are fetched into the cache, in bytes of codes, where up to [`FETCH_UP_TO`] tokens
/// use them: the processor's own fetching leaves a fifth of the memory's rate unused.
const AHEAD: usize = 2048;
const FETCH_UP_TO: usize = 2;
/// Multiplications below which a product is not worth spreading over threads.
const PARALLEL_FROM: usize = 64 * 1024;
/// Work items per thread, so that a thread that is held up does not hold up the others.
const ITEMS_PER_THREAD: usize = 3;

/// One of the products of the same activations.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights, `[rows, columns]`.
    pub weights: &'a PackedMatrix,
    /// Where the result goes, `[tokens, rows]`; every element is overwritten.
    pub out: &'a mut [f32],
}

/// Multiplies the activations `x`, `[tokens, columns]`, with each of the weight matrices, spread over the threads of
/// the current rayon pool.
///
/// # Errors
/// [`KernelError`] when shapes don't match.
pub fn matmul(x: &[f32], products: &mut [Product<'_>], workspace: &mut Workspace) -> Result<(), KernelError> {
    matmul_with(Isa::detect(), x, products, workspace)
}

pub(crate) fn matmul_with(
    isa: Isa,
    x: &[f32],
    products: &mut [Product<'_>],
    workspace: &mut Workspace,
) -> Result<(), KernelError> {
    let Some(columns) = products.first().map(|p| p.weights.columns()) else { return Ok(()) };
    let tokens = x.len().checked_div(columns).unwrap_or(0);
    check_length("the activations", x.len(), tokens * columns)?;
    for product in products.iter() {
        check_length("a row of a weight matrix", product.weights.columns(), columns)?;
        check_length("the result of a product", product.out.len(), tokens * product.weights.rows())?;
    }
    if tokens == 0 {
        products.iter_mut().for_each(|product| product.out.fill(0.0));
        return Ok(());
    }
    let dense = products.iter().any(|p| p.weights.is_dense());
    let quantised = products.iter().any(|p| !p.weights.is_dense());
    let activations = Activations::pack(isa, x, columns, (dense, quantised), workspace);
    let targets: Vec<Target<'_>> =
        products.iter_mut().map(|p| Target { weights: p.weights, out: SharedSlice::new(p.out) }).collect();
    let run = |target: usize, panels: Range<usize>, tiles: Range<usize>| {
        isa.run(Item { target: &targets[target], activations, panels, tiles });
    };
    let rows: usize = targets.iter().map(|t| t.weights.rows()).sum();
    let tiles = activations.tiling().tiles();
    if tokens * rows * columns < PARALLEL_FROM || parallel::threads() == 1 {
        targets.iter().enumerate().for_each(|(i, t)| run(i, 0..t.weights.panels(), 0..tiles));
    } else {
        let items = items(&targets, tiles);
        parallel::for_each(items.len(), |i| {
            let (target, panels, tiles) = items[i].clone();
            run(target, panels, tiles);
        });
    }
    Ok(())
}

/// Cuts the products into work items of about equal size: ranges of panels, and of tiles where panels don't suffice.
fn items(targets: &[Target<'_>], tiles: usize) -> Vec<(usize, Range<usize>, Range<usize>)> {
    let wanted = parallel::threads() * ITEMS_PER_THREAD;
    let panels: usize = targets.iter().map(|t| t.weights.panels()).sum();
    let panels_each = panels.div_ceil(wanted).max(1);
    let tiles_each = (tiles * panels).div_ceil(wanted * panels_each).clamp(1, tiles);
    let mut items = Vec::with_capacity(wanted + targets.len());
    for (i, target) in targets.iter().enumerate() {
        let count = target.weights.panels();
        for first in (0..count).step_by(panels_each) {
            for tile in (0..tiles).step_by(tiles_each) {
                items.push((i, first..count.min(first + panels_each), tile..tiles.min(tile + tiles_each)));
            }
        }
    }
    items
}

struct Target<'a> {
    weights: &'a PackedMatrix,
    out: SharedSlice<f32>,
}

/// Some panels of one matrix times some tiles of tokens.
struct Item<'a> {
    target: &'a Target<'a>,
    activations: Activations<'a>,
    panels: Range<usize>,
    tiles: Range<usize>,
}

impl Kernel for Item<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let tiling = self.activations.tiling();
        let columns = self.target.weights.columns();
        let element = if self.target.weights.is_dense() { size_of::<f32>() } else { size_of::<i8>() };
        let tiles_at_once = (ACTIVATION_BYTES / (S::TILE * columns * element).max(1)).max(1);
        for first in self.tiles.clone().step_by(tiles_at_once) {
            for panel in self.panels.clone() {
                for tile in first..self.tiles.end.min(first + tiles_at_once) {
                    with_tile!(tiling.width(tile), W => self.tile::<S, W>(s, panel, tile));
                }
            }
        }
    }
}

impl Item<'_> {
    #[inline(always)]
    fn tile<S: Simd, const W: usize>(&self, s: S, panel: usize, tile: usize) {
        if W > S::TILE {
            return; // Never asked for; spares compiling tiles that this instruction set has no registers for.
        }
        let weights = self.target.weights;
        let (columns, blocks) = (weights.columns(), weights.columns() / BLOCK);
        let mut sums = match weights.storage() {
            Storage::F32(lines) => {
                dense::<S, f32, W>(s, &lines[panel * columns..][..columns], self.activations.dense_tile(tile))
            }
            Storage::F16(lines) => {
                dense::<S, f16, W>(s, &lines[panel * columns..][..columns], self.activations.dense_tile(tile))
            }
            Storage::BF16(lines) => {
                dense::<S, bf16, W>(s, &lines[panel * columns..][..columns], self.activations.dense_tile(tile))
            }
            Storage::Nibbles { codes, scales } => {
                let codes = &codes.as_chunks().0[panel * blocks..][..blocks];
                nibbles::<S, W>(s, codes, &scales[panel * blocks..][..blocks], self.activations.quantised_tile(tile))
            }
            Storage::Bytes { codes, scales } => {
                let codes = &codes.as_chunks().0[panel * blocks..][..blocks];
                bytes::<S, W>(s, codes, &scales[panel * blocks..][..blocks], self.activations.quantised_tile(tile))
            }
        };
        if let Some(bias) = weights.panel_bias(panel) {
            for sum in &mut sums {
                *sum = s.add(*sum, s.load(&bias.0));
            }
        }
        let rows = LANES.min(weights.rows() - panel * LANES);
        let first_token = self.activations.tiling().first_token(tile);
        let mut values = [0.0; LANES];
        for (token, sum) in sums.into_iter().enumerate() {
            s.store(sum, &mut values);
            let at = (first_token + token) * weights.rows() + panel * LANES;
            if rows == LANES {
                self.target.out.write(at, &values);
            } else {
                self.target.out.write(at, &values[..rows]);
            }
        }
    }
}

/// Sixteen dense rows times `W` tokens.
#[inline(always)]
fn dense<S: Simd, T: Element, const W: usize>(s: S, weights: &[DenseLine<T>], x: &[[f32; W]]) -> [S::F; W] {
    let mut sums = [s.splat(0.0); W];
    for (line, x) in weights.iter().zip(x) {
        let w = T::load(s, &line.0);
        for t in 0..W {
            sums[t] = s.fma(w, s.splat(x[t]), sums[t]);
        }
    }
    sums
}

/// Sixteen rows of 4-bit weights times `W` tokens.
#[inline(always)]
fn nibbles<S: Simd, const W: usize>(
    s: S,
    codes: &[[CodeLine; 4]],
    scales: &[ScaleLine],
    (quads, token_scales): QuantisedTile<'_, W>,
) -> [S::F; W] {
    let mut sums = [s.splat(0.0); W];
    for (((codes, scale), quads), token_scale) in codes.iter().zip(scales).zip(quads).zip(token_scales) {
        let mut dots = [s.zero(); W];
        if W <= FETCH_UP_TO {
            for line in codes {
                s.prefetch(std::ptr::from_ref(line).wrapping_byte_add(AHEAD));
            }
            s.prefetch(std::ptr::from_ref(scale).wrapping_byte_add(AHEAD / 4));
        }
        for j in 0..4 {
            let (low, high) = s.nibbles(&codes[j]);
            for t in 0..W {
                dots[t] = s.dot_nibbles(dots[t], low, quads[j][t]);
            }
            for t in 0..W {
                dots[t] = s.dot_nibbles(dots[t], high, quads[j + 4][t]);
            }
        }
        let (d, m) = scale.0.split_at(LANES);
        let (Some(d), Some(m)) = (d.first_chunk(), m.first_chunk()) else { continue };
        let (d, m) = (s.load_f16(d), s.load_f16(m));
        for t in 0..W {
            let product = s.mul(d, s.splat(token_scale[0][t]));
            sums[t] = s.fma(s.to_f32(dots[t]), product, sums[t]);
            sums[t] = s.fma(m, s.splat(token_scale[1][t]), sums[t]);
        }
    }
    sums
}

/// Sixteen rows of 8-bit weights times `W` tokens.
#[inline(always)]
fn bytes<S: Simd, const W: usize>(
    s: S,
    codes: &[[CodeLine; 8]],
    scales: &[FloatLine],
    (quads, token_scales): QuantisedTile<'_, W>,
) -> [S::F; W] {
    let mut sums = [s.splat(0.0); W];
    for (((codes, d), quads), token_scale) in codes.iter().zip(scales).zip(quads).zip(token_scales) {
        let mut dots = [s.zero(); W];
        if W <= FETCH_UP_TO {
            for line in codes {
                s.prefetch(std::ptr::from_ref(line).wrapping_byte_add(AHEAD));
            }
            s.prefetch(std::ptr::from_ref(d).wrapping_byte_add(AHEAD / 8));
        }
        for j in 0..8 {
            let codes = s.codes(&codes[j]);
            for t in 0..W {
                dots[t] = s.dot_codes(dots[t], codes, quads[j][t]);
            }
        }
        let d = s.load(&d.0);
        for t in 0..W {
            // d·(s·Σ u·q − 128·s·Σ q): the codes are offset by 128.
            let dot = s.fma(s.to_f32(dots[t]), s.splat(token_scale[0][t]), s.splat(token_scale[2][t]));
            sums[t] = s.fma(d, dot, sums[t]);
        }
    }
    sums
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        WeightFormat, reference,
        testing::{assert_close, encoded, values},
    };

    const FORMATS: [WeightFormat; 6] = [
        WeightFormat::F32,
        WeightFormat::F16,
        WeightFormat::BF16,
        WeightFormat::Q4_0,
        WeightFormat::Q4_1,
        WeightFormat::Q8_0,
    ];

    fn multiply(isa: Isa, x: &[f32], weights: &[&PackedMatrix]) -> Vec<Vec<f32>> {
        let tokens = x.len() / weights[0].columns();
        let mut results: Vec<Vec<f32>> = weights.iter().map(|w| vec![f32::NAN; tokens * w.rows()]).collect();
        let mut products: Vec<Product<'_>> =
            weights.iter().zip(&mut results).map(|(weights, out)| Product { weights, out }).collect();
        matmul_with(isa, x, &mut products, &mut Workspace::default()).unwrap();
        results
    }

    /// What rounding the activations of each block of 32 to steps of 1/127 of its largest may do to each result: 6.5 standard
    /// deviations of a sum of independent roundings, which one result in ten thousand million exceeds.
    fn rounding_bounds(x: &[f32], weights: &PackedMatrix) -> Vec<f32> {
        let mut row = vec![0.0; weights.columns()];
        let mut rows = Vec::new();
        for r in 0..weights.rows() {
            weights.row(r, &mut row).unwrap();
            rows.push(row.chunks(32).map(|block| block.iter().map(|w| w * w).sum::<f32>()).collect::<Vec<_>>());
        }
        let bounds = x.chunks(weights.columns()).flat_map(|token| {
            let largest = |block: &[f32]| block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let steps: Vec<f32> = token.chunks(32).map(|block| largest(block) / 127.0).collect();
            let variance = |row: &Vec<f32>| row.iter().zip(&steps).map(|(w, step)| w * step * step / 12.0).sum::<f32>();
            rows.iter().map(|row| 6.5 * variance(row).sqrt()).collect::<Vec<_>>()
        });
        bounds.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_match_the_reference(
            tokens in 1usize..40, rows in 1usize..70, blocks in 1usize..5, format in 0usize..6, biased: bool, seed: u64,
        ) {
            let (format, columns) = (FORMATS[format], blocks * 32);
            let bytes = encoded(format, rows * columns, seed);
            let mut weights = PackedMatrix::from_rows(format, rows, columns, &bytes).unwrap();
            let x = values(tokens * columns, 1.0, seed ^ 1);
            let mut expected = reference::matmul(&x, &weights);
            if biased {
                let bias = values(rows, 3.0, seed ^ 2);
                expected.iter_mut().enumerate().for_each(|(i, y)| *y += bias[i % rows]);
                weights = weights.with_bias(&bias).unwrap();
            }
            let dense = weights.to_dense().unwrap();
            for isa in Isa::available() {
                let results = multiply(isa, &x, &[&weights, &dense]);
                if weights.is_dense() {
                    assert_close(&results[0], &expected, 1e-5, isa.name());
                } else {
                    let bounds = rounding_bounds(&x, &dense);
                    for ((found, expected), bound) in results[0].iter().zip(&expected).zip(bounds) {
                        let off = (found - expected).abs();
                        prop_assert!(off <= bound + 1e-5 * expected.abs(), "{}: {off} over {bound}", isa.name());
                    }
                }
                assert_close(&results[1], &expected, 1e-5, isa.name());
            }
        }

        #[test]
        fn integers_are_multiplied_exactly(
            tokens in 1usize..30, rows in 1usize..40, format in 3usize..6, seed: u64,
        ) {
            // Whole activations with a largest value of 127 in each block are not rounded by quantisation.
            let columns = 96;
            let bytes = encoded(FORMATS[format], rows * columns, seed);
            let weights = PackedMatrix::from_rows(FORMATS[format], rows, columns, &bytes).unwrap();
            let mut x: Vec<f32> = values(tokens * columns, 127.4, seed).iter().map(|x| x.round()).collect();
            x.iter_mut().step_by(32).for_each(|x| *x = 127.0);
            let expected = reference::matmul(&x, &weights);
            for isa in Isa::available() {
                assert_close(&multiply(isa, &x, &[&weights])[0], &expected, 1e-6, isa.name());
            }
        }
    }

    #[test]
    fn a_result_does_not_depend_on_the_batch_it_is_in() {
        let columns = 288;
        for format in FORMATS {
            let rows = 500;
            let bytes = encoded(format, rows * columns, 5);
            let weights = PackedMatrix::from_rows(format, rows, columns, &bytes).unwrap();
            let x = values(31 * columns, 3.0, 6);
            for isa in Isa::available() {
                let whole = &multiply(isa, &x, &[&weights])[0];
                for (first, last) in [(0, 1), (30, 31), (3, 17), (11, 31)] {
                    let part = &multiply(isa, &x[first * columns..last * columns], &[&weights])[0];
                    let same = part.iter().zip(&whole[first * rows..]).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} {format:?} {first}..{last}", isa.name());
                }
            }
        }
    }

    #[test]
    fn mismatched_shapes_are_refused() {
        let weights = PackedMatrix::from_f32(3, 4, &[1.0; 12]).unwrap();
        let mut out = [0.0; 6];
        let run = |x: &[f32], out: &mut [f32]| {
            matmul(x, &mut [Product { weights: &weights, out }], &mut Workspace::default())
        };
        assert!(run(&[1.0; 8], &mut out).is_ok());
        assert!(run(&[1.0; 7], &mut out).is_err());
        assert!(run(&[1.0; 4], &mut out).is_err());
        assert!(PackedMatrix::from_f32(3, 4, &[1.0; 11]).is_err());
        assert!(PackedMatrix::from_rows(WeightFormat::Q4_1, 1, 48, &[0; 30]).is_err());
        assert!(PackedMatrix::from_rows(WeightFormat::Q4_1, 2, 32, &[0; 39]).is_err());
    }
}
