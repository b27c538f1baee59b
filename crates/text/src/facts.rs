//! Facts of a text: its numbers with their units, its dates, and its names.
//!
//! Two ways to write one fact have one key: `1,742` and `1742`, `3.60` and `3.6`, `seven` and `7`, `5 million` and
//! `5000000`, `kg` and `kilograms`, `12 March 1945` and `March 12, 1945` and `1945-03-12`. A capital letter makes a name
//! inside a sentence; at the start of one it does so only if the word stands capitalised inside another sentence too, for
//! any word is capitalised there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
};

use edgewise_types::Span;

use crate::{
    is_content,
    scan::{Piece, PieceKind, pieces},
};

/// What kind of fact it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactKind {
    /// A number.
    Number,
    /// A day or a month, of a year or not.
    Date,
    /// One or more capitalised words, or an identifier.
    Name,
}

/// A number, date or name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// What it is.
    pub kind: FactKind,
    /// The fact in normal form: digits, `YYYY-MM-DD` with `----` for an unnamed year and without `-DD` for a month, or
    /// words in lower case.
    pub key: String,
    /// Unit of a number, where it is a known one, in normal form.
    pub unit: Option<&'static str>,
    /// Where it stands.
    pub span: Span,
}

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
const CONNECTORS: &[&str] = &["of", "de", "da", "del", "der", "di", "du", "la", "le", "van", "von", "bin", "al"];
/// Words in a row, all letters of which are capitals, from which on they are loud and not names.
const LOUD: usize = 4;

/// The facts of `text`, in order, repeated ones included.
pub fn facts(text: &str) -> Vec<Fact> {
    let pieces = pieces(text);
    let mut found = Vec::new();
    let mut name: Vec<usize> = Vec::new();
    let reader = Reader::new(text, &pieces);
    let mut at = 0;
    while at < pieces.len() {
        if let Some((fact, next)) = reader.date(at).or_else(|| reader.number(at)) {
            reader.close(&mut name, &mut found);
            found.push(fact);
            at = next;
            continue;
        }
        if reader.capital(at) || reader.identifier(at) {
            if name.last().is_some_and(|last| !reader.adjacent(*last, at)) {
                reader.close(&mut name, &mut found);
            }
            name.push(at);
        } else if !(CONNECTORS.contains(&reader.word(at)) && reader.joins(&name, at)) {
            reader.close(&mut name, &mut found);
        } else {
            name.push(at);
        }
        at += 1;
    }
    reader.close(&mut name, &mut found);
    found.sort_by_key(|fact| (fact.span, fact.kind));
    found
}

/// What occurs in some texts, to look facts of others up.
#[derive(Debug, Clone, Default)]
pub struct FactIndex {
    numbers: BTreeMap<String, BTreeSet<Option<&'static str>>>,
    dates: BTreeSet<String>,
    words: HashSet<String>,
}

impl FactIndex {
    /// Adds everything that `text` says.
    pub fn add(&mut self, text: &str) {
        for piece in pieces(text) {
            let written = &text[Range::from(piece.span)];
            match piece.kind {
                PieceKind::Word => {
                    self.words.insert(written.to_lowercase());
                }
                PieceKind::Number => {
                    self.numbers.entry(decimal(written)).or_default();
                }
            }
        }
        for fact in facts(text) {
            match fact.kind {
                FactKind::Number => {
                    self.numbers.entry(fact.key).or_default().insert(fact.unit);
                }
                FactKind::Date => {
                    self.dates.insert(fact.key);
                }
                FactKind::Name => {}
            }
        }
    }

    /// Whether `fact` occurs: a number with the same unit wherever both have one, a date at least as exact, every word of a
    /// name.
    pub fn holds(&self, fact: &Fact) -> bool {
        match fact.kind {
            FactKind::Number => self.numbers.get(&fact.key).is_some_and(|units| {
                let named = units.iter().any(Option::is_some);
                fact.unit.is_none() || !named || units.contains(&fact.unit) || units.contains(&None)
            }),
            FactKind::Date => {
                let without_year = fact.key.strip_prefix("----");
                self.dates.iter().any(|date| match without_year {
                    Some(rest) => date.get(4..).is_some_and(|held| held.starts_with(rest)),
                    None => date.starts_with(&fact.key),
                })
            }
            FactKind::Name => fact.key.split(' ').all(|word| self.words.contains(word)),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    pieces: &'a [Piece],
    lower: Vec<String>,
    /// Pieces in a row of words all letters of which are capitals.
    loud: Vec<bool>,
    /// Words that stand capitalised inside a sentence, against those that stand in lower case anywhere.
    inside: HashMap<&'a str, bool>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, pieces: &'a [Piece]) -> Self {
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

    fn word(&self, at: usize) -> &str {
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

    fn capital(&self, at: usize) -> bool {
        let upper = self.is(at, PieceKind::Word) && self.written(at).starts_with(char::is_uppercase);
        upper && is_content(self.word(at)) && !self.loud.get(at).copied().unwrap_or(false)
    }

    /// A word with digits or capitals inside, or joined by `_`.
    fn identifier(&self, at: usize) -> bool {
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
    fn adjacent(&self, a: usize, b: usize) -> bool {
        let between = &self.text[self.pieces[a].span.end..self.pieces[b].span.start];
        let initial =
            self.written(a).chars().count() <= 2 || matches!(self.word(a), "mrs" | "prof" | "capt" | "gen" | "col");
        matches!(between, " " | "-" | "\n" | "\u{a0}") || initial && matches!(between, "." | ". ")
    }

    fn joins(&self, name: &[usize], at: usize) -> bool {
        name.last().is_some_and(|last| self.adjacent(*last, at))
            && at + 1 < self.pieces.len()
            && self.adjacent(at, at + 1)
            && self.capital(at + 1)
    }

    /// Ends a name.
    fn close(&self, name: &mut Vec<usize>, found: &mut Vec<Fact>) {
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
    fn date(&self, at: usize) -> Option<(Fact, usize)> {
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
    fn number(&self, at: usize) -> Option<(Fact, usize)> {
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
fn decimal(written: &str) -> String {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(text: &str, kind: FactKind) -> Vec<String> {
        facts(text).into_iter().filter(|fact| fact.kind == kind).map(|fact| fact.key).collect()
    }

    fn holds(source: &str, claim: &str) -> bool {
        let mut index = FactIndex::default();
        index.add(source);
        let claimed = facts(claim);
        assert!(!claimed.is_empty(), "{claim}");
        claimed.iter().all(|fact| index.holds(fact))
    }

    #[test]
    fn numbers_have_one_form_and_their_unit() {
        let read = |text: &str| -> Vec<(String, Option<&str>)> {
            facts(text).into_iter().filter(|f| f.kind == FactKind::Number).map(|f| (f.key, f.unit)).collect()
        };
        let number = |key: &str, unit| (key.to_owned(), unit);
        assert_eq!(read("1,742 bees, 3.60 and 007"), [number("1742", None), number("3.6", None), number("7", None)]);
        assert_eq!(read("15kg or 15 kilograms"), [number("15", Some("kg")), number("15", Some("kg"))]);
        assert_eq!(read("$5 million, 2.5 thousand"), [number("5000000", Some("$")), number("2500", None)]);
        assert_eq!(
            read("seven, twenty-one and two hundred"),
            [number("7", None), number("21", None), number("200", None)]
        );
        assert_eq!(
            read("40% at 10:30 of the 1990s"),
            [number("40", Some("%")), number("10:30", None), number("1990", None)]
        );
        assert_eq!(read("one of them, version 1.2.3"), [number("1.2.3", None)]);
    }

    #[test]
    fn dates_have_one_form() {
        let same = ["on 12 March 1945.", "March 12, 1945", "the 12th of March 1945", "1945-03-12", "Mar 12th, 1945"];
        for text in same {
            assert_eq!(keys(text, FactKind::Date), ["1945-03-12"], "{text}");
        }
        assert_eq!(keys("in March 1945, then May 3", FactKind::Date), ["1945-03", "-----05-03"]);
        assert!(keys("they march 12 miles and may go", FactKind::Date).is_empty());
    }

    #[test]
    fn names_are_told_from_capitals_at_the_start() {
        let names = |text: &str| keys(text, FactKind::Name);
        assert_eq!(
            names("Yesterday the mayor met Elsa Brandt in the Bank of England."),
            ["elsa brandt", "bank of england"]
        );
        assert_eq!(names("Strike cursed. Then Strike left, and so did Strike."), ["strike", "strike", "strike"]);
        assert_eq!(names("He said, \"Come here.\" Nobody came."), [""; 0]);
        assert_eq!(names("It calls parse_all on a u32 in NASA's code."), ["parse_all", "u32", "nasa"]);
        assert_eq!(names("I saw David Farragut Strykalski III's ship"), ["david farragut strykalski iii"]);
        assert_eq!(names("THIS IS THE VERY END OF IT ALL NOW"), [""; 0]);
        assert_eq!(names("They asked J. R. Hobbs and Jean-Luc."), ["j r hobbs", "jean luc"]);
    }

    #[test]
    fn a_claim_is_held_only_by_a_text_that_says_it() {
        let source = "Elsa Brandt founded the harbour on 12 March 1742 with 40 men; it cost 1.5 million dollars, 15 kg of \
                      gold and took seven years.";
        let yes = [
            "The harbour of Elsa Brandt.",
            "the year 1742",
            "in March 1742",
            "It took 7 years",
            "1,500,000 in all",
            "all of 40",
            "about March 12",
        ];
        for claim in yes {
            assert!(holds(source, claim), "{claim}");
        }
        let no = ["by Elsa Branson", "the year 1743", "in April 1742", "It took 8 years", "15 miles", "March 13"];
        for claim in no {
            assert!(!holds(source, claim), "{claim}");
        }
    }

    proptest! {
        #[test]
        fn a_text_holds_its_own_facts(text in "([A-Z]?[a-zé]{1,6}|[0-9]{1,4}|March|[ .!?,:'’\"\n\\-$%]{1,2}){0,40}") {
            let mut index = FactIndex::default();
            index.add(&text);
            for fact in facts(&text) {
                prop_assert!(text.get(Range::from(fact.span)).is_some_and(|written| !written.is_empty()));
                prop_assert!(index.holds(&fact), "{fact:?}");
            }
        }
    }
}
