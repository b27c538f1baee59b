//! Committing parts of a tree, and taking them away.

use std::collections::{BTreeMap, HashMap, HashSet};

use edgewise_types::{DocumentId, Member, NodeId, TreeScope};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{
    NewTreePart, TreeCommit, TreeVersion,
    changes::{self, add_member, bury, set_state, state},
    read,
    schema::COLLECTION,
    summaries,
};
use crate::{Catalog, CatalogError, error::Fault, rows::signed, seals};

/// Where a member is kept, and how high it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// A chunk's id, or the row of a node.
    pub(super) target: i64,
    pub(super) level: u32,
}

/// The part that a scope has, by node.
type Kept = HashMap<NodeId, read::NodeRowRecord>;

impl Catalog {
    /// Puts parts of the tree in the place of those of the same scopes, in one transaction, or changes nothing.
    ///
    /// Nodes that stay as they were keep their rows. The layers above documents are current from then on if they are in
    /// the commit and have every document, or were current and no document's root changes.
    ///
    /// # Errors
    /// [`CatalogError::StaleTree`] if a part is of chunks or roots that are no longer there: plan it again from what there
    /// is now. [`CatalogError::InvalidTree`] if a part contradicts itself or lacks a summary.
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn commit_tree(&self, commit: &TreeCommit) -> Result<TreeVersion, CatalogError> {
        if commit.parts.is_empty() {
            return self.tree_version();
        }
        self.connections.write(|transaction| {
            let (before, was_current) = state(&transaction)?;
            let next = before + 1;
            let (mut seen, mut current) = (HashSet::new(), was_current);
            for (at, part) in commit.parts.iter().enumerate() {
                if !seen.insert(&part.scope) {
                    return Err(invalid(part, "it is in the commit twice".to_owned()));
                }
                match &part.scope {
                    TreeScope::Document(id) => current &= !commit_document(&transaction, part, id, next)?,
                    TreeScope::Collection if at + 1 < commit.parts.len() => {
                        return Err(invalid(part, "it comes before the part of a document".to_owned()));
                    }
                    TreeScope::Collection => current = commit_collection(&transaction, part, next)?,
                }
            }
            set_state(&transaction, next, current)?;
            transaction.commit()?;
            Ok(TreeVersion(next))
        })
    }

    /// Takes all nodes away. Summaries stay, for a tree that is built again, until they are swept.
    ///
    /// # Errors
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn clear_tree(&self) -> Result<TreeVersion, CatalogError> {
        self.connections.write(|transaction| {
            let (before, _) = state(&transaction)?;
            let parts: i64 = transaction.query_row(
                "SELECT (SELECT count(*) FROM tree_parts) + (SELECT count(*) FROM tree_former)",
                [],
                |row| row.get(0),
            )?;
            if parts == 0 {
                return Ok(TreeVersion(before));
            }
            let next = before + 1;
            transaction.execute(
                "INSERT INTO tree_tombstones (row, added_in, removed_in) SELECT row, added_in, ?1 FROM tree_nodes",
                [signed(next as usize)],
            )?;
            transaction.execute("DELETE FROM tree_nodes", [])?;
            transaction.execute("DELETE FROM tree_parts", [])?;
            transaction.execute("DELETE FROM tree_former", [])?;
            set_state(&transaction, next, false)?;
            transaction.commit()?;
            Ok(TreeVersion(next))
        })
    }
}

/// The version that a change made now leads to.
pub(crate) fn next_version(transaction: &Transaction<'_>) -> Result<u64, Fault> {
    Ok(state(transaction)?.0 + 1)
}

/// Takes the tree of the document in the row `key` away. With `keep`, returns what it was, for [`documents_changed`].
pub(crate) fn remove_document(
    transaction: &Transaction<'_>,
    key: i64,
    keep: bool,
    next: u64,
) -> Result<Option<String>, Fault> {
    let former = if keep { changes::former_of(transaction, key)? } else { None };
    bury(transaction, key, None, next)?;
    transaction.prepare_cached("DELETE FROM tree_parts WHERE scope = ?1")?.execute([key])?;
    Ok(former)
}

/// To be called when documents were written or deleted, before the description of the collection is sealed: the layers
/// above documents are no longer of them. `former` holds the trees of those that were written again.
pub(crate) fn documents_changed(
    transaction: &Transaction<'_>,
    former: &BTreeMap<DocumentId, String>,
    next: u64,
) -> Result<(), Fault> {
    for (document, part) in former {
        changes::remember(transaction, document, part)?;
    }
    let (before, current) = state(transaction)?;
    let buried = transaction
        .prepare_cached("SELECT 1 FROM tree_tombstones WHERE removed_in = ?1")?
        .exists([signed(next as usize)])?;
    let version = if buried || current { next } else { before };
    changes::write_state(transaction, version, false)
}

fn invalid(part: &NewTreePart, reason: String) -> Fault {
    CatalogError::InvalidTree { part: changes::name(&part.scope), reason }.into()
}

fn stale(part: &NewTreePart, reason: String) -> Fault {
    CatalogError::StaleTree { part: changes::name(&part.scope), reason }.into()
}

/// Commits a document's part, and returns whether its root is another than before.
fn commit_document(
    transaction: &Transaction<'_>,
    part: &NewTreePart,
    id: &DocumentId,
    next: u64,
) -> Result<bool, Fault> {
    let key: Option<i64> = transaction
        .prepare_cached("SELECT key FROM documents WHERE id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let Some(key) = key else { return Err(stale(part, "the document is gone".to_owned())) };
    let mut statement = transaction.prepare_cached("SELECT id FROM chunks WHERE document = ?1 ORDER BY ordinal")?;
    let chunks: Vec<i64> = statement.query_map([key], |row| row.get(0))?.collect::<Result<_, _>>()?;
    if !part.leaves.iter().map(|(_, chunk)| signed(chunk.0 as usize)).eq(chunks.iter().copied()) {
        return Err(stale(part, "the document has other chunks now".to_owned()));
    }
    let mut places: HashMap<Member, Place> = HashMap::new();
    for (leaf, chunk) in &part.leaves {
        let place = Place { target: signed(chunk.0 as usize), level: 0 };
        if places.insert(Member::Leaf(*leaf), place).is_some() {
            return Err(invalid(part, format!("two of its chunks have the id {leaf}")));
        }
    }
    let unresolved = |member: &Member| invalid(part, format!("{member:?} is not below it"));
    let used = validate(transaction, part, &mut places, &unresolved)?;
    if let Some(orphan) = places.keys().find(|member| !used.contains(member) && part.root.as_ref() != Some(member)) {
        return Err(invalid(part, format!("{orphan:?} is not below its root")));
    }
    if part.root.is_none() && !places.is_empty() {
        return Err(invalid(part, "it has no root".to_owned()));
    }
    transaction.prepare_cached("DELETE FROM tree_former WHERE document = ?1")?.execute([key])?;
    write_part(transaction, part, key, places, next)
}

/// Commits the layers above documents, and returns whether they have every document.
fn commit_collection(transaction: &Transaction<'_>, part: &NewTreePart, next: u64) -> Result<bool, Fault> {
    if !part.leaves.is_empty() {
        return Err(invalid(part, "its members are the roots of documents, not chunks".to_owned()));
    }
    let mut places: HashMap<Member, Place> = HashMap::new();
    let mut statement = transaction.prepare(
        "SELECT p.root_kind, p.root, p.root_target, coalesce(n.level, 0) FROM tree_parts p \
         LEFT JOIN tree_nodes n ON p.root_kind = 1 AND n.row = p.root_target \
         WHERE p.scope > 0 AND p.root IS NOT NULL",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        places.insert(read::member(row, 0)?, Place { target: row.get(2)?, level: row.get(3)? });
    }
    let roots: Vec<Member> = places.keys().copied().collect();
    let unresolved = |member: &Member| stale(part, format!("{member:?} is the root of no document now"));
    let mut used = validate(transaction, part, &mut places, &unresolved)?;
    used.extend(part.root);
    for node in &part.nodes {
        if !used.contains(&Member::Node(node.id)) {
            return Err(invalid(part, format!("node {} is not below its root", node.id)));
        }
    }
    let without: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM documents d WHERE d.key NOT IN (SELECT scope FROM tree_parts))",
        [],
        |row| row.get(0),
    )?;
    write_part(transaction, part, COLLECTION, places, next)?;
    Ok(!without && roots.iter().all(|root| used.contains(root)))
}

/// Checks the nodes of a part from below, adding their levels to `places`, and returns what is a member of one.
fn validate(
    transaction: &Transaction<'_>,
    part: &NewTreePart,
    places: &mut HashMap<Member, Place>,
    unresolved: &dyn Fn(&Member) -> Fault,
) -> Result<HashSet<Member>, Fault> {
    let mut used = HashSet::new();
    for node in &part.nodes {
        let refuse = |reason: &str| invalid(part, format!("node {} {reason}", node.id));
        let mut level = 0;
        let mut members = HashSet::new();
        for member in &node.members {
            let place = places.get(member).ok_or_else(|| unresolved(member))?;
            level = level.max(place.level + 1);
            if !members.insert(*member) {
                return Err(refuse("has a member twice"));
            }
        }
        if node.members.is_empty() {
            return Err(refuse("has no members"));
        }
        if node.level != level {
            return Err(refuse(&format!("is at level {}, but its members make it {level}", node.level)));
        }
        if !summaries::exists(transaction, &node.summary)? {
            return Err(refuse("has a summary that is not kept: keep it first"));
        }
        // Its row is known once it is written.
        if places.insert(Member::Node(node.id), Place { target: 0, level }).is_some() {
            return Err(refuse("is there twice"));
        }
        used.extend(members);
    }
    if let Some(root) = &part.root
        && !places.contains_key(root)
    {
        return Err(unresolved(root));
    }
    Ok(used)
}

/// Writes a validated part in the place of what the scope had, and returns whether the root is another than before.
fn write_part(
    transaction: &Transaction<'_>,
    part: &NewTreePart,
    scope: i64,
    mut places: HashMap<Member, Place>,
    next: u64,
) -> Result<bool, Fault> {
    let before = read::part_root(transaction, scope)?;
    let mut kept: Kept = read::node_rows(transaction, scope)?.into_iter().map(|node| (node.node.id, node)).collect();
    // From below, a node stays if it is the same and all its members stay where they are.
    for node in &part.nodes {
        let stays = kept.get(&node.id).is_some_and(|old| {
            old.node == *node
                && node
                    .members
                    .iter()
                    .zip(&old.targets)
                    .all(|(member, target)| places.get(member).is_some_and(|place| place.target == *target))
        });
        match kept.get(&node.id) {
            Some(old) if stays => {
                let place = Place { target: old.row, level: node.level };
                places.insert(Member::Node(node.id), place);
            }
            _ => drop(kept.remove(&node.id)),
        }
    }
    let wanted: HashSet<NodeId> = part.nodes.iter().map(|node| node.id).collect();
    kept.retain(|id, _| wanted.contains(id));
    let stay: HashSet<i64> = kept.values().map(|node| node.row).collect();
    bury(transaction, scope, Some(&stay), next)?;

    let mut insert = transaction.prepare_cached(
        "INSERT INTO tree_nodes (node, scope, ordinal, level, summary, added_in) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let mut place =
        transaction.prepare_cached("UPDATE tree_nodes SET ordinal = ?2 WHERE row = ?1 AND ordinal <> ?2")?;
    let mut taken = transaction.prepare_cached("SELECT 1 FROM tree_nodes WHERE node = ?1")?;
    for (at, node) in part.nodes.iter().enumerate() {
        if let Some(old) = kept.get(&node.id) {
            place.execute(params![old.row, signed(at)])?;
            continue;
        }
        if taken.exists([node.id.0])? {
            return Err(invalid(part, format!("node {} is in another scope", node.id)));
        }
        insert.execute(params![node.id.0, scope, signed(at), node.level, node.summary.0, signed(next as usize)])?;
        let row = transaction.last_insert_rowid();
        for (ordinal, member) in node.members.iter().enumerate() {
            let target = places.get(member).map_or(0, |place| place.target);
            add_member(transaction, row, ordinal, member, target)?;
        }
        places.insert(Member::Node(node.id), Place { target: row, level: node.level });
    }
    let root = part.root.and_then(|root| places.get(&root).map(|place| (root, place.target)));
    changes::put_part(transaction, scope, root, part, next)?;
    seals::seal_part(transaction, scope)?;
    Ok(before != root)
}
