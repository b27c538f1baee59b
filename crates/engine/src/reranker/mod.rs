//! Reranking: a sequence classifier of the BERT family reads a question together with each passage.
//!
//! The score is the logit of the only class, or the logit of the second class less that of the first: the log odds of
//! "relevant". A logistic function would turn it into a probability and change no order, so none is applied.
//!
//! Invariants:
//! - A question that is too long is an error, never cut; a passage is read as far as it fits, since what a passage is
//!   about tends to stand at its start and the question must be whole.
//! - A passage's score is the same, bit for bit, alone or among others.
//! - One thread scores for all callers; what may wait for it is bounded ([`crate::bert::worker`]).
//!
//! Deliberately not here: a cache (pairs hardly ever repeat), other heads than one dense layer.

use std::path::Path;

use edgewise_kernels::{KernelError, Workspace as KernelWorkspace};
use edgewise_model_api::{ModelError, Reranker, RerankerInfo, Tokenizer};
use edgewise_telemetry::names;
use rayon::prelude::*;

use crate::{
    EngineError,
    bert::{
        EncoderArithmetic, States, Text,
        batches::{Encoder, in_batches},
        load::{self, Classifier, Pairing},
        worker::{Role, Worker},
    },
    digest,
    tokenizer::JsonTokenizer,
};

/// Tokens that may wait for the worker; a minute or so of work on a small machine, after which nobody waits for a search.
const MAX_QUEUE_TOKENS: usize = 1 << 18;

const ROLE: Role =
    Role { name: "reranker", queue_tokens: names::RERANK_QUEUE_TOKENS, tokens_total: names::RERANK_TOKENS_TOTAL };

/// A cross-encoder of the BERT family, such as ms-marco-MiniLM-L-6-v2 or bge-reranker-base.
pub struct BertReranker {
    info: RerankerInfo,
    tokenizer: JsonTokenizer,
    /// Entries of the weights' vocabulary.
    vocabulary: usize,
    worker: Worker,
    wrap: Wrap,
}

/// What stands around a question and a passage.
#[derive(Debug, Clone, Copy)]
struct Wrap {
    pairing: Pairing,
    /// `[CLS]` or `<s>`.
    start: u32,
    /// `[SEP]` or `</s>`.
    end: u32,
}

impl Wrap {
    /// Special tokens of a pair.
    fn tokens(self) -> usize {
        match self.pairing {
            Pairing::Bert => 3,
            Pairing::Roberta => 4,
        }
    }

    /// A pair of at most `max_tokens`, the passage cut at its end.
    fn pair(self, query: &[u32], passage: &[u32], max_tokens: usize) -> Vec<u32> {
        let room = max_tokens.saturating_sub(self.tokens() + query.len());
        let between: &[u32] = match self.pairing {
            Pairing::Bert => &[self.end],
            Pairing::Roberta => &[self.end, self.end],
        };
        [&[self.start], query, between, &passage[..passage.len().min(room)], &[self.end]].concat()
    }

    /// Tokens of a pair in the first segment: up to the first end, which no plain text contains.
    fn first_segment(self, pair: &[u32]) -> usize {
        match self.pairing {
            Pairing::Bert => pair.iter().position(|&id| id == self.end).map_or(pair.len(), |at| at + 1),
            Pairing::Roberta => pair.len(),
        }
    }
}

impl BertReranker {
    /// Loads `config.json`, `model.safetensors` and `tokenizer.json` from `folder`.
    pub(crate) fn load(model: &str, folder: &Path, arithmetic: EncoderArithmetic) -> Result<Self, EngineError> {
        let [config, weights, tokens] = ["config.json", "model.safetensors", "tokenizer.json"].map(|f| folder.join(f));
        let classifier = load::classifier(&config, &weights, arithmetic)?;
        let tokenizer = JsonTokenizer::from_file(&tokens)?;
        let shape = &classifier.bert.shape;
        let special = |name: &str| {
            let reason = || EngineError::BadFile { path: tokens.clone(), reason: format!("`{name}` is missing") };
            tokenizer.id_of(name).filter(|&id| (id as usize) < shape.vocabulary).ok_or_else(reason)
        };
        let (start, end) = match classifier.pairing {
            Pairing::Bert => ("[CLS]", "[SEP]"),
            Pairing::Roberta => ("<s>", "</s>"),
        };
        let wrap = Wrap { pairing: classifier.pairing, start: special(start)?, end: special(end)? };
        let info = RerankerInfo {
            model: model.to_owned(),
            digest: digest::of_files_and(&[&config, &weights, &tokens], arithmetic.name())?,
            // The other half is the passage's at least.
            max_query_tokens: shape.positions.saturating_sub(wrap.tokens()) / 2,
            max_tokens: shape.positions,
        };
        let vocabulary = shape.vocabulary;
        let worker = Worker::start(ROLE, CrossEncoder { classifier, wrap }, MAX_QUEUE_TOKENS)?;
        Ok(Self { info, tokenizer, vocabulary, worker, wrap })
    }

    /// Token ids of a text, without special tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.tokenizer.encode(text)?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(ModelError::Tokenizer(format!(
                "token {id} is beyond the {} the weights know: tokenizer.json belongs to another model",
                self.vocabulary
            )));
        }
        Ok(ids)
    }
}

impl Reranker for BertReranker {
    fn info(&self) -> &RerankerInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn score(&self, query: &str, passages: &[&str], cancelled: &dyn Fn() -> bool) -> Result<Vec<f32>, ModelError> {
        let query = self.encode(query)?;
        if query.len() > self.info.max_query_tokens {
            return Err(ModelError::Tokenizer(format!(
                "the question has {} tokens, but the reranker `{}` reads {} at most: shorten it",
                query.len(),
                self.info.model,
                self.info.max_query_tokens
            )));
        }
        let pair = |passage: &&str| Ok(self.wrap.pair(&query, &self.encode(passage)?, self.info.max_tokens));
        let pairs = passages.par_iter().map(pair).collect::<Result<Vec<_>, ModelError>>()?;
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.worker.encode(pairs, cancelled)?.into_iter().flatten().collect())
    }
}

impl std::fmt::Debug for BertReranker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BertReranker").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What the worker runs.
struct CrossEncoder {
    classifier: Classifier,
    wrap: Wrap,
}

impl Encoder for CrossEncoder {
    /// One score a pair.
    fn encode(&self, pairs: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        in_batches(pairs, |batch, workspace| {
            let inputs: Vec<Text<'_>> =
                batch.iter().map(|ids| Text { ids, first_segment: self.wrap.first_segment(ids) }).collect();
            let states = self.classifier.bert.run(&inputs, States::First, workspace)?;
            self.scores(states)
        })
    }
}

impl CrossEncoder {
    /// The head on the states of first tokens, `[pairs, hidden]`.
    fn scores(&self, states: &[f32]) -> Result<Vec<Vec<f32>>, KernelError> {
        let Classifier { head, labels, .. } = &self.classifier;
        let (mut inner, mut logits, mut kernels) = (Vec::new(), Vec::new(), KernelWorkspace::default());
        head.dense.apply(states, &mut inner, &mut kernels)?;
        for row in inner.chunks_exact_mut(head.dense.bias.len()) {
            row.iter_mut().zip(&head.dense.bias).for_each(|(x, b)| *x = (*x + b).tanh());
        }
        head.out.apply(&inner, &mut logits, &mut kernels)?;
        let score = |row: &[f32]| match (row, &head.out.bias[..]) {
            ([first, second], [a, b]) => (second + b) - (first + a),
            _ => row.iter().zip(&head.out.bias).map(|(x, b)| x + b).sum(),
        };
        Ok(logits.chunks_exact(*labels).map(|row| vec![score(row)]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_wrapped_and_only_the_passage_is_cut() {
        let bert = Wrap { pairing: Pairing::Bert, start: 1, end: 2 };
        let roberta = Wrap { pairing: Pairing::Roberta, ..bert };
        let (query, passage) = ([10, 11], [20, 21, 22, 23]);
        let whole = bert.pair(&query, &passage, 100);
        assert_eq!(whole, [1, 10, 11, 2, 20, 21, 22, 23, 2]);
        assert_eq!(bert.first_segment(&whole), 4);
        assert_eq!(bert.pair(&query, &passage, whole.len()), whole);
        assert_eq!(bert.pair(&query, &passage, 7), [1, 10, 11, 2, 20, 21, 2]);
        assert_eq!(bert.pair(&query, &passage, 2), [1, 10, 11, 2, 2], "the question stays whole");
        assert_eq!(bert.first_segment(&bert.pair(&[], &passage, 9)), 2);
        let whole = roberta.pair(&query, &passage, 100);
        assert_eq!(whole, [1, 10, 11, 2, 2, 20, 21, 22, 23, 2]);
        assert_eq!(roberta.first_segment(&whole), whole.len());
        assert_eq!(roberta.pair(&query, &passage, 8), [1, 10, 11, 2, 2, 20, 21, 2]);
    }
}
