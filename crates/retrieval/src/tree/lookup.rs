//! Nodes and chunks by id, as they are now.

use edgewise_types::{Chunk, ChunkId, NodeId};

use super::{Picked, TreePick, search::owners};
use crate::{Collection, RetrievalError, error::of};

impl Collection {
    /// A node of the summary tree with its text and chunks; `None` if it is not in the tree, or a text it is of is no
    /// longer in the collection. Its score is 0.
    pub fn summary(&self, node: &NodeId) -> Result<Option<TreePick>, RetrievalError> {
        let fail = of(self.name());
        let state = self.current()?;
        let catalog = state.catalog();
        let Some(row) = catalog.tree_node_row(node).map_err(&fail)? else { return Ok(None) };
        let Some(found) = catalog.tree_nodes(&[row]).map_err(&fail)?.pop() else { return Ok(None) };
        let Some(leaves) = found.leaves else { return Ok(None) };
        let documents = owners(&leaves, &catalog.documents_of(&leaves).map_err(&fail)?.into_iter().collect());
        let (title, uri) = match &found.document {
            None => Default::default(),
            Some(id) => match catalog.document(id).map_err(&fail)? {
                Some(document) => (document.title, document.uri),
                None => return Ok(None),
            },
        };
        Ok(Some(TreePick {
            picked: Picked::Node { node: found.id, method: found.summary.method },
            level: found.level,
            score: 0.0,
            lexical: None,
            vector: None,
            text: found.summary.text,
            tokens: found.summary.tokens,
            leaves,
            documents,
            document: found.document,
            title,
            uri,
        }))
    }

    /// Chunks by id, in the order asked for; those that are gone are left out.
    pub fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<Chunk>, RetrievalError> {
        self.current()?.catalog().chunks(ids).map_err(of(self.name()))
    }
}
