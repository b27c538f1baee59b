//! `edgewise ingest`.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use serde_json::json;

use edgewise_documents::IndexProfile;
use edgewise_retrieval::{
    Collection, Discovered, IngestOptions, IngestProgress, IngestReport, Outcome, Source, SourceContent, SourceReport,
    discover,
};
use edgewise_types::{Document, DocumentId, Generation};

use super::query::server;
use crate::{
    app::App,
    args::Ingest,
    client::Client,
    error::CliError,
    interrupt, output,
    progress::{self, IngestBar},
    watch,
};

/// Bytes of files sent to a server in one request; far below its default limit of an upload.
const UPLOAD_BYTES: u64 = 8 << 20;

pub(crate) fn run(args: &Ingest, app: &App) -> Result<(), CliError> {
    let target = match server(&args.place, app) {
        Some(client) => Target::open_remote(args, client)?,
        None => Target::open_local(args, app)?,
    };
    let interrupted = interrupt::watch()?;
    let outcome = once(args, app, &target, interrupted.flag());
    if !args.watch {
        return outcome;
    }
    match outcome {
        // A file that can't be read now may be mended while we watch.
        Err(CliError::Partial { .. }) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    output::note(&format!("watching {} (Ctrl-C ends)", names(&args.paths)));
    watch::changes(&args.paths, &interrupted, || match once(args, app, &target, interrupted.flag()) {
        Err(CliError::Partial { .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    })
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Discovers, ingests, prints.
fn once(args: &Ingest, app: &App, target: &Target, cancel: Arc<AtomicBool>) -> Result<(), CliError> {
    let found = discover(&args.paths, &args.include, &args.exclude, &target.profile())?;
    let skipped: Vec<(String, String)> =
        found.skipped.iter().map(|s| (s.path.display().to_string(), s.reason.clone())).collect();
    let prune = args.prune || args.watch;
    if prune && !found.complete {
        output::note("some folders could not be read, so nothing is removed this time");
    }
    let bar = IngestBar::new(progress::visible(app.quiet() || args.json));
    let report = match target {
        Target::Local(collection, profile) => local(collection, profile.clone(), found, prune, cancel, &bar),
        Target::Remote(client, name) => remote(client, name, found, prune, &bar),
    };
    bar.finish();
    let report = report?;
    if args.json {
        output::json(&json!({ "report": report, "skipped": skipped }))?;
    } else {
        output::ingest_report(&report, &skipped)?;
    }
    match output::outcome_counts(&report)[4] {
        0 => Ok(()),
        failed => Err(CliError::Partial { failed, total: report.sources.len() }),
    }
}

/// Where documents go.
enum Target {
    /// The profile, if one was named.
    Local(Arc<Collection>, Option<IndexProfile>),
    Remote(Client, String),
}

impl Target {
    /// The profile whose formats are looked for.
    fn profile(&self) -> IndexProfile {
        match self {
            Self::Local(_, Some(profile)) => profile.clone(),
            Self::Local(collection, None) => IndexProfile::clone(&collection.profile()),
            Self::Remote(..) => IndexProfile::default(),
        }
    }

    fn open_local(args: &Ingest, app: &App) -> Result<Self, CliError> {
        let collections = app.collections()?;
        let profile = match &args.profile {
            Some(path) => Some(IndexProfile::load(path).map_err(|e| CliError::Usage(e.to_string()))?),
            None => None,
        };
        let collection = collections.get_or_create(&args.collection, &profile.clone().unwrap_or_default())?;
        Ok(Self::Local(collection, profile))
    }

    fn open_remote(args: &Ingest, client: Client) -> Result<Self, CliError> {
        if args.profile.is_some() {
            return Err(CliError::Usage(format!(
                "--profile needs the collection in this process, but the server at {} holds it: stop the server and run this again",
                client.url()
            )));
        }
        let body = json!({ "name": args.collection });
        let _: serde_json::Value = client.post("/v1/collections", &body)?;
        Ok(Self::Remote(client, args.collection.to_string()))
    }
}

fn local(
    collection: &Collection,
    profile: Option<IndexProfile>,
    found: Discovered,
    prune: bool,
    cancel: Arc<AtomicBool>,
    bar: &IngestBar,
) -> Result<IngestReport, CliError> {
    let remove_missing = (prune && found.complete).then(String::new);
    let options = IngestOptions { remove_missing, cancel: Some(cancel), profile, ..IngestOptions::default() };
    let report = collection.ingest(found.sources, &options, bar)?;
    // Before this process ends: a graph over many vectors takes longer than the ingest of a few.
    collection.flush()?;
    Ok(report)
}

/// Uploads in batches; the server decides what is new by content.
fn remote(
    client: &Client,
    name: &str,
    found: Discovered,
    prune: bool,
    bar: &IngestBar,
) -> Result<IngestReport, CliError> {
    let start = Instant::now();
    let present: BTreeSet<String> = found.sources.iter().map(|s| s.uri.clone()).collect();
    bar.total(found.sources.len());
    let path = format!("/v1/collections/{name}/documents");
    let mut total: Option<IngestReport> = None;
    let mut unreadable = Vec::new();
    let (mut batch, mut size) = (Vec::new(), 0);
    let mut sources = found.sources.into_iter().peekable();
    while let Some(source) = sources.next() {
        match bytes_of(&source) {
            Ok(bytes) => {
                size += bytes.len() as u64;
                batch.push((source.uri, bytes));
            }
            Err(error) => {
                let outcome = Outcome::Failed { reason: error.to_string() };
                let document = DocumentId::from_uri(&source.uri);
                unreadable.push(SourceReport { uri: source.uri, document, outcome, chunks: 0 });
            }
        }
        if !batch.is_empty() && (size >= UPLOAD_BYTES || batch.len() >= 64 || sources.peek().is_none()) {
            let report: IngestReport = client.upload(&path, &std::mem::take(&mut batch))?;
            size = 0;
            bar.chunks_embedded(report.chunks_embedded);
            report.sources.iter().for_each(|s| bar.source_done(s));
            merge(&mut total, report);
        }
    }
    let mut total = match total {
        Some(total) => total,
        None => IngestReport {
            collection: name.parse().map_err(|e: edgewise_types::IdError| CliError::Usage(e.to_string()))?,
            generation: Generation(0),
            sources: Vec::new(),
            chunks_embedded: 0,
            tokens_embedded: 0,
            seconds: 0.0,
        },
    };
    total.sources.extend(unreadable);
    if prune && found.complete {
        for document in all_documents(client, name)? {
            if !present.contains(&document.uri) {
                client.delete(&format!("{path}/{}", document.id))?;
                let removed =
                    SourceReport { uri: document.uri, document: document.id, outcome: Outcome::Removed, chunks: 0 };
                total.sources.push(removed);
            }
        }
    }
    total.sources.sort_by(|a, b| a.uri.cmp(&b.uri));
    total.seconds = start.elapsed().as_secs_f64();
    Ok(total)
}

fn bytes_of(source: &Source) -> Result<Vec<u8>, std::io::Error> {
    match &source.content {
        SourceContent::Bytes(bytes) => Ok(bytes.clone()),
        SourceContent::File(path) => fs::read(path),
    }
}

fn merge(total: &mut Option<IngestReport>, report: IngestReport) {
    match total {
        None => *total = Some(report),
        Some(total) => {
            total.generation = report.generation;
            total.sources.extend(report.sources);
            total.chunks_embedded += report.chunks_embedded;
            total.tokens_embedded += report.tokens_embedded;
        }
    }
}

fn all_documents(client: &Client, name: &str) -> Result<Vec<Document>, CliError> {
    const PAGE: usize = 500;
    #[derive(serde::Deserialize)]
    struct Page {
        documents: Vec<Document>,
    }
    let mut all = Vec::new();
    loop {
        let page: Page = client.get(&format!("/v1/collections/{name}/documents?offset={}&limit={PAGE}", all.len()))?;
        let last = page.documents.len() < PAGE;
        all.extend(page.documents);
        if last {
            return Ok(all);
        }
    }
}
