//! Principal components: the few directions in which points differ most.

use rayon::prelude::*;

use super::{
    points::{BLOCK, Points, dot},
    symmetric,
};

/// Points that the directions are found from; of more, every so many-th is taken.
const SAMPLE: usize = 8192;
/// A direction with less than this share of the variance of the first is noise of rounding.
const NEGLIGIBLE: f64 = 1e-12;

/// Directions, and the mean they start from.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    mean: Vec<f64>,
    axes: Vec<Vec<f64>>,
    variances: Vec<f64>,
}

impl Projection {
    /// The at most `count` principal components of `points`. There are fewer where points differ in fewer directions, and
    /// none where all are equal.
    pub fn fit(points: &Points, count: usize, seed: u64) -> Self {
        let step = points.rows().div_ceil(SAMPLE).max(1);
        let sample: Vec<usize> = (0..points.rows()).step_by(step).collect();
        let (rows, dims) = (sample.len(), points.dims());
        let mut mean = vec![0.0; dims];
        for row in &sample {
            mean.iter_mut().zip(points.row(*row)).for_each(|(sum, x)| *sum += x);
        }
        mean.iter_mut().for_each(|sum| *sum /= rows.max(1) as f64);
        let centred: Vec<f64> =
            sample.iter().flat_map(|row| points.row(*row).iter().zip(&mean).map(|(x, m)| x - m)).collect();
        // Of the two matrices with the same eigenvalues the smaller one: between dimensions, or between points.
        let found = if rows < dims {
            let gram = products(&centred, rows, dims);
            symmetric::largest(&gram, rows, count, seed)
                .into_iter()
                .map(|(value, shares)| {
                    let mut axis = vec![0.0; dims];
                    for (share, row) in shares.iter().zip(centred.chunks_exact(dims)) {
                        axis.iter_mut().zip(row).for_each(|(a, x)| *a += share * x);
                    }
                    let length = dot(&axis, &axis).sqrt();
                    axis.iter_mut().for_each(|a| *a /= length.max(f64::MIN_POSITIVE));
                    (value, axis)
                })
                .collect()
        } else {
            let mut columns = vec![0.0; rows * dims];
            for (r, row) in centred.chunks_exact(dims).enumerate() {
                row.iter().enumerate().for_each(|(c, x)| columns[c * rows + r] = *x);
            }
            symmetric::largest(&products(&columns, dims, rows), dims, count, seed)
        };
        let scale: f64 = points.iter().take(BLOCK).map(|row| dot(row, row)).fold(f64::MIN_POSITIVE, f64::max);
        let least = found.first().map_or(0.0, |(value, _)| value * NEGLIGIBLE).max(scale * rows as f64 * 1e-24);
        let (mut axes, mut variances) = (Vec::new(), Vec::new());
        for (value, mut axis) in found.into_iter().filter(|(value, _)| *value > least) {
            let largest = axis.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
            axis.iter_mut().for_each(|a| *a *= largest.signum());
            axes.push(axis);
            variances.push(value / rows as f64);
        }
        Self { mean, axes, variances }
    }

    /// Number of directions.
    pub fn dims(&self) -> usize {
        self.axes.len()
    }

    /// Variance in each direction, falling.
    pub fn variances(&self) -> &[f64] {
        &self.variances
    }

    /// Coordinates of `points` in these directions: `[rows, dims]`.
    pub fn apply(&self, points: &Points) -> Points {
        let offsets: Vec<f64> = self.axes.iter().map(|axis| dot(axis, &self.mean)).collect();
        let blocks: Vec<Vec<f64>> = points
            .values()
            .par_chunks(BLOCK * points.dims())
            .map(|block| {
                let row = |row| self.axes.iter().zip(&offsets).map(move |(axis, offset)| dot(row, axis) - offset);
                block.chunks_exact(points.dims()).flat_map(row).collect()
            })
            .collect();
        Points::of(blocks.concat(), self.dims())
    }
}

/// Every product of two of `count` vectors of `length`: a symmetric matrix.
fn products(vectors: &[f64], count: usize, length: usize) -> Vec<f64> {
    let vector = |i: usize| &vectors[i * length..(i + 1) * length];
    let rows = |i: usize| (0..=i).map(|j| dot(vector(i), vector(j))).collect::<Vec<f64>>();
    let lower: Vec<Vec<f64>> = (0..count).into_par_iter().map(rows).collect();
    let mut matrix = vec![0.0; count * count];
    for (i, row) in lower.iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            matrix[i * count + j] = *value;
            matrix[j * count + i] = *value;
        }
    }
    matrix
}
