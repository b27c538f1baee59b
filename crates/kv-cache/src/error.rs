//! What can go wrong in the cache.

/// A cache can't be built, or a prefix can't be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The options contradict each other.
    #[error("the key-value cache cannot be set up: {0}")]
    Options(String),
    /// A prefix to be restored isn't well-formed.
    #[error("the prefix cannot be restored: {0}")]
    Import(String),
    /// See [`OutOfPages`].
    #[error(transparent)]
    OutOfPages(#[from] OutOfPages),
}

/// Too few pages are free or may be evicted.
///
/// Never given to the only sequence that holds pages, unless what it asks for is larger than the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} more pages are needed but {available} of {total} can be had: close or preempt another sequence, or enlarge \
     the cache"
)]
pub struct OutOfPages {
    /// Pages asked for.
    pub needed: usize,
    /// Pages that were free after everything that may be evicted was.
    pub available: usize,
    /// Pages of the pool.
    pub total: usize,
}
