//! What an ingest reports and leaves behind.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use edgewise_documents::IndexProfile;
use edgewise_model_api::ModelError;
use edgewise_retrieval::{
    Collections, IngestOptions, IngestProgress, Outcome, RetrievalError, Silent, Source, SourceContent, SourceReport,
};
use edgewise_test_support::HashEmbedder;
use edgewise_types::{DocumentId, Generation};

use crate::support::*;

#[test]
fn only_what_is_new_is_done() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let report = ingest(&guide, FILES);
    assert_eq!(outcomes(&report), [("bread.md", "added"), ("engine.md", "added"), ("whales.txt", "added")]);
    assert_eq!(report.chunks_embedded, report.sources.iter().map(|s| s.chunks).sum::<usize>());
    assert_eq!(report.generation, Generation(1), "one batch, one commit");
    assert_eq!(report.tokens_embedded, {
        let chunks = |id| guide.chunks_of(&id).unwrap().iter().map(|c| c.embedder_tokens).sum::<usize>();
        FILES.iter().map(|(uri, _)| chunks(DocumentId::from_uri(uri))).sum::<usize>()
    });

    let again = ingest(&guide, FILES);
    assert!(outcomes(&again).iter().all(|(_, outcome)| *outcome == "unchanged"));
    assert_eq!((again.chunks_embedded, again.generation), (0, Generation(1)));

    let report = ingest(&guide, &[("bread.md", "# Bread\n\nRye needs no kneading."), FILES[1]]);
    assert_eq!(outcomes(&report), [("bread.md", "changed"), ("engine.md", "unchanged")]);
    assert_eq!(found(&guide, "kneading rye")[0], "bread.md");
    let crackle = search(&guide, "crackle crust steam");
    assert!(crackle.hits.iter().all(|hit| hit.lexical.is_none() && !hit.chunk.text.contains("crackle")));
    assert_eq!(guide.stats().unwrap().documents, 3, "what is not among the sources stays");
}

#[test]
fn missing_sources_are_removed_only_when_asked_and_below_the_prefix() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, &[("a/1.md", "one one"), ("a/2.md", "two two"), ("b/3.md", "three three")]);
    let options = IngestOptions { remove_missing: Some("a/".to_owned()), ..IngestOptions::default() };
    let mut given = sources(&[("a/1.md", "one one")]);
    // A source that can't be read is not gone.
    given.push(Source {
        uri: "a/2.md".to_owned(),
        content: SourceContent::File(root.path().join("nowhere")),
        media_type: None,
    });
    let report = guide.ingest(given, &options, &Silent).unwrap();
    assert_eq!(outcomes(&report), [("a/1.md", "unchanged"), ("a/2.md", "failed")]);
    assert_eq!(report.sources[1].chunks, 1, "its last good version is kept");
    let report = guide.ingest(sources(&[("a/1.md", "one one")]), &options, &Silent).unwrap();
    assert_eq!(outcomes(&report), [("a/1.md", "unchanged"), ("a/2.md", "removed")]);
    let left: Vec<String> = guide.documents(0, 10).unwrap().into_iter().map(|d| d.uri).collect();
    assert_eq!(left, ["a/1.md", "b/3.md"]);
    assert!(found(&guide, "two").iter().all(|uri| uri != "a/2.md"));
}

#[test]
fn bad_sources_never_stop_a_batch() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let bytes = |uri: &str, bytes: &[u8]| Source {
        uri: uri.to_owned(),
        content: SourceContent::Bytes(bytes.to_vec()),
        media_type: None,
    };
    let mut given = sources(FILES);
    given.push(bytes("picture.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01"));
    given.push(bytes("empty.md", b" \n\n"));
    given.push(bytes("format.xyz", b"text"));
    given.push(bytes("whales.txt", b"another"));
    given.push(bytes("", b"nameless"));
    let report = guide.ingest(given, &IngestOptions::default(), &Silent).unwrap();
    assert_eq!(
        outcomes(&report),
        [
            ("", "failed"),
            ("bread.md", "added"),
            ("empty.md", "failed"),
            ("engine.md", "added"),
            ("format.xyz", "failed"),
            ("picture.md", "failed"),
            ("whales.txt", "added"),
            ("whales.txt", "failed"),
        ]
    );
    for report in &report.sources {
        if let Outcome::Failed { reason } = &report.outcome {
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
        }
    }
    assert_eq!(guide.stats().unwrap().documents, 3);
}

#[test]
fn a_document_that_the_embedder_refuses_fails_alone() {
    let root = tempfile::tempdir().unwrap();
    let mood = |text: &str| match text.contains("poison") {
        true => Err(ModelError::Tokenizer("too strange".to_owned())),
        false => Ok(()),
    };
    let models = models_with(Arc::new(Moody { inner: HashEmbedder::new(), mood }));
    let guide = Collections::open(root.path(), models).unwrap().get_or_create_default(&name()).unwrap();
    let report = ingest(&guide, &[("a.md", "fine"), ("b.md", "poison"), ("c.md", "fine too")]);
    assert_eq!(outcomes(&report), [("a.md", "added"), ("b.md", "failed"), ("c.md", "added")]);
    assert!(matches!(&report.sources[1].outcome, Outcome::Failed { reason } if reason.contains("too strange")));
    assert_eq!(report.chunks_embedded, 2);
}

#[test]
fn a_stopped_embedder_ends_the_ingest_and_keeps_what_was_committed() {
    let root = tempfile::tempdir().unwrap();
    let mood = |text: &str| match text.contains("stop") {
        true => Err(ModelError::Stopped("shutting down".to_owned())),
        false => Ok(()),
    };
    let models = models_with(Arc::new(Moody { inner: HashEmbedder::new(), mood }));
    let guide = Collections::open(root.path(), models).unwrap().get_or_create_default(&name()).unwrap();
    let options = IngestOptions { batch_documents: 1, ..IngestOptions::default() };
    let given = sources(&[("a.md", "fine"), ("b.md", "stop"), ("c.md", "fine")]);
    let error = guide.ingest(given, &options, &Silent).unwrap_err();
    assert!(matches!(error, RetrievalError::Model(ModelError::Stopped(_))), "{error}");
    assert_eq!(guide.documents(0, 9).unwrap().len(), 1);
    assert_eq!(found(&guide, "fine"), ["a.md"]);
}

/// Cancels at the first embedded chunk of the second batch, and keeps what it was told.
#[derive(Default)]
struct Watcher {
    cancel: Arc<AtomicBool>,
    total: Mutex<Vec<usize>>,
    done: Mutex<Vec<String>>,
}

impl IngestProgress for Watcher {
    fn total(&self, sources: usize) {
        self.total.lock().unwrap().push(sources);
    }
    fn source_done(&self, report: &SourceReport) {
        self.done.lock().unwrap().push(report.uri.clone());
    }
    fn chunks_embedded(&self, _chunks: usize) {
        self.cancel.store(true, Ordering::Release);
    }
}

#[test]
fn a_cancelled_ingest_is_continued_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, &FILES[..1]);
    let watcher = Watcher::default();
    let options = IngestOptions { cancel: Some(watcher.cancel.clone()), ..IngestOptions::default() };
    let error = guide.ingest(sources(FILES), &options, &watcher).unwrap_err();
    assert!(matches!(error, RetrievalError::Cancelled), "{error}");
    assert_eq!(*watcher.total.lock().unwrap(), [3]);
    assert_eq!(*watcher.done.lock().unwrap(), ["bread.md"], "what was not committed was not reported as done");
    assert_eq!(guide.stats().unwrap().documents, 1);
    let report = ingest(&guide, FILES);
    assert_eq!(outcomes(&report), [("bread.md", "unchanged"), ("engine.md", "added"), ("whales.txt", "added")]);
}

#[test]
fn commits_are_as_large_as_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let files: Vec<(String, String)> = (0..10).map(|i| (format!("{i}.txt"), format!("number {i}"))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(uri, text)| (uri.as_str(), text.as_str())).collect();
    let options = IngestOptions { batch_documents: 4, ..IngestOptions::default() };
    let report = guide.ingest(sources(&files), &options, &Silent).unwrap();
    assert_eq!(report.generation, Generation(3), "4 + 4 + 2");
    let other = open(root.path()).get_or_create_default(&"other".parse().unwrap()).unwrap();
    let options = IngestOptions { batch_chunks: 3, ..IngestOptions::default() };
    let report = other.ingest(sources(&files), &options, &Silent).unwrap();
    assert_eq!(report.generation, Generation(4), "3 + 3 + 3 + 1");
    assert_eq!(other.content_fingerprint().unwrap(), guide.content_fingerprint().unwrap());
}

#[test]
fn documents_can_be_read_back_and_deleted() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, FILES);
    let id = DocumentId::from_uri("engine.md");
    let (document, text, chunks) =
        (guide.document(&id).unwrap(), guide.document_text(&id).unwrap(), guide.chunks_of(&id).unwrap());
    assert_eq!((document.title.as_str(), document.text_bytes, document.chunks), ("Engine", text.len(), chunks.len()));
    for chunk in &chunks {
        assert_eq!(chunk.span.slice(&text).unwrap(), chunk.text);
    }
    let stats = guide.stats().unwrap();
    assert_eq!(stats.tokens, guide.documents(0, 9).unwrap().iter().map(|d| d.tokens).sum::<usize>());
    assert_eq!(guide.documents(1, 1).unwrap()[0].uri, "engine.md");
    assert_eq!(guide.documents_after(Some("engine.md"), 5).unwrap()[0].uri, "whales.txt");
    assert!(guide.documents(9, 9).unwrap().is_empty());

    guide.delete_document(&id).unwrap();
    assert!(matches!(guide.delete_document(&id), Err(RetrievalError::UnknownDocument { .. })));
    assert!(matches!(guide.document_text(&id), Err(RetrievalError::UnknownDocument { .. })));
    assert!(matches!(guide.chunks_of(&id), Err(RetrievalError::UnknownDocument { .. })));
    assert!(!found(&guide, "engine caches prefixes").contains(&"engine.md".to_owned()));
    let stats = guide.stats().unwrap();
    assert_eq!((stats.documents, stats.generation), (2, Generation(2)));
    assert_eq!((stats.lexical_generation, stats.vector_generation), (Generation(2), Generation(2)));
}

#[test]
fn a_profile_the_embedder_cannot_serve_is_refused_before_anything_is_made() {
    let root = tempfile::tempdir().unwrap();
    let mut profile = IndexProfile::default();
    profile.chunk.max_tokens = 255;
    let error = open(root.path()).get_or_create(&name(), &profile).unwrap_err();
    assert!(error.to_string().contains("254"), "{error}");
    assert!(open(root.path()).names().unwrap().is_empty());
}
