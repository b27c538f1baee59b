//! Progress bars on standard error, for ingest and for downloads. Silent when asked to be or when it is no terminal.

use std::{io::IsTerminal, sync::Mutex, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use edgewise_evaluation::Progress as EvalProgress;
use edgewise_model_store::Progress;
use edgewise_retrieval::{IngestProgress, Outcome, SourceReport};

use crate::output;

/// Whether bars are drawn.
pub(crate) fn visible(quiet: bool) -> bool {
    !quiet && std::io::stderr().is_terminal()
}

/// A bar in the style of all of them.
pub(crate) fn bar(visible: bool, template: &str) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Progress of a measurement: documents ingested, then queries answered.
pub(crate) struct EvalBar {
    bar: ProgressBar,
}

impl EvalBar {
    pub(crate) fn new(visible: bool, what: &str) -> Self {
        let bar = bar(visible, "{bar:28.green} {pos}/{len} {msg}  {elapsed}");
        bar.set_message(what.to_owned());
        Self { bar }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl EvalProgress for EvalBar {
    fn ingested(&self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }

    fn answered(&self, done: usize, total: usize) {
        self.bar.set_message("queries");
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }
}

/// Progress of an ingest: documents done, chunks embedded.
pub(crate) struct IngestBar {
    bar: ProgressBar,
    chunks: Mutex<(usize, usize)>,
}

impl IngestBar {
    pub(crate) fn new(visible: bool) -> Self {
        let template = "{bar:28.green} {pos}/{len} documents  {msg}  {elapsed}";
        Self { bar: bar(visible, template), chunks: Mutex::default() }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn update(&self, chunks: usize, failed: usize) {
        // A poisoned lock would mean a panic while formatting a number; the bar is not worth failing for.
        let Ok(mut counts) = self.chunks.lock() else { return };
        counts.0 += chunks;
        counts.1 += failed;
        let failed = if counts.1 > 0 { format!(", {} failed", counts.1) } else { String::new() };
        self.bar.set_message(format!("{} chunks embedded{failed}", counts.0));
    }
}

impl IngestProgress for IngestBar {
    fn total(&self, sources: usize) {
        self.bar.set_length(sources as u64);
    }

    fn source_done(&self, report: &SourceReport) {
        self.bar.inc(1);
        self.update(0, usize::from(matches!(report.outcome, Outcome::Failed { .. })));
    }

    fn chunks_embedded(&self, n: usize) {
        self.update(n, 0);
    }
}

/// Progress of fetching one model.
pub(crate) struct PullBar {
    bar: ProgressBar,
}

impl PullBar {
    pub(crate) fn new(visible: bool, model: &str) -> Self {
        let bar = bar(visible, "{prefix} {bar:28.green} {bytes}/{total_bytes}  {msg}  {elapsed}");
        bar.set_prefix(model.to_owned());
        Self { bar }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for PullBar {
    fn start(&self, step: &str, total_bytes: u64) {
        self.bar.set_position(0);
        self.bar.set_length(total_bytes);
        self.bar.set_message(step.to_owned());
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn finish(&self) {
        self.bar.set_position(self.bar.length().unwrap_or_default());
    }

    fn message(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }
}
