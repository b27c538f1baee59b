//! How fast a shape of model computes on this machine, with made-up weights: no checkpoint is needed, and nothing but the
//! forward pass is measured.
//!
//! Invariants: prompts are random ids, and every measurement writes its own pages anew, so nothing is cached but what is
//! called warm; the tokens that were computed are counted, and a cold measurement that computed fewer than it was given
//! is refused. Prefill is timed to the logits of the last token on the host, decoding from token to token: greedily
//! on a GPU, which then gives back a token and not its logits, and once more with all logits brought to the host. Figures
//! are medians.
//!
//! Beside each figure stands its limit: the arithmetic of a prompt at the rate of a large matrix product, or the bytes a
//! step must read at the rate of a copy, both measured in the same run. Deliberately not here: scheduling, sampling and
//! whatever else a request needs (`edgewise bench engine` without a shape measures those).

use std::time::Instant;

use edgewise_kv_cache::PageId;

#[cfg(feature = "cuda")]
use crate::decoder::{Cuda, CudaOptions, Half};
use crate::{
    EngineError, KvPrecision, Placement, Precision, PromptAttention,
    decoder::{Backend, Cpu, Decoder, DecoderConfig, LoadOptions},
    step_model::{BatchEntry, Demand, Scores, StepModel},
};

/// New tokens behind a prefix that is resident.
const SUFFIX: usize = 64;
/// Steps that do not count: buffers find their places, graphs are recorded.
const WARM_UP: usize = 4;

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where.
    pub device: Placement,
    /// What a GPU computes with; bfloat16 where it is left open.
    pub precision: Precision,
    /// What computes the attention of prompts on a GPU.
    pub attention: PromptAttention,
    /// What a GPU keeps keys and values in.
    pub kv_precision: KvPrecision,
    /// Lengths of prompts to prefill, in tokens.
    pub prefill: Vec<usize>,
    /// Sequences that decode together.
    pub batches: Vec<usize>,
    /// Tokens each of them holds.
    pub context: usize,
    /// Tokens decoded in a measurement.
    pub steps: usize,
    /// Length of a prompt that is prefilled cold, with all but its end resident, and with its pages put back from the
    /// host; 0 for none.
    pub prefix: usize,
    /// Most prompt tokens of a pass on the CPU.
    pub chunk: usize,
    /// The same on a GPU.
    pub device_chunk: usize,
    /// Most sequences the engine is set up for, which decides how products are computed on a GPU.
    pub max_sequences: usize,
    /// Share of a GPU's memory that may be used.
    pub memory_share: f64,
    /// Measurements of each figure.
    pub runs: usize,
    /// Of weights and prompts.
    pub seed: u64,
}

/// The machine and what the model takes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// `cpu`, `cuda bf16` or `cuda f16`, and `flash-attn` where that computes the attention of prompts.
    pub device: &'static str,
    /// Seconds that making up and placing the weights took.
    pub load_s: f64,
    /// Bytes of the weights.
    pub weight_bytes: usize,
    /// Bytes planned for activations; on the CPU they are allocated as they come.
    pub activation_bytes: Option<usize>,
    /// Bytes of the pages for keys and values.
    pub page_bytes: usize,
    /// Positions these hold.
    pub positions: usize,
    /// Operations per second of a large matrix product, where that was measured.
    pub matmul_rate: Option<f64>,
    /// Bytes per second of a copy, read and written.
    pub copy_rate: f64,
}

/// A prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefill {
    /// Its length.
    pub tokens: usize,
    /// Those of them that were not computed.
    pub cached_tokens: usize,
    /// Seconds to its last logits.
    pub seconds: f64,
    /// The same where arithmetic alone decided.
    pub limit_s: Option<f64>,
}

/// Steps of several sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Decode {
    /// Sequences.
    pub batch: usize,
    /// Tokens each holds.
    pub context: usize,
    /// Tokens of their prompts that were not computed.
    pub cached_tokens: usize,
    /// Seconds of a step.
    pub seconds: f64,
    /// The same where all logits are brought to the host, if a step otherwise goes without.
    pub whole_s: Option<f64>,
    /// The same where reading weights, keys and values alone decided.
    pub limit_s: f64,
    /// Seconds until the last step was issued to a GPU.
    pub issue_s: Option<f64>,
    /// Seconds the GPU was at it.
    pub device_s: Option<f64>,
}

/// A long prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefix {
    /// Length of prefix and end together.
    pub tokens: usize,
    /// Tokens that were not computed: cold, warm, and after restoring.
    pub cached_tokens: [usize; 3],
    /// Seconds to the first logits, cold.
    pub cold_s: f64,
    /// With the prefix resident.
    pub warm_s: f64,
    /// With the prefix in the host's memory, putting it back included.
    pub restored_s: f64,
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub enum Figure {
    /// Comes first.
    Machine(Machine),
    /// Of a prompt.
    Prefill(Prefill),
    /// Of decoding.
    Decode(Decode),
    /// Of a prefix.
    Prefix(Prefix),
    /// Of what was left out, and why.
    LeftOut(String),
}

/// Makes up weights for the shape that `config_json`, a `config.json`, describes, and measures; `told` gets each figure
/// when it is there.
///
/// # Errors
/// [`EngineError`] when the shape is not one the decoder has, does not fit, or `plan` asks for a device that is not there.
pub fn measure(config_json: &str, plan: &Plan, told: impl FnMut(Figure)) -> Result<(), EngineError> {
    crate::load::check_attention(plan.attention)?;
    match plan.device {
        Placement::Cpu => plan.kv_precision.check_on_cpu()?,
        #[cfg(feature = "cuda")]
        Placement::Cuda | Placement::Auto => match open_cuda(plan) {
            Ok(cuda) => return on_cuda(config_json, plan, cuda, told),
            Err(error) if plan.device == Placement::Cuda => return Err(error),
            Err(error) => tracing::info!(%error, "measuring on the CPU"),
        },
        #[cfg(not(feature = "cuda"))]
        Placement::Auto => {}
        #[cfg(not(feature = "cuda"))]
        Placement::Cuda => return Err(crate::load::no_cuda()),
    }
    plan.kv_precision.say_on_cpu();
    let begun = Instant::now();
    let decoder = Decoder::with_random_weights(config_json, Cpu::default(), &LoadOptions::default(), plan.seed)?;
    let pages = needed_pages(&decoder, plan);
    let machine = Machine {
        device: "cpu",
        load_s: begun.elapsed().as_secs_f64(),
        weight_bytes: decoder.weight_bytes(),
        activation_bytes: None,
        page_bytes: pages * decoder.page_bytes(),
        positions: pages * decoder.page_tokens(),
        matmul_rate: None,
        copy_rate: host_copy_rate(),
    };
    Bench::new(decoder, pages, machine, plan, Box::new(|| Ok(None)))?.run(told)
}

#[cfg(feature = "cuda")]
fn open_cuda(plan: &Plan) -> Result<Cuda, EngineError> {
    let &Plan { device_chunk, max_sequences, memory_share, precision, attention, kv_precision, .. } = plan;
    let max_rows = device_chunk.max(max_sequences);
    let half = if precision == Precision::F16 { Half::F16 } else { Half::Bf16 };
    let kv_format = kv_precision.format();
    Ok(Cuda::open(CudaOptions { max_rows, max_sequences, memory_share, half, attention, kv_format })?)
}

#[cfg(feature = "cuda")]
fn on_cuda(config_json: &str, plan: &Plan, cuda: Cuda, told: impl FnMut(Figure)) -> Result<(), EngineError> {
    let plan = &Plan { chunk: plan.device_chunk, ..plan.clone() };
    let ceilings = cuda.ceilings()?;
    let begun = Instant::now();
    let decoder = Decoder::with_random_weights(config_json, cuda.clone(), &LoadOptions::default(), plan.seed)?;
    let page_bytes = cuda.plan_pages(decoder.config(), decoder.page_bytes())?;
    let pages = page_bytes / decoder.page_bytes();
    let machine = Machine {
        device: match (plan.precision == Precision::F16, plan.attention, plan.kv_precision) {
            (true, PromptAttention::Own, KvPrecision::Half) => "cuda f16",
            (true, PromptAttention::Own, KvPrecision::Fp8) => "cuda f16, fp8 pages",
            (false, PromptAttention::Own, KvPrecision::Half) => "cuda bf16",
            (false, PromptAttention::Own, KvPrecision::Fp8) => "cuda bf16, fp8 pages",
            (true, PromptAttention::FlashAttn, _) => "cuda f16, flash-attn",
            (false, PromptAttention::FlashAttn, _) => "cuda bf16, flash-attn",
        },
        load_s: begun.elapsed().as_secs_f64(),
        weight_bytes: decoder.weight_bytes(),
        activation_bytes: Some(cuda.activation_bytes(decoder.config())),
        page_bytes,
        positions: pages * decoder.page_tokens(),
        matmul_rate: Some(ceilings.matmul),
        copy_rate: ceilings.copy,
    };
    let times = move || -> Result<Option<[f64; 2]>, EngineError> {
        Ok(cuda.last_pass()?.map(|times| [times.issue_ms / 1e3, times.device_ms / 1e3]))
    };
    Bench::new(decoder, pages, machine, plan, Box::new(times))?.run(told)
}

/// Bytes per second that all threads together copy, read and written; the best of some.
fn host_copy_rate() -> f64 {
    use rayon::prelude::*;
    const BYTES: usize = 256 << 20;
    let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    let mut copy = || {
        let begun = Instant::now();
        to.par_chunks_mut(1 << 20).zip(from.par_chunks(1 << 20)).for_each(|(to, from)| to.copy_from_slice(from));
        2.0 * BYTES as f64 / begun.elapsed().as_secs_f64()
    };
    (0..4).map(|_| copy()).fold(0.0, f64::max)
}

/// Pages the largest measurement needs.
fn needed_pages<B: Backend>(decoder: &Decoder<B>, plan: &Plan) -> usize {
    let pages = |tokens: usize| tokens.div_ceil(decoder.page_tokens());
    let window = decoder.config().context_window;
    let lengths = plan.prefill.iter().copied().chain([plan.prefix, 1]).filter(|length| *length <= window);
    let alone = lengths.map(pages).max().unwrap_or(1);
    let batch = plan.batches.iter().copied().max().unwrap_or(0);
    alone.max(batch * pages(plan.context + plan.steps + WARM_UP))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Operations of the products of one token's layers.
fn layer_operations(config: &DecoderConfig) -> f64 {
    let &DecoderConfig { layers, hidden, feed_forward, heads, kv_heads, head_dim, .. } = config;
    let weights = hidden * head_dim * 2 * (heads + kv_heads) + 3 * hidden * feed_forward;
    2.0 * (layers * weights) as f64
}

/// Operations of a prompt: the products of all its tokens, attention of every token to those before it, and one row of
/// logits.
fn prompt_operations(config: &DecoderConfig, tokens: usize) -> f64 {
    let &DecoderConfig { hidden, vocab_size, heads, head_dim, .. } = config;
    let pairs = |window: Option<usize>| {
        let (n, w) = (tokens as f64, window.unwrap_or(tokens).min(tokens) as f64);
        w * (w + 1.0) / 2.0 + (n - w) * w
    };
    let attention: f64 = config.windows.iter().map(|window| 4.0 * (heads * head_dim) as f64 * pairs(*window)).sum();
    layer_operations(config) * tokens as f64 + attention + 2.0 * (hidden * vocab_size) as f64
}

type Times = Box<dyn Fn() -> Result<Option<[f64; 2]>, EngineError>>;

struct Bench<'a, B: Backend> {
    decoder: Decoder<B>,
    kv: B::Kv,
    pages: usize,
    machine: Machine,
    plan: &'a Plan,
    state: u64,
    /// Seconds until the last pass was issued, and that the device was at it.
    times: Times,
}

impl<'a, B: Backend> Bench<'a, B> {
    fn new(
        decoder: Decoder<B>,
        pages: usize,
        machine: Machine,
        plan: &'a Plan,
        times: Times,
    ) -> Result<Self, EngineError> {
        let kv = decoder.allocate(pages)?;
        Ok(Self { decoder, kv, pages, machine, plan, state: plan.seed ^ 0x9e37_79b9_7f4a_7c15, times })
    }

    fn run(mut self, mut told: impl FnMut(Figure)) -> Result<(), EngineError> {
        told(Figure::Machine(self.machine.clone()));
        let plan = self.plan;
        for &length in &plan.prefill {
            told(match self.missing(1, length) {
                None => Figure::Prefill(self.prefill(length)?),
                Some(reason) => Figure::LeftOut(format!("a prompt of {length} tokens: {reason}")),
            });
        }
        if plan.prefix > SUFFIX {
            told(match self.missing(1, plan.prefix) {
                None => Figure::Prefix(self.prefix(plan.prefix)?),
                Some(reason) => Figure::LeftOut(format!("a prefix of {} tokens: {reason}", plan.prefix)),
            });
        }
        for &batch in &plan.batches {
            told(match self.missing(batch, plan.context + plan.steps + WARM_UP) {
                None => Figure::Decode(self.decode(batch)?),
                Some(reason) => Figure::LeftOut(format!("{batch} sequences of {} tokens: {reason}", plan.context)),
            });
        }
        Ok(())
    }

    /// Why sequences of a length can't be measured.
    fn missing(&self, sequences: usize, tokens: usize) -> Option<String> {
        let window = self.decoder.config().context_window;
        if tokens == 0 || tokens > window {
            return Some(format!("the window of this shape is {window}"));
        }
        if sequences > self.plan.max_sequences {
            return Some(format!("engine.max_sequences is {}", self.plan.max_sequences));
        }
        let needed = sequences * tokens.div_ceil(self.decoder.page_tokens());
        (needed > self.pages).then(|| format!("memory has room for {} of the {needed} pages it takes", self.pages))
    }

    fn ids(&mut self, count: usize) -> Vec<u32> {
        let vocabulary = self.decoder.config().vocab_size as u64;
        let mut next = || {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % vocabulary) as u32
        };
        (0..count).map(|_| next()).collect()
    }

    /// The pages of the sequence of that number, each `positions` long.
    fn table(&self, sequence: usize, positions: usize) -> Vec<PageId> {
        let pages = positions.div_ceil(self.decoder.page_tokens());
        (sequence * pages..(sequence + 1) * pages).filter_map(|page| u32::try_from(page).ok()).map(PageId).collect()
    }

    /// Seconds until the logits behind `tokens` are there, the first `held` of which are resident, and how many tokens
    /// were not computed.
    fn feed(&mut self, tokens: &[u32], held: usize, pages: &[PageId]) -> Result<(f64, usize), EngineError> {
        let begun = Instant::now();
        let (mut position, mut computed) = (held, 0);
        for part in tokens[held..].chunks(self.plan.chunk.max(1)) {
            let logits = position + part.len() == tokens.len();
            let entry = BatchEntry { tokens: part, position, pages, logits, generated_from: usize::MAX };
            self.decoder.forward(&mut self.kv, &[entry])?;
            position += part.len();
            computed += part.len();
        }
        Ok((begun.elapsed().as_secs_f64(), tokens.len() - computed))
    }

    /// A cold prompt.
    fn cold(&mut self, tokens: &[u32], pages: &[PageId]) -> Result<f64, EngineError> {
        let (seconds, cached) = self.feed(tokens, 0, pages)?;
        if cached > 0 {
            let error = format!("{cached} tokens of a cold prompt were not computed: the figures would be wrong");
            return Err(EngineError::Decoder(error));
        }
        Ok(seconds)
    }

    fn prefill(&mut self, length: usize) -> Result<Prefill, EngineError> {
        let pages = self.table(0, length);
        let mut seconds = Vec::new();
        for run in 0..=self.plan.runs {
            let tokens = self.ids(length);
            let took = self.cold(&tokens, &pages)?;
            if run > 0 {
                seconds.push(took);
            }
        }
        let operations = prompt_operations(self.decoder.config(), length);
        let limit_s = self.machine.matmul_rate.map(|rate| operations / rate);
        Ok(Prefill { tokens: length, cached_tokens: 0, seconds: median(seconds), limit_s })
    }

    fn prefix(&mut self, length: usize) -> Result<Prefix, EngineError> {
        let pages = self.table(0, length);
        let held = length - SUFFIX;
        let (mut cold, mut warm, mut restored) = (Vec::new(), Vec::new(), Vec::new());
        let mut cached = [0; 3];
        let mut aside: Vec<Vec<u8>> = Vec::new();
        for run in 0..=self.plan.runs {
            let mut tokens = self.ids(length);
            cold.push(self.cold(&tokens, &pages)?);
            let suffix = self.ids(SUFFIX);
            tokens[held..].copy_from_slice(&suffix);
            let (seconds, resident) = self.feed(&tokens, held, &pages)?;
            warm.push(seconds);
            // To the host, overwritten, and back.
            aside.resize_with(pages.len(), Vec::new);
            for (page, out) in pages.iter().zip(&mut aside) {
                out.clear();
                StepModel::read_page(&self.decoder, &self.kv, *page, out);
            }
            let other = self.ids(self.decoder.page_tokens().min(length));
            self.feed(&other, 0, &pages)?;
            let begun = Instant::now();
            for (page, bytes) in pages.iter().zip(&aside) {
                StepModel::write_page(&self.decoder, &mut self.kv, *page, bytes)?;
            }
            let (_, put_back) = self.feed(&tokens, held, &pages)?;
            restored.push(begun.elapsed().as_secs_f64());
            cached = [0, resident, put_back];
            if run == 0 {
                [&mut cold, &mut warm, &mut restored].into_iter().for_each(Vec::clear);
            }
        }
        Ok(Prefix {
            tokens: length,
            cached_tokens: cached,
            cold_s: median(cold),
            warm_s: median(warm),
            restored_s: median(restored),
        })
    }

    fn decode(&mut self, batch: usize) -> Result<Decode, EngineError> {
        let &Plan { context, steps, .. } = self.plan;
        let tables: Vec<Vec<PageId>> = (0..batch).map(|i| self.table(i, context + steps + WARM_UP)).collect();
        for table in &tables {
            let tokens = self.ids(context);
            self.cold(&tokens, table)?;
        }
        let (mut seconds, mut whole, mut issued, mut on_device) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for step in 0..steps + WARM_UP {
            let tokens = self.ids(batch);
            let entry = |(token, pages)| BatchEntry {
                tokens: std::slice::from_ref(token),
                position: context + step,
                pages,
                logits: true,
                generated_from: context,
            };
            let entries: Vec<BatchEntry<'_>> = tokens.iter().zip(tables.iter().map(Vec::as_slice)).map(entry).collect();
            // The same step again changes nothing: it writes what is there.
            let begun = Instant::now();
            self.decoder.forward(&mut self.kv, &entries)?;
            let read_whole = begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            let scores = self.decoder.forward_for(&mut self.kv, &entries, &vec![Demand::Likeliest(1); batch])?;
            let took = begun.elapsed().as_secs_f64();
            let selects = scores.iter().flatten().any(|scores| matches!(scores, Scores::Likeliest(_)));
            if step >= WARM_UP {
                seconds.push(took);
                if selects {
                    whole.push(read_whole);
                }
                if let Some([issue, device]) = (self.times)()? {
                    issued.push(issue);
                    on_device.push(device);
                }
            }
        }
        let config = self.decoder.config();
        // The embedding is read row by row where it does not serve as the output, too.
        let element = self.decoder.weight_bytes() as f64 / weights(config);
        let embedding = if config.tied { 0.0 } else { (config.vocab_size * config.hidden) as f64 * element };
        let position = self.decoder.page_bytes() as f64 / self.decoder.page_tokens() as f64;
        let bytes = self.decoder.weight_bytes() as f64 - embedding + (batch * context) as f64 * position;
        let measured = |values: Vec<f64>| (!values.is_empty()).then(|| median(values));
        Ok(Decode {
            batch,
            context,
            cached_tokens: 0,
            seconds: median(seconds),
            whole_s: measured(whole),
            limit_s: bytes / self.machine.copy_rate,
            issue_s: measured(issued),
            device_s: measured(on_device),
        })
    }
}

/// Weights of all matrices.
fn weights(config: &DecoderConfig) -> f64 {
    let tables = if config.tied { 1 } else { 2 };
    layer_operations(config) / 2.0 + (tables * config.vocab_size * config.hidden) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const SHAPE: &str = r#"{"model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false}"#;

    fn plan() -> Plan {
        Plan {
            device: Placement::Cpu,
            precision: Precision::Auto,
            attention: PromptAttention::Own,
            kv_precision: KvPrecision::Half,
            prefill: vec![100, 600],
            batches: vec![1, 3, 9],
            context: 40,
            steps: 3,
            prefix: 200,
            chunk: 64,
            device_chunk: 128,
            max_sequences: 8,
            memory_share: 0.9,
            runs: 2,
            seed: 5,
        }
    }

    #[test]
    fn a_small_shape_is_measured_on_the_cpu() {
        let mut figures = Vec::new();
        measure(SHAPE, &plan(), |figure| figures.push(figure)).unwrap();
        let [
            Figure::Machine(machine),
            Figure::Prefill(prefill),
            Figure::LeftOut(long),
            Figure::Prefix(prefix),
            rest @ ..,
        ] = &figures[..]
        else {
            panic!("{figures:?}")
        };
        assert_eq!(machine.device, "cpu");
        assert!(machine.weight_bytes > 0 && machine.copy_rate > 0.0 && machine.positions >= 200);
        assert_eq!((prefill.tokens, prefill.cached_tokens), (100, 0));
        assert!(prefill.seconds > 0.0);
        assert!(long.contains("600") && long.contains("512"), "{long}");
        assert_eq!(prefix.cached_tokens, [0, 136, 136]);
        assert!(prefix.cold_s > 0.0 && prefix.warm_s > 0.0 && prefix.restored_s > 0.0);
        let [Figure::Decode(one), Figure::Decode(three), Figure::LeftOut(nine)] = rest else { panic!("{rest:?}") };
        assert_eq!((one.batch, three.batch, one.cached_tokens), (1, 3, 0));
        assert!(one.seconds > 0.0 && three.limit_s > one.limit_s && one.device_s.is_none());
        assert!(nine.contains("max_sequences"), "{nine}");
    }

    #[test]
    fn operations_are_those_of_the_shape() {
        let config = DecoderConfig::from_json(include_str!("../../../config/shapes/llama-3.1-8b.json")).unwrap();
        // 6.98 thousand million weights in the layers, twice as many operations for a token.
        assert_eq!(layer_operations(&config), 2.0 * 6_979_321_856.0);
        assert_eq!(weights(&config), 6_979_321_856.0 + 2.0 * 128_256.0 * 4096.0);
        // Attention of 8192 tokens to half as many others each.
        let attention =
            prompt_operations(&config, 8192) - 8192.0 * layer_operations(&config) - 2.0 * 4096.0 * 128_256.0;
        assert_eq!(attention, 32.0 * 4.0 * 4096.0 * (8192.0 * 8193.0 / 2.0));
    }
}
