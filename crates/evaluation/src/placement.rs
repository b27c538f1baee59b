//! Measures what the place of a passage is worth: `edgewise eval placement`.
//!
//! Two measurements on the same questions, each with one passage that answers among hard negatives (Liu et al. 2023):
//! - **By position**: the passage that answers is put at each of several places, the others keep their order.
//! - **By order**: the passages are ranked by an embedder, as retrieval would, and placed in random order, ranked (best
//!   first), by the rule of edges, and by the position curve that was measured on *other* questions: the questions are
//!   split in two halves, and each half is placed by the curve of the other.
//!
//! Invariants: what is asked is the product's own prompt; orders are compared question by question; a prompt is asked once
//! however many orders come to the same; rows are kept as they are made. Deliberately not here: how figures are shown.

pub(crate) mod set;

use std::collections::BTreeMap;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use edgewise_model_api::{ChatMessage, Embedder, Generator};
use edgewise_planner::{Measurement, Observation, ReadingCurve, ReadingProfile, ReadingTask, arrange, edges};
use edgewise_prompts::Prompts;

use crate::{
    Bootstrap, Estimate, EvaluationError, Progress, Rows,
    probe::passages,
    reader::{GOLD, Reader},
};
use set::{PlacementQuestion, PlacementSet};

/// Most tokens of an answer.
const MOST: usize = 48;

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementOptions {
    /// Numbers of passages in a prompt.
    pub documents: Vec<usize>,
    /// Questions, drawn from the set.
    pub questions: usize,
    /// Places at which the passage that answers is put, from the first to the last.
    pub positions: usize,
    /// Seed of the draw and of random orders.
    pub seed: u64,
    /// Ask nothing: report on the questions whose rows are all there, by position and by order each.
    pub recorded: bool,
    /// Intervals.
    pub bootstrap: Bootstrap,
}

/// One prompt and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacementRow {
    /// The question.
    pub question: String,
    /// Order of the passages, front to back: 0 is the one that answers, then its negatives as the set lists them.
    pub order: Vec<usize>,
    /// Length of the prompt in tokens.
    pub prompt_tokens: usize,
    /// Middle of the passage that answers, as a share of the prompt.
    pub depth: f64,
    /// Whether an answer came.
    pub recalled: bool,
    /// Mean log-probability of the gold answer's tokens, in nats.
    pub gold_logprob: Option<f64>,
    /// What the model wrote.
    pub output: String,
}

/// Accuracy and likelihood of one arm.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlacementFigures {
    /// Name of the order, or the place from 0 of the passage that answers.
    pub name: String,
    /// Mean depth of the passage that answers.
    pub depth: f64,
    /// Share of questions answered.
    pub accuracy: Estimate,
    /// Log-likelihood of the gold answer, in nats per token.
    pub gold_logprob: Option<Estimate>,
    /// Accuracy less that of random order, question by question; for orders.
    pub accuracy_over_random: Option<Estimate>,
    /// The same against the rule of edges.
    pub accuracy_over_edges: Option<Estimate>,
    /// Likelihood less that of random order.
    pub logprob_over_random: Option<Estimate>,
    /// The same against the rule of edges.
    pub logprob_over_edges: Option<Estimate>,
}

/// What an order is expected to come to, from the places alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExpectedFigures {
    /// Name of the order.
    pub name: String,
    /// Share of questions answered.
    pub accuracy: Estimate,
    /// That less random order's, question by question.
    pub accuracy_over_random: Estimate,
}

/// One number of passages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlacementPart {
    /// Passages in a prompt.
    pub documents: usize,
    /// Questions asked by position.
    pub questions: usize,
    /// Questions asked by order.
    pub ordered: usize,
    /// Questions whose prompts do not fit the window.
    pub too_long: usize,
    /// Mean length of the prompts in tokens.
    pub prompt_tokens: f64,
    /// By position.
    pub positions: Vec<PlacementFigures>,
    /// What position does to the likelihood of the same question, over all questions asked.
    pub curve: Option<ReadingCurve>,
    /// By order.
    pub orders: Vec<PlacementFigures>,
    /// What the orders would come to if nothing but the place of the passage that answers mattered: over all questions
    /// asked by position, each answered as it was at that place, between two places in proportion.
    pub expected: Vec<ExpectedFigures>,
    /// Share of questions whose passage the embedder ranks first.
    pub gold_first: f64,
    /// Mean rank, from 1, of the passage that answers.
    pub gold_rank: f64,
    /// Share of questions that the measured curve places otherwise than the rule.
    pub curve_differs: f64,
}

/// Everything measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlacementReport {
    /// The model that answered.
    pub model: String,
    /// The model that ranked.
    pub embedder: String,
    /// By number of passages.
    pub parts: Vec<PlacementPart>,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
}

/// What a measurement will ask.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlacementPlan {
    /// Prompts at most: orders that come to the same are asked once.
    pub prompts: usize,
    /// Their tokens.
    pub prompt_tokens: usize,
    /// Predicted time in milliseconds, nothing cached.
    pub predicted_ms: f64,
}

/// A measurement, ready to run.
pub struct Placement<'a> {
    generator: &'a dyn Generator,
    embedder: &'a dyn Embedder,
    prompts: &'a Prompts,
    set: &'a PlacementSet,
    options: PlacementOptions,
    /// Those drawn.
    questions: Vec<&'a PlacementQuestion>,
}

/// The orders compared.
const ORDERS: [&str; 4] = ["random", "ranked", "edges", "curve"];

impl<'a> Placement<'a> {
    /// Draws the questions.
    ///
    /// # Errors
    /// An option is out of range.
    pub fn new(
        generator: &'a dyn Generator,
        embedder: &'a dyn Embedder,
        prompts: &'a Prompts,
        set: &'a PlacementSet,
        options: PlacementOptions,
    ) -> Result<Self, EvaluationError> {
        let wrong = |reason: String| Err(EvaluationError::Queries(reason));
        let most = set.questions.iter().map(|question| question.distractors.len() + 1).min().unwrap_or(0);
        if let Some(bad) = options.documents.iter().find(|count| !(2..=most).contains(*count)) {
            return wrong(format!("{bad} passages in a prompt: the set has from 2 to {most} for every question"));
        }
        if options.documents.is_empty() || options.questions == 0 || !(2..=50).contains(&options.positions) {
            return wrong("expected a number of passages, at least 1 question, and 2 to 50 positions".to_owned());
        }
        let mut drawn: Vec<&PlacementQuestion> = set.questions.iter().collect();
        // The first questions of a larger draw are those of a smaller one, so that rows can be added to.
        drawn.shuffle(&mut ChaCha8Rng::seed_from_u64(options.seed));
        drawn.truncate(options.questions);
        Ok(Self { generator, embedder, prompts, set, options, questions: drawn })
    }

    /// What will be asked at most.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub fn plan(&self) -> Result<PlacementPlan, EvaluationError> {
        let curve = self.generator.latency();
        let mut plan = PlacementPlan { prompts: 0, prompt_tokens: 0, predicted_ms: 0.0 };
        for count in &self.options.documents {
            for question in &self.questions {
                let order: Vec<usize> = (0..*count).collect();
                let tokens = self.generator.encode_chat(&self.prompt(question, &order)?)?.tokens.len();
                let times = self.places(*count).len() + ORDERS.len();
                plan.prompts += times;
                plan.prompt_tokens += times * tokens;
                let one = curve.prefill_ms(tokens, 0) + curve.decode_ms(tokens, MOST);
                plan.predicted_ms += times as f64 * one;
            }
        }
        Ok(plan)
    }

    /// Asks what `rows` do not hold yet, adds it to them, and reports.
    ///
    /// # Errors
    /// [`EvaluationError::Interrupted`] when `stop` says so; what was asked before is in `rows`. Those of the models.
    pub fn run(
        &self,
        rows: &mut Rows<PlacementRow>,
        progress: &dyn Progress,
        stop: &dyn Fn() -> bool,
    ) -> Result<PlacementReport, EvaluationError> {
        let reader = Reader { generator: self.generator, stop };
        let mut known = Known { rows, index: BTreeMap::new() };
        known.index =
            known.rows.rows().iter().enumerate().map(|(at, row)| (key(&row.question, &row.order), at)).collect();
        let per_question: usize =
            self.options.documents.iter().map(|count| self.places(*count).len() + ORDERS.len()).sum();
        let total = per_question * self.questions.len();
        let mut done = 0;
        let mut parts = Vec::new();
        for count in &self.options.documents {
            let mut step = || {
                done += 1;
                progress.answered(done, total);
            };
            parts.push(self.part(*count, &reader, &mut known, &mut step)?);
        }
        Ok(PlacementReport {
            model: self.generator.info().model.clone(),
            embedder: self.embedder.info().model.clone(),
            parts,
            bootstrap: self.options.bootstrap,
        })
    }

    fn part(
        &self,
        count: usize,
        reader: &Reader<'_>,
        known: &mut Known<'_>,
        step: &mut dyn FnMut(),
    ) -> Result<PlacementPart, EvaluationError> {
        let places = self.places(count);
        let window = self.generator.info().context_window;
        let mut fitting = Vec::new();
        for question in &self.questions {
            let order: Vec<usize> = (0..count).collect();
            if self.generator.encode_chat(&self.prompt(question, &order)?)?.tokens.len() + 2 * MOST <= window {
                fitting.push(*question);
            }
        }
        let mut by_place: Vec<Vec<PlacementRow>> = vec![Vec::new(); places.len()];
        let mut observations = Vec::new();
        let orders_of = |places: &[usize]| places.iter().map(|place| gold_at(count, *place)).collect::<Vec<_>>();
        let asked: Vec<(usize, &PlacementQuestion)> = fitting
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, question)| !self.options.recorded || known.has_all(question, &orders_of(&places)))
            .collect();
        for (item, question) in &asked {
            // The deepest first: the next finds most of its prompt in the engine's cache.
            for (slot, place) in places.iter().enumerate().rev() {
                let row = self.ask(question, &gold_at(count, *place), reader, known)?;
                step();
                observations.push(Observation {
                    task: ReadingTask::MultiDocument,
                    item: *item,
                    length: count,
                    slot,
                    depth: row.depth,
                    prompt_tokens: row.prompt_tokens,
                    recalled: row.recalled,
                    gold_logprob: row.gold_logprob,
                });
                by_place.get_mut(slot).into_iter().for_each(|rows| rows.push(row.clone()));
            }
        }
        let halves = [0, 1].map(|half| self.profile(observations.iter().filter(|o| o.item % 2 == half)));
        let mut by_order: [Vec<PlacementRow>; 4] = Default::default();
        let (mut ranks, mut differs) = (Vec::new(), 0);
        let mut expected: [Vec<f64>; 4] = Default::default();
        for (at, (item, question)) in asked.iter().enumerate() {
            let ranked = self.ranked(question, count)?;
            ranks.push(ranked.iter().position(|passage| *passage == 0).unwrap_or(count) + 1);
            // The half of the other questions.
            let orders = self.orders(question, &ranked, halves.get(1 - item % 2), *item)?;
            differs += usize::from(orders[2] != orders[3]);
            let recalled: Vec<f64> =
                by_place.iter().filter_map(|rows| rows.get(at)).map(|row| f64::from(u8::from(row.recalled))).collect();
            for (order, expected) in orders.iter().zip(&mut expected) {
                let place = order.iter().position(|local| *local == 0).unwrap_or(0);
                expected.push(between(&places, &recalled, place));
            }
            // In random order every place is as likely.
            expected[0].pop();
            expected[0].push((0..count).map(|place| between(&places, &recalled, place)).sum::<f64>() / count as f64);
            if self.options.recorded && !known.has_all(question, &orders) {
                continue;
            }
            for (order, rows) in orders.iter().zip(&mut by_order) {
                rows.push(self.ask(question, order, reader, known)?);
                step();
            }
        }
        let all = self.profile(observations.iter());
        let n = asked.len().max(1) as f64;
        let rows = || by_place.iter().flatten();
        let [random, _, edges, _] = &by_order;
        let figures = |(name, rows): (&str, &Vec<PlacementRow>)| self.figures(name, rows, Some((random, edges)));
        Ok(PlacementPart {
            documents: count,
            questions: asked.len(),
            ordered: by_order[0].len(),
            too_long: self.questions.len() - fitting.len(),
            prompt_tokens: rows().map(|row| row.prompt_tokens as f64).sum::<f64>() / rows().count().max(1) as f64,
            positions: places
                .iter()
                .zip(&by_place)
                .map(|(place, rows)| self.figures(&place.to_string(), rows, None))
                .collect(),
            curve: all.curves.into_iter().find(|curve| curve.length == Some(count)),
            orders: ORDERS.into_iter().zip(&by_order).map(figures).collect(),
            expected: ORDERS
                .into_iter()
                .zip(&expected)
                .map(|(name, values)| ExpectedFigures {
                    name: name.to_owned(),
                    accuracy: self.options.bootstrap.estimate(values),
                    accuracy_over_random: self.options.bootstrap.difference(values, &expected[0]),
                })
                .collect(),
            gold_first: ranks.iter().filter(|rank| **rank == 1).count() as f64 / n,
            gold_rank: ranks.iter().sum::<usize>() as f64 / n,
            curve_differs: differs as f64 / n,
        })
    }

    /// Places of the gold passage, from the first to the last.
    fn places(&self, count: usize) -> Vec<usize> {
        let last = (self.options.positions - 1) as f64;
        let mut places: Vec<usize> = (0..self.options.positions)
            .map(|slot| (slot as f64 / last * (count - 1) as f64).round() as usize)
            .collect();
        places.dedup();
        places
    }

    fn profile<'o>(&self, observations: impl Iterator<Item = &'o Observation>) -> ReadingProfile {
        let measurement = Measurement {
            at: Default::default(),
            program: String::new(),
            seed: self.options.seed,
            text: String::new(),
        };
        ReadingProfile::of(self.generator.info(), measurement, &observations.copied().collect::<Vec<_>>())
    }

    /// Passages by cosine with the question, best first.
    fn ranked(&self, question: &PlacementQuestion, count: usize) -> Result<Vec<usize>, EvaluationError> {
        let passages = (0..count).map(|local| {
            let (title, text) = self.passage(question, local);
            self.cut(&format!("{title}\n{text}"))
        });
        let texts: Vec<String> =
            std::iter::once(self.cut(&question.text)).chain(passages).collect::<Result<_, EvaluationError>>()?;
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let vectors = self.embedder.embed(&texts)?;
        let Some((asked, passages)) = vectors.split_first() else { return Ok(Vec::new()) };
        let cosine = |vector: &Vec<f32>| asked.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
        let mut ranked: Vec<(f32, usize)> = passages.iter().map(cosine).zip(0..).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(ranked.into_iter().map(|(_, local)| local).collect())
    }

    /// The beginning of a text that the embedder takes.
    fn cut(&self, text: &str) -> Result<String, EvaluationError> {
        let longest = self.embedder.info().max_tokens.saturating_sub(2);
        let offsets = self.embedder.tokenizer().offsets(text)?;
        let end = if offsets.len() > longest {
            offsets.get(longest).map_or(text.len(), |range| range.start)
        } else {
            text.len()
        };
        Ok(text.get(..end).unwrap_or(text).to_owned())
    }

    /// The four orders of ranked passages.
    fn orders(
        &self,
        question: &PlacementQuestion,
        ranked: &[usize],
        profile: Option<&ReadingProfile>,
        item: usize,
    ) -> Result<[Vec<usize>; 4], EvaluationError> {
        let encoded = self.generator.encode_chat(&self.prompt(question, ranked)?)?;
        let placed: Vec<_> = encoded
            .parts
            .iter()
            .filter(|(label, _)| label == GOLD || label == "passage")
            .map(|(_, range)| range)
            .collect();
        let tokens: Vec<usize> = placed.iter().map(|range| range.len()).collect();
        let before = placed.first().map_or(0, |range| range.start);
        let after = encoded.tokens.len() - placed.last().map_or(0, |range| range.end);
        let by_rank = |order: Vec<usize>| -> Vec<usize> {
            order.into_iter().filter_map(|rank| ranked.get(rank).copied()).collect()
        };
        let mut random = ranked.to_vec();
        random.sort_unstable();
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream((item as u64) << 32 | ranked.len() as u64);
        random.shuffle(&mut rng);
        Ok([random, ranked.to_vec(), by_rank(edges(ranked.len())), by_rank(arrange(profile, &tokens, before, after))])
    }

    /// Title and text of a question's passage: 0 is the one that answers.
    fn passage(&self, question: &PlacementQuestion, local: usize) -> (&str, &str) {
        let at = match local.checked_sub(1) {
            None => Some(question.gold),
            Some(negative) => question.distractors.get(negative).copied(),
        };
        let passage = at.and_then(|at| self.set.passages.get(at));
        passage.map_or(("", ""), |passage| (passage.title.as_str(), passage.text.as_str()))
    }

    fn prompt(&self, question: &PlacementQuestion, order: &[usize]) -> Result<Vec<ChatMessage>, EvaluationError> {
        let placed = order.iter().map(|local| {
            let (title, text) = self.passage(question, *local);
            (*local == 0, title, text)
        });
        passages(self.prompts, placed, &question.text)
    }

    /// The row of a prompt, asked now if it is not known.
    fn ask(
        &self,
        question: &PlacementQuestion,
        order: &[usize],
        reader: &Reader<'_>,
        known: &mut Known<'_>,
    ) -> Result<PlacementRow, EvaluationError> {
        let key = key(&question.id, order);
        if let Some(row) = known.index.get(&key).and_then(|at| known.rows.rows().get(*at)) {
            return Ok(row.clone());
        }
        let read = reader.ask(&self.prompt(question, order)?, &question.answers, MOST)?;
        let row = PlacementRow {
            question: question.id.clone(),
            order: order.to_vec(),
            prompt_tokens: read.prompt_tokens,
            depth: read.depth,
            recalled: read.recalled,
            gold_logprob: read.gold_logprob,
            output: read.output,
        };
        known.index.insert(key, known.rows.rows().len());
        known.rows.add(row.clone())?;
        Ok(row)
    }

    fn figures(
        &self,
        name: &str,
        rows: &[PlacementRow],
        against: Option<(&Vec<PlacementRow>, &Vec<PlacementRow>)>,
    ) -> PlacementFigures {
        let bootstrap = self.options.bootstrap;
        let accuracy =
            |rows: &[PlacementRow]| rows.iter().map(|row| f64::from(u8::from(row.recalled))).collect::<Vec<_>>();
        let logprob = |rows: &[PlacementRow]| rows.iter().map(|row| row.gold_logprob).collect::<Option<Vec<f64>>>();
        let over = |other: &Vec<PlacementRow>| bootstrap.difference(&accuracy(rows), &accuracy(other));
        let likelier = |other: &Vec<PlacementRow>| Some(bootstrap.difference(&logprob(rows)?, &logprob(other)?));
        PlacementFigures {
            name: name.to_owned(),
            depth: rows.iter().map(|row| row.depth).sum::<f64>() / rows.len().max(1) as f64,
            accuracy: bootstrap.estimate(&accuracy(rows)),
            gold_logprob: logprob(rows).map(|values| bootstrap.estimate(&values)),
            accuracy_over_random: against.map(|(random, _)| over(random)),
            accuracy_over_edges: against.map(|(_, edges)| over(edges)),
            logprob_over_random: against.and_then(|(random, _)| likelier(random)),
            logprob_over_edges: against.and_then(|(_, edges)| likelier(edges)),
        }
    }
}

/// The value at `place`, from those measured at `places`, which rise: between two of them in proportion.
fn between(places: &[usize], values: &[f64], place: usize) -> f64 {
    let known: Vec<(f64, f64)> = places.iter().map(|at| *at as f64).zip(values.iter().copied()).collect();
    let at = place as f64;
    let pair = known.windows(2).find(|pair| pair[0].0 <= at && at <= pair[1].0);
    match (pair, known.first()) {
        (Some([(left, low), (right, high)]), _) => low + (high - low) * (at - left) / (right - left).max(1.0),
        (_, Some((_, only))) => *only,
        _ => 0.0,
    }
}

/// The negatives in their order, with the passage that answers at `place`.
fn gold_at(count: usize, place: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (1..count).collect();
    order.insert(place.min(order.len()), 0);
    order
}

type Key = (String, Vec<usize>);

fn key(question: &str, order: &[usize]) -> Key {
    (question.to_owned(), order.to_vec())
}

/// Rows, found by what was asked.
struct Known<'r> {
    rows: &'r mut Rows<PlacementRow>,
    index: BTreeMap<Key, usize>,
}

impl Known<'_> {
    /// Whether the rows of a question are there for all these orders.
    fn has_all(&self, question: &PlacementQuestion, orders: &[Vec<usize>]) -> bool {
        orders.iter().all(|order| self.index.contains_key(&key(&question.id, order)))
    }
}

#[cfg(test)]
mod tests;
