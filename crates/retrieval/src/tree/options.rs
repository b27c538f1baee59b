//! What a build is asked for, and who follows it.

use std::sync::Arc;

use edgewise_model_api::Generator;
use edgewise_prompts::Prompts;
use edgewise_summary_tree::{
    Abstractive, AbstractiveOptions, Extractive, ExtractiveOptions, Summariser, SummaryLimits,
};
use edgewise_types::{Money, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Collection, RetrievalError, TreeBudget, TreeProgress, collections::SPECIAL_TOKENS};

/// Who writes summaries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SummariserKind {
    /// Sentences of the documents, word for word.
    #[default]
    Extractive,
    /// A generator.
    Abstractive,
}

impl SummariserKind {
    /// Its name, as serialised: what the identity of such a summariser begins with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Extractive => "extractive",
            Self::Abstractive => "abstractive",
        }
    }

    /// The kind of the summariser of this identity.
    pub(super) fn of_identity(identity: &str) -> Option<Self> {
        [Self::Extractive, Self::Abstractive].into_iter().find(|kind| identity.starts_with(kind.as_str()))
    }
}

impl std::fmt::Display for SummariserKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What writes abstractive summaries.
#[derive(Clone)]
pub struct TreeGenerator {
    /// The model.
    pub generator: Arc<dyn Generator>,
    /// The templates.
    pub prompts: Prompts,
}

/// What to build, and within which limits.
#[derive(Clone)]
pub struct TreeBuildOptions {
    /// Who writes the summaries.
    pub summariser: SummariserKind,
    /// What writes abstractive ones.
    pub generator: Option<TreeGenerator>,
    /// Longest summary, in the embedder's tokens; no more than the embedder reads.
    pub summary_tokens: usize,
    /// Whether everything is clustered anew, instead of keeping up what there is.
    pub full: bool,
    /// Limits.
    pub budget: TreeBudget,
    /// What tokens of the generator cost.
    pub price: Arc<dyn Fn(&Usage) -> Money + Send + Sync>,
}

impl TreeBuildOptions {
    /// Extractive summaries, without limits.
    pub fn extractive(summary_tokens: usize) -> Self {
        Self {
            summariser: SummariserKind::Extractive,
            generator: None,
            summary_tokens,
            full: false,
            budget: TreeBudget::default(),
            price: Arc::new(|_| Money::ZERO),
        }
    }
}

/// A build should end; what it has made is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHalt;

/// Follows a build, from several of its threads.
pub trait TreeControl: Sync {
    /// Called between two steps, and several times a second while a generator writes. Blocks for as long as the build is to
    /// pause.
    ///
    /// # Errors
    /// [`TreeHalt`] ends the build.
    fn check(&self) -> Result<(), TreeHalt>;

    /// How it goes.
    fn progress(&self, _progress: &TreeProgress) {}
}

/// Lets a build run to its end.
impl TreeControl for crate::Silent {
    fn check(&self) -> Result<(), TreeHalt> {
        Ok(())
    }
}

impl Collection {
    /// The summariser that the options ask for.
    pub(super) fn summariser(&self, options: &TreeBuildOptions) -> Result<Box<dyn Summariser>, RetrievalError> {
        let room = self.models.embedder.info().max_tokens.saturating_sub(SPECIAL_TOKENS);
        let tokens = options.summary_tokens.min(room);
        match (options.summariser, &options.generator) {
            (SummariserKind::Extractive, _) => {
                let own = ExtractiveOptions::default();
                let limits = SummaryLimits { tokens, ..own.limits };
                Ok(Box::new(Extractive::new(ExtractiveOptions { limits, ..own })))
            }
            (SummariserKind::Abstractive, Some(TreeGenerator { generator, prompts })) => {
                let own = AbstractiveOptions::default();
                let limits = SummaryLimits { tokens, ..own.limits };
                let max_tokens = own.max_tokens.min(tokens);
                let written = AbstractiveOptions { limits, max_tokens, ..own };
                let summariser = Abstractive::new(Arc::clone(generator), prompts.clone(), written);
                Ok(Box::new(summariser.map_err(|error| self.tree_failure(error.into()))?))
            }
            (SummariserKind::Abstractive, None) => Err(RetrievalError::InvalidRequest(
                "abstractive summaries need a generator: configure one, or ask for extractive summaries".to_owned(),
            )),
        }
    }
}
