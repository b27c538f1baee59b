//! How fast texts are embedded, and how far that is from what the machine's matrix products allow.
//!
//! `cargo run --release -p edgewise-engine --example embed_rate -- MODEL_FOLDER [TEXTS] [TOKENS] [exact]`

#![allow(clippy::print_stdout)]

use std::{error::Error, path::Path, time::Instant};

use edgewise_engine::{EncoderArithmetic, load_embedder_with};
use edgewise_kernels::{PackedMatrix, Product, Workspace, matmul};
use edgewise_model_api::Embedder;
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("give the folder of a BERT embedder")?;
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |n| n.parse());
    let (texts, tokens) = (number(1, 1000)?, number(2, 200)?);

    let begun = Instant::now();
    let arithmetic = match arguments.get(3).map(String::as_str) {
        Some("exact") => EncoderArithmetic::Exact,
        _ => EncoderArithmetic::Integer8,
    };
    let embedder = load_embedder_with("embedder", Path::new(folder), arithmetic)?;
    println!("loaded in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);

    // English words of one or two word pieces, in varied order and length.
    let words = ["memory", "is", "owned", "by", "the", "variable", "scope", "and", "dropped", "when", "it", "ends"];
    let text = |i: usize| -> String {
        let length = tokens * (75 + (i * 37) % 51) / 100;
        (0..length.saturating_sub(2))
            .map(|j| words[(i * 7 + j * 5 + j / 3) % words.len()])
            .collect::<Vec<_>>()
            .join(" ")
    };
    let corpus: Vec<String> = (0..texts).map(text).collect();
    let corpus: Vec<&str> = corpus.iter().map(String::as_str).collect();
    let lengths = corpus.iter().map(|t| embedder.tokenizer().count(t)).collect::<Result<Vec<_>, _>>()?;
    let total: usize = lengths.iter().map(|n| n + 2).sum();

    // Other texts than those measured, which must not be in the cache.
    let warm: Vec<String> = corpus.iter().take(16).map(|text| format!("{text} x")).collect();
    embedder.embed(&warm.iter().map(String::as_str).collect::<Vec<_>>())?;
    let begun = Instant::now();
    let vectors = embedder.embed(&corpus)?;
    let seconds = begun.elapsed().as_secs_f64();

    // all-MiniLM-L6-v2: six layers of 4·384² + 2·384·1536 weights, and two products of n² · 384 each in attention.
    let per_token = 6.0 * 2.0 * (4.0 * 384.0 * 384.0 + 2.0 * 384.0 * 1536.0);
    let attention: f64 = lengths.iter().map(|&n| 6.0 * 4.0 * 384.0 * ((n + 2) as f64).powi(2)).sum();
    let flops = per_token * total as f64 + attention;
    println!(
        "{} texts, {total} tokens in {seconds:.2} s: {:.1} texts/s, {:.0} tokens/s, {:.1} GFLOP/s",
        vectors.len(),
        texts as f64 / seconds,
        total as f64 / seconds,
        flops / seconds / 1e9
    );
    let begun = Instant::now();
    let rounds = 20;
    for i in 0..rounds {
        embedder.embed(&[&format!("What happens to value {i} when its owner goes out of scope?")])?;
    }
    println!("one question: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3 / f64::from(rounds));
    println!("machine, products of this shape, one per core: {:.1} GFLOP/s", machine_rate()?);
    Ok(())
}

/// The rate of `[512, 384] · [384, 1536]` products, one on each core at a time.
fn machine_rate() -> Result<f64, Box<dyn Error>> {
    let (m, k, n) = (512, 384, 1536);
    let rounds = 40;
    let threads = rayon::current_num_threads();
    let weights = PackedMatrix::from_f32(n, k, &vec![0.5; n * k])?;
    let begun = Instant::now();
    (0..threads).into_par_iter().with_max_len(1).try_for_each(|_| {
        let (x, mut out, mut workspace) = (vec![1.0; m * k], vec![0.0; m * n], Workspace::default());
        (0..rounds).try_for_each(|_| matmul(&x, &mut [Product { weights: &weights, out: &mut out }], &mut workspace))
    })?;
    Ok((2 * m * k * n * rounds * threads) as f64 / begun.elapsed().as_secs_f64() / 1e9)
}
