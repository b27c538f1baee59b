//! From a source to a document ready for embedding: read, compare, parse, cut, count.
//!
//! Runs on many threads. Whatever is wrong with a source ends in [`Prepared::Failed`] with a sentence that says what to
//! do; nothing here stops an ingest.
//!
//! Deliberately not here: embedding and the catalog.

use std::{borrow::Cow, fs, io};

use edgewise_catalog::{NewChunk, NewDocument};
use edgewise_documents::{DocumentError, IndexProfile, ParserRegistry, Passwords, SourceInfo, chunk, embedding_text};
use edgewise_types::ContentHash;

use crate::{RetrievalModels, Source, SourceContent};

/// What became of a source before embedding.
pub(crate) enum Prepared {
    /// The collection has it with this content.
    Unchanged,
    /// To be embedded and committed.
    Ready(Box<Draft>),
    /// It can't be ingested, and why.
    Failed(String),
}

/// A document whose chunks have no vectors yet.
pub(crate) struct Draft {
    /// The document; embeddings are empty.
    pub(crate) document: NewDocument,
    /// What is embedded, chunk by chunk.
    pub(crate) texts: Vec<String>,
}

/// Prepares sources under one profile.
pub(crate) struct Preparer<'a> {
    registry: ParserRegistry,
    profile: &'a IndexProfile,
    models: &'a RetrievalModels,
}

impl<'a> Preparer<'a> {
    pub(crate) fn new(profile: &'a IndexProfile, models: &'a RetrievalModels, passwords: &Passwords) -> Self {
        let registry = ParserRegistry::new(profile).with_passwords(passwords.clone());
        Self { registry, profile, models }
    }

    /// Reads `source` and, if its content is not `known`, makes a draft of it.
    pub(crate) fn prepare(&self, source: &Source, known: Option<&ContentHash>) -> Prepared {
        let bytes = match self.read(source) {
            Ok(bytes) => bytes,
            Err(reason) => return Prepared::Failed(reason),
        };
        let hash = ContentHash::of(&bytes);
        if known == Some(&hash) {
            return Prepared::Unchanged;
        }
        match self.draft(source, &bytes, hash) {
            Ok(draft) => Prepared::Ready(Box::new(draft)),
            Err(error) => Prepared::Failed(error.to_string()),
        }
    }

    fn read<'s>(&self, source: &'s Source) -> Result<Cow<'s, [u8]>, String> {
        let limit = self.registry.max_file_bytes();
        match &source.content {
            SourceContent::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            SourceContent::File(path) => {
                let unreadable = |error: io::Error| {
                    let what_to_do = match error.kind() {
                        io::ErrorKind::NotFound => "it was there when the files were listed; run the command again",
                        io::ErrorKind::PermissionDenied => "allow reading it, or exclude it",
                        _ => "check the disk, or exclude it",
                    };
                    format!("cannot read `{}` ({error}): {what_to_do}", path.display())
                };
                // Before reading: a file of many gigabytes must not end up in memory to be refused there.
                let bytes = fs::metadata(path).map_err(unreadable)?.len();
                if bytes > limit as u64 {
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    return Err(DocumentError::TooLarge { uri: source.uri.clone(), bytes, limit }.to_string());
                }
                fs::read(path).map(Cow::Owned).map_err(unreadable)
            }
        }
    }

    fn draft(&self, source: &Source, bytes: &[u8], content_hash: ContentHash) -> Result<Draft, DocumentError> {
        let info = SourceInfo { uri: source.uri.clone(), media_type: source.media_type.clone() };
        let parsed = self.registry.parse(bytes, &info)?;
        let drafts = chunk(&parsed, self.models.embedder.tokenizer(), &self.profile.chunk)?;
        let tokenizer = self.models.tokenizer.as_ref();
        let mut texts = Vec::with_capacity(drafts.len());
        let mut chunks = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let text = draft
                .span
                .slice(&parsed.text)
                .map_err(|error| DocumentError::InvalidBlocks { reason: error.to_string() })?;
            texts.push(embedding_text(&draft.heading_path, text));
            chunks.push(NewChunk {
                span: draft.span,
                generator_tokens: tokenizer.count(text)?,
                section: draft.section,
                heading_path: draft.heading_path,
                embedder_tokens: draft.embedder_tokens,
                embedding: Vec::new(),
            });
        }
        let document = NewDocument {
            uri: source.uri.clone(),
            title: parsed.title,
            media_type: parsed.media_type,
            content_hash,
            tokens: tokenizer.count(&parsed.text)?,
            metadata: parsed.metadata,
            updated_at: jiff::Timestamp::now(),
            text: parsed.text,
            pages: parsed.pages,
            chunks,
        };
        Ok(Draft { document, texts })
    }
}

/// Bytes a source is going to take when it is read, for sizing batches; 0 if that can't be told.
pub(crate) fn size_hint(source: &Source) -> u64 {
    match &source.content {
        SourceContent::Bytes(bytes) => bytes.len() as u64,
        SourceContent::File(path) => fs::metadata(path).map_or(0, |metadata| metadata.len()),
    }
}
