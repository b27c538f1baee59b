//! `edgewise bench engine --shape … --random-weights`: how fast a shape of model computes on this machine, without a
//! checkpoint. Figures are printed as they come, each beside its limit; what they mean is said in [`edgewise_engine::rates`].

use edgewise_engine::rates::{self, Decode, Figure, Machine, Plan, Prefill, Prefix};
use serde_json::{Value, json};

use crate::{
    app::App,
    args::BenchEngine,
    error::CliError,
    output::{self, count, duration},
};

/// Shapes that need no file.
const SHAPES: [(&str, &str); 2] = [
    ("llama-3.1-8b", include_str!("../../../../config/shapes/llama-3.1-8b.json")),
    ("smollm2-135m", include_str!("../../../../config/shapes/smollm2-135m.json")),
];

pub(super) fn run(shape: &str, args: &BenchEngine, app: &App) -> Result<(), CliError> {
    let config = config(shape)?;
    let engine = app.engine_options();
    let plan = Plan {
        device: engine.device,
        precision: engine.device_precision,
        attention: engine.device_attention,
        kv_precision: engine.device_kv_precision,
        prefill: args.depths.clone(),
        batches: args.batches.clone(),
        context: args.batch_prompt,
        steps: args.decode as usize,
        prefix: args.prefix,
        chunk: engine.prefill_chunk,
        device_chunk: engine.device_prefill_chunk,
        max_sequences: engine.max_sequences,
        memory_share: engine.device_memory_share,
        runs: args.runs as usize,
        seed: args.seed,
    };
    let mut printed = Ok(());
    let mut header = String::new();
    let measured = rates::measure(&config, &plan, |figure| {
        if printed.is_ok() {
            printed = if args.json {
                output::line(&as_json(shape, &figure).to_string())
            } else {
                print(shape, &figure, &mut header)
            };
        }
    });
    measured.map_err(|error| CliError::Failed(format!("the shape {shape} was not measured: {error}")))?;
    Ok(printed?)
}

/// The `config.json` of a shape: a known name, or a file.
fn config(shape: &str) -> Result<String, CliError> {
    if let Some((_, config)) = SHAPES.iter().find(|(name, _)| *name == shape) {
        return Ok((*config).to_owned());
    }
    std::fs::read_to_string(shape).map_err(|error| {
        let names = SHAPES.map(|(name, _)| name).join(", ");
        CliError::Usage(format!("--shape takes {names} or the path of a config.json; {shape} can't be read: {error}"))
    })
}

/// `value` at four digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn share(limit_s: Option<f64>, seconds: f64) -> Option<f64> {
    limit_s.map(|limit| rounded(limit / seconds))
}

fn as_json(shape: &str, figure: &Figure) -> Value {
    match figure {
        Figure::Machine(Machine {
            device,
            load_s,
            weight_bytes,
            activation_bytes,
            page_bytes,
            positions,
            matmul_rate,
            copy_rate,
        }) => json!({
            "shape": shape, "device": device, "load_s": rounded(*load_s), "weight_bytes": weight_bytes,
            "activation_bytes": activation_bytes, "page_bytes": page_bytes, "positions": positions,
            "matmul_tflops": matmul_rate.map(|rate| rounded(rate / 1e12)), "copy_gb_per_s": rounded(copy_rate / 1e9),
        }),
        Figure::Prefill(Prefill { tokens, cached_tokens, seconds, limit_s }) => json!({
            "prefill": tokens, "cached_tokens": cached_tokens, "seconds": rounded(*seconds),
            "tokens_per_s": rounded(*tokens as f64 / seconds),
            "limit_tokens_per_s": limit_s.map(|limit| rounded(*tokens as f64 / limit)),
            "of_limit": share(*limit_s, *seconds),
        }),
        Figure::Decode(Decode { batch, context, cached_tokens, seconds, whole_s, limit_s, issue_s, device_s }) => {
            json!({
                "decode": batch, "context": context, "cached_tokens": cached_tokens, "step_ms": rounded(seconds * 1e3),
                "tokens_per_s": rounded(*batch as f64 / seconds), "limit_tokens_per_s": rounded(*batch as f64 / limit_s),
                "of_limit": share(Some(*limit_s), *seconds),
                "step_with_all_logits_ms": whole_s.map(|s| rounded(s * 1e3)), "issue_ms": issue_s.map(|s| rounded(s * 1e3)),
                "device_ms": device_s.map(|s| rounded(s * 1e3)),
            })
        }
        Figure::Prefix(Prefix { tokens, cached_tokens, cold_s, warm_s, restored_s }) => json!({
            "prefix": tokens, "cold_cached_tokens": cached_tokens[0], "warm_cached_tokens": cached_tokens[1],
            "restored_cached_tokens": cached_tokens[2], "cold_ttft_s": rounded(*cold_s),
            "warm_ttft_s": rounded(*warm_s), "restored_ttft_s": rounded(*restored_s),
            "warm_over_cold": rounded(warm_s / cold_s), "restored_over_cold": rounded(restored_s / cold_s),
        }),
        Figure::LeftOut(what) => json!({ "left_out": what }),
    }
}

/// A line of figures; `last` is the heading of the one before.
fn print(shape: &str, figure: &Figure, last: &mut String) -> std::io::Result<()> {
    let gib = |bytes: usize| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
    let percent = |limit: f64, seconds: f64| format!("{:.0} %", 100.0 * limit / seconds);
    let rate = |tokens: usize, seconds: f64| count((tokens as f64 / seconds).round() as usize);
    let mut row = |heading: &str, row: String| {
        if *last != heading {
            output::line("")?;
            output::line(heading)?;
            heading.clone_into(last);
        }
        output::line(&row)
    };
    match figure {
        Figure::Machine(machine) => {
            output::line(&format!("{} with made-up weights, on {}", output::bold(shape), machine.device))?;
            let activations = machine.activation_bytes.map(|bytes| format!(", activations {}", gib(bytes)));
            output::line(&format!(
                "memory: weights {}{}, keys and values {} for {} tokens",
                gib(machine.weight_bytes),
                activations.unwrap_or_default(),
                gib(machine.page_bytes),
                count(machine.positions)
            ))?;
            let product = machine.matmul_rate.map(|rate| format!("matrix product {:.0} TFLOP/s, ", rate / 1e12));
            output::line(&format!("limits: {}copy {:.0} GB/s", product.unwrap_or_default(), machine.copy_rate / 1e9))
        }
        Figure::Prefill(Prefill { tokens, cached_tokens, seconds, limit_s }) => row(
            "    prompt  cached_tokens  prefill tokens/s     limit  of limit",
            format!(
                "{:>10}  {:>13}  {:>16}  {:>8}  {:>8}",
                count(*tokens),
                cached_tokens,
                rate(*tokens, *seconds),
                limit_s.map_or_else(|| "-".to_owned(), |limit| rate(*tokens, limit)),
                limit_s.map_or_else(|| "-".to_owned(), |limit| percent(limit, *seconds)),
            ),
        ),
        Figure::Decode(Decode { batch, context, cached_tokens, seconds, whole_s, limit_s, issue_s, device_s }) => {
            let milliseconds = |s: &Option<f64>| s.map_or_else(|| "-".to_owned(), |s| format!("{:.2}", s * 1e3));
            row(
                " sequences   context  cached_tokens   decode tokens/s     limit  of limit  step ms  all logits  issue ms  on the device",
                format!(
                    "{:>10}  {:>8}  {:>13}  {:>16}  {:>8}  {:>8}  {:>7.2}  {:>10}  {:>8}  {:>13}",
                    count(*batch),
                    count(*context),
                    cached_tokens,
                    rate(*batch, *seconds),
                    rate(*batch, *limit_s),
                    percent(*limit_s, *seconds),
                    seconds * 1e3,
                    milliseconds(whole_s),
                    milliseconds(issue_s),
                    milliseconds(device_s),
                ),
            )
        }
        Figure::Prefix(Prefix { tokens, cached_tokens, cold_s, warm_s, restored_s }) => {
            for (what, cached, seconds) in [
                ("cold", cached_tokens[0], *cold_s),
                ("warm", cached_tokens[1], *warm_s),
                ("restored", cached_tokens[2], *restored_s),
            ] {
                row(
                    "    prefix    tokens  cached_tokens       first token  of cold",
                    format!(
                        "{what:>10}  {:>8}  {:>13}  {:>16}  {:>6.1}%",
                        count(*tokens),
                        count(cached),
                        duration(seconds * 1e3),
                        100.0 * seconds / cold_s
                    ),
                )?;
            }
            Ok(())
        }
        Figure::LeftOut(what) => row("left out:", format!("  {what}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn every_figure_is_a_line_of_json_with_its_limit() {
        let prefill = Prefill { tokens: 8192, cached_tokens: 0, seconds: 0.2, limit_s: Some(0.17) };
        let line = as_json("llama-3.1-8b", &Figure::Prefill(prefill));
        assert_eq!((&line["tokens_per_s"], &line["cached_tokens"]), (&json!(40960.0), &json!(0)));
        assert_eq!((&line["of_limit"], &line["limit_tokens_per_s"]), (&json!(0.85), &json!(48190.0)));
        let decode = Decode {
            batch: 8,
            context: 4096,
            cached_tokens: 0,
            seconds: 0.01,
            whole_s: Some(0.012),
            limit_s: 0.008,
            issue_s: None,
            device_s: Some(0.0095),
        };
        let line = as_json("llama-3.1-8b", &Figure::Decode(decode));
        assert_eq!(
            (&line["tokens_per_s"], &line["device_ms"], &line["issue_ms"]),
            (&json!(800.0), &json!(9.5), &Value::Null)
        );
    }

    #[test]
    fn a_shape_is_a_name_or_a_file() {
        for (name, _) in SHAPES {
            assert!(config(name).unwrap().contains("hidden_size"));
        }
        let error = config("llama-4").unwrap_err().to_string();
        assert!(error.contains("llama-3.1-8b") && error.contains("config.json"), "{error}");
    }
}
