//! Rows of numbers.

use crate::ClusterError;

/// Rows taken together in a sum, so that a sum does not depend on the number of threads.
pub(crate) const BLOCK: usize = 256;

/// Points, row after row: `[rows, dims]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    values: Vec<f64>,
    rows: usize,
    dims: usize,
}

impl Points {
    /// `rows` points of `dims` dimensions each, finite ones.
    ///
    /// # Errors
    /// [`ClusterError::Shape`] and [`ClusterError::NotFinite`].
    pub fn new(values: Vec<f64>, rows: usize, dims: usize) -> Result<Self, ClusterError> {
        if rows.checked_mul(dims) != Some(values.len()) || dims == 0 {
            return Err(ClusterError::Shape { values: values.len(), rows, dims });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(ClusterError::NotFinite { row: at / dims }),
            None => Ok(Self { values, rows, dims }),
        }
    }

    /// Points from embeddings.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_f32(values: &[f32], rows: usize, dims: usize) -> Result<Self, ClusterError> {
        Self::new(values.iter().map(|value| f64::from(*value)).collect(), rows, dims)
    }

    /// Points that are known to be whole and finite.
    pub(crate) fn of(values: Vec<f64>, dims: usize) -> Self {
        let rows = values.len().checked_div(dims).unwrap_or(0);
        Self { values, rows, dims }
    }

    /// Number of points.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Dimensions of each.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Point `row`, which exists.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.dims..(row + 1) * self.dims]
    }

    /// All points, in order.
    pub(crate) fn iter(&self) -> std::slice::ChunksExact<'_, f64> {
        self.values.chunks_exact(self.dims)
    }

    /// All values, row after row.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// The points at `rows`, which exist, in that order.
    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        Self::of(rows.iter().flat_map(|row| self.row(*row)).copied().collect(), self.dims)
    }
}

/// Σ aᵢ·bᵢ, in four interleaved sums.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (mut sums, whole) = ([0.0; 4], a.len() / 4 * 4);
    for (a, b) in a[..whole].chunks_exact(4).zip(b[..whole].chunks_exact(4)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a[whole..].iter().zip(&b[whole..]).map(|(a, b)| a * b).sum();
    sums[0] + sums[1] + (sums[2] + sums[3]) + rest
}
