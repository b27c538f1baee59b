//! The jobs of a server: starting, finding and keeping them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use edgewise_retrieval::{Collection, Job, JobState, RetrievalError};
use edgewise_types::{CollectionName, TenantId};
use serde_json::Value;

use crate::{
    ApiError, ErrorKind, batch,
    jobs::{Control, Ended, Stop, Work, control::Turns},
    middleware::new_id,
    state::Lifecycle,
};

/// How often the record of a running job is brought up to date.
const KEEP: Duration = Duration::from_secs(3);

/// How long a new job's record waits for another write of its collection before the job is accepted without it; its own
/// thread then waits on.
const ACCEPT: Duration = Duration::from_secs(2);

/// Jobs that are over and still listed, of each collection.
const REMEMBERED: usize = 20;

/// Whose job, and its id: a tenant can't even name another's.
type Key = (TenantId, String);

/// The jobs of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Jobs {
    all: Arc<Mutex<BTreeMap<Key, Control>>>,
    turns: Turns,
    /// Of uploads, which would otherwise wait for hours behind a build.
    uploads: Turns,
    lifecycle: Lifecycle,
}

/// A job to start.
pub(crate) struct NewJob {
    /// Its id, if it must be known beforehand.
    pub(crate) id: Option<String>,
    /// Whose.
    pub(crate) tenant: TenantId,
    /// Where.
    pub(crate) collection: Arc<Collection>,
    /// What it does.
    pub(crate) kind: &'static str,
    /// What was asked for.
    pub(crate) request: Value,
}

impl Jobs {
    pub(crate) fn new(lifecycle: Lifecycle) -> Self {
        Self { all: Arc::default(), turns: Turns::default(), uploads: Turns::default(), lifecycle }
    }

    /// The line that jobs of a kind stand in.
    fn turns(&self, kind: &str) -> Turns {
        if kind == batch::KIND { self.uploads.clone() } else { self.turns.clone() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Key, Control>) -> T) -> T {
        act(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every job of a tenant that is not over and the last that are, newest first.
    pub(crate) fn list(&self, tenant: &TenantId) -> Vec<Job> {
        let own = |control: &&Control| control.tenant() == tenant;
        let mut jobs: Vec<Job> = self.with(|all| all.values().filter(own).map(Control::job).collect());
        jobs.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        jobs
    }

    /// The tenant's job with this id.
    pub(crate) fn get(&self, tenant: &TenantId, id: &str) -> Result<Control, ApiError> {
        self.with(|all| all.get(&(tenant.clone(), id.to_owned())).cloned()).ok_or_else(|| {
            ApiError::new(ErrorKind::UnknownJob, format!("there is no job `{id}`"))
                .hint("GET /v1/jobs lists those there are")
        })
    }

    /// Starts a job, or refuses while another build works on the collection. Blocks until it is on record.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]; what writing to the collection can fail with.
    pub(crate) fn start(&self, new: NewJob, work: Work) -> Result<Job, ApiError> {
        let now = jiff::Timestamp::now();
        let job = Job {
            id: new.id.unwrap_or_else(new_id),
            collection: new.collection.name().clone(),
            kind: new.kind.to_owned(),
            state: JobState::Queued,
            done: 0,
            total: 0,
            request: new.request,
            detail: Value::Null,
            created_at: now,
            started_at: None,
            updated_at: now,
            finished_at: None,
            error: None,
        };
        let changes = self.register(&new.tenant, &job)?;
        let recorded = new.collection.put_job(&job, ACCEPT);
        if let Err(error) = recorded {
            self.with(|all| all.remove(&(new.tenant, job.id)));
            return Err(error.into());
        }
        self.spawn(&new.tenant, &job, new.collection, work, changes);
        Ok(job)
    }

    /// Goes on with a job that an earlier server did not finish.
    pub(crate) fn take_up(
        &self,
        tenant: &TenantId,
        job: &Job,
        collection: Arc<Collection>,
        work: Work,
    ) -> Result<(), ApiError> {
        let changes = self.register(tenant, job)?;
        self.spawn(tenant, job, collection, work, changes);
        Ok(())
    }

    /// Lists jobs that were over before this server began.
    pub(crate) fn remember(&self, tenant: &TenantId, jobs: Vec<Job>) {
        for job in jobs {
            let turns = self.turns(&job.kind);
            let (control, _) = Control::new(tenant.clone(), job.clone(), turns, self.lifecycle.clone());
            self.with(|all| {
                all.entry((tenant.clone(), job.id)).or_insert(control);
            });
        }
    }

    fn register(&self, tenant: &TenantId, job: &Job) -> Result<mpsc::Receiver<()>, ApiError> {
        let turns = self.turns(&job.kind);
        let (control, changes) = Control::new(tenant.clone(), job.clone(), turns, self.lifecycle.clone());
        self.with(|all| {
            // Any number of uploads may wait; another build would only do the same again.
            let same = |other: &Job| {
                let waits = other.collection == job.collection && other.kind == job.kind && !other.state.ended();
                waits && job.kind != batch::KIND
            };
            let own = all.values().filter(|control| control.tenant() == tenant);
            if let Some(other) = own.map(Control::job).find(same) {
                let Job { id, kind, collection, state, .. } = other;
                let message = format!("a {kind} job of collection `{collection}` is {state} already: {id}");
                return Err(ApiError::new(ErrorKind::Conflict, message).hint(format!(
                    "follow it with GET /v1/jobs/{id}/events, or end it with POST /v1/jobs/{id}/cancel"
                )));
            }
            forget_old(all, tenant, &job.collection);
            all.insert((tenant.clone(), job.id.clone()), control);
            Ok(changes)
        })
    }

    fn spawn(
        &self,
        tenant: &TenantId,
        job: &Job,
        collection: Arc<Collection>,
        work: Work,
        changes: mpsc::Receiver<()>,
    ) {
        let Ok(control) = self.get(tenant, &job.id) else { return };
        let keeper = {
            let (control, collection) = (control.clone(), Arc::clone(&collection));
            move || keep(&control, &collection, &changes)
        };
        let name = format!("job {}", job.id);
        let worker = {
            let control = control.clone();
            move || run(&control, work)
        };
        let started = std::thread::Builder::new()
            .name(format!("keeper {}", job.id))
            .spawn(keeper)
            .and_then(|_| std::thread::Builder::new().name(name).spawn(worker));
        if let Err(error) = started {
            control.end(JobState::Failed, Value::Null, Some(format!("no thread could be started: {error}")));
        }
    }
}

/// Drops the oldest jobs that are over.
fn forget_old(all: &mut BTreeMap<Key, Control>, tenant: &TenantId, collection: &CollectionName) {
    let own = all.values().filter(|control| control.tenant() == tenant).map(Control::job);
    let mut over: Vec<Job> = own.filter(|job| job.state.ended() && job.collection == *collection).collect();
    over.sort_by_key(|job| std::cmp::Reverse(job.updated_at));
    for job in over.into_iter().skip(REMEMBERED.saturating_sub(1)) {
        all.remove(&(tenant.clone(), job.id));
    }
}

/// The life of a job.
fn run(control: &Control, work: Work) {
    let ended = match control.take_turn() {
        Ok(()) => {
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(control)));
            worked.unwrap_or_else(|_| {
                Ended::Failed(ApiError::internal("the work of a job panicked"), control.job().detail)
            })
        }
        Err(_) => Ended::Stopped(control.job().detail),
    };
    control.leave_line();
    match ended {
        Ended::Done(detail) => control.end(JobState::Done, detail, None),
        Ended::Failed(error, detail) => {
            error.log();
            let body = error.body().error;
            let hint = body.hint.map_or(String::new(), |hint| format!(" ({hint})"));
            control.end(JobState::Failed, detail, Some(body.message + &hint));
        }
        Ended::Stopped(detail) => match control.stop() {
            // What a server that goes down leaves open, the next one takes up.
            Some(Stop::Shutdown) => {}
            Some(Stop::Cancelled) | None => control.end(JobState::Cancelled, detail, None),
        },
    }
}

/// Writes the record of a job whenever it is due, until it is over or the server goes down.
fn keep(control: &Control, collection: &Collection, changes: &mpsc::Receiver<()>) {
    let mut kept: Option<Job> = None;
    loop {
        let heard = changes.recv_timeout(KEEP);
        let job = control.job();
        if kept.as_ref() != Some(&job) {
            match collection.put_job(&job, KEEP) {
                Ok(true) => kept = Some(job.clone()),
                // Another write has the collection; the next look tries again.
                Ok(false) => {}
                Err(RetrievalError::UnknownCollection { .. }) => return,
                Err(error) => tracing::warn!(job = job.id, %error, "cannot keep the record of a job"),
            }
        }
        let written = kept.as_ref() == Some(&job);
        let ended = job.state.ended() || control.stop() == Some(Stop::Shutdown);
        if (ended && written) || heard == Err(mpsc::RecvTimeoutError::Disconnected) {
            return;
        }
    }
}
