//! Facts of a text: its numbers with their units, its dates, and its names.
//!
//! Two ways to write one fact have one key: `1,742` and `1742`, `3.60` and `3.6`, `seven` and `7`, `5 million` and
//! `5000000`, `kg` and `kilograms`, `12 March 1945` and `March 12, 1945` and `1945-03-12`. A capital letter makes a name
//! inside a sentence; at the start of one it does so only if the word stands capitalised inside another sentence too, for
//! any word is capitalised there.

mod reader;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Range,
};

use edgewise_types::Span;

use crate::scan::{PieceKind, pieces};
use reader::{CONNECTORS, Reader, decimal};

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
