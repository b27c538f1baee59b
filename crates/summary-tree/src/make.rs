//! Makes the summaries of a layer: found in the store, or written, embedded and stored.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use edgewise_types::{SummaryKey, TreeScope};
use rayon::prelude::*;

use crate::{
    BuildEvent, MemberText, SummariseError, Summary, SummaryRequest, SummaryText, TreeBuilder, TreeError,
    builder::{Entry, Made, Maker},
};

/// Between two titles above a text, as for chunks.
const SEPARATOR: &str = " > ";

/// Makes what the store lacks.
pub(crate) struct Real<'b, 'a>(pub(crate) &'b TreeBuilder<'a>);

impl Maker for Real<'_, '_> {
    fn make(&mut self, scope: &TreeScope, title: &str, clusters: &[Vec<&Entry>]) -> Result<Vec<Made>, TreeError> {
        let builder = self.0;
        let keys: Vec<SummaryKey> = clusters.par_iter().map(|members| builder.key(title, members)).collect();
        let mut found: HashMap<SummaryKey, Summary> = HashMap::new();
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for (at, key) in keys.iter().enumerate().filter(|(_, key)| seen.insert(**key)) {
            match builder.store.get(key)? {
                Some(summary) => {
                    builder.control.step(BuildEvent::Kept { scope, summary: &summary })?;
                    found.insert(*key, summary);
                }
                None => missing.push(at),
            }
        }
        for batch in missing.chunks(builder.summariser.batch().max(1)) {
            for at in batch {
                let members = &clusters[*at];
                let expected = builder.summariser.estimate(members.iter().map(|member| member.tokens).sum());
                builder.control.step(BuildEvent::Before { scope, members: members.len(), expected })?;
            }
            let texts = builder.written(title, &batch.iter().map(|at| clusters[*at].as_slice()).collect::<Vec<_>>())?;
            let made = builder.embedded(batch.iter().map(|at| (keys[*at], clusters[*at].as_slice())).zip(texts))?;
            builder.store.put_all(&made)?;
            for summary in &made {
                builder.control.step(BuildEvent::Made { scope, summary })?;
            }
            found.extend(made.into_iter().map(|summary| (summary.key, summary)));
        }
        let made = |key: &SummaryKey| {
            found.get(key).map(|summary| Made {
                key: *key,
                text: summary.text.clone(),
                embedding: summary.embedding.clone(),
                tokens: summary.tokens,
                known: true,
            })
        };
        Ok(keys.iter().filter_map(made).collect())
    }
}

impl TreeBuilder<'_> {
    /// Summaries of these clusters; several beside each other on the threads of the pool.
    fn written(&self, title: &str, clusters: &[&[&Entry]]) -> Result<Vec<SummaryText>, TreeError> {
        let waiting = || self.control.step(BuildEvent::Waiting);
        let write = |cluster: &&[&Entry]| {
            let members: Vec<MemberText<'_>> = cluster
                .iter()
                .map(|entry| MemberText {
                    headings: &entry.headings,
                    text: &entry.text,
                    embedding: &entry.embedding,
                    tokens: entry.tokens,
                })
                .collect();
            let level = 1 + cluster.iter().map(|entry| entry.level).max().unwrap_or(0);
            let tokenizer = self.embedder.tokenizer();
            self.summariser.summarise(&SummaryRequest { title, level, members: &members, tokenizer, waiting: &waiting })
        };
        // Threads of our own: a summariser may wait for a model that computes on the shared pool.
        let threads = self.summariser.parallel().clamp(1, clusters.len().max(1));
        if threads == 1 {
            return Ok(clusters.iter().map(write).collect::<Result<_, _>>()?);
        }
        let next = AtomicUsize::new(0);
        let made: Mutex<Vec<(usize, Result<SummaryText, SummariseError>)>> = Mutex::default();
        let work = || {
            while let Some((at, cluster)) = take(&next, clusters) {
                let text = write(cluster);
                let failed = text.is_err();
                made.lock().unwrap_or_else(PoisonError::into_inner).push((at, text));
                if failed {
                    next.store(clusters.len(), Ordering::SeqCst);
                }
            }
        };
        thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.sort_by_key(|(at, _)| *at);
        Ok(made.into_iter().map(|(_, text)| text).collect::<Result<_, _>>()?)
    }

    /// Summaries with their vectors, from one call of the embedder.
    fn embedded<'e>(
        &self,
        texts: impl Iterator<Item = ((SummaryKey, &'e [&'e Entry]), SummaryText)>,
    ) -> Result<Vec<Summary>, TreeError> {
        let longest = self.embedder.info().max_tokens.saturating_sub(2);
        let mut parts = Vec::new();
        for ((key, cluster), text) in texts {
            let headings = crate::builder::common(cluster.iter().map(|entry| entry.headings.as_slice()));
            parts.push((key, self.with_headings(&headings, &text.text, longest)?, text));
        }
        let inputs: Vec<&str> = parts.iter().map(|(_, input, _)| input.as_str()).collect();
        let vectors = self.embedder.embed(&inputs)?;
        let made = parts.iter().zip(vectors).map(|((key, _, text), embedding)| {
            Ok(Summary {
                key: *key,
                text: text.text.clone(),
                method: text.method,
                tokens: self.tokenizer.count(&text.text)?,
                embedding,
                usage: text.usage,
                regenerated: text.regenerated,
                unsupported: text.unsupported.clone(),
                facts: text.facts,
                facts_left_out: text.facts_left_out,
            })
        });
        made.collect()
    }

    /// What is embedded of a summary: as many of the innermost headings as there is room for, then its text.
    fn with_headings(&self, headings: &[String], text: &str, longest: usize) -> Result<String, TreeError> {
        for from in 0..headings.len() {
            let whole = format!("{}\n\n{text}", headings[from..].join(SEPARATOR));
            if self.embedder.tokenizer().count(&whole)? <= longest {
                return Ok(whole);
            }
        }
        Ok(text.to_owned())
    }
}

/// The next cluster that no thread has taken.
fn take<'c, T>(next: &AtomicUsize, clusters: &'c [T]) -> Option<(usize, &'c T)> {
    let at = next.fetch_add(1, Ordering::SeqCst);
    Some((at, clusters.get(at)?))
}
