//! What kind of question is asked, judged from its words alone.
//!
//! Two parts: plain [`Surface`] measures, computed here, and a linear model over them and hashed n-grams, which the
//! router's file brings ([`crate::Router`]). A few cue words count as fixed prior odds, so that a question such as
//! "summarise the themes" is known for what it is in a domain, or one of the languages below, that no model was trained
//! on. Cues are stems of English, German, French, Spanish and Italian; other languages have n-grams and shape only.
//!
//! [`QuestionKind::Conversation`] is a rule, not a trained class: no labelled set of such questions was at hand.
//!
//! Deliberately not here: retrieval, and what a kind means for a route.

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;
use utoipa::ToSchema;

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// One fact, stated in one place.
    LocalFact,
    /// Something that follows from several places, or from reasoning over them.
    MultiHop,
    /// How two or more things differ.
    Comparison,
    /// Something of the whole: a summary, themes, everything of a kind.
    Global,
    /// A turn of a conversation that means little by itself.
    Conversation,
}

impl QuestionKind {
    /// Every kind, in the order of [`KindProbabilities::values`].
    pub const ALL: [QuestionKind; 5] =
        [Self::LocalFact, Self::MultiHop, Self::Comparison, Self::Global, Self::Conversation];

    /// Kinds with a trained head in the router's file, in its order.
    pub const TRAINED: [QuestionKind; 4] = [Self::LocalFact, Self::MultiHop, Self::Comparison, Self::Global];

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalFact => "local_fact",
            Self::MultiHop => "multi_hop",
            Self::Comparison => "comparison",
            Self::Global => "global",
            Self::Conversation => "conversation",
        }
    }
}

/// How likely each kind is; they sum to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KindProbabilities {
    /// One fact in one place.
    pub local_fact: f32,
    /// Several places, or reasoning.
    pub multi_hop: f32,
    /// A comparison.
    pub comparison: f32,
    /// Something of the whole.
    pub global: f32,
    /// A turn that means little by itself.
    pub conversation: f32,
}

impl Default for KindProbabilities {
    /// Nothing is known.
    fn default() -> Self {
        Self::of([0.2; 5])
    }
}

impl KindProbabilities {
    /// From values in the order of [`QuestionKind::ALL`], which are scaled to sum to 1.
    pub fn of(values: [f32; 5]) -> Self {
        let total: f32 = values.iter().sum();
        let [local_fact, multi_hop, comparison, global, conversation] =
            if total > 0.0 { values.map(|value| value / total) } else { [0.2; 5] };
        Self { local_fact, multi_hop, comparison, global, conversation }
    }

    /// In the order of [`QuestionKind::ALL`].
    pub fn values(&self) -> [f32; 5] {
        [self.local_fact, self.multi_hop, self.comparison, self.global, self.conversation]
    }

    /// The likeliest kind; of equally likely ones the first.
    pub fn likeliest(&self) -> QuestionKind {
        let kinds = QuestionKind::ALL.into_iter().zip(self.values());
        kinds
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map_or(QuestionKind::LocalFact, |kind| kind.0)
    }
}

/// Names of [`Surface::values`], in order: part of the router file's format.
pub const SURFACE_NAMES: [&str; 14] = [
    "ln_words",
    "asks_person_time_place",
    "asks_what",
    "asks_how",
    "asks_why",
    "asks_amount",
    "compares",
    "aggregates",
    "joins",
    "entities",
    "digits",
    "explains",
    "yes_or_no",
    "refers_back",
];

/// Plain measures of a question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surface {
    values: [f32; SURFACE_NAMES.len()],
    words: usize,
}

const PERSON_TIME_PLACE: &[&str] = &[
    "who", "whom", "whose", "when", "where", "wer", "wann", "wo", "qui", "quand", "où", "quién", "cuándo", "dónde",
    "chi",
];
const WHAT: &[&str] =
    &["what", "which", "was", "welche", "welcher", "welches", "quel", "quelle", "que", "qué", "cuál", "cosa", "quale"];
const HOW: &[&str] = &["how", "wie", "comment", "cómo", "come"];
const WHY: &[&str] = &["why", "warum", "weshalb", "wieso", "pourquoi", "perché"];
const AMOUNT: &[&str] = &[
    "many",
    "much",
    "number",
    "amount",
    "total",
    "percentage",
    "viele",
    "viel",
    "anzahl",
    "combien",
    "cuántos",
    "cuánto",
    "quanti",
];
/// Stems: a word that starts so counts.
const COMPARES: &[&str] = &[
    "compar",
    "differ",
    "versus",
    "vs",
    "contrast",
    "unlike",
    "similarit",
    "between",
    "chang",
    "increas",
    "decreas",
    "vergleich",
    "unterschied",
    "différen",
    "diferenc",
    "confront",
];
const AGGREGATES: &[&str] = &[
    "summar",
    "overall",
    "theme",
    "overview",
    "plot",
    "gist",
    "outline",
    "zusammenfass",
    "überblick",
    "insgesamt",
    "résum",
    "ensemble",
    "resum",
    "riassum",
    "panoram",
];
const ALL_OF: &[&str] =
    &["list all", "all the", "every ", "main points", "main idea", "key points", "as a whole", "what is this about"];
const EXPLAINS: &[&str] = &[
    "reason",
    "explain",
    "impact",
    "signific",
    "contribut",
    "relationship",
    "role",
    "suggest",
    "affect",
    "influenc",
    "implic",
    "erklär",
    "expli",
];
const AUXILIARIES: &[&str] = &[
    "is", "are", "was", "were", "do", "does", "did", "can", "could", "has", "have", "had", "will", "would", "should",
    "ist", "sind", "hat",
];
/// Personal pronouns; words that are something else in another of the languages are left out.
const REFERS: &[&str] = &["it", "they", "them", "he", "she", "him", "sie", "elle", "ils", "cela", "eso", "ello"];
/// Words that point back when they end a question.
const POINTS: &[&str] = &["that", "this", "those", "these", "one"];
const CONTINUES: &[&str] =
    &["and ", "but ", "so ", "what about", "how about", "also ", "und ", "aber ", "et ", "mais ", "y ", "e "];

/// Prior odds, as logits, that a cue adds to its kind.
const CUE_GLOBAL: f32 = 2.5;
const CUE_COMPARISON: f32 = 1.0;

impl Surface {
    /// Measures `question`.
    pub fn of(question: &str) -> Self {
        let lower = question.to_lowercase();
        let words: Vec<&str> = lower.unicode_words().collect();
        let cased: Vec<&str> = question.unicode_words().collect();
        let any = |list: &[&str]| flag(words.iter().any(|word| list.contains(word)));
        let stem = |list: &[&str]| flag(words.iter().any(|word| list.iter().any(|stem| word.starts_with(stem))));
        let capital = |word: &&&str| word.chars().next().is_some_and(char::is_uppercase);
        // A run of capitalised words is one name; the first word of a sentence is capitalised anyway.
        let entities =
            cased.windows(2).filter(|pair| capital(&&pair[1]) && !(capital(&&pair[0]) && pair[0] != cased[0])).count();
        let aggregates = stem(AGGREGATES).max(flag(ALL_OF.iter().any(|cue| lower.contains(cue))));
        let opens = words.first().copied().unwrap_or_default();
        // A pronoun near the beginning of a question that names little else has its antecedent in an earlier turn.
        let pronoun = words.iter().take(4).any(|word| REFERS.contains(word))
            || words.last().is_some_and(|word| POINTS.contains(word));
        let reference = pronoun && entities == 0 && content_words(question).len() <= 2;
        let continues = CONTINUES.iter().any(|cue| lower.trim_start().starts_with(cue)) && words.len() <= 8;
        let joins =
            words.iter().filter(|word| ["and", "or", "und", "oder", "et", "ou", "y", "o"].contains(word)).count();
        let values = [
            (words.len() as f32 + 1.0).ln(),
            any(PERSON_TIME_PLACE),
            any(WHAT),
            any(HOW),
            any(WHY),
            any(AMOUNT),
            stem(COMPARES),
            aggregates,
            (joins as f32).min(3.0),
            (entities as f32).min(5.0),
            flag(question.chars().any(|c| c.is_ascii_digit())),
            stem(EXPLAINS),
            flag(AUXILIARIES.contains(&opens)),
            flag(reference || continues),
        ];
        Self { values, words: words.len() }
    }

    /// In the order of [`SURFACE_NAMES`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Words of the question.
    pub fn words(&self) -> usize {
        self.words
    }

    /// Logits that fixed cues add to the trained kinds, in the order of [`QuestionKind::TRAINED`].
    pub fn cues(&self) -> [f32; 4] {
        [0.0, 0.0, CUE_COMPARISON * self.values[6], CUE_GLOBAL * self.values[7]]
    }

    /// Probability, by rule, that the question is a turn that means little by itself.
    pub fn conversation(&self) -> f32 {
        if self.values[13] > 0.0 { 0.7 } else { 0.02 }
    }
}

fn flag(holds: bool) -> f32 {
    if holds { 1.0 } else { 0.0 }
}

/// Words that carry what is asked: at least four letters, or with a digit or capital; lower case. Works without a list of
/// stop words, so in any language that writes spaces.
pub(crate) fn content_words(question: &str) -> Vec<String> {
    let mut words: Vec<String> = question
        .unicode_words()
        .skip(1)
        .filter(|word| word.chars().count() >= 4 || word.chars().any(|c| c.is_numeric() || c.is_uppercase()))
        .map(str::to_lowercase)
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(question: &str, name: &str) -> f32 {
        let at = SURFACE_NAMES.iter().position(|known| *known == name).unwrap_or(usize::MAX);
        Surface::of(question).values()[at]
    }

    #[test]
    fn cues_are_found_in_several_languages() {
        for question in
            ["Summarise the report.", "Fasse das zusammen: Zusammenfassung?", "Résumez le texte", "List all risks"]
        {
            assert_eq!(value(question, "aggregates"), 1.0, "{question}");
        }
        for question in ["How does A compare with B?", "Was ist der Unterschied?", "Quelle est la différence ?"] {
            assert_eq!(value(question, "compares"), 1.0, "{question}");
        }
        assert_eq!(value("Why did he leave?", "asks_why"), 1.0);
        assert_eq!(value("Who wrote it?", "asks_person_time_place"), 1.0);
        assert_eq!(value("Is the harbour old?", "yes_or_no"), 1.0);
    }

    #[test]
    fn a_name_is_one_entity_and_a_first_word_none() {
        assert_eq!(value("What did Elsa Brandt build in Lisbon?", "entities"), 2.0);
        assert_eq!(value("What is a harbour?", "entities"), 0.0);
    }

    #[test]
    fn a_turn_without_antecedent_is_a_conversation() {
        for question in ["And when was it built?", "What about the second one?", "Why did they do that?"] {
            assert!(Surface::of(question).conversation() > 0.5, "{question}");
        }
        for question in [
            "When was the harbour of Lisbon built?",
            "Who is Elsa Brandt and what did she build?",
            "Is there a limit?",
            "What is the reason that bridges fall?",
            "What is this about?",
            "¿Qué es una red?",
            "And which themes recur across all of the reports of the last ten years?",
        ] {
            assert!(Surface::of(question).conversation() < 0.1, "{question}");
        }
    }

    #[test]
    fn content_words_leave_out_the_small_ones() {
        assert_eq!(
            content_words("When was the harbour of Rio founded in 1742?"),
            ["1742", "founded", "harbour", "rio"]
        );
        assert!(content_words("").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_measured(question in "\\PC{0,200}") {
            let surface = Surface::of(&question);
            prop_assert!(surface.values().iter().all(|value| value.is_finite()));
        }

        #[test]
        fn probabilities_sum_to_one(values in prop::array::uniform5(0f32..10.0)) {
            let kinds = KindProbabilities::of(values);
            prop_assert!((kinds.values().iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
