//! Files from the Hugging Face hub.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress as Listener,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};

use super::watched;
use crate::{FileSpec, ModelSpec, Progress, Source, StoreError, error, write::write_verified};

/// Times a broken connection is taken up again.
const RETRIES: usize = 3;

/// How to reach the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubOptions {
    /// Address of the hub or of a mirror; `None` is the public one.
    pub endpoint: Option<String>,
    /// Access token; `None` takes the one stored in the hub's home folder, if any.
    pub token: Option<String>,
    /// Home folder of the hub's tools, where their cache is; `None` is `~/.cache/huggingface`.
    pub home: Option<PathBuf>,
}

impl HubOptions {
    /// Options from the variables that the hub's own tools use: `HF_ENDPOINT`, `HF_TOKEN` and `HF_HOME`.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| lookup(name).filter(|value| !value.is_empty());
        Self { endpoint: set("HF_ENDPOINT"), token: set("HF_TOKEN"), home: set("HF_HOME").map(PathBuf::from) }
    }

    fn cache(&self) -> Option<Cache> {
        let home = match &self.home {
            Some(home) => home.clone(),
            None => std::env::home_dir()?.join(".cache").join("huggingface"),
        };
        Some(Cache::new(home.join("hub")))
    }
}

/// A repository at a commit.
pub(crate) struct Place<'a> {
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
    /// Where an interrupted download is kept, to be taken up again.
    pub(crate) resumable: &'a Path,
    pub(crate) options: &'a HubOptions,
}

/// Bytes of the file being downloaded, as the client reports them from the thread it runs on.
struct Counter(Arc<AtomicU64>);

impl Listener for Counter {
    fn init(&mut self, _size: usize, _filename: &str) {
        // Called again for each connection, followed by an update with what is there already.
        self.0.store(0, Ordering::Relaxed);
    }

    fn update(&mut self, size: usize) {
        self.0.fetch_add(size as u64, Ordering::Relaxed);
    }

    fn finish(&mut self) {}
}

/// Fetches every file of the model: from the cache of the hub's own tools where it is there, otherwise downloaded.
pub(crate) fn fetch(
    spec: &ModelSpec,
    source: &Source,
    place: &Place<'_>,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let cache = place.options.cache();
    let token = place.options.token.clone().or_else(|| cache.as_ref().and_then(Cache::token));
    let mut builder = ApiBuilder::from_cache(Cache::new(place.resumable.to_owned())).with_token(token);
    if let Some(endpoint) = &place.options.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let repo = Repo::with_revision(place.repo.to_owned(), RepoType::Model, place.revision.to_owned());
    let api = builder.with_retries(RETRIES).build().map_err(|error| failed("the model", place, &error))?;
    let snapshot = cache.map(|cache| cache.repo(repo.clone()).pointer_path(place.revision));
    let remote = api.repo(repo);
    for file in &spec.files {
        let path = source.path_of(&file.name);
        let cached = snapshot.as_ref().map(|snapshot| snapshot.join(path));
        // Another size is a download that the other tool has not finished.
        let complete =
            |path: &PathBuf| fs::metadata(path).is_ok_and(|found| file.bytes.is_none_or(|bytes| found.len() == bytes));
        let fetched = match cached.filter(complete) {
            Some(cached) => cached,
            None => download(&remote, path, file, place, progress)?,
        };
        let mut content = File::open(&fetched).map_err(error::io("open", &fetched))?;
        progress.start(&format!("checking {}", file.name), file.bytes.unwrap_or_default());
        let checked = write_verified(&mut content, &folder.join(&file.name), file, &source.to_string(), progress);
        if matches!(checked, Err(StoreError::Checksum { .. } | StoreError::Size { .. })) {
            discard(place.resumable)?;
        }
        checked?;
        progress.finish();
    }
    discard(place.resumable)
}

fn download(
    remote: &ApiRepo,
    path: &str,
    file: &FileSpec,
    place: &Place<'_>,
    progress: &dyn Progress,
) -> Result<PathBuf, StoreError> {
    let done = Arc::new(AtomicU64::new(0));
    let counter = Counter(Arc::clone(&done));
    let step = format!("downloading {}", file.name);
    let so_far = || done.load(Ordering::Relaxed);
    watched(&step, file.bytes.unwrap_or_default(), progress, so_far, || {
        match remote.download_with_progress(path, counter) {
            Ok(path) => Ok(path),
            Err(error) => {
                if matches!(error, ApiError::InvalidResume) {
                    discard(place.resumable)?;
                }
                Err(failed(path, place, &error))
            }
        }
    })
}

fn failed(file: &str, place: &Place<'_>, error: &ApiError) -> StoreError {
    StoreError::Hub { file: file.to_owned(), repo: place.repo.to_owned(), message: error.to_string() }
}

/// Removes what was downloaded: it is installed, or worthless.
fn discard(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}
