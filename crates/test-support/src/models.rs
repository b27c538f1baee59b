//! Where tests find real models.

use std::path::PathBuf;

/// The path `relative` under the folder named by `EDGEWISE_TEST_MODELS`. Fails the test, saying what to do, when the
/// variable is unset or the file is missing: a test of a real model is never skipped silently.
#[track_caller]
pub fn test_model(relative: &str) -> PathBuf {
    let root = std::env::var_os("EDGEWISE_TEST_MODELS").unwrap_or_else(|| {
        panic!("EDGEWISE_TEST_MODELS is not set: run ./scripts/test, which gets the test models and sets it")
    });
    let path = PathBuf::from(root).join(relative);
    assert!(path.exists(), "{} does not exist: run ./scripts/test, which gets the test models", path.display());
    path
}
