//! What building a tree would take, before anything of it runs.
//!
//! Clusters are found and kept summaries looked up as by a build. Of the embedder, and of summaries made of sentences, a few
//! texts are done to measure the speed; the generator's comes from its calibrated curve. Nothing is written.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use edgewise_model_api::LatencyCurve;
use edgewise_summary_tree::{
    Effort, MemberText, PlannedRoot, Summariser, SummaryRequest, TreeBuilder, TreeError, TreeOptions, TreePart,
    Unattended,
};
use edgewise_types::{TreeScope, Usage};

use super::{
    build::{Source, due},
    store::{Known, failed_store},
};
use crate::{Collection, RetrievalError, SummariserKind, TreeBuildOptions, TreePlan, error::of};

/// Documents whose leaves are embedded and summarised to measure the speed.
const SAMPLES: usize = 3;

/// Leaves of each.
const SAMPLE_LEAVES: usize = 8;

/// What was measured.
#[derive(Default)]
struct Speed {
    embedded: Duration,
    tokens: usize,
    summarised: Duration,
    summaries: usize,
}

impl Speed {
    /// Embeds and summarises the first leaves of a document.
    fn measure(
        &mut self,
        collection: &Collection,
        summariser: &dyn Summariser,
        kind: SummariserKind,
        source: &Source,
    ) -> Result<(), RetrievalError> {
        let models = &collection.models;
        let leaves: Vec<_> = source.leaves.leaves.iter().take(SAMPLE_LEAVES).collect();
        if leaves.is_empty() {
            return Ok(());
        }
        if self.tokens == 0 {
            // The first call pays for what is set up once.
            models.embedder.embed(&["warm"])?;
        }
        let texts: Vec<&str> = leaves.iter().map(|leaf| leaf.text.as_str()).collect();
        let start = Instant::now();
        models.embedder.embed(&texts)?;
        self.embedded += start.elapsed();
        for text in &texts {
            self.tokens += models.embedder.tokenizer().count(text)?;
        }
        if kind == SummariserKind::Extractive {
            let members: Vec<MemberText<'_>> = leaves
                .iter()
                .map(|leaf| MemberText {
                    headings: &leaf.heading_path,
                    text: &leaf.text,
                    embedding: &leaf.embedding,
                    tokens: leaf.tokens,
                })
                .collect();
            let request = SummaryRequest {
                title: &source.leaves.title,
                level: 1,
                members: &members,
                tokenizer: models.embedder.tokenizer(),
                waiting: &|| Ok(()),
            };
            let start = Instant::now();
            summariser.summarise(&request).map_err(|error| collection.tree_failure(error.into()))?;
            self.summarised += start.elapsed();
            self.summaries += 1;
        }
        Ok(())
    }

    /// Seconds that making these summaries takes.
    fn seconds(&self, effort: Effort, tokens_to_embed: usize, curve: Option<LatencyCurve>) -> f64 {
        let per = |total: Duration, n: usize| if n == 0 { 0.0 } else { total.as_secs_f64() / n as f64 };
        let embedding = tokens_to_embed as f64 * per(self.embedded, self.tokens);
        let extracting = effort.summaries as f64 * per(self.summarised, self.summaries);
        let generating = curve.map_or(0.0, |curve| {
            let calls = effort.calls.max(1);
            let (prompt, output) = (effort.prompt_tokens / calls, effort.output_tokens / calls);
            effort.calls as f64 * (curve.prefill_ms(prompt, 0) + curve.decode_ms(prompt, output)) / 1e3
        });
        embedding + extracting + generating
    }
}

impl Collection {
    /// Says what [`Self::build_tree`] would do.
    ///
    /// # Errors
    /// [`RetrievalError::Tree`] if embeddings can't be clustered; [`RetrievalError::Model`] if the embedder fails.
    pub fn plan_tree(&self, options: &TreeBuildOptions) -> Result<TreePlan, RetrievalError> {
        let start = Instant::now();
        let fail = of(self.name());
        let summariser = self.summariser(options)?;
        let identity = summariser.identity();
        let state = self.current()?;
        let overview = state.catalog().tree_overview().map_err(&fail)?;
        let store = Known(self);
        let builder = TreeBuilder {
            summariser: &*summariser,
            embedder: &*self.models.embedder,
            tokenizer: &*self.models.tokenizer,
            options: TreeOptions::default(),
            store: &store,
            control: &Unattended,
        };
        let former = |scope: &TreeScope| -> Result<Option<TreePart>, RetrievalError> {
            if options.full { Ok(None) } else { self.former_part(scope) }
        };
        let mut speed = Speed::default();
        let (mut effort, mut kept, mut documents_kept, mut changed) = (Effort::default(), 0, 0, false);
        let mut roots: Vec<PlannedRoot> = Vec::new();
        for tree in &overview.documents {
            if !due(tree, &identity, options.full) {
                documents_kept += 1;
                let known = self.tree_roots(std::slice::from_ref(tree), &HashMap::new())?;
                roots.extend(known.into_iter().map(|root| PlannedRoot { root, known: true }));
                continue;
            }
            changed = true;
            let Some(source) = self.tree_source(&tree.document)? else { continue };
            if speed.summaries.max(usize::from(speed.tokens > 0)) < SAMPLES {
                speed.measure(self, &*summariser, options.summariser, &source)?;
            }
            let part = former(&TreeScope::Document(tree.document.clone()))?;
            let planned =
                builder.plan_document(&source.leaves, part.as_ref()).map_err(|error| self.tree_failure(error))?;
            effort = effort.plus(planned.effort());
            kept += planned.kept;
            roots.extend(planned.root);
        }
        let layers_due = changed
            || options.full
            || !overview.collection_current
            || overview.collection.as_ref().is_some_and(|part| part.summariser != identity);
        if layers_due && !overview.documents.is_empty() {
            let before = former(&TreeScope::Collection)?;
            let planned = builder.plan_collection(&roots, before.as_ref()).map_err(|error| self.tree_failure(error))?;
            effort = effort.plus(planned.effort());
            kept += planned.kept;
        }
        let tokens_to_embed = effort.summaries * summariser.limits().tokens;
        let curve = options.generator.as_ref().filter(|_| effort.calls > 0).map(|model| model.generator.latency());
        let usage =
            Usage { input_tokens: effort.prompt_tokens, output_tokens: effort.output_tokens, ..Usage::default() };
        // A build clusters what this did, too.
        let seconds = start.elapsed().saturating_sub(speed.embedded + speed.summarised).as_secs_f64()
            + speed.seconds(effort, tokens_to_embed, curve);
        let other =
            overview.documents.iter().filter_map(|tree| tree.part.as_ref()).find(|part| part.summariser != identity);
        Ok(TreePlan {
            collection: self.name().clone(),
            anew: other.map(|part| format!("the tree was written by `{}`", part.summariser)),
            summariser: identity,
            documents: overview.documents.len(),
            documents_kept,
            leaves: overview.documents.iter().map(|tree| tree.chunks).sum(),
            summaries: effort.summaries,
            summaries_kept: kept,
            calls: effort.calls,
            prompt_tokens: effort.prompt_tokens,
            output_tokens: effort.output_tokens,
            cost: (options.price)(&usage),
            tokens_to_embed,
            seconds,
        })
    }

    /// A failure of the builder as one of this collection.
    pub(super) fn tree_failure(&self, error: TreeError) -> RetrievalError {
        match error {
            TreeError::Halted(_) => RetrievalError::Cancelled,
            TreeError::Store(error) => failed_store(self, error),
            TreeError::Embed(error) => error.into(),
            error => RetrievalError::Tree { collection: self.name().clone(), source: error },
        }
    }
}
