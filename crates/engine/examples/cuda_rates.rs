//! Times prefill and decode on an NVIDIA Hopper with made-up weights, so that no checkpoint is needed.
//!
//! `cargo run --release -p edgewise-engine --features cuda --example cuda_rates -- config/shapes/llama-3.1-8b.json
//! [--prefill 2048,8192,32768] [--decode 1x4096,32x4096] [--warm 32768] [--chunk 8192] [--max-sequences 64]`
//!
//! Prompts are random ids and every measurement writes its own pages anew: nothing is cached. Prefill is timed to the
//! logits of the last token on the host, decode from token to token, logits read each time; figures are medians. Each
//! line is JSON. `--warm` times the last 64 tokens of a prompt whose rest is resident, beside the whole prompt.
#![allow(clippy::print_stdout)]

use std::{error::Error, time::Instant};

use edgewise_engine::decoder::{BatchEntry, Cuda, CudaKv, CudaOptions, Decoder, LoadOptions};
use edgewise_kv_cache::PageId;

/// Times each prefill is measured, after a first one that does not count.
const REPETITIONS: usize = 3;
/// Decode steps that are timed.
const STEPS: usize = 24;
/// New tokens behind a resident prefix.
const SUFFIX: usize = 64;

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Arguments {
    shape: String,
    prefill: Vec<usize>,
    decode: Vec<(usize, usize)>,
    warm: Vec<usize>,
    chunk: usize,
    max_sequences: usize,
}

fn arguments() -> Outcome<Arguments> {
    let mut given = std::env::args().skip(1);
    let shape = given.next().ok_or("usage: cuda_rates SHAPE.json [--prefill N,…] [--decode BxN,…] [--warm N,…]")?;
    let mut arguments =
        Arguments { shape, prefill: Vec::new(), decode: Vec::new(), warm: Vec::new(), chunk: 8192, max_sequences: 64 };
    while let Some(name) = given.next() {
        let value = given.next().ok_or("an option without a value")?;
        let numbers = || value.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>();
        match name.as_str() {
            "--prefill" => arguments.prefill = numbers()?,
            "--warm" => arguments.warm = numbers()?,
            "--chunk" => arguments.chunk = value.parse()?,
            "--max-sequences" => arguments.max_sequences = value.parse()?,
            "--decode" => {
                for pair in value.split(',') {
                    let (batch, context) = pair.split_once('x').ok_or("--decode takes BATCHxCONTEXT")?;
                    arguments.decode.push((batch.parse()?, context.parse()?));
                }
            }
            other => return Err(format!("{other} is no option").into()),
        }
    }
    Ok(arguments)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Bench {
    cuda: Cuda,
    decoder: Decoder<Cuda>,
    kv: CudaKv,
    pages: usize,
    chunk: usize,
    seed: u64,
}

impl Bench {
    fn ids(&mut self, count: usize) -> Vec<u32> {
        let vocabulary = self.decoder.config().vocab_size as u64;
        let mut next = || {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.seed >> 33) % vocabulary) as u32
        };
        (0..count).map(|_| next()).collect()
    }

    fn table(&self, first: usize, positions: usize) -> Outcome<Vec<PageId>> {
        let pages = positions.div_ceil(self.decoder.page_tokens());
        if first + pages > self.pages {
            return Err(format!("{} pages are needed and there are {}", first + pages, self.pages).into());
        }
        Ok((first..first + pages).map(|page| PageId(page as u32)).collect())
    }

    /// Seconds until the logits behind `tokens` are on the host, the first `held` of which are resident.
    fn prefill(&mut self, tokens: &[u32], held: usize, pages: &[PageId]) -> Outcome<f64> {
        let begun = Instant::now();
        let mut position = held;
        for part in tokens[held..].chunks(self.chunk) {
            let logits = position + part.len() == tokens.len();
            let entry = BatchEntry { tokens: part, position, pages, logits, generated_from: usize::MAX };
            self.decoder.forward(&mut self.kv, &[entry])?;
            position += part.len();
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    fn prefills(&mut self, length: usize) -> Outcome<()> {
        let pages = self.table(0, length)?;
        let mut seconds = Vec::new();
        for repetition in 0..=REPETITIONS {
            let tokens = self.ids(length);
            let took = self.prefill(&tokens, 0, &pages)?;
            if repetition > 0 {
                seconds.push(took);
            }
        }
        let took = median(seconds);
        let rate = length as f64 / took;
        println!(
            "{{\"prefill\": {length}, \"cached_tokens\": 0, \"seconds\": {took:.4}, \"tokens_per_s\": {rate:.0}}}"
        );
        Ok(())
    }

    fn warm(&mut self, length: usize) -> Outcome<()> {
        let pages = self.table(0, length)?;
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..REPETITIONS {
            let mut tokens = self.ids(length);
            cold.push(self.prefill(&tokens, 0, &pages)?);
            let suffix = self.ids(SUFFIX);
            tokens[length - SUFFIX..].copy_from_slice(&suffix);
            warm.push(self.prefill(&tokens, length - SUFFIX, &pages)?);
        }
        let (cold, warm) = (median(cold), median(warm));
        println!(
            "{{\"prefix\": {length}, \"cold_cached_tokens\": 0, \"warm_cached_tokens\": {}, \"cold_ttft_s\": {cold:.4}, \
             \"warm_ttft_s\": {warm:.5}, \"ratio\": {:.5}}}",
            length - SUFFIX,
            warm / cold
        );
        Ok(())
    }

    fn decode(&mut self, batch: usize, context: usize) -> Outcome<()> {
        let page_tokens = self.decoder.page_tokens();
        let each = (context + STEPS + 4).div_ceil(page_tokens);
        let tables =
            (0..batch).map(|i| self.table(i * each, each * page_tokens)).collect::<Outcome<Vec<Vec<PageId>>>>()?;
        for table in &tables {
            let tokens = self.ids(context);
            self.prefill(&tokens, 0, table)?;
        }
        let mut seconds = Vec::new();
        for step in 0..STEPS + 4 {
            let tokens = self.ids(batch);
            let entries: Vec<BatchEntry<'_>> = tokens
                .iter()
                .zip(&tables)
                .map(|(token, pages)| BatchEntry {
                    tokens: std::slice::from_ref(token),
                    position: context + step,
                    pages,
                    logits: true,
                    generated_from: context,
                })
                .collect();
            let begun = Instant::now();
            self.decoder.forward(&mut self.kv, &entries)?;
            if step >= 4 {
                seconds.push(begun.elapsed().as_secs_f64());
            }
        }
        let took = median(seconds);
        let last = self.cuda.last_pass()?.ok_or("no pass was timed")?;
        println!(
            "{{\"decode\": {batch}, \"context\": {context}, \"step_ms\": {:.3}, \"issue_ms\": {:.3}, \"device_ms\": \
             {:.3}, \"tokens_per_s\": {:.1}}}",
            took * 1e3,
            last.issue_ms,
            last.device_ms,
            batch as f64 / took
        );
        Ok(())
    }
}

fn main() -> Outcome<()> {
    let arguments = arguments()?;
    let config = std::fs::read_to_string(&arguments.shape)?;
    let cuda = Cuda::open(CudaOptions {
        max_rows: arguments.chunk,
        max_sequences: arguments.max_sequences,
        memory_share: 0.95,
    })?;
    let begun = Instant::now();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos() as u64;
    let decoder = Decoder::with_random_weights(&config, cuda.clone(), &LoadOptions::default(), seed)?;
    let pages = cuda.plan_pages(decoder.config(), decoder.page_bytes())? / decoder.page_bytes();
    println!(
        "{{\"load_s\": {:.1}, \"weights_gib\": {:.2}, \"pages\": {pages}, \"tokens\": {}}}",
        begun.elapsed().as_secs_f64(),
        decoder.weight_bytes() as f64 / f64::from(1 << 30),
        pages * decoder.page_tokens()
    );
    let kv = decoder.allocate(pages)?;
    let mut bench = Bench { cuda, decoder, kv, pages, chunk: arguments.chunk, seed };
    for length in arguments.prefill {
        bench.prefills(length)?;
    }
    for length in arguments.warm {
        bench.warm(length)?;
    }
    for (batch, context) in arguments.decode {
        bench.decode(batch, context)?;
    }
    Ok(())
}
