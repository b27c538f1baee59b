#![allow(clippy::unwrap_used)]

use std::{fmt::Write as _, fs, path::Path};

use edgewise_planner::{Router, RouterReading};
use edgewise_test_support::HashEmbedder;

use super::*;

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _done: usize, _total: usize) {}
    fn answered(&self, _done: usize, _total: usize) {}
}

/// Eight documents. Questions that ask why are answered from the full document only, others from passages only; the
/// second model answers everything alike.
fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("docs/town")).unwrap();
    let (mut queries, mut scores) = (String::new(), "id,model,full_f1,rag_f1,full_recall,rag_recall\n".to_owned());
    for document in 0..8 {
        let mut text = String::new();
        for n in 0..12 {
            let _ = writeln!(text, "In the town {document} the bridge {n} was built of stone by a mason.\n");
        }
        fs::write(folder.path().join(format!("docs/town/{document}.txt")), text).unwrap();
        for n in 0..4 {
            let why = n % 2 == 0;
            let (level, question) = match why {
                true => ("reasoning", format!("Why did the mason of town {document} build the bridge {n}?")),
                false => ("location", format!("Who built the bridge {n} of town {document}?")),
            };
            let id = format!("q{document}-{n}");
            let _ = writeln!(
                queries,
                "{{\"id\":\"{id}\",\"doc_type\":\"town\",\"level\":\"{level}\",\"file\":\"{document}.txt\",\"question\":\"{question}\"}}"
            );
            let (full, passages) = if why { (0.9, 0.4) } else { (0.5, 0.8) };
            let _ = writeln!(scores, "{id},split,{full},{passages},{full},{passages}");
            let _ = writeln!(scores, "{id},alike,0.5,0.5,0.5,0.5");
        }
    }
    scores.push_str("nobody,split,1,1,1,1\n");
    fs::write(folder.path().join("queries.jsonl"), queries).unwrap();
    fs::write(folder.path().join("scores.csv"), scores).unwrap();
    folder
}

fn options() -> RoutingOptions {
    RoutingOptions {
        profile: IndexProfile::default(),
        kinds: KindQuestions::default(),
        share: 0.5,
        lexical_only: false,
        bootstrap: Bootstrap { resamples: 200, ..Bootstrap::default() },
    }
}

#[test]
fn what_can_be_learned_is_learned_and_used_on_documents_never_seen() {
    let folder = made();
    let set = RoutingSet::load(folder.path()).unwrap();
    assert_eq!((set.documents.len(), set.questions.len(), set.models.len(), set.unknown_ids), (8, 32, 2, 1));
    let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::new());
    let options = options();
    let routing = Routing::measure(&set, &embedder, &options, &Quiet).unwrap();
    let report = routing.evaluate(&Quiet);
    let of = |name: &str| report.replay.models.iter().find(|model| model.model == name).unwrap();
    let split = of("split");
    assert!(
        (split.full - 0.7).abs() < 1e-9 && (split.passages - 0.6).abs() < 1e-9 && (split.oracle - 0.85).abs() < 1e-9
    );
    assert!(split.ours.recall.mean > 0.8, "{split:?}");
    assert!(split.ours.over_better.low > 0.0 && split.ours.share <= 0.55, "{split:?}");
    let alike = of("alike");
    assert_eq!((alike.ours.recall.mean, alike.ours.over_better.mean), (0.5, 0.0));
    assert_eq!(report, routing.evaluate(&Quiet), "equal data give equal figures");
    assert!(report.kinds.accuracy > 0.9, "{:?}", report.kinds);

    // The picture has all that it should show.
    let picture = routing_curve(&report.replay);
    for label in ["always passages", "always full", "oracle", "ours, at most half"] {
        assert!(picture.contains(label), "{label}");
    }

    // Without an embedder the question alone says as much here.
    let lexical = RoutingOptions { lexical_only: true, ..options.clone() };
    let blind = Routing::measure(&set, &embedder, &lexical, &Quiet).unwrap();
    let names = RouterInput::names();
    for name in ["top_cosine", "cosine_gap", "gap", "entropy", "arm_overlap"] {
        let at = names.iter().position(|known| known == name).unwrap();
        assert!(blind.shapes.inputs.iter().all(|input| input.dense[at] == 0.0), "{name}");
    }
    assert!(blind.evaluate(&Quiet).replay.models[1].ours.recall.mean > 0.8);

    // What is fitted on everything is a router that the planner takes, and says the same.
    let file = routing.train(&report, "2026-01-02", "edgewise eval routing --data made");
    assert!(file.provenance.figures["recall_ours"] > 0.6 && file.provenance.data.len() == 2);
    let text = serde_json::to_string(&file).unwrap();
    let router = Router::parse(&text, "trained").unwrap();
    let read = |at: usize, model: &str| -> RouterReading {
        let input = routing.shapes.inputs[at].clone();
        let kinds = router.kinds(&input);
        router.read(&input.with_kinds(&kinds), model)
    };
    let (why, who) = (read(0, "split"), read(1, "split"));
    assert!(why.gain > 0.1 && who.gain < 0.0 && why.full_better > who.full_better, "{why:?} {who:?}");
    assert!(read(0, "alike").gain.abs() < why.gain);
    assert!(why.trust > 0.8, "{why:?}");
}

#[test]
fn files_that_are_wrong_are_named() {
    let change = |file: &str, from: &str, to: &str| {
        let folder = made();
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        RoutingSet::load(folder.path()).map(|set| set.unscored).map_err(|error| error.to_string())
    };
    for (file, from, to, expected) in [
        ("scores.csv", "id,model", "id,name", "line 1: expected the header"),
        ("scores.csv", "0.9,0.4,0.9,0.4", "0.9,0.4,0.9", "line 2: expected four numbers"),
        ("scores.csv", "0.9,0.4,0.9,0.4", "0.9,0.4,0.9,1.4", "line 2: expected four numbers"),
        ("scores.csv", "q0-0,alike", "q0-0,split", "two lines"),
        ("queries.jsonl", "q0-1", "q0-0", "twice"),
        ("queries.jsonl", "\"file\":\"0.txt\"", "\"file\":\"none.txt\"", "none.txt"),
        ("queries.jsonl", "\"question\"", "\"query\"", "line 1"),
    ] {
        let error = change(file, from, to).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(change("scores.csv", "q0-0,alike", "qx,alike"), Ok(1), "a question without all scores is left out");
    assert!(matches!(RoutingSet::load(Path::new("/nowhere")), Err(EvaluationError::Read { .. })));
}

#[test]
fn questions_of_known_kinds_are_read_in_several_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.jsonl");
    let lines = [
        r#"{"text": "one"}"#,
        r#"{"question": "two", "metadata": {"type": "comparison"}}"#,
        r#"{"questions": [{"question_text": "three"}, {"question_text": "one"}, {"text": "four"}]}"#,
        r#"{"question": "five", "kind": "global", "group": "form"}"#,
    ];
    fs::write(&path, lines.join("\n")).unwrap();
    let (fact, hops) = (QuestionKind::LocalFact, QuestionKind::MultiHop);
    let file = KindOfFile { first: Some(fact), others: Some(hops) };
    let mut kinds = KindQuestions::default();
    kinds.add(file, &path).unwrap();
    let found: Vec<_> = kinds.questions.iter().map(|q| (q.text.as_str(), q.kind, q.group.as_str())).collect();
    let expected = [
        ("one", fact, "line 1"),
        ("two", QuestionKind::Comparison, "line 2"),
        ("three", fact, "line 3"),
        ("four", hops, "line 3"),
        ("five", QuestionKind::Global, "form"),
    ];
    assert_eq!(found, expected);
    assert_eq!(kinds.digests.len(), 1);
    let error = KindQuestions::default().add(KindOfFile::default(), &path).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("global=FILE"), "{error}");
    fs::write(&path, "{").unwrap();
    assert!(kinds.add(file, &path).unwrap_err().to_string().contains("line 1"));
}

#[test]
fn groups_are_left_out_together_and_the_shipped_questions_can_be_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/question_kinds.jsonl");
    let mut kinds = KindQuestions::default();
    kinds.add(KindOfFile::default(), &path).unwrap();
    let labelled = labelled(&kinds);
    assert_eq!(labelled.len(), kinds.questions.len());
    for (question, labelled) in kinds.questions.iter().zip(&labelled) {
        let same = |other: &&KindQuestion| other.group == question.group;
        let first = kinds.questions.iter().position(|other| same(&other)).unwrap();
        assert_eq!(labelled.group % KIND_PARTS, super::labelled(&kinds)[first].group % KIND_PARTS, "{question:?}");
    }
}
