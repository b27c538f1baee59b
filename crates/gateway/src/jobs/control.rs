//! What running work and those who watch it share.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use edgewise_retrieval::{Job, JobState};
use edgewise_types::TenantId;
use serde_json::Value;
use tokio::sync::watch;

use crate::state::{Lifecycle, Phase};

/// How often work that waits looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// Why work should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody cancelled the job: it is over.
    Cancelled,
    /// The server goes down: the job goes on at its next start.
    Shutdown,
}

/// What is asked of a job.
#[derive(Debug, Default)]
struct Wishes {
    pause: AtomicBool,
    cancel: AtomicBool,
}

/// Jobs that wait for their turn, and the one that has it.
#[derive(Debug, Default)]
struct Line {
    /// Ids, first come first.
    waiting: Vec<String>,
    /// Whose turn it is.
    turn: Option<String>,
}

/// Gives jobs their turns. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<(Mutex<Line>, Condvar)>);

impl Turns {
    fn with<T>(&self, act: impl FnOnce(&mut Line) -> T) -> T {
        let done = act(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
        done
    }

    fn join(&self, id: &str) {
        self.with(|line| line.waiting.push(id.to_owned()));
    }

    /// Gives back the turn, or the place in the line.
    fn leave(&self, id: &str) {
        self.with(|line| {
            line.waiting.retain(|waiting| waiting != id);
            if line.turn.as_deref() == Some(id) {
                line.turn = None;
            }
        });
    }

    /// Waits a moment for the turn.
    fn try_take(&self, id: &str) -> bool {
        let (line, changed) = &*self.0;
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |line: &Line| line.turn.is_none() && line.waiting.first().is_some_and(|first| first == id);
        if !free(&line) {
            line = changed.wait_timeout(line, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let free = free(&line);
        if free {
            line.waiting.remove(0);
            line.turn = Some(id.to_owned());
        }
        free
    }
}

/// The handle of a job: for its work, and for those who ask things of it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    tenant: TenantId,
    /// Its place in the line is under this name: ids of two tenants may be equal, where one imported the other's export.
    id: Arc<str>,
    job: Arc<watch::Sender<Job>>,
    wishes: Arc<Wishes>,
    turns: Turns,
    lifecycle: Lifecycle,
    /// Told at each change of the job's state.
    changed: mpsc::Sender<()>,
}

impl Control {
    /// A handle, and what hears of each change of state.
    pub(super) fn new(tenant: TenantId, job: Job, turns: Turns, lifecycle: Lifecycle) -> (Self, mpsc::Receiver<()>) {
        let (changed, changes) = mpsc::channel();
        let wishes = Wishes { pause: AtomicBool::new(job.state == JobState::Paused), ..Wishes::default() };
        let id = format!("{tenant}/{}", job.id).into();
        let job = Arc::new(watch::Sender::new(job));
        (Self { tenant, id, job, wishes: Arc::new(wishes), turns, lifecycle, changed }, changes)
    }

    /// Whose it is.
    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The job now.
    pub(crate) fn job(&self) -> Job {
        self.job.borrow().clone()
    }

    /// Follows the job.
    pub(super) fn subscribe(&self) -> watch::Receiver<Job> {
        self.job.subscribe()
    }

    /// Asks the job to pause. False if it is over.
    pub(super) fn pause(&self) -> bool {
        self.wishes.pause.store(true, Ordering::Release);
        // Seen at once by whoever asks next, although the work may finish a step first.
        self.change_state(JobState::Paused)
    }

    /// Lets a paused job go on. False if it is over.
    pub(super) fn resume(&self) -> bool {
        self.wishes.pause.store(false, Ordering::Release);
        let its_turn = self.turns.with(|line| line.turn.as_deref() == Some(&*self.id));
        self.change_state(if its_turn { JobState::Running } else { JobState::Queued })
    }

    /// Asks the job to end. False if it is over.
    pub(super) fn cancel(&self) -> bool {
        self.wishes.cancel.store(true, Ordering::Release);
        !self.job.borrow().state.ended()
    }

    /// Why work should end, if it should, without waiting: for calls that can't wait.
    pub(crate) fn stop(&self) -> Option<Stop> {
        if self.wishes.cancel.load(Ordering::Acquire) {
            return Some(Stop::Cancelled);
        }
        (self.lifecycle.phase() >= Phase::Draining).then_some(Stop::Shutdown)
    }

    /// To be called between two steps of the work: waits while the job is paused, and says when to end.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if let Some(stop) = self.stop() {
            return Err(stop);
        }
        if self.wishes.pause.load(Ordering::Acquire) {
            self.turns.leave(&self.id);
            return self.take_turn();
        }
        Ok(())
    }

    /// Waits until the job is not paused and it is its turn.
    pub(super) fn take_turn(&self) -> Result<(), Stop> {
        let mut in_line = false;
        loop {
            if let Some(stop) = self.stop() {
                self.turns.leave(&self.id);
                return Err(stop);
            }
            if self.wishes.pause.load(Ordering::Acquire) {
                // A paused job keeps no place.
                self.turns.leave(&self.id);
                in_line = false;
                self.change_state(JobState::Paused);
                std::thread::sleep(LOOK);
                continue;
            }
            if !in_line {
                self.turns.join(&self.id);
                in_line = true;
                self.change_state(JobState::Queued);
            }
            if self.turns.try_take(&self.id) {
                self.change_state(JobState::Running);
                return Ok(());
            }
        }
    }

    /// Gives the turn back at the end.
    pub(super) fn leave_line(&self) {
        self.turns.leave(&self.id);
        // Its record may be due, also where the server goes down and the state stays. Nobody may keep the job any more.
        let _ = self.changed.send(());
    }

    /// Tells how the work goes.
    pub(crate) fn progress(&self, done: usize, total: usize, detail: Value) {
        self.job.send_modify(|job| {
            job.updated_at = jiff::Timestamp::now();
            (job.done, job.total, job.detail) = (done, total, detail);
        });
    }

    /// Ends the job. Only the first call has an effect.
    pub(super) fn end(&self, state: JobState, detail: Value, error: Option<String>) {
        self.job.send_if_modified(|job| {
            let open = !job.state.ended();
            if open {
                let now = jiff::Timestamp::now();
                (job.state, job.detail, job.error) = (state, detail, error);
                (job.updated_at, job.finished_at) = (now, Some(now));
            }
            open
        });
        // Nobody may keep the job any more.
        let _ = self.changed.send(());
    }

    /// False if the job is over.
    fn change_state(&self, state: JobState) -> bool {
        let mut open = false;
        let changed = self.job.send_if_modified(|job| {
            open = !job.state.ended();
            let changes = open && job.state != state;
            if changes {
                let now = jiff::Timestamp::now();
                (job.state, job.updated_at) = (state, now);
                if state == JobState::Running {
                    job.started_at.get_or_insert(now);
                }
            }
            changes
        });
        if changed {
            let _ = self.changed.send(());
        }
        open
    }
}
