//! What holds for every path of the OpenAPI document, written once: how callers show who they are, keys against doing things
//! twice, and the failures that can meet any request before its handler.

use axum::http::Method;
use serde_json::{Map, Value, json};

use crate::{
    ErrorKind, idempotency,
    permissions::{self, Needs},
};

/// Methods of operations.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// Failures of any request.
const ALWAYS: &[(ErrorKind, &str)] = &[
    (ErrorKind::MalformedRequest, "Malformed request"),
    (ErrorKind::UnknownHost, "The server does not answer for this host"),
    (ErrorKind::Internal, "Failure inside the server"),
    (ErrorKind::Unavailable, "Loading or shutting down; see Retry-After"),
];

/// Failures of requests that need a key.
const OF_CALLERS: &[(ErrorKind, &str)] = &[
    (ErrorKind::Unauthorized, "No key, or one that does not work"),
    (ErrorKind::Forbidden, "The key lacks the scope, or the request comes from a page of another site"),
    (ErrorKind::Overloaded, "Too much, of this key or in all; see Retry-After"),
];

/// Failures of requests with a body.
const OF_BODIES: &[(ErrorKind, &str)] = &[
    (ErrorKind::RequestTimeout, "The body did not arrive in time"),
    (ErrorKind::TooLarge, "The body is too large"),
    (ErrorKind::UnsupportedMediaType, "A media type that this path does not take"),
];

/// Failures of requests with an idempotency key.
const OF_KEYED: &[(ErrorKind, &str)] = &[
    (ErrorKind::Conflict, "The same is being done already, or another process writes"),
    (
        ErrorKind::IdempotencyMismatch,
        "The Idempotency-Key was used for another request, or there is nothing to do it with",
    ),
];

/// Completes the document of all paths.
pub(crate) fn complete(document: &mut Value) {
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert(
            "securitySchemes".to_owned(),
            json!({
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key, as `Authorization: Bearer ewk_…`"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A key"},
                "session": {"type": "apiKey", "in": "cookie", "name": "edgewise_session",
                    "description": "A session of the pages, from `POST /v1/session`"},
            }),
        );
    }
    // The last: a server without keys asks for none.
    document["security"] = json!([{"bearer": []}, {"key": []}, {"session": []}, {}]);
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, item) in paths {
        for name in METHODS {
            let Some(operation) = item.get_mut(name).and_then(Value::as_object_mut) else { continue };
            let method = name.to_ascii_uppercase().parse::<Method>().unwrap_or(Method::GET);
            describe(path, &method, operation);
        }
    }
}

fn describe(path: &str, method: &Method, operation: &mut Map<String, Value>) {
    let open = permissions::of(method, path) == Needs::Nothing;
    let keyed = *method == Method::POST && idempotency::PATHS.contains(&path);
    let has_body = operation.contains_key("requestBody");
    if open {
        operation.insert("security".to_owned(), json!([]));
    }
    if keyed {
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        if let Some(parameters) = parameters.as_array_mut() {
            parameters.push(json!({
                "name": "Idempotency-Key",
                "in": "header",
                "required": false,
                "description": "Makes the request safe to send again: within 24 hours, the same request under the same key \
                                gets the reply of the first, with `idempotent-replayed: true`",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                "example": "8f14e45f-ceea-467f-a8e2-1c3b9f7a2d11",
            }));
        }
    }
    let mut failures: Vec<&(ErrorKind, &str)> = ALWAYS.iter().collect();
    failures.extend(OF_CALLERS.iter().filter(|_| !open));
    failures.extend(OF_BODIES.iter().filter(|_| has_body));
    failures.extend(OF_KEYED.iter().filter(|_| keyed));
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    let Some(responses) = responses.as_object_mut() else { return };
    for (kind, description) in failures {
        let status = kind.status().as_u16();
        let range = format!("{}XX", status / 100);
        if !responses.contains_key(&range) {
            responses.entry(status.to_string()).or_insert_with(|| failure(*kind, description));
        }
    }
}

fn failure(kind: ErrorKind, description: &str) -> Value {
    let example = json!({"error": {"type": kind, "message": format!("{}: what went wrong, in one sentence", kind.as_str()), "hint": "what to do about it"}});
    json!({
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}, "example": example}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_says_who_may_and_what_can_fail() {
        let mut document = json!({"components": {}, "paths": {
            "/healthz": {"get": {"responses": {"200": {}}}},
            "/v1/query": {"post": {"requestBody": {}, "responses": {"200": {}, "422": {"description": "own"}}}},
            "/v1/messages": {"post": {"requestBody": {}, "responses": {"200": {}, "4XX": {}, "5XX": {}}}},
        }});
        complete(&mut document);
        assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
        let paths = &document["paths"];
        assert_eq!(paths["/healthz"]["get"]["security"], json!([]));
        assert!(paths["/healthz"]["get"]["responses"].get("401").is_none());
        let query = &paths["/v1/query"]["post"];
        for status in ["400", "401", "403", "408", "409", "413", "415", "421", "429", "500", "503"] {
            assert!(query["responses"][status]["description"].is_string(), "{status}");
        }
        assert_eq!(query["responses"]["422"]["description"], "own");
        assert_eq!(query["parameters"][0]["name"], "Idempotency-Key");
        assert_eq!(paths["/v1/messages"]["post"]["responses"].as_object().map(Map::len), Some(3), "ranges say it all");
    }
}
