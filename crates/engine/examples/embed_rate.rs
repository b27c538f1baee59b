//! How fast texts are embedded, and how far that is from what the machine's matrix products allow.
//!
//! `cargo run --release -p edgewise-engine --example embed_rate -- MODEL_FOLDER [--texts FILE] [--arithmetic integer8|exact]
//! [--vectors FILE]`
//!
//! The texts are a JSON array of strings; without a file, made-up ones. Vectors go to a file as a JSON array of arrays.

#![allow(clippy::print_stdout)]

use std::{error::Error, path::Path, time::Instant};

use edgewise_engine::{EncoderArithmetic, load_embedder_with};
use edgewise_kernels::{PackedMatrix, Product, WeightFormat, Workspace, matmul};
use edgewise_model_api::Embedder;
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("give the folder of a BERT embedder")?;
    let option = |name: &str| arguments.iter().skip_while(|a| *a != name).nth(1).map(String::as_str);
    let arithmetic = match option("--arithmetic") {
        Some("exact") => EncoderArithmetic::Exact,
        _ => EncoderArithmetic::Integer8,
    };
    let begun = Instant::now();
    let embedder = load_embedder_with("embedder", Path::new(folder), arithmetic)?;
    println!("loaded in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    let texts: Vec<String> = match option("--texts") {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => made_up(400, 200),
    };
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();

    // Other texts than those measured, which must not be in the cache.
    let warm: Vec<String> =
        texts.iter().take(16).map(|text| format!("x {}", &text[..text.floor_char_boundary(300)])).collect();
    embedder.embed(&warm.iter().map(String::as_str).collect::<Vec<_>>())?;
    let (begun, cpu) = (Instant::now(), processor_seconds());
    let vectors = embedder.embed(&texts)?;
    let (wall, cpu) = (begun.elapsed().as_secs_f64(), processor_seconds() - cpu);
    if let Some(file) = option("--vectors") {
        std::fs::write(file, serde_json::to_vec(&vectors)?)?;
    }

    // all-MiniLM-L6-v2: six layers of 4·384² + 2·384·1536 weights, and two products of n² · 384 each in attention.
    let lengths = texts.iter().map(|t| embedder.tokenizer().count(t)).collect::<Result<Vec<_>, _>>()?;
    let total: usize = lengths.iter().map(|n| n + 2).sum();
    let linear = 6.0 * (4.0 * 384.0 * 384.0 + 2.0 * 384.0 * 1536.0) * total as f64;
    let attention: f64 = lengths.iter().map(|&n| 6.0 * 2.0 * 384.0 * ((n + 2) as f64).powi(2)).sum();
    println!("{} texts, {total} tokens: wall {wall:.3} s, processor {cpu:.3} s", texts.len());
    println!(
        "per processor second {:.1} texts, {:.0} tokens, {:.1} GMAC in linear layers, {:.1} in attention",
        texts.len() as f64 / cpu,
        total as f64 / cpu,
        linear / cpu / 1e9,
        attention / cpu / 1e9
    );
    if option("--texts").is_none() {
        let (begun, rounds) = (Instant::now(), 20);
        for i in 0..rounds {
            embedder.embed(&[&format!("What happens to value {i} when its owner goes out of scope?")])?;
        }
        println!("one question: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3 / f64::from(rounds));
        let rate = machine_rate(arithmetic)?;
        println!("products of this shape alone: {rate:.1} GMAC per processor second");
    }
    Ok(())
}

/// English words of one or two word pieces, in varied order and length.
fn made_up(texts: usize, tokens: usize) -> Vec<String> {
    let words = ["memory", "is", "owned", "by", "the", "variable", "scope", "and", "dropped", "when", "it", "ends"];
    let text = |i: usize| {
        let length = tokens * (75 + (i * 37) % 51) / 100;
        let words = (0..length.saturating_sub(2)).map(|j| words[(i * 7 + j * 5 + j / 3) % words.len()]);
        words.collect::<Vec<_>>().join(" ")
    };
    (0..texts).map(text).collect()
}

/// Processor time of this process so far, in hundredths of a second: user and system, from `/proc/self/stat`.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The rate of `[512, 384] · [384, 1536]` products, one on each core at a time.
fn machine_rate(arithmetic: EncoderArithmetic) -> Result<f64, Box<dyn Error>> {
    let (m, k, n) = (512, 384, 1536);
    let rounds = 40;
    let threads = rayon::current_num_threads();
    let weights = match arithmetic {
        EncoderArithmetic::Exact => PackedMatrix::from_f32(n, k, &vec![0.5; n * k])?,
        EncoderArithmetic::Integer8 => PackedMatrix::from_rows(WeightFormat::Q8_0, n, k, &vec![0x11; n * k / 32 * 34])?,
    };
    let cpu = processor_seconds();
    (0..threads).into_par_iter().with_max_len(1).try_for_each(|_| {
        let (x, mut out, mut workspace) = (vec![1.0; m * k], vec![0.0; m * n], Workspace::default());
        (0..rounds).try_for_each(|_| matmul(&x, &mut [Product { weights: &weights, out: &mut out }], &mut workspace))
    })?;
    Ok((m * k * n * rounds * threads) as f64 / (processor_seconds() - cpu) / 1e9)
}
