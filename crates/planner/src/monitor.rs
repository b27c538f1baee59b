//! Watches whether the regions of prompts are read as well as they used to be.
//!
//! Two signals, kept apart: facts that probes put into prompts (found or not), and passages that answers were given
//! (cited or not). An answer counts if it cites something: which of its passages it cites says where the model read; that
//! it cites none says more about the question. Whole documents are left out: they span regions.
//!
//! The first sightings of a signal are its baseline; it does not move, so that a slow fall is seen as well. Later ones are
//! judged in blocks that do not overlap, so that looking often does not raise the number of false alarms; `estimate` says
//! how. A region's alert stands until a later block of the same signal is not alarming. Another model or other templates
//! begin a new baseline.
//!
//! Invariants: the file is bounded; it is replaced whole or not at all. A kill loses at most the answers since the last
//! save, [`SAVE_EVERY`]. Deliberately not here: asking probes, and HTTP.

mod estimate;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_telemetry::names::{self, labels};

use estimate::Counts;
pub use estimate::{FALSE_ALARM, RegionFigures};

use crate::{
    Answer, ProfileStoreError, SegmentKind,
    profile::{Observation, write_whole},
};

/// Answers between two saves.
const SAVE_EVERY: usize = 10;

/// Blocks of a signal that are kept.
const BLOCKS_KEPT: usize = 400;

/// A third of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptRegion {
    /// The first third.
    Beginning,
    /// The second.
    Middle,
    /// The last, next to the question.
    End,
}

impl PromptRegion {
    /// All of them, front to back.
    pub const ALL: [Self; 3] = [Self::Beginning, Self::Middle, Self::End];

    /// The region at `depth`, a share of the prompt.
    pub fn at(depth: f64) -> Self {
        match depth {
            depth if depth < 1.0 / 3.0 => Self::Beginning,
            depth if depth < 2.0 / 3.0 => Self::Middle,
            _ => Self::End,
        }
    }

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Beginning => "beginning",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// Where a sighting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadingSignal {
    /// Facts put into prompts.
    Probes,
    /// Passages that answers cite.
    Citations,
}

impl ReadingSignal {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Probes, Self::Citations];

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probes => "probes",
            Self::Citations => "citations",
        }
    }

    /// Rounds of sightings in the baseline, and in a block after it. A round is an answer, or a fact of a probe.
    fn rounds(self) -> (usize, usize) {
        match self {
            Self::Probes => (72, 24),
            Self::Citations => (200, 50),
        }
    }
}

/// Something that stood in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Where.
    pub region: PromptRegion,
    /// Its rank by retrieval, from 1; 0 for what was not retrieved.
    pub rank: usize,
    /// Whether it was cited or found.
    pub used: bool,
}

impl Sighting {
    /// The passages of an answer; none if it cites nothing or says that it does not know.
    pub fn of_answer(answer: &Answer) -> Vec<Self> {
        if answer.unanswerable || answer.citations.is_empty() {
            return Vec::new();
        }
        let tokens = answer.prompt_map.last().map_or(0, |segment| segment.end).max(1) as f64;
        let passages = answer.prompt_map.iter().filter(|segment| segment.kind == SegmentKind::Passage);
        let sighting = |segment: &crate::Segment| {
            let source = answer.sources.iter().find(|source| Some(source.n) == segment.source)?;
            Some(Self {
                region: PromptRegion::at((segment.start + segment.end) as f64 / 2.0 / tokens),
                rank: source.rank,
                used: answer.citations.iter().any(|citation| citation.n == source.n),
            })
        };
        passages.filter_map(sighting).collect()
    }

    /// A fact of a probe.
    pub fn of_probe(observation: &Observation) -> Self {
        Self { region: PromptRegion::at(observation.depth), rank: 0, used: observation.recalled }
    }
}

/// A block of sightings, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingBlock {
    /// When it was complete.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// Whether it is the baseline itself.
    pub baseline: bool,
    /// Every region.
    pub regions: Vec<RegionFigures>,
}

/// A signal now and over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SignalReport {
    /// The signal.
    pub signal: ReadingSignal,
    /// Answers or facts counted since the last block.
    pub pending: usize,
    /// How many make the next block complete.
    pub needed: usize,
    /// The last block; absent while the baseline is being gathered.
    pub now: Option<ReadingBlock>,
    /// All blocks kept, oldest first.
    pub history: Vec<ReadingBlock>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Signal {
    baseline: Option<Counts>,
    open: Counts,
    rounds: usize,
    blocks: Vec<ReadingBlock>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    /// Model and templates the figures are of.
    of: String,
    probes: Signal,
    citations: Signal,
    /// When probes were asked last.
    probed_at: Option<jiff::Timestamp>,
}

impl State {
    fn signal(&mut self, signal: ReadingSignal) -> &mut Signal {
        match signal {
            ReadingSignal::Probes => &mut self.probes,
            ReadingSignal::Citations => &mut self.citations,
        }
    }
}

/// The monitor. Share it in an `Arc`; calls from several threads take turns.
#[derive(Debug)]
pub struct ReadingMonitor {
    path: Option<PathBuf>,
    state: Mutex<(State, usize)>,
}

impl ReadingMonitor {
    /// A monitor that forgets with the process.
    pub fn in_memory() -> Self {
        Self { path: None, state: Mutex::default() }
    }

    /// A monitor whose figures are kept in the file at `path`. `of` names model and templates: figures of others are not
    /// compared with theirs, and are dropped.
    ///
    /// # Errors
    /// The file can't be read, or is none of the monitor's.
    pub fn open(path: &Path, of: &str) -> Result<Self, ProfileStoreError> {
        let state = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| ProfileStoreError::Damaged { path: path.to_owned(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(source) => return Err(ProfileStoreError::Io { what: "read", path: path.to_owned(), source }),
        };
        let monitor = Self::anew(path, of);
        if state.of == of {
            monitor.state().0 = state;
            monitor.publish(&monitor.state().0);
        }
        Ok(monitor)
    }

    /// A monitor that begins without figures, in place of those in the file at `path`.
    pub fn anew(path: &Path, of: &str) -> Self {
        let state = State { of: of.to_owned(), ..State::default() };
        Self { path: Some(path.to_owned()), state: Mutex::new((state, 0)) }
    }

    /// Counts an answer.
    pub fn answered(&self, at: jiff::Timestamp, answer: &Answer) {
        let sightings = Sighting::of_answer(answer);
        if !sightings.is_empty() {
            self.count(ReadingSignal::Citations, at, &[sightings]);
        }
    }

    /// Counts the facts of a probe.
    pub fn probed(&self, at: jiff::Timestamp, observations: &[Observation]) {
        let rounds: Vec<Vec<Sighting>> = observations.iter().map(|o| vec![Sighting::of_probe(o)]).collect();
        self.state().0.probed_at = Some(at);
        self.count(ReadingSignal::Probes, at, &rounds);
    }

    /// When probes were asked last.
    pub fn probed_at(&self) -> Option<jiff::Timestamp> {
        self.state().0.probed_at
    }

    /// Counts sightings, a round at a time, and closes blocks that become complete.
    pub fn count(&self, signal: ReadingSignal, at: jiff::Timestamp, rounds: &[Vec<Sighting>]) {
        let mut guard = self.state();
        let (state, unsaved) = &mut *guard;
        let mut closed = false;
        for sightings in rounds {
            let (first, block) = signal.rounds();
            let counted = state.signal(signal);
            sightings.iter().for_each(|sighting| counted.open.add(sighting));
            counted.rounds += 1;
            *unsaved += 1;
            if counted.rounds < if counted.baseline.is_some() { block } else { first } {
                continue;
            }
            closed = true;
            counted.rounds = 0;
            let open = std::mem::take(&mut counted.open);
            let regions = open.judge(counted.baseline.as_ref());
            for figures in regions.iter().filter(|figures| figures.alert) {
                let (signal, region) = (signal.as_str(), figures.region.as_str());
                let (used, expected) = (figures.used, figures.expected);
                tracing::warn!(signal, region, used, expected, "a region of prompts is read worse than it used to be");
            }
            let baseline = counted.baseline.is_none();
            counted.blocks.push(ReadingBlock { at, baseline, regions });
            let surplus = counted.blocks.len().saturating_sub(BLOCKS_KEPT);
            counted.blocks.drain(..surplus);
            if baseline {
                counted.baseline = Some(open);
            }
        }
        if closed {
            self.publish(state);
        }
        if closed || *unsaved >= SAVE_EVERY {
            *unsaved = 0;
            self.save(state);
        }
    }

    /// Both signals, now and over time.
    pub fn report(&self) -> Vec<SignalReport> {
        let mut guard = self.state();
        ReadingSignal::ALL
            .into_iter()
            .map(|signal| {
                let (first, block) = signal.rounds();
                let Signal { baseline, rounds, blocks, .. } = guard.0.signal(signal);
                SignalReport {
                    signal,
                    pending: *rounds,
                    needed: if baseline.is_some() { block } else { first },
                    now: blocks.last().cloned(),
                    history: blocks.clone(),
                }
            })
            .collect()
    }

    fn publish(&self, state: &State) {
        for (signal, counted) in [(ReadingSignal::Probes, &state.probes), (ReadingSignal::Citations, &state.citations)]
        {
            for figures in counted.blocks.last().into_iter().flat_map(|block| &block.regions) {
                let (region, signal) = (figures.region.as_str(), signal.as_str());
                metrics::gauge!(names::REGION_RECALL, labels::REGION => region, labels::SIGNAL => signal)
                    .set(figures.recall);
                metrics::gauge!(names::REGION_ALERT, labels::REGION => region, labels::SIGNAL => signal)
                    .set(f64::from(u8::from(figures.alert)));
            }
        }
    }

    /// Figures that can't be kept are counted on: they are worth no answer.
    fn save(&self, state: &State) {
        let Some(path) = &self.path else { return };
        let saved = match serde_json::to_vec(state) {
            Ok(bytes) => write_whole(path, &bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = saved {
            tracing::warn!(error, "figures of how prompts are read could not be kept");
        }
    }

    fn state(&self) -> MutexGuard<'_, (State, usize)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReadingMonitor {
    fn drop(&mut self) {
        let guard = self.state();
        if guard.1 > 0 {
            self.save(&guard.0);
        }
    }
}

#[cfg(test)]
mod tests;
