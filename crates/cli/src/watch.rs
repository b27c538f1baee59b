//! Runs something whenever a file below the watched paths has changed and come to rest.
//!
//! - A burst of changes is one: editors write in several steps. One that never ends is looked at every few seconds.
//! - A file is watched through its folder, since editors put a new file in its place.
//! - A watched path that disappears is waited for; nobody takes a disk that was unplugged for a folder that was emptied.
//! - What happens in the ignored folder, where the program itself writes, is no change.
//!
//! Deliberately not here: what changed. Notifications can be lost, so the files themselves are compared.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::{error::CliError, interrupt::Interrupt, output};

/// How long nothing must happen before a change counts as complete.
const QUIET: Duration = Duration::from_millis(400);

/// How long changes that keep coming are waited for.
const LONGEST: Duration = Duration::from_secs(5);

/// How often the interrupt is looked at.
const TICK: Duration = Duration::from_millis(100);

/// When to try again what failed for a reason that may pass, such as a full disk.
const RETRY: Duration = Duration::from_secs(5);

/// The watched paths with their notifications.
struct Watch {
    events: Receiver<()>,
    /// What each path was when it began.
    identities: Vec<Option<Identity>>,
    _watcher: RecommendedWatcher,
}

/// Which file or folder a path leads to: device and number. Only Unix tells.
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<Identity> {
    path.exists().then_some((0, 0))
}

impl Watch {
    fn start(paths: &[PathBuf], ignored: &Path) -> Result<Self, CliError> {
        let unusable = |error: notify::Error| CliError::Usage(format!("cannot watch for changes: {error}"));
        let ignored = ignored.canonicalize().unwrap_or_else(|_| ignored.to_owned());
        let real: Vec<PathBuf> =
            paths.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
        let (folders, files): (Vec<PathBuf>, BTreeSet<PathBuf>) = {
            let (folders, files): (Vec<_>, Vec<_>) = real.into_iter().partition(|path| path.is_dir());
            (folders, files.into_iter().collect())
        };
        let (sender, events) = mpsc::channel();
        let (below, named) = (folders.clone(), files.clone());
        let counts = move |path: &PathBuf| {
            !path.starts_with(&ignored) && (named.contains(path) || below.iter().any(|folder| path.starts_with(folder)))
        };
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change; everything else, errors included, is a reason to look.
            let matters = match &event {
                Ok(event) => {
                    event.need_rescan()
                        || (!event.kind.is_access() && (event.paths.is_empty() || event.paths.iter().any(&counts)))
                }
                Err(_) => true,
            };
            if matters {
                // The receiver is gone only when watching has ended.
                let _ = sender.send(());
            }
        })
        .map_err(unusable)?;
        for folder in &folders {
            watcher.watch(folder, RecursiveMode::Recursive).map_err(unusable)?;
        }
        let parents: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        for parent in parents.into_iter().filter(|parent| !folders.iter().any(|folder| parent.starts_with(folder))) {
            watcher.watch(parent, RecursiveMode::NonRecursive).map_err(unusable)?;
        }
        let identities = paths.iter().map(|path| identity(path)).collect();
        Ok(Self { events, identities, _watcher: watcher })
    }

    /// The first path that is gone, or stands on another disk than before.
    fn gone<'p>(&self, paths: &'p [PathBuf]) -> Option<&'p Path> {
        let gone = |(path, before): &(&PathBuf, &Option<Identity>)| match (identity(path), before) {
            (None, _) => true,
            (Some(now), Some(before)) => now.0 != before.0,
            (Some(_), None) => false,
        };
        paths.iter().zip(&self.identities).find(gone).map(|(path, _)| path.as_path())
    }

    /// Whether a path now leads to another folder than the one that is watched.
    fn stale(&self, paths: &[PathBuf]) -> bool {
        paths.iter().zip(&self.identities).any(|(path, before)| path.is_dir() && identity(path) != *before)
    }
}

/// Runs `each` after every burst of changes until Ctrl-C. An error of `each` that may pass is shown, and what it did is
/// tried again later; one that can't ends the watching.
pub(crate) fn changes(
    paths: &[PathBuf],
    ignored: &Path,
    interrupt: &Interrupt,
    mut each: impl FnMut() -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut watch = Watch::start(paths, ignored)?;
    // What changed since the caller last looked and before the watch began.
    let (mut first, mut last) = (Some(Instant::now()), Instant::now());
    let mut retry: Option<Instant> = None;
    let mut waiting = false;
    loop {
        match watch.events.recv_timeout(TICK) {
            Ok(()) => {
                last = Instant::now();
                first.get_or_insert(last);
            }
            Err(RecvTimeoutError::Timeout) => {}
            // Only when the watcher has ended, which it does not while we hold it.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if interrupt.is_set() {
            return Ok(());
        }
        let rested = first.is_some_and(|first| last.elapsed() >= QUIET || first.elapsed() >= LONGEST);
        if !rested && !waiting && retry.is_none_or(|at| Instant::now() < at) {
            continue;
        }
        if let Some(path) = watch.gone(paths) {
            if !std::mem::replace(&mut waiting, true) {
                output::note(&format!("{} is gone: nothing is removed, waiting for it to come back", path.display()));
            }
            std::thread::sleep(TICK);
            continue;
        }
        if std::mem::take(&mut waiting) || watch.stale(paths) {
            watch = Watch::start(paths, ignored)?;
        }
        (first, retry) = (None, None);
        match each() {
            Ok(()) => {}
            Err(_) if interrupt.is_set() => return Ok(()),
            Err(error) if error.may_pass() => {
                output::note(&format!("{}: {error}", output::bad("error")));
                retry = Some(Instant::now() + RETRY);
            }
            Err(error) => return Err(error),
        }
    }
}
