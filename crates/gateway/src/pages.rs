//! The pages: markup, scripts and styles, embedded in the binary.
//!
//! Every page is the same document, `shell.html`; its script shows what the address asks for. The pages need nothing from
//! elsewhere and their policy allows nothing else: no inline script or style, no other host. They are clients of the public
//! API like any other and have no endpoint of their own.
//!
//! Files change with the binary, which may be replaced at any time: a browser asks for each of them again, and by its tag
//! is told when it has it already.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::state::AppState;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

const SHELL: &str = include_str!("../assets/shell.html");

/// Addresses of the pages. Whether there is such a request or collection, the script finds out.
const PAGES: [&str; 11] = [
    "/",
    "/ask",
    "/requests",
    "/requests/{id}",
    "/cache",
    "/cost",
    "/quality",
    "/collections",
    "/collections/{collection}",
    "/collections/{collection}/tree",
    "/sign-in",
];

macro_rules! asset {
    ($name:literal, $type:expr) => {
        (concat!("/assets/", $name), $type, include_str!(concat!("../assets/", $name)))
    };
}

/// Path, media type and content of everything else the pages are made of.
const ASSETS: [(&str, &str, &str); 35] = [
    asset!("icon.svg", "image/svg+xml"),
    asset!("lib/answer.js", SCRIPT),
    asset!("lib/api.js", SCRIPT),
    asset!("lib/chart.js", SCRIPT),
    asset!("lib/dom.js", SCRIPT),
    asset!("lib/format.js", SCRIPT),
    asset!("lib/jobs.js", SCRIPT),
    asset!("lib/live.js", SCRIPT),
    asset!("lib/parts.js", SCRIPT),
    asset!("lib/picture.js", SCRIPT),
    asset!("lib/range.js", SCRIPT),
    asset!("lib/session.js", SCRIPT),
    asset!("lib/snippet.js", SCRIPT),
    asset!("lib/upload.js", SCRIPT),
    asset!("lib/usage.js", SCRIPT),
    asset!("main.js", SCRIPT),
    asset!("pages/ask.js", SCRIPT),
    asset!("pages/cache.js", SCRIPT),
    asset!("pages/collection.js", SCRIPT),
    asset!("pages/collections.js", SCRIPT),
    asset!("pages/cost.js", SCRIPT),
    asset!("pages/overview.js", SCRIPT),
    asset!("pages/quality.js", SCRIPT),
    asset!("pages/request.js", SCRIPT),
    asset!("pages/requests.js", SCRIPT),
    asset!("pages/signin.js", SCRIPT),
    asset!("pages/tree.js", SCRIPT),
    asset!("pages/tree_skeleton.js", SCRIPT),
    asset!("style/answer.css", STYLE),
    asset!("style/base.css", STYLE),
    asset!("style/charts.css", STYLE),
    asset!("style/parts.css", STYLE),
    asset!("style/shell.css", STYLE),
    asset!("style/tree.css", STYLE),
    asset!("theme.js", SCRIPT),
];

/// The paths of the pages; the only ones that are not in the OpenAPI document. They hold no data and need no key.
pub(crate) fn paths() -> impl Iterator<Item = &'static str> {
    PAGES.into_iter().chain(ASSETS.iter().map(|(path, _, _)| *path))
}

/// Serves the pages.
pub(crate) fn router() -> Router<AppState> {
    let pages = PAGES.iter().map(|path| (*path, HTML, SHELL));
    pages.chain(ASSETS).fold(Router::new(), |router, (path, media_type, content)| {
        let tag = tag_of(content);
        router.route(path, get(move |headers: HeaderMap| async move { respond(&headers, media_type, content, &tag) }))
    })
}

/// A name of the content: equal contents have equal names.
fn tag_of(content: &str) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn respond(asked: &HeaderMap, media_type: &'static str, content: &'static str, tag: &str) -> Response {
    let headers: [(HeaderName, &'static str); 3] = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let same = known.is_some_and(|tags| tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag));
    let mut response = match same {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, content).into_response(),
    };
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Files of the assets folder, as the paths they are served under.
    fn files(folder: &Path, below: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{below}/{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => files(&entry.path(), &name, found),
                false => drop(found.insert(name)),
            }
        }
    }

    #[test]
    fn every_asset_is_served() {
        let mut there = BTreeSet::new();
        files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets"), "/assets", &mut there);
        assert!(there.remove("/assets/shell.html"), "the document of every page");
        let served: BTreeSet<String> = ASSETS.iter().map(|(path, _, _)| (*path).to_owned()).collect();
        assert_eq!(served, there);
    }

    #[test]
    fn every_import_leads_to_an_asset_and_nothing_makes_markup_of_text() {
        let served: BTreeSet<&str> = ASSETS.iter().map(|(path, _, _)| *path).collect();
        for (path, media_type, content) in ASSETS.iter().filter(|(_, media_type, _)| *media_type == SCRIPT) {
            for line in content.lines().filter(|line| line.starts_with("import ") || line.starts_with("} from ")) {
                let Some(from) = line.split('"').nth(1) else { continue };
                let folder = Path::new(path).parent().unwrap();
                let mut target = folder.to_owned();
                for part in Path::new(from).components() {
                    match part {
                        std::path::Component::ParentDir => drop(target.pop()),
                        std::path::Component::Normal(name) => target.push(name),
                        _ => {}
                    }
                }
                let target = target.to_string_lossy();
                assert!(
                    served.contains(target.as_ref()),
                    "{path} imports {target}, which is not served ({media_type})"
                );
            }
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"] {
                assert!(!content.contains(sink), "{path}: text of documents must not become markup: {sink}");
            }
        }
    }

    #[test]
    fn a_file_that_is_known_is_not_sent_again() {
        let tag = tag_of(SHELL);
        let ask = |known: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
            respond(&headers, HTML, SHELL, &tag).status()
        };
        assert_eq!(ask(&tag), StatusCode::NOT_MODIFIED);
        assert_eq!(ask(&format!("\"x\", W/{tag}")), StatusCode::NOT_MODIFIED);
        assert_eq!(ask("\"x\""), StatusCode::OK);
        assert_ne!(tag, tag_of(POLICY));
    }
}
