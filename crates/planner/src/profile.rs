//! How well a model reads by position and by length of its prompt: measured, not assumed.
//!
//! A profile is made of observations: a question whose answer stands at one place of a prompt, asked again with the same
//! answer at other places. Two figures come of each: whether the answer came (recall), and how likely the model held the
//! gold answer (the geometric mean of its tokens' probabilities). Position curves are made from the second where every
//! observation has it, since it sees what a small model half knows; from recall otherwise.
//!
//! - **Curves** compare a question with itself: each value less the question's mean over all positions, so that easy and
//!   hard questions do not hide what position does (Cousineau 2005, with the correction of Morey 2008). Intervals hold for
//!   all positions of a curve at once (Bonferroni): a curve is *distinct* when the best position's interval lies above the
//!   worst one's, and nothing is placed by a curve that is not.
//! - **The effective window** is the longest measured length, with all shorter ones, at which recall is at least
//!   [`EFFECTIVE_SHARE`] of that at the shortest. Hsieh et al. 2024 ("RULER") call a length effective while a model scores
//!   above a fixed threshold, 85.6 %, the score of a reference model at 4k tokens; here the model is its own reference,
//!   since a small one never reaches an absolute score and is still worth placing for.
//!
//! Invariants: a profile belongs to the digest of one model and is used for no other; equal observations give equal
//! profiles. Deliberately not here: asking a model.

mod curve;
mod stats;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_model_api::GeneratorInfo;

pub use curve::{CurvePoint, PositionCurve, ReadingCurve};
pub use stats::Interval;
use stats::rounded;
pub(crate) use stats::wilson;
pub(crate) use store::write_whole;
pub use store::{ProfileStore, ProfileStoreError};

/// Share of the recall at the shortest length that an effective length keeps.
pub const EFFECTIVE_SHARE: f64 = 0.85;

/// Recall at the shortest length below which a fall says nothing: the model can't do the tasks at any length.
const LEAST_RECALL: f64 = 0.2;

/// What a model is asked to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadingTask {
    /// One sentence in text about other things.
    Needle,
    /// The value of a key among many.
    KeyValue,
    /// The passage that answers a question among passages that look like it.
    MultiDocument,
}

impl ReadingTask {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Needle, Self::KeyValue, Self::MultiDocument];

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Needle => "needle",
            Self::KeyValue => "key_value",
            Self::MultiDocument => "multi_document",
        }
    }
}

/// One question with its answer at one place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The task.
    pub task: ReadingTask,
    /// Which question of the task and length: the same number at other slots is the same question.
    pub item: usize,
    /// Length aimed at, in tokens: what observations are grouped by.
    pub length: usize,
    /// Which of the depths, from 0: the same number at other lengths and tasks is the same depth.
    pub slot: usize,
    /// Where the middle of the answer's passage stood, as a share of the prompt's tokens.
    pub depth: f64,
    /// The prompt's length in tokens.
    pub prompt_tokens: usize,
    /// Whether the answer came.
    pub recalled: bool,
    /// Mean log-probability of the gold answer's tokens, in nats; absent where the model does not tell.
    pub gold_logprob: Option<f64>,
}

/// A task at one length and depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingCell {
    /// The task.
    pub task: ReadingTask,
    /// Length aimed at, in tokens.
    pub length: usize,
    /// Which of the depths, from 0.
    pub slot: usize,
    /// Mean depth of the answer's passage, as a share of the prompt.
    pub depth: f64,
    /// Questions asked.
    pub items: usize,
    /// How many were answered.
    pub recalled: usize,
    /// Their share, with its 95 % interval.
    pub recall: Interval,
    /// Mean over the questions of the geometric mean probability of the gold answer's tokens.
    pub gold_probability: Option<f64>,
}

/// Recall at one length over all tasks and depths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingLength {
    /// Length aimed at, in tokens.
    pub length: usize,
    /// Longest prompt asked at this length.
    pub prompt_tokens: usize,
    /// Questions asked.
    pub items: usize,
    /// Share that was answered, with its 95 % interval.
    pub recall: Interval,
    /// Recall as a share of that at the shortest length.
    pub of_shortest: f64,
}

/// How well one model reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingProfile {
    /// Registry name of the model.
    pub model: String,
    /// BLAKE3 over the model's files: the profile is of this model and no other.
    pub digest: String,
    /// Window the model was loaded with, in tokens.
    pub window: usize,
    /// When it was measured.
    #[schema(value_type = String, format = DateTime)]
    pub measured_at: jiff::Timestamp,
    /// Version of the program that measured it.
    pub program: String,
    /// Seed of the questions.
    pub seed: u64,
    /// Where the text of the prompts came from, in words.
    pub text: String,
    /// Tasks, lengths and depths, one by one.
    pub cells: Vec<ReadingCell>,
    /// Recall by length.
    pub lengths: Vec<ReadingLength>,
    /// Position curves: one a length, then one over all lengths.
    pub curves: Vec<ReadingCurve>,
    /// Longest length at which the model still reads nearly as well as at the shortest. Absent if no length measured was
    /// too long, or if the tasks are too hard for the model at any.
    pub effective_window: Option<usize>,
}

/// Where a profile comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// When.
    pub at: jiff::Timestamp,
    /// Version of the program.
    pub program: String,
    /// Seed of the questions.
    pub seed: u64,
    /// Where the text of the prompts came from, in words.
    pub text: String,
}

impl ReadingProfile {
    /// The profile that `observations` of the model `info` amount to, whatever their order.
    pub fn of(info: &GeneratorInfo, measurement: Measurement, observations: &[Observation]) -> Self {
        let Measurement { at, program, seed, text } = measurement;
        let mut sorted = observations.to_vec();
        sorted.sort_by_key(|o| (o.task, o.length, o.slot, o.item));
        let lengths = lengths(&sorted);
        Self {
            model: info.model.clone(),
            digest: info.digest.clone(),
            window: info.context_window,
            measured_at: at,
            program,
            seed,
            text,
            cells: cells(&sorted),
            curves: curve::curves(&sorted),
            effective_window: effective_window(&lengths, info.context_window),
            lengths,
        }
    }

    /// Whether it is of this model.
    pub fn is_of(&self, info: &GeneratorInfo) -> bool {
        self.digest == info.digest
    }

    /// The tasks it was measured with.
    pub fn tasks(&self) -> BTreeSet<ReadingTask> {
        self.cells.iter().map(|cell| cell.task).collect()
    }

    /// How well positions of a prompt of `prompt_tokens` are read, against each other: between the two measured lengths
    /// around it, by the logarithm of the length. `None` if no position is distinctly better than another.
    ///
    /// A length whose own curve is not distinct takes the one over all lengths, if that is.
    pub fn curve(&self, prompt_tokens: usize) -> Option<PositionCurve> {
        curve::at(&self.curves, prompt_tokens)
    }
}

fn cells(observations: &[Observation]) -> Vec<ReadingCell> {
    let mut groups: BTreeMap<_, Vec<&Observation>> = BTreeMap::new();
    for observation in observations {
        groups.entry((observation.task, observation.length, observation.slot)).or_default().push(observation);
    }
    let cell = |((task, length, slot), group): ((_, _, _), Vec<&Observation>)| {
        let items = group.len();
        let recalled = group.iter().filter(|o| o.recalled).count();
        let held: Option<Vec<f64>> = group.iter().map(|o| o.gold_logprob.map(f64::exp)).collect();
        ReadingCell {
            task,
            length,
            slot,
            depth: rounded(group.iter().map(|o| o.depth).sum::<f64>() / items as f64),
            items,
            recalled,
            recall: wilson(recalled, items),
            gold_probability: held.map(|held| rounded(held.iter().sum::<f64>() / items as f64)),
        }
    };
    groups.into_iter().map(cell).collect()
}

fn lengths(observations: &[Observation]) -> Vec<ReadingLength> {
    let mut groups: BTreeMap<usize, Vec<&Observation>> = BTreeMap::new();
    for observation in observations {
        groups.entry(observation.length).or_default().push(observation);
    }
    let mut shortest = None;
    let length = |(length, group): (usize, Vec<&Observation>)| {
        let recall = wilson(group.iter().filter(|o| o.recalled).count(), group.len());
        let shortest = *shortest.get_or_insert(recall.mean);
        ReadingLength {
            length,
            prompt_tokens: group.iter().map(|o| o.prompt_tokens).max().unwrap_or(0),
            items: group.len(),
            recall,
            of_shortest: if shortest > 0.0 { rounded(recall.mean / shortest) } else { 0.0 },
        }
    };
    groups.into_iter().map(length).collect()
}

fn effective_window(lengths: &[ReadingLength], window: usize) -> Option<usize> {
    let readable = lengths.first().is_some_and(|shortest| shortest.recall.mean >= LEAST_RECALL);
    let kept = lengths.iter().take_while(|length| length.of_shortest >= EFFECTIVE_SHARE).count();
    let longest = lengths.get(kept.checked_sub(1)?)?;
    (readable && kept < lengths.len()).then(|| longest.length.min(window))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn info() -> GeneratorInfo {
        GeneratorInfo { model: "m".to_owned(), digest: "d".to_owned(), context_window: 8192 }
    }

    pub(crate) fn measurement() -> Measurement {
        let at = "2026-01-02T03:04:05Z".parse().unwrap();
        Measurement { at, program: "1".to_owned(), seed: 1, text: "made up".to_owned() }
    }

    /// `items` questions at each length, read with probability `read(length, depth)`: exactly that share of them.
    pub(crate) fn observed(
        lengths: &[usize],
        depths: usize,
        items: usize,
        read: impl Fn(usize, f64) -> f64,
    ) -> Vec<Observation> {
        let mut observations = Vec::new();
        for &length in lengths {
            for slot in 0..depths {
                let depth = slot as f64 / (depths - 1) as f64;
                for item in 0..items {
                    let share = read(length, depth);
                    // Questions differ a lot; positions move each of them by the same.
                    let ease = 0.2 * (item as f64 / items as f64 - 0.5);
                    observations.push(Observation {
                        task: ReadingTask::MultiDocument,
                        item,
                        length,
                        slot,
                        depth,
                        prompt_tokens: length,
                        recalled: (item as f64) < share * items as f64,
                        gold_logprob: Some((share + ease).clamp(1e-3, 1.0).ln()),
                    });
                }
            }
        }
        observations
    }

    #[test]
    fn the_effective_window_is_the_last_length_before_recall_falls() {
        let lengths = [512, 1024, 2048, 4096];
        let profile = |falls: usize| {
            let observations = observed(&lengths, 3, 20, |length, _| if length < falls { 0.8 } else { 0.6 });
            ReadingProfile::of(&info(), measurement(), &observations)
        };
        assert_eq!(profile(4096).effective_window, Some(2048));
        assert_eq!(profile(1024).effective_window, Some(512));
        assert_eq!(profile(100_000).effective_window, None, "nothing measured was too long");
        let hopeless = observed(&lengths, 3, 20, |length, _| if length < 1024 { 0.1 } else { 0.0 });
        assert_eq!(ReadingProfile::of(&info(), measurement(), &hopeless).effective_window, None);
        let short = GeneratorInfo { context_window: 1500, ..info() };
        let observations = observed(&lengths, 3, 20, |length, _| if length < 4096 { 0.8 } else { 0.6 });
        let profile = ReadingProfile::of(&short, measurement(), &observations);
        assert_eq!(profile.effective_window, Some(1500), "never above what the model has");
    }

    #[test]
    fn cells_count_what_was_asked() {
        let observations = observed(&[512, 1024], 3, 10, |_, depth| 1.0 - depth);
        let profile = ReadingProfile::of(&info(), measurement(), &observations);
        assert_eq!(profile.cells.len(), 6);
        let cell = &profile.cells[1];
        assert_eq!((cell.length, cell.slot, cell.items, cell.recalled), (512, 1, 10, 5));
        assert!(cell.recall.low < 0.5 && cell.recall.high > 0.5 && cell.gold_probability.is_some());
        assert_eq!(profile.tasks().into_iter().collect::<Vec<_>>(), [ReadingTask::MultiDocument]);
        assert!(profile.is_of(&info()) && !profile.is_of(&GeneratorInfo { digest: "e".to_owned(), ..info() }));
    }

    proptest! {
        #[test]
        fn any_observations_make_a_profile_that_survives_json(
            rows in prop::collection::vec((0..3usize, 0..4usize, 1..4usize, 0..4usize, any::<bool>(), prop::option::of(-9f64..0.0)), 0..60)
        ) {
            let mut observations: Vec<Observation> = rows.into_iter().map(|(task, item, length, slot, recalled, gold_logprob)| Observation {
                task: ReadingTask::ALL[task], item, length: 512 * length, slot, depth: slot as f64 / 4.0,
                prompt_tokens: 500 * length, recalled, gold_logprob,
            }).collect();
            observations.sort_by_key(|o| (o.task, o.length, o.slot, o.item));
            observations.dedup_by_key(|o| (o.task, o.length, o.slot, o.item));
            let profile = ReadingProfile::of(&info(), measurement(), &observations);
            let json = serde_json::to_string(&profile).unwrap();
            let again: ReadingProfile = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&again, &profile);
            prop_assert_eq!(profile.cells.iter().map(|cell| cell.items).sum::<usize>(), observations.len());
            let mut reversed = observations.clone();
            reversed.reverse();
            prop_assert_eq!(&ReadingProfile::of(&info(), measurement(), &reversed), &profile);
            for tokens in [1, 600, 1024, 100_000] {
                if let Some(curve) = profile.curve(tokens) {
                    prop_assert!(curve.mean(0.0, 1.0).is_finite());
                }
            }
        }
    }
}
