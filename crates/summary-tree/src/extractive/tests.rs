#![allow(clippy::unwrap_used)]

use super::*;
use crate::MemberText;
use edgewise_model_api::Tokenizer;
use edgewise_test_support::WordTokenizer;
use proptest::prelude::*;

fn summarise(texts: &[&str], tokens: usize) -> SummaryText {
    let tokenizer = WordTokenizer::new();
    let members: Vec<MemberText<'_>> =
        texts.iter().map(|text| MemberText { headings: &[], text, embedding: &[1.0, 0.0], tokens: 10 }).collect();
    let request = SummaryRequest { title: "", level: 1, members: &members, tokenizer: &tokenizer, waiting: &|| Ok(()) };
    let limits = SummaryLimits { tokens, ..SummaryLimits::default() };
    let made =
        Extractive::new(ExtractiveOptions { limits, ..ExtractiveOptions::default() }).summarise(&request).unwrap();
    assert!(tokenizer.count(&made.text).unwrap() <= tokens, "{}", made.text);
    made
}

const HARBOUR: &str = "The harbour was founded in 1742 by Elsa Brandt. The harbour was founded long ago by someone. \
    A storm destroyed the first pier of the harbour in 1803. Well, so it was.";
const FERRY: &str = "Ferries leave the harbour for the islands every 40 minutes. \"Oh, do they?\" he said.";

#[test]
fn what_fits_is_kept_whole_and_in_order() {
    let made = summarise(&["One sentence here. Another follows", "A third one."], 100);
    assert_eq!(made.text, "One sentence here. Another follows. A third one.");
    assert_eq!(made.facts_left_out, 0);
}

#[test]
fn facts_come_first_and_copies_never() {
    let made = summarise(&[HARBOUR, FERRY], 36);
    for fact in ["1742", "Elsa Brandt", "1803", "40 minutes"] {
        assert!(made.text.contains(fact), "{}", made.text);
    }
    assert!(!made.text.contains("long ago"), "{}", made.text);
    assert_eq!(made.facts_left_out, 0);
    let less = summarise(&[HARBOUR, FERRY], 14);
    assert!(less.facts_left_out > 0 && less.facts == made.facts, "{less:?}");
}

#[test]
fn one_endless_sentence_is_cut_between_words() {
    let endless = "word ".repeat(500);
    let made = summarise(&[&endless], 20);
    assert!(made.text.ends_with("word") && made.text.len() > 50, "{}", made.text);
    assert_eq!(summarise(&["", "  "], 20).text, "");
    assert!(!summarise(&["----- \n ***"], 20).text.is_empty());
}

proptest! {
    #[test]
    fn every_sentence_is_a_members_and_all_is_within_the_limit(
        texts in prop::collection::vec("([A-Z]?[a-z]{1,7}|[0-9]{1,3}|[.!?] ?|[ ,]){1,60}", 1..6),
        tokens in 4usize..60,
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let made = summarise(&texts, tokens);
        let words = |text: &str| edgewise_text::plain(text);
        let all: BTreeSet<String> = texts.iter().flat_map(|text| words(text)).collect();
        let cut = texts.concat();
        for word in words(&made.text) {
            prop_assert!(all.contains(&word) || cut.contains(&word), "{word} of {}", made.text);
        }
        prop_assert!(made.facts_left_out <= made.facts);
        prop_assert_eq!(&made, &summarise(&texts, tokens));
    }
}
