//! `edgewise eval tree`: what a summary tree is worth, and what keeping it up costs.

use std::path::{Path, PathBuf};

use serde_json::json;

use edgewise_documents::IndexProfile;
use edgewise_evaluation::{
    About, Compared, Dataset, Edited, Estimate, HopsReport, Stories, Story, Text, TreeEvaluation, TreeOptions,
    TreeSystem, UpkeepOptions, UpkeepReport, evaluate_hops, evaluate_tree, evaluate_upkeep,
};
use edgewise_retrieval::{SummariserKind, TreeBuildOptions, TreeGenerator, TreeMode};

use super::{bar, bootstrap, embedder};
use crate::{
    app::App,
    args::{EvalTree, Half},
    error::CliError,
    output::{self, count, duration, plural},
};

/// Recalls that are shown; JSON has all.
const SHOWN: [(&str, &str); 6] = [
    ("rouge_1", "ROUGE-1"),
    ("rouge_2", "ROUGE-2"),
    ("rouge_l", "ROUGE-L"),
    ("best_rouge_1", "best answer -1"),
    ("best_rouge_2", "-2"),
    ("similarity", "similarity"),
];

pub(super) fn run(args: &EvalTree, app: &App) -> Result<(), CliError> {
    let options = options(args, app)?;
    let stories = args.data.as_deref().map(|path| stories(path, args)).transpose()?;
    let hops = args.hops.as_deref().map(Dataset::load).transpose()?;
    let documents: Option<Vec<(String, String)>> = match &args.documents {
        Some(folder) => Some(Text::read_folder(folder)?.into_iter().map(|text| (text.name, text.text)).collect()),
        None => None,
    };
    let (embedder, tokenizer) = (embedder(args.embeddings_cache.as_deref(), app)?, app.tokenizer()?);
    if args.upkeep {
        let edited = match (&documents, &stories) {
            (Some(documents), _) => Edited::Documents(documents),
            (None, Some(stories)) => Edited::Stories(stories),
            (None, None) => return Err(CliError::Usage("--upkeep needs --data or --documents".to_owned())),
        };
        let upkeep = UpkeepOptions {
            edits: args.edits as usize,
            documents: args.collection_size as usize,
            seed: args.intervals.seed,
        };
        let bar = bar(&args.intervals, "documents", app);
        let report = evaluate_upkeep(&edited, &embedder, &tokenizer, &options, &upkeep, &bar)?;
        bar.finish();
        return if args.intervals.json { output::json(&report) } else { show_upkeep(&report) };
    }
    let bar = bar(&args.intervals, "documents", app);
    let tree = match &stories {
        Some(stories) => Some(evaluate_tree(stories, &embedder, &tokenizer, &options, &bar)?),
        None => None,
    };
    let hops = match &hops {
        Some(set) => Some(evaluate_hops(set, &embedder, &tokenizer, &options, &bar)?),
        None => None,
    };
    bar.finish();
    if args.intervals.json {
        return output::json(&json!({ "stories": tree, "hops": hops }));
    }
    if let Some(tree) = &tree {
        show(tree, args.intervals.intervals)?;
    }
    hops.as_ref().map_or(Ok(()), show_hops)
}

fn stories(path: &Path, args: &EvalTree) -> Result<Vec<Story>, CliError> {
    let file: PathBuf = if path.is_dir() { path.join("squality.jsonl") } else { path.to_owned() };
    let which = match args.half {
        Half::All => Stories::All,
        Half::Tuning => Stories::Tuning,
        Half::HeldOut => Stories::HeldOut,
    };
    Ok(Story::read(&file, which, args.stories)?)
}

fn options(args: &EvalTree, app: &App) -> Result<TreeOptions, CliError> {
    if args.budgets.contains(&0) {
        return Err(CliError::Usage("--budgets: a context needs at least one token".to_owned()));
    }
    if let Some(wrong) = args.breadth.iter().find(|breadth| !(0.0..=1.0).contains(*breadth)) {
        return Err(CliError::Usage(format!("--breadth {wrong}: expected 0 to 1")));
    }
    let kind: SummariserKind = args.summariser.into();
    let generator = match kind {
        SummariserKind::Extractive => None,
        SummariserKind::Abstractive => Some(TreeGenerator { generator: app.generator()?, prompts: app.prompts()? }),
    };
    let summary_tokens = args.summary_tokens.unwrap_or(app.settings().tree.summary_tokens);
    let tree = |search, breadth| TreeSystem::Tree { search, breadth };
    let mut systems = vec![tree(TreeMode::Collapsed, None)];
    if args.beam > 0 {
        systems.push(tree(TreeMode::Traversal { beam: usize::from(args.beam) }, None));
    }
    systems.extend(args.breadth.iter().map(|breadth| tree(TreeMode::Collapsed, Some(*breadth))));
    Ok(TreeOptions {
        profile: IndexProfile::default(),
        build: TreeBuildOptions { summariser: kind, generator, ..TreeBuildOptions::extractive(summary_tokens) },
        budgets: args.budgets.clone(),
        systems,
        folder: args.keep.clone(),
        twice: args.twice,
        bootstrap: bootstrap(&args.intervals),
    })
}

fn about(about: About) -> &'static str {
    match about {
        About::Plot => "plot",
        About::Specific => "specific",
    }
}

fn interval(Estimate { mean, low, high }: &Estimate) -> String {
    format!("{mean:.3} [{low:.3}, {high:.3}]")
}

fn gain(Estimate { mean, low, high }: &Estimate) -> String {
    let text = format!("{mean:+.3} [{low:+.3}, {high:+.3}]");
    if *low > 0.0 { output::good(&text) } else { text }
}

fn shown(compared: &Compared, flat: bool, intervals: bool) -> String {
    match (flat, intervals) {
        (true, true) => interval(&compared.value),
        (true, false) => format!("{:.3}", compared.value.mean),
        (false, _) => format!("{:.3} {}", compared.value.mean, gain(&compared.difference)),
    }
}

fn show(report: &TreeEvaluation, intervals: bool) -> Result<(), CliError> {
    let build = &report.build;
    output::line(&format!(
        "{}: {} in {} above the passages of {} stories, by {} ({} made, {} kept, {} fallbacks, {})",
        output::bold("summary tree"),
        plural(build.nodes, "node"),
        plural(build.levels as usize, "level"),
        count(report.stories),
        build.summariser,
        count(build.work.summaries_made),
        count(build.work.summaries_kept),
        count(build.work.fallbacks),
        duration(1000.0 * build.seconds)
    ))?;
    for of in [About::Plot, About::Specific] {
        let asked = report.questions.get(&of).copied().unwrap_or(0);
        let breadth = report.breadth.get(&of).copied().unwrap_or(0.0);
        output::line("")?;
        output::line(&format!(
            "{}: {}, taken to be about the whole by {breadth:.2}",
            output::bold(about(of)),
            plural(asked, "question")
        ))?;
        let rows = report.figures.iter().filter(|figures| figures.about == of).map(|figures| {
            let flat = figures.system == TreeSystem::Flat;
            let mut row = vec![
                count(figures.budget),
                figures.system.to_string(),
                format!("{:.0}", figures.tokens),
                format!("{:.0} %", 100.0 * figures.summaries),
            ];
            let recall = |name: &str| figures.recall.get(name).map(|compared| shown(compared, flat, intervals));
            row.extend(SHOWN.iter().map(|(name, _)| recall(name).unwrap_or_default()));
            row
        });
        let mut header = vec!["budget", "context", "tokens", "summaries"];
        header.extend(SHOWN.iter().map(|(_, title)| *title));
        output::line(&output::table(&header, &[0, 2, 3], rows.collect()))?;
    }
    if let Some(twice) = &report.twice {
        let [first, second] = twice.nodes;
        let same = if twice.equal { "equal in every node" } else { "NOT equal" };
        output::line(&format!("built twice: {} and {} nodes, {same}", count(first), count(second)))?;
    }
    let note = "recall of people's answers in contexts of as many tokens, mean over the answers, or of the best one; \
                similarity: of each sentence of an answer, the cosine of the nearest of the context; in brackets: \
                differences to passages alone, 95 % intervals over the stories";
    Ok(output::line(&output::dim(note))?)
}

fn show_hops(report: &HopsReport) -> Result<(), CliError> {
    output::line("")?;
    output::line(&format!(
        "{}: {}, {}, taken to be about the whole by {:.2}",
        output::bold(&report.dataset),
        plural(report.documents, "document"),
        plural(report.questions, "question"),
        report.breadth
    ))?;
    let rows = report.systems.iter().map(|system| {
        let flat = system.system == TreeSystem::Flat;
        vec![
            count(system.budget),
            system.system.to_string(),
            format!("{:.0} %", 100.0 * system.summaries),
            shown(&system.all_gold, flat, true),
        ]
    });
    let table = output::table(&["budget", "context", "summaries", "all labelled documents"], &[0, 2], rows.collect());
    Ok(output::line(&table)?)
}

fn show_upkeep(report: &UpkeepReport) -> Result<(), CliError> {
    output::line(&format!(
        "{}: {} of {}; a tree built anew takes {} summaries",
        output::bold("upkeep"),
        plural(report.documents, "document"),
        plural(report.chunks, "passage"),
        count(report.rebuilt)
    ))?;
    let all = std::iter::once(("all".to_owned(), &report.all));
    let kinds = report.kinds.iter().map(|(kind, cost)| (kind.to_string(), cost));
    let percent = |Estimate { mean, low, high }: &Estimate| {
        format!("{:.2} % [{:.2}, {:.2}]", 100.0 * mean, 100.0 * low, 100.0 * high)
    };
    let rows = all.chain(kinds).map(|(name, cost)| {
        vec![name, count(cost.edits), interval(&cost.made), percent(&cost.share), count(cost.most)]
    });
    let header = ["edit", "edits", "summaries made", "of those of a new tree", "most"];
    output::line(&output::table(&header, &[1, 4], rows.collect()))?;
    let ([kept, anew], [kept_levels, anew_levels]) = (report.nodes, report.levels);
    output::line(&format!(
        "after them: {} in {} levels, a new tree has {} in {}",
        plural(kept, "node"),
        kept_levels,
        count(anew),
        anew_levels
    ))?;
    if report.drift.is_empty() {
        return Ok(());
    }
    let rows = report.drift.iter().map(|drift| {
        let mut row = vec![about(drift.about).to_owned(), count(drift.budget)];
        let recall = |name: &str| drift.recall.get(name).map(|compared| shown(compared, false, true));
        row.extend(SHOWN.iter().map(|(name, _)| recall(name).unwrap_or_default()));
        row
    });
    let mut header = vec!["questions", "budget"];
    header.extend(SHOWN.iter().map(|(_, title)| *title));
    output::line(&output::table(&header, &[1], rows.collect()))?;
    let note = "the kept-up tree; in brackets: differences to a tree built anew, 95 % intervals over the stories";
    Ok(output::line(&output::dim(note))?)
}
