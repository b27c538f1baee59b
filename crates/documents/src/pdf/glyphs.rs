//! Runs the content of a page for its text: which characters stand where.
//!
//! Of the operators of a content stream (ISO 32000-1, annex A) those are followed that move, scale and show text, keep
//! the graphics state, mark content and call forms; painting is passed over, and so no picture, colour or shading is ever
//! decoded. Coordinates are points from the top left corner of the page as it is shown, `y` growing downwards. Text that
//! is invisible, as the layer that text recognition puts over a scan, is taken like any other. Page furniture that the
//! file itself marks as such (`/Artifact`, 14.8.2.2) is left out, and text that stands for glyphs (`/ActualText`) takes
//! their place.

use std::sync::Arc;

use hayro_cmap::BfString;
use hayro_font::{CMapResolverFn, Font, FontCache, FontGlyph, FontQuery, FontResolverFn};
use hayro_syntax::content::TypedIter;
use hayro_syntax::content::ops::TypedInstruction;
use hayro_syntax::object::{Array, Dict, Name, Number, Object, String as PdfString};
use hayro_syntax::page::{Page, Resources};
use kurbo::{Affine, Point};

use super::layers::Layers;
use super::strings::text_string;
use crate::{DocumentError, SourceInfo, Work};

/// Most glyphs taken from one page: a full newspaper page has some 50,000.
const MAX_GLYPHS: usize = 1_000_000;
/// Forms in forms that are followed.
const MAX_FORM_DEPTH: usize = 16;
/// Graphics states saved in each other.
const MAX_SAVED: usize = 1024;
/// Operators between two looks at the clock.
const CHECK_EVERY: usize = 1024;
/// Glyph space of fonts: thousandths of an em.
const UNITS_PER_EM: f64 = 1000.0;

/// A glyph in its place.
#[derive(Debug, Clone)]
pub(super) struct Char {
    /// What it stands for; several characters for a ligature.
    pub text: String,
    /// Left end of its base line.
    pub x: f64,
    /// Right end of its base line.
    pub x1: f64,
    /// Its base line.
    pub y: f64,
    /// Font size as shown.
    pub size: f64,
    pub bold: bool,
    /// Heading level that the file gives the text it is part of.
    pub heading: Option<u8>,
    /// Direction of writing: quarter turns clockwise from left to right.
    pub turns: u8,
}

/// The fonts of a document.
pub(super) struct Fonts<'a> {
    cache: FontCache<'a>,
    programs: FontResolverFn,
    cmaps: CMapResolverFn,
}

impl Fonts<'_> {
    pub(super) fn new() -> Self {
        // Fonts that are not embedded are read with the substitutes that come with the library: their glyph names tell
        // the characters, and the file the widths.
        let programs: FontResolverFn = Arc::new(|query| match query {
            FontQuery::Standard(font) => Some(font.get_font_data()),
            FontQuery::Fallback(query) => Some(query.pick_standard_font().get_font_data()),
        });
        Self { cache: FontCache::new(), programs, cmaps: Arc::new(hayro_cmap::load_embedded) }
    }
}

/// The glyphs of `page`, in the order they are drawn.
pub(super) fn chars<'a>(
    page: &Page<'a>,
    fonts: &Fonts<'a>,
    layers: &Layers,
    source: &SourceInfo,
    work: &Work,
) -> Result<Vec<Char>, DocumentError> {
    let base = Affine::new(page.initial_transform(true).as_coeffs());
    let mut reader = Reader { fonts, layers, source, work, chars: Vec::new(), marks: Vec::new(), operators: 0 };
    if let Some(content) = page.page_stream() {
        reader.stream(content, page.resources(), State::new(base), 0)?;
    }
    Ok(reader.chars)
}

/// The part of the graphics state that places text.
#[derive(Clone)]
struct State<'a> {
    /// To the page as shown.
    ctm: Affine,
    font: Option<Font<'a>>,
    bold: bool,
    size: f64,
    char_space: f64,
    word_space: f64,
    /// Horizontal scaling, 1 for none.
    scale: f64,
    leading: f64,
    rise: f64,
}

impl State<'_> {
    fn new(ctm: Affine) -> Self {
        Self {
            ctm,
            font: None,
            bold: false,
            size: 1.0,
            char_space: 0.0,
            word_space: 0.0,
            scale: 1.0,
            leading: 0.0,
            rise: 0.0,
        }
    }
}

/// Marked content being shown.
struct Mark {
    /// Not part of the text: a running title, or on a layer that is switched off.
    hidden: bool,
    heading: Option<u8>,
    /// Text that stands for the glyphs, until the first of them takes it.
    actual: Option<String>,
    replaces: bool,
}

struct Reader<'r, 'a> {
    fonts: &'r Fonts<'a>,
    layers: &'r Layers,
    source: &'r SourceInfo,
    work: &'r Work,
    chars: Vec<Char>,
    marks: Vec<Mark>,
    operators: usize,
}

/// Where the next glyph goes: the text matrix and the matrix of the line.
struct Pen {
    matrix: Affine,
    line: Affine,
}

impl Pen {
    /// Begins a line at this distance from the beginning of the one before.
    fn next_line(&mut self, x: f64, y: f64) {
        self.line *= Affine::translate((x, y));
        self.matrix = self.line;
    }
}

impl<'a> Reader<'_, 'a> {
    /// Runs a content stream. Forms recurse, to a bounded depth.
    fn stream(
        &mut self,
        content: &[u8],
        resources: &Resources<'a>,
        mut state: State<'a>,
        depth: usize,
    ) -> Result<(), DocumentError> {
        let mut saved: Vec<State<'a>> = Vec::new();
        let mut pen = Pen { matrix: Affine::IDENTITY, line: Affine::IDENTITY };
        let marks = self.marks.len();
        let mut operators = TypedIter::new(content);
        while let Some(operator) = operators.next() {
            self.operators += 1;
            if self.operators.is_multiple_of(CHECK_EVERY) {
                self.work.check(self.source)?;
            }
            match operator {
                TypedInstruction::SaveState(_) if saved.len() < MAX_SAVED => saved.push(state.clone()),
                TypedInstruction::RestoreState(_) => state = saved.pop().unwrap_or(state),
                TypedInstruction::Transform(t) => state.ctm *= affine([t.0, t.1, t.2, t.3, t.4, t.5]),
                TypedInstruction::BeginText(_) => pen = Pen { matrix: Affine::IDENTITY, line: Affine::IDENTITY },
                TypedInstruction::TextFont(font) => {
                    let dict = resources.get_font(font.0);
                    let fonts = self.fonts;
                    let name = dict.as_ref().and_then(|dict| dict.get::<Name<'_>>("BaseFont"));
                    state.bold = name.is_some_and(|name| is_bold(&name));
                    state.font = dict.and_then(|dict| fonts.cache.font(&dict, &fonts.programs, &fonts.cmaps));
                    state.size = font.1.as_f64();
                }
                TypedInstruction::CharacterSpacing(space) => state.char_space = space.0.as_f64(),
                TypedInstruction::WordSpacing(space) => state.word_space = space.0.as_f64(),
                TypedInstruction::HorizontalScaling(scale) => state.scale = scale.0.as_f64() / 100.0,
                TypedInstruction::TextLeading(leading) => state.leading = leading.0.as_f64(),
                TypedInstruction::TextRise(rise) => state.rise = rise.0.as_f64(),
                TypedInstruction::NextLine(step) => pen.next_line(step.0.as_f64(), step.1.as_f64()),
                TypedInstruction::NextLineAndSetLeading(step) => {
                    state.leading = -step.1.as_f64();
                    pen.next_line(step.0.as_f64(), step.1.as_f64());
                }
                TypedInstruction::SetTextMatrix(m) => {
                    pen.line = affine([m.0, m.1, m.2, m.3, m.4, m.5]);
                    pen.matrix = pen.line;
                }
                TypedInstruction::NextLineUsingLeading(_) => pen.next_line(0.0, -state.leading),
                TypedInstruction::ShowText(text) => self.show(text.0, &state, &mut pen),
                TypedInstruction::NextLineAndShowText(text) => {
                    pen.next_line(0.0, -state.leading);
                    self.show(text.0, &state, &mut pen);
                }
                TypedInstruction::ShowTextWithParameters(text) => {
                    (state.word_space, state.char_space) = (text.0.as_f64(), text.1.as_f64());
                    pen.next_line(0.0, -state.leading);
                    self.show(text.2, &state, &mut pen);
                }
                TypedInstruction::ShowTexts(texts) => self.show_all(texts.0, &state, &mut pen),
                TypedInstruction::BeginMarkedContent(mark) => self.begin_mark(mark.0, None),
                TypedInstruction::BeginMarkedContentWithProperties(mark) => {
                    let properties = match mark.1 {
                        Object::Name(name) => resources.properties.get::<Dict<'_>>(&**name),
                        Object::Dict(dict) => Some(dict.clone()),
                        _ => None,
                    };
                    self.begin_mark(mark.0, properties);
                }
                TypedInstruction::EndMarkedContent(_) if self.marks.len() > marks => {
                    self.marks.pop();
                }
                TypedInstruction::XObject(name) if depth < MAX_FORM_DEPTH => {
                    self.form(name.0, resources, &state, depth)?;
                }
                _ => {}
            }
        }
        self.marks.truncate(marks);
        Ok(())
    }

    /// Runs a form; pictures are passed over.
    fn form(
        &mut self,
        name: &Name<'_>,
        resources: &Resources<'a>,
        state: &State<'a>,
        depth: usize,
    ) -> Result<(), DocumentError> {
        self.work.check(self.source)?;
        let Some(stream) = resources.get_x_object(name) else { return Ok(()) };
        let dict = stream.dict();
        if dict.get::<Name<'_>>("Subtype").is_none_or(|kind| &*kind != b"Form") {
            return Ok(());
        }
        if dict.get::<Dict<'_>>("OC").is_some_and(|layer| self.layers.hide(&layer)) {
            return Ok(());
        }
        let Ok(content) = stream.decoded_data() else { return Ok(()) };
        let own = dict.get::<Dict<'a>>("Resources").map(Resources::new);
        let mut state = state.clone();
        state.ctm *= Affine::new(dict.get::<[f64; 6]>("Matrix").unwrap_or([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]));
        self.stream(&content, own.as_ref().unwrap_or(resources), state, depth + 1)
    }

    /// Shows strings and the adjustments between them, in thousandths of an em.
    fn show_all(&mut self, texts: &Array<'_>, state: &State<'a>, pen: &mut Pen) {
        for item in texts.iter::<Object<'_>>() {
            match item {
                Object::String(text) => self.show(&text, state, pen),
                Object::Number(adjustment) => {
                    let back = -adjustment.as_f64() / UNITS_PER_EM * state.size;
                    let horizontal = state.font.as_ref().is_none_or(Font::is_horizontal);
                    pen.matrix *= Affine::translate(if horizontal { (back * state.scale, 0.0) } else { (0.0, back) });
                }
                _ => {}
            }
        }
    }

    /// Shows a string (ISO 32000-1, 9.4.4).
    fn show(&mut self, text: &PdfString<'_>, state: &State<'a>, pen: &mut Pen) {
        let Some(font) = &state.font else { return };
        let bytes = text.as_bytes();
        let hidden = self.marks.iter().any(|mark| mark.hidden);
        let heading = self.marks.iter().rev().find_map(|mark| mark.heading);
        let scaled = Affine::new([state.size * state.scale, 0.0, 0.0, state.size, 0.0, state.rise]);
        let mut at = 0;
        while at < bytes.len() {
            let (code, length) = font.read_code(bytes, at);
            at += length.max(1);
            let advance = font.code_advance(code);
            if !hidden && self.chars.len() < MAX_GLYPHS {
                let place = state.ctm
                    * pen.matrix
                    * scaled
                    * Affine::scale(1.0 / UNITS_PER_EM)
                    * Affine::translate(font.origin_displacement(code));
                let glyph = font.glyph(font.map_code(code), code);
                self.add(&glyph, place, advance.x, state.bold, heading);
            }
            let word_space = if code == 32 && length == 1 { state.word_space } else { 0.0 };
            let spaces = state.char_space + word_space;
            pen.matrix *= Affine::translate(if font.is_horizontal() {
                ((advance.x / UNITS_PER_EM * state.size + spaces) * state.scale, 0.0)
            } else {
                (0.0, advance.y / UNITS_PER_EM * state.size + spaces)
            });
        }
    }

    /// Adds a glyph, if it stands for characters and is upright in one of four directions.
    fn add(&mut self, glyph: &FontGlyph<'_>, place: Affine, advance: f64, bold: bool, heading: Option<u8>) {
        let Some((turns, size)) = turned(place) else { return };
        let Some(text) = self.text_of(glyph) else { return };
        let (x, y) = unturned(place * Point::ZERO, turns);
        let (end, _) = unturned(place * Point::new(advance, 0.0), turns);
        if x.is_finite() && y.is_finite() && end.is_finite() && size.is_finite() {
            self.chars.push(Char { text, x: x.min(end), x1: end.max(x), y, size, bold, heading, turns });
        }
    }

    /// Text for a glyph, or `None` if the file does not tell.
    fn text_of(&mut self, glyph: &FontGlyph<'_>) -> Option<String> {
        if let Some(mark) = self.marks.iter_mut().rev().find(|mark| mark.replaces) {
            // The other glyphs are kept as blanks of their width, so that no gap seems to follow.
            return Some(mark.actual.take().unwrap_or_default());
        }
        let text = match glyph {
            FontGlyph::Outline(glyph) => glyph.as_unicode(),
            FontGlyph::Type3(glyph) => glyph.as_unicode(),
        };
        Some(match text? {
            BfString::Char(character) => match character {
                // Ligatures are a matter of type; nobody searches for them.
                '\u{fb00}' => "ff".to_owned(),
                '\u{fb01}' => "fi".to_owned(),
                '\u{fb02}' => "fl".to_owned(),
                '\u{fb03}' => "ffi".to_owned(),
                '\u{fb04}' => "ffl".to_owned(),
                other => other.to_string(),
            },
            BfString::String(text) => text,
        })
    }

    fn begin_mark(&mut self, tag: &Name<'_>, properties: Option<Dict<'_>>) {
        let tag: &[u8] = tag;
        let heading = match tag {
            [b'H', level @ b'1'..=b'6'] => Some(level - b'0'),
            b"Title" => Some(1),
            _ => None,
        };
        let is_off = tag == b"OC" && properties.as_ref().is_some_and(|layer| self.layers.hide(layer));
        let actual = properties.and_then(|dict| dict.get::<PdfString<'_>>("ActualText"));
        let actual = actual.map(|text| text_string(text.as_bytes()));
        let replaces = actual.is_some();
        self.marks.push(Mark { hidden: is_off || tag == b"Artifact", heading, actual, replaces });
    }
}

fn affine(numbers: [Number; 6]) -> Affine {
    Affine::new(numbers.map(|number| number.as_f64()))
}

/// Whether a font is bold, by its name. `CMBX`, `SFBX`, `LMBX` and `Medi` are the bold faces of TeX's fonts.
fn is_bold(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_lowercase();
    ["bold", "black", "heavy", "demi", "cmbx", "sfbx", "lmbx", "-medi"].iter().any(|part| name.contains(part))
}

/// Direction and size of a glyph from its transform out of a thousandth of an em; `None` for slanted text, such as
/// watermarks, and for nothing visible.
fn turned(place: Affine) -> Option<(u8, f64)> {
    let [a, b, c, d, _, _] = place.as_coeffs();
    let size = c.hypot(d) * 1000.0;
    if !(0.5..5000.0).contains(&size) {
        return None;
    }
    let turns = match (a.abs() > b.abs() * 4.0, b.abs() > a.abs() * 4.0) {
        (true, _) => {
            if a > 0.0 {
                0
            } else {
                2
            }
        }
        (_, true) => {
            if b > 0.0 {
                1
            } else {
                3
            }
        }
        _ => return None,
    };
    Some((turns, size))
}

/// A point as seen when the page is turned so that text in this direction runs from left to right.
fn unturned(point: Point, turns: u8) -> (f64, f64) {
    match turns {
        0 => (point.x, point.y),
        1 => (point.y, -point.x),
        2 => (-point.x, -point.y),
        _ => (-point.y, point.x),
    }
}
