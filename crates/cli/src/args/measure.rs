//! Arguments of `eval` and `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use edgewise_types::CollectionName;

use super::EvalPlacement;

/// Whose quality is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Eval {
    /// Ranking metrics of each search arm and of both fused: on sets in the format of BEIR, or on a collection of yours
    Retrieval(EvalRetrieval),
    /// How much of what questions ask for the retrieved chunks hold, and how little else, by size of chunks
    Chunking(EvalChunking),
    /// What the place of a passage in the prompt is worth: accuracy and likelihood by position and by order
    Placement(EvalPlacement),
    /// How well routes are chosen between passages and the full context, and the training of what chooses them
    Routing(super::EvalRouting),
    /// How well an answer tells that its sources do not hold what was asked, and the coefficients for the planner's judge
    Judge(EvalJudge),
    /// What knowing the cache is worth: a simulated day of questions, under several ways to choose routes
    Traffic(EvalTraffic),
    /// What a summary tree is worth: what contexts from it and from passages alone hold of people's answers about stories;
    /// and what keeping it up costs
    Tree(Box<super::EvalTree>),
    /// How far predictions of tokens, cost and time are off: real questions on the configured engine, cold and warm
    Prediction(EvalPrediction),
}

/// Arguments of `eval judge`.
#[derive(Debug, Args)]
pub(crate) struct EvalJudge {
    /// Folder with corpus.jsonl, qrels.tsv, and queries.jsonl whose queries have `metadata.answers`
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// File of answers: read if it is there, and added to as answers come, so that a stopped run goes on
    #[arg(long, value_name = "FILE")]
    pub(crate) rows: PathBuf,
    /// Questions; each is answered twice, with its passages and without them
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..))]
    pub(crate) questions: u64,
    /// Passages placed at most
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=200))]
    pub(crate) top_k: u64,
    /// Most tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 48, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_tokens: u64,
    /// Put the coefficients into this file; those of other models in it stay
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Keep embeddings in this file, so that the next run embeds only what is new
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings_cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}

/// Arguments of `eval prediction`.
#[derive(Debug, Args)]
pub(crate) struct EvalPrediction {
    /// The collection to ask [default: the user guide]
    #[arg(long, value_name = "NAME")]
    pub(crate) collection: Option<CollectionName>,
    /// Routes to take (default: all)
    #[arg(long, value_enum, value_name = "ROUTE", value_delimiter = ',', default_value = "passages,documents,full")]
    pub(crate) routes: Vec<PredictedRoute>,
    /// Questions on each route, each asked cold and then warm
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) questions: u64,
    /// Most tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) max_tokens: u64,
    /// Seed of the choice of questions
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A route to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PredictedRoute {
    /// The top chunks
    Passages,
    /// The few right documents, whole
    Documents,
    /// The whole collection
    Full,
}

/// A machine to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SimulatedMachine {
    /// A model of 8 billion parameters on one H100
    Gpu,
    /// SmolLM2 on two CPU cores
    Cpu,
}

/// Arguments of `eval traffic`.
#[derive(Debug, Args)]
pub(crate) struct EvalTraffic {
    /// Folder with .md and .txt files to make collections of (may be repeated) [default: the user guide]
    #[arg(long, value_name = "DIR")]
    pub(crate) documents: Vec<PathBuf>,
    /// Sizes of the collections in tokens [default: three of 2,000, three of 8,000, two of 30,000 and one of 120,000, as
    /// far as there is so much text]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    pub(crate) sizes: Vec<usize>,
    /// The machine
    #[arg(long, value_enum, default_value = "gpu")]
    pub(crate) machine: SimulatedMachine,
    /// What the routers optimise [default: planner.objective]
    #[arg(long, value_enum)]
    pub(crate) objective: Option<super::ObjectiveArg>,
    /// Questions of a day, on average
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) questions: usize,
    /// Further questions of a session, on average
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub(crate) follow_ups: f64,
    /// Median time between two questions of a session, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub(crate) think: f64,
    /// How much more popular the first collections are than the last (exponent of Zipf's law; 0: all alike)
    #[arg(long, value_name = "EXPONENT", default_value_t = 1.0)]
    pub(crate) zipf: f64,
    /// Days, each with a seed of its own
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) days: u64,
    /// Factors by which prices count in the choice, for the cost at equal quality
    #[arg(long, value_name = "FACTOR", value_delimiter = ',', default_value = "0.3,3,10")]
    pub(crate) factors: Vec<f64>,
    /// Model whose prices are charged, by registry name [default: that of models without an entry]
    #[arg(long, value_name = "NAME")]
    pub(crate) prices_of: Option<String>,
    /// Keep embeddings in this file, so that the next run embeds only what is new
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings_cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}

/// Arguments of `eval retrieval`.
#[derive(Debug, Args)]
pub(crate) struct EvalRetrieval {
    /// Folder with corpus.jsonl, queries.jsonl and qrels.tsv (may be repeated; three or more sets also choose among the
    /// settings tried, leaving out one set at a time)
    #[arg(long, required_unless_present = "collection", conflicts_with = "collection", value_name = "DIR", num_args = 1..)]
    pub(crate) data: Vec<PathBuf>,
    /// Measure this collection, and recommend how to fuse its two arms
    #[arg(long, value_name = "NAME", conflicts_with_all = ["profile", "lexical_only", "bm25", "runs", "embeddings_cache", "recall_at"])]
    pub(crate) collection: Option<CollectionName>,
    /// Labelled queries for the collection: lines such as {"query": "How do I borrow?", "document": "ch04.md"}, with
    /// "span": {"start": 120, "end": 480} where only a part answers [default: sentences of the collection]
    #[arg(long, value_name = "FILE", requires = "collection")]
    pub(crate) queries: Option<PathBuf>,
    /// Queries to make from the collection when none are given
    #[arg(long, value_name = "N", default_value_t = 300, conflicts_with = "queries")]
    pub(crate) sample: usize,
    /// Put the recommended fusion in force, if its gain is beyond chance
    #[arg(long, requires = "collection")]
    pub(crate) apply: bool,
    /// Keep embeddings in this file, so that the next run embeds only what is new
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings_cache: Option<PathBuf>,
    /// Index profile [default: the default profile]
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Measure BM25 alone, without embedding anything
    #[arg(long)]
    pub(crate) lexical_only: bool,
    /// Parameters of BM25 to try, such as k1=0.9,b=0.4,title=2,phrase=0.1 (may be repeated)
    #[arg(long, value_name = "PARAMETERS")]
    pub(crate) bm25: Vec<String>,
    /// Weights of the lexical arm to try in the convex combination
    #[arg(
        long,
        value_name = "WEIGHT",
        value_delimiter = ',',
        default_value = "0.05,0.1,0.15,0.2,0.25,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    )]
    pub(crate) weights: Vec<f32>,
    /// Rank constants to try in reciprocal rank fusion
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "60")]
    pub(crate) rrf_k: Vec<f32>,
    /// Hits of a search; decides how deep both arms are read (at least every cut-off of recall)
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "collection")]
    pub(crate) limit: usize,
    /// Cut-offs of recall
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "5,10,20,100")]
    pub(crate) recall_at: Vec<usize>,
    /// Write every ranking to this folder, in the run format of TREC
    #[arg(long, value_name = "DIR")]
    pub(crate) runs: Option<PathBuf>,
    /// Keep the figures in the data folder, in place of earlier ones, for the page Quality
    #[arg(long)]
    pub(crate) save: bool,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}

/// How intervals are made, and what is printed.
#[derive(Debug, Args)]
pub(crate) struct Intervals {
    /// Resamples of the bootstrap behind the intervals
    #[arg(long, default_value_t = 1000)]
    pub(crate) resamples: usize,
    /// Seed of the bootstrap, and of queries that are made
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Show intervals of every metric, not only of the first
    #[arg(long)]
    pub(crate) intervals: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `eval chunking`.
#[derive(Debug, Args)]
pub(crate) struct EvalChunking {
    /// Folder with questions.jsonl and corpora/NAME.md
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Only this document (may be repeated) [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) corpus: Vec<String>,
    /// Chunk limits to compare, such as target=150,overlap=30 or max=120,target=100; what is not named is as in the
    /// profile (may be repeated)
    #[arg(long, value_name = "LIMITS", default_values = ["max=60,target=50", "max=120,target=100", "max=180,target=150", "target=200", "target=200,overlap=50", "target=240"])]
    pub(crate) chunk: Vec<String>,
    /// Chunks retrieved for a question
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    pub(crate) k: usize,
    /// Tokens retrieved for a question, for the recall that chunks of all sizes reach with the same room
    #[arg(long, value_name = "TOKENS", default_value_t = 1000)]
    pub(crate) budget: usize,
    /// Keep embeddings in this file, so that the next run embeds only what is new
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings_cache: Option<PathBuf>,
    /// Index profile [default: the default profile]
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Measure BM25 alone, without embedding anything
    #[arg(long)]
    pub(crate) lexical_only: bool,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Prefill and decode rates of the configured generator, batches, and what a cached prefix saves
    Engine(BenchEngine),
}

/// Arguments of `bench engine`.
#[derive(Debug, Args)]
pub(crate) struct BenchEngine {
    /// Measure the forward pass of this shape of model instead of the configured generator: llama-3.1-8b, smollm2-135m,
    /// or a config.json. --depths are prefilled, --batches decode behind --batch-prompt tokens, --prefix is measured
    /// cold, warm and restored from the host's memory
    #[arg(long, value_name = "NAME|FILE", requires = "random_weights")]
    pub(crate) shape: Option<String>,
    /// With --shape: make up the weights, so that no checkpoint is needed
    #[arg(long, requires = "shape")]
    pub(crate) random_weights: bool,
    /// Prompt lengths to prefill and then decode at, in tokens
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "512,2048,8000")]
    pub(crate) depths: Vec<usize>,
    /// Tokens to decode in each measurement
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) decode: u64,
    /// Numbers of requests to decode at once
    #[arg(long, value_name = "REQUESTS", value_delimiter = ',', default_value = "1,2,4,8,16")]
    pub(crate) batches: Vec<usize>,
    /// Prompt length of each request of a batch, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub(crate) batch_prompt: usize,
    /// Length of the prefix that is asked about cold and warm; 0 leaves this out
    #[arg(long, value_name = "TOKENS", default_value_t = 4096)]
    pub(crate) prefix: usize,
    /// Measurements of each figure; the median is shown
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) runs: u64,
    /// Seed of the random prompts
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
