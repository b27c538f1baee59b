//! Snapshots survive, or are refused.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
};

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

/// With a graph over most, some tombstones, and a tail.
fn graph(vectors: u64, generation: u64) -> VectorIndex {
    let mut index = crate::testing::clustered(vectors, 24, generation);
    index.rebuild_now().unwrap();
    for chunk in 0..vectors / 20 {
        index.remove(ChunkId(chunk * 7));
    }
    let vector = index.vector(ChunkId(1)).unwrap();
    index.insert(ChunkId(10_000), &vector).unwrap();
    index.set_generation(Generation(generation));
    index
}

/// Equal bit by bit: `-0.0` and `0.0` differ.
fn assert_same(a: &VectorIndex, b: &VectorIndex) {
    let flats = |index: &VectorIndex| {
        let bits = |flat: &Flat| flat.rows.iter().flat_map(|block| block.0.map(f32::to_bits)).collect::<Vec<_>>();
        let flat = |flat: &Flat| (flat.ids.clone(), flat.row_of.clone(), bits(flat));
        let base = index.base.as_ref().map(|base| {
            let graph = base.graph.as_ref().map(|graph| (graph.layers.clone(), graph.unreached.clone(), graph.options));
            (flat(&base.flat), base.dead.clone(), base.dead_rows, graph)
        });
        (flat(&index.tail), base)
    };
    assert_eq!((a.generation, &a.source), (b.generation, &b.source));
    assert!(flats(a) == flats(b), "they differ");
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

thread_local! {
    /// Steps until the publication under way is cut off; `None` to let it finish.
    static STEPS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Cuts a publication off as a kill does: nothing after this runs, no cleaning up either.
pub(super) fn step() {
    match STEPS_LEFT.get() {
        Some(0) => {
            STEPS_LEFT.set(None);
            panic::panic_any(Killed);
        }
        left => STEPS_LEFT.set(left.map(|left| left - 1)),
    }
}

struct Killed;

/// Whether a publication that is cut off after `steps` steps was cut off.
fn killed_after(steps: usize, index: &VectorIndex, path: &Path) -> bool {
    STEPS_LEFT.set(Some(steps));
    let result = panic::catch_unwind(AssertUnwindSafe(|| index.save(path).unwrap()));
    STEPS_LEFT.set(None);
    match result {
        Ok(()) => false,
        Err(reason) if reason.is::<Killed>() => true,
        Err(reason) => panic::resume_unwind(reason),
    }
}

#[test]
fn a_kill_between_any_two_steps_leaves_the_former_or_the_new_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let (former, new) = (graph(120, 1), graph(150, 2));
    let (mut steps, mut kept, mut published) = (0, 0, 0);
    loop {
        // Generations may be equal too: an index can be saved twice at one.
        let mut new = new.clone();
        new.set_generation(Generation(1 + steps as u64 % 2));
        former.save(path).unwrap();
        if !killed_after(steps, &new, path) {
            break;
        }
        let found = VectorIndex::load(path, 24, "test", GraphOptions::default()).unwrap().unwrap();
        if found.len() == former.len() {
            assert_same(&found, &former);
            kept += 1;
        } else {
            assert_same(&found, &new);
            published += 1;
        }
        steps += 1;
    }
    panic::set_hook(hook);
    assert!(kept >= 12 && published >= 2, "{kept} before the rename and {published} after it");
    // What was left lying went with the last publication.
    assert_eq!(folders(path).len(), 2, "{:?}", folders(path));
}

#[test]
fn half_a_file_of_a_killed_publication_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    index(3, 1).save(path).unwrap();
    fs::create_dir(path.join("2")).unwrap();
    fs::write(path.join("2").join(VECTORS), "half").unwrap();
    fs::write(path.join(NEW_MANIFEST), "half").unwrap();
    assert_same(&load(path).unwrap().unwrap(), &index(3, 1));
    index(5, 2).save(path).unwrap();
    assert_same(&load(path).unwrap().unwrap(), &index(5, 2));
    assert_eq!(folders(path), ["2-1", MANIFEST]);
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
    let saved = graph(600, 3);
    let query: Vec<f32> = saved.vector(ChunkId(1)).unwrap();
    saved.save(path).unwrap();
    let load = || VectorIndex::load(path, 24, "test", GraphOptions::default());
    let loaded = load().unwrap().unwrap();
    assert_same(&loaded, &saved);
    assert_eq!((loaded.len(), loaded.graph_len()), (571, Some(570)));
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
        // A step that is no multiple of any record.
        for at in (0..sound.len()).step_by((sound.len() / 97) | 1) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
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
