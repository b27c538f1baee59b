//! The dashboard and the page of a collection's summary tree: markup, scripts and styles, embedded in the binary.
//!
//! The pages need nothing from elsewhere and their policy allows nothing else: no inline script or style, no other host.
//! They are clients of the public API like any other and have no endpoint of their own.

use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};

use crate::state::AppState;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, media type and content of everything the pages are made of.
const FILES: [(&str, &str, &str); 10] = [
    ("/", "text/html; charset=utf-8", include_str!("../assets/index.html")),
    ("/assets/app.js", "text/javascript; charset=utf-8", include_str!("../assets/app.js")),
    ("/assets/common.js", "text/javascript; charset=utf-8", include_str!("../assets/common.js")),
    // Whether there is such a collection, its script finds out.
    ("/collections/{collection}/tree", "text/html; charset=utf-8", include_str!("../assets/tree.html")),
    ("/assets/tree.js", "text/javascript; charset=utf-8", include_str!("../assets/tree.js")),
    ("/assets/tree.css", "text/css; charset=utf-8", include_str!("../assets/tree.css")),
    ("/assets/app.css", "text/css; charset=utf-8", include_str!("../assets/app.css")),
    ("/sign-in", "text/html; charset=utf-8", include_str!("../assets/sign-in.html")),
    ("/assets/sign-in.js", "text/javascript; charset=utf-8", include_str!("../assets/sign-in.js")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];

/// The paths of the pages; the only ones that are not in the OpenAPI document. They hold no data and need no key.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, _, _)| *path)
}

/// Serves the pages.
pub(crate) fn router() -> Router<AppState> {
    FILES.iter().fold(Router::new(), |router, &(path, media_type, content)| {
        let response = move || async move {
            let headers: [(HeaderName, &'static str); 3] = [
                (header::CONTENT_TYPE, media_type),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                // The files change with the binary, which may be replaced at any time.
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, content).into_response()
        };
        router.route(path, get(response))
    })
}
