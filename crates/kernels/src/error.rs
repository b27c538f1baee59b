//! Refusals of the kernels.

/// A kernel was called with arguments that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// A buffer has the wrong length.
    #[error("{what} has {actual} elements where its shape calls for {expected}: pass buffers of matching shapes")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The length the shapes call for.
        expected: usize,
    },
    /// A dimension is not one the kernel works with.
    #[error("{what} is {actual} but must be {rule}")]
    Dimension {
        /// Which dimension.
        what: &'static str,
        /// Its value.
        actual: usize,
        /// What is required of it.
        rule: &'static str,
    },
}

/// Refuses a buffer whose length is not `expected`.
pub(crate) fn check_length(what: &'static str, actual: usize, expected: usize) -> Result<(), KernelError> {
    if actual == expected { Ok(()) } else { Err(KernelError::Length { what, actual, expected }) }
}
