//! Reading parts, nodes and changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use edgewise_types::{ChunkId, DocumentId, LeafId, Member, NodeId, SummaryKey, TreeScope};
use rusqlite::{OptionalExtension, Row, Rows, Transaction, params};

use super::{
    Below, DocumentTree, NodeRow, PartOverview, ShapeNode, TreeChanges, TreeNode, TreeNodeRecord, TreeOverview,
    TreePartRecord, TreeShape, TreeStanding, TreeVersion,
    changes::{Former, state},
    schema::{COLLECTION, LEAF, NODE},
    summaries::{SUMMARY_COLUMNS, summary},
};
use crate::{
    Catalog, CatalogError,
    error::Fault,
    rows::{chunk_id, digest, parsed, signed, unsigned},
};

/// A node with where it and its members are kept.
#[derive(Debug)]
pub(super) struct NodeRowRecord {
    pub(super) row: i64,
    pub(super) node: TreeNode,
    /// One for each member.
    pub(super) targets: Vec<i64>,
}

/// A row of the parts.
#[derive(Debug)]
pub(super) struct PartRow {
    pub(super) root: Option<(Member, i64)>,
    pub(super) changed: usize,
    pub(super) summariser: String,
    pub(super) version: u64,
}

impl Catalog {
    /// The current version of the tree.
    pub fn tree_version(&self) -> Result<TreeVersion, CatalogError> {
        self.connections.read(|transaction| Ok(TreeVersion(state(transaction)?.0)))
    }

    /// The tree of a scope. Of a document that was written again since: the tree it had before, which is not current.
    /// `None` if there never was one, or the document is gone.
    pub fn tree_part(&self, scope: &TreeScope) -> Result<Option<TreePartRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let (key, current) = match scope {
                TreeScope::Collection => (COLLECTION, state(transaction)?.1),
                TreeScope::Document(id) => match document_key(transaction, id)? {
                    Some(key) => (key, true),
                    None => return Ok(None),
                },
            };
            if let Some(part) = part_row(transaction, key)? {
                return Ok(Some(TreePartRecord {
                    scope: scope.clone(),
                    nodes: node_rows(transaction, key)?.into_iter().map(|node| node.node).collect(),
                    root: part.root.map(|(root, _)| root),
                    changed: part.changed,
                    summariser: part.summariser,
                    current,
                    version: TreeVersion(part.version),
                }));
            }
            let mut statement = transaction.prepare_cached("SELECT part FROM tree_former WHERE document = ?1")?;
            let text: Option<String> = statement.query_row([key], |row| row.get(0)).optional()?;
            let Some(text) = text else { return Ok(None) };
            let former: Former = serde_json::from_str(&text)
                .map_err(|error| Fault::Damaged(format!("unreadable former tree: {error}")))?;
            Ok(Some(TreePartRecord {
                scope: scope.clone(),
                nodes: former.nodes,
                root: former.root,
                changed: former.changed,
                summariser: former.summariser,
                current: false,
                version: TreeVersion(former.version),
            }))
        })
    }

    /// What there is of the tree, document by document.
    pub fn tree_overview(&self) -> Result<TreeOverview, CatalogError> {
        self.connections.read(|transaction| {
            let (version, collection_current) = state(transaction)?;
            let mut sizes: HashMap<i64, (usize, u32)> = HashMap::new();
            let mut statement =
                transaction.prepare_cached("SELECT scope, count(*), max(level) FROM tree_nodes GROUP BY scope")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                sizes.insert(row.get(0)?, (unsigned(row, 1)?, row.get(2)?));
            }
            let mut parts: HashMap<i64, PartOverview> = HashMap::new();
            let mut statement = transaction.prepare_cached(
                "SELECT scope, root_kind, root, root_target, changed, summariser, version FROM tree_parts",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let scope: i64 = row.get(0)?;
                let (nodes, level) = sizes.get(&scope).copied().unwrap_or_default();
                let PartRow { root, changed, summariser, .. } = part_columns(row, 1)?;
                let root = root.map(|(root, _)| root);
                parts.insert(scope, PartOverview { nodes, level, root, changed, summariser });
            }
            let mut documents = Vec::new();
            let mut statement =
                transaction.prepare_cached("SELECT key, id, uri, chunks FROM documents ORDER BY uri")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                documents.push(DocumentTree {
                    document: parsed(row, 1)?,
                    uri: row.get(2)?,
                    chunks: unsigned(row, 3)?,
                    part: parts.remove(&row.get(0)?),
                });
            }
            let collection = parts.remove(&COLLECTION);
            let summaries: i64 = transaction.query_row("SELECT count(*) FROM summaries", [], |row| row.get(0))?;
            Ok(TreeOverview {
                version: TreeVersion(version),
                documents,
                collection_current: collection_current && collection.is_some(),
                collection,
                summaries: usize::try_from(summaries).unwrap_or_default(),
            })
        })
    }

    /// In brief, what there is of the tree.
    pub fn tree_standing(&self) -> Result<TreeStanding, CatalogError> {
        self.connections.read(|transaction| {
            let (version, current) = state(transaction)?;
            let mut statement = transaction.prepare_cached(
                "SELECT (SELECT count(*) FROM tree_nodes), \
                 (SELECT count(*) FROM documents d WHERE NOT EXISTS (SELECT 1 FROM tree_parts p WHERE p.scope = d.key))",
            )?;
            let mut rows = statement.query([])?;
            let row = rows.next()?.ok_or_else(|| Fault::Damaged("an aggregate without a row".to_owned()))?;
            Ok(TreeStanding {
                version: TreeVersion(version),
                nodes: unsigned(row, 0)?,
                without: unsigned(row, 1)?,
                collection_current: current,
            })
        })
    }

    /// What an index of nodes that has reached version `since` lacks: nodes added after it that are still there, and nodes
    /// it holds that are gone.
    ///
    /// # Errors
    /// [`CatalogError::UnknownTreeVersion`] if `since` lies ahead.
    pub fn tree_changes_since(&self, since: TreeVersion) -> Result<TreeChanges, CatalogError> {
        self.connections.read(|transaction| {
            let current = TreeVersion(state(transaction)?.0);
            if since > current {
                return Err(CatalogError::UnknownTreeVersion { asked: since, current }.into());
            }
            let since = signed(since.0 as usize);
            let mut added =
                transaction.prepare_cached("SELECT row FROM tree_nodes WHERE added_in > ?1 ORDER BY row")?;
            let added = collect(added.query([since])?)?;
            let mut removed = transaction.prepare_cached(
                "SELECT row FROM tree_tombstones WHERE removed_in > ?1 AND added_in <= ?1 ORDER BY row",
            )?;
            let removed = collect(removed.query([since])?)?;
            Ok(TreeChanges { version: current, added, removed })
        })
    }

    /// Every node's place, of one committed state.
    pub fn tree_shape(&self) -> Result<TreeShape, CatalogError> {
        self.connections.read(|transaction| {
            let version = TreeVersion(state(transaction)?.0);
            let mut members: HashMap<i64, Vec<Below>> = HashMap::new();
            let mut statement =
                transaction.prepare("SELECT parent, kind, target FROM tree_members ORDER BY parent, ordinal")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                members.entry(row.get(0)?).or_default().push(below(row, 1)?);
            }
            let names = document_names(transaction)?;
            let mut nodes = Vec::new();
            let mut statement = transaction.prepare("SELECT row, scope, level FROM tree_nodes ORDER BY level, row")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let key: i64 = row.get(0)?;
                nodes.push(ShapeNode {
                    row: node_row(row, 0)?,
                    document: owner(&names, row.get(1)?)?,
                    level: row.get(2)?,
                    members: members.remove(&key).unwrap_or_default(),
                });
            }
            Ok(TreeShape { version, nodes })
        })
    }

    /// Nodes by row with summary and leaves, in the order asked for; rows that are gone are left out. All of one committed
    /// state.
    pub fn tree_nodes(&self, nodes: &[NodeRow]) -> Result<Vec<TreeNodeRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let mut found = Vec::with_capacity(nodes.len());
            let mut leaves = Leaves::default();
            for node in nodes {
                if let Some(mut record) = self.node_record(transaction, *node)? {
                    record.leaves = leaves.of(transaction, *node)?;
                    found.push(record);
                }
            }
            Ok(found)
        })
    }

    /// As [`Self::tree_nodes`], without leaves (`None`): what an index of nodes needs for [`TreeChanges::added`]; ask for a
    /// few hundred at a time.
    pub fn tree_node_texts(&self, nodes: &[NodeRow]) -> Result<Vec<TreeNodeRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let found = nodes.iter().map(|node| self.node_record(transaction, *node));
            found.filter_map(Result::transpose).collect()
        })
    }

    /// The row of a node, if it is in the tree.
    pub fn tree_node_row(&self, node: &NodeId) -> Result<Option<NodeRow>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT row FROM tree_nodes WHERE node = ?1")?;
            let mut rows = statement.query([node.0])?;
            rows.next()?.map(|row| node_row(row, 0)).transpose()
        })
    }

    fn node_record(&self, transaction: &Transaction<'_>, node: NodeRow) -> Result<Option<TreeNodeRecord>, Fault> {
        let sql = format!(
            "SELECT n.node, n.scope, n.level, d.id, coalesce(d.title, ''), {SUMMARY_COLUMNS} FROM tree_nodes n \
             JOIN summaries s ON s.key = n.summary LEFT JOIN documents d ON d.key = n.scope WHERE n.row = ?1"
        );
        let mut statement = transaction.prepare_cached(&sql)?;
        let mut rows = statement.query([signed(node.0 as usize)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let document = if row.get::<_, i64>(1)? == COLLECTION { None } else { Some(parsed(row, 3)?) };
        Ok(Some(TreeNodeRecord {
            row: node,
            id: NodeId(digest(row, 0)?),
            document,
            title: row.get(4)?,
            level: row.get(2)?,
            summary: summary(row, 5, self.meta().embedder.dimension)?,
            leaves: None,
        }))
    }
}

/// What is below nodes, remembered, since nodes that are asked for together share much of it.
#[derive(Default)]
struct Leaves(HashMap<i64, Option<BTreeSet<i64>>>);

impl Leaves {
    /// The chunks below a node in order, or `None` if one is gone.
    fn of(&mut self, transaction: &Transaction<'_>, node: NodeRow) -> Result<Option<Vec<ChunkId>>, Fault> {
        let Some(chunks) = self.below(transaction, signed(node.0 as usize), 0)? else { return Ok(None) };
        let mut statement = transaction.prepare_cached(
            "SELECT d.uri, c.ordinal FROM chunks c JOIN documents d ON d.key = c.document WHERE c.id = ?1",
        )?;
        let mut ordered: BTreeMap<(String, usize), ChunkId> = BTreeMap::new();
        for chunk in chunks {
            let mut rows = statement.query([chunk])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            ordered.insert((row.get(0)?, unsigned(row, 1)?), ChunkId(chunk.unsigned_abs()));
        }
        Ok(Some(ordered.into_values().collect()))
    }

    fn below(&mut self, transaction: &Transaction<'_>, row: i64, depth: usize) -> Result<Option<BTreeSet<i64>>, Fault> {
        /// Higher than any tree whose nodes have more than one member.
        const MAX_DEPTH: usize = 64;
        if let Some(known) = self.0.get(&row) {
            return Ok(known.clone());
        }
        if depth > MAX_DEPTH {
            return Err(Fault::Damaged("a node of the tree is below itself".to_owned()));
        }
        let mut statement =
            transaction.prepare_cached("SELECT kind, target FROM tree_members WHERE parent = ?1 ORDER BY ordinal")?;
        let members: Vec<(i64, i64)> =
            statement.query_map([row], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        // A node that is gone has no members left.
        let mut found = (!members.is_empty()).then(BTreeSet::new);
        for (kind, target) in members {
            let Some(chunks) = &mut found else { break };
            if kind == LEAF {
                chunks.insert(target);
            } else {
                match self.below(transaction, target, depth + 1)? {
                    Some(more) => chunks.extend(more),
                    None => found = None,
                }
            }
        }
        self.0.insert(row, found.clone());
        Ok(found)
    }
}

fn collect(mut rows: Rows<'_>) -> Result<Vec<NodeRow>, Fault> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(node_row(row, 0)?);
    }
    Ok(found)
}

fn node_row(row: &Row<'_>, index: usize) -> Result<NodeRow, Fault> {
    Ok(NodeRow(unsigned(row, index)? as u64))
}

/// A member from the columns `index` (kind) and `index + 1` (id).
pub(super) fn member(row: &Row<'_>, index: usize) -> Result<Member, Fault> {
    let id = digest(row, index + 1)?;
    match row.get(index)? {
        LEAF => Ok(Member::Leaf(LeafId(id))),
        NODE => Ok(Member::Node(NodeId(id))),
        kind => Err(Fault::Damaged(format!("a member of kind {kind}"))),
    }
}

/// A member's place from the columns `index` (kind) and `index + 1` (target).
fn below(row: &Row<'_>, index: usize) -> Result<Below, Fault> {
    match row.get(index)? {
        LEAF => Ok(Below::Chunk(chunk_id(row, index + 1)?)),
        NODE => Ok(Below::Node(node_row(row, index + 1)?)),
        kind => Err(Fault::Damaged(format!("a member of kind {kind}"))),
    }
}

fn document_key(transaction: &Transaction<'_>, id: &DocumentId) -> Result<Option<i64>, Fault> {
    let mut statement = transaction.prepare_cached("SELECT key FROM documents WHERE id = ?1")?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?)
}

fn document_names(transaction: &Transaction<'_>) -> Result<HashMap<i64, DocumentId>, Fault> {
    let mut statement = transaction.prepare_cached("SELECT key, id FROM documents")?;
    let mut rows = statement.query([])?;
    let mut names = HashMap::new();
    while let Some(row) = rows.next()? {
        names.insert(row.get(0)?, parsed(row, 1)?);
    }
    Ok(names)
}

fn owner(names: &HashMap<i64, DocumentId>, scope: i64) -> Result<Option<DocumentId>, Fault> {
    if scope == COLLECTION {
        return Ok(None);
    }
    let name = names.get(&scope).ok_or_else(|| Fault::Damaged("a node of a document that is gone".to_owned()))?;
    Ok(Some(name.clone()))
}

/// The part of a scope from the columns from `index` on.
fn part_columns(row: &Row<'_>, index: usize) -> Result<PartRow, Fault> {
    let root = match row.get::<_, Option<i64>>(index)? {
        Some(_) => Some((member(row, index)?, row.get(index + 2)?)),
        None => None,
    };
    Ok(PartRow {
        root,
        changed: unsigned(row, index + 3)?,
        summariser: row.get(index + 4)?,
        version: unsigned(row, index + 5)? as u64,
    })
}

pub(super) fn part_row(transaction: &Transaction<'_>, scope: i64) -> Result<Option<PartRow>, Fault> {
    let mut statement = transaction.prepare_cached(
        "SELECT root_kind, root, root_target, changed, summariser, version FROM tree_parts WHERE scope = ?1",
    )?;
    let mut rows = statement.query([scope])?;
    rows.next()?.map(|row| part_columns(row, 0)).transpose()
}

/// The root of a scope and where it is kept.
pub(super) fn part_root(transaction: &Transaction<'_>, scope: i64) -> Result<Option<(Member, i64)>, Fault> {
    Ok(part_row(transaction, scope)?.and_then(|part| part.root))
}

/// All nodes of a scope, members before those that summarise them.
pub(super) fn node_rows(transaction: &Transaction<'_>, scope: i64) -> Result<Vec<NodeRowRecord>, Fault> {
    let mut statement = transaction
        .prepare_cached("SELECT row, node, level, summary FROM tree_nodes WHERE scope = ?1 ORDER BY ordinal")?;
    let mut members =
        transaction.prepare_cached("SELECT kind, id, target FROM tree_members WHERE parent = ?1 ORDER BY ordinal")?;
    let mut rows = statement.query(params![scope])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: i64 = row.get(0)?;
        let mut node = NodeRowRecord {
            row: key,
            node: TreeNode {
                id: NodeId(digest(row, 1)?),
                level: row.get(2)?,
                members: Vec::new(),
                summary: SummaryKey(digest(row, 3)?),
            },
            targets: Vec::new(),
        };
        let mut rows = members.query([key])?;
        while let Some(row) = rows.next()? {
            node.node.members.push(member(row, 0)?);
            node.targets.push(row.get(2)?);
        }
        found.push(node);
    }
    Ok(found)
}
