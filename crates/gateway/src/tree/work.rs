//! Planning and building summary trees with a server's models, prices, limits and ledger; for commands without a server
//! too.

use std::sync::{Arc, Mutex};

use edgewise_ledger::{RequestRecord, RequestStatus, Work};
use edgewise_model_api::{
    Ahead, CacheState, ChatMessage, EncodedChat, GenerateRequest, GenerationStream, Generator, GeneratorInfo,
    LatencyCurve, ModelError, PrefixState, Prompt, QueueState, Tokenizer,
};
use edgewise_retrieval::{
    Collection, RetrievalError, SummariserKind, TreeBudget, TreeBuildOptions, TreeControl, TreeGenerator, TreeHalt,
    TreePlan, TreeProgress, TreeReport,
};
use edgewise_settings::Summariser;
use edgewise_types::{TenantId, Timings};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Recorder, figures};

/// What stands for a route in records of builds: no question was answered.
const ROUTE: &str = "tree-build";

/// A tree to build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TreeBuildRequest {
    /// Who writes the summaries; absent takes who wrote those there are, else the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summariser: Option<SummariserKind>,
    /// Whether everything is clustered anew, instead of keeping up what there is. Summaries of unchanged clusters are not
    /// made twice either way.
    #[serde(default)]
    pub full: bool,
    /// Limits; those that are absent are the server's.
    #[serde(default)]
    pub budget: TreeBudget,
}

/// Builds trees.
#[derive(Clone)]
pub struct Trees {
    /// What writes abstractive summaries, if a generator is loaded.
    pub generator: Option<TreeGenerator>,
    /// Records what that costs, at its prices.
    pub recorder: Recorder,
    /// Limits and defaults.
    pub settings: edgewise_settings::Tree,
}

impl Trees {
    fn options(&self, collection: &Collection, request: &TreeBuildRequest) -> Result<TreeBuildOptions, RetrievalError> {
        let own = match self.settings.summariser {
            Summariser::Extractive => SummariserKind::Extractive,
            Summariser::Abstractive => SummariserKind::Abstractive,
        };
        let kind = match request.summariser {
            Some(kind) => kind,
            None => collection.tree_summariser()?.unwrap_or(own),
        };
        let (prices, model) = (self.recorder.prices.clone(), self.recorder.model.clone());
        let limit = |n: usize| Some(n).filter(|n| *n > 0);
        let TreeBudget { max_calls, max_tokens, max_cost, max_seconds } = request.budget;
        Ok(TreeBuildOptions {
            summariser: kind,
            generator: self.generator.clone(),
            summary_tokens: self.settings.summary_tokens,
            full: request.full,
            budget: TreeBudget {
                max_calls: max_calls.or(limit(self.settings.max_calls)),
                max_tokens: max_tokens.or(limit(self.settings.max_tokens)),
                max_cost: max_cost.or(self.settings.max_cost()),
                max_seconds: max_seconds.or(Some(self.settings.max_seconds as f64).filter(|s| *s > 0.0)),
            },
            price: std::sync::Arc::new(move |usage| prices.cost(&model, usage, jiff::Timestamp::now())),
        })
    }

    /// Says what [`Self::build`] would do.
    ///
    /// # Errors
    /// As of [`Collection::plan_tree`].
    pub fn plan(&self, collection: &Collection, request: &TreeBuildRequest) -> Result<TreePlan, RetrievalError> {
        collection.plan_tree(&self.options(collection, request)?)
    }

    /// Builds a tree, or brings it up to date, and records what the generator was used for, also where it ended early. `id`
    /// and `at` together are unique in the ledger; the generator's cache and the record are those of `tenant`.
    ///
    /// # Errors
    /// As of [`Collection::build_tree`].
    pub fn build(
        &self,
        id: &str,
        at: jiff::Timestamp,
        tenant: &TenantId,
        collection: &Collection,
        request: &TreeBuildRequest,
        control: &dyn TreeControl,
    ) -> Result<TreeReport, RetrievalError> {
        let mut options = self.options(collection, request)?;
        options.generator = options.generator.map(|writer| TreeGenerator {
            generator: Arc::new(ForTenant { generator: writer.generator, tenant: tenant.clone() }),
            ..writer
        });
        let watched = Watched { control, last: Mutex::default() };
        let built = collection.build_tree(&options, &watched);
        let last = watched.last.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (status, work, seconds) = match &built {
            Ok(report) => (RequestStatus::Answered, report.work, report.seconds),
            Err(RetrievalError::Cancelled) => (RequestStatus::Cancelled, last.work, last.seconds),
            Err(_) => (RequestStatus::Failed, last.work, last.seconds),
        };
        if work.calls > 0 {
            let record = RequestRecord {
                collection: Some(collection.name().clone()),
                work: Work::Summary,
                template_hash: self.recorder.template_hash.to_string(),
                forced: true,
                status,
                usage: work.usage,
                cost: work.cost,
                timings: Timings { total_ms: seconds * 1e3, ..Timings::default() },
                ..RequestRecord::begun(
                    format!("{}-tree-{id}", at.as_microsecond()),
                    at,
                    tenant.clone(),
                    &self.recorder.model,
                    ROUTE,
                )
            };
            figures::worked(&record);
            self.recorder.write(&record);
        }
        built
    }
}

/// Keeps the last progress, which a build that ends early leaves behind.
struct Watched<'a> {
    control: &'a dyn TreeControl,
    last: Mutex<TreeProgress>,
}

impl TreeControl for Watched<'_> {
    fn check(&self) -> Result<(), TreeHalt> {
        self.control.check()
    }

    fn progress(&self, progress: &TreeProgress) {
        progress.clone_into(&mut self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        self.control.progress(progress);
    }
}

/// A generator that does everything for one tenant: what it caches of a collection's texts is that tenant's.
struct ForTenant {
    generator: Arc<dyn Generator>,
    tenant: TenantId,
}

impl Generator for ForTenant {
    fn info(&self) -> &GeneratorInfo {
        self.generator.info()
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.generator.tokenizer()
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        self.generator.encode_chat(messages)
    }

    fn prefix_state(&self, _tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        self.generator.prefix_state(&self.tenant, prompt)
    }

    fn latency(&self) -> LatencyCurve {
        self.generator.latency()
    }

    fn queue(&self) -> QueueState {
        self.generator.queue()
    }

    fn ahead(&self) -> Ahead {
        self.generator.ahead()
    }

    fn min_prefix_tokens(&self) -> usize {
        self.generator.min_prefix_tokens()
    }

    fn cache(&self) -> CacheState {
        self.generator.cache()
    }

    fn release_prefix(&self, id: u64) -> bool {
        self.generator.release_prefix(id)
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        self.generator.generate(GenerateRequest { tenant: self.tenant.clone(), ..request })
    }
}
