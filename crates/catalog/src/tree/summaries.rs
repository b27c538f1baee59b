//! Summaries by key.

use std::collections::BTreeSet;

use edgewise_types::{SummaryKey, SummaryMethod};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{SummaryRecord, changes::Former, schema::SUMMARY_SEAL};
use crate::{
    Catalog, CatalogError,
    error::Fault,
    rows::{decode_vector, digest, encode_vector, json, signed, unsigned},
    seals,
    write::unit_vector,
};

/// Columns of [`summary`], for a table or alias `s`.
pub(super) const SUMMARY_COLUMNS: &str =
    "s.key, s.text, s.method, s.tokens, s.vector, s.usage, s.regenerated, s.unsupported";

impl Catalog {
    /// The summary kept under `key`.
    pub fn summary(&self, key: &SummaryKey) -> Result<Option<SummaryRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!("SELECT {SUMMARY_COLUMNS} FROM summaries s WHERE s.key = ?1");
            let mut statement = transaction.prepare_cached(&sql)?;
            let mut rows = statement.query([key.0])?;
            rows.next()?.map(|row| summary(row, 0, self.meta().embedder.dimension)).transpose()
        })
    }

    /// Which of `keys` are kept: what planning a build needs, without reading texts.
    pub fn has_summaries(&self, keys: &[SummaryKey]) -> Result<Vec<bool>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT 1 FROM summaries WHERE key = ?1")?;
            keys.iter().map(|key| Ok(statement.exists([key.0])?)).collect()
        })
    }

    /// Keeps a summary. When it returns, the summary is on disk. One that is there under the same key is replaced.
    ///
    /// # Errors
    /// [`CatalogError::InvalidTree`] if its vector has another dimension or length;
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn put_summary(&self, summary: &SummaryRecord) -> Result<(), CatalogError> {
        self.put_summaries(std::slice::from_ref(summary))
    }

    /// As [`Self::put_summary`], for several in one commit: all of them or none.
    ///
    /// # Errors
    /// As of [`Self::put_summary`].
    pub fn put_summaries(&self, summaries: &[SummaryRecord]) -> Result<(), CatalogError> {
        for summary in summaries {
            unit_vector(&summary.embedding, self.meta().embedder.dimension).map_err(|reason| {
                CatalogError::InvalidTree { part: format!("summary {}", summary.key), reason: format!("its {reason}") }
            })?;
        }
        self.connections.write(|transaction| {
            for summary in summaries {
                put(&transaction, summary)?;
            }
            Ok(transaction.commit()?)
        })
    }

    /// Deletes the summaries that no node has, nor one of a former tree, and returns how many. Not while a tree is being built: what it has made so
    /// far is not in any node yet.
    ///
    /// # Errors
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn sweep_summaries(&self) -> Result<usize, CatalogError> {
        self.connections.write(|transaction| {
            // What a former tree has may come again with the next one of its document.
            let former = former_summaries(&transaction)?;
            let swept = transaction.execute(
                "DELETE FROM summaries WHERE key NOT IN (SELECT summary FROM tree_nodes) \
                 AND lower(hex(key)) NOT IN (SELECT value FROM json_each(?1))",
                [serde_json::json!(former).to_string()],
            )?;
            transaction.commit()?;
            Ok(swept)
        })
    }

    /// Calls `visit` with every summary: what is carried over to a catalog made anew.
    pub fn for_each_summary(
        &self,
        mut visit: impl FnMut(SummaryRecord) -> Result<(), CatalogError>,
    ) -> Result<(), CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!("SELECT {SUMMARY_COLUMNS} FROM summaries s ORDER BY s.key");
            let mut statement = transaction.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                visit(summary(row, 0, self.meta().embedder.dimension)?)?;
            }
            Ok(())
        })
    }
}

/// Keys of the summaries of all former trees.
fn former_summaries(transaction: &Transaction<'_>) -> Result<BTreeSet<SummaryKey>, Fault> {
    let mut statement = transaction.prepare("SELECT part FROM tree_former")?;
    let mut rows = statement.query([])?;
    let mut keys = BTreeSet::new();
    while let Some(row) = rows.next()? {
        keys.extend(json::<Former>(row, 0)?.nodes.into_iter().map(|node| node.summary));
    }
    Ok(keys)
}

fn put(transaction: &Transaction<'_>, summary: &SummaryRecord) -> Result<(), Fault> {
    let text = |value: serde_json::Result<String>| {
        value.map_err(|error| {
            let part = format!("summary {}", summary.key);
            Fault::from(CatalogError::InvalidTree { part, reason: error.to_string() })
        })
    };
    let row: i64 = transaction
        .prepare_cached(
            "INSERT INTO summaries (key, text, method, tokens, vector, usage, regenerated, unsupported, seal) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, x'') \
             ON CONFLICT (key) DO UPDATE SET text = ?2, method = ?3, tokens = ?4, vector = ?5, usage = ?6, \
             regenerated = ?7, unsupported = ?8 RETURNING row",
        )?
        .query_row(
            params![
                summary.key.0,
                summary.text,
                method_text(summary.method),
                signed(summary.tokens),
                encode_vector(&summary.embedding),
                text(serde_json::to_string(&summary.usage))?,
                summary.regenerated,
                text(serde_json::to_string(&summary.unsupported))?,
            ],
            |row| row.get(0),
        )?;
    let seal = seals::hash(transaction, &SUMMARY_SEAL, row)?;
    transaction.prepare_cached("UPDATE summaries SET seal = ?2 WHERE row = ?1")?.execute(params![row, seal])?;
    Ok(())
}

/// A summary from [`SUMMARY_COLUMNS`], the first of them at `index`.
pub(super) fn summary(row: &Row<'_>, index: usize, dimension: usize) -> Result<SummaryRecord, Fault> {
    let mut embedding = vec![0.0; dimension];
    decode_vector(row, index + 4, &mut embedding)?;
    let method: String = row.get(index + 2)?;
    Ok(SummaryRecord {
        key: SummaryKey(digest(row, index)?),
        text: row.get(index + 1)?,
        method: method_of(&method).ok_or_else(|| Fault::Damaged(format!("unknown summary method `{method}`")))?,
        tokens: unsigned(row, index + 3)?,
        embedding,
        usage: json(row, index + 5)?,
        regenerated: row.get(index + 6)?,
        unsupported: json(row, index + 7)?,
    })
}

/// Whether a summary is kept.
pub(super) fn exists(transaction: &Transaction<'_>, key: &SummaryKey) -> Result<bool, Fault> {
    let mut statement = transaction.prepare_cached("SELECT 1 FROM summaries WHERE key = ?1")?;
    Ok(statement.query_row([key.0], |_| Ok(())).optional()?.is_some())
}

fn method_text(method: SummaryMethod) -> &'static str {
    match method {
        SummaryMethod::Extractive => "extractive",
        SummaryMethod::Abstractive => "abstractive",
        SummaryMethod::ExtractiveFallback => "extractive_fallback",
    }
}

fn method_of(text: &str) -> Option<SummaryMethod> {
    [SummaryMethod::Extractive, SummaryMethod::Abstractive, SummaryMethod::ExtractiveFallback]
        .into_iter()
        .find(|method| method_text(*method) == text)
}
