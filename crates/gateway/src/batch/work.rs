//! The job that ingests a batch.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use edgewise_retrieval::{
    Collection, IngestOptions, IngestProgress, IngestReport, Job, JobState, Outcome, RetrievalError, SourceReport,
};
use edgewise_types::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    KIND,
    staging::{Staged, restore},
};
use crate::{
    ApiError, Whose,
    jobs::{Control, Ended, Work},
    middleware::new_id,
    state::AppState,
    tree,
};

/// Documents ingested between two looks at what is asked of the job.
const AT_ONCE: usize = 64;

/// Bytes of them in memory, unless one alone has more.
const BYTES_AT_ONCE: u64 = 32 << 20;

/// Documents that failed and are told by name.
const FAILURES_TOLD: usize = 100;

/// How an upload goes, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchProgress {
    /// Documents that were not in the collection.
    pub added: usize,
    /// Documents that were, with other content.
    pub changed: usize,
    /// Documents that were, with the same content.
    pub unchanged: usize,
    /// Documents that could not be ingested.
    pub failed: usize,
    /// Chunks embedded.
    pub chunks_embedded: usize,
    /// The first hundred that failed, and why.
    pub failures: Vec<BatchFailure>,
}

/// A document that could not be ingested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchFailure {
    /// Its name.
    pub uri: String,
    /// Why, and what to do.
    pub reason: String,
}

impl BatchProgress {
    fn done(&self) -> usize {
        self.added + self.changed + self.unchanged + self.failed
    }

    fn note(&mut self, report: &SourceReport) {
        match &report.outcome {
            Outcome::Added => self.added += 1,
            Outcome::Changed => self.changed += 1,
            Outcome::Unchanged => self.unchanged += 1,
            // Nothing is removed by an upload.
            Outcome::Removed => {}
            Outcome::Failed { reason } => {
                self.failed += 1;
                if self.failures.len() < FAILURES_TOLD {
                    self.failures.push(BatchFailure { uri: report.uri.clone(), reason: reason.clone() });
                }
            }
        }
    }

    fn value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Tells the job how an ingest goes, and the ingest when to end.
struct Told<'a> {
    control: &'a Control,
    total: usize,
    progress: Mutex<BatchProgress>,
    cancel: Arc<AtomicBool>,
}

impl Told<'_> {
    fn with<T>(&self, act: impl FnOnce(&mut BatchProgress) -> T) -> T {
        act(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn detail(&self) -> Value {
        self.with(|progress| progress.value())
    }
}

impl IngestProgress for Told<'_> {
    fn total(&self, _sources: usize) {}

    fn source_done(&self, report: &SourceReport) {
        let (done, detail) = self.with(|progress| {
            progress.note(report);
            (progress.done(), progress.value())
        });
        self.control.progress(done, self.total, detail);
        if self.control.stop().is_some() {
            self.cancel.store(true, Ordering::Release);
        }
    }

    fn chunks_embedded(&self, chunks: usize) {
        self.with(|progress| progress.chunks_embedded += chunks);
    }
}

/// The work of a job that ingests `staged`.
pub(super) fn work(state: AppState, tenant: TenantId, collection: Arc<Collection>, staged: Staged) -> Work {
    Box::new(move |control| {
        let cancel = Arc::new(AtomicBool::new(false));
        let progress = Mutex::new(BatchProgress::default());
        let told = Told { control, total: staged.documents(), progress, cancel: Arc::clone(&cancel) };
        let ended = ingest(&state, &tenant, &collection, &staged, &told);
        if told.with(|progress| progress.added + progress.changed) > 0 && ended.as_ref().is_ok_and(|whole| *whole) {
            tree::after_ingest(&state, &tenant, &collection);
        }
        match ended {
            Ok(true) => Ended::Done(told.detail()),
            Ok(false) => Ended::Stopped(told.detail()),
            Err(error) => Ended::Failed(error, told.detail()),
        }
    })
}

/// Ingests all documents. False if it was told to end before.
fn ingest(
    state: &AppState,
    tenant: &TenantId,
    collection: &Arc<Collection>,
    staged: &Staged,
    told: &Told<'_>,
) -> Result<bool, ApiError> {
    let options = IngestOptions { cancel: Some(Arc::clone(&told.cancel)), ..IngestOptions::default() };
    let mut from = 0;
    loop {
        if told.control.check().is_err() {
            return Ok(false);
        }
        let sources = staged.sources(from, AT_ONCE, BYTES_AT_ONCE);
        let sources = sources.map_err(|error| ApiError::internal(format!("an upload can't be read back: {error}")))?;
        if sources.is_empty() {
            return Ok(true);
        }
        from += sources.len();
        let order = state.order();
        match order.turn_blocking(tenant, collection.name(), || collection.ingest(sources, &options, told)) {
            Ok(report) => charge(state, tenant, &report),
            Err(RetrievalError::Cancelled) if told.control.stop().is_some() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Records what was embedded.
fn charge(state: &AppState, tenant: &TenantId, report: &IngestReport) {
    let whose = Whose { tenant: tenant.clone(), key: None, collection: Some(report.collection.clone()) };
    let took = std::time::Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
    let (id, at, parts) = (new_id(), jiff::Timestamp::now(), state.parts());
    parts.recorder.embedded(&id, at, whose, &parts.planner.embedder().info().model, report.tokens_embedded, took);
}

/// Goes on with the uploads in `folders` that an earlier server accepted and did not finish. For a thread of its own: it
/// opens catalogs.
pub(crate) fn take_up(state: &AppState, folders: Vec<(TenantId, PathBuf)>) {
    for (tenant, folder) in folders {
        let Some(staged) = restore(folder, state.lifecycle()) else { continue };
        let Ok(collections) = state.tenants().of(&tenant) else { continue };
        let jobs = edgewise_retrieval::jobs_of(collections.root(), staged.collection());
        let known = jobs.ok().and_then(|jobs| jobs.into_iter().find(|job| job.id == staged.job()));
        let job = match known {
            // The folder goes with `staged`.
            Some(job) if job.state.ended() => continue,
            Some(mut job) => {
                if job.state == JobState::Running {
                    job.state = JobState::Queued;
                }
                job
            }
            None => unrecorded(&staged),
        };
        let taken_up = collections.get(staged.collection()).map_err(ApiError::from).and_then(|collection| {
            let work = work(state.clone(), tenant.clone(), Arc::clone(&collection), staged);
            state.jobs().take_up(&tenant, &job, collection, work)
        });
        match taken_up {
            Ok(()) => tracing::info!(job = job.id, collection = %job.collection, "going on with an upload"),
            Err(error) => error.log(),
        }
    }
}

/// Uploads among `open` that a server had completed when it was killed before it could say so: their files are gone, which
/// they are only once all of them was ingested. To be called behind [`take_up`].
pub(crate) fn completed(state: &AppState, tenant: &TenantId, open: &[Job]) -> Vec<Job> {
    let left = open.iter().filter(|job| job.kind == KIND && state.jobs().get(tenant, &job.id).is_err());
    let done = |job: &Job| Job { state: JobState::Done, finished_at: Some(job.updated_at), ..job.clone() };
    left.map(done).collect()
}

/// The job of an upload that was accepted while its collection could not be written to.
fn unrecorded(staged: &Staged) -> Job {
    let now = jiff::Timestamp::now();
    let what = super::BatchRequest { documents: staged.documents(), bytes: staged.bytes() };
    Job {
        id: staged.job().to_owned(),
        collection: staged.collection().clone(),
        kind: KIND.to_owned(),
        state: JobState::Queued,
        done: 0,
        total: staged.documents(),
        request: serde_json::to_value(what).unwrap_or_default(),
        detail: Value::Null,
        created_at: now,
        started_at: None,
        updated_at: now,
        finished_at: None,
        error: None,
    }
}
