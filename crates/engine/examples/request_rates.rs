//! Times requests that decode together, through scheduler, sampler and streams, without the program around them.
//!
//! `cargo run -p edgewise-engine --features cuda --example request_rates -- MODEL.gguf [1,8,32,64]`
//!
//! A line for each number of requests: tokens per second of all together while all of them decode, the time of a step,
//! and a digest of the tokens, which is the same whatever the speed. Prompts are made-up ids, each of a tenant of its
//! own, so that nothing is cached. Without the feature `cuda`, or a GPU, they run on the CPU.
#![allow(clippy::print_stdout)]

use std::{error::Error, path::Path, thread, time::Instant};

use edgewise_engine::{EngineOptions, LocalGenerator, load_generator};
use edgewise_model_api::{GenerateRequest, GenerationEvent, GenerationStream, Generator, Prompt, Sampling};
use edgewise_types::TenantId;

/// Tokens of a prompt, and of an output.
const PROMPT: u32 = 512;
const OUTPUT: usize = 128;
/// Measurements of each figure, of which the median counts.
const RUNS: usize = 5;

type Token = (Instant, u32);

fn read(mut stream: GenerationStream) -> Result<Vec<Token>, String> {
    let mut seen = Vec::with_capacity(OUTPUT);
    while let Some(event) = stream.next_blocking() {
        match event {
            GenerationEvent::Token { id, .. } => seen.push((Instant::now(), id)),
            GenerationEvent::Failed(error) => return Err(error.to_string()),
            GenerationEvent::Started { .. } | GenerationEvent::Finished { .. } => {}
        }
    }
    Ok(seen)
}

/// Tokens per second, and a digest of all tokens.
fn run(generator: &LocalGenerator, requests: usize, run: usize) -> Result<(f64, u64), Box<dyn Error>> {
    let mut readers = Vec::new();
    for request in 0..requests {
        let number = (1 + request + 1000 * run) as u32;
        // Ids that every vocabulary of a thousand tokens has.
        let tokens =
            (0..PROMPT).map(|i| i.wrapping_mul(7919).wrapping_add(number.wrapping_mul(104_729)) % 1000).collect();
        let request = GenerateRequest {
            prompt: Prompt { tokens, ..Prompt::default() },
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: OUTPUT,
            stop: Vec::new(),
            tenant: TenantId(format!("{requests} requests, {number}").into()),
            n: 1,
            constraint: None,
        };
        let stream = generator.generate(request)?;
        readers.push(thread::spawn(move || read(stream)));
    }
    let mut outputs = Vec::new();
    for reader in readers {
        outputs.push(reader.join().map_err(|_| "a reader died")??);
    }
    // Only while every request decodes: from the last first token to the first last token.
    let from = outputs.iter().filter_map(|output| output.first()).map(|(at, _)| *at).max().ok_or("no tokens")?;
    let to = outputs.iter().filter_map(|output| output.last()).map(|(at, _)| *at).min().ok_or("no tokens")?;
    let all = || outputs.iter().flatten();
    let tokens = all().filter(|(at, _)| *at > from && *at <= to).count();
    let digest = all().fold(0xcbf2_9ce4_8422_2325u64, |h, (_, id)| (h ^ u64::from(*id)).wrapping_mul(0x100_0000_01b3));
    Ok((tokens as f64 / to.saturating_duration_since(from).as_secs_f64(), digest))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: request_rates MODEL.gguf [NUMBERS OF REQUESTS]")?;
    let numbers = args.next().unwrap_or_else(|| "1,8,32,64".to_owned());
    let generator = load_generator("model", Path::new(&path), &EngineOptions::default())?;
    for requests in numbers.split(',') {
        let requests: usize = requests.parse()?;
        let (mut rates, mut digest) = (Vec::new(), 0u64);
        for number in 0..RUNS {
            let (rate, tokens) = run(&generator, requests, number)?;
            rates.push(rate);
            digest = digest.rotate_left(7) ^ tokens;
        }
        rates.sort_by(f64::total_cmp);
        let (rate, lowest, highest) = (rates[RUNS / 2], rates[0], rates[RUNS - 1]);
        let step_ms = requests as f64 / rate * 1e3;
        println!(
            "{requests:3} requests: {rate:8.0} tokens/s ({lowest:.0} to {highest:.0}), {step_ms:.3} ms a step, {digest:016x}"
        );
    }
    Ok(())
}
