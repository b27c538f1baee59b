//! Metadata under the same names and in the same shapes whatever the format, so that one filter fits all of them.
//!
//! | key | value | from |
//! |---|---|---|
//! | `title` | text | document properties, front matter, `<title>`, header |
//! | `author` | list of names | also `authors`, `creator`, `by`; "A; B" and "Ada Lovelace and Alan Turing" are cut |
//! | `date` | `2024`-`05`-`31`, or a time of RFC 3339 | also `published`, `pubdate`, `created`, `revdate` |
//! | `modified` | likewise | also `updated`, `lastmod`, `last_modified` |
//! | `language` | language alone, as `en` | declared, else detected; also `lang`, `locale` |
//! | `locale` | whole tag, as `en-GB` | where the document declares more than the language |
//! | `description` | text | also `summary`, `abstract`, `excerpt` |
//! | `keywords` | list of words | also `tags`, `categories`, `subject` of PDF and EPUB stays `subject` |
//! | `subject`, `publisher`, `generator` | text | document properties |
//! | `pages` | number of pages | PDF, EPUB with a page list |
//! | `records` | number of records | CSV, TSV, JSON lines |
//! | `code_language` | name of the language | source code |
//!
//! A date is written as exactly as it is known: a year alone becomes `2024-01-01`, a month its first day, which filters
//! such as `date >= 2020-01` and `date between 2019-01 and 2021-12` want. What can't be read as a date stays as it is.
//! Keys that a document's author chose (front matter) stay beside the common ones.

use edgewise_types::{Metadata, MetadataValue};

/// Common keys and what else they are called, by falling trust.
const NAMES: &[(&str, &[&str])] = &[
    ("title", &[]),
    ("author", &["authors", "creator", "by"]),
    ("date", &["published", "pubdate", "publish_date", "created", "revdate"]),
    ("modified", &["updated", "lastmod", "last_modified"]),
    ("language", &["lang", "locale"]),
    ("description", &["summary", "abstract", "excerpt"]),
    ("keywords", &["tags", "categories"]),
];

/// `metadata` with the common keys filled in and in their shapes.
pub(crate) fn common(mut metadata: Metadata) -> Metadata {
    for (key, others) in NAMES {
        let named = |name: &str| {
            let exact = metadata.get(name);
            let any_case = || metadata.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
            exact.or_else(any_case).cloned()
        };
        let Some(value) = std::iter::once(key).chain(others.iter()).find_map(|name| named(name)) else { continue };
        let value = match *key {
            "author" => list(texts(&value).iter().flat_map(|text| names(text)).collect()),
            "keywords" => list(texts(&value).iter().flat_map(|text| words(text)).collect()),
            "date" | "modified" => texts(&value).first().map(|text| MetadataValue::Text(date(text))),
            "language" => {
                let Some(tag) = texts(&value).first().and_then(|text| tag(text)) else { continue };
                let language = tag.split('-').next().unwrap_or(&tag).to_owned();
                if language != tag {
                    metadata.insert("locale".to_owned(), MetadataValue::Text(tag));
                }
                Some(MetadataValue::Text(language))
            }
            _ => Some(MetadataValue::Text(texts(&value).join(", "))),
        };
        metadata.extend(value.map(|value| ((*key).to_owned(), value)));
    }
    metadata
}

fn list(items: Vec<String>) -> Option<MetadataValue> {
    (!items.is_empty()).then_some(MetadataValue::List(items))
}

fn texts(value: &MetadataValue) -> Vec<String> {
    match value {
        MetadataValue::Bool(flag) => vec![flag.to_string()],
        MetadataValue::Integer(number) => vec![number.to_string()],
        MetadataValue::Float(number) => vec![number.to_string()],
        MetadataValue::Text(text) => vec![text.clone()],
        MetadataValue::List(items) => items.clone(),
    }
}

fn filled<'t>(parts: impl Iterator<Item = &'t str>) -> Vec<String> {
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The names in a line of authors. Commas and `and` separate names only where each part is more than one word, since
/// `Lovelace, Ada` is one name and so is `Marks and Spencer`.
fn names(text: &str) -> Vec<String> {
    if text.contains(';') {
        return filled(text.split(';'));
    }
    let parts = filled(text.split(',').flat_map(|part| part.split(" and ")).flat_map(|part| part.split(" & ")));
    let parts: Vec<String> = parts.iter().map(|part| part.trim_start_matches("and ").trim().to_owned()).collect();
    let are_names = parts.len() > 1 && parts.iter().all(|part| part.split_whitespace().count() > 1);
    if are_names { parts } else { filled(std::iter::once(text)) }
}

fn words(text: &str) -> Vec<String> {
    filled(text.split([',', ';']))
}

/// A BCP 47 tag of what a document declares: `en_us` is `en-US`, `eng` and `English` are `en`.
pub(crate) fn tag(declared: &str) -> Option<String> {
    const NAMES: &[(&str, &str)] = &[
        ("eng", "en"),
        ("english", "en"),
        ("ger", "de"),
        ("deu", "de"),
        ("german", "de"),
        ("deutsch", "de"),
        ("fre", "fr"),
        ("fra", "fr"),
        ("french", "fr"),
        ("français", "fr"),
        ("spa", "es"),
        ("spanish", "es"),
        ("español", "es"),
        ("ita", "it"),
        ("italian", "it"),
        ("por", "pt"),
        ("portuguese", "pt"),
        ("dut", "nl"),
        ("nld", "nl"),
        ("dutch", "nl"),
        ("rus", "ru"),
        ("russian", "ru"),
        ("zho", "zh"),
        ("chi", "zh"),
        ("chinese", "zh"),
        ("jpn", "ja"),
        ("japanese", "ja"),
        ("swe", "sv"),
        ("swedish", "sv"),
        ("fin", "fi"),
        ("finnish", "fi"),
        ("dan", "da"),
        ("danish", "da"),
        ("pol", "pl"),
        ("polish", "pl"),
        ("lat", "la"),
        ("latin", "la"),
    ];
    let mut parts = declared.trim().split(['-', '_']).filter(|part| !part.is_empty());
    let first = parts.next()?.to_lowercase();
    let first = NAMES.iter().find(|(name, _)| *name == first).map_or(first, |(_, short)| (*short).to_owned());
    let is_language = matches!(first.chars().count(), 2 | 3) && first.chars().all(|c| c.is_ascii_lowercase());
    if !is_language {
        return None;
    }
    // Regions are written in capitals and scripts with one: https://www.rfc-editor.org/rfc/rfc5646#section-2.1.1
    let rest = parts.map(|part| match part.len() {
        2 => part.to_uppercase(),
        4 => {
            let (head, tail) = part.split_at(part.ceil_char_boundary(1));
            head.to_uppercase() + &tail.to_lowercase()
        }
        _ => part.to_lowercase(),
    });
    Some(std::iter::once(first).chain(rest).collect::<Vec<_>>().join("-"))
}

/// A date or time as RFC 3339 writes it; as it is where it can't be told.
pub(crate) fn date(text: &str) -> String {
    let text = text.trim();
    let (day, time) = match text.find(['T', 't', ' ']).filter(|at| text[..*at].contains(['-', '/'])) {
        Some(at) => (&text[..at], Some(text[at + 1..].trim())),
        None => (text, None),
    };
    let Some(day) = numbers(day).or_else(|| words_of_date(text)) else { return text.to_owned() };
    match time.and_then(clock) {
        Some(time) => format!("{day}T{time}"),
        None => day,
    }
}

fn ymd(year: u32, month: u32, day: u32) -> Option<String> {
    let days = [31, if year.is_multiple_of(4) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let last = *days.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    ((1000..=9999).contains(&year) && (1..=last).contains(&day)).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// `2024`, `2024-05`, `2024/5/31`, `20240531`.
fn numbers(text: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if text.len() == 8 && digits(text) {
        return ymd(text[..4].parse().ok()?, text[4..6].parse().ok()?, text[6..].parse().ok()?);
    }
    let parts: Vec<&str> = text.split(['-', '/', '.']).collect();
    if parts.len() > 3 || parts[0].len() != 4 || !parts.iter().all(|part| digits(part)) {
        return None;
    }
    let part = |at: usize| parts.get(at).map_or(Some(1), |part| part.parse().ok());
    ymd(part(0)?, part(1)?, part(2)?)
}

/// `May 31, 2024`, `31st of May 2024`, `May 2024`, `Fri, 31 May 2024 10:00:00 GMT`. What follows in brackets does not
/// count, and dates with nothing but numbers in them are not guessed at.
fn words_of_date(text: &str) -> Option<String> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = text.split(['[', '(']).next().unwrap_or(text).to_lowercase();
    let (mut year, mut month, mut day) = (None, None, None);
    for word in text.split([' ', ',', '.', '-']).filter(|word| !word.is_empty()) {
        let number = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let is_word = word.chars().all(|c| c.is_ascii_alphabetic());
        if is_word && month.is_none() {
            let found = MONTHS.iter().position(|name| word.starts_with(name)).filter(|_| word.len() < 10);
            month = found.and_then(|at| u32::try_from(at + 1).ok());
        } else if number.len() == 4 && number == word && year.is_none() {
            year = number.parse::<u32>().ok();
        } else if (1..=2).contains(&number.len()) && day.is_none() {
            day = number.parse::<u32>().ok();
        }
    }
    ymd(year?, month?, day.unwrap_or(1))
}

/// `10:30`, `10:30:00`, `10:30:00.5+02:00`, `10:30:00 +0200` as RFC 3339 has it; without a zone where none is given.
fn clock(text: &str) -> Option<String> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(text.len());
    let (time, zone) = (text[..split].trim(), text[split..].trim());
    let mut parts = time.split(':');
    let mut number = |most: u32| {
        let part = parts.next()?;
        let whole = part.split('.').next()?;
        (whole.len() == 2 && whole.parse::<u32>().ok()? <= most).then(|| part.to_owned())
    };
    let (hour, minute) = (number(23)?, number(59)?);
    let second = number(60).unwrap_or_else(|| "00".to_owned());
    let zone = match zone {
        "" => String::new(),
        "Z" | "z" | "GMT" | "UTC" => "Z".to_owned(),
        zone if zone.len() == 5 && zone.is_ascii() && !zone.contains(':') => format!("{}:{}", &zone[..3], &zone[3..]),
        zone if zone.len() == 6 && zone.starts_with(['+', '-']) => zone.to_owned(),
        _ => return None,
    };
    Some(format!("{hour}:{minute}:{second}{zone}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> MetadataValue {
        MetadataValue::Text(text.to_owned())
    }

    fn list_of(items: &[&str]) -> MetadataValue {
        MetadataValue::List(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn dates_of_many_kinds() {
        for (written, expected) in [
            ("2024", "2024-01-01"),
            ("2024-5", "2024-05-01"),
            ("20240531", "2024-05-31"),
            ("2024/05/31", "2024-05-31"),
            ("May 31, 2024", "2024-05-31"),
            ("31st of May 2024", "2024-05-31"),
            ("June 1, 1998 [eBook #1342]", "1998-06-01"),
            ("Fri, 31 May 2024 10:00:00 GMT", "2024-05-31"),
            ("2024-05-31T10:30:00Z", "2024-05-31T10:30:00Z"),
            ("2024-05-31 10:30:00 +0200", "2024-05-31T10:30:00+02:00"),
            ("2024-05-31 10:30", "2024-05-31T10:30:00"),
            ("2024-02-30", "2024-02-30"),
            ("31/05/24", "31/05/24"),
            ("yesterday", "yesterday"),
            ("", ""),
        ] {
            assert_eq!(date(written), expected);
        }
    }

    #[test]
    fn authors_are_cut_only_where_that_is_certain() {
        assert_eq!(
            names("Ada Lovelace, Alan Turing, and Grace Hopper"),
            ["Ada Lovelace", "Alan Turing", "Grace Hopper"]
        );
        assert_eq!(names("Lovelace, Ada; Turing, Alan"), ["Lovelace, Ada", "Turing, Alan"]);
        for one in ["Lovelace, Ada", "Martin Luther King, Jr.", "Marks and Spencer", "Ada"] {
            assert_eq!(names(one), [one]);
        }
    }

    #[test]
    fn tags_of_languages() {
        let written = ["en_us", "EN", "eng", "German", "zh-hans-cn", "x", "klingon", ""];
        let tags: Vec<Option<String>> = written.iter().map(|written| tag(written)).collect();
        let expected = [Some("en-US"), Some("en"), Some("en"), Some("de"), Some("zh-Hans-CN"), None, None, None];
        assert_eq!(tags.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_names_an_author_chose_stay_beside_the_common_ones() {
        let written: Metadata = [
            ("Authors".to_owned(), list_of(&["Ada Lovelace", "Alan Turing"])),
            ("published".to_owned(), MetadataValue::Integer(2024)),
            ("tags".to_owned(), text("x, y")),
            ("lang".to_owned(), text("en_GB")),
            ("layout".to_owned(), text("post")),
        ]
        .into();
        let mut expected = written.clone();
        expected.extend([
            ("author".to_owned(), list_of(&["Ada Lovelace", "Alan Turing"])),
            ("date".to_owned(), text("2024-01-01")),
            ("keywords".to_owned(), list_of(&["x", "y"])),
            ("language".to_owned(), text("en")),
            ("locale".to_owned(), text("en-GB")),
        ]);
        assert_eq!(common(written), expected);
    }
}
