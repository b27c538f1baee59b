//! Long work on a collection that outlives a request: what it is, how far it got, how it ended.
//!
//! Deliberately not here: running anything. A job that is `running` here after its process was killed is for whoever may
//! write to the collection to take up again, or to call failed.

use std::fmt;

use jiff::Timestamp;
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError,
    error::Fault,
    rows::{json, signed, unsigned},
    seals,
    tree::JOB_SEAL,
};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waiting for its turn.
    Queued,
    /// At work.
    Running,
    /// Stopped for now, to go on when asked.
    Paused,
    /// Complete.
    Done,
    /// Ended by an error.
    Failed,
    /// Ended because someone asked.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 6] = [Self::Queued, Self::Running, Self::Paused, Self::Done, Self::Failed, Self::Cancelled];

    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more will come.
    pub fn ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job as it was last written.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its id, chosen by whoever made it.
    pub id: String,
    /// What it does, such as `tree`.
    pub kind: String,
    /// Where it stands.
    pub state: JobState,
    /// Steps done.
    pub done: u64,
    /// Steps expected; may grow.
    pub total: u64,
    /// What else its kind keeps of it.
    pub detail: serde_json::Value,
    /// Why it failed, and what to do.
    pub error: Option<String>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it first ran.
    pub started: Option<Timestamp>,
    /// When this was written.
    pub updated: Timestamp,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

const COLUMNS: &str = "id, kind, state, done, total, detail, error, created, started, updated, finished";

impl Catalog {
    /// Writes a job, over the one with the same id if there is one. When it returns, the job is on disk.
    ///
    /// # Errors
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn put_job(&self, job: &JobRecord) -> Result<(), CatalogError> {
        self.connections.write(|transaction| {
            put(&transaction, job)?;
            Ok(transaction.commit()?)
        })
    }

    /// The job with this id.
    pub fn job(&self, id: &str) -> Result<Option<JobRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
            let mut statement = transaction.prepare_cached(&sql)?;
            let mut rows = statement.query([id])?;
            rows.next()?.map(job).transpose()
        })
    }

    /// The `limit` jobs that were asked for last, newest first.
    pub fn jobs(&self, limit: usize) -> Result<Vec<JobRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!("SELECT {COLUMNS} FROM jobs ORDER BY row DESC LIMIT ?1");
            let mut statement = transaction.prepare_cached(&sql)?;
            let mut rows = statement.query([signed(limit)])?;
            let mut jobs = Vec::new();
            while let Some(row) = rows.next()? {
                jobs.push(job(row)?);
            }
            Ok(jobs)
        })
    }

    /// Deletes all but the newest `keep` of the jobs that have ended, and returns how many.
    ///
    /// # Errors
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn sweep_jobs(&self, keep: usize) -> Result<usize, CatalogError> {
        self.connections.write(|transaction| {
            let swept = transaction.execute(
                "DELETE FROM jobs WHERE state IN ('done', 'failed', 'cancelled') AND row NOT IN \
                 (SELECT row FROM jobs WHERE state IN ('done', 'failed', 'cancelled') ORDER BY row DESC LIMIT ?1)",
                [signed(keep)],
            )?;
            transaction.commit()?;
            Ok(swept)
        })
    }
}

fn put(transaction: &Transaction<'_>, job: &JobRecord) -> Result<(), Fault> {
    let row: i64 = transaction
        .prepare_cached(
            "INSERT INTO jobs \
             (id, kind, state, done, total, detail, error, created, started, updated, finished, seal) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, x'') \
             ON CONFLICT (id) DO UPDATE SET kind = ?2, state = ?3, done = ?4, total = ?5, detail = ?6, error = ?7, \
             created = ?8, started = ?9, updated = ?10, finished = ?11 RETURNING row",
        )?
        .query_row(
            params![
                job.id,
                job.kind,
                job.state.as_str(),
                signed(usize::try_from(job.done).unwrap_or(usize::MAX)),
                signed(usize::try_from(job.total).unwrap_or(usize::MAX)),
                job.detail.to_string(),
                job.error,
                job.created.to_string(),
                job.started.map(|time| time.to_string()),
                job.updated.to_string(),
                job.finished.map(|time| time.to_string()),
            ],
            |row| row.get(0),
        )?;
    let seal = seals::hash(transaction, &JOB_SEAL, row)?;
    transaction.prepare_cached("UPDATE jobs SET seal = ?2 WHERE row = ?1")?.execute(params![row, seal])?;
    Ok(())
}

fn job(row: &Row<'_>) -> Result<JobRecord, Fault> {
    let state: String = row.get(2)?;
    let known = JobState::ALL.into_iter().find(|known| known.as_str() == state);
    Ok(JobRecord {
        id: row.get(0)?,
        kind: row.get(1)?,
        state: known.ok_or_else(|| Fault::Damaged(format!("unknown state `{state}` of a job")))?,
        done: unsigned(row, 3)? as u64,
        total: unsigned(row, 4)? as u64,
        detail: json(row, 5)?,
        error: row.get(6)?,
        created: time(&row.get::<_, String>(7)?)?,
        started: optional_time(row, 8)?,
        updated: time(&row.get::<_, String>(9)?)?,
        finished: optional_time(row, 10)?,
    })
}

fn time(text: &str) -> Result<Timestamp, Fault> {
    text.parse().map_err(|error| Fault::Damaged(format!("unreadable time `{text}` of a job: {error}")))
}

fn optional_time(row: &Row<'_>, index: usize) -> Result<Option<Timestamp>, Fault> {
    row.get::<_, Option<String>>(index)?.map(|text| time(&text)).transpose()
}
