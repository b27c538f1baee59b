//! Whole trees: determinism, upkeep, interruption, plans.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use common::{Memory, Stopping, builder, document, words};
use edgewise_summary_tree::{
    Control, DocumentLeaves, Extractive, ExtractiveOptions, Halt, Node, RootMember, Summariser, SummaryLimits,
    TreeError, TreePart, Unattended,
};
use edgewise_test_support::HashEmbedder;
use edgewise_types::{DocumentId, Member};
use proptest::prelude::*;

/// What must hold of every part.
fn sound(part: &TreePart, base: &[Member]) {
    let nodes: BTreeMap<Member, &Node> = part.nodes.iter().map(|node| (Member::Node(node.id), node)).collect();
    assert_eq!(nodes.len(), part.nodes.len(), "ids are unique");
    let Some(root) = part.root else {
        assert!(base.is_empty() && part.nodes.is_empty());
        return;
    };
    let mut reached: BTreeSet<Member> = BTreeSet::new();
    let mut open = vec![root];
    while let Some(member) = open.pop() {
        if reached.insert(member)
            && let Some(node) = nodes.get(&member)
        {
            assert!(node.members.len() >= 2, "{node:?}");
            let distinct: HashSet<&Member> = node.members.iter().collect();
            assert_eq!(distinct.len(), node.members.len());
            let below = node.members.iter().filter_map(|member| nodes.get(member)).map(|node| node.level).max();
            assert!(node.level > below.unwrap_or(0));
            open.extend(&node.members);
        }
    }
    for member in base {
        assert!(reached.contains(member), "{member:?} is not below the root");
    }
    assert!(nodes.keys().all(|node| reached.contains(node)), "a node is not below the root");
    let known = |member: &Member| nodes.contains_key(member) || base.contains(member);
    assert!(reached.iter().all(known), "a member is of no one");
}

fn base(document: &DocumentLeaves) -> Vec<Member> {
    document.leaves.iter().map(|leaf| Member::Leaf(leaf.id)).collect()
}

fn build(document: &DocumentLeaves, former: Option<&TreePart>, store: &Memory) -> Result<TreePart, TreeError> {
    let (embedder, summariser) = (HashEmbedder::new(), Extractive::default());
    builder(&embedder, &summariser, store, &Unattended).document(document, former)
}

#[test]
fn small_documents_have_small_trees() {
    for n in 0..30 {
        let document = document("small", n, 3);
        let store = Memory::default();
        let part = build(&document, None, &store).unwrap();
        sound(&part, &base(&document));
        match n {
            0 => assert_eq!(part, TreePart::default()),
            1 => assert_eq!((part.nodes.len(), part.root), (0, Some(base(&document)[0]))),
            2..=6 => assert_eq!(part.nodes.len(), 1, "{n}"),
            _ => assert!(part.nodes.len() < n),
        }
    }
}

#[test]
fn two_builds_are_equal_and_the_second_makes_nothing() {
    let document = document("a", 150, 1);
    let (one, two) = (Memory::default(), Memory::default());
    let first = build(&document, None, &one).unwrap();
    assert_eq!(first, build(&document, None, &two).unwrap());
    assert_eq!(one.all(), two.all());
    let puts = one.puts();
    assert_eq!(first, build(&document, None, &one).unwrap());
    assert_eq!(one.puts(), puts);
    assert!(first.nodes.iter().map(|node| node.level).max().unwrap() >= 2);
}

#[test]
fn a_build_ended_at_any_step_goes_on_and_makes_nothing_twice() {
    let document = document("a", 60, 1);
    let whole = Memory::default();
    let expected = build(&document, None, &whole).unwrap();
    let (embedder, summariser) = (HashEmbedder::new(), common::OneByOne::default());
    let mut steps = 0;
    for after in 0.. {
        let store = Memory::default();
        let stopping = Stopping::after(after);
        let begun = builder(&embedder, &summariser, &store, &stopping).document(&document, None);
        let made = summariser.made();
        let ended = match begun {
            Ok(part) => {
                assert_eq!(part, expected);
                break;
            }
            Err(error) => error,
        };
        assert!(matches!(ended, TreeError::Halted(Halt::Cancelled)), "{ended}");
        let part = builder(&embedder, &summariser, &store, &Unattended).document(&document, None).unwrap();
        assert_eq!(part, expected, "after {after}");
        assert_eq!(made + summariser.made(), whole.puts(), "after {after}");
        assert_eq!(store.puts(), whole.puts());
        steps = after;
    }
    assert!(steps > expected.nodes.len());
}

#[test]
fn a_failing_store_loses_at_most_what_it_refused() {
    let document = document("a", 60, 1);
    let whole = Memory::default();
    let expected = build(&document, None, &whole).unwrap();
    for refused in 0..whole.puts() {
        let store = Memory::failing_at(refused);
        assert!(matches!(build(&document, None, &store), Err(TreeError::Store(_))));
        assert_eq!(store.puts(), refused);
        assert_eq!(build(&document, None, &store).unwrap(), expected);
        assert_eq!(store.puts(), whole.puts());
    }
}

#[test]
fn an_unchanged_document_keeps_its_tree_and_an_edit_changes_its_path_only() {
    let mut document = document("a", 150, 1);
    let store = Memory::default();
    let first = build(&document, None, &store).unwrap();
    let puts = store.puts();
    assert_eq!(build(&document, Some(&first), &store).unwrap(), first);
    assert_eq!(store.puts(), puts);

    let edited = common::leaf("a", 70, &format!("{} It is edited in 1999.", document.leaves[70].text));
    let old = Member::Leaf(document.leaves[70].id);
    document.leaves[70] = edited;
    let second = build(&document, Some(&first), &store).unwrap();
    sound(&second, &base(&document));
    let before: HashSet<_> = first.nodes.iter().map(|node| node.id).collect();
    let after: HashSet<_> = second.nodes.iter().map(|node| node.id).collect();
    let gone: Vec<&Node> = first.nodes.iter().filter(|node| !after.contains(&node.id)).collect();
    let new = second.nodes.iter().filter(|node| !before.contains(&node.id)).count();
    assert!(gone.iter().any(|node| node.members.contains(&old)));
    // The clusters it left, the one it joined, and what stands above these.
    let levels = first.nodes.iter().map(|node| node.level).max().unwrap() as usize;
    assert!(new <= 3 * levels && new < first.nodes.len() / 2, "{new} of {}", first.nodes.len());
    assert!(store.puts() - puts <= new);
}

#[test]
fn many_changes_lead_to_new_clusters() {
    let mut document = document("a", 100, 1);
    let store = Memory::default();
    let mut part = build(&document, None, &store).unwrap();
    let mut anew = 0;
    for edit in 0..60 {
        let at = (edit * 37) % document.leaves.len();
        document.leaves[at] = common::leaf("a", at, &words(1000 + edit, 40));
        let changed = part.changed;
        part = build(&document, Some(&part), &store).unwrap();
        sound(&part, &base(&document));
        anew += usize::from(part.changed <= changed);
        assert!(part.changed <= 30);
    }
    assert!(anew >= 1);
}

#[test]
fn documents_stand_below_one_root_and_keep_their_places() {
    let (embedder, summariser, store) = (HashEmbedder::new(), Extractive::default(), Memory::default());
    let builder = builder(&embedder, &summariser, &store, &Unattended);
    let mut roots: Vec<RootMember> = (0..40)
        .map(|number| {
            let document = document(&format!("doc {number}"), 1 + number % 23, number);
            let part = builder.document(&document, None).unwrap();
            common::root(&document, &part, &store)
        })
        .collect();
    let members = |roots: &[RootMember]| roots.iter().map(|root| root.member).collect::<Vec<_>>();
    let first = builder.collection(&roots, None).unwrap();
    sound(&first, &members(&roots));
    assert_eq!(builder.collection(&roots, Some(&first)).unwrap(), first);
    let document = document("doc 11", 12, 99);
    let part = builder.document(&document, None).unwrap();
    let former = roots[11].member;
    roots[11] = RootMember { former: Some(former), ..common::root(&document, &part, &store) };
    let second = builder.collection(&roots, Some(&first)).unwrap();
    sound(&second, &members(&roots));
    assert_eq!(second.changed, first.changed, "one in the place of another");
    let shape =
        |part: &TreePart| part.nodes.iter().map(|node| (node.level, node.members.len())).collect::<BTreeSet<_>>();
    assert_eq!(shape(&first), shape(&second));
    let removed = roots.remove(3);
    let third = builder.collection(&roots, Some(&second)).unwrap();
    sound(&third, &members(&roots));
    assert!(third.nodes.iter().all(|node| !node.members.contains(&removed.member)));
}

#[test]
fn a_plan_says_what_a_build_then_does() {
    let (embedder, summariser) = (HashEmbedder::new(), common::OneByOne::default());
    let store = Memory::default();
    let mut document = document("a", 150, 1);
    let builder = builder(&embedder, &summariser, &store, &Unattended);
    let plan = builder.plan_document(&document, None).unwrap();
    assert_eq!((plan.kept, summariser.made(), store.puts()), (0, 0, 0));
    let part = builder.document(&document, None).unwrap();
    let lowest = part.nodes.iter().filter(|node| node.level == 1).count();
    assert_eq!(plan.exact.summaries, lowest);
    let made = summariser.made();
    let planned = plan.effort().summaries;
    assert!(planned.abs_diff(made) * 10 <= made * 3, "{planned} planned, {made} made");
    let again = builder.plan_document(&document, Some(&part)).unwrap();
    assert_eq!((again.effort().summaries, again.kept, again.nodes), (0, store.puts(), part.nodes.len()));
    assert!(again.root.unwrap().known);

    document.leaves[20] = common::leaf("a", 20, &words(5000, 40));
    let edit = builder.plan_document(&document, Some(&part)).unwrap();
    builder.document(&document, Some(&part)).unwrap();
    let made = summariser.made();
    let planned = edit.effort().summaries;
    assert!(edit.exact.summaries >= 1 && planned.abs_diff(made) <= 2, "{planned} planned, {made} made");
}

#[test]
fn members_over_every_limit_still_make_a_tree() {
    let limits = SummaryLimits { members: 3, source_tokens: 10, tokens: 40 };
    let summariser = Extractive::new(ExtractiveOptions { limits, ..ExtractiveOptions::default() });
    let (embedder, store) = (HashEmbedder::new(), Memory::default());
    let document = document("a", 40, 1);
    let part = builder(&embedder, &summariser, &store, &Unattended).document(&document, None).unwrap();
    sound(&part, &base(&document));
    let same: Vec<_> = (0..20).map(|_| common::leaf("a", 0, "The same text.")).collect();
    let ids = edgewise_summary_tree::leaf_ids(
        &document.document,
        same.iter().map(|leaf| (leaf.heading_path.as_slice(), leaf.text.as_str())),
    );
    let leaves = same.into_iter().zip(ids).map(|(leaf, id)| edgewise_summary_tree::Leaf { id, ..leaf }).collect();
    let equal = DocumentLeaves { leaves, ..document };
    let part = builder(&embedder, &summariser, &store, &Unattended).document(&equal, None).unwrap();
    sound(&part, &base(&equal));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_edits_leave_a_sound_tree(
        n in 1usize..70,
        edits in prop::collection::vec((0usize..3, any::<prop::sample::Index>(), 0usize..10_000), 1..12),
    ) {
        let mut document = document("a", n, 7);
        let store = Memory::default();
        let mut part = build(&document, None, &store).unwrap();
        for (kind, at, seed) in edits {
            let at = at.index(document.leaves.len().max(1));
            let fresh = common::leaf("a", at, &words(seed + 50_000, 30));
            match kind {
                0 if at < document.leaves.len() => document.leaves[at] = fresh,
                1 if at < document.leaves.len() => { document.leaves.remove(at); }
                _ => document.leaves.insert(at.min(document.leaves.len()), fresh),
            }
            part = build(&document, Some(&part), &store).unwrap();
            sound(&part, &base(&document));
            prop_assert_eq!(&part, &build(&document, Some(&part), &store).unwrap(), "kept up twice");
        }
    }
}

#[test]
fn an_embedding_of_another_embedder_is_refused() {
    let mut document = document("a", 4, 1);
    document.leaves[2].embedding = vec![1.0; 3];
    assert!(matches!(build(&document, None, &Memory::default()), Err(TreeError::Dimension { expected: 64, found: 3 })));
    let _: (&dyn Control, &dyn Summariser) = (&Unattended, &Extractive::default());
    let _ = DocumentId::from_uri("a");
}
