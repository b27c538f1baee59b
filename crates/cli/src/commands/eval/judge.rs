//! `edgewise eval judge`.

use std::{fs, path::Path, sync::Arc};

use edgewise_evaluation::{CachedEmbedder, JudgeOptions, JudgeReport, JudgeSet, JudgedSigns, evaluate_judge};
use edgewise_model_api::Embedder;
use edgewise_planner::{JUDGE_FORMAT, JudgeCoefficients, JudgeFile, JudgeProvenance};

use crate::{
    app::App,
    args::EvalJudge,
    error::{CliError, io_error},
    output,
};

pub(super) fn run(args: &EvalJudge, app: &App) -> Result<(), CliError> {
    let set = JudgeSet::load(&args.data)?;
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let options = JudgeOptions {
        questions: number(args.questions),
        top_k: number(args.top_k),
        max_output_tokens: number(args.max_tokens),
        bootstrap: super::bootstrap(&args.intervals),
    };
    let stack = app.stack()?;
    let embedder: Arc<dyn Embedder> =
        Arc::new(CachedEmbedder::open(app.embedder()?, args.embeddings_cache.as_deref())?);
    let bar = super::bar(&args.intervals, "answers", app);
    let report = evaluate_judge(&set, &stack.planner, &embedder, &options, &args.rows, &bar)?;
    bar.finish();
    if let Some(path) = &args.write {
        write(path, &report, &options)?;
    }
    if args.intervals.json { output::json(&report) } else { show(&report) }
}

/// Puts the coefficients into the file at `path`, beside those of other models.
fn write(path: &Path, report: &JudgeReport, options: &JudgeOptions) -> Result<(), CliError> {
    let coefficients = |judged: &JudgedSigns| JudgeCoefficients {
        bias: judged.bias,
        weights: judged.weights.clone(),
        provenance: JudgeProvenance {
            command: format!(
                "edgewise eval judge --questions {} --top-k {} --max-tokens {}",
                options.questions, options.top_k, options.max_output_tokens
            ),
            data: report.set.clone(),
            model: report.model.clone(),
            answers: report.answers,
            auc: (judged.auc.mean * 1e3).round() / 1e3,
            brier: (judged.brier * 1e3).round() / 1e3,
            ece: (judged.calibration_error * 1e3).round() / 1e3,
        },
    };
    let mut models = match path.exists() {
        true => JudgeFile::parse(&fs::read_to_string(path).map_err(io_error("cannot read", path))?)?.models,
        false => Default::default(),
    };
    models.insert(report.digest.clone(), coefficients(&report.all));
    let file = JudgeFile { format: JUDGE_FORMAT, default: coefficients(&report.without_logprobs), models };
    let text = serde_json::to_string_pretty(&file)? + "\n";
    fs::write(path, text).map_err(io_error("cannot write", path))?;
    Ok(())
}

fn show(report: &JudgeReport) -> Result<(), CliError> {
    output::line(&format!(
        "{}: {} answers of {}; the sources of {} did not hold the answer; of the others, {:.0} % were answered correctly",
        output::bold(&report.set),
        output::count(report.answers),
        report.model,
        output::count(report.unanswerable),
        100.0 * report.correct
    ))?;
    let row = |judged: &JudgedSigns| {
        vec![
            judged.name.clone(),
            format!("{:.3} ({:.3}–{:.3})", judged.auc.mean, judged.auc.low, judged.auc.high),
            format!("{:.3}", judged.brier),
            format!("{:.3}", judged.calibration_error),
            format!("{:.2}", judged.found),
            format!("{:.2}", judged.false_alarms),
        ]
    };
    let header = ["held-out questions", "AUC", "Brier", "ECE", "found", "false alarms"];
    let rows = vec![row(&report.all), row(&report.without_logprobs)];
    output::line(&format!("\n{}", output::table(&header, &[1, 2, 3, 4, 5], rows)))?;
    let weight =
        |judged: &JudgedSigns, name: &str| judged.weights.get(name).map_or("–".to_owned(), |w| format!("{w:+.2}"));
    let rows = report
        .alone
        .iter()
        .map(|(name, auc)| {
            let weights = [&report.all, &report.without_logprobs].map(|judged| weight(judged, name));
            let [all, without] = weights;
            vec![name.clone(), format!("{auc:.3}"), all, without]
        })
        .collect();
    let header = ["sign", "AUC alone", "weight", "weight without token probabilities"];
    output::line(&format!("\n{}", output::table(&header, &[1, 2, 3], rows)))?;
    let rows = report
        .all
        .reliability
        .iter()
        .map(|bin| vec![format!("{:.2}", bin.probability), format!("{:.2}", bin.outcome), output::count(bin.answers)])
        .collect();
    let header = ["said", "came true", "answers"];
    Ok(output::line(&format!("\n{}", output::table(&header, &[0, 1, 2], rows)))?)
}
