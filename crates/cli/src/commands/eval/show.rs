//! Tables of measurements.

use edgewise_documents::IndexProfile;
use edgewise_evaluation::{
    Bootstrap, Choice, ChunkingReport, CollectionReport, Estimate, Family, Metric, RetrievalReport, System,
    SystemReport,
};
use edgewise_retrieval::profile_fusion;

use crate::{
    error::CliError,
    output::{self, count, plural},
};

/// A row a system, a column a metric.
pub(super) fn retrieval(report: &RetrievalReport, profile: &IndexProfile, intervals: bool) -> Result<(), CliError> {
    output::line(&format!(
        "{}  {}, {}, {} labelled queries, embedder {}",
        output::bold(&report.dataset),
        plural(report.documents, "document"),
        plural(report.chunks, "chunk"),
        count(report.queries),
        report.embedder
    ))?;
    if report.unlabelled > 0 {
        let without = count(report.unlabelled);
        output::line(&output::dim(&format!("{without} queries without a relevant document are left out")))?;
    }
    if report.without_text > 0 {
        let without = plural(report.without_text, "document");
        output::line(&output::dim(&format!("{without} without any text left out: nothing can find them")))?;
    }
    let in_force = System::Fused(profile_fusion(profile)).name();
    systems(&report.systems, &in_force, intervals)?;
    output::line(&footer(&report.bootstrap, "queries", Some("* the profile's fusion")))?;
    Ok(output::line("")?)
}

fn systems(systems: &[SystemReport], in_force: &str, intervals: bool) -> Result<(), CliError> {
    let Some(first) = systems.first() else { return Ok(()) };
    let columns: Vec<Metric> = first.metrics.iter().map(|(metric, _)| *metric).collect();
    let names: Vec<String> = columns.iter().map(Metric::to_string).collect();
    let fused = systems.iter().any(|system| system.over_better_arm.is_some());
    let mut header = vec!["system"];
    header.extend(names.iter().map(String::as_str));
    if fused {
        header.push("ndcg@10 over the better arm");
    }
    let row = |system: &SystemReport| {
        let mark = if system.name == in_force { " *" } else { "" };
        let mut row = vec![format!("{}{mark}", system.name)];
        row.extend(system.metrics.iter().enumerate().map(|(at, (_, estimate))| {
            // The first column always has its interval; all of them side by side are hard to read.
            if at == 0 || intervals { with_interval(estimate) } else { format!("{:.3}", estimate.mean) }
        }));
        if fused {
            row.push(system.over_better_arm.as_ref().map_or_else(String::new, difference));
        }
        row
    };
    let right: Vec<usize> = (1..header.len()).collect();
    Ok(output::line(&output::table(&header, &right, systems.iter().map(row).collect()))?)
}

/// What the sets choose together, and what each gets from the choice of the others.
pub(super) fn choices(choices: &[Choice]) -> Result<(), CliError> {
    for choice in choices {
        let (what, rule) = match choice.family {
            Family::Bm25 => ("BM25 parameters", "largest mean of the sets' ndcg@10"),
            Family::Fusion => ("fusion", "largest smallest gain over the better arm of a set"),
        };
        output::line(&format!(
            "{} of {} tried, by the {rule}: {} ({:.3}). For each set, what the others choose:",
            output::bold(what),
            choice.settings,
            output::bold(&choice.chosen),
            choice.worth
        ))?;
        let rows = choice.held_out.iter().map(|held| {
            vec![
                held.dataset.clone(),
                held.chosen.clone(),
                with_interval(&held.value),
                format!("{:.3}", held.best),
                held.over_better_arm.as_ref().map_or_else(String::new, difference),
            ]
        });
        let header = ["set", "the others choose", "ndcg@10", "best tried", "over the better arm"];
        output::line(&output::table(&header, &[2, 3, 4], rows.collect()))?;
        output::line("")?;
    }
    Ok(())
}

pub(super) fn collection(report: &CollectionReport, intervals: bool) -> Result<(), CliError> {
    output::line(&format!("{}  {} queries", output::bold(&report.collection), count(report.queries)))?;
    output::line(&output::dim(&report.trust))?;
    systems(&report.systems, &report.in_force, intervals)?;
    output::line(&footer(&report.bootstrap, "queries", Some("* in force")))?;
    Ok(output::line(&output::bold(&report.recommendation.reason))?)
}

pub(super) fn chunking(report: &ChunkingReport, intervals: bool) -> Result<(), CliError> {
    output::line(&format!(
        "{}  {}, {}, the first {} chunks of each, embedder {}",
        output::bold(&report.dataset),
        plural(report.documents, "document"),
        plural(report.questions, "question"),
        report.k,
        report.embedder
    ))?;
    let budget = format!("recall in {} tokens", count(report.budget));
    let header = [
        "target",
        "overlap",
        "chunks",
        "characters",
        "system",
        "recall",
        "precision",
        "IoU",
        "precision Ω",
        &budget,
        "over the first",
    ];
    let shown = |estimate: &Estimate| {
        if intervals { with_interval(estimate) } else { format!("{:.3}", estimate.mean) }
    };
    let mut rows = Vec::new();
    for chunking in &report.chunkings {
        for (at, system) in chunking.systems.iter().enumerate() {
            let once = |text: String| if at == 0 { text } else { String::new() };
            rows.push(vec![
                once(count(chunking.options.target_tokens)),
                once(count(chunking.options.overlap_tokens)),
                once(count(chunking.chunks)),
                once(format!("{:.0}", chunking.mean_characters)),
                system.name.clone(),
                with_interval(&system.recall),
                shown(&system.precision),
                shown(&system.iou),
                once(shown(&chunking.precision_omega)),
                shown(&system.budget_recall),
                difference(&system.budget_recall_over_first),
            ]);
        }
    }
    output::line(&output::table(&header, &[0, 1, 2, 3, 5, 6, 7, 8, 9, 10], rows))?;
    Ok(output::line(&footer(&report.bootstrap, "questions", None))?)
}

fn footer(bootstrap: &Bootstrap, over: &str, more: Option<&str>) -> String {
    let percent = bootstrap.confidence * 100.0;
    let (resamples, seed) = (count(bootstrap.resamples), bootstrap.seed);
    let how = format!("[…]: {percent:.0} % interval, bootstrap over {over}, {resamples} resamples, seed {seed}");
    output::dim(&more.map_or(how.clone(), |more| format!("{more}   {how}")))
}

fn with_interval(estimate: &Estimate) -> String {
    format!("{:.3} [{:.3}, {:.3}]", estimate.mean, estimate.low, estimate.high)
}

fn difference(estimate: &Estimate) -> String {
    format!("{:+.3} [{:+.3}, {:+.3}]", estimate.mean, estimate.low, estimate.high)
}
