//! Conversations: what a turn leaves behind, how a later one reads it, and what a follow-up searches for.
//!
//! The server keeps nothing between turns. An answer comes with a [`Turn`]; a client sends its turns back with the next
//! question, and the exact prompt of the conversation so far is rebuilt from them and from the collection. Turns hold no
//! text of documents: sources are read anew, and compared by digest with what the model read. When one has changed,
//! the conversation is not continued, since its prompt would not be the one in the cache, nor true.
//!
//! What a client sends is data, and may be wrong or made up: documents outside the question's scope are not read, spans
//! and digests are checked, the length is bounded, and nothing in a turn can set the system message or the instruction.
//!
//! What a follow-up searches for: the question, and where it leans on earlier ones ([`leans_on_history`]), the content
//! words of the questions before it too, back to the last that stood alone.
//!
//! Deliberately not here: prompts of follow-ups (`extend`), conversations kept on the server.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_retrieval::Collection;
use edgewise_types::{ContentHash, Document, DocumentId, Generation, NodeId, Span};

use crate::{
    PlannerError, Query, Route, SourceRef, cite,
    compose::{Recap, SourceKind, SourceText, Step},
    draft, tree,
};

/// Most turns a question may bring along.
pub const MAX_TURNS: usize = 64;

/// Most bytes of questions and answers in them.
pub const MAX_TURN_BYTES: usize = 256 << 10;

/// What a source of a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TurnSourceKind {
    /// A passage.
    Passage,
    /// A whole document.
    Document,
    /// A summary.
    Summary,
}

/// Something that was added to the prompt in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TurnSource {
    /// The document.
    pub document: DocumentId,
    /// The part of its normalised text.
    pub span: Span,
    /// What it was placed as.
    pub kind: TurnSourceKind,
    /// The node of a summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Sections it stands in, as they were written above it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heading_path: Vec<String>,
    /// BLAKE3 of title, sections and text as they were.
    pub digest: ContentHash,
}

/// A first answer that was not enough, and what it was given from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The answer, as generated.
    pub answer: String,
    /// What was added to the prompt for it, in order.
    pub sources: Vec<TurnSource>,
}

/// A question and its answer, as a client sends them back with the next question. The server keeps nothing of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// The question.
    pub question: String,
    /// The answer, as generated.
    pub answer: String,
    /// The route taken.
    pub route: Route,
    /// What was added to the prompt, in order.
    pub sources: Vec<TurnSource>,
    /// Version of the collection it was read from.
    pub generation: Generation,
    /// How many of the turns before it stood in its prompt.
    #[serde(default)]
    pub continues: usize,
    /// Whether the exchange before it was repeated in short.
    #[serde(default)]
    pub recap: bool,
    /// The first answer, where its prompt went on from one that was not enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
}

/// The conversation so far, as far as the next prompt can continue it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conversation {
    /// Exchanges in the prompt of the last turn, oldest first; empty where it can't be continued.
    pub(crate) steps: Vec<Step>,
    /// Why it can't, or what else the caller should know.
    pub(crate) notes: Vec<String>,
}

/// Checks the length of a history.
pub(crate) fn check(history: &[Turn]) -> Result<(), PlannerError> {
    if history.len() > MAX_TURNS {
        let sent = history.len();
        return Err(PlannerError::InvalidQuery(format!(
            "the history has {sent} turns, but at most {MAX_TURNS} are read: leave out the oldest"
        )));
    }
    let length = |turn: &Turn| {
        let attempt = turn.attempt.as_ref().map_or(0, |attempt| attempt.answer.len());
        turn.question.len() + turn.answer.len() + attempt
    };
    let bytes: usize = history.iter().map(length).sum();
    if bytes > MAX_TURN_BYTES {
        return Err(PlannerError::InvalidQuery(format!(
            "the history's questions and answers have {bytes} bytes, but at most {MAX_TURN_BYTES} are read: leave out the oldest turns"
        )));
    }
    Ok(())
}

/// Rebuilds the exchanges of the last turn's prompt. `only` is the question's scope, where it is not the whole
/// collection.
pub(crate) fn rebuild(
    collection: &Collection,
    history: &[Turn],
    only: Option<&[Document]>,
) -> Result<Conversation, PlannerError> {
    let Some(last) = history.last() else { return Ok(Conversation::default()) };
    let first = (history.len() - 1).saturating_sub(last.continues);
    let mut reader = Reader { collection, only, documents: HashMap::new() };
    let mut steps = Vec::new();
    for (at, turn) in history.iter().enumerate().skip(first) {
        let mut recap =
            if turn.recap { at.checked_sub(1).and_then(|before| history.get(before)).map(recap_of) } else { None };
        let attempt = turn.attempt.as_ref().map(|attempt| (&attempt.sources, &attempt.answer));
        for (sources, answer) in attempt.into_iter().chain([(&turn.sources, &turn.answer)]) {
            let mut read = Vec::with_capacity(sources.len());
            for (rank, source) in (1..).zip(sources) {
                match reader.source(source, rank)? {
                    Ok(found) => read.push(found),
                    Err(why) => {
                        let note = format!(
                            "the conversation is not continued, because {why} since turn {}: the prompt starts afresh",
                            at + 1
                        );
                        return Ok(Conversation { steps: Vec::new(), notes: vec![note] });
                    }
                }
            }
            steps.push(Step {
                turn: at + 1,
                sources: read,
                // Repeated before the first question of a turn only.
                recap: recap.take(),
                question: turn.question.clone(),
                answer: answer.clone(),
            });
        }
    }
    Ok(Conversation { steps, notes: Vec::new() })
}

/// What a prompt that does not continue `turn` repeats of it.
pub(crate) fn recap_of(turn: &Turn) -> Recap {
    Recap { question: turn.question.clone(), answer: cite::without_markers(&turn.answer).trim().to_owned() }
}

/// How a turn keeps a source.
pub(crate) fn turn_source(source: &SourceRef, text: &str, kind: SourceKind) -> TurnSource {
    TurnSource {
        document: source.document.clone(),
        span: source.span,
        kind: match (kind, &source.summary) {
            (_, Some(_)) => TurnSourceKind::Summary,
            (SourceKind::Passages, None) => TurnSourceKind::Passage,
            (SourceKind::Documents, None) => TurnSourceKind::Document,
        },
        node: source.summary.as_ref().map(|summary| summary.node),
        heading_path: source.heading_path.clone(),
        digest: digest(&source.title, &source.heading_path, text),
    }
}

fn digest(title: &str, heading_path: &[String], text: &str) -> ContentHash {
    let mut content = Vec::with_capacity(text.len() + 64);
    for part in std::iter::once(title).chain(heading_path.iter().map(String::as_str)).chain([text]) {
        // Lengths first, so that no two lists of parts give the same bytes.
        content.extend_from_slice(&(part.len() as u64).to_le_bytes());
        content.extend_from_slice(part.as_bytes());
    }
    ContentHash::of(&content)
}

/// Reads the sources of turns, each document once.
struct Reader<'a> {
    collection: &'a Collection,
    only: Option<&'a [Document]>,
    documents: HashMap<DocumentId, Option<(Document, Arc<str>)>>,
}

impl Reader<'_> {
    /// The source, or what happened to it.
    fn source(
        &mut self,
        source: &TurnSource,
        rank: usize,
    ) -> Result<Result<(SourceKind, SourceText), String>, PlannerError> {
        if source.kind == TurnSourceKind::Summary {
            return self.summary(source, rank);
        }
        let in_scope = self.only.is_none_or(|only| only.iter().any(|document| document.id == source.document));
        if !in_scope {
            return Ok(Err(format!(
                "document {} is outside what this question may draw on; it was not",
                source.document
            )));
        }
        let Some((document, text)) = self.document(&source.document)? else {
            return Ok(Err(format!("document {} is no longer in the collection; it was", source.document)));
        };
        let same = source.span.slice(text).ok().filter(|text| {
            let heading_path = source.heading_path.as_slice();
            digest(&document.title, heading_path, text) == source.digest
        });
        let Some(same) = same else { return Ok(Err(format!("`{}` has changed", document.uri))) };
        let kind = match source.kind {
            TurnSourceKind::Passage | TurnSourceKind::Summary => SourceKind::Passages,
            TurnSourceKind::Document => SourceKind::Documents,
        };
        let source = SourceText {
            document: document.id.clone(),
            uri: document.uri.clone(),
            title: document.title.clone(),
            heading_path: source.heading_path.clone(),
            span: source.span,
            text: if same.len() == text.len() { Arc::clone(text) } else { same.into() },
            score: None,
            rank,
            passages: usize::from(kind == SourceKind::Passages),
            summary: None,
        };
        Ok(Ok((kind, source)))
    }

    /// A summary, which is in no document: it must still be in the tree, of the same texts.
    fn summary(
        &self,
        source: &TurnSource,
        rank: usize,
    ) -> Result<Result<(SourceKind, SourceText), String>, PlannerError> {
        let found = match &source.node {
            Some(node) => self.collection.summary(node)?,
            None => None,
        };
        let Some(pick) = found else {
            return Ok(Err("a summary is no longer in the tree; it was".to_owned()));
        };
        let in_scope = |id: &DocumentId| self.only.is_none_or(|only| only.iter().any(|document| document.id == *id));
        if !pick.documents.iter().all(in_scope) {
            return Ok(Err("a summary is of documents outside what this question may draw on; it was not".to_owned()));
        }
        let found = tree::source(self.collection, &pick, rank)?.filter(|found| {
            found.span == source.span
                && found.document == source.document
                && digest(&found.title, &source.heading_path, &found.text) == source.digest
        });
        Ok(found.map_or_else(
            || Err("a summary has changed".to_owned()),
            |found| {
                Ok((
                    SourceKind::Passages,
                    SourceText { score: None, heading_path: source.heading_path.clone(), ..found },
                ))
            },
        ))
    }

    fn document(&mut self, id: &DocumentId) -> Result<Option<&(Document, Arc<str>)>, PlannerError> {
        match self.documents.entry(id.clone()) {
            Entry::Occupied(found) => Ok(found.into_mut().as_ref()),
            Entry::Vacant(place) => {
                let document = draft::present(self.collection.document(id))?;
                let text = draft::present(self.collection.document_text(id))?;
                Ok(place.insert(document.zip(text)).as_ref())
            }
        }
    }
}

/// Pronouns that stand for something said before, unless the question has said enough by then itself.
const PRONOUNS: &[&str] = &[
    "it", "its", "itself", "they", "them", "their", "theirs", "he", "him", "his", "she", "her", "hers", "this",
    "these", "those", "former", "latter", "ones",
];

/// How a question begins that goes on from another.
const CONNECTIVES: &[&str] = &["and", "but", "so", "then", "also", "or", "what about", "how about", "why not"];

/// How a question begins that asks what a single word means, and so stands alone.
const DEFINITIONS: &[&str] =
    &["what is", "what are", "what was", "what were", "who is", "who was", "define", "explain"];

/// Content words before a pronoun from which on it stands for one of them.
const ANTECEDENTS: usize = 3;

/// Whether a question can't be understood without the one before it. By its words, which is a rule and not a measurement:
/// - it begins like the continuation of another (`and`, `what about`);
/// - or it holds a pronoun or demonstrative with fewer than three content words before it (`that` only where no content
///   word stands right before, which would make it a conjunction);
/// - or it has no content word, or a single one and does not ask what that is.
pub(crate) fn leans_on_history(question: &str) -> bool {
    let words: Vec<String> = edgewise_text::plain(question).into_iter().map(|word| word.to_lowercase()).collect();
    let begins =
        |with: &&str| with.split(' ').zip(&words).all(|(a, b)| a == b) && words.len() >= with.split(' ').count();
    if CONNECTIVES.iter().any(&begins) {
        return true;
    }
    let mut content = 0;
    let mut after_content = false;
    for word in &words {
        let stands_for = PRONOUNS.contains(&word.as_str()) || word == "that" && !after_content;
        if stands_for && content < ANTECEDENTS {
            return true;
        }
        after_content = edgewise_text::is_content(word);
        content += usize::from(after_content);
    }
    content == 0 || content == 1 && !DEFINITIONS.iter().any(begins)
}

/// What to search for.
pub(crate) fn search_text(query: &Query) -> Cow<'_, str> {
    if query.history.is_empty() || !leans_on_history(&query.question) {
        return Cow::Borrowed(&query.question);
    }
    let mut text = query.question.trim().to_owned();
    let mut known: Vec<String> = edgewise_text::plain(&text).iter().map(|word| word.to_lowercase()).collect();
    for turn in query.history.iter().rev() {
        for word in edgewise_text::plain(&turn.question)
            .into_iter()
            .filter(|word| edgewise_text::is_content(&word.to_lowercase()))
        {
            let lower = word.to_lowercase();
            if !known.contains(&lower) {
                text.push(' ');
                text.push_str(&word);
                known.push(lower);
            }
        }
        if !leans_on_history(&turn.question) {
            break;
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turn(question: &str) -> Turn {
        Turn {
            question: question.to_owned(),
            answer: "An answer [1].".to_owned(),
            route: Route::Passages,
            sources: Vec::new(),
            generation: Generation(1),
            continues: 0,
            recap: false,
            attempt: None,
        }
    }

    #[test]
    fn follow_ups_are_told_from_questions_that_stand_alone() {
        for question in [
            "And in winter?",
            "What about the ferries?",
            "Why?",
            "When exactly?",
            "Who founded it?",
            "How long did they take to rebuild it?",
            "Is that true?",
            "What does this mean for the harbour?",
            "How many of those are left?",
            "Where did the storm destroy it?",
            "Then what happened?",
            "Who was he?",
        ] {
            assert!(leans_on_history(question), "{question}");
        }
        for question in [
            "When was the harbour of Westmar founded?",
            "Which storm destroyed the pier that was rebuilt in stone?",
            "How often should ferns be watered when they are kept indoors?",
            "What is ownership?",
            "Explain borrowing.",
            "How many eggs does a queen lay in a day?",
            "How many ferries are there in summer?",
            "Do bees that harvest nectar sleep?",
        ] {
            assert!(!leans_on_history(question), "{question}");
        }
    }

    #[test]
    fn a_follow_up_searches_for_what_came_before_back_to_a_question_that_stands_alone() {
        let ask = |question: &str, before: &[&str]| {
            let query = Query { history: before.iter().map(|q| turn(q)).collect(), ..Query::new(question) };
            search_text(&query).into_owned()
        };
        assert_eq!(ask("Why?", &[]), "Why?", "nothing came before");
        assert_eq!(
            ask("Who founded it?", &["When was the harbour of Westmar founded?"]),
            "Who founded it? harbour Westmar"
        );
        let chain = ["How do bees make honey?", "When was the harbour built?", "And the lighthouse?"];
        assert_eq!(ask("Why there?", &chain), "Why there? lighthouse harbour built");
        let alone = "How many eggs does a queen lay in a day?";
        assert_eq!(ask(alone, &chain), alone);
    }

    #[test]
    fn long_histories_are_refused_with_the_limit() {
        let many = vec![turn("Why?"); MAX_TURNS + 1];
        let error = check(&many).map_err(|error| error.to_string());
        assert!(error.as_ref().is_err_and(|e| e.contains(&MAX_TURNS.to_string())), "{error:?}");
        assert!(check(&many[1..]).is_ok());
        let long = [Turn { answer: "x".repeat(MAX_TURN_BYTES), ..turn("Why?") }];
        assert!(check(&long).is_err());
    }

    #[test]
    fn a_recap_has_no_markers() {
        assert_eq!(recap_of(&turn("Why?")).answer, "An answer.");
    }

    #[test]
    fn parts_of_a_digest_cannot_be_shifted() {
        let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
        assert_ne!(digest("a", &path(&["b"]), "c"), digest("ab", &[], "c"));
        assert_ne!(digest("a", &path(&["b"]), "c"), digest("a", &path(&["b", "c"]), ""));
    }

    proptest! {
        #[test]
        fn any_text_can_be_asked_after_any(question in "\\PC{0,60}", before in prop::collection::vec("\\PC{0,60}", 0..4)) {
            let query = Query { history: before.iter().map(|q| turn(q)).collect(), ..Query::new(question.clone()) };
            let text = search_text(&query);
            prop_assert!(text.starts_with(question.trim()) || text == question);
        }
    }
}
