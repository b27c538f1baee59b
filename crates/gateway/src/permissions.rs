//! What each path needs, in one place, so that no handler can forget it: reading needs `query`, changing needs `ingest`,
//! and what is listed here something else. A path that is not listed is never free.

use axum::http::Method;

use edgewise_access::Scope;

use crate::pages;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Nothing,
    /// Any key that works.
    Key,
    /// A key with this scope.
    Scope(Scope),
}

/// Paths that only ask, although with a body.
const ASKING: &[&str] = &[
    "/v1/query",
    "/v1/routes/explain",
    "/v1/feedback",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/cache/prefixes",
    "/v1/collections/{collection}/search",
    "/v1/collections/{collection}/tree/search",
    "/v1/collections/{collection}/tree/plan",
];

/// Everything at or below these only asks.
const ASKING_BELOW: &[&str] = &["/v1/conversations", "/mcp"];

/// Everything at or below these shows what others of the tenant asked, or is about keys, money and the machine.
const ADMIN_BELOW: &[&str] = &["/metrics", "/v1/requests", "/v1/events", "/v1/budgets", "/v1/keys", "/v1/audit"];

fn at_or_below(path: &str, roots: &[&str]) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    roots.iter().any(|root| path.strip_prefix(root).is_some_and(below))
}

/// What `method` on the path pattern `path` needs.
pub(crate) fn of(method: &Method, path: &str) -> Needs {
    let reads = method.is_safe();
    match path {
        "/healthz" | "/readyz" => Needs::Nothing,
        "/v1/session" if reads => Needs::Key,
        "/v1/session" => Needs::Nothing,
        "/v1/info" | "/openapi.json" => Needs::Key,
        _ if reads && pages::paths().any(|page| page == path) => Needs::Nothing,
        _ if at_or_below(path, ADMIN_BELOW) => Needs::Scope(Scope::Admin),
        "/v1/feedback" if *method == Method::DELETE => Needs::Scope(Scope::Admin),
        "/v1/cache/prefixes/{id}" | "/v1/collections/{collection}/budget" | "/v1/shared-prefixes/{name}" if !reads => {
            Needs::Scope(Scope::Admin)
        }
        _ if reads || ASKING.contains(&path) || at_or_below(path, ASKING_BELOW) => Needs::Scope(Scope::Query),
        _ => Needs::Scope(Scope::Ingest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_never_free() {
        assert_eq!(of(&Method::POST, "/v1/anything/new"), Needs::Scope(Scope::Ingest));
        assert_eq!(of(&Method::GET, "/v1/anything/new"), Needs::Scope(Scope::Query));
        assert_eq!(of(&Method::GET, "/v1/requestsx"), Needs::Scope(Scope::Query), "not below /v1/requests");
        assert_eq!(of(&Method::GET, "/v1/requests/{id}"), Needs::Scope(Scope::Admin));
        assert_eq!(of(&Method::POST, "/"), Needs::Scope(Scope::Ingest), "only reading a page is free");
        assert_eq!(of(&Method::GET, "/"), Needs::Nothing);
        assert_eq!(of(&Method::DELETE, "/v1/collections/{collection}"), Needs::Scope(Scope::Ingest));
        assert_eq!(of(&Method::DELETE, "/v1/feedback"), Needs::Scope(Scope::Admin));
        assert_eq!(of(&Method::POST, "/v1/feedback"), Needs::Scope(Scope::Query));
    }
}
