//! What can be wrong with points.

/// Failure of [`crate::cluster`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The values do not make whole rows.
    #[error("{values} values do not make {rows} points of {dims} dimensions")]
    Shape {
        /// Number of values.
        values: usize,
        /// Number of points.
        rows: usize,
        /// Dimensions of each.
        dims: usize,
    },
    /// A value is infinite or not a number: the embedding it is from is damaged.
    #[error("point {row} has a value that is not finite: embed it again")]
    NotFinite {
        /// The point.
        row: usize,
    },
    /// An option is out of range.
    #[error("{0}")]
    Options(&'static str),
}
