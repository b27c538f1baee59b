//! Background work on a collection, as its catalog keeps it: what was asked for, how far it has come, how it ended.
//!
//! A record says nothing of whether a process works on it now: a killed one leaves `running` behind, which whoever starts
//! next takes up again. Deliberately not here: threads, and what a job does.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use edgewise_catalog::{Catalog, JobRecord, OpenMode};
use edgewise_types::CollectionName;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{Collection, RetrievalError, error::of, folder::Folder};

/// Jobs that are over and kept.
const KEPT: usize = 20;

/// Jobs read at most.
const MOST: usize = 100;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for its turn.
    Queued,
    /// Being worked on.
    Running,
    /// Stopped until it is resumed.
    Paused,
    /// Over: it did what it could. One that met its budget also ends so; its report says it.
    Done,
    /// Over: it met an error. What it did before is kept.
    Failed,
    /// Over: somebody ended it. What it did before is kept.
    Cancelled,
}

impl JobState {
    fn of_record(state: edgewise_catalog::JobState) -> Self {
        match state {
            edgewise_catalog::JobState::Queued => Self::Queued,
            edgewise_catalog::JobState::Running => Self::Running,
            edgewise_catalog::JobState::Paused => Self::Paused,
            edgewise_catalog::JobState::Done => Self::Done,
            edgewise_catalog::JobState::Failed => Self::Failed,
            edgewise_catalog::JobState::Cancelled => Self::Cancelled,
        }
    }

    fn record(self) -> edgewise_catalog::JobState {
        match self {
            Self::Queued => edgewise_catalog::JobState::Queued,
            Self::Running => edgewise_catalog::JobState::Running,
            Self::Paused => edgewise_catalog::JobState::Paused,
            Self::Done => edgewise_catalog::JobState::Done,
            Self::Failed => edgewise_catalog::JobState::Failed,
            Self::Cancelled => edgewise_catalog::JobState::Cancelled,
        }
    }

    /// Whether nothing more will come.
    pub fn ended(self) -> bool {
        self.record().ended()
    }

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        self.record().as_str()
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Background work on a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its id.
    #[schema(example = "9b1c6f0a52d4e387")]
    pub id: String,
    /// The collection it works on.
    pub collection: CollectionName,
    /// What it does: `tree` builds the summary tree.
    #[schema(example = "tree")]
    pub kind: String,
    /// How far it is.
    pub state: JobState,
    /// Steps done.
    pub done: usize,
    /// Steps there are, as far as is known.
    pub total: usize,
    /// What was asked for, in the form of its kind.
    #[schema(value_type = Object)]
    pub request: Value,
    /// How it goes or what came of it, in the form of its kind: a tree's `TreeProgress` while it runs, its `TreeReport`
    /// in the end; null before it runs.
    #[schema(value_type = Object, nullable = true)]
    pub detail: Value,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When it first ran.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<jiff::Timestamp>,
    /// When this last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
    /// When it was over.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<jiff::Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The parts of [`Job`] that the catalog keeps as one.
#[derive(Debug, Serialize, Deserialize)]
struct Detail {
    request: Value,
    detail: Value,
}

impl Job {
    fn of_record(collection: &CollectionName, record: JobRecord) -> Self {
        let JobRecord { id, kind, state, done, total, detail, error, created, started, updated, finished } = record;
        let Detail { request, detail } =
            serde_json::from_value(detail).unwrap_or(Detail { request: Value::Null, detail: Value::Null });
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            id,
            collection: collection.clone(),
            kind,
            state: JobState::of_record(state),
            done: size(done),
            total: size(total),
            request,
            detail,
            created_at: created,
            started_at: started,
            updated_at: updated,
            finished_at: finished,
            error,
        }
    }

    fn record(&self) -> Result<JobRecord, serde_json::Error> {
        let detail = Detail { request: self.request.clone(), detail: self.detail.clone() };
        Ok(JobRecord {
            id: self.id.clone(),
            kind: self.kind.clone(),
            state: self.state.record(),
            done: self.done as u64,
            total: self.total as u64,
            detail: serde_json::to_value(detail)?,
            error: self.error.clone(),
            created: self.created_at,
            started: self.started_at,
            updated: self.updated_at,
            finished: self.finished_at,
        })
    }
}

impl Collection {
    /// Writes the record of a job, over that of the same id. False if another write of this process had the collection for
    /// as long as `patience`: nothing was written then.
    ///
    /// # Errors
    /// [`RetrievalError::Locked`] if another process writes; [`RetrievalError::DiskFull`].
    pub fn put_job(&self, job: &Job, patience: Duration) -> Result<bool, RetrievalError> {
        let record = job.record().map_err(of(self.name()))?;
        let start = Instant::now();
        let Some(mut slot) = self.writer_until(&|| start.elapsed() >= patience) else { return Ok(false) };
        let writer = self.write_catalog(&mut slot)?;
        writer.catalog.put_job(&record).map_err(of(self.name()))?;
        if job.state.ended() {
            writer.catalog.sweep_jobs(KEPT).map_err(of(self.name()))?;
        }
        Ok(true)
    }
}

/// The jobs of a collection as its catalog has them, newest first, without opening its indexes.
///
/// # Errors
/// When the catalog can't be read.
pub fn jobs_of(root: &Path, name: &CollectionName) -> Result<Vec<Job>, RetrievalError> {
    let catalog = Catalog::open(&Folder::of(root, name).catalog(), OpenMode::ReadOnly).map_err(of(name))?;
    let records = catalog.jobs(MOST).map_err(of(name))?;
    Ok(records.into_iter().map(|record| Job::of_record(name, record)).collect())
}
