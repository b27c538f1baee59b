//! How a long operation tells what it is doing.

/// Receives the progress of a pull or a check, in this order for each step: `start`, any number of `advance`, `finish`.
/// Called from the thread that called the store. A step that fails is not finished.
pub trait Progress: Send + Sync {
    /// A step begins: what it does, and how many bytes it will process, 0 when unknown. The number is an estimate.
    fn start(&self, step: &str, total_bytes: u64);

    /// Bytes processed since the last call.
    fn advance(&self, bytes: u64);

    /// The step is done.
    fn finish(&self);

    /// Something the user should know that is not an error.
    fn message(&self, text: &str);
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _step: &str, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn message(&self, _text: &str) {}
}
