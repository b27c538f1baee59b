//! Summary trees: look at, search, plan, build as a job, delete.
//!
//! A build is a job (see `jobs`), because it may take hours. Deliberately not here: how a tree is built.

pub(crate) mod search;
mod work;

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use edgewise_retrieval::{
    Collection, Collections, Job, JobState, RetrievalError, TreeControl, TreeHalt, TreePlan, TreeProgress,
    TreeScopeView, TreeView,
};
use edgewise_types::{CollectionName, DocumentId, NodeId, TenantId};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    ApiError, ErrorBody, ErrorKind, batch,
    caller::Caller,
    extract::{ApiJson, ApiQuery, InCollection},
    jobs::{Control, Ended, NewJob, Work},
    state::{AppState, Parts},
};

pub use search::CollectionTreeSearchRequest;
pub use work::{TreeBuildRequest, Trees};

/// Kind of the jobs that build trees.
const KIND: &str = "tree";

/// Most levels of one response.
const MAX_DEPTH: usize = 32;

/// Which part of a tree.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Levels below each root to return, 0 to 32. Members further down are counted only.
    #[serde(default = "default_depth")]
    #[param(default = 1, minimum = 0, maximum = 32)]
    depth: usize,
    /// Only the tree of this document.
    #[serde(default)]
    #[param(value_type = Option<DocumentId>)]
    document: Option<String>,
    /// Only this node and what is below it.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    node: Option<String>,
    /// Cut each text after this many characters; absent returns whole texts.
    #[serde(default)]
    #[param(minimum = 1)]
    text_chars: Option<usize>,
}

fn default_depth() -> usize {
    1
}

/// Look at a collection's summary tree.
///
/// Only nodes that are current are returned. Where the layers above documents are not, the roots are those of documents.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}/tree",
    tag = "tree",
    params(("collection" = CollectionName, Path, description = "Its name"), Part),
    responses(
        (status = 200, description = "Its state, and the nodes asked for", body = TreeView),
        (status = 400, description = "Malformed name, id or parameters", body = ErrorBody),
        (status = 404, description = "No such collection, document or node", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn show(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiQuery(part): ApiQuery<Part>,
) -> Result<Json<TreeView>, ApiError> {
    let Part { depth, document, node, text_chars } = part;
    let invalid = |message: String| ApiError::new(ErrorKind::InvalidRequest, message);
    if depth > MAX_DEPTH {
        return Err(invalid(format!("depth must be between 0 and {MAX_DEPTH}")));
    }
    if text_chars == Some(0) {
        return Err(invalid("text_chars must be at least 1".to_owned()));
    }
    let scope = match (document, node) {
        (None, None) => TreeScopeView::All,
        (Some(document), None) => TreeScopeView::Document(document.parse()?),
        (None, Some(node)) => TreeScopeView::Node(node.parse::<NodeId>()?),
        (Some(_), Some(_)) => return Err(invalid("document and node can't be asked for together".to_owned())),
    };
    let collections = state.collections(&caller)?;
    state.read(move |_| Ok(Json(collections.get(&name)?.tree(&scope, depth, text_chars)?))).await
}

/// Say what building a collection's summary tree would take: summaries, calls, tokens, cost and time.
///
/// Nothing is built. The time follows from the speed of the embedder, measured on a few texts, and of the generator.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/tree/plan",
    tag = "tree",
    params(("collection" = CollectionName, Path, description = "Its name")),
    request_body = TreeBuildRequest,
    responses(
        (status = 200, description = "What it would take", body = TreePlan),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn plan(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiJson(request): ApiJson<TreeBuildRequest>,
) -> Result<Json<TreePlan>, ApiError> {
    let collections = state.collections(&caller)?;
    let slot = state.upload_slot().await?;
    let plan = move |parts: &Parts| Ok(Json(parts.trees.plan(&*collections.get(&name)?, &request)?));
    state.blocking(slot, plan).await
}

/// Build a collection's summary tree, or bring it up to date, in the background.
///
/// Only what is new or changed is summarised. The response names the job; its `detail` is a `TreeProgress` while it runs and
/// a `TreeReport` in the end.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/tree",
    tag = "tree",
    params(("collection" = CollectionName, Path, description = "Its name")),
    request_body = TreeBuildRequest,
    responses(
        (status = 202, description = "The job, whose path is in the header Location", body = Job),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "A tree is being built, or another process writes to the collection", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn build(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiJson(request): ApiJson<TreeBuildRequest>,
) -> Result<Response, ApiError> {
    let (jobs, parts, tenant) = (state.jobs().clone(), state.shared_parts(), caller.tenant.clone());
    let collections = state.collections(&caller)?;
    let job = state
        .read(move |_| {
            let collection = collections.get(&name)?;
            let work = work(parts, tenant.clone(), Arc::clone(&collection), request.clone());
            let request = serde_json::to_value(&request).map_err(|error| ApiError::internal(error.to_string()))?;
            jobs.start(NewJob { id: None, tenant, collection, kind: KIND, request }, work)
        })
        .await?;
    let mut response = (StatusCode::ACCEPTED, Json(&job)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Delete a collection's summary tree. Its documents stay.
#[utoipa::path(
    delete,
    path = "/v1/collections/{collection}/tree",
    tag = "tree",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "The tree is being built, or another process writes to the collection", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<StatusCode, ApiError> {
    let collections = state.collections(&caller)?;
    let delete = move |_: &Parts| {
        collections.get(&name)?.delete_tree()?;
        Ok(StatusCode::NO_CONTENT)
    };
    state.read(delete).await
}

/// The work of a job that builds a tree.
fn work(parts: Arc<Parts>, tenant: TenantId, collection: Arc<Collection>, request: TreeBuildRequest) -> Work {
    Box::new(move |control| {
        let job = control.job();
        let built =
            parts.trees.build(&job.id, jiff::Timestamp::now(), &tenant, &collection, &request, &Watched(control));
        match built {
            Ok(report) => match serde_json::to_value(&report) {
                Ok(report) => Ended::Done(report),
                Err(error) => Ended::Failed(ApiError::internal(error.to_string()), control.job().detail),
            },
            Err(RetrievalError::Cancelled) => Ended::Stopped(control.job().detail),
            Err(error) => Ended::Failed(error.into(), control.job().detail),
        }
    })
}

/// A job's handle as what a build asks.
struct Watched<'a>(&'a Control);

impl TreeControl for Watched<'_> {
    fn check(&self) -> Result<(), TreeHalt> {
        self.0.check().map_err(|_| TreeHalt)
    }

    fn progress(&self, progress: &TreeProgress) {
        match serde_json::to_value(progress) {
            Ok(detail) => self.0.progress(progress.work.documents_done, progress.work.documents, detail),
            Err(error) => tracing::warn!(%error, "the progress of a build can't be told"),
        }
    }
}

/// Brings the tree of a collection up to date after its documents changed, where the settings ask for it. A build that is
/// under way sees the change by itself or leaves it for the next.
pub(crate) fn after_ingest(state: &AppState, tenant: &TenantId, collection: &Arc<Collection>) {
    let parts = state.shared_parts();
    if !parts.trees.settings.auto {
        return;
    }
    let work = work(parts, tenant.clone(), Arc::clone(collection), TreeBuildRequest::default());
    let request = serde_json::to_value(TreeBuildRequest::default()).unwrap_or_default();
    let new = NewJob { id: None, tenant: tenant.clone(), collection: Arc::clone(collection), kind: KIND, request };
    let started = state.jobs().start(new, work);
    match started {
        Ok(job) => tracing::info!(job = job.id, collection = %collection.name(), "building the summary tree"),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            tracing::info!(collection = %collection.name(), "the summary tree is being built already");
        }
        Err(error) => error.log(),
    }
}

/// Takes up the jobs that an earlier server did not finish, and remembers those that are over. For a thread of its own: it
/// opens catalogs.
pub(crate) fn take_up(state: &AppState) {
    for tenant in state.tenants().all() {
        match state.tenants().of(&tenant) {
            Ok(collections) => take_up_of(state, &tenant, &collections),
            Err(error) => tracing::warn!(%tenant, %error, "cannot look for unfinished jobs"),
        }
    }
}

fn take_up_of(state: &AppState, tenant: &TenantId, collections: &Collections) {
    let parts = state.shared_parts();
    let names = match collections.names() {
        Ok(names) => names,
        Err(error) => return tracing::warn!(%tenant, %error, "cannot look for unfinished jobs"),
    };
    for name in names {
        let jobs = match edgewise_retrieval::jobs_of(collections.root(), &name) {
            Ok(jobs) => jobs,
            // Told whenever it is used.
            Err(error) => {
                tracing::debug!(collection = %name, %error, "cannot read the jobs of a collection");
                continue;
            }
        };
        let (over, open): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.state.ended());
        state.jobs().remember(tenant, over);
        state.jobs().remember(tenant, batch::completed(state, tenant, &open));
        for mut job in open.into_iter().filter(|job| job.kind == KIND) {
            if job.state == JobState::Running {
                job.state = JobState::Queued;
            }
            let taken_up = collections.get(&name).map_err(ApiError::from).and_then(|collection| {
                let request = serde_json::from_value(job.request.clone()).map_err(|error| {
                    ApiError::internal(format!("the request of a job of an earlier version can't be read: {error}"))
                })?;
                let work = work(Arc::clone(&parts), tenant.clone(), Arc::clone(&collection), request);
                state.jobs().take_up(tenant, &job, collection, work)
            });
            match taken_up {
                Ok(()) => tracing::info!(job = job.id, collection = %name, "going on with a job"),
                Err(error) => error.log(),
            }
        }
    }
}
