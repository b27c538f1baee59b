//! Any sequence of batches leaves what a simple model in memory holds, and every generation can be replayed from.

use std::collections::{BTreeMap, BTreeSet};

use edgewise_catalog::{Batch, Catalog, NewDocument, OpenMode};
use edgewise_types::{ChunkId, DocumentId, Generation, PageMap};
use proptest::prelude::*;

use super::{Change, document, meta};

#[derive(Debug, Clone)]
struct Step {
    upserts: Vec<(String, String, usize)>,
    deletes: Vec<String>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let uri = || prop::sample::select(vec!["a.md", "b.md", "c/d.md", "é.md"]).prop_map(str::to_owned);
    let upsert = (uri(), "[a-cé🦀 \n\u{0}]{0,12}", 1usize..6);
    let step = (prop::collection::vec(upsert, 0..3), prop::collection::vec(uri(), 0..2))
        .prop_map(|(upserts, deletes)| Step { upserts, deletes });
    prop::collection::vec(step, 1..7)
}

type Model = BTreeMap<String, NewDocument>;

/// Applies a step to both, and checks what the commit says it did.
fn apply(catalog: &Catalog, model: &mut Model, step: &Step, ever: &mut BTreeSet<ChunkId>) {
    let before_generation = catalog.generation().unwrap();
    let before_live: BTreeSet<ChunkId> = live(catalog);
    let mut changed = false;
    for uri in &step.deletes {
        changed |= model.remove(uri).is_some();
    }
    let mut batch =
        Batch { upserts: Vec::new(), deletes: step.deletes.iter().map(|uri| DocumentId::from_uri(uri)).collect() };
    for (uri, text, chunk_chars) in &step.upserts {
        if batch.upserts.iter().all(|other| other.uri != *uri) {
            let document = document(uri, text, *chunk_chars);
            model.insert(uri.clone(), document.clone());
            batch.upserts.push(document);
            changed = true;
        }
    }
    let committed = catalog.commit(&batch).unwrap();
    assert_eq!(committed.generation, Generation(before_generation.0 + u64::from(changed)));
    assert_eq!(committed.generation, catalog.generation().unwrap());
    let mut expected = before_live;
    for removed in &committed.removed {
        assert!(expected.remove(removed), "only live chunks are removed");
    }
    for added in &committed.added {
        assert!(ever.insert(*added), "{added} was used before");
        expected.insert(*added);
    }
    assert_eq!(live(catalog), expected);
}

fn live(catalog: &Catalog) -> BTreeSet<ChunkId> {
    catalog.chunk_documents().unwrap().into_iter().map(|(chunk, _)| chunk).collect()
}

/// Reads everything in every way there is and compares.
fn compare(catalog: &Catalog, model: &Model) {
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    let documents = catalog.documents(None, usize::MAX).unwrap();
    assert_eq!(documents.iter().map(|d| &d.uri).collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    let paged: Vec<_> = {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = catalog.documents(after.as_deref(), 1).unwrap();
            let Some(last) = page.last() else { break all };
            after = Some(last.uri.clone());
            all.extend(page);
        }
    };
    assert_eq!(paged, documents);
    let mut embeddings: BTreeMap<ChunkId, Vec<f32>> = BTreeMap::new();
    let generation = catalog.for_each_embedding(|chunk, vector| {
        embeddings.insert(chunk, vector.to_vec());
    });
    assert_eq!(generation.unwrap(), catalog.generation().unwrap());

    let (mut chunk_count, mut owners) = (0, Vec::new());
    for (found, expected) in documents.iter().zip(model.values()) {
        assert_eq!(found.id, expected.id());
        assert_eq!(
            (&found.title, &found.media_type, &found.content_hash, found.text_bytes, found.tokens, found.chunks),
            (
                &expected.title,
                &expected.media_type,
                &expected.content_hash,
                expected.text.len(),
                expected.tokens,
                expected.chunks.len()
            )
        );
        assert_eq!(found.metadata, expected.metadata);
        assert_eq!(found.updated_at, expected.updated_at.to_string());
        assert_eq!(catalog.document(&found.id).unwrap().as_ref(), Some(found));
        assert_eq!(catalog.document_by_uri(&found.uri).unwrap().as_ref(), Some(found));
        assert_eq!(catalog.document_text(&found.id).unwrap().as_ref(), Some(&expected.text));

        assert_eq!(catalog.document_pages(&found.id).unwrap().as_ref(), Some(&expected.pages));

        let chunks = catalog.chunks_of(&found.id).unwrap();
        assert_eq!(chunks.len(), expected.chunks.len());
        for (ordinal, (chunk, expected_chunk)) in chunks.iter().zip(&expected.chunks).enumerate() {
            assert_eq!((chunk.ordinal, &chunk.document, chunk.span), (ordinal, &found.id, expected_chunk.span));
            assert_eq!(chunk.text, expected.text[chunk.span.start..chunk.span.end]);
            assert_eq!(chunk.heading_path, expected_chunk.heading_path);
            assert_eq!(chunk.section, expected_chunk.section);
            assert_eq!(chunk.pages, expected.pages.pages(chunk.span));
            assert_eq!(chunk.embedder_tokens, expected_chunk.embedder_tokens);
            assert_eq!(chunk.generator_tokens, expected_chunk.generator_tokens);
            assert_eq!(embeddings.remove(&chunk.id).as_ref(), Some(&expected_chunk.embedding));
            owners.push((chunk.id, found.id.clone()));
        }
        // By id: in the order asked for, unknown ids left out.
        let mut ids: Vec<ChunkId> = chunks.iter().rev().map(|chunk| chunk.id).collect();
        assert_eq!(catalog.chunk_ids_of(std::slice::from_ref(&found.id)).unwrap().len(), ids.len());
        ids.insert(0, ChunkId(u64::from(u32::MAX)));
        assert_eq!(catalog.chunks(&ids).unwrap(), chunks.iter().rev().cloned().collect::<Vec<_>>());
        for (record, chunk) in catalog.chunk_records(&ids).unwrap().iter().zip(chunks.iter().rev()) {
            assert_eq!((&record.chunk, &record.title), (chunk, &expected.title));
            assert_eq!(record.embedding, expected.chunks[chunk.ordinal].embedding);
        }
        chunk_count += chunks.len();
    }
    assert!(embeddings.is_empty(), "no embedding without a chunk");
    owners.sort();
    assert_eq!(catalog.chunk_documents().unwrap(), owners);

    let stats = catalog.stats().unwrap();
    assert_eq!((stats.documents, stats.chunks), (model.len(), chunk_count));
    assert_eq!(stats.text_bytes, model.values().map(|d| d.text.len()).sum::<usize>());
    assert_eq!(stats.generator_tokens, model.values().map(|d| d.tokens).sum::<usize>());
    let hashes = catalog.content_hashes().unwrap();
    assert!(hashes.iter().eq(model.iter().map(|(uri, d)| (uri, &d.content_hash)).collect::<BTreeMap<_, _>>()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leaves_what_the_model_holds(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.sqlite");
        let catalog = Catalog::create(&path, &meta()).unwrap();
        let (mut model, mut ever) = (Model::new(), BTreeSet::new());
        let mut live_at = BTreeMap::from([(Generation(0), BTreeSet::new())]);
        for step in &steps {
            apply(&catalog, &mut model, step, &mut ever);
            live_at.insert(catalog.generation().unwrap(), live(&catalog));
        }
        compare(&catalog, &model);

        // From every generation, the changes lead to now, and name nothing the index has or lacks already.
        for (generation, held) in &live_at {
            let changes = catalog.changes_since(*generation).unwrap();
            prop_assert_eq!(changes.generation, catalog.generation().unwrap());
            let mut replayed = held.clone();
            for chunk in &changes.removed {
                prop_assert!(replayed.remove(chunk));
            }
            for chunk in &changes.added {
                prop_assert!(replayed.insert(*chunk));
            }
            prop_assert_eq!(&replayed, &live(&catalog));
        }
        let ahead = Generation(catalog.generation().unwrap().0 + 1);
        prop_assert!(catalog.changes_since(ahead).is_err());

        // The fingerprint depends on the content alone.
        let fingerprint = catalog.content_fingerprint().unwrap();
        let fresh = Catalog::create(&folder.path().join("fresh.sqlite"), &meta()).unwrap();
        fresh.commit(&Batch { upserts: model.values().rev().cloned().collect(), deletes: Vec::new() }).unwrap();
        prop_assert_eq!(&fresh.content_fingerprint().unwrap(), &fingerprint);

        // And all of it is still there after closing and opening.
        let id = catalog.id().to_owned();
        drop(catalog);
        for mode in [OpenMode::ReadOnly, OpenMode::ReadWrite] {
            let catalog = Catalog::open(&path, mode).unwrap();
            prop_assert_eq!((catalog.id(), catalog.meta()), (id.as_str(), &meta()));
            compare(&catalog, &model);
        }
    }
}

#[test]
fn the_fingerprint_sees_every_part_of_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let base = document("a.md", "some text to cut", 4);
    let fingerprint = |name: &str, document: NewDocument| {
        let catalog = Catalog::create(&folder.path().join(name), &meta()).unwrap();
        catalog.commit(&Batch { upserts: vec![document], deletes: Vec::new() }).unwrap();
        catalog.content_fingerprint().unwrap()
    };
    let reference = fingerprint("reference", base.clone());
    let changes: [(&str, Change); 10] = [
        ("uri", |d| d.uri.push('x')),
        ("title", |d| d.title.push('x')),
        ("text", |d| d.text = d.text.to_uppercase()),
        ("span", |d| d.chunks[1].span.start += 1),
        ("heading", |d| d.chunks[1].heading_path.push("x".to_owned())),
        ("section", |d| d.chunks[1].section.end -= 1),
        ("pages", |d| d.pages = PageMap::new(vec![0, 1])),
        ("tokens", |d| d.chunks[1].generator_tokens += 1),
        ("metadata", |d| d.metadata.clear()),
        ("fewer chunks", |d| d.chunks.truncate(1)),
    ];
    for (name, change) in changes {
        let mut changed = base.clone();
        change(&mut changed);
        assert_ne!(fingerprint(name, changed).content, reference.content, "{name}");
    }
    let mut turned = base.clone();
    turned.chunks[0].embedding = vec![0.0, 0.0, 1.0];
    let turned = fingerprint("embedding", turned);
    assert_eq!(turned.content, reference.content);
    assert_ne!(turned.embeddings, reference.embeddings);
    let mut later = base;
    later.updated_at = jiff::Timestamp::from_second(1).unwrap();
    assert_eq!(fingerprint("time", later), reference);
}

#[test]
fn readers_beside_a_writer_see_whole_batches() {
    const BATCHES: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let writer = Catalog::create(&path, &meta()).unwrap();
    let other_process = Catalog::open(&path, OpenMode::ReadOnly).unwrap();
    std::thread::scope(|scope| {
        for catalog in [&writer, &writer, &other_process] {
            scope.spawn(move || {
                loop {
                    let stats = catalog.stats().unwrap();
                    // Each batch adds two documents of two chunks.
                    assert_eq!(stats.documents as u64, 2 * stats.generation.0);
                    assert_eq!(stats.chunks, 2 * stats.documents);
                    let mut embeddings = 0;
                    let generation = catalog.for_each_embedding(|_, _| embeddings += 1).unwrap();
                    assert_eq!(embeddings, 4 * generation.0);
                    if generation.0 == BATCHES {
                        break;
                    }
                }
            });
        }
        for batch in 0..BATCHES {
            let upserts = vec![document(&format!("{batch}a"), "abcd", 2), document(&format!("{batch}b"), "efgh", 2)];
            writer.commit(&Batch { upserts, deletes: Vec::new() }).unwrap();
        }
    });
}
