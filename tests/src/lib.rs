//! Helpers shared by the test binaries of this package.

use std::path::PathBuf;

/// Root of the workspace: the folder that holds the top-level `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map(PathBuf::from).unwrap_or(manifest)
}
