//! Whether a quote supports a statement.
//!
//! Hard conditions: every number of the statement is in the quote, in one sentence with a word that stands beside it in
//! the statement; every name is in the source the quote is from; no shared word is negated in one and not in the
//! other; and no word has its opposite (`mutable`, `immutable`) in the quote. Beyond them, a score from 0 to 1: the weighted share of
//! the statement's content words that are in the quote, mixed with the similarity of their embeddings where there is
//! one. Numbers and names weigh more, since they are what a wrong statement gets wrong.

use std::{collections::BTreeSet, sync::Arc};

use edgewise_text::{Kind, Words};
use edgewise_types::Span;

use super::Ground;

/// Share of content words below which a quote is not worth embedding.
const POSSIBLE: f32 = 0.5;

/// Cosines that mean nothing in common and the same statement, for sentence embedders like MiniLM: unrelated sentences
/// of one subject reach about 0.2, paraphrases 0.8.
const COSINE_NONE: f32 = 0.2;
const COSINE_SAME: f32 = 0.8;

/// How much the words count beside the embeddings. Words decide: embeddings of statements that contradict each other
/// are close.
const WORDS_SHARE: f32 = 0.6;

/// What two neighbouring sentences have to score more than one, to be quoted in its place.
const PAIR_HANDICAP: f32 = 0.1;

/// How much support is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bar {
    /// The model named the source itself.
    Claimed,
    /// The source was found by comparison.
    Unclaimed,
}

impl Bar {
    /// Least share of content words and least score, set between the pairs of the module `calibration` that support each
    /// other and those that do not. A source that the model names itself may say it in fewer of the same words.
    fn least(self) -> (f32, f32) {
        match self {
            Bar::Claimed => (0.50, 0.62),
            Bar::Unclaimed => (0.60, 0.65),
        }
    }
}

/// A sentence of the answer.
#[derive(Debug, Clone)]
pub(super) struct Statement {
    pub(super) text: String,
    words: Words,
}

impl Statement {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), words: Words::of(text) }
    }
}

/// A sentence of a source, or two neighbouring ones.
#[derive(Debug, Clone)]
pub(super) struct Passage {
    /// Index of its ground.
    pub(super) ground: usize,
    /// Number of the source it stands for.
    pub(super) n: usize,
    /// Bytes of the document.
    pub(super) span: Span,
    /// Text at the span.
    pub(super) text: String,
    words: Words,
    /// Stems of each of two sentences; empty for one.
    halves: Vec<BTreeSet<String>>,
    /// Stems of the whole source, with its title and headings.
    context: Arc<BTreeSet<String>>,
}

impl Passage {
    /// The passages of a ground: each sentence, and each two that follow each other.
    pub(super) fn all(at: usize, source: &Ground) -> Vec<Passage> {
        let text = source.text.as_ref();
        let headings = source.heading_path.join(" ");
        let context = Words::of(&format!("{} {headings} {} {text}", source.title, source.uri)).stems;
        let context = Arc::new(context);
        let sentences = edgewise_text::sentences(text);
        let words: Vec<Words> = sentences.iter().map(|span| Words::of(&text[span.start..span.end])).collect();
        let passage = |span: Span, words: Words, halves: Vec<BTreeSet<String>>| Passage {
            ground: at,
            n: source.n,
            span: span.shifted(source.span.start),
            text: text[span.start..span.end].to_owned(),
            words,
            halves,
            context: Arc::clone(&context),
        };
        let singles = sentences.iter().zip(&words).map(|(span, words)| passage(*span, words.clone(), Vec::new()));
        let pairs = sentences.windows(2).zip(words.windows(2)).map(|(spans, words)| {
            let span = Span::new(spans[0].start, spans[1].end);
            let halves = words.iter().map(|words| words.stems.clone()).collect();
            passage(span, Words::of(&text[span.start..span.end]), halves)
        });
        singles.chain(pairs).collect()
    }

    fn is_pair(&self) -> bool {
        !self.halves.is_empty()
    }

    /// Whether number `i` of `words` is in the quote. In two sentences, a word beside it in the statement has to stand
    /// in the same sentence as the number: else the number of one could be lent to the other.
    fn holds_number(&self, words: &Words, i: usize) -> bool {
        let stem = |i: usize| words.content.get(i).map(|word| word.stem.as_str());
        let has = |stems: &BTreeSet<String>, stem: Option<&str>| stem.is_some_and(|stem| stems.contains(stem));
        if !self.is_pair() {
            return has(&self.words.stems, stem(i));
        }
        let beside = |half: &BTreeSet<String>| has(half, stem(i.wrapping_sub(1))) || has(half, stem(i + 1));
        self.halves.iter().any(|half| has(half, stem(i)) && beside(half))
    }

    /// Decides between equal scores: earlier sources first, then earlier and shorter quotes.
    pub(super) fn order(&self) -> (usize, usize, usize) {
        (self.ground, self.span.start, self.span.end)
    }
}

/// Share of the statement's content, by weight, that is in the passage, if the hard conditions hold and the share is
/// worth a closer look.
pub(super) fn possible(statement: &Statement, passage: &Passage) -> Option<f32> {
    let share = overlap(&statement.words, passage)?;
    (share >= POSSIBLE).then_some(if passage.is_pair() { share - PAIR_HANDICAP } else { share })
}

/// Support of the statement by the passage, if it reaches the bar.
pub(super) fn score(statement: &Statement, passage: &Passage, cosine: Option<f32>, bar: Bar) -> Option<f32> {
    let share = overlap(&statement.words, passage)?;
    let score = match cosine {
        Some(cosine) => {
            let likeness = ((cosine - COSINE_NONE) / (COSINE_SAME - COSINE_NONE)).clamp(0.0, 1.0);
            WORDS_SHARE * share + (1.0 - WORDS_SHARE) * likeness
        }
        None => share,
    };
    let (least_share, least_score) = bar.least();
    let score = if passage.is_pair() { score - PAIR_HANDICAP } else { score };
    (share >= least_share && score >= least_score).then_some(score)
}

/// Weighted share of `words` in the passage; `None` if there is no content or a hard condition is broken.
fn overlap(words: &Words, passage: &Passage) -> Option<f32> {
    let total = words.weight();
    if total == 0.0 {
        return None;
    }
    // `without needing a collector` and `without a collector` negate the same, though not the same words.
    let both_negate = !words.negated.is_disjoint(&passage.words.negated);
    let mut shared = 0.0;
    for (i, word) in words.content.iter().enumerate() {
        let found = passage.words.stems.contains(&word.stem);
        let broken = match word.kind {
            Kind::Number => !passage.holds_number(words, i),
            Kind::Name => !passage.context.contains(&word.stem),
            Kind::Plain => !found && opposite(&word.stem, &passage.words.stems),
        };
        if broken {
            return None;
        }
        if found {
            if words.negated.contains(&word.stem) != passage.words.negated.contains(&word.stem) && !both_negate {
                return None;
            }
            shared += word.kind.weight();
        }
    }
    Some(shared / total)
}

/// Whether `stems` hold the stem with a negative prefix, or without the one it has.
fn opposite(stem: &str, stems: &BTreeSet<String>) -> bool {
    ["un", "in", "im", "ir", "non", "dis"].iter().any(|prefix| {
        stems.contains(&format!("{prefix}{stem}"))
            || stem.strip_prefix(prefix).is_some_and(|rest| rest.len() >= 3 && stems.contains(rest))
    })
}
