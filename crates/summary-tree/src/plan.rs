//! What a build would take, before anything of it runs.
//!
//! The same layers are clustered as by a build, and summaries are looked up as by a build; one that is not there is not made
//! but stood in for by the mean of its members' vectors. So everything is exact up to the first summary that is missing, in
//! particular all of the lowest layer, and expected above it. No summariser and no embedder is called.

use edgewise_types::{Member, TreeScope};

use crate::{
    DocumentLeaves, Effort, RootMember, TreeBuilder, TreeError, TreePart,
    builder::{Entry, Made, Maker, leaves, replaced, root_entry},
};

/// What building one part of a tree would take.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedWork {
    /// Nodes of the part.
    pub nodes: usize,
    /// Summaries that are kept already.
    pub kept: usize,
    /// Summaries that are known to be made: their members' texts are known.
    pub exact: Effort,
    /// Summaries expected above those.
    pub expected: Effort,
    /// The root, for the plan of what stands above it; `None` if there is nothing.
    pub root: Option<PlannedRoot>,
}

impl PlannedWork {
    /// All work together.
    pub fn effort(&self) -> Effort {
        self.exact.plus(self.expected)
    }
}

/// Root of a planned tree.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRoot {
    /// It, or what stands in for it.
    pub root: RootMember,
    /// Whether its text is known.
    pub known: bool,
}

impl TreeBuilder<'_> {
    /// What [`Self::document`] would take.
    ///
    /// # Errors
    /// [`TreeError`] of clustering, the store, or the control.
    pub fn plan_document(
        &self,
        document: &DocumentLeaves,
        former: Option<&TreePart>,
    ) -> Result<PlannedWork, TreeError> {
        let scope = TreeScope::Document(document.document.clone());
        let mut planner = Planner::new(self);
        let (part, root) = self.grow(&scope, &document.title, leaves(document), &[], former, &mut planner)?;
        let root = root.map(|root| PlannedRoot {
            known: root.known,
            root: RootMember {
                document: document.document.clone(),
                title: document.title.clone(),
                member: root.member,
                former: former.and_then(|former| former.root).filter(|old| *old != root.member),
                level: root.level,
                text: root.text,
                embedding: root.embedding,
                tokens: root.tokens,
            },
        });
        Ok(planner.work(&part, root))
    }

    /// What [`Self::collection`] would take over these roots.
    ///
    /// # Errors
    /// As [`Self::plan_document`].
    pub fn plan_collection(&self, roots: &[PlannedRoot], former: Option<&TreePart>) -> Result<PlannedWork, TreeError> {
        let entries: Vec<Entry> = roots.iter().map(|planned| root_entry(&planned.root, planned.known)).collect();
        let instead: Vec<(Member, Member)> = replaced(roots.iter().map(|planned| &planned.root));
        let mut planner = Planner::new(self);
        let (part, _) = self.grow(&TreeScope::Collection, "", entries, &instead, former, &mut planner)?;
        Ok(planner.work(&part, None))
    }
}

/// Looks up and counts.
struct Planner<'b, 'a> {
    builder: &'b TreeBuilder<'a>,
    kept: usize,
    exact: Effort,
    expected: Effort,
    /// Keys counted as made already.
    counted: std::collections::HashSet<edgewise_types::SummaryKey>,
}

impl<'b, 'a> Planner<'b, 'a> {
    fn new(builder: &'b TreeBuilder<'a>) -> Self {
        let none = Effort::default();
        Self { builder, kept: 0, exact: none, expected: none, counted: std::collections::HashSet::new() }
    }

    fn work(self, part: &TreePart, root: Option<PlannedRoot>) -> PlannedWork {
        PlannedWork { nodes: part.nodes.len(), kept: self.kept, exact: self.exact, expected: self.expected, root }
    }
}

impl Maker for Planner<'_, '_> {
    fn make(&mut self, _: &TreeScope, title: &str, clusters: &[Vec<&Entry>]) -> Result<Vec<Made>, TreeError> {
        let builder = self.builder;
        let mut found = Vec::with_capacity(clusters.len());
        for members in clusters {
            let key = builder.key(title, members);
            let known = members.iter().all(|member| member.known);
            if known && let Some(summary) = builder.store.get(&key)? {
                self.kept += usize::from(self.counted.insert(key));
                let (text, embedding, tokens) = (summary.text, summary.embedding, summary.tokens);
                found.push(Made { key, text, embedding, tokens, known: true });
                continue;
            }
            let source: usize = members.iter().map(|member| member.tokens).sum();
            let effort = builder.summariser.estimate(source);
            if !known {
                self.expected = self.expected.plus(effort);
            } else if self.counted.insert(key) {
                self.exact = self.exact.plus(effort);
            }
            let mut embedding = vec![0.0; builder.embedder.info().dimension];
            for member in members {
                embedding.iter_mut().zip(&member.embedding).for_each(|(sum, x)| *sum += x);
            }
            let length = embedding.iter().map(|x| x * x).sum::<f32>().sqrt();
            if length > 0.0 {
                embedding.iter_mut().for_each(|x| *x /= length);
            }
            let tokens = builder.summariser.limits().tokens.min(source);
            found.push(Made { key, text: String::new(), embedding, tokens, known: false });
        }
        Ok(found)
    }
}
