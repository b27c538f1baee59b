//! Figures of evaluations that were kept: `GET /v1/quality`.
//!
//! `edgewise eval … --save` writes one file a measurement into `_quality` of the data folder, the newest in place of the
//! one before. They are read here as they are: what is in them belongs to whoever measured.
//!
//! Deliberately not here: measuring, and the position curve, which `GET /v1/models/current/reading` has.

use std::{fs, io, path::Path};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{ApiError, ErrorBody, caller::Caller, state::AppState};

/// Folder below the data root.
pub const QUALITY_FOLDER: &str = "_quality";

/// Largest file that is read, in bytes.
const MOST_BYTES: u64 = 4 << 20;

/// One measurement that was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeptEvaluation {
    /// What was measured: `retrieval` on labelled sets, `collection` for one of the server's own, `routing`.
    #[schema(example = "retrieval")]
    pub kind: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// The program that measured, with its version.
    #[schema(example = "edgewise 0.1.0")]
    pub program: String,
    /// What `edgewise eval … --json` prints.
    #[schema(value_type = Object)]
    pub report: Value,
}

/// Every measurement that was kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QualityReport {
    /// The newest of each kind, and of each collection, newest first.
    pub evaluations: Vec<KeptEvaluation>,
    /// Files that could not be read, with the reason.
    pub damaged: Vec<String>,
}

/// The figures of the last evaluations that were kept with `--save`. For the operator; empty for other tenants.
#[utoipa::path(
    get,
    path = "/v1/quality",
    tag = "server",
    responses(
        (status = 200, description = "Kept evaluations, newest first", body = QualityReport),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(State(state): State<AppState>, caller: Caller) -> Result<Json<QualityReport>, ApiError> {
    // They may name the operator's collections.
    if !caller.is_operator() {
        return Ok(Json(QualityReport::default()));
    }
    state.read(|parts| Ok(Json(read_all(&parts.local_collections.root().join(QUALITY_FOLDER))))).await
}

/// Everything in the folder; a folder that is missing is an empty one.
fn read_all(folder: &Path) -> QualityReport {
    let mut report = QualityReport::default();
    let Ok(entries) = fs::read_dir(folder) else { return report };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match read(&path) {
            Ok(evaluation) => report.evaluations.push(evaluation),
            Err(error) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                report.damaged.push(format!("{name}: {error}"));
            }
        }
    }
    report.evaluations.sort_by(|a, b| b.at.cmp(&a.at).then_with(|| a.kind.cmp(&b.kind)));
    report.damaged.sort();
    report
}

fn read(path: &Path) -> io::Result<KeptEvaluation> {
    if fs::metadata(path)?.len() > MOST_BYTES {
        return Err(io::Error::other(format!("larger than {MOST_BYTES} bytes")));
    }
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

/// Keeps a measurement under `name`, in place of the one that had it: written aside, synced, renamed.
///
/// # Errors
/// Those of the file system.
pub fn keep_evaluation(root: &Path, name: &str, evaluation: &KeptEvaluation) -> io::Result<()> {
    let folder = root.join(QUALITY_FOLDER);
    fs::create_dir_all(&folder)?;
    let aside = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let file = fs::File::create(&aside)?;
        serde_json::to_writer(io::BufWriter::new(&file), evaluation).map_err(io::Error::from)?;
        file.sync_all()?;
        fs::rename(&aside, folder.join(format!("{name}.json")))
    })();
    if written.is_err() {
        // Whatever went wrong is what is reported; a file left aside is never read.
        let _ = fs::remove_file(&aside);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn evaluation(kind: &str, at: &str) -> KeptEvaluation {
        KeptEvaluation {
            kind: kind.to_owned(),
            at: at.parse().unwrap(),
            program: "edgewise 0.1.0".to_owned(),
            report: serde_json::json!({ "questions": 3 }),
        }
    }

    #[test]
    fn the_newest_of_each_is_kept_and_a_damaged_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(QUALITY_FOLDER);
        assert_eq!(read_all(&folder), QualityReport::default());
        keep_evaluation(root.path(), "routing", &evaluation("routing", "2026-01-01T00:00:00Z")).unwrap();
        keep_evaluation(root.path(), "retrieval", &evaluation("retrieval", "2026-01-03T00:00:00Z")).unwrap();
        keep_evaluation(root.path(), "routing", &evaluation("routing", "2026-01-02T00:00:00Z")).unwrap();
        fs::write(folder.join("broken.json"), "{").unwrap();
        fs::write(folder.join(".aside.1"), "{").unwrap();
        let report = read_all(&folder);
        let kinds: Vec<_> = report.evaluations.iter().map(|e| (e.kind.as_str(), e.at.to_string())).collect();
        assert_eq!(
            kinds,
            [("retrieval", "2026-01-03T00:00:00Z".to_owned()), ("routing", "2026-01-02T00:00:00Z".to_owned())]
        );
        assert!(report.damaged.len() == 1 && report.damaged[0].starts_with("broken.json: "), "{:?}", report.damaged);
    }
}
