//! What a server does about reading while it serves: takes up a new profile, and asks probes when it has nothing else to do.
//!
//! A probe's prompt is asked only while no other work is in the engine, and cancelled as soon as some comes: what was
//! asked before is kept, and the rest follows in the next quiet moment. Deliberately not here: what a probe says; see
//! `edgewise_planner::ReadingMonitor`.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use edgewise_evaluation::{EvaluationError, Probe, ProbeOptions, Progress, Rows};
use edgewise_model_api::Generator;
use edgewise_planner::{Planner, ProfileStore, ReadingMonitor, ReadingTask};
use edgewise_prompts::Prompts;

use crate::{
    app::{App, Stack},
    commands::probe::guide_text,
    error::CliError,
};

/// How often the thread looks whether it has something to do.
const LOOK: Duration = Duration::from_secs(1);

/// Looks between two looks at the profile's file.
const PROFILE_LOOKS: u64 = 15;

/// Longest prompt of a probe, in tokens.
const PROBE_TOKENS: usize = 1024;

/// Facts of a probe at each depth.
const PROBE_ITEMS: usize = 8;

/// Ends the thread when dropped.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Watcher {
    stop: Arc<AtomicBool>,
    generator: Arc<dyn Generator>,
    planner: Arc<Planner>,
    monitor: Arc<ReadingMonitor>,
    prompts: Prompts,
    profiles: ProfileStore,
    /// Time between probes; `None` is never.
    every: Option<Duration>,
}

struct Silent;

impl Progress for Silent {
    fn ingested(&self, _: usize, _: usize) {}
    fn answered(&self, _: usize, _: usize) {}
}

impl Watch {
    pub(crate) fn start(app: &App, stack: &Stack, monitor: Arc<ReadingMonitor>) -> Result<Self, CliError> {
        let stop = Arc::new(AtomicBool::new(false));
        let hours = app.settings().monitor.probe_every_h;
        let watcher = Watcher {
            stop: Arc::clone(&stop),
            generator: Arc::clone(&stack.generator),
            planner: Arc::clone(&stack.planner),
            monitor,
            prompts: Prompts::load(app.settings().paths.prompts_dir())?,
            profiles: app.profiles(),
            every: (hours > 0).then(|| Duration::from_secs(3600 * hours)),
        };
        thread::Builder::new().name("reading".to_owned()).spawn(move || watcher.run())?;
        Ok(Self { stop })
    }
}

impl Watcher {
    fn run(&self) {
        let path = self.profiles.path(self.generator.info(), "json");
        let mut changed = modified(&path);
        let mut looks = 0u64;
        while !self.stopped() {
            thread::sleep(LOOK);
            looks += 1;
            if looks.is_multiple_of(PROFILE_LOOKS) {
                let now = modified(&path);
                if now != changed {
                    changed = now;
                    self.take_up_profile();
                }
            }
            if self.due() && self.idle() {
                self.probe();
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn idle(&self) -> bool {
        self.generator.queue().requests == 0
    }

    fn due(&self) -> bool {
        let Some(every) = self.every else { return false };
        let since = |at| Duration::try_from(jiff::Timestamp::now().duration_since(at)).unwrap_or_default();
        self.monitor.probed_at().is_none_or(|at| since(at) >= every)
    }

    fn take_up_profile(&self) {
        match self.profiles.load(self.generator.info()) {
            Ok(Some(profile)) => {
                if self.planner.set_reading_profile(Arc::new(profile)) {
                    tracing::info!("prompts are placed by a new reading profile");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the model's new reading profile is not used"),
        }
    }

    /// Asks some facts at the beginning, the middle and the end, between other work.
    fn probe(&self) {
        let window = self.generator.info().context_window;
        let options = ProbeOptions {
            tasks: vec![ReadingTask::Needle],
            lengths: vec![PROBE_TOKENS.min(window / 2)],
            depths: 3,
            items: PROBE_ITEMS,
            // Other facts every time: the same ones would only be read from the cache.
            seed: u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0),
        };
        let probe = Probe::new(self.generator.as_ref(), &self.prompts, &guide_text(), None, &options);
        let mut rows = Rows::in_memory();
        let done = probe.and_then(|probe| {
            loop {
                // Its own prompt is one request: another means that somebody waits.
                let stop = || self.stopped() || self.generator.queue().requests > 1;
                match probe.run(&mut rows, &Silent, &stop) {
                    Err(EvaluationError::Interrupted) if self.stopped() => return Err(EvaluationError::Interrupted),
                    Err(EvaluationError::Interrupted) => {}
                    result => return result,
                }
                while !self.idle() && !self.stopped() {
                    thread::sleep(LOOK);
                }
            }
        });
        let at = jiff::Timestamp::now();
        match done {
            Ok(observations) => self.monitor.probed(at, &observations),
            Err(EvaluationError::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "a probe of how prompts are read failed; the next one is due in its time");
                self.monitor.probed(at, &[]);
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
