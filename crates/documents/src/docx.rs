//! Word documents (DOCX, ECMA-376 part 1, WordprocessingML).
//!
//! Read: the body in order, with headings (by outline level of the style), lists with the numbers Word shows, tables,
//! code, text boxes, formulas as plain characters, and the notes, each after the paragraph that refers to it. Insertions
//! are taken and deletions left out, as if all changes were accepted. Left out: headers and footers, comments, tables of
//! contents, hidden text, pictures. DOCX has no pages until it is laid out, so there are no page numbers.

mod body;
mod numbering;
mod styles;

use std::collections::HashMap;

use crate::assemble::Assembler;
use crate::detect;
use crate::package::Package;
use crate::parser::{Front, finish};
use crate::xml::{Node, Xml};
use crate::{DocumentError, ParsedDocument, Parser, SourceInfo, Work};

use body::Body;
use numbering::Numbering;
use styles::Styles;

/// Name of the format in messages.
const FORMAT: &str = "DOCX";

/// Parser of DOCX.
pub struct DocxParser;

impl Parser for DocxParser {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn media_types(&self) -> &'static [&'static str] {
        &[detect::DOCX]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["docx"]
    }

    fn is_packed(&self) -> bool {
        true
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let mut package = Package::open(bytes, FORMAT, source, work)?;
        let main = "word/document.xml";
        let Some(document) = package.text(main)? else {
            return Err(package.damaged(format!("it has no part {main:?}")));
        };
        let mut part = |name: &str| Ok::<_, DocumentError>(package.text(name)?.unwrap_or_default());
        let (styles, numbering) = (part("word/styles.xml")?, part("word/numbering.xml")?);
        let (footnotes, endnotes) = (part("word/footnotes.xml")?, part("word/endnotes.xml")?);
        let core = part("docProps/core.xml")?;
        let xml = |text, name| Xml::new(text, name, FORMAT, source, work);
        let styles = Styles::read(xml(&styles, "word/styles.xml"))?;
        let mut notes = HashMap::new();
        body::notes(xml(&footnotes, "word/footnotes.xml"), "footnote", &mut notes)?;
        body::notes(xml(&endnotes, "word/endnotes.xml"), "endnote", &mut notes)?;
        let numbering = Numbering::read(xml(&numbering, "word/numbering.xml"))?;
        let mut out = Assembler::default();
        let body = Body::new(&styles, numbering, &notes, &mut out);
        let title = body.read(xml(&document, main))?;
        let mut front = properties(xml(&core, "docProps/core.xml"))?;
        let declared = front.titles.first().cloned();
        // The title on the page is what readers know; the property is often left from a template.
        front.titles.splice(0..0, title.clone());
        let assembled = out.finish(title.or(declared).as_deref());
        finish(self, source, assembled, front)
    }
}

/// The core properties (ISO/IEC 29500-2, Dublin Core terms).
fn properties(mut xml: Xml<'_>) -> Result<Front, DocumentError> {
    let mut front = Front::default();
    let mut text = String::new();
    while let Some(node) = xml.next()? {
        match node {
            Node::Open(..) => text.clear(),
            Node::Text(part) => text.push_str(&part),
            Node::Close(name) => {
                let key = match name.as_str() {
                    "title" => "title",
                    "creator" => "author",
                    "created" => "date",
                    "modified" => "modified",
                    "subject" => "subject",
                    "description" => "description",
                    "keywords" => "keywords",
                    "language" => "language",
                    _ => continue,
                };
                front.add(key, &text);
                match key {
                    "title" if !text.trim().is_empty() => front.titles.push(text.trim().to_owned()),
                    "language" => front.language = Some(text.trim().to_owned()),
                    _ => {}
                }
            }
        }
    }
    Ok(front)
}
