//! What a parser works under: a deadline, limits, and passwords; and the worker thread that contains it.
//!
//! Each parse runs on a thread of its own with a large stack. A panic there ends as an error, a thread that outlives
//! the deadline is told to stop and left behind, so that neither holds up the caller. Contained this way: panics,
//! endless loops, deep recursion within the stack, output and unpacked input above the limits.
//!
//! Deliberately not here, since it takes a process of its own (module `worker`): a cap on all memory a parser allocates,
//! and the end of a thread that never looks at its deadline. A stack overflow ends the process, so nesting is bounded
//! before any recursion over it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{DocumentError, Limits, ParsedDocument, Parser, Passwords, SourceInfo};

/// Stack of a parser's thread. Pages that are never touched cost address space only.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// What a parser works under.
#[derive(Debug, Clone)]
pub struct Work {
    deadline: Instant,
    /// Set when the caller has given up.
    abandoned: Arc<AtomicBool>,
    limits: Limits,
    passwords: Passwords,
}

impl Work {
    /// Work that begins now.
    pub fn new(limits: Limits, passwords: Passwords) -> Self {
        let deadline = Instant::now() + Duration::from_secs(limits.max_seconds);
        Self { deadline, abandoned: Arc::default(), limits, passwords }
    }

    /// Bytes that may be unpacked from a compressed file, and most bytes of text.
    pub fn max_unpacked_bytes(&self) -> usize {
        self.limits.max_unpacked_bytes
    }

    /// Passwords to try on an encrypted file.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// Whether time is up.
    pub fn is_over(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// [`DocumentError::TimeLimit`] once time is up. Parsers call it in every loop over their input that may be long.
    pub fn check(&self, source: &SourceInfo) -> Result<(), DocumentError> {
        if self.is_over() { Err(self.time_limit(source)) } else { Ok(()) }
    }

    fn time_limit(&self, source: &SourceInfo) -> DocumentError {
        DocumentError::TimeLimit { uri: source.uri.clone(), seconds: self.limits.max_seconds }
    }

    /// [`DocumentError::TooMuchUnpacked`] for `source`.
    pub fn too_much(&self, source: &SourceInfo) -> DocumentError {
        DocumentError::TooMuchUnpacked { uri: source.uri.clone(), limit: self.limits.max_unpacked_bytes }
    }
}

/// Runs `parser` on a thread of its own under `work`; see the module for what is contained.
pub fn parse_isolated(
    parser: &Arc<dyn Parser>,
    bytes: &[u8],
    source: &SourceInfo,
    work: &Work,
) -> Result<ParsedDocument, DocumentError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let task = {
        // Owned, since the thread may outlive this call.
        let (parser, bytes, source, work) = (Arc::clone(parser), bytes.to_vec(), source.clone(), work.clone());
        move || {
            let result = contained(parser.as_ref(), &bytes, &source, &work);
            // Nobody listens any more if time was up.
            let _ = sender.send(result);
        }
    };
    let thread = std::thread::Builder::new().name("parser".to_owned()).stack_size(STACK_BYTES).spawn(task);
    let failed =
        |reason: String| DocumentError::ParserFailed { uri: source.uri.clone(), parser: parser.name(), reason };
    let thread = thread.map_err(|error| failed(format!("its thread cannot be started ({error})")))?;
    let left = work.deadline.saturating_duration_since(Instant::now());
    match receiver.recv_timeout(left) {
        Ok(result) => {
            // It has sent its result and is about to end; nothing it could still report matters.
            let _ = thread.join();
            result
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            work.abandoned.store(true, Ordering::Relaxed);
            Err(work.time_limit(source))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(failed("its thread ended without a result".to_owned())),
    }
}

/// Runs `parser` and turns a panic inside it into [`DocumentError::ParserFailed`]. The process's panic hook still
/// reports the panic.
fn contained(
    parser: &dyn Parser,
    bytes: &[u8],
    source: &SourceInfo,
    work: &Work,
) -> Result<ParsedDocument, DocumentError> {
    // Unwind safety: a parser holds no state between calls, and its partial result is dropped.
    let caught = catch_unwind(AssertUnwindSafe(|| parser.parse(bytes, source, work)));
    let document = caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let reason = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(DocumentError::ParserFailed {
            uri: source.uri.clone(),
            parser: parser.name(),
            reason: reason.unwrap_or_else(|| "it panicked without a message".to_owned()),
        })
    })?;
    if document.text.len() > work.max_unpacked_bytes() { Err(work.too_much(source)) } else { Ok(document) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests {
    use super::*;

    /// Work under the default limits.
    pub(crate) fn work() -> Work {
        Work::new(crate::IndexProfile::default().limits, Passwords::default())
    }

    /// A parser that does what its function does.
    struct Odd(fn(&Work));

    impl Parser for Odd {
        fn name(&self) -> &'static str {
            "odd"
        }
        fn media_types(&self) -> &'static [&'static str] {
            &["x/x"]
        }
        fn extensions(&self) -> &'static [&'static str] {
            &["x"]
        }
        fn parse(&self, _: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
            (self.0)(work);
            Err(DocumentError::Empty { uri: source.uri.clone() })
        }
    }

    fn error_of(action: fn(&Work), max_seconds: u64) -> DocumentError {
        let limits = Limits { max_seconds, ..crate::IndexProfile::default().limits };
        let parser: Arc<dyn Parser> = Arc::new(Odd(action));
        parse_isolated(&parser, b"", &SourceInfo::new("f.x"), &Work::new(limits, Passwords::default())).unwrap_err()
    }

    #[test]
    fn a_panic_in_a_parser_is_an_error_of_the_file() {
        let error = error_of(|_| panic!("index {} out of range", 3), 60).to_string();
        assert!(error.contains("f.x") && error.contains("index 3 out of range"), "{error}");
    }

    #[test]
    fn a_parser_that_never_ends_is_left_behind() {
        let start = Instant::now();
        let stuck = |work: &Work| {
            // Deaf to its deadline, except that the test's process must end some day.
            while start_of_test(work).elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        assert!(matches!(error_of(stuck, 1), DocumentError::TimeLimit { seconds: 1, .. }));
        assert!(start.elapsed() < Duration::from_secs(15));
    }

    fn start_of_test(work: &Work) -> Instant {
        work.deadline - Duration::from_secs(work.limits.max_seconds)
    }

    #[test]
    fn recursion_within_the_stack_is_survived() {
        fn down(depth: usize) -> usize {
            let frame = std::hint::black_box([depth; 64]);
            if depth == 0 { frame[0] } else { down(depth - 1) + frame[1] }
        }
        // About 12 MB, which the usual 2 MB of a thread would not hold.
        let deep = |_: &Work| assert!(down(20_000) > 0);
        assert!(matches!(error_of(deep, 60), DocumentError::Empty { .. }));
    }
}
