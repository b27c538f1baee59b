//! Jobs come back as they were written.

use edgewise_catalog::{Catalog, JobRecord, JobState};
use jiff::Timestamp;

use super::meta;

fn job(id: &str, state: JobState) -> JobRecord {
    let at = |second: i64| Timestamp::from_second(1_700_000_000 + second).unwrap();
    JobRecord {
        id: id.to_owned(),
        kind: "tree".to_owned(),
        state,
        done: 3,
        total: 7,
        detail: serde_json::json!({ "document": "a.md", "seconds": 1.5 }),
        error: (state == JobState::Failed).then(|| "it failed: try again".to_owned()),
        created: at(0),
        started: (state != JobState::Queued).then(|| at(1)),
        updated: at(2),
        finished: state.ended().then(|| at(2)),
    }
}

#[test]
fn jobs_come_back_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = Catalog::create(&path, &meta()).unwrap();
    let jobs: Vec<JobRecord> = JobState::ALL.iter().map(|state| job(state.as_str(), *state)).collect();
    for job in &jobs {
        catalog.put_job(job).unwrap();
        assert_eq!(catalog.job(&job.id).unwrap().as_ref(), Some(job));
    }
    assert_eq!(catalog.job("another").unwrap(), None);
    assert_eq!(catalog.jobs(100).unwrap(), jobs.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(catalog.jobs(1).unwrap(), jobs[5..]);
    // Written again, a job keeps its place.
    let done = JobRecord { done: 7, state: JobState::Done, ..jobs[1].clone() };
    catalog.put_job(&done).unwrap();
    assert_eq!(catalog.jobs(100).unwrap()[4], done);
    // Of the four that have ended, the two asked for last are kept; the others are not touched.
    assert_eq!(catalog.sweep_jobs(2).unwrap(), 2);
    let left: Vec<String> = catalog.jobs(100).unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(left, ["cancelled", "failed", "paused", "queued"]);
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    drop(catalog);

    let changed =
        rusqlite::Connection::open(&path).unwrap().execute("UPDATE jobs SET done = 8 WHERE id = 'failed'", []);
    assert_eq!(changed, Ok(1));
    let findings = Catalog::open(&path, edgewise_catalog::OpenMode::ReadOnly).unwrap().check().unwrap();
    assert!(findings.iter().any(|finding| finding.contains("job")), "{findings:?}");
}
