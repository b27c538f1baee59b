//! Whether a summary keeps to its members: by the names, numbers and dates in it.
//!
//! This finds what was made up or got wrong among facts that have a form of their own. It does not find a right name in a
//! wrong relation, and it takes no view on any other word.

use std::collections::BTreeSet;

use edgewise_text::{FactIndex, FactKind, facts};

use crate::MemberText;

/// What the members of a node hold.
#[derive(Debug)]
pub(crate) struct Ground {
    index: FactIndex,
    facts: BTreeSet<(FactKind, String)>,
    /// One fact a key, to look up in summaries.
    all: Vec<edgewise_text::Fact>,
}

impl Ground {
    pub(crate) fn new(title: &str, members: &[MemberText<'_>]) -> Self {
        let mut ground = Self { index: FactIndex::default(), facts: BTreeSet::new(), all: Vec::new() };
        ground.index.add(title);
        for member in members {
            member.headings.iter().for_each(|heading| ground.index.add(heading));
            ground.index.add(member.text);
            for fact in facts(member.text) {
                if ground.facts.insert((fact.kind, fact.key.clone())) {
                    ground.all.push(fact);
                }
            }
        }
        ground
    }

    /// Facts of `text`, as it writes them, that no member holds; each once, in order.
    pub(crate) fn unsupported(&self, text: &str) -> Vec<String> {
        let mut seen = BTreeSet::new();
        facts(text)
            .into_iter()
            .filter(|fact| !self.index.holds(fact))
            .map(|fact| text[fact.span.start..fact.span.end].to_owned())
            .filter(|written| seen.insert(written.clone()))
            .collect()
    }

    /// Different facts of the members, and how many of them `text` leaves out.
    pub(crate) fn left_out(&self, text: &str) -> (u32, u32) {
        let mut index = FactIndex::default();
        index.add(text);
        let out = self.all.iter().filter(|fact| !index.holds(fact)).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (count(self.all.len()), count(out))
    }
}
