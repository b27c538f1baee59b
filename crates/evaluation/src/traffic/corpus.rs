//! Collections of given sizes from real texts, and questions to them.
//!
//! Texts are cut at blank lines into documents of some thousand tokens, so that books and manuals have parts that can be
//! read whole. Questions name some words in a row of a sentence of the collection: some of them are found easily, others
//! are not.

use std::{ops::RangeInclusive, path::Path, sync::Arc};

use edgewise_documents::{IndexProfile, sentences};
use edgewise_model_api::{Embedder, Tokenizer};
use edgewise_retrieval::{
    Collection, Collections, IngestOptions, Outcome, RetrievalModels, Silent, Source, SourceContent,
};
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::engine::TokenMemo;
use crate::{EvaluationError, Progress};

/// Longest document, in tokens.
const DOCUMENT_TOKENS: usize = 3000;
/// Questions to each collection.
const QUESTIONS: usize = 200;
/// Words of a question that stand in the text.
const WORDS: RangeInclusive<usize> = 3..=9;

/// A text to make documents of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its name.
    pub name: String,
    /// Plain text or Markdown.
    pub text: String,
}

impl Text {
    /// All `.md` and `.txt` files below `folder`, in order of path.
    ///
    /// # Errors
    /// [`EvaluationError::Read`].
    pub fn read_folder(folder: &Path) -> Result<Vec<Self>, EvaluationError> {
        let read = EvaluationError::read(folder, "a folder with .md or .txt files");
        let mut paths = Vec::new();
        list(folder, &mut paths).map_err(read)?;
        paths.sort();
        let text = |path: &std::path::PathBuf| {
            let bytes = std::fs::read(path).map_err(EvaluationError::read(path, "a text"))?;
            let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
            Ok(Self { name, text: String::from_utf8_lossy(&bytes).into_owned() })
        };
        paths.iter().map(text).collect()
    }
}

fn list(folder: &Path, found: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "md" || extension == "txt") {
            found.push(path);
        }
    }
    Ok(())
}

struct Member {
    collection: Arc<Collection>,
    tokens: usize,
    questions: Vec<String>,
}

/// The collections.
pub(super) struct Corpus {
    members: Vec<Member>,
    _folder: tempfile::TempDir,
}

/// A document and its length in tokens.
struct Piece {
    uri: String,
    text: String,
    tokens: usize,
}

impl Corpus {
    /// One collection of each of `sizes`, each from another place of the texts.
    pub(super) fn build(
        texts: Vec<Text>,
        sizes: &[usize],
        embedder: &Arc<dyn Embedder>,
        memo: &Arc<TokenMemo>,
        progress: &dyn Progress,
    ) -> Result<Self, EvaluationError> {
        let pieces = pieces(texts, memo)?;
        let available: usize = pieces.iter().map(|piece| piece.tokens).sum();
        let wrong = |reason: String| EvaluationError::Dataset { name: "traffic".to_owned(), reason };
        let largest = sizes.iter().copied().max().unwrap_or(0);
        if sizes.is_empty() || pieces.is_empty() || available < largest {
            return Err(wrong(format!(
                "the texts have {available} tokens, too few for a collection of {largest}: give more texts or ask for \
                 smaller collections"
            )));
        }
        let folder = tempfile::tempdir().map_err(EvaluationError::Folder)?;
        let models = RetrievalModels {
            embedder: Arc::clone(embedder),
            tokenizer: Arc::clone(memo) as Arc<dyn Tokenizer>,
            tokenizer_name: "traffic".to_owned(),
            reranker: None,
        };
        let collections = Collections::open(folder.path(), models)?;
        let mut members = Vec::new();
        let mut next = 0;
        for (number, &size) in (1..).zip(sizes) {
            progress.ingested(number - 1, sizes.len());
            let (mut sources, mut words) = (Vec::new(), Vec::new());
            let mut tokens = 0;
            while tokens < size {
                let piece = &pieces[next % pieces.len()];
                next += 1;
                // The last one is left out if that comes closer.
                if tokens > 0 && tokens + piece.tokens > size + piece.tokens / 2 {
                    break;
                }
                tokens += piece.tokens;
                words.push(piece.text.as_str());
                sources.push(Source {
                    uri: piece.uri.clone(),
                    content: SourceContent::Bytes(piece.text.clone().into_bytes()),
                    media_type: Some("text/markdown".to_owned()),
                });
            }
            let name = format!("collection-{number}").parse().map_err(|error| wrong(format!("{error}")))?;
            let collection = collections.get_or_create(&name, &IndexProfile::default())?;
            for source in collection.ingest(sources, &IngestOptions::default(), &Silent)?.sources {
                if let Outcome::Failed { reason } = source.outcome {
                    return Err(wrong(format!("document `{}`: {reason}", source.uri)));
                }
            }
            let questions = questions(&words, number as u64);
            if questions.is_empty() {
                return Err(wrong(format!("no sentence of the collection of {size} tokens makes a question")));
            }
            members.push(Member { collection, tokens, questions });
        }
        progress.ingested(sizes.len(), sizes.len());
        Ok(Self { members, _folder: folder })
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Number of questions to a collection.
    pub(super) fn questions(&self, collection: usize) -> usize {
        self.members[collection].questions.len()
    }

    /// A collection and a question to it.
    pub(super) fn question(&self, collection: usize, question: usize) -> (&Collection, &str) {
        let member = &self.members[collection];
        (&member.collection, &member.questions[question])
    }

    /// Tokens of each collection.
    pub(super) fn tokens(&self) -> Vec<usize> {
        self.members.iter().map(|member| member.tokens).collect()
    }
}

/// Texts cut at blank lines into documents. A paragraph that is longer than a document stays whole.
fn pieces(texts: Vec<Text>, memo: &TokenMemo) -> Result<Vec<Piece>, EvaluationError> {
    let mut pieces = Vec::new();
    for Text { name, text } in texts {
        let mut part = 0;
        let (mut current, mut tokens) = (String::new(), 0);
        let mut flush = |current: &mut String, tokens: &mut usize| {
            if !current.trim().is_empty() {
                part += 1;
                let uri = format!("{}-{part:03}.md", name.trim_end_matches(".md").trim_end_matches(".txt"));
                pieces.push(Piece { uri, text: std::mem::take(current), tokens: std::mem::take(tokens) });
            }
        };
        for paragraph in text.split("\n\n") {
            let count = memo.count(paragraph).map_err(edgewise_planner::PlannerError::from)?;
            if tokens + count > DOCUMENT_TOKENS {
                flush(&mut current, &mut tokens);
            }
            tokens += count;
            current.push_str(paragraph);
            current.push_str("\n\n");
        }
        flush(&mut current, &mut tokens);
    }
    Ok(pieces)
}

/// Different questions about the texts, the same for the same seed.
fn questions(texts: &[&str], seed: u64) -> Vec<String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let spans: Vec<Vec<&str>> = texts
        .iter()
        .flat_map(|text| sentences(text).into_iter().filter_map(|span| span.slice(text).ok()))
        .map(|sentence| sentence.split_whitespace().filter(|word| word.chars().all(char::is_alphanumeric)).collect())
        .filter(|words: &Vec<&str>| words.len() >= *WORDS.start())
        .collect();
    let mut questions = std::collections::BTreeSet::new();
    for _ in 0..4 * QUESTIONS {
        let Some(words) = spans.choose(&mut rng) else { break };
        let count = rng.random_range(WORDS).min(words.len());
        let start = rng.random_range(0..=words.len() - count);
        questions.insert(format!("What is said about {}?", words[start..start + count].join(" ")));
        if questions.len() == QUESTIONS {
            break;
        }
    }
    questions.into_iter().collect()
}
