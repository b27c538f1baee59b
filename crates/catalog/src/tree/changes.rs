//! Single changes to the tree tables.

use std::collections::HashSet;

use edgewise_types::{DocumentId, Member, TreeScope};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{
    NewTreePart, TreeNode, read,
    schema::{FORMER_SEAL, LEAF, NODE, TOMBSTONE_SEAL},
};
use crate::{error::Fault, rows::signed, seals};

/// The tree of a text that a document had before.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Former {
    pub(super) nodes: Vec<TreeNode>,
    pub(super) root: Option<Member>,
    pub(super) changed: usize,
    pub(super) summariser: String,
    pub(super) version: u64,
}

/// What a scope is called in messages.
pub(super) fn name(scope: &TreeScope) -> String {
    match scope {
        TreeScope::Document(id) => format!("the tree of document {id}"),
        TreeScope::Collection => "the layers above documents".to_owned(),
    }
}

/// The version, and whether the layers above documents are current.
pub(super) fn state(transaction: &Transaction<'_>) -> Result<(u64, bool), Fault> {
    let found: Option<(i64, bool)> = transaction
        .prepare_cached("SELECT version, collection_current FROM tree_state")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (version, current) = found.ok_or_else(|| Fault::Damaged("the version of the tree is gone".to_owned()))?;
    let version =
        u64::try_from(version).map_err(|_| Fault::Damaged("the version of the tree is negative".to_owned()))?;
    Ok((version, current))
}

/// Records the version and seals the nodes removed in it; the caller seals the description of the collection.
pub(super) fn write_state(transaction: &Transaction<'_>, version: u64, current: bool) -> Result<(), Fault> {
    let version = signed(version as usize);
    transaction
        .prepare_cached("UPDATE tree_state SET version = ?1, collection_current = ?2")?
        .execute(params![version, current])?;
    if transaction.prepare_cached("SELECT 1 FROM tree_tombstones WHERE removed_in = ?1")?.exists([version])? {
        let hash = seals::hash(transaction, &TOMBSTONE_SEAL, version)?;
        transaction
            .prepare_cached("INSERT OR REPLACE INTO tree_tombstone_seals (removed_in, hash) VALUES (?1, ?2)")?
            .execute(params![version, hash])?;
    }
    Ok(())
}

/// As [`write_state`], with the description of the collection: last in a transaction that changes the tree alone.
pub(super) fn set_state(transaction: &Transaction<'_>, version: u64, current: bool) -> Result<(), Fault> {
    write_state(transaction, version, current)?;
    seals::seal_meta(transaction)
}

/// Removes the nodes of a scope, but for those whose rows stay, leaving tombstones.
pub(super) fn bury(
    transaction: &Transaction<'_>,
    scope: i64,
    stay: Option<&HashSet<i64>>,
    next: u64,
) -> Result<(), Fault> {
    let mut statement = transaction.prepare_cached("SELECT row FROM tree_nodes WHERE scope = ?1")?;
    let rows: Vec<i64> = statement.query_map([scope], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut tombstone = transaction.prepare_cached(
        "INSERT INTO tree_tombstones (row, added_in, removed_in) SELECT row, added_in, ?2 FROM tree_nodes WHERE row = ?1",
    )?;
    // Its members go with it.
    let mut delete = transaction.prepare_cached("DELETE FROM tree_nodes WHERE row = ?1")?;
    for row in rows.into_iter().filter(|row| stay.is_none_or(|stay| !stay.contains(row))) {
        tombstone.execute(params![row, signed(next as usize)])?;
        delete.execute([row])?;
    }
    Ok(())
}

pub(super) fn add_member(
    transaction: &Transaction<'_>,
    parent: i64,
    ordinal: usize,
    member: &Member,
    target: i64,
) -> Result<(), Fault> {
    let (kind, id) = columns(member);
    transaction
        .prepare_cached("INSERT INTO tree_members (parent, ordinal, kind, id, target) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![parent, signed(ordinal), kind, id, target])?;
    Ok(())
}

fn columns(member: &Member) -> (i64, [u8; 32]) {
    match member {
        Member::Leaf(id) => (LEAF, id.0),
        Member::Node(id) => (NODE, id.0),
    }
}

/// Records the part of a scope; the caller seals it.
pub(super) fn put_part(
    transaction: &Transaction<'_>,
    scope: i64,
    root: Option<(Member, i64)>,
    part: &NewTreePart,
    next: u64,
) -> Result<(), Fault> {
    let (kind, id, target) = match &root {
        Some((member, target)) => {
            let (kind, id) = columns(member);
            (Some(kind), Some(id), Some(*target))
        }
        None => (None, None, None),
    };
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO tree_parts \
             (scope, root_kind, root, root_target, changed, summariser, version, seal) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, x'')",
        )?
        .execute(params![scope, kind, id, target, signed(part.changed), part.summariser, signed(next as usize)])?;
    Ok(())
}

/// The shape of the tree of the document in the row `key`, or of the text it had before, as [`remember`] takes it.
pub(super) fn former_of(transaction: &Transaction<'_>, key: i64) -> Result<Option<String>, Fault> {
    let Some(part) = read::part_row(transaction, key)? else {
        let mut statement = transaction.prepare_cached("SELECT part FROM tree_former WHERE document = ?1")?;
        return Ok(statement.query_row([key], |row| row.get(0)).optional()?);
    };
    let nodes = read::node_rows(transaction, key)?.into_iter().map(|node| node.node).collect();
    let former = Former {
        nodes,
        root: part.root.map(|(root, _)| root),
        changed: part.changed,
        summariser: part.summariser,
        version: part.version,
    };
    // Ids and numbers: nothing in it cannot be written.
    serde_json::to_string(&former).map(Some).map_err(|error| Fault::Damaged(error.to_string()))
}

/// Keeps the shape of the tree a document had before it was written again.
pub(super) fn remember(transaction: &Transaction<'_>, document: &DocumentId, part: &str) -> Result<(), Fault> {
    let key: i64 = transaction
        .prepare_cached("SELECT key FROM documents WHERE id = ?1")?
        .query_row([document.as_str()], |row| row.get(0))?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO tree_former (document, part, seal) VALUES (?1, ?2, x'')")?
        .execute(params![key, part])?;
    let seal = seals::hash(transaction, &FORMER_SEAL, key)?;
    transaction.prepare_cached("UPDATE tree_former SET seal = ?2 WHERE document = ?1")?.execute(params![key, seal])?;
    Ok(())
}
