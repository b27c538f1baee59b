//! Building a collection's summary tree, and bringing it up to date.
//!
//! Document by document, each committed when it is complete; then the layers above documents; then what no node uses any
//! more is swept. Whatever ended a build, the next one goes on from there: documents that are committed are kept, and of one
//! that is not, the summaries made so far are found again.
//!
//! Invariants:
//! - The collection's writer is held for single commits only. An ingest may run beside a build: a document that changes
//!   under it is built again, and the tree is called complete only if it is that of all documents at its last commit.
//! - One build a collection at a time.
//!
//! Deliberately not here: what summaries say, how layers are shaped (`edgewise_summary_tree`), and background threads.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use edgewise_catalog::{CatalogError, DocumentTree, TreeCommit, TreeOverview};
use edgewise_summary_tree::{
    DocumentLeaves, Halt, Leaf, RootMember, Summariser, TreeBuilder, TreeError, TreeOptions, TreePart, leaf_ids,
};
use edgewise_types::{ChunkId, DocumentId, LeafId, Member, TreeScope};

use super::{store::Kept, watch::Watch};
use crate::{Collection, RetrievalError, TreeBuildOptions, TreeControl, TreeReport, TreeStage, error::of};

/// How often a build looks again at what changed under it before it leaves the rest to the next one.
const ROUNDS: usize = 5;

/// A document, ready to be built.
pub(super) struct Source {
    pub(super) leaves: DocumentLeaves,
    pub(super) chunks: Vec<(LeafId, ChunkId)>,
}

/// Says that a tree of a collection is being built, until it is dropped.
pub(super) struct Building<'a>(&'a AtomicBool);

impl<'a> Building<'a> {
    pub(super) fn begin(collection: &'a Collection) -> Result<Self, RetrievalError> {
        if collection.building_tree.swap(true, Ordering::AcqRel) {
            return Err(RetrievalError::TreeBusy { collection: collection.name().clone() });
        }
        Ok(Self(&collection.building_tree))
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What ended a build before it was done.
enum Ended {
    /// A limit was met; which.
    Budget(String),
    /// Anything else.
    Error(RetrievalError),
}

impl From<RetrievalError> for Ended {
    fn from(error: RetrievalError) -> Self {
        Self::Error(error)
    }
}

impl From<Halt> for Ended {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Cancelled => Self::Error(RetrievalError::Cancelled),
            Halt::Budget(limit) => Self::Budget(limit),
        }
    }
}

impl Collection {
    /// Builds the collection's summary tree, or brings the one it has up to date. Blocks until it is current, a limit of the
    /// budget is met, or `control` ends it.
    ///
    /// # Errors
    /// [`RetrievalError::TreeBusy`], [`RetrievalError::Locked`], [`RetrievalError::Cancelled`],
    /// [`RetrievalError::DiskFull`], [`RetrievalError::Tree`] if a summary can't be made. What was committed before is kept,
    /// and a build after it goes on from there. A limit that is met is no error: the report says it.
    pub fn build_tree(
        &self,
        options: &TreeBuildOptions,
        control: &dyn TreeControl,
    ) -> Result<TreeReport, RetrievalError> {
        let _building = Building::begin(self)?;
        let watch = Watch::new(control, options);
        let summariser = self.summariser(options)?;
        // Another process that writes is found out before anything is computed.
        watch.writing(self, |_| Ok(()))?;
        watch.tell(|progress| progress.stage = TreeStage::Preparing);
        let run = Run { collection: self, summariser: &*summariser, options, watch: &watch };
        let (stopped, kept) = match run.rounds() {
            Ok((stopped, kept)) => (stopped, kept),
            Err((Ended::Budget(limit), kept)) => (Some(limit), kept),
            Err((Ended::Error(error), _)) => return Err(error),
        };
        watch.tell(|progress| (progress.stage, progress.document) = (TreeStage::Finishing, None));
        let overview = self.current()?.catalog().tree_overview().map_err(of(self.name()))?;
        let identity = summariser.identity();
        let complete = overview.complete() && !overview.documents.iter().any(|tree| due(tree, &identity, false));
        // What a build that was cut short has made is in no node yet.
        let swept =
            if complete && stopped.is_none() { watch.writing(self, |catalog| catalog.sweep_summaries())? } else { 0 };
        let progress = watch.progress();
        Ok(TreeReport {
            collection: self.name().clone(),
            summariser: identity,
            complete,
            stopped: stopped.map(|why| match complete {
                true => why,
                false => format!("{why}; build again to go on from here"),
            }),
            work: progress.work,
            documents_kept: kept,
            nodes: overview.nodes(),
            levels: super::status::levels(&overview),
            swept,
            seconds: progress.seconds,
        })
    }

    /// What builds the nodes of a document now: its chunks as leaves. `None` if there is no such document any more.
    pub(super) fn tree_source(&self, document: &DocumentId) -> Result<Option<Source>, RetrievalError> {
        let fail = of(self.name());
        let state = self.current()?;
        let catalog = state.catalog();
        let Some(described) = catalog.document(document).map_err(&fail)? else { return Ok(None) };
        let ids = catalog.chunk_ids_of(std::slice::from_ref(document)).map_err(&fail)?;
        let mut records = catalog.chunk_records(&ids).map_err(&fail)?;
        records.sort_by_key(|record| record.chunk.ordinal);
        let texts = records.iter().map(|r| (r.chunk.heading_path.as_slice(), r.chunk.text.as_str()));
        let ids = leaf_ids(document, texts);
        let chunks = ids.iter().zip(&records).map(|(leaf, record)| (*leaf, record.chunk.id)).collect();
        let leaves = ids.into_iter().zip(records).map(|(id, record)| Leaf {
            id,
            heading_path: record.chunk.heading_path,
            text: record.chunk.text,
            embedding: record.embedding,
            tokens: record.chunk.generator_tokens,
        });
        let leaves = DocumentLeaves { document: document.clone(), title: described.title, leaves: leaves.collect() };
        Ok(Some(Source { leaves, chunks }))
    }

    /// The roots of documents as members of the layers above them; `former` are those that documents had before.
    pub(super) fn tree_roots(
        &self,
        documents: &[DocumentTree],
        former: &HashMap<DocumentId, Member>,
    ) -> Result<Vec<RootMember>, RetrievalError> {
        let mut roots = Vec::with_capacity(documents.len());
        for tree in documents {
            if let Some(member) = tree.part.as_ref().and_then(|part| part.root) {
                let replaced = former.get(&tree.document).copied().filter(|former| *former != member);
                roots.extend(self.tree_root(tree, member, replaced)?);
            }
        }
        Ok(roots)
    }

    fn tree_root(
        &self,
        tree: &DocumentTree,
        member: Member,
        former: Option<Member>,
    ) -> Result<Option<RootMember>, RetrievalError> {
        let fail = of(self.name());
        let (document, state) = (tree.document.clone(), self.current()?);
        let catalog = state.catalog();
        let title = match catalog.document(&document).map_err(&fail)? {
            Some(described) => described.title,
            None => return Ok(None),
        };
        Ok(match member {
            Member::Leaf(id) => {
                let leaves = self.tree_source(&document)?.map_or(Vec::new(), |source| source.leaves.leaves);
                leaves.into_iter().find(|leaf| leaf.id == id).map(|leaf| RootMember {
                    document,
                    title,
                    member,
                    former,
                    level: 0,
                    text: leaf.text,
                    embedding: leaf.embedding,
                    tokens: leaf.tokens,
                })
            }
            Member::Node(id) => {
                let part = catalog.tree_part(&TreeScope::Document(document.clone())).map_err(&fail)?;
                let node = part.and_then(|part| part.nodes.into_iter().find(|node| node.id == id));
                let Some(node) = node else { return Ok(None) };
                let summary = catalog.summary(&node.summary).map_err(&fail)?;
                summary.map(|summary| RootMember {
                    document,
                    title,
                    member,
                    former,
                    level: node.level,
                    text: summary.text,
                    embedding: summary.embedding,
                    tokens: summary.tokens,
                })
            }
        })
    }

    /// The part a scope has, current or not, as a tree to go on from.
    pub(super) fn former_part(&self, scope: &TreeScope) -> Result<Option<TreePart>, RetrievalError> {
        let part = self.current()?.catalog().tree_part(scope).map_err(of(self.name()))?;
        Ok(part.map(|part| super::store::part_of(scope, part)))
    }
}

/// Whether a document's tree is to be built, and why not to keep the one it has.
pub(super) fn due(tree: &DocumentTree, identity: &str, anew: bool) -> bool {
    tree.part.as_ref().is_none_or(|part| anew || part.summariser != identity)
}

struct Run<'a> {
    collection: &'a Collection,
    summariser: &'a dyn Summariser,
    options: &'a TreeBuildOptions,
    watch: &'a Watch<'a>,
}

impl Run<'_> {
    /// Builds until nothing is left to build, or documents keep changing under it. Returns why it stopped before, and how many
    /// documents had a tree already.
    fn rounds(&self) -> Result<(Option<String>, usize), (Ended, usize)> {
        let mut kept = 0;
        // Documents that are built in this run are not built again because everything is.
        let mut built: HashMap<DocumentId, ()> = HashMap::new();
        let mut former: HashMap<DocumentId, Member> = HashMap::new();
        for round in 0..ROUNDS {
            let overview = self.overview().map_err(|error| (error.into(), kept))?;
            let identity = self.summariser.identity();
            let anew = |tree: &DocumentTree| self.options.full && !built.contains_key(&tree.document);
            let todo: Vec<&DocumentTree> =
                overview.documents.iter().filter(|tree| due(tree, &identity, anew(tree))).collect();
            if round == 0 {
                kept = overview.documents.len() - todo.len();
            }
            self.watch.expect(todo.len(), todo.iter().map(|tree| tree.chunks).sum());
            self.watch.tell(|progress| progress.stage = TreeStage::Documents);
            for tree in todo {
                if let Some(root) = self.former_root(tree).map_err(|error| (error.into(), kept))? {
                    former.entry(tree.document.clone()).or_insert(root);
                }
                self.document(tree).map_err(|ended| (ended, kept))?;
                built.insert(tree.document.clone(), ());
            }
            if self.layers(&former, round == 0).map_err(|ended| (ended, kept))? {
                return Ok((None, kept));
            }
        }
        Ok((Some("documents kept changing while the tree was built".to_owned()), kept))
    }

    fn overview(&self) -> Result<TreeOverview, RetrievalError> {
        self.collection.current()?.catalog().tree_overview().map_err(of(self.collection.name()))
    }

    fn part(&self, scope: &TreeScope) -> Result<Option<TreePart>, RetrievalError> {
        if self.options.full { Ok(None) } else { self.collection.former_part(scope) }
    }

    fn former_root(&self, tree: &DocumentTree) -> Result<Option<Member>, RetrievalError> {
        Ok(self.part(&TreeScope::Document(tree.document.clone()))?.and_then(|part| part.root))
    }

    /// Runs `grow` with a builder.
    fn with_builder(
        &self,
        grow: impl FnOnce(&TreeBuilder<'_>) -> Result<TreePart, TreeError>,
    ) -> Result<TreePart, Ended> {
        let models = &self.collection.models;
        let store = Kept { collection: self.collection, watch: self.watch };
        let builder = TreeBuilder {
            summariser: self.summariser,
            embedder: &*models.embedder,
            tokenizer: &*models.tokenizer,
            options: TreeOptions::default(),
            store: &store,
            control: self.watch,
        };
        grow(&builder).map_err(|error| match error {
            TreeError::Halted(halt) => halt.into(),
            error => Ended::Error(self.collection.tree_failure(error)),
        })
    }

    /// Builds and commits the tree of one document.
    fn document(&self, tree: &DocumentTree) -> Result<(), Ended> {
        let scope = TreeScope::Document(tree.document.clone());
        self.watch.tell(|progress| progress.document = Some(tree.uri.clone()));
        for _ in 0..ROUNDS {
            self.watch.check()?;
            // Deleted meanwhile.
            let Some(source) = self.collection.tree_source(&tree.document)? else { break };
            let former = self.part(&scope)?;
            let part = self.with_builder(|builder| builder.document(&source.leaves, former.as_ref()))?;
            if self.commit(&scope, part, source.chunks)? {
                break;
            }
        }
        self.watch.document_done(tree.chunks);
        Ok(())
    }

    /// Builds and commits the layers above documents. False if documents changed since theirs were built.
    fn layers(&self, former: &HashMap<DocumentId, Member>, first: bool) -> Result<bool, Ended> {
        self.watch.tell(|progress| (progress.stage, progress.document) = (TreeStage::Collection, None));
        self.watch.check()?;
        let overview = self.overview()?;
        let same = overview.collection.as_ref().is_some_and(|part| part.summariser == self.summariser.identity());
        if overview.complete() && same && !(self.options.full && first) {
            return Ok(true);
        }
        if overview.documents.iter().any(|tree| due(tree, &self.summariser.identity(), false)) {
            return Ok(false);
        }
        let roots = self.collection.tree_roots(&overview.documents, former)?;
        let before = self.part(&TreeScope::Collection)?;
        let part = self.with_builder(|builder| builder.collection(&roots, before.as_ref()))?;
        if !self.commit(&TreeScope::Collection, part, Vec::new())? {
            return Ok(false);
        }
        Ok(self.overview()?.complete())
    }

    /// Commits a part. False if what it is of has changed meanwhile.
    fn commit(&self, scope: &TreeScope, part: TreePart, leaves: Vec<(LeafId, ChunkId)>) -> Result<bool, Ended> {
        let part = super::store::new_part(scope, part, leaves, self.summariser.identity());
        let commit = TreeCommit { parts: vec![part] };
        let mut stale = false;
        let committed = self.watch.writing(self.collection, |catalog| match catalog.commit_tree(&commit) {
            Err(CatalogError::StaleTree { .. }) => {
                stale = true;
                Ok(())
            }
            other => other.map(drop),
        });
        committed?;
        Ok(!stale)
    }
}
