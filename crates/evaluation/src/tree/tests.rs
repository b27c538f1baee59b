//! Small collections on scripted models.

#![allow(clippy::unwrap_used)]

use super::*;
use edgewise_retrieval::Silent;
use edgewise_test_support::{HashEmbedder, WordTokenizer};

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _: usize, _: usize) {}
    fn answered(&self, _: usize, _: usize) {}
}

/// A story whose every part tells of another town, and answers that need all of them.
fn stories() -> Vec<Story> {
    let towns = ["Aster", "Birch", "Cedar", "Dogwood", "Elder", "Fir", "Gorse", "Hazel"];
    let part = |story: usize, town: &str| {
        let filler = "The road was long and the weather changed every day while the wagons rolled on. ".repeat(6);
        format!("The company of wagon {story} came to {town} and traded salt there. {filler}")
    };
    let story = |n: usize| {
        let text = towns.iter().map(|town| part(n, town)).collect::<Vec<_>>().join("\n\n");
        let plot = format!("The company travels through {}.", towns.join(", "));
        let question = |about, text: &str, answer: &str| StoryQuestion {
            about,
            text: text.to_owned(),
            references: vec![answer.to_owned()],
        };
        let questions = vec![
            question(About::Plot, "What is the plot of the story?", &plot),
            question(About::Specific, "What did they trade in Cedar?", "They traded salt in Cedar."),
        ];
        Story { id: n.to_string(), text, questions }
    };
    (0..4).map(story).collect()
}

fn models() -> (Arc<dyn Embedder>, Arc<dyn Tokenizer>) {
    (Arc::new(HashEmbedder::with_dimension(64)), Arc::new(WordTokenizer::new()))
}

fn options() -> TreeOptions {
    TreeOptions {
        profile: IndexProfile::default(),
        build: TreeBuildOptions::extractive(100),
        budgets: vec![120, 400],
        systems: vec![
            TreeSystem::Tree { search: TreeMode::Collapsed, breadth: None },
            TreeSystem::Tree { search: TreeMode::Collapsed, breadth: Some(0.0) },
        ],
        folder: None,
        twice: true,
        bootstrap: Bootstrap { resamples: 50, ..Bootstrap::default() },
    }
}

#[test]
fn contexts_keep_to_their_budget_and_two_builds_are_equal() {
    let (embedder, tokenizer) = models();
    let report = evaluate_tree(&stories(), &embedder, &tokenizer, &options(), &Quiet).unwrap();
    assert_eq!((report.stories, report.questions[&About::Plot], report.figures.len()), (4, 4, 12));
    for figures in &report.figures {
        assert!(figures.tokens > 0.0 && figures.tokens <= figures.budget as f64, "{figures:?}");
        let flat = figures.system == TreeSystem::Flat;
        assert!(!flat || figures.summaries == 0.0, "{figures:?}");
        for compared in figures.recall.values() {
            assert!((0.0..=1.0 + 1e-6).contains(&compared.value.mean), "{figures:?}");
            assert!(!flat || compared.difference.mean == 0.0);
        }
    }
    let recall = |budget: usize| {
        let of = |figures: &&TreeFigures| figures.budget == budget && figures.system == TreeSystem::Flat;
        report.figures.iter().find(of).unwrap().recall["rouge_1"].value.mean
    };
    assert!(recall(400) > recall(120), "more context holds more");
    let twice = report.twice.unwrap();
    assert!(twice.equal && twice.nodes[0] > 0 && twice.nodes[0] == twice.nodes[1], "{twice:?}");
}

#[test]
fn a_tree_of_other_texts_is_told_apart() {
    let (embedder, tokenizer) = models();
    let nodes = |stories: &[Story]| {
        let profile = IndexProfile::default();
        let making = Making { embedder: &embedder, tokenizer: &tokenizer, profile: &profile, folder: None };
        let library = Library::of("stories", &texts(stories), &making, &Quiet).unwrap();
        library.collection.build_tree(&options().build, &Silent).unwrap();
        library.nodes().unwrap()
    };
    let mut changed = stories();
    changed[0].text = changed[0].text.replace("Cedar", "Chestnut");
    let (before, after) = (nodes(&stories()), nodes(&changed));
    assert_ne!(before, after);
    assert!(before.keys().any(|id| after.contains_key(id)), "the trees of the other stories stay as they are");
}

#[test]
fn an_edit_makes_a_few_summaries_and_upkeep_is_the_same_for_the_same_seed() {
    let (embedder, tokenizer) = models();
    let documents: Vec<(String, String)> =
        stories().into_iter().cycle().take(12).enumerate().map(|(n, story)| (format!("{n}.md"), story.text)).collect();
    let edited = Edited::Documents(&documents);
    let upkeep = UpkeepOptions { edits: 15, documents: 10, seed: 3 };
    let run = || evaluate_upkeep(&edited, &embedder, &tokenizer, &options(), &upkeep, &Quiet).unwrap();
    let report = run();
    assert_eq!(report, run());
    assert_eq!((report.all.edits, report.kinds.values().map(|cost| cost.edits).sum::<usize>()), (15, 15));
    assert!(report.all.made.mean > 0.0 && (report.all.most) < report.rebuilt, "{report:?}");

    let few = UpkeepOptions { documents: 13, ..upkeep };
    let error = evaluate_upkeep(&edited, &embedder, &tokenizer, &options(), &few, &Quiet).unwrap_err();
    assert!(error.to_string().contains("too few"), "{error}");

    let stories = stories();
    let upkeep = UpkeepOptions { edits: 5, documents: 0, seed: 3 };
    let report = evaluate_upkeep(&Edited::Stories(&stories), &embedder, &tokenizer, &options(), &upkeep, &Quiet);
    let report = report.unwrap();
    assert_eq!((report.documents, report.drift.len()), (4, 4));
}
