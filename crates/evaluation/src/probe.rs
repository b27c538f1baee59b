//! Measures how well a generator reads, by depth and length: `edgewise probe`.
//!
//! Every question is asked with its answer at every depth, so that depths are compared on the same questions; the deepest
//! first, so that the next finds most of its prompt in the engine's cache. What becomes of the observations is
//! [`edgewise_planner::ReadingProfile`].
//!
//! Invariants: equal options, text and model ask equal questions; an observation is kept as soon as it is made, and what is
//! kept is not asked again. Deliberately not here: where the profile is stored, and how it is shown.

mod item;
mod text;

use serde::Serialize;

use edgewise_model_api::{Generator, LatencyCurve};
use edgewise_planner::{Observation, ReadingTask};
use edgewise_prompts::Prompts;

pub(crate) use item::passages;
use item::{Item, Maker};
pub use text::ProbeText;

use crate::{EvaluationError, PlacementSet, Progress, Rows, reader::Reader};

/// What to ask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbeOptions {
    /// Tasks.
    pub tasks: Vec<ReadingTask>,
    /// Lengths of prompts, in tokens.
    pub lengths: Vec<usize>,
    /// Number of depths, from the very first to the very last place.
    pub depths: usize,
    /// Questions of each task.
    pub items: usize,
    /// Seed of the questions.
    pub seed: u64,
}

impl ProbeOptions {
    /// Enough for the effective window of short prompts, in minutes on a laptop.
    pub fn quick() -> Self {
        Self { tasks: ReadingTask::ALL.to_vec(), lengths: vec![512, 1024, 2048], depths: 5, items: 2, seed: 1 }
    }

    /// Enough for a curve at every length, up to a window of `window` tokens.
    pub fn full(window: usize) -> Self {
        let lengths =
            std::iter::successors(Some(512), |length| Some(2 * length)).take_while(|length| *length <= window);
        Self { tasks: ReadingTask::ALL.to_vec(), lengths: lengths.collect(), depths: 7, items: 10, seed: 1 }
    }
}

/// What a probe will ask, and how long that is predicted to take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProbePlan {
    /// Observations to make; each is a generation and a forced answer.
    pub observations: usize,
    /// Those that were made before.
    pub done: usize,
    /// Prompt tokens of the rest.
    pub prompt_tokens: usize,
    /// Prompt tokens of the rest that are not in the cache when they are asked.
    pub prefill_tokens: usize,
    /// Tokens the rest generates at most.
    pub output_tokens: usize,
    /// Predicted time of the rest, in milliseconds.
    pub predicted_ms: f64,
    /// What is left out, and why, one sentence each.
    pub left_out: Vec<String>,
}

/// One observation to be made.
#[derive(Debug, Clone, Copy)]
struct Step {
    item: usize,
    number: usize,
    length: usize,
    slot: usize,
    pieces: usize,
    prompt_tokens: usize,
}

/// A probe, ready to run.
pub struct Probe<'a> {
    generator: &'a dyn Generator,
    prompts: &'a Prompts,
    items: Vec<Item>,
    steps: Vec<Step>,
    depths: usize,
    left_out: Vec<String>,
}

impl<'a> Probe<'a> {
    /// Makes the questions. Those of [`ReadingTask::MultiDocument`] come from `set`, or are made from `text`.
    ///
    /// # Errors
    /// An option is out of range, or nothing can be asked.
    pub fn new(
        generator: &'a dyn Generator,
        prompts: &'a Prompts,
        text: &ProbeText,
        set: Option<&PlacementSet>,
        options: &ProbeOptions,
    ) -> Result<Self, EvaluationError> {
        check(options)?;
        let window = generator.info().context_window;
        let tokenizer = generator.tokenizer();
        let longest = options.lengths.iter().copied().max().unwrap_or(0).min(window);
        let maker = Maker { tokenizer, text, set, seed: options.seed, longest };
        let mut probe = Self {
            generator,
            prompts,
            items: Vec::new(),
            steps: Vec::new(),
            depths: options.depths,
            left_out: Vec::new(),
        };
        for task in &options.tasks {
            let items = maker.items(*task, options.items)?;
            if items.len() < options.items {
                let (name, made) = (task.as_str(), items.len());
                probe
                    .left_out
                    .push(format!("{name}: only {made} of {} questions, the text has no more", options.items));
            }
            for length in &options.lengths {
                let mut short = 0;
                for (number, item) in items.iter().enumerate() {
                    let bare = generator.encode_chat(&item.lay(prompts, 0, 0.0)?)?.tokens.len();
                    let fits = length + item.most.max(longest_answer(item)) <= window;
                    match item.room(*length, bare).filter(|_| fits) {
                        Some(pieces) => probe.steps.extend((0..options.depths).rev().map(|slot| Step {
                            item: probe.items.len() + number,
                            number,
                            length: *length,
                            slot,
                            pieces,
                            prompt_tokens: *length,
                        })),
                        None => short += 1,
                    }
                }
                if short > 0 {
                    let why = if length + 64 > window { "the window is too short" } else { "the text is too short" };
                    probe.left_out.push(format!("{} at {length} tokens: {short} questions, {why}", task.as_str()));
                }
            }
            probe.items.extend(items);
        }
        if probe.steps.is_empty() {
            let reason = probe.left_out.join("; ");
            return Err(EvaluationError::Queries(format!(
                "nothing can be asked ({reason}): give more text, or other --lengths"
            )));
        }
        Ok(probe)
    }

    /// What is left to ask when `rows` are known, and how long it will take by the generator's own latency curve.
    pub fn plan(&self, rows: &[Observation]) -> ProbePlan {
        let curve = self.generator.latency();
        let mut plan = ProbePlan {
            observations: self.steps.len(),
            done: 0,
            prompt_tokens: 0,
            prefill_tokens: 0,
            output_tokens: 0,
            predicted_ms: 0.0,
            left_out: self.left_out.clone(),
        };
        let mut before: Option<&Step> = None;
        for step in &self.steps {
            if self.known(step, rows) {
                plan.done += 1;
                continue;
            }
            // The prompt asked before is the same up to this one's answer.
            let shared = before.filter(|other| (other.item, other.length) == (step.item, step.length));
            let resident = shared.map_or(0, |_| (step.prompt_tokens as f64 * self.depth(step.slot)) as usize);
            let output = self.items.get(step.item).map_or(0, |item| item.most + longest_answer(item).div_ceil(4));
            plan.prompt_tokens += step.prompt_tokens;
            plan.prefill_tokens += step.prompt_tokens - resident;
            plan.output_tokens += output;
            plan.predicted_ms += predicted(&curve, step.prompt_tokens, resident, output);
            before = Some(step);
        }
        plan
    }

    /// Asks what is not known yet and adds it to `rows`. Gives the observations of this probe.
    ///
    /// # Errors
    /// [`EvaluationError::Interrupted`] when `stop` says so; what was asked before is in `rows`. Those of the generator.
    pub fn run(
        &self,
        rows: &mut Rows<Observation>,
        progress: &dyn Progress,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<Observation>, EvaluationError> {
        let reader = Reader { generator: self.generator, stop };
        for (done, step) in self.steps.iter().enumerate() {
            progress.answered(done, self.steps.len());
            if self.known(step, rows.rows()) {
                continue;
            }
            let Some(item) = self.items.get(step.item) else { continue };
            rows.add(self.observe(&reader, step, item)?)?;
        }
        progress.answered(self.steps.len(), self.steps.len());
        let ours = |row: &&Observation| self.steps.iter().any(|step| self.is_of(step, row));
        Ok(rows.rows().iter().filter(ours).copied().collect())
    }

    fn observe(&self, reader: &Reader<'_>, step: &Step, item: &Item) -> Result<Observation, EvaluationError> {
        let messages = item.lay(self.prompts, step.pieces, self.depth(step.slot))?;
        let read = reader.ask(&messages, &item.answers, item.most)?;
        Ok(Observation {
            task: item.task(),
            item: step.number,
            length: step.length,
            slot: step.slot,
            depth: read.depth,
            prompt_tokens: read.prompt_tokens,
            recalled: read.recalled,
            gold_logprob: read.gold_logprob,
        })
    }

    fn depth(&self, slot: usize) -> f64 {
        slot as f64 / (self.depths - 1).max(1) as f64
    }

    fn known(&self, step: &Step, rows: &[Observation]) -> bool {
        rows.iter().any(|row| self.is_of(step, row))
    }

    fn is_of(&self, step: &Step, row: &Observation) -> bool {
        let task = self.items.get(step.item).map(Item::task);
        task == Some(row.task) && (step.number, step.length, step.slot) == (row.item, row.length, row.slot)
    }
}

fn longest_answer(item: &Item) -> usize {
    item.answers.first().map_or(0, |answer| answer.len() + 1)
}

fn predicted(curve: &LatencyCurve, prompt: usize, resident: usize, output: usize) -> f64 {
    // The forced answer finds the prompt resident.
    curve.prefill_ms(prompt, resident) + curve.prefill_ms(prompt, prompt) + curve.decode_ms(prompt, output)
}

fn check(options: &ProbeOptions) -> Result<(), EvaluationError> {
    let wrong = |reason: String| Err(EvaluationError::Queries(reason));
    if options.tasks.is_empty() || options.lengths.is_empty() {
        return wrong("name at least one task and one length".to_owned());
    }
    if let Some(short) = options.lengths.iter().find(|length| **length < 128) {
        return wrong(format!("a length of {short} tokens leaves no room for text: ask for 128 or more"));
    }
    if !(2..=50).contains(&options.depths) || !(1..=1000).contains(&options.items) {
        return wrong("expected 2 to 50 depths and 1 to 1,000 questions of a task".to_owned());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
