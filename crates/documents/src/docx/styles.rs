//! Paragraph styles: which are headings, titles, code, or entries of a table of contents.

use std::collections::{HashMap, HashSet};

use crate::DocumentError;
use crate::xml::{Node, Xml};

/// What a paragraph style means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The title of the document.
    Title,
    /// A heading of level 1 to 9.
    Heading(u8),
    /// Preformatted text.
    Code,
    /// A line of a table of contents.
    Contents,
}

/// A style as declared.
#[derive(Default)]
struct Style {
    name: String,
    based_on: Option<String>,
    outline: Option<u8>,
    list: (Option<String>, Option<usize>),
    mono: bool,
}

/// What styles mean, resolved along `basedOn`.
#[derive(Default)]
pub(super) struct Styles {
    roles: HashMap<String, Role>,
    lists: HashMap<String, (String, usize)>,
    mono: HashSet<String>,
}

impl Styles {
    /// Reads `word/styles.xml`.
    pub(super) fn read(mut xml: Xml<'_>) -> Result<Self, DocumentError> {
        let mut declared: HashMap<String, Style> = HashMap::new();
        let mut open: Option<(String, Style)> = None;
        while let Some(node) = xml.next()? {
            match node {
                Node::Open(name, tag) if name == "style" => {
                    open = tag.attribute("styleId").map(|id| (id, Style::default()));
                }
                Node::Open(name, tag) => {
                    let Some((_, style)) = &mut open else { continue };
                    let value = || tag.attribute("val");
                    match name.as_str() {
                        "name" => style.name = value().unwrap_or_default().to_lowercase(),
                        "basedOn" => style.based_on = value(),
                        "outlineLvl" => style.outline = value().and_then(|level| level.parse().ok()),
                        "numId" => style.list.0 = value(),
                        "ilvl" => style.list.1 = value().and_then(|level| level.parse().ok()),
                        "rFonts" => style.mono = is_monospaced(&tag.attribute("ascii").unwrap_or_default()),
                        _ => {}
                    }
                }
                Node::Close(name) if name == "style" => declared.extend(open.take()),
                _ => {}
            }
        }
        let mut styles = Self::default();
        for id in declared.keys() {
            styles.resolve(id, &declared);
        }
        Ok(styles)
    }

    /// Takes for the style `id` what it or the nearest style it is based on says.
    fn resolve(&mut self, id: &str, declared: &HashMap<String, Style>) {
        let mut at = id;
        let (mut number, mut level) = (None, None);
        // A chain may loop in a damaged file.
        for _ in 0..32 {
            let Some(style) = declared.get(at) else { break };
            let role = style.outline.filter(|level| *level < 9).map(|level| Role::Heading(level + 1));
            if let Some(role) = role_of(&style.name).or(role) {
                self.roles.entry(id.to_owned()).or_insert(role);
            }
            if style.mono {
                self.mono.insert(id.to_owned());
            }
            number = number.or(style.list.0.clone());
            level = level.or(style.list.1);
            let Some(base) = &style.based_on else { break };
            at = base;
        }
        if let Some(number) = number {
            self.lists.insert(id.to_owned(), (number, level.unwrap_or(0)));
        }
    }

    pub(super) fn role(&self, id: &str) -> Option<Role> {
        self.roles.get(id).copied()
    }

    /// Number and level of the list that paragraphs of the style belong to.
    pub(super) fn list(&self, id: &str) -> Option<&(String, usize)> {
        self.lists.get(id)
    }

    /// Whether the style's font is monospaced.
    pub(super) fn is_mono(&self, id: &str) -> bool {
        self.mono.contains(id)
    }
}

/// What a style's name, in lower case, says. Word's built-in names are the same in every language version.
fn role_of(name: &str) -> Option<Role> {
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.trim().parse::<u8>().ok());
    if name == "title" {
        return Some(Role::Title);
    }
    if let Some(level) = number("heading ").filter(|level| (1..=9).contains(level)) {
        return Some(Role::Heading(level));
    }
    if number("toc ").is_some() || name == "toc heading" {
        return Some(Role::Contents);
    }
    const CODE: &[&str] = &["html preformatted", "preformatted text", "source code", "code", "macro text", "verbatim"];
    (CODE.contains(&name) || name.ends_with(" code") || name.starts_with("code ")).then_some(Role::Code)
}

/// Whether a font is monospaced, by name.
pub(super) fn is_monospaced(font: &str) -> bool {
    const NAMES: &[&str] =
        &["courier", "consolas", "menlo", "monaco", "mono", "lucida console", "source code", "fira code", "typewriter"];
    let font = font.to_lowercase();
    NAMES.iter().any(|name| font.contains(name))
}
