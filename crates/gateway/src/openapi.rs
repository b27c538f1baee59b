//! The router, and the OpenAPI document made from it.
//!
//! Every path of the API is registered through its documented handler, so path, method and document can't drift apart;
//! a test compares the finished router with the document and with the pages of the dashboard.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    middleware::{from_fn, from_fn_with_state},
};
use tower_http::{catch_panic::CatchPanicLayer, decompression::RequestDecompressionLayer};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    ApiError, batch, budget, budgets, cache, caller, collections, conversations, describe, dialect, documents, events,
    feedback, health, idempotency, incoming, jobs, mcp, middleware, pages, published, quality, query, reading,
    requests, session, sse, state::AppState, tree, upkeep, usage,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Edgewise",
        description = "Answers questions over document collections and chooses, for every request, how much context \
                       to pay for. Errors have one shape, `ErrorBody`. Amounts of money are decimal strings in US \
                       dollars; spans are bytes of a document's normalised text. A server with keys wants one in \
                       `Authorization: Bearer`, in `x-api-key`, or the cookie of a session.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "questions", description = "Answers and routes"),
        (name = "collections", description = "Collections and search"),
        (name = "documents", description = "Documents of a collection"),
        (name = "cache", description = "What the engine keeps of prompts"),
        (name = "dialects", description = "The API in the forms of Anthropic and OpenAI"),
        (name = "tree", description = "Summary trees"),
        (name = "jobs", description = "Background work"),
        (name = "session", description = "Signing in to the pages"),
        (name = "server", description = "Usage, probes, metrics and this document"),
    ),
    // The data of stream events, which no path can name as its body.
    components(schemas(
        sse::SourcesEvent,
        sse::TokenEvent,
        sse::UsageEvent,
        events::MissedEvents,
        edgewise_ledger::Alert,
        batch::BatchProgress,
        batch::BatchRequest,
        edgewise_planner::Citation,
        edgewise_planner::Escalated,
        edgewise_retrieval::TreeProgress,
        edgewise_retrieval::TreeReport,
    ))
)]
struct Document;

/// The API's routes and their document, without any layer. JSON bodies are limited to `max_body` bytes and uploads to
/// `max_upload`; uploads of many documents are limited as they are read.
fn api(max_body: usize, max_upload: usize) -> OpenApiRouter<AppState> {
    let uploads = OpenApiRouter::new()
        .routes(routes!(documents::list, documents::upload))
        .layer(DefaultBodyLimit::max(max_upload));
    let batches = OpenApiRouter::new().routes(routes!(batch::upload)).layer(DefaultBodyLimit::disable());
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(query::query))
        .routes(routes!(query::explain))
        .routes(routes!(conversations::list, conversations::create))
        .routes(routes!(conversations::get, conversations::delete))
        .routes(routes!(feedback::rate, feedback::forget))
        .routes(routes!(collections::list, collections::create))
        .routes(routes!(collections::get, collections::delete))
        .routes(routes!(collections::search))
        .routes(routes!(budget::get, budget::put))
        .routes(routes!(upkeep::check))
        .routes(routes!(upkeep::repair))
        .routes(routes!(upkeep::compact))
        .routes(routes!(upkeep::rename))
        .routes(routes!(upkeep::export))
        .routes(routes!(documents::get, documents::delete))
        .routes(routes!(documents::text))
        .routes(routes!(tree::show, tree::build, tree::delete))
        .routes(routes!(tree::plan))
        .routes(routes!(tree::search::search))
        .routes(routes!(jobs::api::list))
        .routes(routes!(jobs::api::get))
        .routes(routes!(jobs::api::pause))
        .routes(routes!(jobs::api::resume))
        .routes(routes!(jobs::api::cancel))
        .routes(routes!(jobs::api::events))
        .routes(routes!(usage::usage))
        .routes(routes!(requests::list))
        .routes(routes!(requests::get))
        .routes(routes!(events::events))
        .routes(routes!(budgets::list))
        .routes(routes!(budgets::get, budgets::put, budgets::delete))
        .routes(routes!(reading::get))
        .routes(routes!(usage::predictions))
        .routes(routes!(quality::get))
        .routes(routes!(cache::get))
        .routes(routes!(cache::prefixes, cache::warm))
        .routes(routes!(cache::release))
        .routes(routes!(published::list))
        .routes(routes!(published::publish, published::withdraw))
        .routes(routes!(dialect::anthropic::messages))
        .routes(routes!(dialect::anthropic::count_tokens))
        .routes(routes!(dialect::openai::completions))
        .routes(routes!(dialect::openai::embeddings))
        .routes(routes!(dialect::openai::models))
        .routes(routes!(dialect::openai::model))
        .layer(DefaultBodyLimit::max(max_body))
        .merge(uploads)
        .merge(batches)
}

/// What must answer in every phase of the server's life.
fn probes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(health::info))
        .routes(routes!(openapi))
        .routes(routes!(session::whoami, session::sign_in, session::sign_out))
}

/// The OpenAPI document of this server.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "server",
    responses((status = 200, description = "This document", content_type = "application/json"))
)]
async fn openapi(State(state): State<AppState>) -> Result<Json<serde_json::Value>, ApiError> {
    let options = state.options();
    let document = api(options.max_body_bytes, options.max_upload_bytes).merge(probes()).into_openapi();
    let document = serde_json::to_value(document).map_err(|error| ApiError::internal(error.to_string()));
    document.map(|mut document| {
        describe::complete(&mut document);
        Json(document)
    })
}

/// The complete service.
pub fn router(state: AppState) -> Router {
    // Tools are requests to everything else, with all its checks.
    let mcp = mcp::service(&state, layered(state.clone(), None, Entry::Keys));
    layered(state, Some(mcp), Entry::Keys)
}

/// The service for a process that speaks to nobody but its own user, whose files it serves: every request is the operator's.
/// Not to be listened with.
pub fn operator_router(state: AppState) -> Router {
    layered(state, None, Entry::Operator)
}

/// Who may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// Who has a key, where there are keys.
    Keys,
    /// The operator, as everybody is.
    Operator,
}

/// The service, with the tools of the Model Context Protocol or without.
fn layered(state: AppState, mcp: Option<mcp::McpService>, entry: Entry) -> Router {
    let options = state.options();
    let api: Router<AppState> = api(options.max_body_bytes, options.max_upload_bytes).into();
    let probes: Router<AppState> = probes().into();
    let mcp = mcp.map_or_else(Router::new, |mcp| Router::new().route_service(mcp::PATH, mcp));
    let all = api
        .route_layer(from_fn_with_state(state.clone(), idempotency::once))
        .route_layer(from_fn_with_state(state.clone(), middleware::gate))
        .merge(mcp)
        .merge(probes)
        .merge(pages::router())
        .fallback(middleware::unknown_path)
        .method_not_allowed_fallback(middleware::method_not_allowed)
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        .layer(from_fn_with_state(state.clone(), incoming::watch));
    let entered = match entry {
        Entry::Keys => all.layer(from_fn_with_state(state.clone(), caller::authenticate)),
        Entry::Operator => all.layer(from_fn(caller::as_operator)),
    };
    entered
        .layer(from_fn_with_state(state.clone(), middleware::headers))
        .layer(from_fn_with_state(state.clone(), middleware::guard))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn(dialect::errors::rewrite))
        .layer(from_fn(middleware::observe))
        .with_state(state)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "options", "trace"];

    /// Paths and methods of a router, from its debug output: axum has no other way to list them.
    fn registered(router: &Router<AppState>) -> BTreeMap<String, BTreeSet<String>> {
        let debug = format!("{router:#?}");
        // The routers of the fallbacks follow, with ids of their own.
        let (debug, _) = debug.split_once("fallback_router:").expect("axum still prints its routers");
        let mut ids = BTreeMap::new();
        let mut methods: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut current = String::new();
        let lines: Vec<&str> = debug.lines().map(str::trim).collect();
        for pair in lines.windows(3) {
            if let (true, Some(path)) = (pair[0] == "RouteId(", pair[2].strip_prefix("): \"")) {
                ids.insert(pair[1].trim_end_matches(',').to_owned(), path.trim_end_matches("\",").to_owned());
            } else if pair[0] == "RouteId(" {
                current = pair[1].trim_end_matches(',').to_owned();
            }
            for method in METHODS {
                let some = pair[0].strip_prefix(&format!("{method}: "));
                if some.is_some_and(|some| !some.starts_with("None")) {
                    methods.entry(current.clone()).or_default().insert(method.to_owned());
                }
            }
        }
        ids.into_iter().map(|(id, path)| (path, methods.remove(&id).unwrap_or_default())).collect()
    }

    fn documented(document: &serde_json::Value) -> BTreeMap<String, BTreeSet<String>> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths.map(|(path, item)| (path.clone(), item.as_object().unwrap().keys().cloned().collect())).collect()
    }

    #[test]
    fn the_document_lists_exactly_the_routes() {
        let complete = api(1, 1).merge(probes());
        let document = serde_json::to_value(complete.get_openapi()).unwrap();
        let router = Router::from(complete).merge(pages::router());
        let mut expected = documented(&document);
        for page in pages::paths() {
            let known = expected.insert(page.to_owned(), BTreeSet::from(["get".to_owned()]));
            assert_eq!(known, None, "{page} is a page and a path of the API");
        }
        assert_eq!(registered(&router), expected);
    }

    #[test]
    fn a_route_without_document_is_noticed() {
        let router = Router::new().route("/secret", axum::routing::post(|| async {}));
        let found = registered(&router);
        assert_eq!(found, BTreeMap::from([("/secret".to_owned(), BTreeSet::from(["post".to_owned()]))]));
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn references(value: &serde_json::Value, found: &mut BTreeSet<String>) {
            match value {
                serde_json::Value::Object(map) => {
                    if let Some(reference) = map.get("$ref").and_then(|r| r.as_str()) {
                        found.insert(reference.to_owned());
                    }
                    map.values().for_each(|value| references(value, found));
                }
                serde_json::Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = serde_json::to_value(api(1, 1).merge(probes()).get_openapi()).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "only {found:?}");
        for reference in &found {
            let pointer = reference.strip_prefix('#').expect("references are local");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            }
        }
    }
}
