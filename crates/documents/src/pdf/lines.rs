//! From glyphs to segments: stretches of text on one base line without a wide gap.

use super::glyphs::Char;

/// Gap between two glyphs, in font sizes, from which a space is seen. Word spaces are 0.2 to 0.35 and shrink to 0.17
/// when a line is justified; kerning stays below 0.1.
const SPACE_GAP: f64 = 0.14;
/// Gap, in font sizes, from which text belongs to another segment: a column or a table cell.
const SEGMENT_GAP: f64 = 0.95;
/// How far base lines may differ within a segment, in font sizes: super- and subscripts.
const BASELINE_SHIFT: f64 = 0.45;

/// Text on one base line.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub text: String,
    pub x0: f64,
    pub x1: f64,
    /// Base line.
    pub y: f64,
    /// Font size of most of its characters.
    pub size: f64,
    pub bold: bool,
    /// Whether all characters are equally wide.
    pub mono: bool,
    pub heading: Option<u8>,
}

impl Segment {
    /// Upper edge of its letters.
    pub(super) fn top(&self) -> f64 {
        self.y - self.size * 0.75
    }

    /// Lower edge.
    pub(super) fn bottom(&self) -> f64 {
        self.y + self.size * 0.25
    }

    /// Whether it shares a line with `other`: most of the lower one's height is common.
    pub(super) fn beside(&self, other: &Self) -> bool {
        let common = self.bottom().min(other.bottom()) - self.top().max(other.top());
        common > 0.5 * self.size.min(other.size)
    }
}

/// The segments of the glyphs of one writing direction, from top to bottom, then from left to right.
pub(super) fn segments(chars: &[Char]) -> Vec<Segment> {
    let mut runs: Vec<Vec<&Char>> = Vec::new();
    for char in chars.iter().filter(|char| char.size > 0.5) {
        let joins = runs.last().and_then(|run| run.last()).is_some_and(|last| {
            let size = last.size.max(char.size);
            let gap = char.x - last.x1;
            (last.y - char.y).abs() < BASELINE_SHIFT * size && gap < SEGMENT_GAP * size && gap > -0.7 * size
        });
        // The same glyph drawn again in its place makes it bold.
        let again = |last: &&Char| {
            last.text == char.text
                && (last.x - char.x).abs() < 0.1 * char.size
                && (last.y - char.y).abs() < 0.1 * char.size
        };
        if runs.last().is_some_and(|run| run.iter().rev().take(40).any(again)) && !char.text.trim().is_empty() {
            continue;
        }
        match runs.last_mut().filter(|_| joins) {
            Some(run) => run.push(char),
            None => runs.push(vec![char]),
        }
    }
    let mut pieces: Vec<Piece<'_>> = runs.into_iter().filter_map(Piece::new).collect();
    pieces.sort_by(|a, b| a.y.total_cmp(&b.y).then(a.x0.total_cmp(&b.x0)));
    merged(pieces).iter().map(Piece::segment).filter(|segment| !segment.text.is_empty()).collect()
}

/// Glyphs of one segment, in the order of drawing.
struct Piece<'c> {
    chars: Vec<&'c Char>,
    x0: f64,
    x1: f64,
    y: f64,
    size: f64,
}

impl<'c> Piece<'c> {
    fn new(mut chars: Vec<&'c Char>) -> Option<Self> {
        // Blanks at the ends only stretch a segment into its neighbours.
        while chars.pop_if(|last| last.text.trim().is_empty() && !last.text.is_empty()).is_some() {}
        let start = chars.iter().position(|char| !char.text.trim().is_empty())?;
        chars.drain(..start);
        let mut sizes: Vec<f64> = chars.iter().map(|char| char.size).collect();
        sizes.sort_by(f64::total_cmp);
        let size = *sizes.get(sizes.len() / 2)?;
        let main = |char: &&&Char| (char.size - size).abs() < 0.1 * size;
        let y = chars.iter().find(main).map_or(0.0, |char| char.y);
        let x0 = chars.iter().map(|char| char.x).fold(f64::INFINITY, f64::min);
        let x1 = chars.iter().map(|char| char.x1).fold(f64::NEG_INFINITY, f64::max);
        Some(Self { chars, x0, x1, y, size })
    }

    fn segment(&self) -> Segment {
        let mut chars = self.chars.clone();
        // Within a segment the place says more than the order of drawing.
        chars.sort_by(|a, b| a.x.total_cmp(&b.x));
        let mut pieces: Vec<String> = Vec::new();
        let mut end: Option<f64> = None;
        for char in &chars {
            let gap = end.map_or(0.0, |end| char.x - end);
            let is_blank = char.text.chars().all(char::is_whitespace);
            let spaced = pieces.last().is_some_and(|last| last.ends_with(char::is_whitespace));
            if gap > SPACE_GAP * char.size.min(self.size * 1.5) && !is_blank && !spaced && !pieces.is_empty() {
                pieces.push(" ".to_owned());
            }
            if !char.text.is_empty() {
                pieces.push(if is_blank { " ".to_owned() } else { char.text.clone() });
            }
            end = Some(end.map_or(char.x1, |end| end.max(char.x1)));
        }
        let letters = chars.iter().filter(|char| !char.text.trim().is_empty()).count();
        let bold = chars.iter().filter(|char| char.bold).count() * 2 > letters;
        Segment {
            text: in_reading_order(pieces).split_whitespace().collect::<Vec<_>>().join(" "),
            x0: self.x0,
            x1: self.x1,
            y: self.y,
            size: self.size,
            bold,
            mono: is_monospaced(&chars),
            heading: chars.first().and_then(|char| char.heading),
        }
    }
}

/// Joins pieces that lie side by side on one line without a wide gap, whatever the order they were drawn in.
fn merged(pieces: Vec<Piece<'_>>) -> Vec<Piece<'_>> {
    let mut out: Vec<Piece<'_>> = Vec::new();
    for piece in pieces {
        // Pieces come from top to bottom, so only the last ones can lie on its line.
        let near = out.iter_mut().rev().take(64).find(|other| {
            let size = other.size.max(piece.size);
            let gap = if piece.x0 > other.x0 { piece.x0 - other.x1 } else { other.x0 - piece.x1 };
            (other.y - piece.y).abs() < BASELINE_SHIFT * size && gap < SEGMENT_GAP * size && gap > -0.7 * size
        });
        match near {
            Some(other) => {
                let (count, size, y) = (other.chars.len(), other.size, other.y);
                if piece.chars.len() > count {
                    (other.size, other.y) = (piece.size, piece.y);
                } else {
                    (other.size, other.y) = (size, y);
                }
                other.x0 = other.x0.min(piece.x0);
                other.x1 = other.x1.max(piece.x1);
                other.chars.extend(piece.chars);
            }
            None => out.push(piece),
        }
    }
    out
}

/// Whether the glyphs are equally wide; too few of them say nothing.
fn is_monospaced(chars: &[&Char]) -> bool {
    let widths: Vec<f64> =
        chars.iter().filter(|c| !c.text.trim().is_empty()).map(|c| (c.x1 - c.x) / c.size.max(0.1)).collect();
    let mut letters: Vec<&str> = chars.iter().map(|c| c.text.as_str()).filter(|text| !text.trim().is_empty()).collect();
    letters.sort_unstable();
    letters.dedup();
    let Some(first) = widths.first() else { return false };
    // Digits are equally wide in most fonts, and so are the characters of Chinese, Japanese and Korean.
    let latin = letters.iter().filter(|text| text.chars().all(|c| c.is_ascii_alphabetic())).count();
    latin >= 3 && letters.len() >= 4 && *first > 0.4 && widths.iter().all(|width| (width - first).abs() < 0.01)
}

/// Puts text that was laid out from right to left into the order it is read in: the whole is reversed, and runs of
/// left-to-right letters and digits in it are kept.
fn in_reading_order(pieces: Vec<String>) -> String {
    let count = |is: fn(char) -> bool| pieces.iter().flat_map(|p| p.chars()).filter(|c| is(*c)).count();
    if count(is_right_to_left) <= count(is_left_to_right) {
        return pieces.concat();
    }
    let mut out: Vec<&str> = Vec::new();
    let mut forward: Vec<&str> = Vec::new();
    for piece in pieces.iter().rev() {
        let keeps = |c: char| is_left_to_right(c) || c.is_ascii_digit() || matches!(c, '.' | ',' | ':' | '/' | '%');
        if piece.chars().all(keeps) && !piece.is_empty() {
            forward.push(piece);
            continue;
        }
        out.extend(forward.drain(..).rev());
        out.push(match piece.as_str() {
            "(" => ")",
            ")" => "(",
            other => other,
        });
    }
    out.extend(forward.drain(..).rev());
    out.concat()
}

fn is_right_to_left(character: char) -> bool {
    matches!(character, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}')
}

fn is_left_to_right(character: char) -> bool {
    character.is_alphabetic() && !is_right_to_left(character)
}
