//! The parser trait, the choice of a parser for a file, and the containment of parsers that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use edgewise_types::Metadata;

use crate::assemble::Assembled;
use crate::normalise::one_line;
use crate::{DocumentError, Format, HtmlParser, IndexProfile, MarkdownParser, ParsedDocument, PlainTextParser};

/// Where bytes come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceInfo {
    /// Path relative to the ingested folder, or the name given on upload. Its extension chooses the parser.
    pub uri: String,
    /// Media type declared by whoever sent it, if any; used when the extension says nothing.
    pub media_type: Option<String>,
}

impl SourceInfo {
    /// A source known by its name only.
    pub fn new(uri: impl Into<String>) -> Self {
        Self { uri: uri.into(), media_type: None }
    }

    /// Lower-case extension of the last path segment, without the dot.
    pub fn extension(&self) -> Option<String> {
        let (stem, extension) = self.file_name().rsplit_once('.')?;
        (!stem.is_empty() && !extension.is_empty()).then(|| extension.to_lowercase())
    }

    fn file_name(&self) -> &str {
        self.uri.rsplit(['/', '\\']).next().unwrap_or(&self.uri)
    }

    /// The file's name without its extension, as a title of last resort.
    pub(crate) fn stem(&self) -> &str {
        let name = self.file_name();
        match name.rsplit_once('.') {
            Some((stem, _)) if !stem.is_empty() => stem,
            _ => name,
        }
    }
}

/// Turns the bytes of one file format into a document.
pub trait Parser: Send + Sync {
    /// Name for messages, such as `Markdown`.
    fn name(&self) -> &'static str;

    /// Media types it takes, the one it gives its documents first.
    fn media_types(&self) -> &'static [&'static str];

    /// File extensions it takes, lower case, without the dot.
    fn extensions(&self) -> &'static [&'static str];

    /// The document in `bytes`. Its text is never blank: a file without text is [`DocumentError::Empty`].
    fn parse(&self, bytes: &[u8], source: &SourceInfo) -> Result<ParsedDocument, DocumentError>;
}

/// The parsers in use and the size limit they work under.
pub struct ParserRegistry {
    parsers: Vec<Box<dyn Parser>>,
    max_file_bytes: usize,
}

impl ParserRegistry {
    /// The parsers of the formats that `profile` lists, under its limits.
    pub fn new(profile: &IndexProfile) -> Self {
        let parsers = profile.formats.iter().map(|format| -> Box<dyn Parser> {
            match format {
                Format::Markdown => Box::new(MarkdownParser),
                Format::Text => Box::new(PlainTextParser),
                Format::Html => Box::new(HtmlParser),
            }
        });
        Self { parsers: parsers.collect(), max_file_bytes: profile.limits.max_file_bytes }
    }

    /// Largest file accepted, in bytes: check it before reading a file.
    pub fn max_file_bytes(&self) -> usize {
        self.max_file_bytes
    }

    /// Extensions of all parsers, lower case, without the dot.
    pub fn extensions(&self) -> impl Iterator<Item = &'static str> {
        self.parsers.iter().flat_map(|parser| parser.extensions().iter().copied())
    }

    /// Parses `bytes` with the parser that fits: by extension, else by declared media type, else, for a name without
    /// extension, by content. A panic inside the parser comes back as an error.
    pub fn parse(&self, bytes: &[u8], source: &SourceInfo) -> Result<ParsedDocument, DocumentError> {
        if bytes.len() > self.max_file_bytes {
            let (bytes, limit) = (bytes.len(), self.max_file_bytes);
            return Err(DocumentError::TooLarge { uri: source.uri.clone(), bytes, limit });
        }
        parse_isolated(self.choose(bytes, source)?, bytes, source)
    }

    fn choose(&self, bytes: &[u8], source: &SourceInfo) -> Result<&dyn Parser, DocumentError> {
        let find = |accepts: &dyn Fn(&dyn Parser) -> bool| {
            self.parsers.iter().map(|parser| parser.as_ref()).find(|parser| accepts(*parser))
        };
        let of_type = |media_type: &str| find(&|parser| parser.media_types().contains(&media_type));
        let extension = source.extension();
        let by_extension = extension.as_deref().and_then(|e| find(&|parser| parser.extensions().contains(&e)));
        let declared = source.media_type.as_deref().and_then(|declared| {
            let essence = declared.split(';').next().unwrap_or(declared).trim().to_lowercase();
            of_type(&essence)
        });
        let sniffed = || if looks_like_html(bytes) { of_type("text/html") } else { of_type("text/plain") };
        let chosen = match by_extension.or(declared) {
            // Saved web pages often go by `.txt` or by no better type than text/plain.
            Some(parser) if parser.media_types().contains(&"text/plain") => sniffed(),
            Some(parser) => Some(parser),
            None if extension.is_none() => sniffed(),
            None => None,
        };
        chosen.ok_or_else(|| {
            let supported = self.extensions().map(|e| format!(".{e}")).collect::<Vec<_>>().join(" ");
            DocumentError::Unsupported { uri: source.uri.clone(), supported }
        })
    }
}

fn looks_like_html(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let begins = |tag: &[u8]| bytes.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag));
    begins(b"<!doctype html") || begins(b"<html")
}

/// Runs `parser` and turns a panic inside it into [`DocumentError::ParserFailed`], so that one malicious or unlucky
/// file never ends a batch. The process's panic hook still reports the panic.
pub fn parse_isolated(parser: &dyn Parser, bytes: &[u8], source: &SourceInfo) -> Result<ParsedDocument, DocumentError> {
    // Unwind safety: a parser holds no state between calls, and its partial result is dropped.
    catch_unwind(AssertUnwindSafe(|| parser.parse(bytes, source))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let reason = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(DocumentError::ParserFailed {
            uri: source.uri.clone(),
            parser: parser.name(),
            reason: reason.unwrap_or_else(|| "it panicked without a message".to_owned()),
        })
    })
}

/// What a parser knows beside the text.
#[derive(Default)]
pub(crate) struct Front {
    /// Titles by falling trust; the first that is not blank wins, the first heading and the file name follow.
    pub titles: Vec<String>,
    pub metadata: Metadata,
    pub language: Option<String>,
}

/// The document of a parser's output, or [`DocumentError::Empty`].
pub(crate) fn finish(
    parser: &dyn Parser,
    source: &SourceInfo,
    assembled: Assembled,
    front: Front,
) -> Result<ParsedDocument, DocumentError> {
    if assembled.text.is_empty() {
        return Err(DocumentError::Empty { uri: source.uri.clone() });
    }
    let heading = assembled.blocks.iter().find_map(|block| match &block.kind {
        crate::BlockKind::Heading { title, .. } => Some(title.as_str()),
        _ => None,
    });
    let candidates = front.titles.iter().map(String::as_str).chain(heading).chain([source.stem()]);
    let title = candidates.map(one_line).find(|title| !title.is_empty()).unwrap_or_else(|| source.uri.clone());
    Ok(ParsedDocument {
        title,
        media_type: parser.media_types().first().copied().unwrap_or_default().to_owned(),
        text: assembled.text,
        blocks: assembled.blocks,
        metadata: front.metadata,
        language: front.language,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn registry() -> ParserRegistry {
        ParserRegistry::new(&IndexProfile::default())
    }

    fn type_of(uri: &str, media_type: Option<&str>, bytes: &[u8]) -> String {
        let source = SourceInfo { uri: uri.to_owned(), media_type: media_type.map(str::to_owned) };
        registry().parse(bytes, &source).unwrap().media_type
    }

    #[test]
    fn extension_then_declared_type_then_content_choose_the_parser() {
        assert_eq!(type_of("a/B.MD", Some("text/html"), b"x"), "text/markdown");
        assert_eq!(type_of("a.unknown", Some("text/HTML; charset=utf-8"), b"<p>x"), "text/html");
        assert_eq!(type_of("upload", None, b"\n<!DOCTYPE html><p>x"), "text/html");
        assert_eq!(type_of("saved.txt", None, b"<html><p>x"), "text/html");
        assert_eq!(type_of("README", Some("application/octet-stream"), b"x"), "text/plain");
        assert_eq!(type_of("dir.d/.profile", None, b"x"), "text/plain");
    }

    #[test]
    fn unknown_kinds_are_refused_with_the_supported_ones() {
        let error = registry().parse(b"x", &SourceInfo::new("a.xyz")).unwrap_err().to_string();
        assert!(error.contains("a.xyz") && error.contains(".md") && error.contains(".html"), "{error}");
    }

    #[test]
    fn a_picture_named_like_text_is_refused() {
        let error = registry().parse(b"\x89PNG\r\n\x1a\n....", &SourceInfo::new("a.md")).unwrap_err();
        assert!(matches!(error, DocumentError::Binary { .. }), "{error}");
    }

    #[test]
    fn the_size_limit_is_exact() {
        let mut profile = IndexProfile::default();
        profile.limits.max_file_bytes = 4;
        let registry = ParserRegistry::new(&profile);
        assert!(registry.parse(b"four", &SourceInfo::new("a.txt")).is_ok());
        let error = registry.parse(b"fives", &SourceInfo::new("a.txt")).unwrap_err();
        assert!(matches!(error, DocumentError::TooLarge { bytes: 5, limit: 4, .. }), "{error}");
    }

    #[test]
    fn a_panic_in_a_parser_is_an_error_of_the_file() {
        struct Broken;
        impl Parser for Broken {
            fn name(&self) -> &'static str {
                "broken"
            }
            fn media_types(&self) -> &'static [&'static str] {
                &["x/x"]
            }
            fn extensions(&self) -> &'static [&'static str] {
                &["x"]
            }
            fn parse(&self, _: &[u8], _: &SourceInfo) -> Result<ParsedDocument, DocumentError> {
                panic!("index {} out of range", 3)
            }
        }
        let error = parse_isolated(&Broken, b"", &SourceInfo::new("f.x")).unwrap_err().to_string();
        assert!(error.contains("f.x") && error.contains("index 3 out of range"), "{error}");
    }

    #[test]
    fn the_title_falls_back_to_heading_and_file_name() {
        let title = |uri: &str, bytes: &[u8]| registry().parse(bytes, &SourceInfo::new(uri)).unwrap().title;
        assert_eq!(title("a/notes.md", b"---\ntitle: From metadata\n---\n# Heading\n"), "From metadata");
        assert_eq!(title("a/notes.md", b"text\n\n## The `first` heading\n"), "The first heading");
        assert_eq!(title("a/notes.md", b"text"), "notes");
    }
}
