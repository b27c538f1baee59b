//! Changes of embedder, profile and tokenizer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use edgewise_documents::{FusionMethod, IndexProfile};
use edgewise_model_api::ModelError;
use edgewise_retrieval::{Ceiling, Collection, Collections, IngestOptions, RetrievalError, RetrievalModels, Silent};
use edgewise_test_support::HashEmbedder;

use crate::support::*;

fn reopened(root: &std::path::Path, models: RetrievalModels) -> Arc<Collection> {
    Collections::open(root, models).unwrap().get(&name()).unwrap()
}

#[test]
fn another_embedder_is_refused_until_everything_is_ingested_again() {
    let root = tempfile::tempdir().unwrap();
    ingest(&guide(root.path()), FILES);
    let reader = guide(root.path());
    let changed = reopened(root.path(), models_with(Arc::new(HashEmbedder::with_dimension(128))));
    let error = changed.search(&request("whales")).unwrap_err();
    assert!(matches!(error, RetrievalError::EmbedderMismatch { .. }), "{error}");
    let error = changed.ingest(sources(&FILES[..2]), &IngestOptions::default(), &Silent).unwrap_err();
    assert!(
        matches!(&error, RetrievalError::NotCovered { missing: 1, example, .. } if example == "whales.txt"),
        "{error}"
    );
    assert_eq!(found(&reader, "whales")[0], "whales.txt", "the old collection still serves");

    let report = ingest(&changed, FILES);
    assert!(outcomes(&report).iter().all(|(_, outcome)| *outcome == "changed"), "{:?}", outcomes(&report));
    assert_eq!(found(&changed, "whales")[0], "whales.txt");
    assert!(matches!(reader.search(&request("x")), Err(RetrievalError::EmbedderMismatch { .. })), "and others see it");
    let again = ingest(&changed, FILES);
    assert!(outcomes(&again).iter().all(|(_, outcome)| *outcome == "unchanged"));
    drop(changed);
    let opened = reopened(root.path(), models_with(Arc::new(HashEmbedder::with_dimension(128))));
    assert_eq!(search(&opened, "whales").hits[0].uri, "whales.txt");
}

#[test]
fn an_interrupted_rebuild_leaves_the_old_collection_and_is_continued() {
    let root = tempfile::tempdir().unwrap();
    ingest(&guide(root.path()), FILES);
    let calls = Arc::new(AtomicUsize::new(0));
    let broken = |text: &str| match text.contains("Whales") {
        true => Err(ModelError::Stopped("the power went".to_owned())),
        false => Ok(()),
    };
    let embedder = Moody { inner: HashEmbedder::with_dimension(128), mood: broken };
    let options = IngestOptions { batch_documents: 1, ..IngestOptions::default() };
    let error = reopened(root.path(), models_with(Arc::new(embedder))).ingest(sources(FILES), &options, &Silent);
    assert!(matches!(error, Err(RetrievalError::Model(_))), "{error:?}");
    assert_eq!(found(&guide(root.path()), "whales")[0], "whales.txt");

    let counted = calls.clone();
    let count = move |_: &str| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let embedder = Moody { inner: HashEmbedder::with_dimension(128), mood: count };
    let report = reopened(root.path(), models_with(Arc::new(embedder))).ingest(sources(FILES), &options, &Silent);
    let report = report.unwrap();
    assert!(outcomes(&report).iter().all(|(_, outcome)| *outcome == "changed"));
    assert_eq!(calls.load(Ordering::Relaxed), 1, "only what was missing is embedded");
}

#[test]
fn a_rebuild_that_would_lose_a_document_is_not_published() {
    let root = tempfile::tempdir().unwrap();
    ingest(&guide(root.path()), FILES);
    let changed = reopened(root.path(), models_with(Arc::new(HashEmbedder::with_dimension(128))));
    let given = sources(&[FILES[0], FILES[1], ("whales.txt", " ")]);
    let error = changed.ingest(given, &IngestOptions::default(), &Silent).unwrap_err();
    assert!(
        matches!(&error, RetrievalError::RebuildIncomplete { count: 1, uri, .. } if uri == "whales.txt"),
        "{error}"
    );
    assert_eq!(guide(root.path()).stats().unwrap().documents, 3);
    let options = IngestOptions { remove_missing: Some(String::new()), ..IngestOptions::default() };
    drop(changed);
    let changed = reopened(root.path(), models_with(Arc::new(HashEmbedder::with_dimension(128))));
    let report = changed.ingest(sources(&FILES[..1]), &options, &Silent).unwrap();
    assert_eq!(outcomes(&report), [("bread.md", "changed"), ("engine.md", "removed"), ("whales.txt", "removed")]);
    assert_eq!(changed.stats().unwrap().documents, 1, "nothing of the attempt before is left");
}

#[test]
fn a_profile_is_adopted_when_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let guide_1 = guide(root.path());
    let long = "Glaciers move by a few metres a year. ".repeat(12);
    let files = [FILES[0], FILES[2], ("ice.txt", long.as_str())];
    ingest(&guide_1, &files);
    let reader = guide(root.path());

    // Fusion acts on queries only: nothing is embedded again.
    let mut profile = IndexProfile::default();
    profile.fusion.method = FusionMethod::Rrf;
    profile.fusion.rrf_k = 7;
    let options = IngestOptions { profile: Some(profile.clone()), ..IngestOptions::default() };
    let report = guide_1.ingest(sources(&files), &options, &Silent).unwrap();
    assert!(outcomes(&report).iter().all(|(_, outcome)| *outcome == "unchanged"));
    for collection in [&guide_1, &reader] {
        let best = &search(collection, "whales sing").hits[0];
        assert!((best.score - 2.0 / 8.0).abs() < 1e-6, "{}", best.score);
        assert_eq!(collection.profile().fusion.rrf_k, 7);
    }

    // Chunk limits decide what is stored.
    profile.chunk.max_tokens = 16;
    profile.chunk.target_tokens = 8;
    let chunks = guide_1.stats().unwrap().chunks;
    let options = IngestOptions { profile: Some(profile.clone()), ..IngestOptions::default() };
    let error = guide_1.ingest(sources(&files[..1]), &options, &Silent).unwrap_err();
    assert!(matches!(error, RetrievalError::NotCovered { missing: 2, .. }), "{error}");
    let report = guide_1.ingest(sources(&files), &options, &Silent).unwrap();
    assert!(outcomes(&report).iter().all(|(_, outcome)| *outcome == "changed"));
    assert!(guide_1.stats().unwrap().chunks > chunks);
    assert_eq!(*guide_1.profile(), profile);
    // Who asks for nothing keeps it.
    assert!(outcomes(&ingest(&guide_1, &files)).iter().all(|(_, outcome)| *outcome == "unchanged"));
    assert_eq!(*guide(root.path()).profile(), profile, "an existing collection keeps its profile");
}

#[test]
fn another_tokenizer_recounts_when_all_is_there_and_waits_otherwise() {
    let root = tempfile::tempdir().unwrap();
    ingest(&guide(root.path()), FILES);
    let models = RetrievalModels { tokenizer_name: "others".to_owned(), ..models() };
    let changed = reopened(root.path(), models);
    assert_eq!(found(&changed, "whales")[0], "whales.txt");
    let report = ingest(&changed, &[FILES[0], ("new.md", "A new one.")]);
    assert_eq!(outcomes(&report), [("bread.md", "unchanged"), ("new.md", "added")]);
    let options = IngestOptions { remove_missing: Some(String::new()), ..IngestOptions::default() };
    let report = changed.ingest(sources(FILES), &options, &Silent).unwrap();
    assert_eq!(
        outcomes(&report),
        [("bread.md", "changed"), ("engine.md", "changed"), ("new.md", "removed"), ("whales.txt", "changed")]
    );
}

#[test]
fn a_plan_says_what_the_ingest_then_does() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let long = "Glaciers move by a few metres a year. ".repeat(60);
    let files = [FILES[0], FILES[2], ("ice.txt", long.as_str())];
    let first = guide.plan(&sources(&files), &IngestOptions::default()).unwrap();
    assert_eq!((first.added, first.documents_now, &first.anew), (3, 0, &None));
    let report = ingest(&guide, &files);
    assert_eq!((first.chunks_to_embed, first.tokens_to_embed), (report.chunks_embedded, report.tokens_embedded));
    let generation = guide.generation().unwrap();

    // Smaller chunks: the short documents stay one chunk each, so their vectors are kept.
    let mut profile = IndexProfile::default();
    (profile.chunk.max_tokens, profile.chunk.target_tokens) = (48, 40);
    let options = IngestOptions { profile: Some(profile), ..IngestOptions::default() };
    let plan = guide.plan(&sources(&files), &options).unwrap();
    assert!(plan.anew.as_ref().is_some_and(|reason| reason.contains("profile")), "{plan:?}");
    assert_eq!((plan.recut, plan.added, plan.changed, plan.unchanged), (3, 0, 0, 0));
    assert!(plan.chunks_kept >= 2 && plan.chunks_to_embed > 3, "{plan:?}");
    assert_eq!(plan.chunks, plan.chunks_kept + plan.chunks_to_embed);
    assert!(plan.tokens_per_second.is_some() && plan.seconds.is_some(), "{plan:?}");
    assert_eq!(guide.generation().unwrap(), generation, "nothing is done yet");
    assert!(guide.plan(&sources(&files[..1]), &options).is_err(), "as the ingest would refuse it");
    let report = guide.ingest(sources(&files), &options, &Silent).unwrap();
    assert_eq!((plan.chunks_to_embed, plan.tokens_to_embed), (report.chunks_embedded, report.tokens_embedded));
    assert_eq!(plan.chunks, guide.stats().unwrap().chunks);
    let done = guide.plan(&sources(&files), &options).unwrap();
    assert_eq!((done.anew, done.unchanged, done.chunks_to_embed), (None, 3, 0));

    // Another embedder keeps nothing.
    let chunks = guide.stats().unwrap().chunks;
    drop(guide);
    let changed = reopened(root.path(), models_with(Arc::new(HashEmbedder::with_dimension(128))));
    let plan = changed.plan(&sources(&files), &IngestOptions::default()).unwrap();
    assert!(plan.anew.as_ref().is_some_and(|reason| reason.contains("embedder")), "{plan:?}");
    assert_eq!((plan.chunks_kept, plan.chunks_to_embed), (0, chunks));
}

#[test]
fn a_ceiling_outlives_the_process_and_another_profile() {
    let root = tempfile::tempdir().unwrap();
    let collection = guide(root.path());
    ingest(&collection, FILES);
    assert!(collection.ceiling().unwrap().is_none());
    let ceiling = Ceiling { max_cost: Some("0.002".parse().unwrap()), max_latency_ms: Some(900), ..Ceiling::default() };
    collection.set_ceiling(ceiling).unwrap();
    assert_eq!(collection.ceiling().unwrap(), ceiling);
    let wrong = Ceiling { max_input_tokens: Some(0), ..ceiling };
    assert!(matches!(collection.set_ceiling(wrong), Err(RetrievalError::InvalidRequest(_))));
    drop(collection);

    let opened = guide(root.path());
    assert_eq!(opened.ceiling().unwrap(), ceiling);
    let mut other = IndexProfile::default();
    other.chunk.target_tokens = 60;
    let options = IngestOptions { profile: Some(other), ..IngestOptions::default() };
    opened.ingest(sources(FILES), &options, &Silent).unwrap();
    assert_eq!(opened.profile().chunk.target_tokens, 60);
    assert_eq!(opened.ceiling().unwrap(), ceiling, "a profile says how to index, not what questions may use");
    opened.set_ceiling(Ceiling::default()).unwrap();
    drop(opened);
    assert!(guide(root.path()).ceiling().unwrap().is_none());
}
