//! The route `tree`: summaries beside passages.
//!
//! What is placed comes from one search over chunks and summaries ([`Collection::search_tree`]), with as much said of the
//! whole as the question's kind asks for ([`breadth`]). A summary stands in the prompt like a passage, under a heading that
//! says what it is; it is evidence for nothing by itself: citations of it resolve to the chunks it is of (`cite`).
//!
//! Deliberately not here: building trees, and choosing among routes.

use std::sync::Arc;

use edgewise_retrieval::{Collection, Hit, Picked, TreePick, TreeSearchRequest};
use edgewise_types::{ChunkId, Span};

use crate::{
    Drop, KindProbabilities, PlannerError, Query, Route, SourceSummary,
    compose::{SourceKind, SourceText},
    draft::{Draft, Drafter, passage, present},
    place,
};

/// Of the room for sources, this share is asked for: titles take the rest.
const SHARE_FOR_TEXTS: f64 = 0.9;

/// Breadth from which on sources stand in the order of reading, as the whole is told, and below which the best stand at the
/// edges, as evidence is found.
const TELLS_THE_WHOLE: f32 = 0.5;

/// Documents of a summary that are named.
const NAMED_DOCUMENTS: usize = 20;

/// How much of an answer lies in the whole, by kind. Priors: a global question is about all of it by definition; what is
/// compared or put together is said in several places, and its subjects are told from afar; a fact is in one place.
pub fn breadth(kind: &KindProbabilities) -> f32 {
    let breadth = kind.global + 0.5 * kind.comparison + 0.35 * kind.multi_hop + 0.3 * kind.conversation;
    (breadth + 0.1 * kind.local_fact).clamp(0.0, 1.0)
}

/// What the tree holds for a question.
pub(crate) enum Offer {
    /// What to place, best first.
    Picks { picks: Vec<TreePick>, breadth: f32 },
    /// Nothing, and why.
    None(String),
}

/// What a summary in a prompt is of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summarised {
    pub(crate) shown: SourceSummary,
    pub(crate) leaves: Vec<ChunkId>,
}

/// Searches the tree. An outdated one is used only for a caller who asks for it.
pub(crate) fn offer(
    collection: &Collection,
    query: &Query,
    searched: &str,
    kind: &KindProbabilities,
    room: usize,
) -> Result<(Offer, Vec<String>), PlannerError> {
    let standing = collection.tree_standing()?;
    let note = standing.note(collection.name().as_str());
    let forced = query.route == Some(Route::Tree);
    match &note {
        Some(why) if standing.nodes == 0 || !forced => return Ok((Offer::None(why.clone()), Vec::new())),
        _ => {}
    }
    let breadth = breadth(kind);
    let found = collection.search_tree(&TreeSearchRequest {
        breadth,
        documents: query.documents.clone(),
        filter: query.filter.clone(),
        ..TreeSearchRequest::new(searched, ((room as f64 * SHARE_FOR_TEXTS) as usize).max(1))
    })?;
    let picks = found.picks;
    if picks.is_empty() {
        return Ok((Offer::None("no text of the tree fits the room there is for sources".to_owned()), Vec::new()));
    }
    Ok((Offer::Picks { picks, breadth }, if forced { note.into_iter().collect() } else { Vec::new() }))
}

/// A pick as a source; `None` if it was deleted meanwhile.
pub(crate) fn source(
    collection: &Collection,
    pick: &TreePick,
    rank: usize,
) -> Result<Option<SourceText>, PlannerError> {
    let node = match &pick.picked {
        Picked::Chunk { chunk } => {
            let hit = Hit {
                chunk: chunk.clone(),
                title: pick.title.clone(),
                uri: pick.uri.clone(),
                score: pick.score,
                rerank: None,
                lexical: pick.lexical,
                vector: pick.vector,
            };
            return Ok(Some(passage(rank, &hit)));
        }
        Picked::Node { node, .. } => *node,
    };
    let (Some(first), Some(document)) = (pick.leaves.first(), pick.documents.first()) else { return Ok(None) };
    let one = pick.documents.len() == 1;
    let last = if one { pick.leaves.last() } else { None };
    let ends = collection.chunks(&[*first, *last.unwrap_or(first)])?;
    let (Some(start), Some(end)) = (ends.first(), ends.last()) else { return Ok(None) };
    let Some(described) = present(collection.document(document))? else { return Ok(None) };
    let parts = |n: usize, noun: &str| if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") };
    let (title, heading_path) = if one {
        (described.title, vec![format!("summary of {}", parts(pick.leaves.len(), "passage"))])
    } else {
        (format!("Summary of {}", parts(pick.documents.len(), "document")), Vec::new())
    };
    Ok(Some(SourceText {
        document: document.clone(),
        uri: described.uri,
        title,
        heading_path,
        span: Span::new(start.span.start, end.span.end.max(start.span.end)),
        text: pick.text.as_str().into(),
        score: Some(pick.score),
        rank,
        passages: 0,
        summary: Some(Arc::new(Summarised {
            shown: SourceSummary {
                node,
                level: pick.level,
                passages: pick.leaves.len(),
                documents: pick.documents.len(),
                of: pick.documents.iter().take(NAMED_DOCUMENTS).cloned().collect(),
            },
            leaves: pick.leaves.clone(),
        })),
    }))
}

impl Drafter<'_> {
    /// The picks of a tree search, as many as fit, best first.
    pub(crate) fn tree(&self, offer: &Offer) -> Result<Draft, PlannerError> {
        let (picks, breadth) = match offer {
            Offer::Picks { picks, breadth } => (picks, *breadth),
            Offer::None(why) => return Ok(self.refused(Route::Tree, Vec::new(), why)),
        };
        let mut ranked = Vec::with_capacity(picks.len());
        for (rank, pick) in (1..).zip(picks) {
            ranked.extend(source(self.collection, pick, rank)?);
        }
        if ranked.is_empty() {
            return Ok(self.refused(Route::Tree, Vec::new(), "what the tree held was deleted meanwhile"));
        }
        let budget = self.options.passages_budget_tokens;
        let (composed, fitting) = self.fit(SourceKind::Passages, &ranked, budget, |ranked| {
            if breadth < TELLS_THE_WHOLE {
                return place::edges(ranked.len()).into_iter().filter_map(|rank| ranked.get(rank).cloned()).collect();
            }
            let mut ordered = ranked.to_vec();
            ordered.sort_by(|a, b| (&a.uri, a.span, a.rank).cmp(&(&b.uri, b.span, b.rank)));
            ordered
        })?;
        let over = format!("over the budget of {} tokens of passages", self.room(budget));
        let left_out = ranked.iter().skip(fitting).filter(|_| composed.is_ok());
        let dropped = left_out.map(|source| Drop {
            document: source.document.clone(),
            uri: source.uri.clone(),
            span: Some(source.span),
            reason: over.clone(),
        });
        Ok(Draft { route: Route::Tree, dropped: dropped.collect(), composed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breadth_follows_the_kind() {
        let of = |values| breadth(&KindProbabilities::of(values));
        let (local, hops, compared, whole) =
            (of([1., 0., 0., 0., 0.]), of([0., 1., 0., 0., 0.]), of([0., 0., 1., 0., 0.]), of([0., 0., 0., 1., 0.]));
        assert!(local < hops && hops < compared && compared < whole);
        assert_eq!(whole, 1.0);
    }
}
