//! What an ingest would do, before it does it: how much is cut and embedded anew, how long that takes, what stays.
//!
//! The sources are read, parsed and cut as the ingest would; nothing is written, and of what must be embedded only a sample
//! is, to measure the rate. So the counts are exact for sources that do not change in between, and the time is an estimate.
//!
//! Deliberately not here: asking anybody. The caller shows a plan and decides.

use std::{collections::HashMap, time::Instant};

use edgewise_catalog::{Catalog, OpenMode};
use edgewise_types::{ContentHash, DocumentId};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::CollectionName;

use crate::{
    Collection, IngestOptions, RetrievalError, Source,
    commit::add_known,
    error::of,
    folder::Folder,
    ingest::{check_cancelled, windows},
    prepare::{Prepared, Preparer},
};

/// Most chunks that are embedded to measure the rate.
const SAMPLE_CHUNKS: usize = 32;
/// And no more than one in this many of those to embed.
const SAMPLE_SHARE: usize = 8;

/// What [`Collection::ingest`] would do with the same sources and options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The collection.
    pub collection: CollectionName,
    /// Why the whole collection is made anew; absent if documents are only added, replaced and removed. The old one
    /// serves until the new one is complete.
    pub anew: Option<String>,
    /// Documents in it now.
    pub documents_now: usize,
    /// Chunks in it now.
    pub chunks_now: usize,
    /// Documents it does not hold yet.
    pub added: usize,
    /// Documents it holds with other content.
    pub changed: usize,
    /// Documents of unchanged content that are cut anew.
    pub recut: usize,
    /// Documents that stay as they are, or that an interrupted run before has done already.
    pub unchanged: usize,
    /// Documents that are removed.
    pub removed: usize,
    /// Sources that can't be ingested.
    pub failed: usize,
    /// Chunks of the documents to cut.
    pub chunks: usize,
    /// Of these, chunks whose text was embedded before and keeps its vector.
    pub chunks_kept: usize,
    /// Chunks to embed.
    pub chunks_to_embed: usize,
    /// Their length in the embedder's tokens.
    pub tokens_to_embed: usize,
    /// Rate of the embedder, measured on some of them; absent if there is nothing to embed.
    pub tokens_per_second: Option<f64>,
    /// Estimated time to embed, in seconds.
    pub seconds: Option<f64>,
}

/// Texts to measure with.
#[derive(Default)]
struct Sample {
    texts: Vec<String>,
    tokens: usize,
}

impl Collection {
    /// Says what [`Self::ingest`] would do.
    ///
    /// # Errors
    /// Those the ingest would end with before it changes anything, such as [`RetrievalError::NotCovered`];
    /// [`RetrievalError::Cancelled`]; [`RetrievalError::Model`] if the embedder fails.
    pub fn plan(&self, sources: &[Source], options: &IngestOptions) -> Result<Plan, RetrievalError> {
        let fail = of(self.name());
        let state = self.current()?;
        let course = self.course(&state, sources, options)?;
        let stats = state.catalog().stats().map_err(&fail)?;
        let mut plan = Plan {
            collection: self.name().clone(),
            anew: course.anew.clone(),
            documents_now: stats.documents,
            chunks_now: stats.chunks,
            added: 0,
            changed: 0,
            recut: 0,
            unchanged: 0,
            removed: course.missing.len(),
            failed: 0,
            chunks: 0,
            chunks_kept: 0,
            chunks_to_embed: 0,
            tokens_to_embed: 0,
            tokens_per_second: None,
            seconds: None,
        };
        // What was done of a replacement that was interrupted.
        let begun = match &course.anew {
            Some(_) => begun(&Folder::next(self.root(), self.name()), &course.wanted),
            None => None,
        };
        let held = match (&course.anew, &begun) {
            (None, _) => course.visible.clone(),
            (Some(_), Some(begun)) => begun.content_hashes().map_err(&fail)?,
            (Some(_), None) => Default::default(),
        };
        let same_embedder = state.catalog().meta().embedder == course.wanted.embedder;
        let mut catalogs: Vec<&Catalog> = begun.iter().collect();
        if same_embedder {
            catalogs.push(state.catalog());
        }
        let moved: HashMap<ContentHash, DocumentId> = course.moved();
        let preparer = Preparer::new(&course.profile, &self.models, &options.passwords);
        let mut sample = Sample::default();
        for window in windows(sources) {
            check_cancelled(self, options)?;
            let prepared: Vec<Prepared> =
                window.par_iter().map(|source| preparer.prepare(source, held.get(&source.uri))).collect();
            for (source, prepared) in window.iter().zip(prepared) {
                let draft = match prepared {
                    Prepared::Ready(draft) => draft,
                    Prepared::Unchanged => {
                        plan.unchanged += 1;
                        continue;
                    }
                    Prepared::Failed(_) => {
                        plan.failed += 1;
                        continue;
                    }
                };
                match course.visible.get(&source.uri) {
                    None => plan.added += 1,
                    Some(hash) if *hash == draft.document.content_hash => plan.recut += 1,
                    Some(_) => plan.changed += 1,
                }
                let mut known = HashMap::new();
                for catalog in &catalogs {
                    add_known(catalog, &moved, &draft, &mut known).map_err(&fail)?;
                }
                plan.chunks += draft.texts.len();
                for (text, chunk) in draft.texts.iter().zip(&draft.document.chunks) {
                    if known.contains_key(text) {
                        plan.chunks_kept += 1;
                        continue;
                    }
                    plan.chunks_to_embed += 1;
                    plan.tokens_to_embed += chunk.embedder_tokens;
                    if sample.texts.len() < SAMPLE_CHUNKS && plan.chunks_to_embed.is_multiple_of(SAMPLE_SHARE) {
                        sample.texts.push(text.clone());
                        sample.tokens += chunk.embedder_tokens;
                    }
                }
            }
        }
        if let Some(rate) = self.measure(&sample)? {
            plan.tokens_per_second = Some(rate);
            plan.seconds = Some(plan.tokens_to_embed as f64 / rate);
        }
        Ok(plan)
    }

    /// Why [`Self::ingest`] would make the collection anew, if it would; nothing is read for it but the catalog. Nothing is
    /// made anew where there is nothing yet.
    ///
    /// # Errors
    /// As of [`Self::plan`].
    pub fn made_anew(&self, sources: &[Source], options: &IngestOptions) -> Result<Option<String>, RetrievalError> {
        let state = self.current()?;
        let course = self.course(&state, sources, options)?;
        Ok(course.anew.filter(|_| !course.visible.is_empty()))
    }

    /// Tokens a second.
    fn measure(&self, sample: &Sample) -> Result<Option<f64>, RetrievalError> {
        if sample.texts.is_empty() {
            return Ok(None);
        }
        let texts: Vec<&str> = sample.texts.iter().map(String::as_str).collect();
        // The first call pays for what is set up once.
        self.models.embedder.embed(&["warm"])?;
        let start = Instant::now();
        self.models.embedder.embed(&texts)?;
        Ok(Some(sample.tokens as f64 / start.elapsed().as_secs_f64().max(1e-9)))
    }
}

/// The catalog of a collection that was begun to be made as `wanted`.
pub(crate) fn begun(next: &Folder, wanted: &edgewise_catalog::CatalogMeta) -> Option<Catalog> {
    if !next.exists() {
        return None;
    }
    Catalog::open(&next.catalog(), OpenMode::ReadOnly).ok().filter(|catalog| catalog.meta() == wanted)
}
