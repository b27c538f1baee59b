//! What is found, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use edgewise_lexical_index::{Language, LexicalError, LexicalIndex};
use edgewise_types::{ChunkId, Generation};
use proptest::prelude::*;

use super::{config, entry};

fn found(index: &LexicalIndex, text: &str) -> Vec<u64> {
    index.search(text, 100, None).unwrap().into_iter().map(|hit| hit.chunk.0).collect()
}

#[test]
fn questions_find_inflected_words_in_every_field() {
    let folder = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open_or_create(folder.path(), config(Language::English)).unwrap();
    let entries = [
        entry(1, "Ownership", &["Ownership", "Borrowing"], "A reference lets you refer to a value."),
        entry(2, "Ownership", &["Ownership", "Moves"], "Assigning a String moves it."),
        entry(3, "Concurrency", &["Threads"], "Threads run at the same time. Borrowed values must outlive them."),
        entry(4, "Café", &[], "Une boisson."),
    ];
    index.apply(entries, &[], Generation(1)).unwrap();
    assert_eq!(index.len(), 4);
    assert_eq!(found(&index, "How do I borrow?"), [1, 3], "a heading counts more than a body");
    assert_eq!(found(&index, "moving strings"), [2]);
    assert_eq!(found(&index, "cafe"), [4]);
    assert_eq!(found(&index, "What is owned? ownership!"), found(&index, "ownership"));
    assert_eq!(found(&index, "the of and"), Vec::<u64>::new());
    assert_eq!(found(&index, ""), Vec::<u64>::new());
    let hits = index.search("threads borrow", 2, None).unwrap();
    assert_eq!(hits.len(), 2);
    assert!(hits[0].score > hits[1].score && hits[1].score > 0.0);
    let filter = |chunk: ChunkId| chunk != hits[0].chunk;
    assert_eq!(index.search("threads borrow", 1, Some(&filter)).unwrap()[0].chunk, hits[1].chunk);
}

#[test]
fn a_title_is_in_a_question_by_the_weight_of_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open_or_create(folder.path(), config(Language::English)).unwrap();
    let entries =
        (1..=6).map(|n| entry(n, if n == 1 { "Harbour report" } else { "Report" }, &[], "A report of the year."));
    index.apply(entries, &[], Generation(1)).unwrap();
    let share = |question: &str| index.share_in("Harbour report", question).unwrap();
    assert_eq!(share("Summarise the harbour reports"), 1.0);
    assert!(share("What is in the harbour?") > 0.5, "the rare word names it");
    assert!(share("What are these reports about?") < 0.5, "the common one does not");
    assert_eq!((share("What is this about?"), index.share_in("the of", "the of").unwrap()), (0.0, 0.0));
}

#[test]
fn equal_scores_are_ordered_by_id_whatever_the_segments() {
    let folder = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap();
    for (generation, chunks) in [[9, 2], [5, 7], [1, 8]].into_iter().enumerate() {
        let entries = chunks.map(|chunk| entry(chunk, "", &[], "same words"));
        index.apply(entries, &[], Generation(generation as u64 + 1)).unwrap();
    }
    assert_eq!(found(&index, "words"), [1, 2, 5, 7, 8, 9]);
    let top: Vec<u64> = index.search("words", 3, None).unwrap().iter().map(|hit| hit.chunk.0).collect();
    assert_eq!(top, [1, 2, 5], "the cut at k respects the order too");
}

#[test]
fn a_whole_document_as_a_question_is_answered_by_its_rarest_terms() {
    let folder = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap();
    let common: String = (0..600).map(|n| format!("common{n} ")).collect();
    let entries = [entry(1, "", &[], &common), entry(2, "", &[], &common), entry(3, "", &[], "rare")];
    index.apply(entries, &[], Generation(1)).unwrap();
    assert_eq!(found(&index, &format!("{common} rare"))[..], [1, 2, 3]);
    assert_eq!(index.search(&format!("{common} rare"), 3, None).unwrap().len(), 3);
    let only_rare = |chunk: ChunkId| chunk.0 == 3;
    assert_eq!(index.search(&format!("{common} rare"), 3, Some(&only_rare)).unwrap().len(), 1);
}

#[derive(Debug, Clone)]
struct Update {
    added: Vec<(u64, Vec<&'static str>)>,
    removed: Vec<u64>,
    abandoned: bool,
}

const WORDS: [&str; 5] = ["alpha", "beta", "gamma", "delta", "the"];

fn updates() -> impl Strategy<Value = Vec<Update>> {
    let words = prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..6);
    let update = (prop::collection::vec((0u64..8, words), 0..4), prop::collection::vec(0u64..8, 0..3), 0..4)
        .prop_map(|(added, removed, n)| Update { added, removed, abandoned: n == 0 });
    prop::collection::vec(update, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leaves_what_the_model_holds(updates in updates(), again: bool) {
        let folder = tempfile::tempdir().unwrap();
        let mut model: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        let index = LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap();
        let mut generation = 0;
        for update in &updates {
            let added = || update.added.iter().map(|(chunk, words)| entry(*chunk, "", &[], &words.join(" ")));
            let removed: Vec<ChunkId> = update.removed.iter().map(|chunk| ChunkId(*chunk)).collect();
            if update.abandoned {
                let mut open = index.update().unwrap();
                for entry in added() {
                    open.add(entry).unwrap();
                }
                for chunk in removed {
                    open.remove(chunk).unwrap();
                }
                continue;
            }
            generation += 1;
            for _ in 0..=usize::from(again) {
                index.apply(added(), &removed, Generation(generation)).unwrap();
            }
            for chunk in &update.removed {
                model.remove(chunk);
            }
            model.extend(update.added.iter().cloned());
        }
        let check = |index: &LexicalIndex| {
            assert_eq!(index.generation(), Generation(generation));
            assert_eq!(index.len(), model.len());
            for word in WORDS {
                let hits: BTreeSet<u64> = found(index, word).into_iter().collect();
                let expected: BTreeSet<u64> =
                    model.iter().filter(|(_, words)| words.contains(&word)).map(|(chunk, _)| *chunk).collect();
                assert_eq!(hits, expected, "{word}");
            }
        };
        check(&index);
        drop(index);
        check(&LexicalIndex::open(folder.path(), config(Language::None)).unwrap());
    }

    #[test]
    fn every_text_is_a_valid_query(text in "\\PC{0,60}", syntax in "[a-z:+\\-\"()\\[\\]{}^~*?/\\\\!&|<> ]{0,40}") {
        thread_local! {
            static INDEX: (tempfile::TempDir, LexicalIndex) = {
                let folder = tempfile::tempdir().unwrap();
                let index = LexicalIndex::open_or_create(folder.path(), config(Language::English)).unwrap();
                index.apply([entry(1, "title", &["heading"], "body")], &[], Generation(1)).unwrap();
                (folder, index)
            };
        }
        INDEX.with(|(_, index)| {
            found(index, &text);
            found(index, &syntax);
            assert_eq!(found(index, &format!("{syntax} body {text}")), [1]);
        });
    }
}

/// Hits of every word and of all together, with the bits of their scores.
fn scores(index: &LexicalIndex) -> Vec<Vec<(u64, u32)>> {
    let questions = WORDS.iter().map(|word| (*word).to_owned()).chain([WORDS.join(" ")]);
    let hits = |question: String| index.search(&question, 100, None).unwrap();
    questions.map(|q| hits(q).iter().map(|hit| (hit.chunk.0, hit.score.to_bits())).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn scores_are_those_of_an_index_made_anew(
        updates in updates(), fillers in prop::collection::vec(0usize..60, 8), compact: bool,
    ) {
        // Bodies of very different lengths, so that every removal changes the averages.
        let text = |chunk: u64, words: &[&str]| {
            let filler = "filler ".repeat(fillers[chunk as usize]);
            entry(chunk, words.first().unwrap_or(&""), &["alpha"], &format!("{} {filler}", words.join(" ")))
        };
        let (changed, anew) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let index = LexicalIndex::open_or_create(changed.path(), config(Language::None)).unwrap();
        let mut model: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for (generation, update) in updates.iter().enumerate() {
            let added = update.added.iter().map(|(chunk, words)| text(*chunk, words));
            let removed: Vec<ChunkId> = update.removed.iter().map(|chunk| ChunkId(*chunk)).collect();
            index.apply(added, &removed, Generation(generation as u64 + 1)).unwrap();
            model.retain(|chunk, _| !update.removed.contains(chunk));
            model.extend(update.added.iter().cloned());
            // Asked in between too: what is remembered of segments must not be believed for too long.
            scores(&index);
        }
        if compact {
            index.compact().unwrap();
        }
        let fresh = LexicalIndex::open_or_create(anew.path(), config(Language::None)).unwrap();
        fresh.apply(model.iter().map(|(chunk, words)| text(*chunk, words)), &[], Generation(1)).unwrap();
        prop_assert_eq!(scores(&index), scores(&fresh));
    }
}

#[test]
fn of_a_long_question_the_terms_that_are_rarest_now_count() {
    let folder = tempfile::tempdir().unwrap();
    let index = LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap();
    // 520 words in two chunks each, and one that was in three until all but one were removed.
    let words: String = (0..520).map(|n| format!("word{n} ")).collect();
    let entries = [
        entry(1, "", &[], &words),
        entry(2, "", &[], &words),
        entry(3, "", &[], "rare"),
        entry(4, "", &[], "rare"),
        entry(5, "", &[], "rare"),
    ];
    index.apply(entries, &[], Generation(1)).unwrap();
    assert!(!found(&index, &format!("{words} rare")).contains(&3), "the 512 rarest are others");
    index.apply([], &[ChunkId(4), ChunkId(5)], Generation(2)).unwrap();
    assert!(found(&index, &format!("{words} rare")).contains(&3));
}

#[test]
fn one_process_writes_and_others_read() {
    let folder = tempfile::tempdir().unwrap();
    let open = || LexicalIndex::open(folder.path(), config(Language::None)).unwrap();
    assert!(matches!(LexicalIndex::open(folder.path(), config(Language::None)), Err(LexicalError::Missing { .. })));
    drop(LexicalIndex::open_or_create(folder.path(), config(Language::None)).unwrap());
    let (writer, reader) = (open(), open());
    writer.apply([entry(1, "", &[], "word")], &[], Generation(1)).unwrap();
    assert!(matches!(reader.update().map(drop), Err(LexicalError::Locked { .. })));
    assert_eq!((reader.generation(), found(&reader, "word")), (Generation(0), vec![]));
    reader.refresh().unwrap();
    assert_eq!((reader.generation(), found(&reader, "word")), (Generation(1), vec![1]));
    writer.close().unwrap();
    reader.apply([], &[ChunkId(1)], Generation(2)).unwrap();
    assert!(reader.is_empty());
}
