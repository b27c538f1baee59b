//! Walks the body of a document and feeds its paragraphs to the assembler.

use std::collections::HashMap;

use super::numbering::{Marker, Numbering};
use super::styles::{Role, Styles, is_monospaced};
use crate::DocumentError;
use crate::assemble::Assembler;
use crate::xml::{Node, Tag, Xml};

/// Elements whose content is not part of the text: deletions, field codes, the older of two renderings, pictures'
/// descriptions, and change records.
const SKIPPED: &[&str] =
    &["del", "moveFrom", "instrText", "delText", "Fallback", "docPr", "rPrChange", "pPrChange", "sectPr", "annotation"];

/// Text of the footnotes (`footnote:ID`) and endnotes (`endnote:ID`).
pub(super) type Notes = HashMap<String, String>;

/// Reads the notes called `kind` of a notes part.
pub(super) fn notes(mut xml: Xml<'_>, kind: &str, notes: &mut Notes) -> Result<(), DocumentError> {
    let mut open: Option<(String, String)> = None;
    let mut in_text = false;
    while let Some(node) = xml.next()? {
        match node {
            Node::Open(name, tag) if name == kind => {
                // Separators have a type; real notes have none or `normal`.
                let is_real = tag.attribute("type").is_none_or(|kind| kind == "normal");
                open = tag.attribute("id").filter(|_| is_real).map(|id| (format!("{kind}:{id}"), String::new()));
            }
            Node::Open(name, _) => in_text = name == "t",
            Node::Text(text) if in_text => {
                if let Some((_, note)) = &mut open {
                    note.push_str(&text);
                }
            }
            Node::Close(name) if name == kind => {
                let note = open.take().map(|(id, note)| (id, note.trim().to_owned()));
                notes.extend(note.filter(|(_, note)| !note.is_empty()));
            }
            Node::Close(name) => {
                in_text = false;
                if let Some((_, note)) = open.as_mut().filter(|_| name == "p") {
                    note.push(' ');
                }
            }
            Node::Text(_) => {}
        }
    }
    Ok(())
}

/// A piece of a paragraph.
struct Run {
    text: String,
    raised: bool,
}

/// The paragraph being read.
#[derive(Default)]
struct Paragraph {
    style: Option<String>,
    list: (Option<String>, Option<usize>),
    outline: Option<u8>,
    runs: Vec<Run>,
    notes: Vec<String>,
    /// Whether every run with text so far is in a monospaced font.
    mono: Option<bool>,
}

/// Properties of the run being read.
#[derive(Default)]
struct Properties {
    raised: bool,
    hidden: bool,
    mono: Option<bool>,
}

/// A table row's cell being read.
struct Cell {
    columns: usize,
    continues: bool,
}

/// The state of the walk.
pub(super) struct Body<'a> {
    styles: &'a Styles,
    numbering: Numbering,
    notes: &'a Notes,
    out: &'a mut Assembler,
    paragraph: Paragraph,
    /// Paragraphs around the text box being read.
    outer: Vec<Paragraph>,
    run: Properties,
    in_text: bool,
    /// Element being passed over, and how many of its name are open.
    skip: Option<(String, usize)>,
    cells: Vec<Cell>,
    /// Whether properties of a paragraph or of its mark are being read.
    in_properties: bool,
    code: Vec<String>,
    /// List levels open.
    depth: usize,
    title: Option<String>,
}

impl<'a> Body<'a> {
    pub(super) fn new(styles: &'a Styles, numbering: Numbering, notes: &'a Notes, out: &'a mut Assembler) -> Self {
        Self {
            styles,
            numbering,
            notes,
            out,
            paragraph: Paragraph::default(),
            outer: Vec::new(),
            run: Properties::default(),
            in_text: false,
            skip: None,
            cells: Vec::new(),
            in_properties: false,
            code: Vec::new(),
            depth: 0,
            title: None,
        }
    }

    /// Reads `word/document.xml`; the result is the first paragraph in the style of a title.
    pub(super) fn read(mut self, mut xml: Xml<'_>) -> Result<Option<String>, DocumentError> {
        while let Some(node) = xml.next()? {
            match node {
                Node::Open(name, tag) => self.open(name, &tag),
                Node::Close(name) => self.close(&name),
                Node::Text(text) if self.in_text && self.skip.is_none() => self.text(&text),
                Node::Text(_) => {}
            }
        }
        self.end_code();
        self.end_lists(0);
        Ok(self.title)
    }

    fn open(&mut self, name: String, tag: &Tag<'_>) {
        if let Some((skipped, depth)) = &mut self.skip {
            *depth += usize::from(*skipped == name);
            return;
        }
        if SKIPPED.contains(&name.as_str()) {
            self.skip = Some((name, 1));
            return;
        }
        let value = || tag.attribute("val");
        match name.as_str() {
            "p" => self.paragraph = Paragraph::default(),
            "pPr" => self.in_properties = true,
            "pStyle" => self.paragraph.style = value(),
            "numId" => self.paragraph.list.0 = value(),
            "ilvl" => self.paragraph.list.1 = value().and_then(|level| level.parse().ok()),
            "outlineLvl" => self.paragraph.outline = value().and_then(|level| level.parse().ok()),
            "r" => self.run = Properties::default(),
            "vertAlign" if !self.in_properties => self.run.raised = value().as_deref() == Some("superscript"),
            "vanish" if !self.in_properties => self.run.hidden = tag.is_on(),
            "rFonts" if !self.in_properties => {
                self.run.mono = tag.attribute("ascii").map(|font| is_monospaced(&font));
            }
            "t" => self.in_text = true,
            "tab" if !self.in_properties => self.text("\t"),
            "br" | "cr" => self.text(if tag.attribute("type").is_none() { "\n" } else { " " }),
            "noBreakHyphen" => self.text("\u{2011}"),
            "footnoteReference" | "endnoteReference" => {
                let kind = name.strip_suffix("Reference").unwrap_or_default();
                let note = tag.attribute("id").and_then(|id| self.notes.get(&format!("{kind}:{id}")));
                self.paragraph.notes.extend(note.cloned());
            }
            "txbxContent" => self.outer.push(std::mem::take(&mut self.paragraph)),
            "tbl" => {
                self.end_code();
                self.end_lists(0);
                self.out.open_table();
            }
            "tc" => self.cells.push(Cell { columns: 1, continues: false }),
            "gridSpan" => {
                if let Some(cell) = self.cells.last_mut() {
                    cell.columns = value().and_then(|span| span.parse().ok()).unwrap_or(1);
                }
            }
            "vMerge" => {
                if let Some(cell) = self.cells.last_mut() {
                    cell.continues = value().as_deref() != Some("restart");
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, name: &str) {
        if let Some((skipped, depth)) = &mut self.skip {
            if skipped == name {
                *depth -= 1;
                if *depth == 0 {
                    self.skip = None;
                }
            }
            return;
        }
        match name {
            "p" => self.end_paragraph(),
            "pPr" => self.in_properties = false,
            "t" => self.in_text = false,
            "txbxContent" => {
                self.end_code();
                self.end_lists(0);
                self.paragraph = self.outer.pop().unwrap_or_default();
            }
            "tc" => {
                self.end_code();
                self.end_lists(0);
                match self.cells.pop() {
                    Some(Cell { columns, continues: true }) => self.out.close_merged_cell(columns),
                    cell => self.out.close_cell(1, cell.map_or(1, |cell| cell.columns)),
                }
            }
            "tr" => self.out.close_row(),
            "tbl" => self.out.close_table(),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.run.hidden {
            return;
        }
        if !text.trim().is_empty() {
            let style = self.paragraph.style.as_deref();
            let mono = self.run.mono.unwrap_or_else(|| style.is_some_and(|style| self.styles.is_mono(style)));
            self.paragraph.mono = Some(self.paragraph.mono.unwrap_or(true) && mono);
        }
        let raised = self.run.raised;
        match self.paragraph.runs.last_mut().filter(|run| run.raised == raised) {
            Some(run) => run.text.push_str(text),
            None => self.paragraph.runs.push(Run { text: text.to_owned(), raised }),
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        let style = paragraph.style.as_deref();
        let role = style.and_then(|style| self.styles.role(style));
        let outline = paragraph.outline.filter(|level| *level < 9).map(|level| Role::Heading(level + 1));
        let whole: String = paragraph.runs.iter().map(|run| run.text.as_str()).collect();
        let role = role.or(outline);
        // A blank line inside code is part of it; elsewhere a blank paragraph is only space, and has no number.
        if whole.trim().is_empty() {
            if !self.code.is_empty() {
                self.code.push(String::new());
            }
            self.add_notes(&paragraph.notes);
            return;
        }
        let looks_like_code = || whole.contains(['{', '}', '(', ')', ';', '=', '<', '>', '$', '#']);
        if role == Some(Role::Code) || role.is_none() && paragraph.mono == Some(true) && looks_like_code() {
            self.end_lists(0);
            self.code.push(whole);
            self.add_notes(&paragraph.notes);
            return;
        }
        self.end_code();
        let marker = self.marker(&paragraph);
        match role {
            Some(Role::Contents) => {}
            Some(Role::Title) => {
                self.end_lists(0);
                self.title.get_or_insert_with(|| whole.trim().to_owned());
                self.heading(1, &paragraph, None);
            }
            Some(Role::Heading(level)) => {
                self.end_lists(0);
                // Below the title, which takes the first level.
                let level = level.saturating_add(u8::from(self.title.is_some()));
                self.heading(level, &paragraph, marker.map(|(marker, _)| marker));
            }
            _ => match marker {
                Some((marker, level)) => self.item(&paragraph, &marker, level),
                None => {
                    self.end_lists(0);
                    self.runs(&paragraph.runs);
                    self.out.flush();
                }
            },
        }
        self.add_notes(&paragraph.notes);
    }

    /// The marker and list level of a paragraph in a list.
    fn marker(&mut self, paragraph: &Paragraph) -> Option<(Marker, usize)> {
        let from_style = paragraph.style.as_deref().and_then(|style| self.styles.list(style));
        let (number, level) = match (&paragraph.list.0, from_style) {
            (Some(number), style) => (number.clone(), paragraph.list.1.or(style.map(|style| style.1)).unwrap_or(0)),
            (None, Some((number, level))) => (number.clone(), paragraph.list.1.unwrap_or(*level)),
            (None, None) => return None,
        };
        // Number 0 takes a paragraph out of its style's list.
        self.numbering.next(&number, level).map(|marker| (marker, level))
    }

    fn heading(&mut self, level: u8, paragraph: &Paragraph, marker: Option<Marker>) {
        self.out.open_heading(level);
        if let Some(Marker::Number(number)) = marker {
            self.out.text(&number);
            self.out.text(" ");
        }
        self.runs(&paragraph.runs);
        self.out.close_heading();
    }

    fn item(&mut self, paragraph: &Paragraph, marker: &Marker, level: usize) {
        self.end_lists(level + 1);
        if self.depth == level + 1 {
            self.out.close_item();
        }
        while self.depth < level + 1 {
            self.out.open_list(None);
            self.depth += 1;
            if self.depth < level + 1 {
                self.out.open_item();
            }
        }
        self.out.open_item();
        match marker {
            Marker::Number(number) => self.out.mark_item(number),
            Marker::Nothing => self.out.mark_item(""),
            Marker::Bullet => {}
        }
        self.runs(&paragraph.runs);
        self.out.flush();
    }

    fn runs(&mut self, runs: &[Run]) {
        for run in runs {
            if run.raised {
                self.out.open_superscript();
            }
            for (index, line) in run.text.split('\n').enumerate() {
                if index > 0 {
                    self.out.line_break();
                }
                self.out.text(line);
            }
            if run.raised {
                self.out.close_superscript();
            }
        }
    }

    /// The notes a paragraph refers to, as paragraphs after it.
    fn add_notes(&mut self, notes: &[String]) {
        for note in notes {
            self.end_code();
            self.out.text(note);
            self.out.flush();
        }
    }

    fn end_code(&mut self) {
        if !self.code.is_empty() {
            let code = std::mem::take(&mut self.code).join("\n");
            self.out.code(&code);
        }
    }

    /// Closes list levels beyond `depth`.
    fn end_lists(&mut self, depth: usize) {
        while self.depth > depth {
            self.out.close_item();
            self.out.close_list();
            self.depth -= 1;
        }
    }
}
