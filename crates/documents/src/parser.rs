//! The parser trait and the choice of a parser for a file.

use std::sync::Arc;

use edgewise_types::{Metadata, MetadataValue, PageMap};

use crate::assemble::Assembled;
use crate::detect::{self, Shape};
use crate::normalise::one_line;
use crate::{
    AsciidocParser, CodeParser, DocumentError, DocxParser, EpubParser, Format, HtmlParser, IndexProfile, Limits,
    MarkdownParser, ParsedDocument, Passwords, PdfParser, PlainTextParser, RecordsParser, Work, language, metadata,
    parse_isolated, worker,
};

/// Where bytes come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceInfo {
    /// Path relative to the ingested folder, or the name given on upload. Its extension helps to choose the parser.
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

    /// Whether its files are packed or otherwise not text.
    fn is_packed(&self) -> bool {
        false
    }

    /// The document in `bytes`. Its text is never blank: a file without text is [`DocumentError::Empty`]. Loops that
    /// may be long look at `work`, and recursion over the input's nesting is bounded.
    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError>;
}

/// The parsers in use and the limits they work under.
pub struct ParserRegistry {
    parsers: Vec<Arc<dyn Parser>>,
    formats: Vec<Format>,
    limits: Limits,
    passwords: Passwords,
}

impl ParserRegistry {
    /// The parsers of the formats that `profile` lists, under its limits.
    pub fn new(profile: &IndexProfile) -> Self {
        Self::of_parts(&profile.formats, profile.limits, Passwords::default())
    }

    pub(crate) fn of_parts(formats: &[Format], limits: Limits, passwords: Passwords) -> Self {
        let parsers = formats.iter().map(|format| -> Arc<dyn Parser> {
            match format {
                Format::Markdown => Arc::new(MarkdownParser),
                Format::Text => Arc::new(PlainTextParser),
                Format::Html => Arc::new(HtmlParser),
                Format::Pdf => Arc::new(PdfParser),
                Format::Docx => Arc::new(DocxParser),
                Format::Epub => Arc::new(EpubParser),
                Format::Asciidoc => Arc::new(AsciidocParser),
                Format::Records => Arc::new(RecordsParser),
                Format::Code => Arc::new(CodeParser),
            }
        });
        Self { parsers: parsers.collect(), formats: formats.to_vec(), limits, passwords }
    }

    /// The same registry with one more parser, for files that none before it takes. Where files are parsed in other
    /// processes, those have to add it too.
    pub fn with_parser(mut self, parser: Arc<dyn Parser>) -> Self {
        self.parsers.push(parser);
        self
    }

    /// The same registry with passwords to try, in order, on encrypted files.
    pub fn with_passwords(mut self, passwords: Passwords) -> Self {
        self.passwords = passwords;
        self
    }

    /// Largest file accepted, in bytes: check it before reading a file.
    pub fn max_file_bytes(&self) -> usize {
        self.limits.max_file_bytes
    }

    /// Extensions of all parsers, lower case, without the dot.
    pub fn extensions(&self) -> impl Iterator<Item = &'static str> {
        self.parsers.iter().flat_map(|parser| parser.extensions().iter().copied())
    }

    /// Parses `bytes` with the parser that fits: by unmistakable content, else by extension, else by declared media
    /// type, else, for a name without extension, as text. Whatever goes wrong inside the parser, a panic or an endless
    /// loop included, comes back as an error; see [`parse_isolated`] and, for what only another process contains,
    /// [`parse_in_processes`](crate::parse_in_processes).
    pub fn parse(&self, bytes: &[u8], source: &SourceInfo) -> Result<ParsedDocument, DocumentError> {
        if bytes.len() > self.limits.max_file_bytes {
            let (bytes, limit) = (bytes.len(), self.limits.max_file_bytes);
            return Err(DocumentError::TooLarge { uri: source.uri.clone(), bytes, limit });
        }
        if worker::is_on() {
            return worker::parse(&self.formats, self.limits, &self.passwords, bytes, source);
        }
        self.parse_here(bytes, source)
    }

    /// Parses in this process.
    pub(crate) fn parse_here(&self, bytes: &[u8], source: &SourceInfo) -> Result<ParsedDocument, DocumentError> {
        let parser = self.choose(bytes, source)?;
        parse_isolated(parser, bytes, source, &Work::new(self.limits, self.passwords.clone()))
    }

    fn choose(&self, bytes: &[u8], source: &SourceInfo) -> Result<&Arc<dyn Parser>, DocumentError> {
        let find = |accepts: &dyn Fn(&dyn Parser) -> bool| self.parsers.iter().find(|parser| accepts(parser.as_ref()));
        let of_type = |media_type: &str| find(&|parser| parser.media_types().contains(&media_type));
        let extension = source.extension();
        let named = extension.as_deref().and_then(|e| find(&|parser| parser.extensions().contains(&e)));
        let declared = source.media_type.as_deref().and_then(|declared| {
            let essence = declared.split(';').next().unwrap_or(declared).trim().to_lowercase();
            of_type(&essence)
        });
        let wanted = named.or(declared);
        let binary = |found: &str| DocumentError::Binary { uri: source.uri.clone(), found: found.to_owned() };
        // A packed format's extension on what is not packed says nothing.
        let text_wanted = wanted.filter(|parser| !parser.is_packed());
        let chosen = match detect::shape(bytes) {
            Shape::Sure(media_type) => of_type(media_type),
            Shape::BrokenZip => match wanted.filter(|parser| parser.is_packed()) {
                Some(parser) => Some(parser),
                None => return Err(binary("is a ZIP container that is cut off")),
            },
            Shape::Unread(what) => return Err(binary(what)),
            Shape::EncryptedOffice => {
                let hint = "Office encryption is not supported";
                return Err(DocumentError::Protected { uri: source.uri.clone(), hint });
            }
            // A saved page, unless it is source code or the example in a Markdown file.
            Shape::HtmlPage => match text_wanted {
                Some(parser) if !parser.media_types().contains(&"text/plain") => Some(parser),
                _ => of_type("text/html").or(text_wanted),
            },
            Shape::Other if wanted.is_none() && extension.is_some() => None,
            Shape::Other => text_wanted.or_else(|| of_type("text/plain")),
        };
        chosen.ok_or_else(|| {
            let supported = self.extensions().map(|e| format!(".{e}")).collect::<Vec<_>>().join(" ");
            DocumentError::Unsupported { uri: source.uri.clone(), supported }
        })
    }
}

/// What a parser knows beside the text.
#[derive(Default)]
pub(crate) struct Front {
    /// Titles by falling trust; the first that is not blank wins, the first heading and the file name follow.
    pub titles: Vec<String>,
    pub metadata: Metadata,
    pub language: Option<String>,
    pub pages: PageMap,
}

impl Front {
    /// Adds metadata that is not blank to what there is under this key already.
    pub(crate) fn also(&mut self, key: &str, value: &str) {
        let value = one_line(value);
        match self.metadata.get_mut(key) {
            _ if value.is_empty() => {}
            None => self.add(key, &value),
            Some(MetadataValue::List(items)) => items.push(value),
            Some(MetadataValue::Text(first)) => {
                let first = std::mem::take(first);
                self.metadata.insert(key.to_owned(), MetadataValue::List(vec![first, value]));
            }
            Some(_) => {}
        }
    }

    /// Adds metadata that is not blank, unless there is such a key.
    pub(crate) fn add(&mut self, key: &str, value: &str) {
        let value = one_line(value);
        if !value.is_empty() {
            self.metadata.entry(key.to_owned()).or_insert(MetadataValue::Text(value));
        }
    }
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
    let mut metadata = metadata::common(front.metadata);
    let language = front.language.as_deref().and_then(metadata::tag);
    let language = language.or_else(|| match metadata.get("locale").or(metadata.get("language")) {
        Some(MetadataValue::Text(declared)) => metadata::tag(declared),
        _ => None,
    });
    let language = language.or_else(|| language::detect(&assembled.text));
    if let Some(language) = &language {
        metadata.insert("language".to_owned(), MetadataValue::Text(language.clone()));
        metadata = metadata::common(metadata);
    } else {
        // What is no language would only mislead a filter.
        metadata.remove("language");
    }
    if let Some(pages) = front.pages.len().and_then(|pages| i64::try_from(pages).ok()) {
        metadata.entry("pages".to_owned()).or_insert(MetadataValue::Integer(pages));
    }
    Ok(ParsedDocument {
        title,
        media_type: parser.media_types().first().copied().unwrap_or_default().to_owned(),
        text: assembled.text,
        blocks: assembled.blocks,
        metadata,
        language,
        pages: front.pages,
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
        assert!(type_of("named.docx", None, b"plain text after all") == "text/plain");
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
    fn the_title_falls_back_to_heading_and_file_name() {
        let title = |uri: &str, bytes: &[u8]| registry().parse(bytes, &SourceInfo::new(uri)).unwrap().title;
        assert_eq!(title("a/notes.md", b"---\ntitle: From metadata\n---\n# Heading\n"), "From metadata");
        assert_eq!(title("a/notes.md", b"text\n\n## The `first` heading\n"), "The first heading");
        assert_eq!(title("a/notes.md", b"text"), "notes");
    }
}
