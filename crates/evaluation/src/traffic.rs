//! A simulated day of questions, to see what knowing the cache is worth in money and time.
//!
//! What decides is the product: an unchanged [`Planner`] over real collections, whose prompts are composed, priced and
//! chosen between as ever, and the engine's own cache of keys and values, page for page, with retention, expiry and
//! eviction. Simulated are only the clock, the arrivals ([`day`]) and the time the model takes ([`engine`]): a latency
//! curve instead of arithmetic.
//!
//! What the cache does not change is done once: every question is searched for and composed on every route
//! ([`Planner::prepare`]), and then decided on as often as it is asked, by every policy. So answers are expected to have the
//! configured length throughout, and not that of the last ones.
//!
//! The same day is lived through by several policies. All are judged by the same figures: the tokens that the cache
//! really found, at the true prices, and the router's own expected quality of the route taken, which does not depend on
//! the cache. Policies that differ in quality can't be compared by cost alone, so the routers also run with prices that
//! count for more or less in the choice; between these points the cost at equal quality is read off.
//!
//! Invariants: equal input and seed give equal figures.
//!
//! Deliberately not here: how good answers really are, and several engines.

mod bound;
mod corpus;
mod day;
mod engine;
mod figures;
mod machine;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use edgewise_ledger::{ModelPrices, PriceBook};
use edgewise_model_api::{Embedder, Generator, Tokenizer};
use edgewise_planner::{Objective, Planner, PlannerError, PlannerOptions, Prepared, Query, Route, SegmentKind};
use edgewise_prompts::Prompts;
use edgewise_types::{TokenPrice, Usage};
use serde::{Deserialize, Serialize};

pub(crate) use engine::{SimulatedEngine, TokenMemo};

pub use corpus::Text;
pub use figures::{CollectionShare, Matched, PolicyReport, TrafficReport};
pub use machine::Machine;

use crate::{Bootstrap, EvaluationError, Progress, spread::spread};
use bound::Choices;
use corpus::Corpus;
use day::{Arrival, Day};
use engine::Clock;
use figures::{Outcome, Run};

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficOptions {
    /// Sizes of the collections in tokens.
    pub sizes: Vec<usize>,
    /// Questions of a day, on average.
    pub questions: usize,
    /// Further questions of a session, on average.
    pub follow_ups: f64,
    /// Median time from an answer to the next question of a session, in seconds.
    pub think_s: f64,
    /// Exponent of the popularity of collections by rank (Zipf).
    pub zipf: f64,
    /// Days, each with a seed of its own: 1, 2, …
    pub days: u64,
    /// The machine.
    pub machine: Machine,
    /// What the routers optimise.
    pub objective: Objective,
    /// What tokens cost.
    pub prices: ModelPrices,
    /// Factors by which prices count in the choice, besides 1, for the cost at equal quality.
    pub factors: Vec<f64>,
    /// How intervals over the days are made.
    pub bootstrap: Bootstrap,
}

/// How routes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub enum TrafficPolicy {
    /// The product: knows what is resident, and shares the cost of a prefix among its expected readers.
    Aware {
        /// What prices are multiplied with in the choice.
        factor: f64,
    },
    /// Knows what is resident and looks no further than the question at hand.
    Shortsighted {
        /// What prices are multiplied with in the choice.
        factor: f64,
    },
    /// The same router, told that nothing is ever resident or kept. What it runs is cached all the same.
    Blind {
        /// What prices are multiplied with in the choice.
        factor: f64,
    },
    /// Always retrieves passages.
    Passages,
    /// Reads everything where it fits, whole documents where it does not.
    Full,
}

impl TrafficPolicy {
    fn factor(self) -> f64 {
        match self {
            Self::Aware { factor } | Self::Shortsighted { factor } | Self::Blind { factor } => factor,
            Self::Passages | Self::Full => 1.0,
        }
    }

    /// Routes to try in turn; none lets the router choose.
    fn forced(self) -> &'static [Option<Route>] {
        match self {
            Self::Aware { .. } | Self::Shortsighted { .. } | Self::Blind { .. } => &[None],
            Self::Passages => &[Some(Route::Passages)],
            Self::Full => &[Some(Route::Full), Some(Route::Documents), Some(Route::Passages)],
        }
    }
}

impl std::fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, factor) = match self {
            Self::Aware { factor } => ("cache-aware", *factor),
            Self::Shortsighted { factor } => ("aware, no expected reuse", *factor),
            Self::Blind { factor } => ("blind to the cache", *factor),
            Self::Passages => return f.write_str("always passages"),
            Self::Full => return f.write_str("always full"),
        };
        if factor == 1.0 { f.write_str(name) } else { write!(f, "{name}, prices × {factor}") }
    }
}

/// Lives through the days under every policy.
///
/// # Errors
/// [`EvaluationError::Dataset`] if the texts are too short for the sizes; what ingest and planning fail with.
pub fn evaluate_traffic(
    texts: Vec<Text>,
    embedder: &Arc<dyn Embedder>,
    tokenizer: &Arc<dyn Tokenizer>,
    options: &TrafficOptions,
    progress: &dyn Progress,
) -> Result<TrafficReport, EvaluationError> {
    let memo = Arc::new(TokenMemo::new(Arc::clone(tokenizer)));
    let corpus = Corpus::build(texts, &options.sizes, embedder, &memo, progress)?;
    let mut policies = Vec::new();
    for factor in std::iter::once(1.0).chain(options.factors.iter().copied().filter(|factor| *factor != 1.0)) {
        policies.extend([TrafficPolicy::Aware { factor }, TrafficPolicy::Blind { factor }]);
    }
    policies.extend([TrafficPolicy::Shortsighted { factor: 1.0 }, TrafficPolicy::Passages, TrafficPolicy::Full]);
    let days: Vec<Day> = (1..=options.days).map(|seed| Day::simulate(&corpus, options, seed)).collect();
    let jobs: Vec<(TrafficPolicy, &Day)> =
        policies.iter().flat_map(|policy| days.iter().map(move |day| (*policy, day))).collect();
    let asked: BTreeSet<Asked> =
        days.iter().flat_map(|day| &day.arrivals).map(|arrival| (arrival.collection, arrival.question)).collect();
    let asked: Vec<Asked> = asked.into_iter().collect();
    let total = asked.len() + jobs.iter().map(|(_, day)| day.arrivals.len()).sum::<usize>();
    let done = AtomicUsize::new(0);
    let answered = || progress.answered(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let setting = Setting { corpus: &corpus, embedder, memo: &memo, options };
    let known = setting.prepare(&asked, &answered)?;
    let runs = spread(&jobs, |(policy, day)| {
        let outcomes = setting.live(*policy, day, &known, &answered)?;
        Ok::<_, EvaluationError>(Run { policy: *policy, outcomes })
    })?;
    let choices = known.into_iter().map(|(asked, Known { choices, .. })| (asked, choices)).collect();
    Ok(figures::report(&corpus, &days, &runs, &choices, options))
}

/// Index of a collection, and of a question to it.
type Asked = (usize, usize);

/// What does not depend on the state of the engine.
struct Known {
    prepared: Prepared,
    /// What its routes come to when nothing is resident.
    choices: Choices,
}

/// What all days and policies have in common.
struct Setting<'a> {
    corpus: &'a Corpus,
    embedder: &'a Arc<dyn Embedder>,
    memo: &'a Arc<TokenMemo>,
    options: &'a TrafficOptions,
}

impl Setting<'_> {
    /// Searches, composes and prices every question once.
    fn prepare(&self, asked: &[Asked], done: &(dyn Fn() + Sync)) -> Result<HashMap<Asked, Known>, EvaluationError> {
        let Self { corpus, embedder, memo, options } = self;
        let engine = SimulatedEngine::new(&options.machine, Arc::clone(memo), Clock::default(), false)
            .map_err(|error| EvaluationError::Simulation(error.to_string()))?;
        // What the bound takes for a prefix is what could be kept, whether or not anybody is expected to come back to it.
        let machine = options.machine.planner.clone();
        let planner_options = PlannerOptions { escalate: false, amortise: false, ..machine };
        let prompts = Prompts::load(None).map_err(PlannerError::from)?;
        let prices = PriceBook::flat(options.prices);
        // Its clock stands still: what is planned takes no simulated time.
        let planner = Planner::new(Arc::new(engine), Arc::clone(embedder), prompts, prices, planner_options)?
            .with_clock(|| Duration::ZERO);
        let known = spread(asked, |(collection, question)| {
            let (collection, question) = corpus.question(*collection, *question);
            let query = Query { objective: options.objective, ..Query::new(question) };
            let prepared = planner.prepare(collection, &query)?;
            let by_documents = Query { route: Some(Route::Documents), ..query.clone() };
            let explanation = match planner.explain_prepared(collection, &by_documents, &prepared) {
                Err(PlannerError::DoesNotFit { .. }) => planner.explain_prepared(collection, &query, &prepared)?,
                explanation => explanation?,
            };
            let documents = explanation.prompt_map.iter().filter(|segment| segment.kind == SegmentKind::Document);
            let documents = documents.filter_map(|segment| segment.document.clone()).collect();
            let choices = Choices::of(&explanation, documents, &options.prices);
            done();
            Ok::<_, EvaluationError>(Known { prepared, choices })
        })?;
        Ok(asked.iter().copied().zip(known).collect())
    }

    /// One day under one policy.
    fn live(
        &self,
        policy: TrafficPolicy,
        day: &Day,
        known: &HashMap<Asked, Known>,
        answered: &dyn Fn(),
    ) -> Result<Vec<Outcome>, EvaluationError> {
        let Self { corpus, embedder, memo, options } = self;
        let clock = Clock::default();
        let blind = matches!(policy, TrafficPolicy::Blind { .. });
        let engine = SimulatedEngine::new(&options.machine, Arc::clone(memo), clock.clone(), blind)
            .map_err(|error| EvaluationError::Simulation(error.to_string()))?;
        let engine = Arc::new(engine);
        let generator: Arc<dyn Generator> = Arc::clone(&engine) as Arc<dyn Generator>;
        let prompts = Prompts::load(None).map_err(PlannerError::from)?;
        let prices = PriceBook::flat(scaled(&options.prices, policy.factor()));
        // What a simulated engine says is no answer that could be judged.
        let planner_options = PlannerOptions {
            amortise: matches!(policy, TrafficPolicy::Aware { .. }),
            escalate: false,
            ..options.machine.planner.clone()
        };
        let time = clock.clone();
        let planner = Planner::new(generator, Arc::clone(embedder), prompts, prices, planner_options)?
            .with_clock(move || time.now());
        let mut outcomes = Vec::with_capacity(day.arrivals.len());
        for Arrival { at, collection: number, question } in &day.arrivals {
            clock.set(*at);
            let Some(Known { prepared, .. }) = known.get(&(*number, *question)) else { continue };
            let (collection, question) = corpus.question(*number, *question);
            let mut query = Query { objective: options.objective, ..Query::new(question) };
            let mut answer = None;
            for route in policy.forced() {
                query.route = *route;
                let sink = &mut |_| ControlFlow::Continue(());
                match planner.answer_prepared(collection, &query, prepared, sink) {
                    Err(PlannerError::DoesNotFit { .. }) if route.is_some() => {}
                    result => {
                        answer = Some(result?);
                        break;
                    }
                }
            }
            answered();
            let Some(answer) = answer else { continue };
            let served = engine.served();
            let chosen = answer.explanation.candidates.first();
            outcomes.push(Outcome {
                route: answer.explanation.chosen,
                usage: answer.usage,
                collection: *number,
                writing: {
                    let ModelPrices { cache_write_5m, cache_write_1h, .. } = options.prices;
                    let Usage { cache_write_5m_tokens, cache_write_1h_tokens, .. } = answer.usage;
                    (cache_write_5m.cost(cache_write_5m_tokens) + cache_write_1h.cost(cache_write_1h_tokens))
                        .as_dollars_lossy()
                },
                dollars: options.prices.cost(&answer.usage).as_dollars_lossy(),
                quality: chosen.map_or(0.0, |candidate| candidate.quality),
                ttft: served.ttft,
                total: served.total,
            });
        }
        Ok(outcomes)
    }
}

/// Prices times `factor`, as far as whole nano-dollars go.
fn scaled(prices: &ModelPrices, factor: f64) -> ModelPrices {
    let scale = |price: TokenPrice| {
        let nanos = (price.cost(1).nanos() as f64 * factor).round();
        TokenPrice::from_nanos_per_token(nanos as i64)
    };
    ModelPrices {
        input: scale(prices.input),
        cache_read: scale(prices.cache_read),
        cache_write_5m: scale(prices.cache_write_5m),
        cache_write_1h: scale(prices.cache_write_1h),
        output: scale(prices.output),
        hour: prices.hour,
    }
}

/// Shares of the routes.
fn shares(outcomes: &[&Outcome]) -> HashMap<Route, f64> {
    let mut counts: HashMap<Route, f64> = HashMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.route).or_default() += 1.0 / outcomes.len() as f64;
    }
    counts
}

/// Milliseconds as a duration.
fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.max(0.0) / 1e3)
}
