//! The state of a collection's tree, and taking it away.

use edgewise_catalog::TreeOverview;
use edgewise_types::SummaryMethod;

use super::build::Building;
use crate::{Collection, RetrievalError, SummariserKind, TreeMethods, TreeStatus, error::of};

/// Nodes whose summaries are read together.
const BATCH: usize = 500;

/// Levels above the leaves.
pub(super) fn levels(overview: &TreeOverview) -> u32 {
    let documents = overview.documents.iter().filter_map(|tree| tree.part.as_ref());
    let collection = overview.collection.iter().filter(|_| overview.collection_current);
    documents.chain(collection).map(|part| part.level).max().unwrap_or(0)
}

/// Who wrote a tree: the summariser of the layers above documents, else that of most documents.
fn writer(overview: &TreeOverview) -> Option<String> {
    if let Some(part) = &overview.collection {
        return Some(part.summariser.clone());
    }
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for part in overview.documents.iter().filter_map(|tree| tree.part.as_ref()) {
        *counts.entry(&part.summariser).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
}

impl Collection {
    /// Who writes the summaries of the tree there is; `None` without a tree.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub fn tree_summariser(&self) -> Result<Option<SummariserKind>, RetrievalError> {
        let overview = self.current()?.catalog().tree_overview().map_err(of(self.name()))?;
        Ok(writer(&overview).and_then(|identity| SummariserKind::of_identity(&identity)))
    }

    /// Documents whose trees are not those of their present texts; `None` if the collection has no tree at all. Cheap.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub fn tree_behind(&self) -> Result<Option<usize>, RetrievalError> {
        let overview = self.current()?.catalog().tree_overview().map_err(of(self.name()))?;
        let behind = overview.documents.iter().filter(|tree| tree.part.is_none()).count();
        let any = overview.collection.is_some() || overview.documents.iter().any(|tree| tree.part.is_some());
        Ok(any.then_some(match behind {
            // The layers above are of documents that were deleted, or were not built yet.
            0 if !overview.collection_current && !overview.documents.is_empty() => 1,
            behind => behind,
        }))
    }

    /// The state of the tree.
    ///
    /// # Errors
    /// When the catalog can't be read.
    pub fn tree_status(&self) -> Result<TreeStatus, RetrievalError> {
        let fail = of(self.name());
        let state = self.current()?;
        let catalog = state.catalog();
        let overview = catalog.tree_overview().map_err(&fail)?;
        let shape = catalog.tree_shape().map_err(&fail)?;
        // Those above documents are left out unless they are current.
        let current: Vec<_> =
            shape.nodes.iter().filter(|node| node.document.is_some() || overview.collection_current).collect();
        let levels = levels(&overview);
        let mut nodes_by_level = vec![0; levels as usize];
        for node in &current {
            if let Some(count) = nodes_by_level.get_mut((node.level as usize).saturating_sub(1)) {
                *count += 1;
            }
        }
        let mut methods = TreeMethods::default();
        let rows: Vec<_> = current.iter().map(|node| node.row).collect();
        for batch in rows.chunks(BATCH) {
            for node in catalog.tree_node_texts(batch).map_err(&fail)? {
                match node.summary.method {
                    SummaryMethod::Extractive => methods.extractive += 1,
                    SummaryMethod::Abstractive => methods.abstractive += 1,
                    SummaryMethod::ExtractiveFallback => methods.extractive_fallback += 1,
                }
            }
        }
        let documents_current = overview.documents.iter().filter(|tree| tree.part.is_some()).count();
        Ok(TreeStatus {
            collection: self.name().clone(),
            built: documents_current > 0 || overview.collection.is_some(),
            current: overview.complete(),
            summariser: writer(&overview),
            documents: overview.documents.len(),
            documents_current,
            documents_behind: overview.documents.len() - documents_current,
            collection_current: overview.collection_current,
            nodes: current.len(),
            levels,
            nodes_by_level,
            methods,
        })
    }

    /// Deletes the tree; documents stay.
    ///
    /// # Errors
    /// [`RetrievalError::TreeBusy`] while it is being built; [`RetrievalError::Locked`] if another process writes.
    pub fn delete_tree(&self) -> Result<(), RetrievalError> {
        let _building = Building::begin(self)?;
        let mut slot = self.writer();
        let writer = self.write_catalog(&mut slot)?;
        writer.catalog.clear_tree().map_err(of(self.name()))?;
        writer.catalog.sweep_summaries().map_err(of(self.name()))?;
        Ok(())
    }
}
