//! `edgewise ingest`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use serde_json::json;

use edgewise_documents::{IndexProfile, Passwords};
use edgewise_retrieval::{
    Collection, Discovered, IngestOptions, IngestProgress, IngestReport, Outcome, Source, SourceContent, SourceReport,
    discover,
};
use edgewise_types::{ContentHash, Document, DocumentId, Generation};

use super::query::server;
use crate::{
    app::App,
    args::Ingest,
    client::Client,
    error::CliError,
    interrupt, output,
    progress::{self, IngestBar},
    prompt, watch,
};

/// Bytes of files sent to a server in one request; far below its default limit of an upload.
const UPLOAD_BYTES: u64 = 8 << 20;

pub(crate) fn run(args: &Ingest, app: &App) -> Result<(), CliError> {
    if args.plan {
        return plan(args, app);
    }
    let passwords = passwords(args, app)?;
    let target = match server(&args.place, app) {
        Some(client) => Target::open_remote(args, client)?,
        None => Target::open_local(args, app)?,
    };
    let interrupted = interrupt::watch()?;
    let (found, report) = once(args, app, &target, &passwords, interrupted.flag(), true)?;
    let skipped: Vec<(String, String)> =
        found.skipped.iter().map(|s| (s.path.display().to_string(), s.reason.clone())).collect();
    if args.json {
        output::json(&json!({ "report": report, "skipped": skipped }))?;
    } else {
        output::ingest_report(&report, &skipped)?;
    }
    if !args.watch {
        super::tree::after_ingest(app, &args.collection, &target.after(), args.tree, args.json)?;
        return match output::outcome_counts(&report)[4] {
            0 => Ok(()),
            failed => Err(CliError::Partial { failed, total: report.sources.len() }),
        };
    }
    // A file that can't be read now may be mended while we watch.
    let mut failing = failures(&report);
    output::note(&format!("watching {} (Ctrl-C ends)", names(&args.paths)));
    watch::changes(&args.paths, app.data_root(), &interrupted, || {
        let (_, report) = once(args, app, &target, &passwords, interrupted.flag(), false)?;
        let now = failures(&report);
        for source in &report.sources {
            let told = match &source.outcome {
                Outcome::Unchanged => true,
                Outcome::Failed { reason } => failing.get(&source.uri) == Some(reason),
                Outcome::Added | Outcome::Changed | Outcome::Removed => false,
            };
            if !told {
                output::change(source, args.json)?;
            }
        }
        let changed = |source: &SourceReport| !matches!(source.outcome, Outcome::Unchanged | Outcome::Failed { .. });
        if app.settings().tree.auto && report.sources.iter().any(changed) {
            super::tree::after_ingest(app, &args.collection, &target.after(), true, args.json)?;
        }
        failing = now;
        Ok(())
    })
}

/// What failed, and why.
fn failures(report: &IngestReport) -> BTreeMap<String, String> {
    let failed = report.sources.iter().filter_map(|source| match &source.outcome {
        Outcome::Failed { reason } => Some((source.uri.clone(), reason.clone())),
        _ => None,
    });
    failed.collect()
}

/// Shows what an ingest would do.
fn plan(args: &Ingest, app: &App) -> Result<(), CliError> {
    let collections = app.collections()?;
    let profile = named_profile(args)?;
    let existed = edgewise_retrieval::names(app.data_root())?.contains(&args.collection);
    let collection = collections.get_or_create(&args.collection, &profile.clone().unwrap_or_default())?;
    let target = Target::Local(Arc::clone(&collection), profile.clone());
    let passwords = passwords(args, app)?;
    let planned = discover(&args.paths, &args.include, &args.exclude, &target.profile()).and_then(|found| {
        collection.plan(&found.sources, &options(args.prune && found.complete, profile, &passwords, None))
    });
    if !existed {
        // Made for this question only.
        collections.delete(&args.collection)?;
    }
    let planned = planned?;
    if args.json { output::json(&planned) } else { Ok(output::plan(&planned)?) }
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Discovers and ingests. `first`: before anything is made anew, the plan is shown and agreed to.
fn once(
    args: &Ingest,
    app: &App,
    target: &Target,
    passwords: &Passwords,
    cancel: Arc<AtomicBool>,
    first: bool,
) -> Result<(Discovered, IngestReport), CliError> {
    let mut found = discover(&args.paths, &args.include, &args.exclude, &target.profile())?;
    let sources = std::mem::take(&mut found.sources);
    let prune = args.prune || args.watch;
    if prune && !found.complete {
        output::note("some folders could not be read, so nothing is removed this time");
    }
    let prune = prune && found.complete;
    if let Target::Local(collection, profile) = target {
        let options = options(prune, profile.clone(), passwords, Some(Arc::clone(&cancel)));
        if first && collection.made_anew(&sources, &options)?.is_some() {
            agree(args, collection, &sources, &options)?;
        }
    }
    let bar = IngestBar::new(progress::visible(app.quiet() || args.json));
    let report = match target {
        Target::Local(collection, profile) => {
            let options = options(prune, profile.clone(), passwords, Some(cancel));
            let report = collection.ingest(sources, &options, &bar);
            // Before this process ends: a graph over many vectors takes longer than the ingest of a few.
            let report = report.and_then(|report| collection.flush().map(|()| report)).map_err(CliError::from);
            report.and_then(|report| app.charge_embedding(&report).map(|()| report))
        }
        Target::Remote(client, name) => remote(client, name, sources, passwords, prune, &bar),
    };
    bar.finish();
    Ok((found, report?))
}

/// Shows what making the collection anew comes to, and asks.
fn agree(args: &Ingest, collection: &Collection, sources: &[Source], options: &IngestOptions) -> Result<(), CliError> {
    let plan = collection.plan(sources, options)?;
    output::note(&output::plan_text(&plan));
    if args.yes || prompt::confirm(&format!("Make collection {} anew?", args.collection))? {
        return Ok(());
    }
    Err(CliError::Interrupted)
}

fn options(
    prune: bool,
    profile: Option<IndexProfile>,
    passwords: &Passwords,
    cancel: Option<Arc<AtomicBool>>,
) -> IngestOptions {
    let (remove_missing, passwords) = (prune.then(String::new), passwords.clone());
    IngestOptions { remove_missing, cancel, profile, passwords, ..IngestOptions::default() }
}

/// The passwords of `--password-file`, of `paths.passwords` and of the environment, in this order.
fn passwords(args: &Ingest, app: &App) -> Result<Passwords, CliError> {
    let mut all = Passwords::default();
    for path in args.password_file.as_deref().into_iter().chain(app.settings().paths.passwords_file()) {
        let unreadable = |source| CliError::Io { what: "cannot read the passwords in", path: path.to_owned(), source };
        all = all.and(&Passwords::from_lines(&fs::read_to_string(path).map_err(unreadable)?));
    }
    match std::env::var(edgewise_settings::env::DOCUMENT_PASSWORD) {
        Ok(password) => Ok(all.and(&Passwords::new([password]))),
        Err(_) => Ok(all),
    }
}

fn named_profile(args: &Ingest) -> Result<Option<IndexProfile>, CliError> {
    args.profile
        .as_ref()
        .map(|path| IndexProfile::load(path).map_err(|error| CliError::Usage(error.to_string())))
        .transpose()
}

/// Where documents go.
enum Target {
    /// The profile, if one was named.
    Local(Arc<Collection>, Option<IndexProfile>),
    Remote(Client, String),
}

impl Target {
    fn after(&self) -> super::tree::After<'_> {
        match self {
            Self::Local(collection, _) => super::tree::After::Here(collection),
            Self::Remote(client, _) => super::tree::After::There(client),
        }
    }

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
        let profile = named_profile(args)?;
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

/// Uploads in batches what the server does not hold with the same content.
fn remote(
    client: &Client,
    name: &str,
    sources: Vec<Source>,
    passwords: &Passwords,
    prune: bool,
    bar: &IngestBar,
) -> Result<IngestReport, CliError> {
    let start = Instant::now();
    let present: BTreeSet<String> = sources.iter().map(|s| s.uri.clone()).collect();
    let held: BTreeMap<String, Document> =
        all_documents(client, name)?.into_iter().map(|document| (document.uri.clone(), document)).collect();
    bar.total(sources.len());
    let path = format!("/v1/collections/{name}/documents");
    let mut total: Option<IngestReport> = None;
    let mut settled = Vec::new();
    let (mut batch, mut size) = (Vec::new(), 0);
    let mut sources = sources.into_iter().peekable();
    while let Some(source) = sources.next() {
        let mut settle = |outcome: Outcome| {
            let chunks = held.get(&source.uri).map_or(0, |document| document.chunks);
            let document = DocumentId::from_uri(&source.uri);
            let report = SourceReport { uri: source.uri.clone(), document, outcome, chunks };
            bar.source_done(&report);
            settled.push(report);
        };
        match bytes_of(&source) {
            Ok(bytes) if held.get(&source.uri).is_some_and(|d| d.content_hash == ContentHash::of(&bytes)) => {
                settle(Outcome::Unchanged);
            }
            Ok(bytes) => {
                size += bytes.len() as u64;
                batch.push((source.uri, bytes));
            }
            Err(error) => settle(Outcome::Failed { reason: error.to_string() }),
        }
        if !batch.is_empty() && (size >= UPLOAD_BYTES || batch.len() >= 64 || sources.peek().is_none()) {
            let report: IngestReport = client.upload(&path, &std::mem::take(&mut batch), passwords)?;
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
    total.sources.extend(settled);
    if prune {
        for document in held.into_values().filter(|document| !present.contains(&document.uri)) {
            client.delete(&format!("{path}/{}", document.id))?;
            let removed =
                SourceReport { uri: document.uri, document: document.id, outcome: Outcome::Removed, chunks: 0 };
            total.sources.push(removed);
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

pub(super) fn all_documents(client: &Client, name: &str) -> Result<Vec<Document>, CliError> {
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
