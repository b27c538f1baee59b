//! PDF (ISO 32000): text in reading order, with page numbers, headings, tables, lists and code.
//!
//! The crates `hayro-syntax` and `hayro-font` read the file and its fonts; the order of the text is found from where its glyphs stand, not
//! from the order they are drawn in. Headings come from the file's own tags, from its bookmarks, or else from type that
//! stands out. Running titles and page numbers, which come again on many pages, are left out, and words and paragraphs
//! broken at line and page ends joined.
//!
//! Layers that are switched off are not read.
//!
//! Deliberately not here: text recognition in scans, forms and annotations, slanted text such as watermarks, formulas
//! beyond their characters.

mod glyphs;
mod inflate;
mod layers;
mod layout;
mod lines;
mod outline;
mod paragraphs;
mod strings;

use std::sync::Arc;

use edgewise_types::{MetadataValue, PageMap};
use hayro_syntax::object::DateTime;
use hayro_syntax::page::Page;
use hayro_syntax::{DecryptionError, LoadPdfError, Pdf};

use crate::assemble::Assembler;
use crate::detect;
use crate::normalise::{normalise, one_line};
use crate::parser::{Front, finish};
use crate::{BlockKind, DocumentError, ParsedDocument, Parser, SourceInfo, Work};

use glyphs::{Char, Fonts};
use layers::Layers;
use paragraphs::{Kind, PageText, Piece};

const FORMAT: &str = "PDF";
/// How far beside the page text may stand, in points.
const BESIDE: f64 = 5.0;

/// Parser of PDF.
pub struct PdfParser;

impl Parser for PdfParser {
    fn name(&self) -> &'static str {
        FORMAT
    }

    fn media_types(&self) -> &'static [&'static str] {
        &[detect::PDF]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["pdf"]
    }

    fn is_packed(&self) -> bool {
        true
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        inflate::check(bytes, source, work)?;
        let pdf = open(bytes, source, work)?;
        let mut pages = read_pages(&pdf, source, work)?;
        let count = pages.len();
        let has_text = pages.iter().any(|page| !page.regions.is_empty());
        if !has_text && count > 0 {
            return Err(DocumentError::NoTextLayer { uri: source.uri.clone(), pages: count });
        }
        paragraphs::remove_furniture(&mut pages);
        let body = paragraphs::body_size(&pages);
        let pieces = paragraphs::pieces(pages);
        work.check(source)?;
        let levels = levels(&pieces, &outline::entries(&pdf), body);
        let mut front = front(&pdf);
        let (out, starts) = assemble(pieces, &levels, count);
        front.pages = PageMap::new(starts);
        let assembled = out.finish(front.titles.first().map(String::as_str));
        finish(self, source, assembled, front)
    }
}

/// Opens the file, trying the passwords in order if it is encrypted.
fn open(bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<Pdf, DocumentError> {
    let data = Arc::new(bytes.to_vec());
    let encrypted = |hint| Err(DocumentError::Encrypted { uri: source.uri.clone(), hint });
    let mut passwords = work.passwords().iter();
    let mut password = "";
    loop {
        work.check(source)?;
        match Pdf::new_with_password(Arc::clone(&data), password) {
            Ok(pdf) => return Ok(pdf),
            Err(LoadPdfError::Decryption(DecryptionError::PasswordProtected)) => match passwords.next() {
                Some(next) => password = next.as_str(),
                None if work.passwords().is_empty() => return encrypted("no password was given"),
                None => return encrypted("none of the given passwords opens it"),
            },
            Err(LoadPdfError::Decryption(_)) => {
                let hint = "its way of encryption is not supported";
                return Err(DocumentError::Protected { uri: source.uri.clone(), hint });
            }
            Err(LoadPdfError::Invalid) => {
                let reason = "it has no readable cross-reference table or page tree".to_owned();
                return Err(DocumentError::Damaged { uri: source.uri.clone(), format: FORMAT, reason });
            }
        }
    }
}

/// The text of every page, laid out.
fn read_pages(pdf: &Pdf, source: &SourceInfo, work: &Work) -> Result<Vec<PageText>, DocumentError> {
    let (fonts, layers) = (Fonts::new(), Layers::of(pdf));
    let mut pages = Vec::with_capacity(pdf.pages().len());
    let mut bytes = 0;
    for page in pdf.pages().iter() {
        work.check(source)?;
        let (_, height) = page.render_dimensions();
        let chars = read_page(page, &fonts, &layers, source, work)?;
        bytes += chars.iter().map(|char| char.text.len()).sum::<usize>();
        if bytes > work.max_unpacked_bytes() {
            return Err(work.too_much(source));
        }
        // Text in the page's main direction first; what stands across it, such as labels of a diagram, after it.
        let mut turns: Vec<(usize, u8)> =
            (0..4).map(|turns| (chars.iter().filter(|char| char.turns == turns).count(), turns)).collect();
        turns.sort_by_key(|(count, turns)| (std::cmp::Reverse(*count), *turns));
        let mut regions = Vec::new();
        for (_, turns) in turns.into_iter().filter(|(count, _)| *count > 0) {
            let chars: Vec<Char> = chars.iter().filter(|char| char.turns == turns).cloned().collect();
            regions.extend(layout::regions(lines::segments(&chars)));
        }
        pages.push(PageText { height: f64::from(height), regions });
    }
    Ok(pages)
}

fn read_page<'a>(
    page: &Page<'a>,
    fonts: &Fonts<'a>,
    layers: &Layers,
    source: &SourceInfo,
    work: &Work,
) -> Result<Vec<Char>, DocumentError> {
    let (width, height) = page.render_dimensions();
    let (width, height) = (f64::from(width) + BESIDE, f64::from(height) + BESIDE);
    let mut chars = glyphs::chars(page, fonts, layers, source, work)?;
    // Text beside the page is not seen; crop marks and notes of the printer stand there. Turned text has other axes.
    let is_on = |c: &Char| c.x > -BESIDE && c.x < width && c.y > -BESIDE && c.y < height;
    chars.retain(|char| char.turns != 0 || is_on(char));
    Ok(chars)
}

/// The heading level of each piece: from the file's tags, else from its bookmarks, else from type that stands out.
fn levels(pieces: &[Piece], outline: &[outline::Entry], body: f64) -> Vec<Option<u8>> {
    let mut levels: Vec<Option<u8>> = pieces.iter().map(|piece| piece.heading).collect();
    let is_tagged = levels.iter().any(Option::is_some);
    let mut from = 0;
    let mut matched = 0;
    for entry in outline {
        let wanted = letters(&entry.title);
        let near = |piece: &Piece| entry.page.is_none_or(|page| piece.page().abs_diff(page) <= 1);
        let is_it = |piece: &Piece| {
            let text = letters(&piece.text);
            !wanted.is_empty()
                && piece.lines <= 4
                && near(piece)
                && (text == wanted || text.ends_with(&wanted) && text.len() <= wanted.len() + 8)
        };
        let limit = if entry.page.is_some() { pieces.len() } else { (from + 400).min(pieces.len()) };
        if let Some(at) = (from..limit).find(|at| is_it(&pieces[*at])) {
            levels[at] = Some(entry.level);
            from = at + 1;
            matched += 1;
        }
    }
    if is_tagged || matched > 0 && matched * 2 >= outline.len() {
        return levels;
    }
    // Sizes that stand out, largest first; bold type of the body's size comes last.
    let mut sizes: Vec<f64> = Vec::new();
    let candidates = || pieces.iter().filter(|piece| piece.looks_like_heading(body));
    for piece in candidates() {
        if !sizes.iter().any(|size| (size - piece.size).abs() < 0.6) {
            sizes.push(piece.size);
        }
    }
    sizes.sort_by(|a, b| b.total_cmp(a));
    for (piece, level) in pieces.iter().zip(&mut levels).filter(|(_, level)| level.is_none()) {
        if piece.looks_like_heading(body) {
            let rank = sizes.iter().position(|size| (size - piece.size).abs() < 0.6).unwrap_or(0);
            *level = u8::try_from(rank + 1).ok().map(|level| level.min(6));
        }
    }
    levels
}

/// Letters and digits in lower case, for comparing titles.
fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The document of the pieces, and where each page begins in its text.
fn assemble(pieces: Vec<Piece>, levels: &[Option<u8>], count: usize) -> (Assembler, Vec<usize>) {
    let mut out = Assembler::default();
    let mut starts: Vec<Option<usize>> = vec![None; count];
    // Items of the list in progress, with the offset of their first line in the list.
    let mut in_list = false;
    for (piece, level) in pieces.iter().zip(levels) {
        let is_item = level.is_none() && matches!(piece.kind, Kind::Item(_));
        if in_list && !is_item {
            out.close_list();
            in_list = false;
        }
        let (before, pending) = (out.len(), if in_list { out.list_len() } else { 0 });
        match (&piece.kind, level) {
            (Kind::Item(mark), Some(level)) => heading(*level, &format!("{mark} {}", piece.text), &mut out),
            (_, Some(level)) => heading(*level, &piece.text, &mut out),
            (Kind::Text, None) => out.push_block(BlockKind::Paragraph, &one_line(&piece.text)),
            (Kind::Code, None) => out.push_block(BlockKind::Code, &piece.text),
            (Kind::Table(rows), None) => {
                let rows: Vec<String> = rows
                    .iter()
                    .map(|row| row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>().join(" | "))
                    .collect();
                out.push_block(BlockKind::Table, &rows.join("\n"));
            }
            (Kind::Item(mark), None) => {
                if !in_list {
                    out.open_list(None);
                    in_list = true;
                }
                out.open_item();
                if !mark.is_empty() {
                    out.mark_item(mark);
                }
                out.text(&piece.text);
                out.close_item();
            }
        }
        for (page, offset) in &piece.pages {
            let Some(start) = starts.get_mut(*page).filter(|start| start.is_none()) else { continue };
            let block = if before == 0 { 0 } else { before + 2 };
            let within = if *offset == 0 { 0 } else { normalise(&piece.text[..*offset]).len() + 1 };
            // A list is added when it ends, so what of it has been read is counted apart.
            let most = if is_item { block + out.list_len() } else { out.len().max(block) };
            *start = Some((block + pending + within).min(most));
        }
    }
    if in_list {
        out.close_list();
    }
    // A page without text begins where the next one does.
    let mut next = out.len();
    let mut resolved: Vec<usize> = starts
        .into_iter()
        .rev()
        .map(|start| {
            next = start.unwrap_or(next);
            next
        })
        .collect();
    resolved.reverse();
    (out, resolved)
}

fn heading(level: u8, text: &str, out: &mut Assembler) {
    out.open_heading(level);
    out.text(text);
    out.close_heading();
}

/// Metadata of the document information dictionary.
fn front(pdf: &Pdf) -> Front {
    let mut front = Front::default();
    let info = pdf.metadata();
    let text = |value: &Option<Box<[u8]>>| value.as_deref().map(strings::text_string).unwrap_or_default();
    let title = text(&info.title);
    // Programs put the name of the file they converted there.
    let lower = title.to_lowercase();
    let is_file = [".doc", ".docx", ".tex", ".dvi", ".pdf", ".rtf", ".indd", ".qxd"].iter().any(|e| lower.ends_with(e));
    if !is_file && !lower.starts_with("microsoft word") && !lower.starts_with("untitled") && !title.trim().is_empty() {
        front.add("title", &title);
        front.titles.push(title);
    }
    front.add("author", &text(&info.author));
    front.add("subject", &text(&info.subject));
    front.add("keywords", &text(&info.keywords));
    front.add("generator", &text(&info.creator));
    for (key, date) in [("date", &info.creation_date), ("modified", &info.modification_date)] {
        if let Some(date) = date.as_ref().map(rfc_3339) {
            front.metadata.insert(key.to_owned(), MetadataValue::Text(date));
        }
    }
    front
}

fn rfc_3339(date: &DateTime) -> String {
    let DateTime { year, month, day, hour, minute, second, utc_offset_hour, utc_offset_minute } = *date;
    let zone = match (utc_offset_hour, utc_offset_minute) {
        (0, 0) => "Z".to_owned(),
        (hours, minutes) => {
            let sign = if hours < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{minutes:02}", hours.unsigned_abs())
        }
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{zone}")
}
