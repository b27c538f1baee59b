//! Drafts that continue an earlier prompt: of the conversation so far, or of a first answer that was not enough.
//!
//! Such a draft adds only what the earlier prompt does not hold. A passage inside something placed is not placed again,
//! nor is a document that has been read almost whole. Nothing new to add is a draft too: the question alone.
//!
//! Invariant: what retrieval brought up is in the prompt already, added, or a reported drop.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use edgewise_retrieval::{Hit, Picked, TreePick};
use edgewise_types::{Document, DocumentId, NodeId, Span};

use crate::{
    Drop, Features, PlannerError, ReadingProfile, Route,
    compose::{SourceKind, Step},
    draft::{self, Draft, Drafter},
    features::Scope,
    limits::Limits,
    select,
    tree::Offer,
};

/// Share of a document that may be missing in the prompt for it to count as read: titles and blank lines, which no
/// passage holds.
const UNREAD_SHARE: f64 = 0.1;

/// What a question is planned from.
pub(crate) struct Material {
    pub(crate) limits: Limits,
    pub(crate) scope: Scope,
    /// The documents of the scope, where it is not the whole collection.
    pub(crate) only: Option<Vec<Document>>,
    pub(crate) hits: Vec<Hit>,
    pub(crate) features: Features,
    pub(crate) top_k: usize,
    /// What the summary tree holds for it.
    pub(crate) tree: Offer,
    /// How the model reads, if it was measured.
    pub(crate) profile: Option<Arc<ReadingProfile>>,
}

impl Material {
    /// The hits worth placing, with their ranks.
    fn kept(&self, floor: f32) -> Vec<(usize, &Hit)> {
        select::passages(&self.hits, &self.features, self.top_k, floor).0
    }
}

/// The draft of `route` by `drafter`, whose composer holds nothing before.
pub(crate) fn fresh(drafter: &Drafter<'_>, route: Route, material: &Material) -> Result<Draft, PlannerError> {
    let kept = || material.kept(drafter.options.score_floor);
    match route {
        Route::Passages => drafter.passages(&material.hits, &material.features, material.top_k),
        Route::Tree => drafter.tree(&material.tree),
        Route::Documents => drafter.documents(&material.hits, &kept()),
        Route::Full => drafter.full(material.scope, material.only.as_deref(), &kept()),
    }
}

/// Which parts of documents a prompt holds, and which summaries.
pub(crate) struct Placed(HashMap<DocumentId, Vec<Span>>, HashSet<NodeId>);

impl Placed {
    pub(crate) fn of(steps: &[Step]) -> Self {
        let mut placed: HashMap<DocumentId, Vec<Span>> = HashMap::new();
        let mut summaries = HashSet::new();
        for (_, source) in steps.iter().flat_map(|step| &step.sources) {
            match &source.summary {
                // What it is of has not been read.
                Some(summary) => drop(summaries.insert(summary.shown.node)),
                None => placed.entry(source.document.clone()).or_default().push(source.span),
            }
        }
        for spans in placed.values_mut() {
            spans.sort_unstable();
        }
        Self(placed, summaries)
    }

    fn holds(&self, document: &DocumentId, span: Span) -> bool {
        self.0.get(document).is_some_and(|spans| spans.iter().any(|placed| placed.contains(span)))
    }

    fn holds_pick(&self, pick: &TreePick) -> bool {
        match &pick.picked {
            Picked::Chunk { chunk } => self.holds(&chunk.document, chunk.span),
            Picked::Node { node, .. } => self.1.contains(node),
        }
    }

    /// Whether all but little of a document is in the prompt.
    fn has_read(&self, document: &Document) -> bool {
        let Some(spans) = self.0.get(&document.id) else { return false };
        let (mut read, mut end) = (0, 0);
        for span in spans {
            read += span.end.saturating_sub(span.start.max(end));
            end = end.max(span.end);
        }
        (document.text_bytes.saturating_sub(read)) as f64 <= UNREAD_SHARE * document.text_bytes as f64
    }
}

/// The draft of `route` by `drafter`, whose composer holds the steps that `placed` was made from.
pub(crate) fn draft(
    drafter: &Drafter<'_>,
    route: Route,
    material: &Material,
    placed: &Placed,
) -> Result<Draft, PlannerError> {
    match route {
        Route::Passages => passages(drafter, material, placed),
        Route::Tree => tree(drafter, material, placed),
        Route::Documents => documents(drafter, material, placed),
        Route::Full => full(drafter, material, placed),
    }
}

fn passages(drafter: &Drafter<'_>, material: &Material, placed: &Placed) -> Result<Draft, PlannerError> {
    let Material { hits, features, top_k, .. } = material;
    let (kept, mut dropped) = select::passages(hits, features, *top_k, drafter.options.score_floor);
    let new: Vec<(usize, &Hit)> =
        kept.into_iter().filter(|(_, hit)| !placed.holds(&hit.chunk.document, hit.chunk.span)).collect();
    if new.is_empty() {
        return nothing_new(drafter, Route::Passages, dropped);
    }
    let ranks: Vec<usize> = new.iter().map(|(rank, _)| *rank).collect();
    let new: Vec<Hit> = new.into_iter().map(|(_, hit)| hit.clone()).collect();
    let mut draft = drafter.passages(&new, features, *top_k)?;
    if let Ok(composed) = &mut draft.composed {
        let added = composed.source_tokens.len();
        for source in composed.sources.iter_mut().rev().take(added) {
            // Ranked among the new ones; told among all.
            source.rank = source.rank.checked_sub(1).and_then(|at| ranks.get(at)).copied().unwrap_or(source.rank);
        }
    }
    draft.dropped.append(&mut dropped);
    Ok(draft)
}

fn tree(drafter: &Drafter<'_>, material: &Material, placed: &Placed) -> Result<Draft, PlannerError> {
    let Offer::Picks { picks, breadth } = &material.tree else { return drafter.tree(&material.tree) };
    let picks: Vec<TreePick> = picks.iter().filter(|pick| !placed.holds_pick(pick)).cloned().collect();
    if picks.is_empty() {
        return nothing_new(drafter, Route::Tree, Vec::new());
    }
    drafter.tree(&Offer::Picks { picks, breadth: *breadth })
}

fn documents(drafter: &Drafter<'_>, material: &Material, placed: &Placed) -> Result<Draft, PlannerError> {
    let mut read: HashMap<&DocumentId, bool> = HashMap::new();
    for hit in &material.hits {
        let id = &hit.chunk.document;
        if !read.contains_key(id) {
            let document = draft::present(drafter.collection.document(id))?;
            read.insert(id, document.is_some_and(|document| placed.has_read(&document)));
        }
    }
    let new: Vec<Hit> =
        material.hits.iter().filter(|hit| !read.get(&hit.chunk.document).copied().unwrap_or(false)).cloned().collect();
    if new.is_empty() {
        nothing_new(drafter, Route::Documents, Vec::new())
    } else {
        drafter.documents(&new, &material.kept(drafter.options.score_floor))
    }
}

fn full(drafter: &Drafter<'_>, material: &Material, placed: &Placed) -> Result<Draft, PlannerError> {
    let Material { scope, only, limits, .. } = material;
    let mut read = Vec::new();
    for id in placed.0.keys() {
        read.extend(draft::present(drafter.collection.document(id))?.filter(|document| placed.has_read(document)));
    }
    let left = Scope {
        documents: scope.documents.saturating_sub(read.len()),
        tokens: scope.tokens.saturating_sub(read.iter().map(|document| document.tokens).sum()),
    };
    if left.documents == 0 {
        return nothing_new(drafter, Route::Full, Vec::new());
    }
    if limits.refuse_unloaded(drafter.base_tokens + left.tokens, "the rest of the scope").is_some() {
        // Refused there as well, with the same reason and without reading a document.
        return drafter.full(left, Some(&[]), &[]);
    }
    let mut new = match only {
        Some(documents) => documents.clone(),
        None => drafter.every_document()?,
    };
    new.retain(|document| !read.iter().any(|known| known.id == document.id));
    drafter.full(left, Some(&new), &material.kept(drafter.options.score_floor))
}

/// The question alone, behind what the prompt holds already.
fn nothing_new(drafter: &Drafter<'_>, route: Route, dropped: Vec<Drop>) -> Result<Draft, PlannerError> {
    let kind = match route {
        Route::Passages | Route::Tree => SourceKind::Passages,
        Route::Documents | Route::Full => SourceKind::Documents,
    };
    let composed = drafter.composer.compose(kind, &[])?;
    let refusal = drafter.limits.refuse_input(&composed.prompt, "the conversation with this question");
    Ok(Draft { route, composed: refusal.map_or(Ok(composed), Err), dropped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::SourceText;

    fn step(document: &str, start: usize, end: usize) -> Step {
        let source = SourceText {
            document: DocumentId::from_uri(document),
            uri: document.to_owned(),
            title: document.to_owned(),
            heading_path: Vec::new(),
            span: Span::new(start, end),
            text: "text".into(),
            score: None,
            rank: 1,
            passages: 1,
            summary: None,
        };
        Step {
            turn: 1,
            sources: vec![(SourceKind::Passages, source)],
            recap: None,
            question: "Why?".to_owned(),
            answer: "Because.".to_owned(),
        }
    }

    #[test]
    fn a_passage_inside_another_is_placed_and_one_beside_it_is_not() {
        let placed = Placed::of(&[step("a.md", 100, 200), step("a.md", 300, 400)]);
        let id = DocumentId::from_uri("a.md");
        for (start, end, holds) in [(100, 200, true), (120, 180, true), (150, 250, false), (200, 300, false)] {
            assert_eq!(placed.holds(&id, Span::new(start, end)), holds, "{start}..{end}");
        }
        assert!(!placed.holds(&DocumentId::from_uri("b.md"), Span::new(100, 200)));
    }
}
