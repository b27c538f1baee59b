use std::{fmt::Write as _, fs};

use edgewise_documents::IndexProfile;
use edgewise_model_api::Embedder;
use edgewise_retrieval::{Source, SourceContent};
use edgewise_test_support::HashEmbedder;

use super::*;
use crate::scratch::Scratch;

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _done: usize, _total: usize) {}
    fn answered(&self, _done: usize, _total: usize) {}
}

/// Documents of several sections, each about a thing of its own; within a document they share words.
fn collection(documents: usize) -> Scratch {
    let sources = (0..documents).map(|n| {
        let mut text = format!("# Valley {n}\n\n");
        for part in 0..3 {
            let _ = write!(
                text,
                "## Part {part}\n\nThe river{n} runs through valley{n} past mill number{part} in spring. "
            );
            text.push_str("\n\n");
        }
        Source { uri: format!("{n}.md"), content: SourceContent::Bytes(text.into_bytes()), media_type: None }
    });
    let embedder: std::sync::Arc<dyn Embedder> = std::sync::Arc::new(HashEmbedder::new());
    Scratch::of("valleys", sources.collect(), &embedder, &IndexProfile::default(), &Quiet).unwrap()
}

fn weights(weights: &[f32]) -> Vec<Fusion> {
    weights.iter().map(|lexical_weight| Fusion::Convex { lexical_weight: *lexical_weight }).collect()
}

#[test]
fn made_queries_are_sentences_whose_chunk_is_left_out() {
    let scratch = collection(20);
    let queries = Queries::make(&scratch.collection, 50, 7).unwrap();
    assert_eq!(queries.len(), 50);
    assert_eq!(queries, Queries::make(&scratch.collection, 50, 7).unwrap());
    assert_ne!(queries, Queries::make(&scratch.collection, 50, 8).unwrap());
    let owners: HashMap<ChunkId, DocumentId> = scratch.collection.chunk_documents().unwrap().into_iter().collect();
    for query in &queries.queries {
        let own = query.without.unwrap();
        assert!(!query.relevant.contains_key(&chunk_name(own)) && (1..=2).contains(&query.relevant.len()));
        assert!(query.relevant.keys().all(|name| owners[&ChunkId(name.parse().unwrap())] == owners[&own]));
    }
    let report =
        evaluate_collection(&scratch.collection, &queries, &weights(&[0.0, 0.5, 1.0]), Bootstrap::default(), &Quiet)
            .unwrap();
    // What is left of the document shares the river's name: both arms find it once the sentence's own chunk is out.
    assert!(report.systems[0].metrics[0].1.mean > 0.8, "{:?}", report.systems[0]);
    assert_eq!(report.queries, 50);
    assert!(report.trust.contains("lean towards BM25"));
    assert_eq!(report.systems[2].name, report.in_force);
}

#[test]
fn labels_name_documents_or_spans() {
    let scratch = collection(40);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.jsonl");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        Queries::read(&path, &scratch.collection)
    };
    let id = DocumentId::from_uri("3.md");
    let span = scratch.collection.chunks_of(&id).unwrap()[1].span;
    let labelled = read(&format!(
        "{{\"query\":\"river3\",\"document\":\"3.md\"}}\n{{\"query\":\"river3\",\"uri\":\"{id}\"}}\n\
         {{\"query\":\"mill\",\"document\":\"3.md\",\"span\":{{\"start\":{},\"end\":{}}}}}\n",
        span.start, span.end
    ))
    .unwrap();
    assert_eq!(labelled.len(), 2, "two lines of one query are one query");
    assert_eq!(labelled.queries[0].unit, Unit::Chunk);
    assert_eq!(labelled.queries[1].relevant.keys().collect::<Vec<_>>(), [&id.to_string()]);
    for (text, expected) in [
        ("{\"query\":\"x\",\"document\":\"nope.md\"}", "document `nope.md` is not in collection"),
        ("{\"query\":\"x\",\"document\":\"3.md\",\"span\":{\"start\":99999,\"end\":99999}}", "no chunk"),
        ("{\"query\":\" \",\"document\":\"3.md\"}", "is empty"),
        ("{\"query\":\"x\"}", "line 1"),
        ("\n{\"query\":\"x\",\"document\":\"3.md\",\"grade\":1}", "line 2"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let few = evaluate_collection(&scratch.collection, &labelled, &[], Bootstrap::default(), &Quiet);
    assert!(matches!(few, Err(EvaluationError::Queries(_))));

    let lines: String =
        (0..40).map(|n| format!("{{\"query\":\"where is river{n}?\",\"document\":\"{n}.md\"}}\n")).collect();
    let labelled = read(&lines).unwrap();
    let report =
        evaluate_collection(&scratch.collection, &labelled, &weights(&[0.2, 0.8]), Bootstrap::default(), &Quiet)
            .unwrap();
    assert_eq!(report.systems[0].metrics[1].1.mean, 1.0, "the name stands in one document only");
    assert!(report.recommendation.gain.mean.abs() < 0.5 && !report.recommendation.reason.is_empty());

    // Put in force, it stays, and nothing is embedded again.
    let generation = scratch.collection.generation().unwrap();
    scratch.collection.set_fusion(Fusion::Convex { lexical_weight: 0.8 }).unwrap();
    assert_eq!(profile_fusion(&scratch.collection.profile()), Fusion::Convex { lexical_weight: 0.8 });
    scratch.collection.set_fusion(Fusion::Rrf { k: 20.0 }).unwrap();
    assert_eq!(profile_fusion(&scratch.collection.profile()), Fusion::Rrf { k: 20.0 });
    assert_eq!(scratch.collection.generation().unwrap(), generation);
    let again =
        evaluate_collection(&scratch.collection, &labelled, &weights(&[0.2, 0.8]), Bootstrap::default(), &Quiet)
            .unwrap();
    assert_eq!(again.in_force, "rrf k=20");
    assert!(scratch.collection.set_fusion(Fusion::Convex { lexical_weight: 2.0 }).is_err());
}

#[test]
fn a_gain_is_told_from_chance() {
    let candidates = weights(&[0.5, 0.1, 0.9]);
    let queries = 100;
    let flat = vec![0.5; queries];
    // Better on every query: a gain beyond doubt.
    let better: Vec<f64> = flat.iter().map(|value| value + 0.1).collect();
    let sure = recommend(&candidates, &[&flat, &better, &flat], Bootstrap::default());
    assert!(sure.change && sure.fusion == candidates[1] && (sure.gain.mean - 0.1).abs() < 1e-9, "{sure:?}");
    // As much better on half as worse on the other half, and a little better in sum.
    let noisy: Vec<f64> = (0..queries).map(|at| 0.5 + if at % 2 == 0 { 0.31 } else { -0.3 }).collect();
    let chance = recommend(&candidates, &[&flat, &noisy, &flat], Bootstrap::default());
    assert!(!chance.change && chance.fusion == candidates[1], "{chance:?}");
    assert!(chance.reason.contains("chance"));
    let none = recommend(&candidates, &[&better, &flat, &flat], Bootstrap::default());
    assert!(!none.change && none.fusion == candidates[0] && none.gain.mean == 0.0);
    // Each fold's winner shines in its own fifth only: chosen on the others, it gains nothing.
    let lucky: Vec<Vec<f64>> =
        (0..5).map(|fold| (0..queries).map(|at| if at % 5 == fold { 0.9 } else { 0.45 }).collect()).collect();
    let mut values: Vec<&[f64]> = vec![&flat];
    values.extend(lucky.iter().map(Vec::as_slice));
    let fusions = weights(&[0.5, 0.1, 0.2, 0.3, 0.4, 0.6]);
    let overfitted = recommend(&fusions, &values, Bootstrap::default());
    assert!(!overfitted.change && overfitted.gain.mean <= 0.0, "{overfitted:?}");
}
