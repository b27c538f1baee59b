//! Digests of model files.
//!
//! A model's digest is BLAKE3 over the BLAKE3 digests of its files in a fixed order, so that two models are equal exactly
//! if all their files are. It names the model in cache identities and catalogs; it is not a check against tampering,
//! which is the model store's business.

use std::{fs::File, io::Read, path::Path};

use crate::EngineError;

/// Reads are this long: large enough that the calls don't count, small enough to stay in the second-level cache.
const BUFFER: usize = 512 * 1024;

/// The digest of a model of these files, in hexadecimal. The order matters.
pub(crate) fn of_files(paths: &[&Path]) -> Result<String, EngineError> {
    let mut all = blake3::Hasher::new();
    for path in paths {
        all.update(of_file(path)?.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

/// The digest of a model of these files computed in a way named `variant`; without a name, that of the files alone.
pub(crate) fn of_files_and(paths: &[&Path], variant: &str) -> Result<String, EngineError> {
    let files = of_files(paths)?;
    match variant {
        "" => Ok(files),
        _ => Ok(blake3::Hasher::new()
            .update(files.as_bytes())
            .update(variant.as_bytes())
            .finalize()
            .to_hex()
            .to_string()),
    }
}

fn of_file(path: &Path) -> Result<blake3::Hash, EngineError> {
    let mut file = File::open(path).map_err(|e| EngineError::io(path, e))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(EngineError::io(path, e)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_every_file_and_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, vec![7; 2 * BUFFER + 1]).unwrap();
        std::fs::write(&b, b"b").unwrap();
        let both = of_files(&[&a, &b]).unwrap();
        assert_eq!(both, of_files(&[&a, &b]).unwrap());
        assert_ne!(both, of_files(&[&b, &a]).unwrap());
        assert_eq!(both, of_files_and(&[&a, &b], "").unwrap());
        assert_ne!(both, of_files_and(&[&a, &b], "integer8").unwrap());
        let mut changed = vec![7; 2 * BUFFER + 1];
        changed[2 * BUFFER] = 8;
        std::fs::write(&a, changed).unwrap();
        assert_ne!(both, of_files(&[&a, &b]).unwrap());
    }

    #[test]
    fn a_missing_file_is_named() {
        match of_files(&[Path::new("/nonexistent/model.gguf")]) {
            Err(EngineError::MissingFile { path }) => assert!(path.ends_with("model.gguf")),
            other => panic!("{other:?}"),
        }
    }
}
