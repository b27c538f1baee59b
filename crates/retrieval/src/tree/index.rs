//! Both arms over the nodes of a tree, in memory.
//!
//! Nodes are one for several chunks, so they are scanned exactly and need no files: the index is read from the catalog at
//! the first search and follows its tree version from then on, in every process that reads. Nothing can lag, and there is
//! nothing to repair.
//!
//! The lexical arm scores by the statistics of the chunks, see [`Beside`].

use edgewise_catalog::{Catalog, CatalogError, NodeRow, TreeVersion};
use edgewise_lexical_index::{Beside, Language, LexicalEntry};
use edgewise_types::{ChunkId, CollectionName};
use edgewise_vector_index::VectorIndex;
use std::collections::HashMap;

use super::shape::Shape;
use crate::{RetrievalError, error::of};

/// Nodes read from the catalog at a time.
const CATCH_UP_NODES: usize = 256;

/// All nodes of a tree version.
#[derive(Debug)]
pub(crate) struct TreeIndex {
    version: TreeVersion,
    language: Language,
    pub(crate) shape: Shape,
    /// Keyed by row.
    pub(crate) vectors: VectorIndex,
    /// Keyed by row.
    pub(crate) lexical: Beside,
    tokens: HashMap<NodeRow, usize>,
}

/// What both arms call a node.
pub(crate) fn key(node: NodeRow) -> ChunkId {
    ChunkId(node.0)
}

/// The node that an arm found.
pub(crate) fn row(key: ChunkId) -> NodeRow {
    NodeRow(key.0)
}

impl TreeIndex {
    /// An empty one, of version 0.
    pub(crate) fn new(catalog: &Catalog, language: Language) -> Self {
        Self {
            version: TreeVersion::default(),
            language,
            shape: Shape::default(),
            vectors: VectorIndex::new(catalog.meta().embedder.dimension, catalog.id()),
            lexical: Beside::new(language),
            tokens: HashMap::new(),
        }
    }

    /// The version of the tree that searches see.
    pub(crate) fn version(&self) -> TreeVersion {
        self.version
    }

    /// Tokens of a node's summary.
    pub(crate) fn tokens(&self, node: NodeRow) -> Option<usize> {
        self.tokens.get(&node).copied()
    }

    /// Brings it up to the catalog.
    pub(crate) fn follow(&mut self, catalog: &Catalog, name: &CollectionName) -> Result<(), RetrievalError> {
        loop {
            let changes = match catalog.tree_changes_since(self.version) {
                Err(CatalogError::UnknownTreeVersion { .. }) => {
                    *self = Self::new(catalog, self.language);
                    continue;
                }
                changes => changes.map_err(of(name))?,
            };
            for node in &changes.removed {
                self.vectors.remove(key(*node));
                self.lexical.remove(key(*node));
                self.tokens.remove(node);
            }
            for rows in changes.added.chunks(CATCH_UP_NODES) {
                for node in catalog.tree_node_texts(rows).map_err(of(name))? {
                    self.vectors.insert(key(node.row), &node.summary.embedding).map_err(of(name))?;
                    self.lexical.add(&LexicalEntry {
                        chunk: key(node.row),
                        title: node.title,
                        heading_path: Vec::new(),
                        body: node.summary.text,
                    });
                    self.tokens.insert(node.row, node.summary.tokens);
                }
            }
            let shape = catalog.tree_shape().map_err(of(name))?;
            self.version = changes.version;
            // A commit in between is followed too, so that all parts are of one version.
            let together = shape.version == changes.version;
            self.shape = shape.into();
            if together {
                return Ok(());
            }
        }
    }
}
