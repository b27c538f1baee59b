//! Snapshots survive, or are refused.

use proptest::prelude::*;

use super::*;

const DIMENSION: usize = 5;

fn index(vectors: u64, generation: u64) -> VectorIndex {
    let mut index = VectorIndex::new(DIMENSION, "catalog");
    for chunk in 0..vectors {
        let angle = (chunk + generation) as f32;
        index.insert(ChunkId(chunk * 3 + generation), &[angle.cos(), 0.0, angle.sin(), -0.0, 0.0]).unwrap();
    }
    index.set_generation(Generation(generation));
    index
}

fn load(path: &Path) -> Result<Option<VectorIndex>, VectorError> {
    VectorIndex::load(path, DIMENSION, "catalog", GraphOptions::default())
}

/// Equal bit by bit: `-0.0` and `0.0` differ.
fn assert_same(a: &VectorIndex, b: &VectorIndex) {
    let bits =
        |index: &VectorIndex| index.tail.rows.iter().flat_map(|block| block.0.map(f32::to_bits)).collect::<Vec<_>>();
    assert_eq!((&a.tail.ids, &a.tail.row_of), (&b.tail.ids, &b.tail.row_of));
    assert_eq!((a.generation, &a.source), (b.generation, &b.source));
    assert_eq!(bits(a), bits(b));
}

fn folders(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_is_loaded_is_what_was_saved(vectors in 0u64..50, removed in prop::collection::vec(0u64..50, 0..20)) {
        let folder = tempfile::tempdir().unwrap();
        prop_assert!(load(folder.path()).unwrap().is_none());
        let mut saved = index(vectors, 4);
        for chunk in removed {
            saved.remove(ChunkId(chunk * 3 + 4));
        }
        saved.save(folder.path()).unwrap();
        let mut loaded = load(folder.path()).unwrap().unwrap();
        assert_same(&loaded, &saved);
        // And it can be worked on.
        for index in [&mut loaded, &mut saved] {
            index.insert(ChunkId(10_000), &[0.0, 1.0, 0.0, 0.0, 0.0]).unwrap();
            index.remove(ChunkId(7));
        }
        assert_same(&loaded, &saved);
    }
}

#[test]
fn every_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    index(4, 9).save(path).unwrap();
    let assert_refused = |what: String| {
        let result = load(path);
        assert!(matches!(result, Err(VectorError::NeedsRebuild { .. })), "{what}: {result:?}");
    };
    for file in [path.join(MANIFEST), path.join("9").join(VECTORS)] {
        let sound = fs::read(&file).unwrap();
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&file, &damaged).unwrap();
            assert_refused(format!("{} with a flipped bit in byte {at}", file.display()));
            fs::write(&file, &sound[..at]).unwrap();
            assert_refused(format!("{} cut to {at} bytes", file.display()));
        }
        let mut longer = sound.clone();
        longer.push(b'\n');
        fs::write(&file, &longer).unwrap();
        assert_refused(format!("{} with a byte more", file.display()));
        fs::write(&file, &sound).unwrap();
        assert_same(&load(path).unwrap().unwrap(), &index(4, 9));
    }
    fs::remove_dir_all(path.join("9")).unwrap();
    assert_refused("missing folder".to_owned());
}

#[test]
fn another_catalog_or_embedder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    index(2, 1).save(folder.path()).unwrap();
    for (dimension, source) in [(DIMENSION, "other"), (DIMENSION + 1, "catalog")] {
        let result = VectorIndex::load(folder.path(), dimension, source, GraphOptions::default());
        assert!(matches!(result, Err(VectorError::NeedsRebuild { .. })), "{result:?}");
    }
}

/// Leaves on disk what a crash between any two steps of a publication leaves.
#[test]
fn a_crash_before_the_rename_keeps_the_snapshot_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    index(3, 1).save(path).unwrap();
    let assert_first = || assert_same(&load(path).unwrap().unwrap(), &index(3, 1));

    fs::create_dir(path.join("2")).unwrap();
    assert_first();
    fs::write(path.join("2").join(VECTORS), "half").unwrap();
    assert_first();
    // The whole snapshot, and half a manifest.
    let (complete, _) = index(5, 2).write(&path.join("2-1")).unwrap();
    assert_first();
    fs::write(path.join(NEW_MANIFEST), &complete[..10]).unwrap();
    assert_first();

    // Trying again works and clears all of it away.
    index(5, 2).save(path).unwrap();
    assert_same(&load(path).unwrap().unwrap(), &index(5, 2));
    assert_eq!(folders(path), ["2-2", MANIFEST]);
    // A crash after the rename leaves the folder before; it goes with the next publication.
    fs::create_dir(path.join("1")).unwrap();
    index(6, 2).save(path).unwrap();
    assert_same(&load(path).unwrap().unwrap(), &index(6, 2));
    assert_eq!(folders(path), ["2", MANIFEST]);
}

#[test]
fn a_failed_publication_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    index(3, 1).save(path).unwrap();
    // A folder where the new manifest should go: it can't be created.
    fs::create_dir(path.join(NEW_MANIFEST)).unwrap();
    assert!(matches!(index(4, 2).save(path), Err(VectorError::Io { .. })));
    assert_eq!(folders(path), ["1", MANIFEST, NEW_MANIFEST]);
    assert_same(&load(path).unwrap().unwrap(), &index(3, 1));
}

#[test]
fn a_graph_is_saved_with_its_tombstones_and_its_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut saved = crate::testing::clustered(600, 24, 5);
    saved.rebuild_now().unwrap();
    for chunk in 0..50 {
        saved.remove(ChunkId(chunk * 7));
    }
    let query: Vec<f32> = saved.vector(ChunkId(1)).unwrap();
    saved.insert(ChunkId(10_000), &query).unwrap();
    saved.set_generation(Generation(3));
    saved.save(path).unwrap();
    let load = || VectorIndex::load(path, 24, "test", GraphOptions::default());
    let loaded = load().unwrap().unwrap();
    assert_eq!((loaded.len(), loaded.graph_len()), (551, Some(550)));
    let ids = |hits: Vec<crate::VectorHit>| hits.into_iter().map(|hit| hit.chunk.0).collect::<Vec<_>>();
    let first = ids(loaded.search(&query, 2, None).unwrap());
    assert_eq!(first, [1, 10_000]);
    for chunk in loaded.chunks() {
        let vector = loaded.vector(chunk).unwrap();
        let hits = loaded.search(&vector, 20, None).unwrap();
        assert!(hits.iter().all(|hit| loaded.contains(hit.chunk)));
    }
    drop(loaded);
    for file in fs::read_dir(path.join("3")).unwrap() {
        let file = file.unwrap().path();
        let sound = fs::read(&file).unwrap();
        for at in (0..sound.len()).step_by(sound.len() / 12) {
            let mut damaged = sound.clone();
            damaged[at] ^= 16;
            for damage in [damaged, sound[..at].to_vec()] {
                fs::write(&file, damage).unwrap();
                assert!(matches!(load(), Err(VectorError::NeedsRebuild { .. })), "{} at {at}", file.display());
            }
        }
        fs::remove_file(&file).unwrap();
        assert!(matches!(load(), Err(VectorError::NeedsRebuild { .. })));
        fs::write(&file, sound).unwrap();
    }
    assert!(load().unwrap().is_some());
}
