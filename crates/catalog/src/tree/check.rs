//! Whether the tree tables are sound.

use rusqlite::Transaction;

use super::schema::{FORMER_SEAL, JOB_SEAL, PART_SEAL, SUMMARY_SEAL, TOMBSTONE_SEAL};
use crate::{
    error::Fault,
    rows::{decode_vector, digest},
    seals::Findings,
};

/// Each query selects offenders; the sentence says what they are. Members above documents may be gone unless the layers
/// are current.
const RULES: [(&str, &str); 9] = [
    (
        "a node of the tree without members",
        "SELECT n.row FROM tree_nodes n LEFT JOIN tree_members m ON m.parent = n.row WHERE m.parent IS NULL",
    ),
    (
        "a node of the tree whose members are not numbered 0, 1, 2, …",
        "SELECT m.parent FROM tree_members m GROUP BY m.parent HAVING max(m.ordinal) <> count(*) - 1",
    ),
    (
        "a node of the tree without a part",
        "SELECT n.row FROM tree_nodes n LEFT JOIN tree_parts p ON p.scope = n.scope WHERE p.scope IS NULL",
    ),
    (
        "a part of the tree of a document that is gone",
        "SELECT p.scope FROM tree_parts p LEFT JOIN documents d ON d.key = p.scope WHERE p.scope > 0 AND d.key IS NULL",
    ),
    (
        "a node of the tree with a chunk that is not of its document",
        "SELECT n.row FROM tree_nodes n JOIN tree_members m ON m.parent = n.row LEFT JOIN chunks c ON c.id = m.target \
      WHERE m.kind = 0 AND ((n.scope > 0 AND c.document IS NOT n.scope) OR \
      (n.scope = 0 AND c.id IS NULL AND (SELECT collection_current FROM tree_state)))",
    ),
    (
        "a node of the tree with a member that is another node or gone",
        "SELECT n.row FROM tree_nodes n JOIN tree_members m ON m.parent = n.row LEFT JOIN tree_nodes b ON b.row = m.target \
      WHERE m.kind = 1 AND ((n.scope > 0 AND (b.scope IS NOT n.scope OR b.node <> m.id)) OR \
      (b.row IS NOT NULL AND b.node <> m.id) OR \
      (n.scope = 0 AND b.row IS NULL AND (SELECT collection_current FROM tree_state)))",
    ),
    (
        "a node of the tree at a wrong level",
        "SELECT n.row FROM tree_nodes n JOIN tree_members m ON m.parent = n.row \
      LEFT JOIN tree_nodes b ON m.kind = 1 AND b.row = m.target GROUP BY n.row \
      HAVING sum(m.kind = 1 AND b.row IS NULL) = 0 AND n.level <> 1 + max(coalesce(b.level, 0))",
    ),
    (
        "a node of the tree from a version to come, or with a tombstone",
        "SELECT n.row FROM tree_nodes n, tree_state s LEFT JOIN tree_tombstones t ON t.row = n.row \
      WHERE n.added_in NOT BETWEEN 1 AND s.version OR t.row IS NOT NULL",
    ),
    (
        "a tombstone of the tree of an impossible version",
        "SELECT t.row FROM tree_tombstones t, tree_state s \
      WHERE t.added_in < 1 OR t.removed_in <= t.added_in OR t.removed_in > s.version",
    ),
];

/// One sentence for each broken rule, at most `limit` in all.
pub(crate) fn content_findings(
    transaction: &Transaction<'_>,
    dimension: usize,
    limit: usize,
    findings: &mut Vec<String>,
) -> Result<(), Fault> {
    for (what, sql) in RULES {
        let mut statement = transaction.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()?
            && findings.len() < limit
        {
            findings.push(format!("{what} (row {})", row.get::<_, i64>(0)?));
        }
    }
    let mut vector = vec![0.0f32; dimension];
    let mut statement = transaction.prepare("SELECT row, key, vector FROM summaries")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if findings.len() >= limit {
            break;
        }
        let number: i64 = row.get(0)?;
        digest(row, 1)?;
        match decode_vector(row, 2, &mut vector) {
            Ok(()) if vector.iter().all(|value| value.is_finite()) => {}
            Ok(()) => findings.push(format!("summary {number}: its embedding is not finite")),
            Err(Fault::Damaged(detail)) => findings.push(format!("summary {number}: {detail}")),
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Compares every seal of the tree and of the jobs.
pub(crate) fn seal_findings(transaction: &Transaction<'_>, findings: &mut Findings) -> Result<(), Fault> {
    let sealed: [(&str, &[&str], &str); 5] = [
        ("SELECT row, seal FROM summaries", &SUMMARY_SEAL, "summary"),
        ("SELECT scope, seal FROM tree_parts", &PART_SEAL, "the part of the tree of the document in row"),
        ("SELECT document, seal FROM tree_former", &FORMER_SEAL, "the former tree of the document in row"),
        (
            "SELECT g.removed_in, s.hash FROM (SELECT removed_in FROM tree_tombstones \
             UNION SELECT removed_in FROM tree_tombstone_seals) g \
             LEFT JOIN tree_tombstone_seals s ON s.removed_in = g.removed_in",
            &TOMBSTONE_SEAL,
            "the list of nodes removed in version",
        ),
        ("SELECT row, seal FROM jobs", &JOB_SEAL, "job"),
    ];
    for (sql, seal, what) in sealed {
        let mut statement = transaction.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key: i64 = row.get(0)?;
            findings.check(transaction, seal, key, row.get(1)?, &|| format!("{what} {key}"))?;
        }
    }
    Ok(())
}
