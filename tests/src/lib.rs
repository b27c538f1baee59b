//! Helpers shared by the test binaries of this package.

use std::path::PathBuf;

/// Root of the workspace: the folder that holds the top-level `Cargo.toml`. Cargo names it when it runs a test; a path
/// from the time of building may belong to another checkout that shares the build cache.
pub fn workspace_root() -> PathBuf {
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}
