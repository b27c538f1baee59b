//! Sentence embeddings: a BERT encoder, the mean over its tokens, length 1.
//!
//! Invariants:
//! - Texts that are too long are an error, never cut.
//! - Order of the results is the order of the texts. A text's vector is the same, bit for bit, alone or among others,
//!   computed or from the cache.
//! - One thread embeds for all callers; what may wait for it is bounded ([`crate::bert::worker`]).
//!
//! Deliberately not here: other poolings than the mean, 16-bit weights.

mod cache;

use std::{collections::HashMap, path::Path, sync::Arc};

use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_telemetry::names;
use rayon::prelude::*;
use serde::Deserialize;

use crate::{
    EngineError,
    bert::{
        Bert, EncoderArithmetic, States, Text,
        batches::{Encoder, in_batches},
        load,
        worker::{Role, Worker},
    },
    digest,
    tokenizer::JsonTokenizer,
};
use cache::{Key, Vectors};

/// Tokens that may wait for the worker; some minutes of work on a small machine.
const MAX_QUEUE_TOKENS: usize = 1 << 20;
/// Memory for vectors of texts seen before; some 35,000 of 384 dimensions.
const CACHE_BYTES: u64 = 64 << 20;

const ROLE: Role =
    Role { name: "embedder", queue_tokens: names::EMBED_QUEUE_TOKENS, tokens_total: names::EMBED_TOKENS_TOTAL };

/// An embedder of the BERT family with mean pooling, such as all-MiniLM-L6-v2.
pub struct BertEmbedder {
    info: EmbedderInfo,
    tokenizer: JsonTokenizer,
    /// Entries of the weights' vocabulary.
    vocabulary: usize,
    cache: Vectors,
    worker: Worker,
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
    pub(crate) fn load(model: &str, folder: &Path, arithmetic: EncoderArithmetic) -> Result<Self, EngineError> {
        let [config, weights, tokens] = ["config.json", "model.safetensors", "tokenizer.json"].map(|f| folder.join(f));
        let bert = load::encoder(&config, &weights, arithmetic)?;
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
            digest: digest::of_files_and(&[&config, &weights, &tokens], arithmetic.name())?,
            dimension: bert.shape.hidden,
            max_tokens,
        };
        let (vocabulary, cache) = (bert.shape.vocabulary, Vectors::new(&info.digest, CACHE_BYTES));
        Ok(Self { info, tokenizer, vocabulary, cache, worker: Worker::start(ROLE, bert, MAX_QUEUE_TOKENS)?, wrap })
    }

    /// Token ids of a text, special tokens included.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let ids = self.tokenizer.encode(text)?;
        let (tokens, max_tokens) = (ids.len() + 2, self.info.max_tokens);
        if tokens > max_tokens {
            return Err(EngineError::TextTooLong { tokens, max_tokens }.into());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            return Err(ModelError::Tokenizer(format!(
                "token {id} is beyond the {} the weights know: tokenizer.json belongs to another model",
                self.vocabulary
            )));
        }
        Ok([self.wrap.0].into_iter().chain(ids).chain([self.wrap.1]).collect())
    }
}

impl Embedder for BertEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let keys: Vec<Key> = texts.par_iter().map(|text| self.cache.key(text)).collect();
        let mut found = self.cache.find(&keys);
        // Each missing text once, however often it is in the call.
        let mut missing: HashMap<Key, usize> = HashMap::new();
        let mut fresh: Vec<&str> = Vec::new();
        for (i, key) in keys.iter().enumerate().filter(|&(i, _)| found[i].is_none()) {
            missing.entry(*key).or_insert_with(|| {
                fresh.push(texts[i]);
                fresh.len() - 1
            });
        }
        if !fresh.is_empty() {
            let encoded = fresh.par_iter().map(|text| self.encode(text)).collect::<Result<Vec<_>, _>>()?;
            let vectors: Vec<Arc<[f32]>> = self.worker.encode(encoded, &|| false)?.into_iter().map(Arc::from).collect();
            for (key, &i) in &missing {
                self.cache.insert(*key, vectors[i].clone());
            }
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = missing.get(key).map(|&i| vectors[i].clone());
            }
        }
        Ok(found.into_iter().flatten().map(|vector| vector.to_vec()).collect())
    }
}

impl std::fmt::Debug for BertEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BertEmbedder").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Encoder for Bert {
    /// The mean over a text's tokens, with length 1.
    fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        in_batches(texts, |batch, workspace| {
            let inputs: Vec<Text<'_>> = batch.iter().map(|ids| Text { ids, first_segment: ids.len() }).collect();
            let mut rest = self.run(&inputs, States::All, workspace)?;
            let vectors = batch.iter().map(|ids| {
                let (rows, after) = rest.split_at(ids.len() * self.shape.hidden);
                rest = after;
                unit_mean(rows, self.shape.hidden)
            });
            Ok(vectors.collect())
        })
    }
}

/// The mean over the rows of `x`, divided by its length.
fn unit_mean(x: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0_f32; width];
    for row in x.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v);
    }
    // Dividing by the number of rows would cancel out.
    let length = mean.iter().map(|m| m * m).sum::<f32>().sqrt();
    mean.iter_mut().for_each(|m| *m /= length);
    mean
}
