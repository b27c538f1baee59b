//! Ctrl-C for commands that run without a server: the first asks to stop cleanly, the second ends the process.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{CliError, exit};

/// Whether Ctrl-C was pressed. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets a press that has been acted on.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The flag itself, for calls that take one.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Starts to watch, once per process.
pub(crate) fn watch() -> Result<Interrupt, CliError> {
    static WATCH: OnceLock<Interrupt> = OnceLock::new();
    if let Some(watch) = WATCH.get() {
        return Ok(watch.clone());
    }
    let interrupt = Interrupt(Arc::default());
    let flag = interrupt.flag();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(i32::from(exit::INTERRUPTED));
                }
            }
        });
    })?;
    Ok(WATCH.get_or_init(|| interrupt).clone())
}
