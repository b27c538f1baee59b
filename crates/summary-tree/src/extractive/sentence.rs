//! The sentences of the members and what each of them says.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use edgewise_text::{FactKind, Kind, Words};

use super::{ExtractiveOptions, common};
use crate::{SummariseError, SummaryRequest};

/// Weight of a word that is frequent anywhere.
const COMMON: f64 = 0.25;
/// Weight of a word written as a name.
const NAME: f64 = 1.5;
/// Words from which on a sentence says something by itself.
const FEW_WORDS: usize = 5;
/// How much a member far from the others counts less, at most.
const REMOTE: f64 = 0.3;
/// Sentence openings that point at what was said before.
const POINTING: &[&str] = &[
    "he", "she", "it", "they", "this", "that", "these", "those", "but", "and", "so", "then", "or", "his", "her",
    "their", "its", "him", "them", "there", "yet", "also",
];

/// A sentence of a member.
#[derive(Debug, Clone)]
pub(super) struct Sentence {
    /// Its text, white space runs as one space.
    pub(super) text: String,
    pub(super) member: usize,
    pub(super) tokens: usize,
    /// How well it stands by itself, from 0 to 1.
    pub(super) prior: f64,
    /// What it says, as numbers of concepts, each once.
    pub(super) concepts: Vec<usize>,
    pub(super) facts: Vec<(FactKind, String)>,
    keys: Vec<Key>,
}

/// Something a sentence says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Word(String, bool),
    Pair(String, String),
    Fact(FactKind, String),
}

/// All sentences of the members in order, equal ones once, and what each concept weighs.
pub(super) fn all(
    request: &SummaryRequest<'_>,
    options: &ExtractiveOptions,
) -> Result<(Vec<Sentence>, Vec<f64>), SummariseError> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (member, source) in request.members.iter().enumerate() {
        let facts = edgewise_text::facts(source.text);
        let mut from = 0;
        for span in edgewise_text::sentences(source.text) {
            let written = &source.text[Range::from(span)];
            let text = written.split_whitespace().collect::<Vec<_>>().join(" ");
            while facts.get(from).is_some_and(|fact| fact.span.start < span.start) {
                from += 1;
            }
            if !seen.insert(text.to_lowercase()) {
                continue;
            }
            let inside = facts[from..].iter().take_while(|fact| fact.span.end <= span.end);
            let facts: Vec<(FactKind, String)> = inside.map(|fact| (fact.kind, fact.key.clone())).collect();
            let tokens = request.tokenizer.count(&text).map_err(SummariseError::Tokenizer)?;
            let words = Words::of(&text);
            let prior = prior(&text);
            let mut keys: Vec<Key> = Vec::new();
            for word in &words.content {
                keys.push(Key::Word(word.stem.clone(), word.kind != Kind::Plain));
            }
            let pairs = words.content.windows(2).map(|pair| Key::Pair(pair[0].stem.clone(), pair[1].stem.clone()));
            keys.extend(pairs);
            keys.extend(facts.iter().map(|(kind, key)| Key::Fact(*kind, key.clone())));
            found.push(Sentence { text, member, tokens, prior, concepts: Vec::new(), facts, keys });
        }
    }
    weigh_members(request, &mut found);
    let weights = number(&mut found, options);
    Ok((found, weights))
}

/// Members near the centroid of all count in full, others less.
fn weigh_members(request: &SummaryRequest<'_>, sentences: &mut [Sentence]) {
    let dims = request.members.first().map_or(0, |member| member.embedding.len());
    let mut centroid = vec![0.0f64; dims];
    for member in request.members {
        centroid.iter_mut().zip(member.embedding).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let all = length(&mut centroid.iter().copied());
    let cosines: Vec<f64> = request
        .members
        .iter()
        .map(|member| {
            let own = length(&mut member.embedding.iter().map(|x| f64::from(*x)));
            let product: f64 = centroid.iter().zip(member.embedding).map(|(a, b)| a * f64::from(*b)).sum();
            if all * own > 0.0 { product / (all * own) } else { 0.0 }
        })
        .collect();
    let most = cosines.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    for sentence in sentences {
        let near = cosines.get(sentence.member).map_or(1.0, |cosine| (cosine / most).clamp(0.0, 1.0));
        sentence.prior *= 1.0 - REMOTE * (1.0 - near);
    }
}

/// Gives every key its number, in the order of appearance, and what it weighs: the more sentences share it, the more.
fn number(sentences: &mut [Sentence], options: &ExtractiveOptions) -> Vec<f64> {
    let mut numbers: HashMap<Key, usize> = HashMap::new();
    let mut found: Vec<(f64, Key)> = Vec::new();
    for sentence in sentences {
        let mut own = HashSet::new();
        for key in std::mem::take(&mut sentence.keys) {
            let number = *numbers.entry(key.clone()).or_insert(found.len());
            if number == found.len() {
                found.push((0.0, key));
            }
            if own.insert(number) {
                sentence.concepts.push(number);
                found[number].0 += 1.0;
            }
        }
    }
    let weight = |(frequency, key): (f64, Key)| match key {
        Key::Word(stem, _) if common::is_common(&stem) => COMMON * frequency.ln_1p(),
        Key::Word(_, true) => NAME * frequency.ln_1p(),
        Key::Word(_, false) => frequency.ln_1p(),
        // A pair that stands once is no expression.
        Key::Pair(..) => options.pairs * frequency.ln(),
        Key::Fact(..) => options.facts * frequency.ln_1p(),
    };
    found.into_iter().map(weight).collect()
}

/// How well a sentence stands by itself: less for a fragment, a question, speech, code, or one that points backwards.
fn prior(text: &str) -> f64 {
    let words: Vec<String> = edgewise_text::plain(text).iter().map(|word| word.to_lowercase()).collect();
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let signs = text.chars().filter(|c| !c.is_alphanumeric() && !c.is_whitespace()).count();
    let mut prior = 1.0;
    if words.len() < FEW_WORDS {
        prior *= 0.3;
    }
    if signs * 4 > letters {
        prior *= 0.3;
    }
    if text.trim_end_matches(['"', '”', '\'', '’', ')']).ends_with('?') {
        prior *= 0.6;
    }
    if quoted(text) * 2 > text.len() {
        prior *= 0.6;
    }
    if words.first().is_some_and(|word| POINTING.contains(&word.as_str())) {
        prior *= 0.85;
    }
    prior
}

/// Bytes inside double quotation marks.
fn quoted(text: &str) -> usize {
    let (mut inside, mut bytes) = (false, 0);
    for c in text.chars() {
        match c {
            '"' => inside = !inside,
            '“' => inside = true,
            '”' => inside = false,
            _ if inside => bytes += c.len_utf8(),
            _ => {}
        }
    }
    bytes
}
