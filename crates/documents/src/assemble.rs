//! Builds normalised text and blocks from a stream of structural events; shared by the parsers of marked-up formats.
//!
//! A parser opens and closes headings, lists, tables and quotations and adds text in between. Spans are exact by
//! construction: each block is normalised before it is appended, and nothing is changed afterwards.
//!
//! Inside a table cell everything becomes one line; inside a list everything becomes lines of that list. Headings
//! there are ordinary text, since a section cannot begin in the middle of a block. Headings inside a quotation open
//! sections that end with the quotation.

use std::collections::BTreeMap;

use edgewise_types::{PageMap, Span};

use crate::normalise::{normalise, one_line, truncated};
use crate::{Block, BlockKind};

/// Longest title kept in heading paths, in bytes. The heading's own text is kept whole.
const MAX_TITLE_BYTES: usize = 200;
/// List levels that are indented; deeper ones are shown at this depth, so that output stays linear in the input.
const MAX_INDENTED_LEVELS: usize = 8;
/// Most rows or columns a cell is taken to span.
const MAX_SPAN: usize = 100;

/// Finished text and blocks.
pub(crate) struct Assembled {
    pub text: String,
    pub blocks: Vec<Block>,
}

#[derive(Clone)]
struct Section {
    level: u8,
    title: String,
}

struct List {
    /// Number of the next item; `None` for a list with bullets.
    next: Option<u64>,
    /// Marker of the item just opened, until its first line takes it.
    marker: Option<String>,
}

#[derive(Default)]
struct Table {
    /// Tables open inside this one; they are flattened.
    nested: usize,
    rows: Vec<String>,
    row: Vec<String>,
    cell: String,
    /// What separates the next text from the cell's text so far.
    joint: &'static str,
    /// Cells that reach into rows below, by column: rows left and text.
    reaching: BTreeMap<usize, (usize, String)>,
    /// The cells of the row before, for formats that mark a cell as the continuation of the one above.
    above: Vec<String>,
}

impl Table {
    /// Adds the cells that reach down into the next columns of this row.
    fn repeat_reaching(&mut self) {
        while let Some((rows, text)) = self.reaching.get_mut(&self.row.len()) {
            self.row.push(text.clone());
            *rows -= 1;
            if *rows == 0 {
                self.reaching.remove(&(self.row.len() - 1));
            }
        }
    }

    fn push_cell(&mut self, rows: usize, columns: usize) {
        self.repeat_reaching();
        let text = std::mem::take(&mut self.cell);
        if (2..=MAX_SPAN).contains(&rows) && !text.is_empty() {
            self.reaching.insert(self.row.len(), (rows - 1, truncated(&text, MAX_TITLE_BYTES)));
        }
        self.row.push(text);
        // The further columns of a wide cell stay blank, which keeps the cells after it under their headings.
        self.row.extend(std::iter::repeat_n(String::new(), columns.clamp(1, MAX_SPAN) - 1));
    }

    fn push_row(&mut self) {
        if !self.cell.is_empty() {
            self.push_cell(1, 1);
        }
        let is_blank = self.row.iter().all(String::is_empty);
        if !self.row.is_empty() {
            self.repeat_reaching();
        }
        // A row may end before the column that a cell reaches down in.
        for (rows, _) in self.reaching.range_mut(self.row.len()..).map(|(_, reaching)| reaching) {
            *rows -= 1;
        }
        self.reaching.retain(|_, (rows, _)| *rows > 0);
        let row = std::mem::take(&mut self.row);
        if !is_blank {
            self.rows.push(row.join(" | "));
        }
        self.above = row;
    }

    /// Adds a cell that continues the one above it.
    fn push_merged(&mut self, columns: usize) {
        let text = self.above.get(self.row.len()).map(|text| truncated(text, MAX_TITLE_BYTES)).unwrap_or_default();
        self.cell = text;
        self.push_cell(1, columns);
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Assembler {
    text: String,
    blocks: Vec<Block>,
    outline: Vec<Section>,
    /// For each open quotation, the outline before it.
    quotes: Vec<Vec<Section>>,
    inline: String,
    heading: Option<u8>,
    nested_headings: usize,
    lists: Vec<List>,
    list_text: String,
    table: Option<Table>,
    superscripts: Vec<usize>,
    /// Where printed pages begin, and what they are called.
    pages: Vec<(usize, String)>,
}

impl Assembler {
    /// Notes that the printed page called `label` begins here. Inside a list or table, which becomes text when it ends,
    /// it begins where that does.
    pub(crate) fn page(&mut self, label: &str) {
        let label = one_line(label);
        if label.is_empty() {
            return;
        }
        let next_block = if self.text.is_empty() { 0 } else { self.text.len() + 2 };
        let is_running = self.lists.is_empty() && self.table.is_none();
        let within = if is_running { self.inline.trim_start().len() } else { 0 };
        self.pages.push((next_block + within, label));
    }

    /// The printed pages noted so far. Call it when all is assembled.
    pub(crate) fn pages(&self) -> PageMap {
        let (starts, labels): (Vec<usize>, Vec<String>) = self.pages.iter().cloned().unzip();
        PageMap::new(starts.into_iter().map(|start| start.min(self.text.len())).collect()).with_labels(labels)
    }

    /// Appends running text; white space, line breaks included, collapses to single spaces.
    pub(crate) fn text(&mut self, text: &str) {
        for character in text.chars() {
            if is_collapsible(character) {
                self.space();
            } else {
                self.inline.push(character);
            }
        }
    }

    fn space(&mut self) {
        if !self.inline.is_empty() && !self.inline.ends_with([' ', '\n']) {
            self.inline.push(' ');
        }
    }

    /// A line break inside a paragraph.
    pub(crate) fn line_break(&mut self) {
        let kept = self.inline.trim_end_matches(' ').len();
        self.inline.truncate(kept);
        self.inline.push('\n');
    }

    /// Begins a superscript.
    pub(crate) fn open_superscript(&mut self) {
        self.superscripts.push(self.inline.len());
    }

    /// Ends a superscript: digits become `⁶`, other exponents `^n` or `^(n − 1)`, so that 10⁶ is never read as 106.
    /// Ordinals (`1st`) and marks that follow no letter or digit stay as they are.
    pub(crate) fn close_superscript(&mut self) {
        let Some(start) = self.superscripts.pop().filter(|start| self.inline.is_char_boundary(*start)) else { return };
        let raised = self.inline.split_off(start);
        let base = self.inline.chars().next_back();
        let is_ordinal = ["st", "nd", "rd", "th"].contains(&raised.as_str());
        let digits: Option<String> = raised.chars().map(superscript_digit).collect();
        if is_ordinal || raised.is_empty() || !base.is_some_and(|c| c.is_alphanumeric() || c == ')') {
            self.inline.push_str(&raised);
        } else if let Some(digits) = digits {
            self.inline.push_str(&digits);
        } else if raised.chars().all(char::is_alphanumeric) {
            self.inline.push('^');
            self.inline.push_str(&raised);
        } else if raised.starts_with(char::is_alphanumeric) {
            self.inline.push_str(&format!("^({})", raised.trim_end()));
        } else {
            self.inline.push_str(&raised);
        }
    }

    /// Ends the paragraph in progress, if any. Parsers call it at every block boundary.
    pub(crate) fn flush(&mut self) {
        if self.heading.is_some() {
            self.space();
            return;
        }
        self.superscripts.clear();
        let inline = std::mem::take(&mut self.inline);
        let run = inline.trim();
        if run.is_empty() {
            return;
        }
        if let Some(table) = &mut self.table {
            if !table.cell.is_empty() {
                table.cell.push_str(table.joint);
            }
            table.joint = " ";
            table.cell.push_str(&one_line(run));
        } else if self.lists.is_empty() {
            let kind = if self.quotes.is_empty() { BlockKind::Paragraph } else { BlockKind::Quote };
            self.push_block(kind, run);
        } else {
            self.push_list_lines(run);
        }
    }

    /// Begins a heading of `level` 1 to 6.
    pub(crate) fn open_heading(&mut self, level: u8) {
        self.flush();
        if self.heading.is_some() || self.table.is_some() || !self.lists.is_empty() {
            self.nested_headings += 1;
        } else {
            self.heading = Some(level.clamp(1, 6));
        }
    }

    /// Ends the heading.
    pub(crate) fn close_heading(&mut self) {
        if self.nested_headings > 0 {
            self.nested_headings -= 1;
            self.flush();
            return;
        }
        let Some(level) = self.heading.take() else { return };
        self.superscripts.clear();
        let line = normalise(&one_line(&std::mem::take(&mut self.inline)));
        if line.is_empty() {
            return;
        }
        let title = truncated(&line, MAX_TITLE_BYTES);
        while self.outline.last().is_some_and(|section| section.level >= level) {
            self.outline.pop();
        }
        self.outline.push(Section { level, title: title.clone() });
        self.push_block(BlockKind::Heading { level, title }, &line);
    }

    /// Begins a list, numbered from `start` or with bullets.
    pub(crate) fn open_list(&mut self, start: Option<u64>) {
        self.flush();
        self.lists.push(List { next: start, marker: None });
    }

    /// Begins a list item.
    pub(crate) fn open_item(&mut self) {
        self.flush();
        if let Some(table) = &mut self.table {
            table.joint = "; ";
        } else if let Some(list) = self.lists.last_mut() {
            list.marker = Some(match &mut list.next {
                Some(number) => {
                    let marker = format!("{number}. ");
                    *number = number.saturating_add(1);
                    marker
                }
                None => "- ".to_owned(),
            });
        }
    }

    /// Gives the item just opened a marker of its own, such as `2.1.`, in place of bullet or number.
    pub(crate) fn mark_item(&mut self, marker: &str) {
        if let Some(list) = self.lists.last_mut().filter(|list| list.marker.is_some()) {
            list.marker = Some(if marker.is_empty() { String::new() } else { format!("{marker} ") });
        }
    }

    /// Ends a list item.
    pub(crate) fn close_item(&mut self) {
        self.flush();
        if let Some(list) = self.lists.last_mut() {
            list.marker = None;
        }
    }

    /// Ends the innermost list; the outermost becomes a block.
    pub(crate) fn close_list(&mut self) {
        self.flush();
        self.lists.pop();
        if self.lists.is_empty() && self.heading.is_none() {
            let text = std::mem::take(&mut self.list_text);
            self.push_block(BlockKind::List, &text);
        }
    }

    fn push_list_lines(&mut self, run: &str) {
        let depth = self.lists.len().clamp(1, MAX_INDENTED_LEVELS);
        let indent = "  ".repeat(depth - 1);
        let prefix = self.lists.last_mut().and_then(|list| list.marker.take()).unwrap_or_default();
        // An outer item whose first line is this inner one shows no marker of its own.
        for list in &mut self.lists {
            list.marker = None;
        }
        for (index, line) in run.split('\n').enumerate() {
            if !self.list_text.is_empty() {
                self.list_text.push('\n');
            }
            self.list_text.push_str(&indent);
            self.list_text.push_str(if index == 0 && !prefix.is_empty() { &prefix } else { "  " });
            self.list_text.push_str(line);
        }
    }

    /// Adds preformatted text.
    pub(crate) fn code(&mut self, code: &str) {
        self.flush();
        if self.heading.is_some() || self.table.is_some() {
            self.text(code);
            self.flush();
        } else if self.lists.is_empty() {
            self.push_block(BlockKind::Code, code);
        } else {
            let code = normalise(code);
            if !code.is_empty() {
                self.push_list_lines(&code);
            }
        }
    }

    /// Begins a table; one inside another is flattened into its cell.
    pub(crate) fn open_table(&mut self) {
        self.flush();
        match &mut self.table {
            Some(table) => table.nested += 1,
            None => self.table = Some(Table { joint: " ", ..Table::default() }),
        }
    }

    /// Ends a table cell that spans `rows` and `columns`.
    pub(crate) fn close_cell(&mut self, rows: usize, columns: usize) {
        self.flush();
        match &mut self.table {
            Some(table) if table.nested == 0 => table.push_cell(rows, columns),
            Some(table) => table.joint = "; ",
            None => {}
        }
    }

    /// Ends a table cell that continues the one above it; its own text, if any, goes.
    pub(crate) fn close_merged_cell(&mut self, columns: usize) {
        self.flush();
        if let Some(table) = self.table.as_mut().filter(|table| table.nested == 0) {
            table.push_merged(columns);
        }
    }

    /// Ends a table row. A row of blank cells is dropped.
    pub(crate) fn close_row(&mut self) {
        self.flush();
        if let Some(table) = self.table.as_mut().filter(|table| table.nested == 0) {
            table.push_row();
        }
    }

    /// Ends the innermost table.
    pub(crate) fn close_table(&mut self) {
        self.flush();
        if let Some(table) = self.table.as_mut().filter(|table| table.nested > 0) {
            table.nested -= 1;
            return;
        }
        self.close_row();
        let Some(table) = self.table.take() else { return };
        let text = table.rows.join("\n");
        if self.heading.is_some() || text.is_empty() {
            return;
        }
        if self.lists.is_empty() {
            self.push_block(BlockKind::Table, &text);
        } else {
            self.push_list_lines(&text);
        }
    }

    /// Whether a table is open.
    pub(crate) fn in_table(&self) -> bool {
        self.table.is_some()
    }

    /// Begins a quotation.
    pub(crate) fn open_quote(&mut self) {
        self.flush();
        self.quotes.push(self.outline.clone());
    }

    /// Ends a quotation and the sections that began in it.
    pub(crate) fn close_quote(&mut self) {
        self.flush();
        if let Some(before) = self.quotes.pop() {
            self.outline = before;
        }
    }

    /// Appends a block, normalised; nothing if it is blank.
    pub(crate) fn push_block(&mut self, kind: BlockKind, raw: &str) {
        let block = normalise(raw);
        if block.is_empty() {
            return;
        }
        if !self.text.is_empty() {
            self.text.push_str("\n\n");
        }
        let start = self.text.len();
        self.text.push_str(&block);
        let heading_path = self.outline.iter().map(|section| section.title.clone()).collect();
        self.blocks.push(Block { span: Span::new(start, self.text.len()), kind, heading_path });
    }

    /// Length of the text assembled so far: where the next block begins, but for the blank line before it.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Length of the list in progress, a line break after it included.
    pub(crate) fn list_len(&self) -> usize {
        if self.list_text.is_empty() { 0 } else { self.list_text.len() + 1 }
    }

    /// The blocks assembled so far.
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Whether nothing has been assembled yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.inline.trim().is_empty()
    }

    /// The result. `root` is the title the document declares: if no heading is of level 1, it takes that place in
    /// every heading path, so that sections know which document they belong to.
    pub(crate) fn finish(mut self, root: Option<&str>) -> Assembled {
        self.flush();
        let has_top = self.blocks.iter().any(|b| matches!(b.kind, BlockKind::Heading { level: 1, .. }));
        let root = root.map(|title| truncated(&normalise(&one_line(title)), MAX_TITLE_BYTES));
        if let Some(root) = root.filter(|title| !title.is_empty() && !has_top) {
            for block in self.blocks.iter_mut().filter(|block| block.heading_path.first() != Some(&root)) {
                block.heading_path.insert(0, root.clone());
            }
        }
        Assembled { text: self.text, blocks: self.blocks }
    }
}

/// White space that HTML and Markdown collapse. The ideographic space is text.
fn is_collapsible(character: char) -> bool {
    character.is_whitespace() && character != '\u{3000}'
}

fn superscript_digit(character: char) -> Option<char> {
    Some(match character {
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4'..='9' => char::from_u32('⁴' as u32 + (character as u32 - '4' as u32))?,
        '+' => '⁺',
        '-' | '−' => '⁻',
        _ => return None,
    })
}
