//! A collection with a summary tree, and contexts from it within a budget of tokens: from its passages alone, and from
//! its passages and summaries together.
//!
//! Both ways fill the budget: of the passages, in order of rank, each that still fits is taken, however weak; what the
//! tree gives is what its search gives. What was taken stands in the order of the document.
//!
//! Deliberately not here: what a context is good for.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, Tokenizer};
use edgewise_retrieval::{
    Collection, Collections, IngestOptions, IngestProgress, MAX_LIMIT, Outcome, RetrievalModels, SearchRequest, Silent,
    Source, SourceContent, SourceReport, TreeBuildOptions, TreeItem, TreeReport, TreeScopeView, TreeSearchRequest,
};
use edgewise_types::{ChunkId, DocumentId, NodeId};

use crate::{EvaluationError, Progress};

/// Documents in one commit.
const BATCH_DOCUMENTS: usize = 512;
const BATCH_CHUNKS: usize = 4096;

/// What decides how a library is made.
pub(super) struct Making<'a> {
    pub(super) embedder: &'a Arc<dyn Embedder>,
    /// The generator's, in whose tokens budgets are counted.
    pub(super) tokenizer: &'a Arc<dyn Tokenizer>,
    pub(super) profile: &'a IndexProfile,
    /// Where the collection stays; a temporary folder if absent.
    pub(super) folder: Option<&'a Path>,
}

/// A collection.
pub(super) struct Library {
    pub(super) collection: Arc<Collection>,
    _temporary: Option<tempfile::TempDir>,
}

/// A document to put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) uri: String,
    pub(super) text: String,
    pub(super) media_type: &'static str,
}

/// A part of a context.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    /// Chunks it is, or was made of.
    pub(super) leaves: Vec<ChunkId>,
    /// 0 for a chunk.
    pub(super) level: u32,
    pub(super) text: String,
    pub(super) tokens: usize,
}

/// A node's level, its text, and its members.
pub(super) type NodeContent = (u32, String, Vec<String>);

/// What a prompt would hold, in the order of the documents.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Context(pub(super) Vec<Part>);

impl Context {
    pub(super) fn tokens(&self) -> usize {
        self.0.iter().map(|part| part.tokens).sum()
    }

    /// Tokens of it that are summaries.
    pub(super) fn summary_tokens(&self) -> usize {
        self.0.iter().filter(|part| part.level > 0).map(|part| part.tokens).sum()
    }

    pub(super) fn text(&self) -> String {
        let parts: Vec<&str> = self.0.iter().map(|part| part.text.as_str()).collect();
        parts.join("\n\n")
    }
}

impl Library {
    /// A collection of `texts`, without a tree unless the folder has one. `set` names them in errors.
    pub(super) fn of(
        set: &str,
        texts: &[Text],
        making: &Making<'_>,
        progress: &dyn Progress,
    ) -> Result<Self, EvaluationError> {
        let temporary = match making.folder {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(EvaluationError::Folder)?),
        };
        let folder: PathBuf = match (making.folder, &temporary) {
            (Some(folder), _) => folder.to_owned(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => PathBuf::new(),
        };
        let models = RetrievalModels {
            embedder: Arc::clone(making.embedder),
            tokenizer: Arc::clone(making.tokenizer),
            tokenizer_name: "evaluation".to_owned(),
            reranker: None,
        };
        let invalid = |error: String| EvaluationError::Dataset { name: set.to_owned(), reason: error };
        let name = "evaluation".parse().map_err(|error| invalid(format!("{error}")))?;
        let collection = Collections::open(folder, models)?.get_or_create(&name, making.profile)?;
        let library = Self { collection, _temporary: temporary };
        library.put(set, texts, progress)?;
        Ok(library)
    }

    /// Adds documents, or replaces them.
    pub(super) fn put(&self, set: &str, texts: &[Text], progress: &dyn Progress) -> Result<(), EvaluationError> {
        let options =
            IngestOptions { batch_documents: BATCH_DOCUMENTS, batch_chunks: BATCH_CHUNKS, ..IngestOptions::default() };
        let bar = IngestBar { progress, done: AtomicUsize::default(), total: texts.len() };
        let source = |text: &Text| Source {
            uri: text.uri.clone(),
            content: SourceContent::Bytes(text.text.clone().into_bytes()),
            media_type: Some(text.media_type.to_owned()),
        };
        for source in &self.collection.ingest(texts.iter().map(source).collect(), &options, &bar)?.sources {
            if let Outcome::Failed { reason } = &source.outcome {
                let reason = format!("document `{}`: {reason}", source.uri);
                return Err(EvaluationError::Dataset { name: set.to_owned(), reason });
            }
        }
        Ok(())
    }

    /// Builds the tree, or brings it up to date.
    pub(super) fn build(&self, options: &TreeBuildOptions) -> Result<TreeReport, EvaluationError> {
        let report = self.collection.build_tree(options, &Silent)?;
        match &report.stopped {
            Some(why) => Err(EvaluationError::Tree(why.clone())),
            None => Ok(report),
        }
    }

    /// Every node of the tree: what it says, at which level, and what its members are.
    pub(super) fn nodes(&self) -> Result<BTreeMap<NodeId, NodeContent>, EvaluationError> {
        let mut nodes = BTreeMap::new();
        let mut open = self.collection.tree(&TreeScopeView::All, usize::MAX, None)?.roots;
        while let Some(item) = open.pop() {
            let TreeItem::Node(node) = item else { continue };
            let members = node.members.unwrap_or_default();
            let name = |member: &TreeItem| match member {
                TreeItem::Leaf(leaf) => format!("{} {}", leaf.chunk, leaf.text),
                TreeItem::Node(node) => node.id.to_string(),
            };
            nodes.insert(node.id, (node.level, node.text, members.iter().map(name).collect()));
            open.extend(members);
        }
        Ok(nodes)
    }

    /// Where the chunks of `documents` stand among them.
    pub(super) fn order(&self, documents: &[DocumentId]) -> Result<HashMap<ChunkId, usize>, EvaluationError> {
        let mut order = HashMap::new();
        for document in documents {
            for chunk in self.collection.chunks_of(document)? {
                order.insert(chunk.id, order.len());
            }
        }
        Ok(order)
    }

    /// Passages for a question to `documents`, or to all, which `order` puts in order.
    pub(super) fn passages(
        &self,
        question: &str,
        documents: Option<&[DocumentId]>,
        budget: usize,
    ) -> Result<Context, EvaluationError> {
        let request =
            SearchRequest { documents: documents.map(<[_]>::to_vec), ..SearchRequest::new(question, MAX_LIMIT) };
        let (mut parts, mut used) = (Vec::new(), 0);
        for hit in self.collection.search(&request)?.hits {
            let tokens = hit.chunk.generator_tokens;
            if used + tokens <= budget {
                used += tokens;
                parts.push(Part { leaves: vec![hit.chunk.id], level: 0, text: hit.chunk.text, tokens });
            }
        }
        Ok(Context(parts))
    }

    /// Passages and summaries for a question.
    pub(super) fn tree(&self, request: &TreeSearchRequest) -> Result<Context, EvaluationError> {
        let picks = self.collection.search_tree(request)?.picks;
        let part = |pick: edgewise_retrieval::TreePick| Part {
            leaves: pick.leaves,
            level: pick.level,
            text: pick.text,
            tokens: pick.tokens,
        };
        Ok(Context(picks.into_iter().map(part).collect()))
    }
}

impl Context {
    /// The same parts in the order of the chunks they begin with.
    pub(super) fn in_order(mut self, order: &HashMap<ChunkId, usize>) -> Self {
        let first = |part: &Part| part.leaves.iter().filter_map(|leaf| order.get(leaf)).min().copied();
        self.0.sort_by_key(|part| (first(part).unwrap_or(usize::MAX), std::cmp::Reverse(part.level)));
        self
    }
}

struct IngestBar<'p> {
    progress: &'p dyn Progress,
    done: AtomicUsize,
    total: usize,
}

impl IngestProgress for IngestBar<'_> {
    fn total(&self, _sources: usize) {}
    fn source_done(&self, _report: &SourceReport) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.ingested(done, self.total);
    }
}
