//! How fast prompts are computed with each attention that the program was built with: its kernels alone, and whole passes of
//! some layers in the shape of Llama 3.1 8B with made-up weights.
//!
//! `cargo run -p edgewise-engine --features flash-attn --example attention_rates`, or `--features cuda` for our own alone.
#![allow(clippy::print_stdout)]
#![allow(unsafe_code, reason = "launchers' indices are vouched for here")]

use std::error::Error;

use edgewise_engine::{
    KvPrecision, Placement, Precision, PromptAttention,
    decoder::Half,
    rates::{self, Figure, Plan},
};
use edgewise_kernels::cuda::{CudaError, Device, DeviceMemory, Event, KvFormat, PagedShape, PrefillAttention};

const SHAPE: &str = include_str!("../../../config/shapes/llama-3.1-8b.json");
/// Layers of the 32, so that making up weights takes seconds.
const LAYERS: usize = 8;

/// The attentions of prompts that the program was built with, our own first.
#[cfg(feature = "flash-attn")]
const ATTENTIONS: &[PromptAttention] = &[PromptAttention::Own, PromptAttention::FlashAttn];
#[cfg(not(feature = "flash-attn"))]
const ATTENTIONS: &[PromptAttention] = &[PromptAttention::Own];

fn main() -> Result<(), Box<dyn Error>> {
    attention_alone()?;
    whole_passes()
}

fn whole_passes() -> Result<(), Box<dyn Error>> {
    let mut config: serde_json::Value = serde_json::from_str(SHAPE)?;
    config["num_hidden_layers"] = LAYERS.into();
    config["vocab_size"] = 16_384.into();
    // Of 8192 tokens, as `scripts/cuda-sweep` has it, and all at once.
    for chunk in [8192, 32_768] {
        for &attention in ATTENTIONS {
            let plan = Plan {
                device: Placement::Cuda,
                precision: Precision::Bf16,
                attention,
                kv_precision: KvPrecision::Half,
                prefill: vec![8192, 32_768],
                batches: Vec::new(),
                context: 0,
                steps: 0,
                prefix: if chunk == 8192 { 32_768 } else { 0 },
                chunk,
                device_chunk: chunk,
                max_sequences: 64,
                memory_share: 0.5,
                runs: 3,
                seed: 1,
            };
            println!("{attention:?}, {LAYERS} layers, {chunk} tokens a pass");
            rates::measure(&config.to_string(), &plan, |figure| match figure {
                Figure::Prefill(prefill) => {
                    let rate = |seconds: f64| prefill.tokens as f64 / seconds / 1e3;
                    let (seconds, limit) = (prefill.seconds, prefill.limit_s.unwrap_or(f64::NAN));
                    let share = 100.0 * limit / seconds;
                    println!(
                        "  prefill {}: {:.1} ms, {:.1}k tokens/s, {share:.0} % of the limit",
                        prefill.tokens,
                        seconds * 1e3,
                        rate(seconds)
                    );
                }
                Figure::Prefix(prefix) => {
                    let (cold, warm) = (prefix.cold_s * 1e3, prefix.warm_s * 1e3);
                    println!("  prefix {}: cold {cold:.1} ms, warm {warm:.2} ms", prefix.tokens);
                }
                _ => {}
            })?;
        }
    }
    Ok(())
}

/// Numbers that look random, all over the memory.
fn filled(device: &Device, bytes: usize, half: Half) -> Result<DeviceMemory, Box<dyn Error>> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from((state >> 16) as i16) / 16_384.0
    };
    let block: Vec<u8> = (0..1 << 20).flat_map(|_| half.to_le_bytes(next())).collect();
    let memory = DeviceMemory::new(device, bytes)?;
    let whole = block.repeat(bytes.div_ceil(block.len()));
    memory.write(0, &whole[..bytes])?;
    Ok(memory)
}

/// A kernel's name, and what issues it.
type Launch<'a> = (&'static str, Box<dyn Fn() -> Result<(), CudaError> + 'a>);

/// Milliseconds of each of some launches: the median of rounds that take them in turn, for the clock falls under load.
fn times(device: &Device, launches: &[Launch<'_>]) -> Result<Vec<f32>, Box<dyn Error>> {
    const ROUNDS: usize = 7;
    const TIMES: u8 = 3;
    let (from, to) = (Event::new(device)?, Event::new(device)?);
    let mut found = vec![Vec::new(); launches.len()];
    for _ in 0..ROUNDS {
        for ((_, launch), found) in launches.iter().zip(&mut found) {
            launch()?;
            from.record()?;
            for _ in 0..TIMES {
                launch()?;
            }
            to.record()?;
            to.wait()?;
            found.push(from.until(&to)? / f32::from(TIMES));
        }
    }
    let median = |mut times: Vec<f32>| {
        times.sort_by(f32::total_cmp);
        times[times.len() / 2]
    };
    Ok(found.into_iter().map(median).collect())
}

fn attention_alone() -> Result<(), Box<dyn Error>> {
    const PAGE: usize = 64;
    let half = Half::Bf16;
    let device = &Device::open(half)?;
    println!("attention of 32/8 heads, {half:?}, TFLOP/s");
    for head_dim in [128, 64] {
        // All rows of a prompt, and the last 4096 behind the rest of it.
        for (held, rows) in [(8192, 8192), (32_768, 32_768), (32_768, 4096)] {
            let scale = 1.0 / (head_dim as f32).sqrt();
            let pages = held / PAGE;
            let shape = PagedShape {
                heads: 32,
                kv_heads: 8,
                head_dim,
                pages,
                page_tokens: PAGE,
                scale,
                format: KvFormat::Half,
            };
            let bytes = rows * shape.heads * head_dim * 2;
            let (q, out) = (filled(device, bytes, half)?, DeviceMemory::new(device, bytes)?);
            let keys = filled(device, shape.pool_bytes(), half)?;
            let values = filled(device, shape.pool_bytes(), half)?;
            // Pages in an order that jumps.
            let table: Vec<u8> = (0..pages).flat_map(|i| ((i * 37 % pages) as i32).to_le_bytes()).collect();
            let numbers = |numbers: &[usize]| -> Result<DeviceMemory, Box<dyn Error>> {
                let bytes: Vec<u8> = numbers.iter().flat_map(|n| (*n as i32).to_le_bytes()).collect();
                let memory = DeviceMemory::new(device, bytes.len())?;
                memory.write(0, &bytes)?;
                Ok(memory)
            };
            let tables = DeviceMemory::new(device, table.len())?;
            tables.write(0, &table)?;
            let (starts, context) = (numbers(&[0, rows])?, numbers(&[held])?);
            let own = PrefillAttention {
                shape,
                q: q.all(),
                out: out.all(),
                keys: keys.all(),
                values: values.all(),
                table: tables.all(),
                starts: starts.all(),
                context: context.all(),
                batch: 1,
                rows,
                table_stride: pages,
                window: None,
            };
            #[cfg(feature = "flash-attn")]
            let (sums, ends) = (
                DeviceMemory::new(device, edgewise_kernels::cuda::FlashAttention::sum_bytes(&shape, rows))?,
                numbers(&[0, held])?,
            );
            let mut launches: Vec<Launch<'_>> = Vec::new();
            // SAFETY: one sequence of `rows` rows that holds `held` positions, on the pages of the pool.
            launches.push(("own", Box::new(|| unsafe { own.run(device) })));
            #[cfg(feature = "flash-attn")]
            {
                use edgewise_kernels::cuda::{FlashAttention, FlashKeys};
                let flash = |keys| FlashAttention {
                    shape,
                    q: q.all(),
                    out: out.all(),
                    keys,
                    starts: starts.all(),
                    sums: sums.all(),
                    batch: 1,
                    rows,
                    longest: rows,
                    deepest: held,
                    window: None,
                };
                let in_pages = flash(FlashKeys::Pages {
                    keys: keys.all(),
                    values: values.all(),
                    table: tables.all(),
                    table_stride: pages,
                    ends: ends.all(),
                });
                // SAFETY: as above.
                launches.push(("candle-flash-attn, pages", Box::new(move || unsafe { in_pages.run(device) })));
                if rows == held {
                    let in_rows = flash(FlashKeys::Rows { keys: keys.all(), values: values.all() });
                    // SAFETY: as above; the pool is as long as the rows.
                    launches.push(("candle-flash-attn, rows", Box::new(move || unsafe { in_rows.run(device) })));
                }
            }
            // Causal: half of the square, and all that is held before the rows.
            let pairs = rows as f64 * (held - rows) as f64 + rows as f64 * (rows + 1) as f64 / 2.0;
            let operations = 4.0 * (shape.heads * head_dim) as f64 * pairs;
            for ((name, _), ms) in launches.iter().zip(times(device, &launches)?) {
                let rate = operations / f64::from(ms) / 1e9;
                println!("  d {head_dim}, {rows} rows of {held}: {name} {ms:.3} ms, {rate:.0}");
            }
        }
    }
    Ok(())
}
