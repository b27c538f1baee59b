//! The record of a check: `.verified.toml` in a model's folder. It saves hashing a large file at every start.
//!
//! A record vouches for a file only while size and time of modification are what they were when it was hashed, and only
//! for the hash that was found; whether that is the right one is compared with the registry each time. For files that the
//! registry does not pin, the record also keeps the hash that was found first: that is the right one from then on.

use std::{collections::BTreeMap, fs, io, path::Path, time::UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{StoreError, error};

const FILE: &str = ".verified.toml";

/// What was found when a file was hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checked {
    pub(crate) sha256: String,
    pub(crate) stamp: Stamp,
}

/// Changes whenever a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    pub(crate) bytes: u64,
    /// Time of modification, nanoseconds since 1970.
    pub(crate) modified_ns: i64,
}

/// Records by file name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    #[serde(default)]
    pub(crate) files: BTreeMap<String, Checked>,
    /// SHA-256 of unpinned files as they first came.
    #[serde(default)]
    pub(crate) first: BTreeMap<String, String>,
}

impl Marker {
    /// The record in `folder`. One that is missing or unreadable vouches for nothing: files are then hashed again.
    pub(crate) fn read(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        toml::from_str(&text).unwrap_or_default()
    }

    /// Writes the record, replacing the old one in one rename.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), StoreError> {
        let path = folder.join(FILE);
        let text = toml::to_string(self).map_err(io::Error::other).map_err(error::io("write", &path))?;
        let aside = folder.join(format!("{FILE}.{}", std::process::id()));
        fs::write(&aside, text).map_err(error::io("write", &aside))?;
        fs::rename(&aside, &path).map_err(error::io("rename", &aside))
    }
}

impl Stamp {
    /// The stamp of a file; `None` if it is not there.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, StoreError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            Err(error) => return Err(error::io("look at", path)(error)),
        };
        let modified = metadata.modified().map_err(error::io("look at", path))?;
        // Times before 1970 or after 2262 are as good a stamp as any when clamped, since the size is compared too.
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
        Ok(Some(Self { bytes: metadata.len(), modified_ns }))
    }
}
