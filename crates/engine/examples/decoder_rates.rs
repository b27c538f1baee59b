//! Times prefill and decode of a GGUF model on token ids that are given to it, for comparison with other engines.
//!
//! `cargo run -p edgewise-engine --example decoder_rates -- model.gguf`, with `RAYON_NUM_THREADS` for the threads.
//!
//! Each line of the standard input is one run: the number of tokens to decode, then the ids of the prompt. The answer
//! is a line of JSON: seconds of the prefill and of each decoded token. Every run starts from an empty cache, and the
//! decoded tokens are those of the prompt over again, so that no sampling is timed.
#![allow(clippy::print_stdout)]

use std::{error::Error, io::BufRead, time::Instant};

use edgewise_engine::decoder::{BatchEntry, Decoder, GgufFile};
use edgewise_kv_cache::PageId;

/// Tokens of a prefill that are given at a time.
const CHUNK: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: decoder_rates MODEL.gguf")?;
    let decoder = Decoder::load_gguf(&GgufFile::open(&path)?)?;
    eprintln!("{}, {} threads", edgewise_kernels::instruction_set(), rayon::current_num_threads());
    for line in std::io::stdin().lock().lines() {
        let numbers: Vec<u32> = line?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [decoded, prompt @ ..] = &numbers[..] else { return Err("an empty line is not a run".into()) };
        let pages = (prompt.len() + *decoded as usize).div_ceil(decoder.page_tokens());
        let (mut kv, pages) = (decoder.allocate(pages)?, (0..pages as u32).map(PageId).collect::<Vec<_>>());
        let start = Instant::now();
        for (i, tokens) in prompt.chunks(CHUNK).enumerate() {
            let (position, logits) = (i * CHUNK, (i + 1) * CHUNK >= prompt.len());
            decoder.forward(&mut kv, &[BatchEntry { tokens, position, pages: &pages, logits, generated_from: usize::MAX }])?;
        }
        let prefill = start.elapsed().as_secs_f64();
        let mut seconds = Vec::new();
        for (i, token) in prompt.iter().cycle().take(*decoded as usize).enumerate() {
            let start = Instant::now();
            let (tokens, position) = (std::slice::from_ref(token), prompt.len() + i);
            decoder.forward(&mut kv, &[BatchEntry { tokens, position, pages: &pages, logits: true, generated_from: usize::MAX }])?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        println!("{{\"cached_tokens\": 0, \"prefill\": {prefill}, \"decode\": {seconds:?}}}");
    }
    Ok(())
}
