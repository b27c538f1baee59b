//! The numbers Word shows before list items and numbered headings (ECMA-376 part 1, 17.9).

use std::collections::HashMap;

use crate::DocumentError;
use crate::xml::{Node, Xml};

/// List levels of WordprocessingML.
const LEVELS: usize = 9;

#[derive(Clone, Debug)]
struct Level {
    start: u64,
    format: String,
    /// Such as `%1.%2.`.
    text: String,
}

impl Default for Level {
    fn default() -> Self {
        Self { start: 1, format: "decimal".to_owned(), text: String::new() }
    }
}

type Levels = [Level; LEVELS];

/// The list definitions and how far each list has counted.
#[derive(Default)]
pub(super) struct Numbering {
    definitions: HashMap<String, Levels>,
    /// For each list, its definition and the starts it overrides by level.
    lists: HashMap<String, (String, HashMap<usize, u64>)>,
    /// Numbers of the items last shown, by definition: lists of one definition count on.
    counters: HashMap<String, [Option<u64>; LEVELS]>,
    /// Lists whose overrides have been applied.
    begun: HashMap<String, ()>,
}

/// What stands before a paragraph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Marker {
    Bullet,
    Number(String),
    /// A list without visible marks.
    Nothing,
}

impl Numbering {
    /// Reads `word/numbering.xml`.
    pub(super) fn read(mut xml: Xml<'_>) -> Result<Self, DocumentError> {
        let mut numbering = Self::default();
        let mut definition: Option<(String, Levels)> = None;
        let mut list: Option<(String, String, HashMap<usize, u64>)> = None;
        let mut level = 0;
        while let Some(node) = xml.next()? {
            match node {
                Node::Open(name, tag) => {
                    let value = || tag.attribute("val");
                    match name.as_str() {
                        "abstractNum" => {
                            definition = tag.attribute("abstractNumId").map(|id| (id, Levels::default()));
                        }
                        "num" => list = tag.attribute("numId").map(|id| (id, String::new(), HashMap::new())),
                        "lvl" | "lvlOverride" => {
                            level = tag.attribute("ilvl").and_then(|level| level.parse().ok()).unwrap_or(0);
                        }
                        "abstractNumId" => {
                            if let Some((_, id, _)) = &mut list {
                                *id = value().unwrap_or_default();
                            }
                        }
                        "startOverride" => {
                            if let (Some((_, _, starts)), Some(start)) = (&mut list, value()) {
                                starts.insert(level, start.parse().unwrap_or(1));
                            }
                        }
                        "start" | "numFmt" | "lvlText" => {
                            let slot = definition.as_mut().and_then(|(_, levels)| levels.get_mut(level));
                            let (Some(slot), Some(value)) = (slot, value()) else { continue };
                            match name.as_str() {
                                "start" => slot.start = value.parse().unwrap_or(1),
                                "numFmt" => slot.format = value,
                                _ => slot.text = value,
                            }
                        }
                        _ => {}
                    }
                }
                Node::Close(name) if name == "abstractNum" => numbering.definitions.extend(definition.take()),
                Node::Close(name) if name == "num" => {
                    numbering.lists.extend(list.take().map(|(id, definition, starts)| (id, (definition, starts))));
                }
                _ => {}
            }
        }
        Ok(numbering)
    }

    /// Counts an item of list `id` at `level` and says what stands before it; `None` if there is no such list.
    pub(super) fn next(&mut self, id: &str, level: usize) -> Option<Marker> {
        let level = level.min(LEVELS - 1);
        let (definition, starts) = self.lists.get(id)?;
        let levels = self.definitions.get(definition)?;
        let counters = self.counters.entry(definition.clone()).or_default();
        if self.begun.insert(id.to_owned(), ()).is_none() {
            for (at, start) in starts {
                if let (Some(counter), Some(before)) = (counters.get_mut(*at), start.checked_sub(1)) {
                    *counter = Some(before);
                }
            }
        }
        let start_of = |at: usize| levels.get(at).map_or(1, |level| level.start);
        let count = counters[level].map_or(start_of(level), |count| count.saturating_add(1));
        counters[level] = Some(count);
        counters[level + 1..].fill(None);
        let this = &levels[level];
        if this.format == "bullet" {
            return Some(Marker::Bullet);
        }
        if this.format == "none" || this.text.is_empty() {
            return Some(Marker::Nothing);
        }
        let mut shown = this.text.clone();
        for (at, definition) in levels.iter().enumerate().take(level + 1) {
            let number = counters[at].unwrap_or(definition.start);
            shown = shown.replace(&format!("%{}", at + 1), &written(number, &definition.format));
        }
        Some(Marker::Number(shown.trim().to_owned()))
    }
}

/// A number in one of Word's formats; unknown ones in digits.
fn written(number: u64, format: &str) -> String {
    match format {
        "lowerLetter" => letters(number),
        "upperLetter" => letters(number).to_uppercase(),
        "lowerRoman" => roman(number).to_lowercase(),
        "upperRoman" => roman(number),
        "decimalZero" => format!("{number:02}"),
        _ => number.to_string(),
    }
}

/// a … z, aa, bb and so on, as Word counts.
fn letters(number: u64) -> String {
    let Some(index) = number.checked_sub(1).filter(|index| *index < 260) else { return number.to_string() };
    let letter = char::from(b'a' + (index % 26) as u8);
    std::iter::repeat_n(letter, (index / 26) as usize + 1).collect()
}

fn roman(mut number: u64) -> String {
    const SIGNS: &[(u64, &str)] = &[
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    if number == 0 || number > 4000 {
        return number.to_string();
    }
    let mut out = String::new();
    for (value, sign) in SIGNS {
        while number >= *value {
            out.push_str(sign);
            number -= value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_letters() {
        assert_eq!((letters(1), letters(27), letters(0)), ("a".into(), "aa".into(), "0".into()));
        assert_eq!((roman(4), roman(1987), roman(0)), ("IV".into(), "MCMLXXXVII".into(), "0".into()));
    }

    #[test]
    fn levels_count_and_restart() {
        let level = |format: &str, text: &str| Level { start: 1, format: format.to_owned(), text: text.to_owned() };
        let mut levels = Levels::default();
        levels[0] = level("decimal", "%1.");
        levels[1] = level("lowerLetter", "%1.%2)");
        let mut numbering = Numbering::default();
        numbering.definitions.insert("d".to_owned(), levels);
        numbering.lists.insert("1".to_owned(), ("d".to_owned(), HashMap::new()));
        numbering.lists.insert("2".to_owned(), ("d".to_owned(), HashMap::from([(0, 5)])));
        let mut next = |list: &str, level: usize| match numbering.next(list, level) {
            Some(Marker::Number(number)) => number,
            other => format!("{other:?}"),
        };
        assert_eq!(
            [next("1", 0), next("1", 1), next("1", 1), next("1", 0), next("1", 1)],
            ["1.", "1.a)", "1.b)", "2.", "2.a)"]
        );
        assert_eq!([next("2", 0), next("2", 0), next("1", 0)], ["5.", "6.", "7."]);
        assert_eq!(next("9", 0), "None");
    }
}
