//! EPUB books (EPUB 3.3 and 2.0.1): the chapters in the order of the spine, each read as HTML.
//!
//! Pages are those of the printed edition, where its page breaks are marked in the chapters; citations then carry its
//! page numbers.
//!
//! Left out: the navigation document and items that are not read in order (`linear="no"` is read, as notes often are).

use std::collections::HashMap;

use scraper::Html;

use crate::assemble::Assembler;
use crate::detect;
use crate::html;
use crate::package::Package;
use crate::parser::{Front, finish};
use crate::xml::{Node, Xml};
use crate::{DocumentError, ParsedDocument, Parser, SourceInfo, Work};

const FORMAT: &str = "EPUB";

/// Elements of HTML that have no content and no end tag.
const VOID: &[&str] =
    &["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"];

/// Parser of EPUB.
pub struct EpubParser;

impl Parser for EpubParser {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn media_types(&self) -> &'static [&'static str] {
        &[detect::EPUB]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["epub"]
    }

    fn is_packed(&self) -> bool {
        true
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let mut package = Package::open(bytes, FORMAT, source, work)?;
        let missing = |package: &Package<'_>, what: &str| package.damaged(format!("it has no part {what:?}"));
        let container = "META-INF/container.xml";
        let Some(text) = package.text(container)? else { return Err(missing(&package, container)) };
        let Some(root) = root_file(Xml::new(&text, container, FORMAT, source, work))? else {
            return Err(package.damaged("its container names no package document".to_owned()));
        };
        let Some(text) = package.text(&root)? else { return Err(missing(&package, &root)) };
        let book = Book::read(Xml::new(&text, &root, FORMAT, source, work))?;
        let encrypted = package.text("META-INF/encryption.xml")?.unwrap_or_default();
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut out = Assembler::default();
        for href in &book.spine {
            work.check(source)?;
            let name = resolved(folder, href);
            // Font files may be obfuscated in an open book; encrypted chapters can't be read.
            if encrypted.contains(&format!("\"{name}\"")) {
                let hint = "its chapters are under rights management";
                return Err(DocumentError::Protected { uri: source.uri.clone(), hint });
            }
            // A spine may name parts that were left out of the package; the other chapters are still a book.
            let Some(chapter) = package.text(&name)? else { continue };
            let chapter = with_end_tags(&chapter);
            html::check_depth(&chapter, &source.uri)?;
            html::walk(Html::parse_document(&chapter).tree.root(), &mut out);
        }
        let mut front = book.front;
        front.pages = out.pages();
        let assembled = out.finish(front.titles.first().map(String::as_str));
        finish(self, source, assembled, front)
    }
}

/// The package document that the container names first.
fn root_file(mut xml: Xml<'_>) -> Result<Option<String>, DocumentError> {
    while let Some(node) = xml.next()? {
        if let Node::Open(name, tag) = node
            && name == "rootfile"
            && let Some(path) = tag.attribute("full-path")
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// What the package document says.
#[derive(Default)]
struct Book {
    front: Front,
    /// Chapters in reading order, as written in the manifest.
    spine: Vec<String>,
}

impl Book {
    fn read(mut xml: Xml<'_>) -> Result<Self, DocumentError> {
        let mut book = Self::default();
        let mut items: HashMap<String, String> = HashMap::new();
        let mut text = String::new();
        while let Some(node) = xml.next()? {
            match node {
                Node::Open(name, tag) if name == "item" => {
                    let is_page = tag.attribute("media-type").is_some_and(|kind| kind.contains("html"));
                    let is_navigation = tag.attribute("properties").is_some_and(|p| p.split(' ').any(|p| p == "nav"));
                    let item = tag.attribute("id").zip(tag.attribute("href"));
                    items.extend(item.filter(|_| is_page && !is_navigation));
                }
                Node::Open(name, tag) if name == "itemref" => {
                    book.spine.extend(tag.attribute("idref").and_then(|id| items.get(&id).cloned()));
                }
                Node::Open(..) => text.clear(),
                Node::Text(part) => text.push_str(&part),
                Node::Close(name) => {
                    let key = match name.as_str() {
                        "title" => "title",
                        "creator" => "author",
                        "date" => "date",
                        "publisher" => "publisher",
                        "subject" => "subject",
                        "description" => "description",
                        "language" => "language",
                        _ => continue,
                    };
                    let value = text.trim().to_owned();
                    match key {
                        "title" if !value.is_empty() => book.front.titles.push(value.clone()),
                        "language" => book.front.language = book.front.language.or(Some(value.clone())),
                        _ => {}
                    }
                    match key {
                        "author" | "subject" => book.front.also(key, &value),
                        key => book.front.add(key, &value),
                    }
                }
            }
        }
        Ok(book)
    }
}

/// The part that `href` names, relative to `folder`: percent signs decoded, `.` and `..` followed, the fragment cut.
fn resolved(folder: &str, href: &str) -> String {
    let href = href.split('#').next().unwrap_or_default();
    let mut decoded = Vec::with_capacity(href.len());
    let mut bytes = href.bytes();
    while let Some(byte) = bytes.next() {
        let mut pair = bytes.clone();
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (byte, digit(pair.next()), digit(pair.next())) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                bytes = pair;
            }
            _ => decoded.push(byte),
        }
    }
    let path = String::from_utf8_lossy(&decoded).into_owned();
    let mut parts: Vec<&str> = Vec::new();
    let from_root = path.starts_with('/');
    for part in folder.split('/').filter(|_| !from_root).chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// XHTML with its empty elements written out (`<title/>` becomes `<title></title>`), which HTML reads as left open.
fn with_end_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once('<') {
        out.push_str(before);
        out.push('<');
        rest = tag;
        let name: &str = &tag[..tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len())];
        if name.is_empty() {
            continue;
        }
        let Some(end) = tag_end(tag) else { break };
        let inside = &tag[..end];
        rest = &tag[end..];
        match inside.strip_suffix('/').filter(|_| !VOID.contains(&name)) {
            Some(inside) => {
                out.push_str(inside.trim_end());
                out.push_str("></");
                out.push_str(name);
            }
            None => out.push_str(inside),
        }
    }
    out.push_str(rest);
    out
}

/// Where the `>` of a tag stands, outside quotes.
fn tag_end(tag: &str) -> Option<usize> {
    let mut quote = None;
    tag.bytes().position(|byte| match (quote, byte) {
        (None, b'>') => true,
        (None, b'"' | b'\'') => {
            quote = Some(byte);
            false
        }
        (Some(open), byte) if open == byte => {
            quote = None;
            false
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        assert_eq!(resolved("OEBPS", "text/ch%201.xhtml#top"), "OEBPS/text/ch 1.xhtml");
        assert_eq!(resolved("OEBPS/a", "../b.html"), "OEBPS/b.html");
        assert_eq!(resolved("", "/x/./y%zz.html"), "x/y%zz.html");
        assert_eq!(resolved("a", "../../../etc/passwd"), "etc/passwd");
    }

    #[test]
    fn empty_elements_are_written_out() {
        assert_eq!(
            with_end_tags("<title/><a id='x>' /><br/><p class=\"c\">a < b</p><!-- <i/> -->"),
            "<title></title><a id='x>'></a><br/><p class=\"c\">a < b</p><!-- <i></i> -->"
        );
    }
}
