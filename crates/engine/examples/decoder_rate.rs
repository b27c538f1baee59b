//! Prefill and decode rates of a GGUF model.
//!
//! `cargo run -p edgewise-engine --example decoder_rate -- model.gguf [exact]`
//!
//! Prefills random tokens in chunks, then decodes, at several depths; prints tokens per second, the best of three
//! runs for prefill. With `exact` it measures the arithmetic that is there for checking.
#![allow(clippy::print_stdout)]

use std::{error::Error, time::Instant};

use edgewise_engine::decoder::{Arithmetic, BatchEntry, CpuKv, Decoder, DecoderError, GgufFile};
use edgewise_kv_cache::PageId;
use rand::{RngExt, SeedableRng};

const CHUNK: usize = 256;
const DECODED: usize = 48;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: decoder_rate MODEL.gguf [exact]")?;
    let arithmetic = if arguments.next().is_some() { Arithmetic::F32 } else { Arithmetic::Quantized };
    let start = Instant::now();
    let decoder = Decoder::load_gguf_with(&GgufFile::open(&path)?, arithmetic)?;
    println!(
        "{}, {} threads, loaded in {:.2} s, weights {:.1} MB, keys and values {} bytes per token",
        edgewise_kernels::instruction_set(),
        rayon::current_num_threads(),
        start.elapsed().as_secs_f64(),
        decoder.weight_bytes() as f64 / 1e6,
        decoder.config().kv_bytes_per_token(),
    );
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let vocab = decoder.config().vocab_size as u32;
    let window = decoder.config().context_window;
    for depth in [16, 512, 2048, 8192 - DECODED] {
        if depth + DECODED > window {
            break;
        }
        let tokens: Vec<u32> = (0..depth).map(|_| random.random_range(0..vocab)).collect();
        let pages = (depth + DECODED).div_ceil(decoder.page_tokens());
        let (mut kv, pages) = (decoder.allocate(pages)?, (0..pages as u32).map(PageId).collect::<Vec<_>>());
        let mut best = f64::INFINITY;
        for _ in 0..if depth > 4000 { 1 } else { 3 } {
            let start = Instant::now();
            for (i, chunk) in tokens.chunks(CHUNK).enumerate() {
                feed(&decoder, &mut kv, &pages, i * CHUNK, chunk)?;
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let mut times = Vec::with_capacity(DECODED);
        for i in 0..DECODED {
            let start = Instant::now();
            feed(&decoder, &mut kv, &pages, depth + i, &tokens[i % depth..][..1])?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!(
            "depth {depth:>5}: prefill {:>7.1} tokens/s, decode {:>6.1} tokens/s (median {:.2} ms, fastest {:.2} ms)",
            depth as f64 / best,
            DECODED as f64 / times.iter().sum::<f64>(),
            times[DECODED / 2] * 1e3,
            times[0] * 1e3,
        );
    }
    Ok(())
}

fn feed(
    decoder: &Decoder,
    kv: &mut CpuKv,
    pages: &[PageId],
    position: usize,
    tokens: &[u32],
) -> Result<(), DecoderError> {
    decoder.forward(kv, &[BatchEntry { tokens, position, pages, logits: true }]).map(|_| ())
}
