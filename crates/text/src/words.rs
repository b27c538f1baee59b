//! What a sentence says, as far as its words tell: content words by stem, numbers, names, and what is negated.

use std::{
    collections::{BTreeSet, HashSet},
    sync::LazyLock,
};

/// English words that carry no content of their own. Negations are handled apart. `one` counts as a pronoun.
const STOP_WORDS: &[&str] = &[
    "a",
    "about",
    "above",
    "after",
    "again",
    "all",
    "also",
    "am",
    "an",
    "and",
    "any",
    "are",
    "as",
    "at",
    "be",
    "because",
    "been",
    "before",
    "being",
    "below",
    "between",
    "both",
    "but",
    "by",
    "can",
    "could",
    "did",
    "do",
    "does",
    "doing",
    "down",
    "during",
    "each",
    "every",
    "few",
    "for",
    "from",
    "further",
    "had",
    "has",
    "have",
    "having",
    "he",
    "her",
    "here",
    "hers",
    "him",
    "his",
    "how",
    "i",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "just",
    "may",
    "me",
    "might",
    "more",
    "most",
    "must",
    "my",
    "of",
    "off",
    "on",
    "once",
    "one",
    "only",
    "or",
    "other",
    "our",
    "out",
    "over",
    "same",
    "shall",
    "she",
    "should",
    "so",
    "some",
    "such",
    "than",
    "that",
    "the",
    "their",
    "them",
    "then",
    "there",
    "these",
    "they",
    "this",
    "those",
    "through",
    "to",
    "too",
    "under",
    "until",
    "up",
    "us",
    "very",
    "was",
    "we",
    "were",
    "what",
    "when",
    "where",
    "which",
    "while",
    "who",
    "whom",
    "why",
    "will",
    "with",
    "would",
    "you",
    "your",
    "according",
    "passage",
    "passages",
    "source",
    "sources",
];

/// The same for look-up: a text has many words.
static STOP_SET: LazyLock<HashSet<&str>> = LazyLock::new(|| STOP_WORDS.iter().copied().collect());

const NEGATIONS: &[&str] = &["not", "no", "never", "none", "neither", "nor", "without", "cannot", "n't"];

const NUMBER_WORDS: &[(&str, &str)] = &[
    ("zero", "0"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "11"),
    ("twelve", "12"),
];

/// Content words that a negation reaches.
const REACH: usize = 2;

/// What kind of word it is, and so how much it weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Holds a digit, or is a small number in letters: has to match exactly.
    Number,
    /// Capitalised inside a sentence, or an identifier: rarely a coincidence.
    Name,
    /// Any other content word.
    Plain,
}

impl Kind {
    /// Weight in a comparison. Numbers and names distinguish statements better than other words.
    pub fn weight(self) -> f32 {
        match self {
            Kind::Number => 2.0,
            Kind::Name => 1.5,
            Kind::Plain => 1.0,
        }
    }
}

/// A content word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Its stem, or the digits of a number.
    pub stem: String,
    /// What it is.
    pub kind: Kind,
}

/// The words of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Content words in order, repeated ones once.
    pub content: Vec<Word>,
    /// All stems of content words.
    pub stems: BTreeSet<String>,
    /// Stems that a negation reaches.
    pub negated: BTreeSet<String>,
}

impl Words {
    /// Reads `text`.
    pub fn of(text: &str) -> Self {
        let mut words = Self::default();
        let mut reach = 0;
        let mut first = true;
        for token in tokens(text) {
            let lower = token.to_lowercase();
            if NEGATIONS.contains(&lower.as_str()) {
                reach = REACH;
                first = false;
                continue;
            }
            if STOP_SET.contains(lower.as_str()) {
                first = false;
                continue;
            }
            let number = NUMBER_WORDS.iter().find(|(word, _)| *word == lower).map(|(_, digits)| *digits);
            let (stem, kind) = match number {
                Some(digits) => (digits.to_owned(), Kind::Number),
                None if lower.contains(|c: char| c.is_ascii_digit()) => (lower, Kind::Number),
                None => {
                    let inner_capital = token.chars().skip(1).any(char::is_uppercase) || token.contains('_');
                    let capital = token.starts_with(char::is_uppercase) && !first;
                    (stem(&lower), if inner_capital || capital { Kind::Name } else { Kind::Plain })
                }
            };
            first = false;
            if reach > 0 {
                reach -= 1;
                words.negated.insert(stem.clone());
            }
            if words.stems.insert(stem.clone()) {
                words.content.push(Word { stem, kind });
            }
        }
        words
    }

    /// Sum of the weights of the content words.
    pub fn weight(&self) -> f32 {
        self.content.iter().map(|word| word.kind.weight()).sum()
    }
}

/// The words of `text` as they are written, those without content included.
pub fn plain(text: &str) -> Vec<String> {
    tokens(text)
}

/// Whether a word, in lower case, says anything of its own.
pub fn is_content(word: &str) -> bool {
    !STOP_SET.contains(word) && !NEGATIONS.contains(&word)
}

/// Stems of the content words of `text`.
pub fn stems(text: &str) -> BTreeSet<String> {
    Words::of(text).stems
}

/// Words, numbers with their decimals, identifiers. `don't` gives `do` and `n't`; `15kg` gives `15` and `kg`; digit
/// grouping is removed: `1,742` gives `1742`.
fn tokens(text: &str) -> Vec<String> {
    let text = text.replace(['’', 'ʼ'], "'");
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or(' ');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        if at(i).is_ascii_digit() {
            let mut number = String::new();
            loop {
                let digits_after = (i + 1..).take_while(|j| at(*j).is_ascii_digit()).count();
                match at(i) {
                    c if c.is_ascii_digit() => number.push(c),
                    '.' if digits_after > 0 => number.push('.'),
                    ',' if digits_after == 3 => {}
                    _ => break,
                }
                i += 1;
            }
            tokens.push(number);
        } else if at(i).is_alphanumeric() || at(i) == '_' {
            let mut word = String::new();
            while at(i).is_alphanumeric() || at(i) == '_' || at(i) == '\'' && at(i + 1).is_alphabetic() {
                word.push(at(i));
                i += 1;
            }
            match word.split_once('\'') {
                None => tokens.push(word),
                Some((stem, "t" | "T")) => {
                    tokens.extend(stem.strip_suffix(['n', 'N']).map(str::to_owned));
                    tokens.push("n't".to_owned());
                }
                // A possessive or contraction.
                Some((stem, _)) => tokens.push(stem.to_owned()),
            }
        } else {
            i += 1;
        }
    }
    tokens
}

/// A light English stem: enough for `founded` and `founding`, `baked` and `baking`, `queries` and `query` to agree. Both
/// sides of a comparison are stemmed alike, so what matters is agreement, not the form.
pub fn stem(word: &str) -> String {
    let long_enough = |rest: &str| rest.chars().count() >= 3;
    if let Some(rest) = word.strip_suffix("ies").filter(|rest| long_enough(rest)) {
        return format!("{rest}y");
    }
    let rest = ["ings", "ing", "edly", "ed", "ly", "s"]
        .iter()
        .filter(|suffix| !(word.ends_with("ss") && **suffix == "s"))
        .find_map(|suffix| word.strip_suffix(suffix).filter(|rest| long_enough(rest)));
    let rest = rest.unwrap_or(word);
    let rest = rest.strip_suffix('e').filter(|rest| long_enough(rest)).unwrap_or(rest);
    // `stopped` and `stop` agree, and so do `controlling` and `control`; `pass` stays as it is.
    let mut backwards = rest.chars().rev();
    match (backwards.next(), backwards.next()) {
        (Some(a), Some(b)) if a == b && a != 's' && long_enough(rest) && a.is_alphabetic() => {
            rest.strip_suffix(a).unwrap_or(rest).to_owned()
        }
        _ => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stems(text: &str) -> Vec<String> {
        Words::of(text).content.into_iter().map(|word| word.stem).collect()
    }

    #[test]
    fn forms_of_a_word_agree() {
        for (a, b) in [
            ("founded", "founding"),
            ("baked", "baking"),
            ("queries", "query"),
            ("stopped", "stops"),
            ("caches", "cached"),
            ("controlling", "control"),
            ("passes", "pass"),
            ("harbour's", "harbours"),
        ] {
            assert_eq!(stems(a), stems(b), "{a} {b}");
        }
        assert_ne!(stems("baking"), stems("banking"));
    }

    #[test]
    fn numbers_are_read_as_values() {
        assert_eq!(stems("1,742 and 3.6, 15kg in 2020, seven"), ["1742", "3.6", "15", "kg", "2020", "7"]);
        assert_eq!(stems("u32"), ["u32"]);
        let kinds: Vec<Kind> = Words::of("Seven bees of Brandt use u32").content.iter().map(|word| word.kind).collect();
        assert_eq!(kinds, [Kind::Number, Kind::Plain, Kind::Name, Kind::Plain, Kind::Number]);
    }

    #[test]
    fn negation_reaches_the_next_content_words() {
        let words = Words::of("The pier was not rebuilt in stone before winter");
        assert_eq!(words.negated.iter().map(String::as_str).collect::<Vec<_>>(), ["rebuilt", "ston"]);
        assert!(Words::of("It doesn't leak").negated.contains("leak"));
        assert!(Words::of("It leaks").negated.is_empty());
    }
}
