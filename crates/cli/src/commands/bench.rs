//! `edgewise bench engine`: how fast the configured generator is on this machine.
//!
//! Everything goes through the model API, as a request would: the figures include admission, scheduling and sampling.
//! Prompts are random text, new for every measurement, under tenants of their own, so that nothing is cached unless the
//! measurement is about the cache; `cached_tokens` is reported by the engine and a cold measurement that finds any is
//! refused. Times are the engine's own; figures are medians over the runs.

use std::{sync::Arc, thread, time::Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use edgewise_model_api::{
    Boundary, GenerateRequest, GenerationEvent, GenerationStream, GenerationTimings, Generator, Prompt, Retention,
    Sampling,
};
use edgewise_types::TenantId;

use crate::{
    app::App,
    args::{Bench, BenchEngine},
    error::CliError,
    output::{self, count, duration},
};

pub(crate) fn run(command: &Bench, app: &App) -> Result<(), CliError> {
    match command {
        Bench::Engine(args) => match &args.shape {
            Some(shape) => super::bench_shape::run(shape, args, app),
            None => engine(args, app),
        },
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    threads: usize,
    context_window: usize,
    depths: Vec<AtDepth>,
    batches: Vec<AtBatch>,
    prefix: Option<Prefix>,
}

/// One request alone, behind a cold prompt.
#[derive(Debug, Serialize)]
struct AtDepth {
    prompt_tokens: usize,
    cached_tokens: usize,
    prefill_tokens_per_s: f64,
    ttft_ms: f64,
    decode_tokens_per_s: f64,
    decode_tokens: usize,
}

/// Several requests at once.
#[derive(Debug, Serialize)]
struct AtBatch {
    requests: usize,
    cached_tokens: usize,
    /// Of all requests together, while all of them decode.
    decode_tokens_per_s: f64,
    /// Against the first batch size measured.
    speed_up: f64,
    /// Time between two tokens of one request.
    inter_token_ms: f64,
}

/// The same prefix twice, with different ends.
#[derive(Debug, Serialize)]
struct Prefix {
    prefix_tokens: usize,
    cold_cached_tokens: usize,
    warm_cached_tokens: usize,
    cold_ttft_ms: f64,
    warm_ttft_ms: f64,
    /// Warm over cold.
    ratio: f64,
}

fn engine(args: &BenchEngine, app: &App) -> Result<(), CliError> {
    let generator: Arc<dyn Generator> = app.local_generator()?;
    let window = generator.info().context_window;
    let (decode, runs) = (args.decode as usize, args.runs as usize);
    let mut bench = Runner { generator, random: ChaCha8Rng::seed_from_u64(args.seed), requests: 0, runs };
    let fits = |what: &str, tokens: usize| {
        let fits = tokens <= window;
        if !fits {
            output::note(&format!("left out: {what} needs {} of the window's {}", count(tokens), count(window)));
        }
        fits
    };

    let mut report = Report {
        model: bench.generator.info().model.clone(),
        threads: rayon::current_num_threads(),
        context_window: window,
        depths: Vec::new(),
        batches: Vec::new(),
        prefix: None,
    };
    for &depth in &args.depths {
        if fits(&format!("depth {depth}"), depth + decode) {
            output::note(&format!("prefill and decode at {} tokens", count(depth)));
            report.depths.push(bench.at_depth(depth, decode)?);
        }
    }
    for &requests in &args.batches {
        if fits(&format!("batch {requests}"), args.batch_prompt + decode) {
            output::note(&format!("decode of {}", output::plural(requests, "request")));
            let mut batch = bench.at_batch(requests, args.batch_prompt, decode)?;
            batch.speed_up = match report.batches.first() {
                Some(first) => batch.decode_tokens_per_s / first.decode_tokens_per_s,
                None => 1.0,
            };
            report.batches.push(batch);
        }
    }
    if args.prefix > 0 && fits("the prefix", args.prefix + 64) {
        output::note(&format!("a prefix of {} tokens, cold and warm", count(args.prefix)));
        report.prefix = Some(bench.prefix(args.prefix)?);
    }
    if args.json { output::json(&report) } else { Ok(print(&report)?) }
}

struct Runner {
    generator: Arc<dyn Generator>,
    random: ChaCha8Rng,
    requests: u64,
    runs: usize,
}

/// What one request did.
struct Outcome {
    cached_tokens: usize,
    output_tokens: usize,
    timings: GenerationTimings,
    /// When each token was seen.
    seen: Vec<Instant>,
}

impl Outcome {
    fn ttft_ms(&self) -> f64 {
        self.timings.queue_ms + self.timings.prefill_ms
    }
}

impl Runner {
    /// A tenant nobody has used.
    fn tenant(&mut self) -> TenantId {
        self.requests += 1;
        TenantId(format!("bench-{}", self.requests).into())
    }

    /// `tokens` tokens of random words.
    fn text(&mut self, tokens: usize) -> Result<Vec<u32>, CliError> {
        let mut ids = Vec::new();
        while ids.len() < tokens {
            let mut text = String::new();
            for _ in 0..256 {
                text.push(' ');
                for _ in 0..self.random.random_range(2..9) {
                    text.push(char::from(self.random.random_range(b'a'..=b'z')));
                }
            }
            ids.extend(self.generator.tokenizer().encode(&text)?);
        }
        ids.truncate(tokens);
        Ok(ids)
    }

    fn start(&self, tenant: TenantId, prompt: Prompt, max_tokens: usize) -> Result<GenerationStream, CliError> {
        let (sampling, stop) = (Sampling::default(), Vec::new());
        let request = GenerateRequest { prompt, sampling, max_tokens, stop, tenant, n: 1, constraint: None };
        Ok(self.generator.generate(request)?)
    }

    /// One request alone.
    fn alone(&mut self, tenant: TenantId, prompt: Prompt, max_tokens: usize) -> Result<Outcome, CliError> {
        read(self.start(tenant, prompt, max_tokens)?)
    }

    fn at_depth(&mut self, depth: usize, decode: usize) -> Result<AtDepth, CliError> {
        let mut outcomes = Vec::new();
        for _ in 0..self.runs {
            let (tenant, tokens) = (self.tenant(), self.text(depth)?);
            outcomes.push(self.alone(tenant, Prompt { tokens, ..Prompt::default() }, decode)?);
        }
        let cached_tokens = cold(&outcomes)?;
        let rate = |tokens: usize, ms: f64| if ms > 0.0 { tokens as f64 / ms * 1e3 } else { 0.0 };
        Ok(AtDepth {
            prompt_tokens: depth,
            cached_tokens,
            prefill_tokens_per_s: median(outcomes.iter().map(|o| rate(depth, o.timings.prefill_ms))),
            ttft_ms: median(outcomes.iter().map(Outcome::ttft_ms)),
            decode_tokens_per_s: median(
                outcomes.iter().map(|o| rate(o.output_tokens.saturating_sub(1), o.timings.decode_ms)),
            ),
            decode_tokens: outcomes.iter().map(|o| o.output_tokens).min().unwrap_or(0),
        })
    }

    fn at_batch(&mut self, requests: usize, prompt: usize, decode: usize) -> Result<AtBatch, CliError> {
        let (mut rates, mut gaps, mut cached_tokens) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.runs {
            let mut readers = Vec::new();
            for _ in 0..requests {
                let (tenant, tokens) = (self.tenant(), self.text(prompt)?);
                let stream = self.start(tenant, Prompt { tokens, ..Prompt::default() }, decode)?;
                readers.push(thread::spawn(move || read(stream)));
            }
            let mut outcomes = Vec::new();
            for reader in readers {
                let ended = reader.join().map_err(|_| CliError::Failed("a reader of the benchmark died".to_owned()))?;
                outcomes.push(ended?);
            }
            cached_tokens += cold(&outcomes)?;
            // Only while every request decodes: from the last first token to the first last token.
            let from = outcomes.iter().filter_map(|o| o.seen.first()).max();
            let to = outcomes.iter().filter_map(|o| o.seen.last()).min();
            let (Some(&from), Some(&to)) = (from, to) else { continue };
            let seconds = to.saturating_duration_since(from).as_secs_f64();
            let tokens = outcomes.iter().flat_map(|o| &o.seen).filter(|at| **at > from && **at <= to).count();
            if tokens >= requests && seconds > 0.0 {
                rates.push(tokens as f64 / seconds);
                gaps.push(seconds * 1e3 * requests as f64 / tokens as f64);
            }
        }
        if rates.is_empty() {
            return Err(CliError::Failed(format!(
                "{requests} requests were never decoding all at once: raise --decode, or lower --batch-prompt"
            )));
        }
        Ok(AtBatch {
            requests,
            cached_tokens,
            decode_tokens_per_s: median(rates.into_iter()),
            speed_up: 1.0,
            inter_token_ms: median(gaps.into_iter()),
        })
    }

    fn prefix(&mut self, length: usize) -> Result<Prefix, CliError> {
        let (mut cold_runs, mut warm_runs) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let (tenant, prefix) = (self.tenant(), self.text(length)?);
            for runs in [&mut cold_runs, &mut warm_runs] {
                let mut tokens = prefix.clone();
                tokens.extend(self.text(32)?);
                let boundaries = vec![Boundary { at: length, retention: Retention::FiveMinutes }];
                runs.push(self.alone(tenant.clone(), Prompt { tokens, boundaries, ..Prompt::default() }, 1)?);
            }
        }
        let cold_ttft_ms = median(cold_runs.iter().map(Outcome::ttft_ms));
        let warm_ttft_ms = median(warm_runs.iter().map(Outcome::ttft_ms));
        Ok(Prefix {
            prefix_tokens: length,
            cold_cached_tokens: cold(&cold_runs)?,
            warm_cached_tokens: warm_runs.iter().map(|o| o.cached_tokens).min().unwrap_or(0),
            cold_ttft_ms,
            warm_ttft_ms,
            ratio: warm_ttft_ms / cold_ttft_ms,
        })
    }
}

/// Reads a stream to its end.
fn read(mut stream: GenerationStream) -> Result<Outcome, CliError> {
    let (mut cached, mut seen) = (0, Vec::new());
    while let Some(event) = stream.next_blocking() {
        match event {
            GenerationEvent::Started { cached_tokens, .. } => cached = cached_tokens,
            GenerationEvent::Token { .. } => seen.push(Instant::now()),
            GenerationEvent::Finished { usage, timings, .. } => {
                return Ok(Outcome { cached_tokens: cached, output_tokens: usage.output_tokens, timings, seen });
            }
            GenerationEvent::Failed(error) => return Err(error.into()),
        }
    }
    Err(CliError::Failed("the engine ended a stream without saying how".to_owned()))
}

/// The cached tokens of cold runs: 0, or the measurement is worth nothing.
fn cold(outcomes: &[Outcome]) -> Result<usize, CliError> {
    match outcomes.iter().map(|o| o.cached_tokens).max().unwrap_or(0) {
        0 => Ok(0),
        n => Err(CliError::Failed(format!(
            "{n} tokens of a cold prompt came from the cache: the figures would be wrong"
        ))),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    output::line(&format!(
        "{}, {}, window {} tokens",
        output::bold(&report.model),
        output::plural(report.threads, "thread"),
        count(report.context_window)
    ))?;
    let rate = |x: f64| format!("{x:.1}");
    if !report.depths.is_empty() {
        output::line("")?;
        let rows = report.depths.iter().map(|d| {
            vec![
                count(d.prompt_tokens),
                count(d.cached_tokens),
                rate(d.prefill_tokens_per_s),
                duration(d.ttft_ms),
                rate(d.decode_tokens_per_s),
                count(d.decode_tokens),
            ]
        });
        let header = ["prompt", "cached_tokens", "prefill tokens/s", "first token", "decode tokens/s", "decoded"];
        output::line(&output::table(&header, &[0, 1, 2, 3, 4, 5], rows.collect()))?;
    }
    if !report.batches.is_empty() {
        output::line("")?;
        let rows = report.batches.iter().map(|b| {
            vec![
                count(b.requests),
                count(b.cached_tokens),
                rate(b.decode_tokens_per_s),
                format!("{:.2}×", b.speed_up),
                duration(b.inter_token_ms),
            ]
        });
        let header = ["batch", "cached_tokens", "decode tokens/s", "speed-up", "between tokens"];
        output::line(&output::table(&header, &[0, 1, 2, 3, 4], rows.collect()))?;
    }
    if let Some(p) = &report.prefix {
        output::line("")?;
        let rows = vec![
            vec!["cold".to_owned(), count(p.prefix_tokens), count(p.cold_cached_tokens), duration(p.cold_ttft_ms)],
            vec!["warm".to_owned(), count(p.prefix_tokens), count(p.warm_cached_tokens), duration(p.warm_ttft_ms)],
        ];
        output::line(&output::table(&["prefix", "tokens", "cached_tokens", "first token"], &[1, 2, 3], rows))?;
        output::line(&format!("warm takes 1/{:.0} of cold", 1.0 / p.ratio))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}
