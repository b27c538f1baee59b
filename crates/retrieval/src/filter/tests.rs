use std::collections::BTreeMap;

use edgewise_types::{ContentHash, Document, DocumentId, DocumentStatus, MetadataValue};
use proptest::prelude::*;

use super::*;

fn document() -> Document {
    let text = |text: &str| MetadataValue::Text(text.to_owned());
    let metadata = BTreeMap::from([
        ("year".to_owned(), MetadataValue::Integer(2021)),
        ("score".to_owned(), MetadataValue::Float(0.5)),
        ("draft".to_owned(), MetadataValue::Bool(false)),
        ("lang".to_owned(), text("en")),
        ("date".to_owned(), text("2024-05-31")),
        ("at".to_owned(), text("2024-05-31T23:30:00-02:00")),
        ("tags".to_owned(), MetadataValue::List(vec!["rust".to_owned(), "it's".to_owned()])),
        ("odd key".to_owned(), text("x")),
    ]);
    Document {
        id: DocumentId::from_uri("guide/a/b.md"),
        uri: "guide/a/b.md".to_owned(),
        title: "A title".to_owned(),
        media_type: "text/markdown".to_owned(),
        content_hash: ContentHash::of(b""),
        text_bytes: 9,
        tokens: 120,
        chunks: 3,
        metadata,
        status: DocumentStatus::Ready,
        updated_at: "2024-06-01T00:00:00Z".to_owned(),
    }
}

#[test]
fn predicates_hold_as_the_grammar_says() {
    let document = document();
    for (filter, expected) in [
        ("year = 2021", true),
        ("year == 2021.0 and score<=.5", true),
        ("year != 2020", true),
        ("year = '2021'", false),
        ("year != '2021'", false),
        ("NOT year = '2021'", true),
        ("missing != 1", false),
        ("not (missing = 1)", true),
        ("missing exists or lang EXISTS", true),
        ("draft = false", true),
        ("year between 2020 and 2021 and year < 2022", true),
        ("year between 2022 and 2030", false),
        ("lang in ('de', \"en\")", true),
        ("lang not in ('de', 'en')", false),
        ("tags = 'it''s'", true),
        ("tags in ('go','rust')", true),
        ("tags = 'ru'", false),
        ("uri like 'guide/**'", true),
        ("uri like 'guide/*'", false),
        ("uri like 'guide/*/*.{md,txt}'", true),
        ("uri not like '**/b.*'", false),
        ("date = 2024-05", true),
        ("date = 2024-05-31", true),
        ("date = 2024 and date >= 2020 and date < 2025", true),
        ("date < 2024 or date > 2024", false),
        ("lang >= 2020", false),
        ("date > 2024-05", false),
        ("date >= 2024-05-31 and date < 2024-06", true),
        // 23:30 two hours behind UTC is 01:30 of the next day.
        ("at = 2024-06-01", true),
        ("at > 2024-06-01T01:29:59Z and at <= 2024-06-01T01:30:00Z", true),
        ("updated_at >= 2024-06-01T00:00:00", true),
        ("lang > 2024-01-01", false),
        ("date = 2024 and date >= 2024 and date < 2025 and date > 2023", true),
        ("date != 2024 or date > 2024 or date = 2024.5 or date > 12", false),
        ("date between 2023 and 2024", true),
        ("`odd key` = 'x'", true),
        ("tokens > 100 and chunks = 3 and title = 'A title' and media_type = 'text/markdown'", true),
        ("year = 1 or year = 2021 and lang = 'de'", false),
        ("(year = 1 or year = 2021) and lang = 'en'", true),
    ] {
        assert_eq!(filter.parse::<Filter>().unwrap().matches(&document), expected, "{filter}");
    }
}

#[test]
fn errors_say_where_and_what() {
    for (filter, at, reason) in [
        ("", 1, "expected a field, but the filter ends"),
        ("year", 5, "after the field, but the filter ends"),
        ("year = ", 8, "expected a number, a date, true, false or a text in quotes"),
        ("lang = en", 8, "but found `en`"),
        ("é = 1 lang = 2", 7, "expected `and`, `or` or the end, but found `lang`"),
        ("(year = 1", 10, "expected `)`"),
        ("lang in 'a'", 9, "expected `(` after `in`"),
        ("lang in ('a' 'b')", 14, "expected `,` or `)`"),
        ("lang not = 'a'", 10, "expected `in` or `like` after `not`"),
        ("lang = 'a", 8, "never ends"),
        ("uri like '[a'", 10, "bad pattern"),
        ("uri like 3", 10, "a pattern in quotes"),
        ("date = 2024-13-01", 8, "but found `2024-13-01`"),
        ("a & b", 3, "unexpected `&`"),
        ("a between 1 or 2", 13, "`and` and the upper end"),
    ] {
        let error = filter.parse::<Filter>().unwrap_err();
        assert_eq!(error.at, at, "{error}");
        assert!(error.reason.contains(reason), "{error}");
    }
    let deep = format!("{}a = 1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(deep.parse::<Filter>().unwrap_err().reason.contains("nested"));
    assert!("not ".repeat(100_000).parse::<Filter>().is_err());
}

#[test]
fn a_filter_is_its_text_when_serialised() {
    let filter: Filter = serde_json::from_str("\"year >= 2020\"").unwrap();
    assert_eq!(serde_json::to_string(&filter).unwrap(), "\"year >= 2020\"");
    assert!(serde_json::from_str::<Filter>("\"year >=\"").is_err());
}

proptest! {
    #[test]
    fn any_text_parses_or_is_refused_without_harm(text in "\\PC{0,80}", close in "[a-z0-9 ='\"()<>!,-]{0,60}") {
        let document = document();
        for text in [text, close] {
            if let Ok(filter) = text.parse::<Filter>() {
                filter.matches(&document);
            }
        }
    }

    #[test]
    fn not_turns_every_answer(year in 2019i64..2024, low in 2019i64..2024, high in 2019i64..2024) {
        let mut document = document();
        document.metadata.insert("year".to_owned(), MetadataValue::Integer(year));
        let within = format!("year between {low} and {high}").parse::<Filter>().unwrap();
        let outside = format!("not year between {low} and {high}").parse::<Filter>().unwrap();
        prop_assert_eq!(within.matches(&document), (low..=high).contains(&year));
        prop_assert_ne!(within.matches(&document), outside.matches(&document));
    }
}
