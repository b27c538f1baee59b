//! What stands beside an index scores as if it stood in it, and changes nothing there.

use std::collections::BTreeMap;

use edgewise_lexical_index::{Beside, Bm25, Language, LexicalEntry, LexicalHit, LexicalIndex};
use edgewise_types::{ChunkId, Generation};
use proptest::prelude::*;

use super::{config, entry};

fn words() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["cat", "dog", "birds", "sing", "the", "Čapek", "42"]), 0..60)
        .prop_map(|words| words.join(" "))
}

fn entries(first: u64) -> impl Strategy<Value = Vec<LexicalEntry>> {
    let one = (words(), prop::collection::vec(words(), 0..3), words());
    prop::collection::vec(one, 1..12).prop_map(move |all| {
        let make = |(at, (title, headings, body)): (usize, (String, Vec<String>, String))| {
            let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
            entry(first + at as u64, &title, &headings, &body)
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

fn by_id(hits: Vec<LexicalHit>, move_by: u64) -> BTreeMap<u64, f32> {
    hits.into_iter().map(|hit| (hit.chunk.0 - move_by, hit.score)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_entry_beside_scores_as_the_same_one_within(
        inside in entries(0), others in entries(2000), question in words(), gone in prop::collection::vec(any::<bool>(), 12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let index = LexicalIndex::open_or_create(folder.path(), config(Language::English)).unwrap();
        index.apply(inside.clone(), &[], Generation(1)).unwrap();
        let within = index.search(&question, 1000, None).unwrap();
        let mut beside = Beside::new(Language::English);
        // Replaced entries, and removed ones, leave no trace.
        for entry in &inside {
            beside.add(&LexicalEntry { chunk: ChunkId(entry.chunk.0 + 1000), body: "cat dog".to_owned(), ..entry.clone() });
            beside.add(&LexicalEntry { chunk: ChunkId(entry.chunk.0 + 1000), ..entry.clone() });
        }
        for _ in 0..20 {
            for entry in &others {
                beside.add(entry);
            }
        }
        for entry in &others {
            prop_assert!(beside.remove(entry.chunk));
            prop_assert!(!beside.remove(entry.chunk));
        }
        prop_assert_eq!(beside.len(), inside.len());
        let search = |filter| beside.search(&index, Bm25::default(), &question, 1000, filter).unwrap();
        let found = search(None);
        prop_assert!(found.is_sorted_by(|a, b| a.score > b.score || (a.score == b.score && a.chunk < b.chunk)));
        let (found, expected) = (by_id(found, 1000), by_id(within.clone(), 0));
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (id, score) in &found {
            prop_assert!((score - expected[id]).abs() <= 1e-4 * score.max(1.0), "{} and {}", score, expected[id]);
        }
        // A filter leaves out what it says, and nothing else.
        let wanted = |chunk: ChunkId| gone.get((chunk.0 - 1000) as usize) != Some(&true);
        let kept = by_id(search(Some(&wanted)), 1000);
        let by_hand: BTreeMap<u64, f32> = found.into_iter().filter(|(id, _)| wanted(ChunkId(id + 1000))).collect();
        prop_assert_eq!(kept, by_hand);
        prop_assert_eq!(index.search(&question, 1000, None).unwrap(), within);
    }
}

#[test]
fn a_word_that_no_chunk_has_still_counts() {
    let folder = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open_or_create(folder.path(), config(Language::English)).unwrap();
    let mut beside = Beside::new(Language::English);
    beside.add(&entry(7, "", &[], "an overview of whales"));
    let search = |beside: &Beside| beside.search(&index, Bm25::default(), "overview", 5, None).unwrap();
    assert_eq!(search(&beside).len(), 1, "beside an empty index");
    index.apply([entry(1, "", &[], "whales sing")], &[], Generation(1)).unwrap();
    let hits = search(&beside);
    assert_eq!(hits.len(), 1);
    assert!(hits[0].score > 0.0 && hits[0].score.is_finite());
    assert!(beside.search(&index, Bm25::default(), "of the", 5, None).unwrap().is_empty());
    beside.remove(ChunkId(7));
    assert!(beside.is_empty() && search(&beside).is_empty());
}
