//! The catalog as the store of summaries of a build, and conversions between the two crates' plain data.

use edgewise_catalog::{NewTreePart, SummaryRecord, TreeNode, TreePartRecord};
use edgewise_summary_tree::{Node, StoreError, Summary, SummaryStore, TreePart};
use edgewise_types::{ChunkId, LeafId, SummaryKey, TreeScope};

use super::watch::Watch;
use crate::{Collection, RetrievalError, error::of};

/// Reads and writes summaries of a collection's catalog.
pub(super) struct Kept<'a> {
    pub(super) collection: &'a Collection,
    pub(super) watch: &'a Watch<'a>,
}

impl SummaryStore for Kept<'_> {
    fn get(&self, key: &SummaryKey) -> Result<Option<Summary>, StoreError> {
        read(self.collection, key)
    }

    fn put(&self, summary: &Summary) -> Result<(), StoreError> {
        self.put_all(std::slice::from_ref(summary))
    }

    fn put_all(&self, summaries: &[Summary]) -> Result<(), StoreError> {
        let records: Vec<SummaryRecord> = summaries.iter().map(to_record).collect();
        self.watch.writing(self.collection, |catalog| catalog.put_summaries(&records)).map_err(failed)
    }
}

/// Reads summaries only: for planning.
pub(super) struct Known<'a>(pub(super) &'a Collection);

impl SummaryStore for Known<'_> {
    fn get(&self, key: &SummaryKey) -> Result<Option<Summary>, StoreError> {
        read(self.0, key)
    }

    fn put(&self, _: &Summary) -> Result<(), StoreError> {
        Err(StoreError("a plan keeps nothing".into()))
    }
}

fn read(collection: &Collection, key: &SummaryKey) -> Result<Option<Summary>, StoreError> {
    let state = collection.current().map_err(failed)?;
    Ok(state.catalog().summary(key).map_err(of(collection.name())).map_err(failed)?.map(from_record))
}

fn failed(error: RetrievalError) -> StoreError {
    StoreError(Box::new(error))
}

/// The collection's own error that a [`StoreError`] brought through the builder.
pub(super) fn failed_store(collection: &Collection, error: StoreError) -> RetrievalError {
    match error.0.downcast::<RetrievalError>() {
        Ok(error) => *error,
        Err(source) => RetrievalError::Part { collection: collection.name().clone(), source },
    }
}

fn to_record(summary: &Summary) -> SummaryRecord {
    SummaryRecord {
        key: summary.key,
        text: summary.text.clone(),
        method: summary.method,
        tokens: summary.tokens,
        embedding: summary.embedding.clone(),
        usage: summary.usage,
        regenerated: summary.regenerated,
        unsupported: summary.unsupported.clone(),
    }
}

fn from_record(record: SummaryRecord) -> Summary {
    Summary {
        key: record.key,
        text: record.text,
        method: record.method,
        tokens: record.tokens,
        embedding: record.embedding,
        usage: record.usage,
        regenerated: record.regenerated,
        unsupported: record.unsupported,
        facts: 0,
        facts_left_out: 0,
    }
}

/// A part to commit.
pub(super) fn new_part(
    scope: &TreeScope,
    part: TreePart,
    leaves: Vec<(LeafId, ChunkId)>,
    summariser: String,
) -> NewTreePart {
    let node = |node: Node| TreeNode { id: node.id, level: node.level, members: node.members, summary: node.summary };
    let TreePart { nodes, root, changed } = part;
    NewTreePart {
        scope: scope.clone(),
        leaves,
        nodes: nodes.into_iter().map(node).collect(),
        root,
        changed,
        summariser,
    }
}

/// A part as a tree to go on from.
pub(super) fn part_of(scope: &TreeScope, part: TreePartRecord) -> TreePart {
    let node = |node: TreeNode| Node {
        id: node.id,
        scope: scope.clone(),
        level: node.level,
        members: node.members,
        summary: node.summary,
    };
    TreePart { nodes: part.nodes.into_iter().map(node).collect(), root: part.root, changed: part.changed }
}
