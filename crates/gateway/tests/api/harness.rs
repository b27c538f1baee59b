//! A gateway over scripted models and a folder that ends with the test.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use edgewise_access::{AccessStore, CreatedKey, Limits, NewKey, tenant_name};
use edgewise_gateway::{AppState, ErrorBody, ErrorKind, GatewayOptions, Parts, Recorder, ServerInfo, Trees, router};
use edgewise_ledger::{Ledger, PriceBook, RequestQuery, RequestRecord, UsageFilter};
use edgewise_model_api::{Embedder, Generator};
use edgewise_planner::{Planner, PlannerOptions, ReadingMonitor};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{Collections, RetrievalModels, TreeGenerator};
use edgewise_telemetry::install_metrics;
use edgewise_test_support::{HashEmbedder, ScriptedGenerator, WordTokenizer, corpus};
use serde_json::{Value, json};
use tower::ServiceExt;

/// What a model that writes summaries says.
const STORY: &str =
    "The captain sailed to the harbour with barrels of salt, and the keeper of the lighthouse told her of storms.";

/// A gateway and what a test looks at from behind.
pub struct Gateway {
    pub state: AppState,
    pub generator: ScriptedGenerator,
    pub ledger: Arc<Ledger>,
    pub access: Arc<AccessStore>,
    pub folder: tempfile::TempDir,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body, which must be that of a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
        self.json()
    }

    /// Checks that this is an error of `kind` with the status and body every such error has, and gives its message
    /// and hint.
    #[track_caller]
    pub fn error(&self, kind: ErrorKind) -> String {
        let ErrorBody { error } =
            serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{} {e}: {}", self.status, self.text()));
        assert_eq!((error.kind, self.status), (kind, kind.status()), "{error:?}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error:?}");
        assert!(self.headers.contains_key("x-request-id"));
        format!("{} {}", error.message, error.hint.unwrap_or_default())
    }
}

impl Gateway {
    /// A gateway whose model says `answer` to everything.
    pub fn saying(answer: &str) -> Self {
        Self::new(ScriptedGenerator::replies([answer]), GatewayOptions::default())
    }

    pub fn new(generator: ScriptedGenerator, options: GatewayOptions) -> Self {
        Self::over(tempfile::tempdir().unwrap(), generator, options)
    }

    /// A gateway with another embedder.
    pub fn embedding(embedder: Arc<dyn Embedder>, tree: edgewise_settings::Tree) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::made_of(folder, ScriptedGenerator::replies([STORY]), GatewayOptions::default(), embedder, tree)
    }

    /// A new server over the same folder, with an empty ledger.
    pub fn restarted(self) -> Self {
        let Self { state, generator, folder, .. } = self;
        drop(state);
        Self::over(folder, generator, GatewayOptions::default())
    }

    fn over(folder: tempfile::TempDir, generator: ScriptedGenerator, options: GatewayOptions) -> Self {
        Self::made_of(folder, generator, options, Arc::new(HashEmbedder::new()), edgewise_settings::Tree::default())
    }

    fn made_of(
        folder: tempfile::TempDir,
        generator: ScriptedGenerator,
        options: GatewayOptions,
        embedder: Arc<dyn Embedder>,
        tree: edgewise_settings::Tree,
    ) -> Self {
        let models = RetrievalModels {
            embedder: Arc::clone(&embedder),
            tokenizer: Arc::new(WordTokenizer::new()),
            tokenizer_name: "words".to_owned(),
            reranker: None,
        };
        let prompts = Prompts::load(None).unwrap();
        let prices = PriceBook::embedded().unwrap();
        let info = ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generator: generator.info().model.clone(),
            embedder: embedder.info().model.clone(),
        };
        let template_hash = prompts.answer().template_hash().clone();
        let planner = Planner::new(
            Arc::new(generator.clone()),
            embedder,
            prompts.clone(),
            prices.clone(),
            PlannerOptions::default(),
        );
        let ledger = Arc::new(Ledger::in_memory().unwrap());
        let recorder = Recorder { ledger: Arc::clone(&ledger), prices, model: info.generator.clone(), template_hash };
        let writer = TreeGenerator { generator: Arc::new(generator.clone()), prompts };
        let trees = Trees { generator: Some(writer), recorder: recorder.clone(), settings: tree };
        let access = folder.path().join("_access.sqlite");
        let access = Arc::new(AccessStore::open(&access, jiff::Timestamp::now()).unwrap());
        let state = AppState::new(Parts {
            local_collections: Arc::new(Collections::open(folder.path(), models).unwrap()),
            access: Arc::clone(&access),
            planner: Arc::new(planner.unwrap()),
            recorder,
            trees,
            reading: Arc::new(ReadingMonitor::in_memory()),
            metrics: install_metrics().unwrap(),
            options,
            info,
        });
        Self { state, generator, ledger, access, folder }
    }

    /// Fills the collection `guide` with the corpus of the tests.
    pub async fn with_corpus(self) -> Self {
        self.post("/v1/collections", &json!({"name": "guide"})).await.ok();
        let files: Vec<(&str, &[u8])> = corpus::DOCUMENTS.iter().map(|(uri, text)| (*uri, text.as_bytes())).collect();
        let report = self.upload("guide", &files).await.ok();
        assert_eq!(report["sources"].as_array().unwrap().len(), files.len());
        self
    }

    /// The newest records of answers: not what embedding and summaries cost.
    pub fn answers(&self, limit: usize) -> Vec<RequestRecord> {
        let filter = UsageFilter { work: Some("answer".to_owned()), ..UsageFilter::default() };
        self.ledger.requests(&RequestQuery { filter, limit, ..RequestQuery::default() }).unwrap().requests
    }

    pub fn router(&self) -> Router {
        router(self.state.clone())
    }

    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(20), axum::body::to_bytes(body, usize::MAX)).await;
        Reply { status: parts.status, headers: parts.headers, body: body.unwrap().unwrap().to_vec() }
    }

    /// Makes a key, as `edgewise keys create` does.
    pub fn key(&self, tenant: &str, scopes: &str) -> CreatedKey {
        let new = NewKey {
            name: "of a test".to_owned(),
            tenant: tenant_name(tenant).unwrap(),
            scopes: scopes.parse().unwrap(),
            expires_at: None,
            limits: Limits::default(),
        };
        self.access.create(new, "test", jiff::Timestamp::now()).unwrap()
    }

    /// A request with a key.
    pub async fn call(&self, key: &str, method: Method, path: &str, body: Option<&Value>) -> Reply {
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut request = request(method, path, Body::from(text));
        request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        if body.is_some() {
            request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        }
        self.send(request).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(request(Method::GET, path, Body::empty())).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(request(Method::DELETE, path, Body::empty())).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        let mut request = request(Method::PUT, path, Body::from(body.to_string()));
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        self.send(request).await
    }

    pub async fn post_text(&self, path: &str, body: &str) -> Reply {
        let mut request = request(Method::POST, path, Body::from(body.to_owned()));
        request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        self.send(request).await
    }

    pub async fn upload(&self, collection: &str, files: &[(&str, &[u8])]) -> Reply {
        self.upload_with(collection, files, &[]).await
    }

    /// An upload that brings passwords for its files.
    pub async fn upload_with(&self, collection: &str, files: &[(&str, &[u8])], passwords: &[&str]) -> Reply {
        let path = format!("/v1/collections/{collection}/documents");
        let mut request = request(Method::POST, &path, Body::from(form(files, passwords)));
        let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.parse().unwrap());
        self.send(request).await
    }
}

pub fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:8080").body(body).unwrap()
}

const BOUNDARY: &str = "boundary-of-a-test";

/// Files and passwords as a multipart form (RFC 7578).
fn form(files: &[(&str, &[u8])], passwords: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    for password in passwords {
        let part = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"password\"\r\n\r\n{password}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// Name and data of every event of a stream.
pub fn events(text: &str) -> Vec<(String, Value)> {
    let blocks = text.split("\n\n").filter(|block| block.lines().any(|line| line.starts_with("data:")));
    let parse = |block: &str| {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {block}")).trim_start().to_owned()
        };
        (field("event:"), serde_json::from_str(&field("data:")).unwrap())
    };
    blocks.map(parse).collect()
}
