//! Times steps of a GGUF model behind prefixes of several lengths: what the latency curve is a model of.
//!
//! `cargo run -p edgewise-engine --example step_times -- model.gguf`, with `RAYON_NUM_THREADS` for the threads.
//!
//! Each cell is the quickest of several steps, by the clock and by the processor time of all threads. The latter hardly
//! depends on what else the machine does: with one thread it is what the clock would say on an idle machine.
#![allow(clippy::print_stdout)]

use std::{error::Error, time::Instant};

use edgewise_engine::decoder::{BatchEntry, Decoder, GgufFile};
use edgewise_kv_cache::PageId;

/// Positions held before the steps.
const PREFIXES: [usize; 5] = [0, 512, 2048, 4096, 6144];
/// Tokens of a step.
const STEPS: [usize; 10] = [1, 2, 4, 8, 11, 16, 32, 64, 128, 256];
/// Steps of each kind.
const RUNS: usize = 5;
/// Tokens of a forward pass.
const CHUNK: usize = 256;

/// Processor time of all threads so far, in milliseconds.
fn processor_ms() -> std::io::Result<f64> {
    let mut ns = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        ns += stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(ns / 1e6)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: step_times MODEL.gguf")?;
    let decoder = Decoder::load_gguf(&GgufFile::open(&path)?)?;
    println!("{}, {} threads", edgewise_kernels::instruction_set(), rayon::current_num_threads());
    let most = PREFIXES[PREFIXES.len() - 1] + STEPS[STEPS.len() - 1];
    let pages = most.div_ceil(decoder.page_tokens());
    let (mut kv, pages) = (decoder.allocate(pages)?, (0..pages as u32).map(PageId).collect::<Vec<_>>());
    let ids: Vec<u32> = (0..most as u32).map(|i| i * 7919 % 49_000).collect();
    let mut step = |position: usize, count: usize| -> Result<(f64, f64), Box<dyn Error>> {
        let tokens = &ids[position..position + count];
        let generated_from = if count == 1 { position } else { usize::MAX };
        let (begun, before) = (Instant::now(), processor_ms()?);
        decoder.forward(&mut kv, &[BatchEntry { tokens, position, pages: &pages, logits: true, generated_from }])?;
        Ok((begun.elapsed().as_secs_f64() * 1e3, processor_ms()? - before))
    };
    let mut held = 0;
    println!("held tokens clock_ms processor_ms");
    for prefix in PREFIXES {
        while held < prefix {
            let (clock, processor) = step(held, CHUNK)?;
            println!("{held} {CHUNK} {clock:.2} {processor:.2} once");
            held += CHUNK;
        }
        for count in STEPS {
            let mut least = (f64::INFINITY, f64::INFINITY);
            for _ in 0..RUNS {
                let (clock, processor) = step(held, count)?;
                least = (least.0.min(clock), least.1.min(processor));
            }
            println!("{held} {count} {:.2} {:.2}", least.0, least.1);
        }
    }
    Ok(())
}
