//! `--watch`: calls back when something below the watched paths has changed and come to rest.

use std::{
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use notify::{RecursiveMode, Watcher};

use crate::{error::CliError, interrupt::Interrupt};

/// How long nothing must happen before a change counts as complete: editors write in several steps.
const QUIET: Duration = Duration::from_millis(400);

/// How often the interrupt is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Runs `each` after every burst of changes until Ctrl-C or an error.
pub(crate) fn changes(
    paths: &[PathBuf],
    interrupt: &Interrupt,
    mut each: impl FnMut() -> Result<(), CliError>,
) -> Result<(), CliError> {
    let (sender, events) = mpsc::channel();
    let unusable = |error: notify::Error| CliError::Usage(format!("cannot watch for changes: {error}"));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a file is no change; everything else, errors included, is a reason to look.
        if !matches!(&event, Ok(event) if event.kind.is_access()) {
            // The receiver is gone only when watching has ended.
            let _ = sender.send(());
        }
    })
    .map_err(unusable)?;
    for path in paths {
        watcher.watch(path, RecursiveMode::Recursive).map_err(unusable)?;
    }
    let mut pending = false;
    loop {
        match events.recv_timeout(if pending { QUIET } else { TICK }) {
            Ok(()) => pending = true,
            Err(RecvTimeoutError::Timeout) if interrupt.is_set() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                if std::mem::take(&mut pending) {
                    each()?;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
