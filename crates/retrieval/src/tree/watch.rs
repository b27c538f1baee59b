//! One build as it goes: counts, limits, pauses, and writes that let others through.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use edgewise_catalog::{Catalog, CatalogError};
use edgewise_summary_tree::{BuildEvent, Control, Effort, Halt, Summary};
use edgewise_types::{Money, SummaryMethod, Usage};

use crate::{
    Collection, RetrievalError, TreeBudget, TreeBuildOptions, TreeControl, TreeProgress, TreeStage, error::of,
};

/// Follows a build on behalf of its caller.
pub(super) struct Watch<'a> {
    control: &'a dyn TreeControl,
    options: &'a TreeBuildOptions,
    start: Instant,
    now: Mutex<Now>,
}

#[derive(Default)]
struct Now {
    progress: TreeProgress,
    paused: Duration,
    /// Leaves of the documents that are done, and of all that are to be.
    leaves: (usize, usize),
    /// What calls that were begun and have not come back may still take.
    begun: Effort,
}

impl<'a> Watch<'a> {
    pub(super) fn new(control: &'a dyn TreeControl, options: &'a TreeBuildOptions) -> Self {
        Self { control, options, start: Instant::now(), now: Mutex::default() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is told, and tells it.
    pub(super) fn tell(&self, change: impl FnOnce(&mut TreeProgress)) {
        let mut now = self.now();
        change(&mut now.progress);
        let seconds = self.start.elapsed().saturating_sub(now.paused).as_secs_f64();
        now.progress.seconds = seconds;
        let (done, all) = now.leaves;
        now.progress.eta_seconds = match now.progress.stage {
            TreeStage::Documents if done > 0 => Some(seconds * (all - done) as f64 / done as f64),
            _ => None,
        };
        let progress = now.progress.clone();
        drop(now);
        self.control.progress(&progress);
    }

    /// A number of documents with this many leaves are to be built.
    pub(super) fn expect(&self, documents: usize, leaves: usize) {
        {
            let mut now = self.now();
            let done = now.leaves.0;
            now.leaves.1 = done + leaves;
        }
        self.tell(|progress| progress.work.documents = progress.work.documents_done + documents);
    }

    /// A document is done.
    pub(super) fn document_done(&self, leaves: usize) {
        {
            let mut now = self.now();
            now.leaves.0 = (now.leaves.0 + leaves).min(now.leaves.1);
        }
        self.tell(|progress| {
            progress.work.documents_done += 1;
            progress.document = None;
        });
    }

    pub(super) fn progress(&self) -> TreeProgress {
        let now = self.now();
        let seconds = self.start.elapsed().saturating_sub(now.paused).as_secs_f64();
        TreeProgress { seconds, ..now.progress.clone() }
    }

    /// Waits while the build is paused.
    pub(super) fn check(&self) -> Result<(), Halt> {
        let before = Instant::now();
        let checked = self.control.check();
        let waited = before.elapsed();
        // Less is the cost of asking.
        if waited > Duration::from_millis(20) {
            self.now().paused += waited;
        }
        checked.map_err(|_| Halt::Cancelled)?;
        let seconds = self.progress().seconds;
        match self.options.budget.max_seconds {
            Some(most) if seconds >= most => Err(Halt::Budget(format!("it may take {most} s"))),
            _ => Ok(()),
        }
    }

    /// Writes to the catalog, as soon as no other write of this process goes on, for no longer than this one takes.
    pub(super) fn writing<T>(
        &self,
        collection: &Collection,
        write: impl FnOnce(&Catalog) -> Result<T, CatalogError>,
    ) -> Result<T, RetrievalError> {
        let mut slot = collection
            .writer_until(&|| self.control.check().is_err() || collection.is_closing())
            .ok_or(RetrievalError::Cancelled)?;
        let writer = collection.write_catalog(&mut slot)?;
        write(&writer.catalog).map_err(of(collection.name()))
    }

    /// Whether what a summary is expected to take still fits the budget.
    fn afford(&self, expected: Effort) -> Result<(), Halt> {
        let TreeBudget { max_calls, max_tokens, max_cost, .. } = self.options.budget;
        let mut now = self.now();
        let work = now.progress.work;
        let begun = now.begun.plus(expected);
        let usage = Usage { input_tokens: begun.prompt_tokens, output_tokens: begun.output_tokens, ..Usage::default() };
        let all = work.usage.plus(&usage);
        if expected.calls == 0 {
            return Ok(());
        }
        if let Some(most) = max_calls
            && work.calls + begun.calls > most
        {
            return Err(Halt::Budget(format!("it may call the generator {most} times")));
        }
        if let Some(most) = max_tokens
            && all.prompt_tokens() + all.output_tokens > most
        {
            return Err(Halt::Budget(format!("it may use {most} tokens of the generator")));
        }
        if let Some(most) = max_cost
            && work.cost + (self.options.price)(&usage) > most
        {
            return Err(Halt::Budget(format!("it may cost ${most}")));
        }
        now.begun = begun;
        Ok(())
    }

    /// Counts a summary that was made.
    fn made(&self, summary: &Summary) {
        let cost: Money = (self.options.price)(&summary.usage);
        // Generated summaries are made one after another: what was begun is this one, now with its real usage.
        self.now().begun = Effort::default();
        self.tell(|progress| {
            let work = &mut progress.work;
            work.summaries_made += 1;
            work.fallbacks += usize::from(summary.method == SummaryMethod::ExtractiveFallback);
            work.regenerated += usize::from(summary.regenerated > 0);
            work.unsupported += summary.unsupported.len();
            work.calls += summary.regenerated as usize + usize::from(summary.method == SummaryMethod::Abstractive);
            work.usage = work.usage.plus(&summary.usage);
            work.cost += cost;
        });
    }
}

impl Control for Watch<'_> {
    fn step(&self, event: BuildEvent<'_>) -> Result<(), Halt> {
        match event {
            BuildEvent::Clustered { .. } | BuildEvent::Waiting => self.check(),
            BuildEvent::Before { expected, .. } => {
                self.check()?;
                self.afford(expected)
            }
            BuildEvent::Made { summary, .. } => {
                self.made(summary);
                Ok(())
            }
            BuildEvent::Kept { .. } => {
                self.tell(|progress| progress.work.summaries_kept += 1);
                Ok(())
            }
        }
    }
}
