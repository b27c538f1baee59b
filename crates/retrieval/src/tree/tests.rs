//! What is taken together, on trees of any shape.

use std::collections::{BTreeMap, HashSet};

use edgewise_catalog::{Below, NodeRow, ShapeNode, TreeShape, TreeVersion};
use edgewise_types::ChunkId;
use proptest::prelude::*;

use super::{
    cover::{Terrain, cover},
    select::{Candidate, Choice, select},
    shape::{Shape, Taken},
};

/// Layers of soft clusters over chunks: each node has some of the layer below, and neighbours share members.
#[derive(Debug, Clone)]
struct Wood {
    shape: Shape,
    chunks: Vec<ChunkId>,
    nodes: Vec<NodeRow>,
    tokens: BTreeMap<Below, usize>,
    relevance: BTreeMap<Below, f32>,
}

fn wood() -> impl Strategy<Value = Wood> {
    let costs = prop::collection::vec(1usize..40, 200);
    let relevances = prop::collection::vec(0u32..=100, 200);
    (0usize..40, 2usize..5, 0usize..2, any::<bool>(), costs, relevances).prop_map(
        |(chunks, width, overlap, rooted, costs, relevances)| {
            let chunks: Vec<ChunkId> = (1..=chunks as u64).map(ChunkId).collect();
            let mut layer: Vec<Below> = chunks.iter().copied().map(Below::Chunk).collect();
            let (mut nodes, mut level, mut row) = (Vec::new(), 1, 1);
            while layer.len() > 1 && (rooted || layer.len() > 6) {
                let mut next = Vec::new();
                for at in (0..layer.len()).step_by(width) {
                    let members = layer[at..(at + width + overlap).min(layer.len())].to_vec();
                    nodes.push(ShapeNode { row: NodeRow(row), document: None, level, members });
                    next.push(Below::Node(NodeRow(row)));
                    row += 1;
                }
                layer = next;
                level += 1;
            }
            let rows: Vec<NodeRow> = nodes.iter().map(|node| node.row).collect();
            let items: Vec<Below> =
                chunks.iter().copied().map(Below::Chunk).chain(rows.iter().copied().map(Below::Node)).collect();
            let tokens = items.iter().copied().zip(costs).collect();
            let relevance = items.iter().copied().zip(relevances.iter().map(|r| *r as f32 / 100.0)).collect();
            Wood { shape: TreeShape { version: TreeVersion(1), nodes }.into(), chunks, nodes: rows, tokens, relevance }
        },
    )
}

impl Wood {
    fn below(&self, item: Below) -> HashSet<Below> {
        match item {
            Below::Chunk(_) => HashSet::new(),
            Below::Node(node) => self.shape.below(node),
        }
    }

    fn leaves(&self, item: Below) -> HashSet<ChunkId> {
        let chunk = |item: &Below| if let Below::Chunk(chunk) = item { Some(*chunk) } else { None };
        chunk(&item).into_iter().chain(self.below(item).iter().filter_map(chunk)).collect()
    }

    fn sum(&self, items: &[Below]) -> usize {
        items.iter().map(|item| self.tokens[item]).sum()
    }

    fn unrelated(&self, items: &[Below]) -> bool {
        let set: HashSet<Below> = items.iter().copied().collect();
        set.len() == items.len() && items.iter().all(|item| self.below(*item).is_disjoint(&set))
    }
}

struct Ground<'w>(&'w Wood);

impl Terrain for Ground<'_> {
    type Error = std::convert::Infallible;
    fn tokens(&mut self, items: &[Below]) -> Result<Vec<Option<usize>>, Self::Error> {
        Ok(items.iter().map(|item| self.0.tokens.get(item).copied()).collect())
    }
    fn relevance(&self, item: Below) -> f32 {
        self.0.relevance[&item]
    }
}

proptest! {
    #[test]
    fn nothing_is_taken_with_what_is_above_or_below_it_nor_beyond_the_budget(
        wood in wood(), budget in 0usize..400, tenths in (0u32..=10, 0u32..=10),
    ) {
        let mut candidates: Vec<Candidate> = wood.relevance.iter().map(|(item, relevance)| Candidate {
            item: *item, relevance: *relevance, tokens: wood.tokens[item], vector: Some(vec![*relevance, 1.0 - relevance]),
        }).collect();
        candidates.sort_by(|a, b| b.relevance.total_cmp(&a.relevance).then(a.item.cmp(&b.item)));
        let (breadth, diversity) = (tenths.0 as f32 / 10.0, tenths.1 as f32 / 10.0);
        let choice = Choice { budget, breadth, diversity, allow_ancestors: false };
        let chosen = select(&wood.shape, &candidates, choice, &mut Taken::default(), &[]);
        let items: Vec<Below> = chosen.iter().map(|at| candidates[*at].item).collect();
        prop_assert!(wood.unrelated(&items), "{items:?}");
        prop_assert!(wood.sum(&items) <= budget);
        // Nothing that could still be taken is left: it would not fit, or is related to what was.
        for candidate in &candidates {
            let more: Vec<Below> = items.iter().copied().chain([candidate.item]).collect();
            prop_assert!(!wood.unrelated(&more) || wood.sum(&more) > budget, "{:?} was left", candidate.item);
        }
        if diversity == 0.0 {
            let best = candidates.iter().filter(|c| c.tokens <= budget).map(|c| c.value(breadth)).fold(f32::MIN, f32::max);
            prop_assert!(chosen.first().is_none_or(|at| candidates[*at].value(breadth) == best));
        }
        // Asked for, they may come together, and as many as fit do.
        let all = select(&wood.shape, &candidates, Choice { allow_ancestors: true, ..choice }, &mut Taken::default(), &[]);
        let all: Vec<Below> = all.iter().map(|at| candidates[*at].item).collect();
        prop_assert!(wood.sum(&all) <= budget);
        prop_assert!(candidates.iter().all(|c| all.contains(&c.item) || wood.sum(&all) + c.tokens > budget));
    }

    #[test]
    fn a_cover_leaves_nothing_out_while_the_budget_reaches(wood in wood(), budget in 0usize..400) {
        let served: HashSet<NodeRow> = wood.nodes.iter().copied().collect();
        let tops = wood.shape.highest(&served);
        let Ok(items) = cover(&wood.shape, &served, &tops, &[], budget, &mut Ground(&wood));
        prop_assert!(wood.unrelated(&items), "{items:?}");
        prop_assert!(wood.sum(&items) <= budget);
        let roots: Vec<Below> = tops.into_iter().map(Below::Node).collect();
        let covered: HashSet<ChunkId> = items.iter().flat_map(|item| wood.leaves(*item)).collect();
        let all: HashSet<ChunkId> = roots.iter().flat_map(|item| wood.leaves(*item)).collect();
        if wood.sum(&roots) <= budget {
            // Only a node that is replaced in part gives up chunks, and never all of them.
            prop_assert!(all.is_empty() || !covered.is_empty());
        }
        // What was taken before counts, and nothing else is above or below it.
        for before in wood.tokens.keys().step_by(7).filter(|item| wood.tokens[*item] <= budget) {
            let tops = wood.shape.highest(&served);
            let Ok(items) = cover(&wood.shape, &served, &tops, &[*before], budget, &mut Ground(&wood));
            prop_assert!(wood.sum(&items) <= budget);
            prop_assert!(wood.unrelated(&items), "{items:?} beside {before:?}");
            prop_assert!(matches!(before, Below::Node(_)) || items.contains(before), "a chunk that matches stays");
            let Ok(alone) = cover(&wood.shape, &served, &[], &[*before], budget, &mut Ground(&wood));
            prop_assert!(wood.sum(&alone) <= budget && wood.unrelated(&alone));
            let own = wood.leaves(*before);
            prop_assert!(alone.iter().all(|item| wood.leaves(*item).is_subset(&own)), "{alone:?} of {before:?}");
        }
        let everything: Vec<Below> = all.iter().copied().map(Below::Chunk).collect();
        if wood.sum(&wood.tokens.keys().copied().collect::<Vec<_>>()) <= budget {
            prop_assert!(everything.iter().all(|chunk| items.contains(chunk)), "with room for all, chunks are taken");
        }
    }

    #[test]
    fn a_node_is_served_exactly_when_all_its_chunks_are(wood in wood(), gone in 0u64..40) {
        let served = wood.shape.served(|chunk| chunk.0 != gone);
        for node in &wood.nodes {
            let has = wood.leaves(Below::Node(*node)).contains(&ChunkId(gone));
            prop_assert_eq!(served.contains(node), !has);
        }
        for top in wood.shape.highest(&served) {
            prop_assert!(wood.shape.above(Below::Node(top)).is_disjoint(&served));
        }
        prop_assert_eq!(wood.shape.served(|_| true).len(), wood.nodes.len());
        prop_assert!(wood.chunks.iter().all(|chunk| wood.shape.chunks(Below::Chunk(*chunk)) == 1));
    }
}

#[test]
fn detail_speaks_against_summaries_and_breadth_takes_that_back() {
    let summary =
        |breadth| Candidate { item: Below::Node(NodeRow(1)), relevance: 1.0, tokens: 1, vector: None }.value(breadth);
    let chunk = Candidate { item: Below::Chunk(ChunkId(1)), relevance: 0.7, tokens: 1, vector: None };
    assert!(summary(0.0) < chunk.value(0.0) && summary(0.5) > chunk.value(0.5));
    assert_eq!((summary(0.5), chunk.value(0.0)), (summary(1.0), chunk.value(1.0)));
}

#[test]
fn a_document_of_which_nothing_is_said_comes_before_the_rest_of_one_that_is() {
    // Ten documents of five chunks, all as much to the point, under a root that three of the chunks were taken of.
    let documents = 10u64;
    let chunk = |document: u64, n: u64| Below::Chunk(ChunkId(10 * document + n));
    let mut nodes: Vec<ShapeNode> = (1..=documents)
        .map(|document| ShapeNode {
            row: NodeRow(document),
            document: None,
            level: 1,
            members: (1..=5).map(|n| chunk(document, n)).collect(),
        })
        .collect();
    let members = (1..=documents).map(|document| Below::Node(NodeRow(document))).collect();
    nodes.push(ShapeNode { row: NodeRow(100), document: None, level: 2, members });
    let rows: Vec<NodeRow> = nodes.iter().map(|node| node.row).collect();
    let chunks: Vec<ChunkId> = (1..=documents).flat_map(|d| (1..=5).map(move |n| ChunkId(10 * d + n))).collect();
    let items = || chunks.iter().copied().map(Below::Chunk).chain(rows.iter().copied().map(Below::Node));
    let wood = Wood {
        tokens: items().map(|item| (item, 10)).collect(),
        relevance: items().map(|item| (item, 1.0)).collect(),
        shape: TreeShape { version: TreeVersion(1), nodes }.into(),
        chunks: chunks.clone(),
        nodes: rows.clone(),
    };
    let served: HashSet<NodeRow> = rows.into_iter().collect();
    let taken = [chunk(1, 1), chunk(2, 1), chunk(3, 1)];
    let Ok(items) = cover(&wood.shape, &served, &[NodeRow(100)], &taken, 100, &mut Ground(&wood));
    let told = |document: u64| {
        let all: HashSet<ChunkId> = (1..=5).map(|n| ChunkId(10 * document + n)).collect();
        items.iter().any(|item| !wood.leaves(*item).is_disjoint(&all))
    };
    assert!((1..=documents).all(told), "{items:?}");
}
