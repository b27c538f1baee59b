//! Files made of parts in a ZIP container (DOCX, EPUB), unpacked within a budget.
//!
//! Sizes written in the container are not believed: what counts is what comes out. Part names are only ever compared
//! and looked up, never used as paths on disk.

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use crate::{DocumentError, SourceInfo, Work, decode};

/// Most parts a container may list.
const MAX_PARTS: usize = 65_536;

/// An open container.
pub(crate) struct Package<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    format: &'static str,
    source: &'a SourceInfo,
    work: &'a Work,
    /// Bytes that may still be unpacked.
    left: usize,
}

impl<'a> Package<'a> {
    /// Opens the container in `bytes`; `format` is its name in messages.
    pub(crate) fn open(
        bytes: &'a [u8],
        format: &'static str,
        source: &'a SourceInfo,
        work: &'a Work,
    ) -> Result<Self, DocumentError> {
        let damaged = |reason: String| DocumentError::Damaged { uri: source.uri.clone(), format, reason };
        let archive = ZipArchive::new(Cursor::new(bytes))
            .map_err(|error| damaged(format!("its ZIP directory cannot be read: {error}")))?;
        if archive.len() > MAX_PARTS {
            return Err(damaged(format!("it lists {} parts, and more than {MAX_PARTS} are not read", archive.len())));
        }
        Ok(Self { archive, format, source, work, left: work.max_unpacked_bytes() })
    }

    /// The bytes of a part, or `None` if there is no such part.
    pub(crate) fn part(&mut self, name: &str) -> Result<Option<Vec<u8>>, DocumentError> {
        self.work.check(self.source)?;
        let (uri, format) = (self.source.uri.clone(), self.format);
        let file = match self.archive.by_name(name) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => {
                let reason = format!("its part {name:?} cannot be opened: {error}");
                return Err(DocumentError::Damaged { uri, format, reason });
            }
        };
        if file.encrypted() {
            let hint = "passwords of ZIP containers are not supported";
            return Err(DocumentError::Protected { uri: self.source.uri.clone(), hint });
        }
        let mut content = Vec::new();
        let limit = u64::try_from(self.left).unwrap_or(u64::MAX).saturating_add(1);
        let read = file.take(limit).read_to_end(&mut content);
        if content.len() > self.left {
            return Err(self.work.too_much(self.source));
        }
        read.map_err(|error| self.damaged(format!("its part {name:?} cannot be unpacked: {error}")))?;
        self.left -= content.len();
        Ok(Some(content))
    }

    /// The characters of a part that is text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, DocumentError> {
        let Some(content) = self.part(name)? else { return Ok(None) };
        match decode::decode(&content, &format!("{}/{name}", self.source.uri), None) {
            Ok(text) => Ok(Some(text)),
            Err(DocumentError::Empty { .. }) => Ok(Some(String::new())),
            Err(error) => Err(error),
        }
    }

    /// [`DocumentError::Damaged`] for this file.
    pub(crate) fn damaged(&self, reason: String) -> DocumentError {
        DocumentError::Damaged { uri: self.source.uri.clone(), format: self.format, reason }
    }
}

/// What a ZIP container is, by its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Docx,
    Epub,
    /// Another container, as the rest of a sentence.
    Other(&'static str),
    /// The directory cannot be read.
    Broken,
}

/// Looks into the directory of the ZIP container in `bytes`.
pub(crate) fn container(bytes: &[u8]) -> Container {
    let Ok(archive) = ZipArchive::new(Cursor::new(bytes)) else { return Container::Broken };
    let has = |name: &str| archive.index_for_name(name).is_some();
    if has("word/document.xml") {
        Container::Docx
    } else if has("META-INF/container.xml") {
        Container::Epub
    } else if has("xl/workbook.xml") {
        Container::Other("is an Excel workbook (save its sheets as CSV)")
    } else if has("ppt/presentation.xml") {
        Container::Other("is a PowerPoint presentation (save it as PDF)")
    } else if has("content.xml") {
        Container::Other("is an OpenDocument file (save it as DOCX or PDF)")
    } else {
        Container::Other("is a ZIP archive (unpack it first)")
    }
}
