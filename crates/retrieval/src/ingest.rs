//! Ingest: what is new among the sources gets into the collection.
//!
//! Sources are read, parsed and cut on all cores, a window at a time so that memory stays bounded; what is new is
//! embedded and committed (see `commit`) before the next window is read. The content hash decides what is new: an
//! unchanged file is read, never parsed.
//!
//! **Making a collection anew.** A catalog holds vectors of one embedder over chunks of one profile, for life. When either
//! changes, an ingest makes a second collection beside the first, which goes on serving, and puts it in its place at the
//! end. A killed or cancelled one is continued by the next ingest. A document of the collection that is not among the
//! sources would get lost that way, so this is refused, unless missing documents are to be removed. What the first one has
//! embedded with the same embedder is taken over where the new texts are the same. [`Collection::plan`] says beforehand
//! what that comes to.
//!
//! Deliberately not here: finding files, watching them, retrying failed ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use edgewise_catalog::{Catalog, CatalogError, CatalogMeta, OpenMode, SummaryRecord};
use edgewise_documents::{IndexProfile, Passwords};
use edgewise_types::{ContentHash, DocumentId};
use rayon::prelude::*;

use crate::{
    Collection, IngestReport, Outcome, RetrievalError, Source, SourceReport,
    collection::Writer,
    collections::{check_profile, complete, create},
    commit::Committer,
    error::of,
    folder::{Folder, Manifest},
    plan::begun,
    prepare::{Prepared, Preparer, size_hint},
    state::{State, blueprint, index_hash, profile_text},
};

/// Sources prepared together at most.
const WINDOW_SOURCES: usize = 64;
/// And at most this many bytes of them, unless the first alone is larger.
const WINDOW_BYTES: u64 = 64 << 20;

/// How to ingest.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Documents whose URI starts with this and that are not among the sources are removed; `Some("")` means all that
    /// are not. A source that fails counts as there.
    pub remove_missing: Option<String>,
    /// Most documents in one commit.
    pub batch_documents: usize,
    /// A commit holds at most this many chunks, unless a single document has more.
    pub batch_chunks: usize,
    /// Set to `true` to stop before the next commit, with [`RetrievalError::Cancelled`].
    pub cancel: Option<Arc<AtomicBool>>,
    /// Profile to index with from now on; `None` keeps the collection's own. One that cuts or analyses differently makes
    /// the collection anew.
    pub profile: Option<IndexProfile>,
    /// Passwords to try on encrypted files. They are stored nowhere.
    pub passwords: Passwords,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            remove_missing: None,
            batch_documents: 64,
            batch_chunks: 128,
            cancel: None,
            profile: None,
            passwords: Passwords::default(),
        }
    }
}

/// Told how an ingest goes, from the thread that called it.
pub trait IngestProgress: Sync {
    /// Called once, first: how many sources there are.
    fn total(&self, sources: usize);
    /// One source is done: committed, unchanged or failed. Also called for each document that was removed.
    fn source_done(&self, report: &SourceReport);
    /// This many more chunks are embedded.
    fn chunks_embedded(&self, _chunks: usize) {}
    /// Something worth showing.
    fn message(&self, _text: &str) {}
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl IngestProgress for Silent {
    fn total(&self, _sources: usize) {}
    fn source_done(&self, _report: &SourceReport) {}
}

pub(crate) fn check_cancelled(collection: &Collection, options: &IngestOptions) -> Result<(), RetrievalError> {
    let asked = options.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Acquire));
    if asked || collection.closing.load(Ordering::Acquire) { Err(RetrievalError::Cancelled) } else { Ok(()) }
}

/// What an ingest was asked to do, against what the collection holds.
struct Job<'a> {
    sources: Vec<Source>,
    options: &'a IngestOptions,
    progress: &'a dyn IngestProgress,
    /// What the collection holds that others can see.
    visible: BTreeMap<String, ContentHash>,
    /// Of these, what is to be removed.
    missing: Vec<String>,
}

/// What an ingest comes to, decided before anything is done.
pub(crate) struct Course {
    /// The profile that applies from now on.
    pub(crate) profile: IndexProfile,
    /// What a catalog made now would say of itself.
    pub(crate) wanted: CatalogMeta,
    /// What the collection holds that others can see.
    pub(crate) visible: BTreeMap<String, ContentHash>,
    /// Of these, what is to be removed.
    pub(crate) missing: Vec<String>,
    /// Why everything is made anew.
    pub(crate) anew: Option<String>,
    /// Why it should be, when that is left for later.
    later: Option<String>,
}

impl Course {
    /// Documents that are going to be removed, by content: what was renamed.
    pub(crate) fn moved(&self) -> HashMap<ContentHash, DocumentId> {
        moved(&self.missing, &self.visible)
    }
}

fn moved(missing: &[String], visible: &BTreeMap<String, ContentHash>) -> HashMap<ContentHash, DocumentId> {
    missing.iter().filter_map(|uri| Some((visible.get(uri)?.clone(), DocumentId::from_uri(uri)))).collect()
}

/// What one pass over the sources did.
struct Pass {
    reports: Vec<SourceReport>,
    chunks_embedded: usize,
    tokens_embedded: usize,
}

impl Collection {
    /// Adds new and changed documents, and removes missing ones if asked to. Blocks until all is committed and both
    /// indexes have followed.
    ///
    /// # Errors
    /// [`RetrievalError::Locked`], [`RetrievalError::Cancelled`], [`RetrievalError::DiskFull`],
    /// [`RetrievalError::NotCovered`], [`RetrievalError::RebuildIncomplete`]. What was committed before an error is kept.
    /// A source that can't be ingested is no error: it is in the report.
    pub fn ingest(
        &self,
        sources: Vec<Source>,
        options: &IngestOptions,
        progress: &dyn IngestProgress,
    ) -> Result<IngestReport, RetrievalError> {
        let start = Instant::now();
        progress.total(sources.len());
        let mut slot = self.writer();
        let (state, writer) = self.write(&mut slot)?;
        let Course { profile, wanted, visible, missing, anew, later } = self.course(&state, &sources, options)?;
        let job = Job { sources, options, progress, visible, missing };
        let pass = if let Some(reason) = anew {
            if !job.visible.is_empty() {
                progress.message(&format!("making the collection anew because {reason}"));
            }
            drop(state);
            self.make_anew(&job, &profile, &wanted, writer)?
        } else {
            if let Some(reason) = later {
                progress.message(&format!(
                    "{reason}; documents indexed before stay as they are until all sources are ingested together"
                ));
            }
            let state = self.put_profile_in_force(state, &profile)?;
            self.pass(&job, &profile, &state, &writer.catalog, None)?
        };
        let state = self.current()?;
        state.end_write()?;
        let mut reports = pass.reports;
        reports.sort_by(|a, b| a.uri.cmp(&b.uri));
        Ok(IngestReport {
            collection: self.name().clone(),
            generation: state.generation()?,
            sources: reports,
            chunks_embedded: pass.chunks_embedded,
            tokens_embedded: pass.tokens_embedded,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Decides what an ingest comes to.
    pub(crate) fn course(
        &self,
        state: &State,
        sources: &[Source],
        options: &IngestOptions,
    ) -> Result<Course, RetrievalError> {
        let mut profile = options.profile.clone().unwrap_or_else(|| (**state.profile()).clone());
        // What questions may use is the collection's own, whatever it is indexed with.
        profile.ceiling = state.profile().ceiling;
        check_profile(&profile, &self.models)?;
        let visible = state.catalog().content_hashes().map_err(of(self.name()))?;
        let given: BTreeSet<&str> = sources.iter().map(|source| source.uri.as_str()).collect();
        let (missing, left): (Vec<String>, Vec<String>) =
            visible.keys().filter(|uri| !given.contains(uri.as_str())).cloned().partition(|uri| {
                options.remove_missing.as_ref().is_some_and(|prefix| uri.starts_with(prefix.as_str()))
            });
        let wanted = blueprint(self.name(), &profile, &self.models)?;
        let (anew, later) = match outdated(state.catalog().meta(), &wanted, options.profile.is_some()) {
            None => (None, None),
            Some(Outdated { reason, must: true }) if !left.is_empty() => {
                return Err(RetrievalError::NotCovered {
                    collection: self.name().clone(),
                    reason,
                    missing: left.len(),
                    example: left[0].clone(),
                });
            }
            Some(Outdated { reason, .. }) if left.is_empty() => (Some(reason), None),
            Some(Outdated { reason, .. }) => (None, Some(reason)),
        };
        Ok(Course { profile, wanted, visible, missing, anew, later })
    }

    /// Records a profile that differs only in what acts on queries and on which files are read.
    pub(crate) fn put_profile_in_force(
        &self,
        state: Arc<State>,
        profile: &IndexProfile,
    ) -> Result<Arc<State>, RetrievalError> {
        if **state.profile() == *profile {
            return Ok(state);
        }
        let manifest = Manifest::new(state.catalog().id(), profile_text(self.name(), profile)?);
        state.folder().write_manifest(&manifest)?;
        state.release_lexical()?;
        self.reopen()
    }

    /// Makes a second collection from the sources and puts it in the place of this one.
    fn make_anew(
        &self,
        job: &Job<'_>,
        profile: &IndexProfile,
        wanted: &CatalogMeta,
        writer: &mut Writer,
    ) -> Result<Pass, RetrievalError> {
        let next = Folder::next(self.root(), self.name());
        if begun(&next, wanted).is_none() {
            create(&next, self.name(), profile, &self.models)?;
        }
        let pass = {
            let state = State::open(self.name(), next.clone())?;
            let catalog = Catalog::open(&next.catalog(), OpenMode::ReadWrite).map_err(of(self.name()))?;
            state.follow_as_writer()?;
            let former = Some(&writer.catalog).filter(|former| former.meta().embedder == wanted.embedder);
            let pass = self.pass(job, profile, &state, &catalog, former)?;
            carry_over(&writer.catalog, &catalog).map_err(of(self.name()))?;
            state.save_vectors(true)?;
            state.release_lexical()?;
            pass
        };
        let lost: Vec<&SourceReport> = pass
            .reports
            .iter()
            .filter(|report| matches!(report.outcome, Outcome::Failed { .. }) && job.visible.contains_key(&report.uri))
            .collect();
        if let Some(SourceReport { uri, outcome: Outcome::Failed { reason }, .. }) = lost.first() {
            return Err(RetrievalError::RebuildIncomplete {
                collection: self.name().clone(),
                count: lost.len(),
                uri: uri.clone(),
                reason: reason.clone(),
            });
        }
        complete(&next, self.name(), profile)?;
        next.publish()?;
        let state = self.reopen()?;
        writer.catalog = Catalog::open(state.catalog().path(), OpenMode::ReadWrite).map_err(of(self.name()))?;
        Ok(pass)
    }

    /// Brings the collection in `state` to what the job asks for.
    fn pass(
        &self,
        job: &Job<'_>,
        profile: &IndexProfile,
        state: &State,
        catalog: &Catalog,
        former: Option<&Catalog>,
    ) -> Result<Pass, RetrievalError> {
        let preparer = Preparer::new(profile, &self.models, &job.options.passwords);
        let held = catalog.content_hashes().map_err(of(self.name()))?;
        let mut committer = Committer {
            collection: self,
            state,
            catalog,
            former,
            options: job.options,
            progress: job.progress,
            moved: moved(&job.missing, &job.visible),
            chunks_embedded: 0,
            tokens_embedded: 0,
        };
        let mut reports = Vec::with_capacity(job.sources.len());
        let mut report = |uri: &str, outcome: Outcome, chunks: usize| {
            let report = SourceReport { uri: uri.to_owned(), document: DocumentId::from_uri(uri), outcome, chunks };
            job.progress.source_done(&report);
            reports.push(report);
        };
        // Whether a document that is now as its source is was so before, as far as others could see.
        let outcome = |uri: &str| match job.visible.get(uri) {
            None => Outcome::Added,
            Some(_) => Outcome::Changed,
        };
        let held_chunks = |uri: &str| -> Result<usize, RetrievalError> {
            let document = catalog.document_by_uri(uri).map_err(of(self.name()))?;
            Ok(document.map_or(0, |document| document.chunks))
        };
        let rebuilt = state.folder() != &Folder::of(self.root(), self.name());
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for window in windows(&job.sources) {
            check_cancelled(self, job.options)?;
            let (first, again): (Vec<&Source>, Vec<&Source>) =
                window.iter().partition(|source| !source.uri.is_empty() && seen.insert(&source.uri));
            let prepared: Vec<(&Source, Prepared)> =
                first.par_iter().map(|source| (*source, preparer.prepare(source, held.get(&source.uri)))).collect();
            let mut drafts = Vec::new();
            for (source, prepared) in prepared {
                match prepared {
                    Prepared::Ready(draft) => drafts.push(*draft),
                    // Committed by an earlier run that was interrupted.
                    Prepared::Unchanged if rebuilt => {
                        report(&source.uri, outcome(&source.uri), held_chunks(&source.uri)?);
                    }
                    Prepared::Unchanged => report(&source.uri, Outcome::Unchanged, held_chunks(&source.uri)?),
                    Prepared::Failed(reason) => {
                        report(&source.uri, Outcome::Failed { reason }, held_chunks(&source.uri)?);
                    }
                }
            }
            for settled in committer.commit(drafts)? {
                match settled.result {
                    Ok(chunks) => report(&settled.uri, outcome(&settled.uri), chunks),
                    Err(reason) => {
                        report(&settled.uri, Outcome::Failed { reason }, held_chunks(&settled.uri)?);
                    }
                }
            }
            for source in again {
                let reason = if source.uri.is_empty() {
                    "its name is empty: give it one"
                } else {
                    "another source of this ingest has the same name: rename one of them"
                };
                report(&source.uri, Outcome::Failed { reason: reason.to_owned() }, held_chunks(&source.uri)?);
            }
        }
        // Besides what is to be removed: what an interrupted run over other sources left in a collection being made.
        let stray = held.keys().filter(|uri| rebuilt && !seen.contains(uri.as_str()));
        let gone: BTreeSet<&String> = job.missing.iter().chain(stray).filter(|uri| held.contains_key(*uri)).collect();
        if !gone.is_empty() {
            committer.delete(gone.into_iter().map(|uri| DocumentId::from_uri(uri)).collect())?;
        }
        for uri in &job.missing {
            report(uri, Outcome::Removed, 0);
        }
        let (chunks_embedded, tokens_embedded) = (committer.chunks_embedded, committer.tokens_embedded);
        Ok(Pass { reports, chunks_embedded, tokens_embedded })
    }
}

/// Cuts the sources into runs that are prepared together.
pub(crate) fn windows(sources: &[Source]) -> impl Iterator<Item = &[Source]> {
    let mut rest = sources;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(WINDOW_SOURCES).take_while(|source| {
            bytes += size_hint(source);
            bytes <= WINDOW_BYTES
        });
        let count = fitting.count().max(1).min(rest.len());
        let (window, later) = rest.split_at(count);
        rest = later;
        (!window.is_empty()).then_some(window)
    })
}

/// Why a collection does not reflect what an ingest now would make of its sources.
struct Outdated {
    reason: String,
    /// Whether old and new documents can't be in one catalog, or the caller asked for the change. Otherwise the
    /// collection is only made anew if that costs nothing but time.
    must: bool,
}

fn outdated(stored: &CatalogMeta, wanted: &CatalogMeta, profile_given: bool) -> Option<Outdated> {
    let outdated = |must: bool, reason: String| Some(Outdated { reason, must });
    if stored.embedder.digest != wanted.embedder.digest || stored.embedder.dimension != wanted.embedder.dimension {
        return outdated(
            true,
            format!("the embedder changed from `{}` to `{}`", stored.embedder.model, wanted.embedder.model),
        );
    }
    if index_hash(stored) != index_hash(wanted) {
        return if profile_given {
            outdated(true, "the index profile cuts or analyses texts differently".to_owned())
        } else {
            outdated(false, "this version of Edgewise cuts texts differently".to_owned())
        };
    }
    if stored.generator_tokenizer != wanted.generator_tokenizer {
        return outdated(
            false,
            format!(
                "tokens were counted for the tokenizer of `{}`, now it is `{}`",
                stored.generator_tokenizer, wanted.generator_tokenizer
            ),
        );
    }
    None
}

/// Summaries kept at a time when a collection is made anew.
const CARRIED_SUMMARIES: usize = 256;

/// Takes what does not depend on the chunks over from a collection that is made anew: its jobs and, if the vectors are of
/// the same embedder, its summaries. They are kept by the texts they are of, so the next tree finds those that fit.
fn carry_over(from: &Catalog, to: &Catalog) -> Result<(), CatalogError> {
    // Oldest first: they are listed in this order.
    for job in from.jobs(usize::MAX)?.iter().rev() {
        to.put_job(job)?;
    }
    if from.meta().embedder != to.meta().embedder {
        return Ok(());
    }
    let mut batch: Vec<SummaryRecord> = Vec::new();
    from.for_each_summary(|summary| {
        batch.push(summary);
        if batch.len() < CARRIED_SUMMARIES { Ok(()) } else { to.put_summaries(&std::mem::take(&mut batch)) }
    })?;
    to.put_summaries(&batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceContent;

    fn source(bytes: usize) -> Source {
        Source { uri: String::new(), content: SourceContent::Bytes(vec![0; bytes]), media_type: None }
    }

    #[test]
    fn windows_bound_number_and_bytes_and_leave_nothing_out() {
        let half = usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX) / 2;
        let mut sources: Vec<Source> = (0..2 * WINDOW_SOURCES + 1).map(|_| source(1)).collect();
        sources.extend([source(half + 1), source(half), source(3 * half), source(0)]);
        let sizes: Vec<usize> = windows(&sources).map(<[Source]>::len).collect();
        assert_eq!(sizes, [WINDOW_SOURCES, WINDOW_SOURCES, 1 + 1, 1, 1, 1]);
        assert_eq!(windows(&[]).count(), 0);
    }
}
