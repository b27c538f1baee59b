//! A pull reader over XML: open and close tags by local name, text with entities resolved, nesting bounded.
//!
//! Entities a document defines itself are not expanded, so that none can grow; processing instructions, comments and
//! document types are passed over.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::{DocumentError, SourceInfo, Work};

/// Deepest nesting of elements accepted. Text boxes in tables in text boxes reach some tens.
const MAX_DEPTH: usize = 512;
/// Events between two looks at the clock.
const CHECK_EVERY: usize = 4096;

/// A start tag.
pub(crate) struct Tag<'t> {
    start: BytesStart<'t>,
}

impl Tag<'_> {
    /// The value of the attribute with this local name, entities resolved.
    pub(crate) fn attribute(&self, local: &str) -> Option<String> {
        let attribute = self.start.attributes().flatten().find(|a| a.key.local_name().as_ref() == local)?;
        attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).ok().map(|value| value.into_owned())
    }

    /// Whether the element has a `w:val` that does not switch the property off, or none (which switches it on).
    pub(crate) fn is_on(&self) -> bool {
        !matches!(self.attribute("val").as_deref(), Some("0" | "false" | "off" | "none"))
    }
}

/// What the reader meets.
pub(crate) enum Node<'t> {
    /// A start tag; an empty element is a start and an end.
    Open(String, Tag<'t>),
    /// An end tag.
    Close(String),
    /// Characters.
    Text(String),
}

/// See the module.
pub(crate) struct Xml<'t> {
    reader: Reader<&'t [u8]>,
    part: &'t str,
    format: &'static str,
    source: &'t SourceInfo,
    work: &'t Work,
    depth: usize,
    events: usize,
}

impl<'t> Xml<'t> {
    /// Reads `text`, which is the part called `part` of a file of `format`.
    pub(crate) fn new(
        text: &'t str,
        part: &'t str,
        format: &'static str,
        source: &'t SourceInfo,
        work: &'t Work,
    ) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Self { reader, part, format, source, work, depth: 0, events: 0 }
    }

    /// The next node; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Node<'t>>, DocumentError> {
        loop {
            self.events += 1;
            if self.events.is_multiple_of(CHECK_EVERY) {
                self.work.check(self.source)?;
            }
            let event = self.reader.read_event().map_err(|error| self.damaged(&error.to_string()))?;
            match event {
                Event::Start(start) => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(DocumentError::TooDeep { uri: self.source.uri.clone(), limit: MAX_DEPTH });
                    }
                    let name = start.local_name().as_ref().to_owned();
                    return Ok(Some(Node::Open(name, Tag { start })));
                }
                Event::End(end) => {
                    self.depth = self.depth.saturating_sub(1);
                    return Ok(Some(Node::Close(end.local_name().as_ref().to_owned())));
                }
                Event::Text(text) => return Ok(Some(Node::Text(text.xml10_content().into_owned()))),
                Event::CData(text) => return Ok(Some(Node::Text(text.xml10_content().into_owned()))),
                Event::GeneralRef(entity) => {
                    let character = entity.resolve_char_ref().ok().flatten();
                    let named = || quick_xml::escape::resolve_predefined_entity(&entity).map(str::to_owned);
                    let text = character.map(String::from).or_else(named).unwrap_or_default();
                    return Ok(Some(Node::Text(text)));
                }
                Event::Eof if self.depth > 0 => return Err(self.damaged("it ends inside an element")),
                Event::Eof => return Ok(None),
                _ => {}
            }
        }
    }

    fn damaged(&self, reason: &str) -> DocumentError {
        let reason = format!("its part {:?} is not well-formed XML: {reason}", self.part);
        DocumentError::Damaged { uri: self.source.uri.clone(), format: self.format, reason }
    }
}
