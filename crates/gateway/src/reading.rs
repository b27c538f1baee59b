//! How well the model reads: `GET /v1/models/current/reading`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_planner::{ReadingProfile, SignalReport};

use crate::{ApiError, ErrorBody, caller::Caller, state::AppState};

/// How well the model that answers reads, as measured and as watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingReport {
    /// Registry name of the model.
    #[schema(example = "smollm2-135m-instruct")]
    pub model: String,
    /// What `edgewise probe` measured; absent if it was not run for this model.
    pub profile: Option<ReadingProfile>,
    /// Thirds of prompts, now and over time: facts found by probes, passages cited by answers. For the operator; empty for
    /// other tenants.
    pub signals: Vec<SignalReport>,
}

/// How well the model reads, by position and length of the prompt, and whether a region is read worse than it used to be.
///
/// The profile is what `edgewise probe` measured. The signals are watched while the server runs: a region's `alert` says
/// that so few of the passages in it were cited, or facts found, that chance hardly explains it.
#[utoipa::path(
    get,
    path = "/v1/models/current/reading",
    tag = "server",
    responses(
        (status = 200, description = "The profile and the signals", body = ReadingReport),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(State(state): State<AppState>, caller: Caller) -> Result<Json<ReadingReport>, ApiError> {
    // The signals come from all tenants' answers.
    let operator = caller.is_operator();
    let report = state.read(move |parts| {
        Ok(Json(ReadingReport {
            model: parts.info.generator.clone(),
            profile: parts.planner.reading_profile().map(|profile| (*profile).clone()),
            signals: if operator { parts.reading.report() } else { Vec::new() },
        }))
    });
    report.await
}
