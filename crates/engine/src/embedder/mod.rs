//! Sentence embeddings: a BERT encoder, the mean over its tokens, length 1.
//!
//! Invariants:
//! - Texts that are too long are an error, never cut.
//! - Order of the results is the order of the texts; batching is invisible beyond rounding.
//!
//! Batching: texts are sorted by length and packed, without padding, into batches of about [`BATCH_TOKENS`] tokens that
//! run beside each other on the rayon pool, so that the parts between the matrix products are spread over the cores
//! too. The products inside a batch are divided further when cores are idle, as for a single question.
//!
//! Deliberately not here: other poolings than the mean, 16-bit weights, a cache of vectors.

mod bert;
mod load;
mod math;

use std::path::Path;

use edgewise_kernels::KernelError;
use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_telemetry::names;
use rayon::prelude::*;
use serde::Deserialize;

use crate::{EngineError, digest, tokenizer::JsonTokenizer};
use bert::{Bert, Workspace};

/// Tokens of a batch, roughly: enough rows for the products to reach their rate, few enough that the widest activation
/// (1536 floats a token) stays near the size of a second-level cache.
const BATCH_TOKENS: usize = 512;
/// Smallest batch worth a task of its own.
const MIN_BATCH_TOKENS: usize = 64;

/// An embedder of the BERT family with mean pooling, such as all-MiniLM-L6-v2.
pub struct BertEmbedder {
    info: EmbedderInfo,
    tokenizer: JsonTokenizer,
    bert: Bert,
    /// Ids of `[CLS]` and `[SEP]`, which wrap every text.
    wrap: (u32, u32),
}

/// `sentence_bert_config.json` of a sentence-transformers checkpoint.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

/// `1_Pooling/config.json` of a sentence-transformers checkpoint.
#[derive(Deserialize)]
struct PoolingConfig {
    pooling_mode_mean_tokens: bool,
}

impl BertEmbedder {
    /// Loads `config.json`, `model.safetensors` and `tokenizer.json` from `folder`. If `sentence_bert_config.json` is
    /// there, it gives the longest input, else the number of positions does; `1_Pooling/config.json`, if there, must
    /// ask for the mean.
    pub(crate) fn load(model: &str, folder: &Path) -> Result<Self, EngineError> {
        let [config, weights, tokens] = ["config.json", "model.safetensors", "tokenizer.json"].map(|f| folder.join(f));
        let bert = load::load(&config, &weights)?;
        let tokenizer = JsonTokenizer::from_file(&tokens)?;
        let special = |name: &str| {
            let reason = || EngineError::BadFile { path: tokens.clone(), reason: format!("`{name}` is missing") };
            tokenizer.id_of(name).filter(|&id| (id as usize) < bert.shape.vocabulary).ok_or_else(reason)
        };
        let wrap = (special("[CLS]")?, special("[SEP]")?);
        let mut max_tokens = bert.shape.positions;
        let sentence = folder.join("sentence_bert_config.json");
        if sentence.exists() {
            max_tokens = max_tokens.min(load::read_json::<SentenceConfig>(&sentence)?.max_seq_length);
        }
        let pooling = folder.join("1_Pooling").join("config.json");
        if pooling.exists() && !load::read_json::<PoolingConfig>(&pooling)?.pooling_mode_mean_tokens {
            return Err(EngineError::Unsupported {
                what: format!("the pooling of {}", pooling.display()),
                supported: "the embedder implements the mean over tokens".to_owned(),
            });
        }
        let info = EmbedderInfo {
            model: model.to_owned(),
            digest: digest::of_files(&[&config, &weights, &tokens])?,
            dimension: bert.shape.hidden,
            max_tokens,
        };
        Ok(Self { info, tokenizer, bert, wrap })
    }

    /// Token ids of a text, special tokens included.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.tokenizer.encode(text)?;
        let (tokens, max_tokens) = (ids.len() + 2, self.info.max_tokens);
        if tokens > max_tokens {
            return Err(EngineError::TextTooLong { tokens, max_tokens }.into());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.bert.shape.vocabulary) {
            return Err(ModelError::Tokenizer(format!(
                "token {id} is beyond the {} the weights know: tokenizer.json belongs to another model",
                self.bert.shape.vocabulary
            )));
        }
        Ok([self.wrap.0].into_iter().chain(ids).chain([self.wrap.1]).collect())
    }
}

/// Indices of `lengths`, longest first, cut into batches of roughly equal work.
fn batches(lengths: &[usize], threads: usize) -> Vec<Vec<usize>> {
    let total: usize = lengths.iter().sum();
    // Several batches per thread even out their different durations.
    let target = (total / (4 * threads)).clamp(MIN_BATCH_TOKENS, BATCH_TOKENS);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for i in order {
        match batches.last_mut() {
            Some(batch) if lengths[i] <= room => batch.push(i),
            _ => {
                batches.push(vec![i]);
                room = target;
            }
        }
        room = room.saturating_sub(lengths[i]);
    }
    batches
}

impl Embedder for BertEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let encoded = texts.par_iter().map(|text| self.encode(text)).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = encoded.iter().map(Vec::len).collect();
        let batches = batches(&lengths, rayon::current_num_threads());
        let embedded = batches
            .par_iter()
            .with_max_len(1)
            .map_init(Workspace::default, |workspace, batch| {
                let ids: Vec<&[u32]> = batch.iter().map(|&i| &encoded[i][..]).collect();
                let vectors = self.bert.embed(&ids, workspace)?;
                Ok(batch.iter().copied().zip(vectors).collect::<Vec<_>>())
            })
            .collect::<Result<Vec<_>, KernelError>>()
            .map_err(|e| ModelError::Internal(e.to_string()))?;
        metrics::counter!(names::EMBED_TOKENS_TOTAL).increment(lengths.iter().sum::<usize>() as u64);
        let mut vectors = vec![Vec::new(); texts.len()];
        for (i, vector) in embedded.into_iter().flatten() {
            if !vector.iter().all(|x| x.is_finite()) {
                return Err(ModelError::Internal("an embedding is not finite: the model files are broken".to_owned()));
            }
            vectors[i] = vector;
        }
        Ok(vectors)
    }
}

impl std::fmt::Debug for BertEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BertEmbedder").field("info", &self.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_is_in_one_batch_and_no_batch_is_too_long(
            lengths in prop::collection::vec(2_usize..512, 0..200), threads in 1_usize..9,
        ) {
            let batches = batches(&lengths, threads);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in batches {
                prop_assert!(batch.len() == 1 || batch.iter().map(|&i| lengths[i]).sum::<usize>() <= BATCH_TOKENS);
            }
        }
    }
}
