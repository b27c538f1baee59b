//! Reads numbers, dates and names at a place of a text.

use std::{collections::HashMap, ops::Range};

use edgewise_types::Span;

use super::{Fact, FactKind};
use crate::{
    is_content,
    scan::{Piece, PieceKind},
};

const SMALL: &[&str] = &[
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: &[&str] = &["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const SCALES: &[(&str, usize)] = &[("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)];
const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
/// Ways to write a unit, the first one its normal form.
const UNITS: &[&[&str]] = &[
    &["%", "percent", "pct"],
    &["$", "dollar", "dollars", "usd"],
    &["€", "euro", "euros", "eur"],
    &["£", "pound sterling", "gbp"],
    &["km", "kilometre", "kilometres", "kilometer", "kilometers"],
    &["m", "metre", "metres", "meter", "meters"],
    &["cm", "centimetre", "centimetres", "centimeter", "centimeters"],
    &["mm", "millimetre", "millimetres", "millimeter", "millimeters"],
    &["mile", "miles"],
    &["foot", "feet", "ft"],
    &["inch", "inches"],
    &["yard", "yards"],
    &["kg", "kilogram", "kilograms", "kilo", "kilos"],
    &["g", "gram", "grams"],
    &["mg", "milligram", "milligrams"],
    &["ton", "tons", "tonne", "tonnes"],
    &["pound", "pounds", "lb", "lbs"],
    &["ms", "millisecond", "milliseconds"],
    &["second", "seconds", "sec", "secs"],
    &["minute", "minutes", "min", "mins"],
    &["hour", "hours"],
    &["day", "days"],
    &["week", "weeks"],
    &["month", "months"],
    &["year", "years"],
    &["kb", "kilobyte", "kilobytes"],
    &["mb", "megabyte", "megabytes"],
    &["gb", "gigabyte", "gigabytes"],
    &["byte", "bytes"],
    &["bit", "bits"],
    &["token", "tokens"],
];
/// Words in lower case that a name may have inside.
pub(super) const CONNECTORS: &[&str] =
    &["of", "de", "da", "del", "der", "di", "du", "la", "le", "van", "von", "bin", "al"];
/// Words in a row, all letters of which are capitals, from which on they are loud and not names.
const LOUD: usize = 4;

pub(super) struct Reader<'a> {
    text: &'a str,
    pieces: &'a [Piece],
    lower: Vec<String>,
    /// Pieces in a row of words all letters of which are capitals.
    loud: Vec<bool>,
    /// Words that stand capitalised inside a sentence, against those that stand in lower case anywhere.
    inside: HashMap<&'a str, bool>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, pieces: &'a [Piece]) -> Self {
        let lower = pieces.iter().map(|piece| text[Range::from(piece.span)].to_lowercase()).collect();
        let mut reader = Self { text, pieces, lower, loud: vec![false; pieces.len()], inside: HashMap::new() };
        reader.find_loud();
        let mut inside: HashMap<&'a str, bool> = HashMap::new();
        for at in 0..pieces.len() {
            let written = reader.written(at);
            if reader.capital(at) && !reader.opens(at) {
                inside.entry(written).or_insert(true);
            }
        }
        reader.inside = inside;
        reader
    }

    fn find_loud(&mut self) {
        let shouted = |at: usize| self.is(at, PieceKind::Word) && !self.written(at).contains(char::is_lowercase);
        let mut from = 0;
        let mut runs = Vec::new();
        for at in 0..=self.pieces.len() {
            if !(at < self.pieces.len() && shouted(at)) {
                runs.push(from..at);
                from = at + 1;
            }
        }
        for run in runs.into_iter().filter(|run| run.len() >= LOUD) {
            self.loud[run].fill(true);
        }
    }

    fn written(&self, at: usize) -> &'a str {
        &self.text[Range::from(self.pieces[at].span)]
    }

    pub(super) fn word(&self, at: usize) -> &str {
        self.lower.get(at).map_or("", String::as_str)
    }

    fn is(&self, at: usize, kind: PieceKind) -> bool {
        self.pieces.get(at).is_some_and(|piece| piece.kind == kind)
    }

    /// What stands between a piece and the next.
    fn gap(&self, at: usize) -> &'a str {
        match (self.pieces.get(at), self.pieces.get(at + 1)) {
            (Some(this), Some(next)) => &self.text[this.span.end..next.span.start],
            _ => "\0",
        }
    }

    pub(super) fn capital(&self, at: usize) -> bool {
        let upper = self.is(at, PieceKind::Word) && self.written(at).starts_with(char::is_uppercase);
        upper && is_content(self.word(at)) && !self.loud.get(at).copied().unwrap_or(false)
    }

    /// A word with digits or capitals inside, or joined by `_`.
    pub(super) fn identifier(&self, at: usize) -> bool {
        let word = self.written(at);
        let lower_first = word.starts_with(char::is_lowercase);
        self.is(at, PieceKind::Word)
            && (word.contains(|c: char| c.is_ascii_digit() || c == '_')
                || lower_first && word.contains(char::is_uppercase))
    }

    /// Whether a piece opens a sentence, a quotation or a line of its own.
    fn opens(&self, at: usize) -> bool {
        let before = &self.text[..self.pieces[at].span.start];
        let near = before.trim_end_matches([' ', '\t', '\r', '\n']);
        if before[near.len()..].matches('\n').count() > 1 {
            return true;
        }
        match near.chars().next_back() {
            None => true,
            Some('.') => !(at > 0 && self.written(at - 1).chars().count() == 1 && self.written(at - 1) != "I"),
            Some(c) => "!?:;…\"“”‘«(—–-*#|•>".contains(c) && !(matches!(c, '-' | '"' | '”') && self.mid(near)),
        }
    }

    /// Whether a hyphen or closing quotation mark stands inside a sentence.
    fn mid(&self, near: &str) -> bool {
        let mut chars = near.chars().rev();
        let (last, before) = (chars.next(), chars.next());
        match last {
            Some('-') => before.is_some_and(char::is_alphanumeric),
            _ => before.is_some_and(|c| c.is_alphanumeric() || c == ','),
        }
    }

    /// Whether two pieces may be parts of one name.
    pub(super) fn adjacent(&self, a: usize, b: usize) -> bool {
        let between = &self.text[self.pieces[a].span.end..self.pieces[b].span.start];
        let initial =
            self.written(a).chars().count() <= 2 || matches!(self.word(a), "mrs" | "prof" | "capt" | "gen" | "col");
        matches!(between, " " | "-" | "\n" | "\u{a0}") || initial && matches!(between, "." | ". ")
    }

    pub(super) fn joins(&self, name: &[usize], at: usize) -> bool {
        name.last().is_some_and(|last| self.adjacent(*last, at))
            && at + 1 < self.pieces.len()
            && self.adjacent(at, at + 1)
            && self.capital(at + 1)
    }

    /// Ends a name.
    pub(super) fn close(&self, name: &mut Vec<usize>, found: &mut Vec<Fact>) {
        let mut parts: &[usize] = name;
        if let Some(first) = parts.first()
            && self.opens(*first)
            && !self.identifier(*first)
            && !self.inside.get(self.written(*first)).copied().unwrap_or(false)
        {
            parts = &parts[1..];
        }
        while let [first, rest @ ..] = parts
            && CONNECTORS.contains(&self.word(*first))
            && !self.written(*first).starts_with(char::is_uppercase)
        {
            parts = rest;
        }
        if let (Some(first), Some(last)) = (parts.first(), parts.last()) {
            let words: Vec<&str> = parts.iter().map(|at| self.word(*at)).collect();
            if words.iter().any(|word| word.chars().count() > 1) {
                let span = Span::new(self.pieces[*first].span.start, self.pieces[*last].span.end);
                found.push(Fact { kind: FactKind::Name, key: words.join(" "), unit: None, span });
            }
        }
        name.clear();
    }

    /// A whole number of at most `most` at a piece, written in digits or, with an ending, as an ordinal.
    fn small(&self, at: usize, most: u32) -> Option<u32> {
        let value: u32 = self.is(at, PieceKind::Number).then(|| self.word(at).parse().ok())??;
        (1..=most).contains(&value).then_some(value)
    }

    fn year(&self, at: usize) -> Option<u32> {
        self.small(at, 2999).filter(|_| self.word(at).len() == 4)
    }

    fn month(&self, at: usize) -> Option<usize> {
        if !self.is(at, PieceKind::Word) || !self.written(at).starts_with(char::is_uppercase) {
            return None;
        }
        let word = self.word(at);
        let same = |month: &&str| *month == word || (3..=4).contains(&word.len()) && month.starts_with(word);
        MONTHS.iter().position(same).map(|at| at + 1)
    }

    /// The piece behind an ordinal's ending, if there is one.
    fn behind(&self, at: usize) -> usize {
        let ending = self.gap(at).is_empty() && matches!(self.word(at + 1), "st" | "nd" | "rd" | "th" | "s");
        if ending { at + 2 } else { at + 1 }
    }

    fn near(&self, at: usize, next: usize) -> bool {
        next < self.pieces.len()
            && matches!(
                &self.text[self.pieces[next - 1].span.end..self.pieces[next].span.start],
                " " | ", " | " of " | ". "
            )
            && at < next
    }

    /// A date that begins at a piece, and the piece behind it.
    pub(super) fn date(&self, at: usize) -> Option<(Fact, usize)> {
        let (year, month, day, next) = self.iso(at).or_else(|| self.month_first(at)).or_else(|| self.day_first(at))?;
        let year = year.map_or_else(|| "----".to_owned(), |year| format!("{year:04}"));
        let day = day.map_or_else(String::new, |day| format!("-{day:02}"));
        let span = Span::new(self.pieces[at].span.start, self.pieces[next - 1].span.end);
        Some((Fact { kind: FactKind::Date, key: format!("{year}-{month:02}{day}"), unit: None, span }, next))
    }

    fn iso(&self, at: usize) -> Option<DateParts> {
        let year = self.year(at)?;
        let month = self.small(at + 1, 12).filter(|_| self.gap(at) == "-")?;
        let day = self.small(at + 2, 31).filter(|_| self.gap(at + 1) == "-")?;
        Some((Some(year), month as usize, Some(day), at + 3))
    }

    fn month_first(&self, at: usize) -> Option<DateParts> {
        let month = self.month(at)?;
        if !self.near(at, at + 1) {
            return None;
        }
        if let Some(year) = self.year(at + 1) {
            return Some((Some(year), month, None, at + 2));
        }
        let day = self.small(at + 1, 31)?;
        let next = self.behind(at + 1);
        let year = self.near(at, next).then(|| self.year(next)).flatten();
        Some((year, month, Some(day), next + usize::from(year.is_some())))
    }

    fn day_first(&self, at: usize) -> Option<DateParts> {
        let day = self.small(at, 31)?;
        let mut next = self.behind(at);
        if self.word(next) == "of" {
            next += 1;
        }
        let month = self.near(at, next).then(|| self.month(next)).flatten()?;
        let year = self.near(at, next + 1).then(|| self.year(next + 1)).flatten();
        Some((year, month, Some(day), next + 1 + usize::from(year.is_some())))
    }

    /// A number that begins at a piece, and the piece behind it.
    pub(super) fn number(&self, at: usize) -> Option<(Fact, usize)> {
        let (mut key, mut next) = if self.is(at, PieceKind::Number) {
            let minutes = self.gap(at) == ":" && self.is(at + 1, PieceKind::Number) && self.word(at + 1).len() == 2;
            if minutes {
                (format!("{}:{}", decimal(self.word(at)), self.word(at + 1)), at + 2)
            } else {
                (decimal(self.word(at)), self.behind(at))
            }
        } else {
            let (value, next) = self.spelled(at)?;
            (value.to_string(), next)
        };
        while self.gap(next - 1).chars().all(|c| c == ' ' || c == '-')
            && let Some((_, zeros)) = SCALES.iter().find(|(word, _)| *word == self.word(next))
        {
            key = scaled(&key, *zeros);
            next += 1;
        }
        let before = self.text[..self.pieces[at].span.start].chars().next_back();
        let after = self.text[self.pieces[next - 1].span.end..].chars().next();
        let sign = |c: Option<char>| {
            let mark = c.map(String::from)?;
            UNITS.iter().find(|names| names[0] == mark && !mark.starts_with(char::is_alphabetic)).map(|names| names[0])
        };
        let mut unit = sign(after.filter(|c| *c == '%')).or_else(|| sign(before.filter(|c| *c != '%')));
        if unit.is_none() && matches!(self.gap(next - 1), "" | " " | "-") {
            unit = UNITS.iter().find(|names| names.contains(&self.word(next))).map(|names| names[0]);
            next += usize::from(unit.is_some());
        }
        let span = Span::new(self.pieces[at].span.start, self.pieces[next - 1].span.end);
        Some((Fact { kind: FactKind::Number, key, unit, span }, next))
    }

    /// A number in letters below a hundred. `one` alone is a pronoun more often than a number.
    fn spelled(&self, at: usize) -> Option<(usize, usize)> {
        let small = |at: usize| SMALL.iter().position(|word| *word == self.word(at));
        if let Some(tens) = TENS.iter().position(|word| *word == self.word(at)) {
            let unit = small(at + 1).filter(|unit| (1..10).contains(unit) && matches!(self.gap(at), " " | "-"));
            return Some((20 + 10 * tens + unit.unwrap_or(0), at + 1 + usize::from(unit.is_some())));
        }
        let value = small(at)?;
        let scaled = SCALES.iter().any(|(word, _)| *word == self.word(at + 1)) && self.gap(at) == " ";
        (value != 1 || scaled).then_some((value, at + 1))
    }
}

/// Year, month, day, and the piece behind.
type DateParts = (Option<u32>, usize, Option<u32>, usize);

/// A number without grouping, leading zeros, and zeros at the end of its decimals.
pub(super) fn decimal(written: &str) -> String {
    let plain = written.replace(',', "");
    let (whole, decimals) = match plain.split_once('.') {
        // `1.2.3` is a version, not a number.
        Some((_, rest)) if rest.contains('.') => return plain,
        Some((whole, decimals)) => (whole.to_owned(), decimals.trim_end_matches('0').to_owned()),
        None => (plain, String::new()),
    };
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    if decimals.is_empty() { whole.to_owned() } else { format!("{whole}.{decimals}") }
}

/// A number in normal form times ten to the power of `zeros`.
fn scaled(number: &str, zeros: usize) -> String {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let moved: String = decimals.chars().chain(std::iter::repeat('0')).take(zeros).collect();
    let rest: String = decimals.chars().skip(zeros).collect();
    decimal(&format!("{whole}{moved}.{rest}0"))
}
