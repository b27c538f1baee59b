use edgewise_test_support::HashEmbedder;

use super::*;

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _done: usize, _total: usize) {}
    fn answered(&self, _done: usize, _total: usize) {}
}

fn question(references: &[Range<usize>]) -> ChunkingQuestion {
    ChunkingQuestion {
        id: "q".to_owned(),
        corpus: "a".to_owned(),
        text: "what?".to_owned(),
        references: references.to_vec(),
    }
}

fn piece(corpus: &str, range: Range<usize>, tokens: usize) -> Piece {
    Piece { corpus: corpus.to_owned(), range, tokens }
}

fn options(k: usize, budget: usize) -> ChunkingOptions {
    ChunkingOptions {
        profile: IndexProfile::default(),
        chunks: Vec::new(),
        k,
        budget,
        lexical_only: false,
        bootstrap: Bootstrap::default(),
    }
}

#[test]
fn measures_by_hand() {
    // Gold: 10 and 20 characters. Hits: half of the first span, the same place in another document, an overlapping chunk.
    let question = question(&[100..110, 200..220]);
    let hits = [piece("a", 105..125, 5), piece("b", 200..220, 5), piece("a", 110..130, 5), piece("a", 190..230, 20)];
    let hits: Vec<&Piece> = hits.iter().collect();
    let three = value(&question, &hits, &options(3, 10));
    assert_eq!(three.recall, 5.0 / 30.0);
    assert_eq!(three.precision, 5.0 / 60.0, "overlapping chunks and other documents count in full");
    assert_eq!(three.iou, 5.0 / (30.0 + 60.0 - 5.0));
    assert_eq!(three.budget_recall, 5.0 / 30.0, "ten tokens: two hits");
    let four = value(&question, &hits, &options(4, 35));
    assert_eq!((four.recall, four.budget_recall), (25.0 / 30.0, 25.0 / 30.0));
    assert_eq!(value(&question, &hits, &options(4, 34)).budget_recall, 5.0 / 30.0, "the fourth no longer fits");
    assert_eq!(
        value(&question, &[], &options(4, 34)),
        Value { recall: 0.0, precision: 0.0, iou: 0.0, budget_recall: 0.0 }
    );
    // The chunks that touch gold: 105..125 and 190..230, 25 characters of gold in 60.
    let omega = precision_omega(&question, hits.iter().copied());
    assert_eq!(omega, 25.0 / 60.0);
    // The same characters twice are covered once.
    let twice = [piece("a", 100..110, 1), piece("a", 100..110, 1)];
    let twice = value(&question, &twice.iter().collect::<Vec<_>>(), &options(5, 9));
    assert_eq!((twice.recall, twice.precision), (10.0 / 30.0, 0.5));
}

#[test]
fn ranges_unite() {
    assert_eq!(union(vec![5..9, 1..3, 3..4, 8..12, 20..20]), [1..4, 5..12]);
    assert_eq!(overlap(&(0..5), &(5..9)), 0);
}

#[test]
fn bytes_of_the_normalised_text_lead_to_code_points_of_the_file() {
    let source = "Cafés \t\r\n\r\n\r\n\r\n\r\nfür  alle.\u{a0}Ja";
    let normalised = edgewise_documents::normalise(source);
    assert_ne!(source, normalised);
    let aligned = Aligned::new(source, &normalised).unwrap();
    let points: Vec<char> = source.chars().collect();
    for word in ["Cafés", "für", "alle.", "Ja", "für  alle."] {
        let at = normalised.find(word).unwrap();
        let range = aligned.range(at..at + word.len());
        assert_eq!(points[range].iter().collect::<String>(), word);
    }
    assert_eq!(aligned.range(0..0), 0..0);
    assert!(Aligned::new("abc", "abd").is_none() && Aligned::new("abc", "ab").is_none());
}

fn write(folder: &Path, questions: &str) {
    fs::create_dir_all(folder.join("corpora")).unwrap();
    let filler = |word: &str| format!("About {word} there is this to say. ").repeat(30);
    let text = format!("{}\n\nÜber: the zebra eats grass.\n\n{}", filler("lions"), filler("hippos"));
    fs::write(folder.join("corpora/zoo.md"), text).unwrap();
    fs::write(folder.join("questions.jsonl"), questions).unwrap();
}

fn line(start: usize, end: usize, content: &str) -> String {
    format!(
        "{{\"_id\":\"1\",\"corpus_id\":\"zoo\",\"question\":\"what does the zebra eat?\",\"references\":[{{\"content\":\"{content}\",\"start_index\":{start},\"end_index\":{end}}}]}}\n"
    )
}

#[test]
fn small_chunks_are_more_precise_and_gold_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let gold = "the zebra eats grass.";
    // After thirty sentences of 34 characters, a blank line, and `Über: `, one byte longer than it has characters.
    let start = 34 * 30 + 2 + 6;
    write(folder.path(), &line(start, start + gold.len(), gold));
    let set = ChunkingSet::load(folder.path(), &[]).unwrap();
    let chunk = |target_tokens| ChunkOptions { max_tokens: 240, target_tokens, overlap_tokens: 0 };
    let options = ChunkingOptions { chunks: vec![chunk(200), chunk(20)], ..options(1, 200) };
    let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::new());
    let report = evaluate_chunking(&set, &embedder, &options, &Quiet).unwrap();
    let (large, small) = (&report.chunkings[0], &report.chunkings[1]);
    assert!(small.chunks >= large.chunks && small.mean_characters <= large.mean_characters);
    assert!(small.precision_omega.mean >= large.precision_omega.mean && large.precision_omega.mean > 0.0);
    let names: Vec<&str> = small.systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!(&names[..2], ["bm25", "vector"]);
    assert_eq!(small.systems[0].recall.mean, 1.0, "{report:?}");
    assert_eq!(large.systems[0].budget_recall_over_first.mean, 0.0);
    assert_eq!(evaluate_chunking(&set, &embedder, &options, &Quiet).unwrap(), report);
    let alone = ChunkingOptions { lexical_only: true, ..options };
    let alone = evaluate_chunking(&set, &embedder, &alone, &Quiet).unwrap();
    assert_eq!(alone.chunkings[1].systems, small.systems[..1]);
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let load = |questions: &str, only: &[&str]| {
        write(folder.path(), questions);
        let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
        ChunkingSet::load(folder.path(), &only).unwrap_err().to_string()
    };
    for (error, expected) in [
        (load(&line(0, 5, "Other"), &[]), "question `1`: characters 0 to 5 of zoo are not its reference"),
        (load(&line(0, 999_999, "About"), &[]), "not its reference"),
        (load(&line(3, 3, ""), &[]), "not its reference"),
        (load(&line(0, 5, "About"), &["farm"]), "no question is about a document `farm`"),
        (load(&line(0, 5, "About").replace("zoo", "farm"), &[]), "farm.md"),
        (load("{}\n", &[]), "questions.jsonl, line 1"),
        (load("", &[]), "no question"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert!(ChunkingSet::load(Path::new("/nowhere"), &[]).unwrap_err().to_string().contains("corpora/<name>.md"));
}
