//! Command line arguments. Nothing here does anything; see `commands`.

mod eval_tree;
mod feedback;
mod keys;
mod measure;
mod placement;
mod probe;
mod routing;
mod tree;
mod usage;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use edgewise_planner::{Objective, Route};
use edgewise_types::{CollectionName, Money};

pub(crate) use eval_tree::{EvalTree, Half};
pub(crate) use feedback::Feedback;
pub(crate) use keys::{CreateKey, Expiry, Keys};
pub(crate) use measure::{
    Bench, BenchEngine, Eval, EvalChunking, EvalJudge, EvalPrediction, EvalRetrieval, EvalTraffic, Intervals,
    PredictedRoute, SimulatedMachine,
};
pub(crate) use placement::EvalPlacement;
pub(crate) use probe::Probe;
pub(crate) use routing::EvalRouting;
pub(crate) use tree::{
    SummariserArg, Tree, TreeBuild, TreeDelete, TreePlanArgs, TreeShow, TreeStatusArgs, TreeWhat, document_of,
};
pub(crate) use usage::{BudgetSet, Budgets, Usage, UsageCommand};

/// Answers questions about your documents, choosing for each how much context to pay for.
#[derive(Debug, Parser)]
#[command(name = "edgewise", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file, instead of ./edgewise.toml or the user's own
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one configuration value, such as server.port=9000 (may be repeated; before the command)
    // Not global: clap would let values after the command replace those before it, silently.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Key for a server that needs one [default: EDGEWISE_API_KEY, which other users of this machine can't see]
    #[arg(long, global = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Log more (-v: debug, -vv: trace)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress bars and no logs below error
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch the models, ingest the guide, ask a question, and serve: the first five minutes in one command
    Quickstart(Quickstart),
    /// Serve the REST API and the dashboard
    Serve(Serve),
    /// Give a model tools over standard input and output (Model Context Protocol): search, ask, list, read
    Mcp(Mcp),
    /// Ingest files and folders into a collection
    Ingest(Ingest),
    /// Ask a question of a collection
    Query(Query),
    /// Ask a collection one question after another, each follow-up going on from the last
    Chat(Chat),
    /// Search a collection without asking a model
    Search(Search),
    /// List, show, check, mend, copy, rename or delete collections
    #[command(subcommand)]
    Collections(Collections),
    /// Plan, build, show or delete a collection's summary tree
    #[command(subcommand)]
    Tree(Tree),
    /// List or remove documents of a collection
    #[command(subcommand)]
    Documents(Documents),
    /// List, pull, verify or remove models
    #[command(subcommand)]
    Models(Models),
    /// Make, list or revoke the keys of a server, or show its audit log
    #[command(subcommand)]
    Keys(Keys),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(Config),
    /// Show tokens, cost and recent requests, and set budgets
    Usage(Usage),
    /// Rate an answer, so that later ones are routed better
    Feedback(Feedback),
    /// Measure quality on labelled sets
    #[command(subcommand)]
    Eval(Eval),
    /// Measure how well the configured generator reads, by where an answer stands and by the length of the prompt
    Probe(Probe),
    /// Measure this machine
    #[command(subcommand)]
    Bench(Bench),
    /// Parse files sent on standard input; started by other commands
    #[command(hide = true)]
    ParseWorker,
}

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub(crate) struct Quickstart {
    /// Answer yes to every question
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Stop after the answer, without starting the server
    #[arg(long)]
    pub(crate) no_serve: bool,
    /// Ask this instead of the prepared question
    #[arg(long, value_name = "TEXT")]
    pub(crate) question: Option<String>,
    /// Port of the server
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address to listen on
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// Port to listen on
    #[arg(long)]
    pub(crate) port: Option<u16>,
}

/// Where a command's work is done.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Open the collection in this process even if a server is running
    #[arg(long, conflicts_with = "server")]
    pub(crate) local: bool,
    /// Use the server at this address, such as http://127.0.0.1:8080
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
}

/// Arguments of `mcp`.
#[derive(Debug, Args)]
pub(crate) struct Mcp {
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Arguments of `ingest`.
#[derive(Debug, Args)]
pub(crate) struct Ingest {
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Collection to ingest into; made if it does not exist
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: CollectionName,
    /// Index profile of a new collection; of an existing one, re-chunks everything if it differs
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Only files that match this glob (may be repeated)
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// No files that match this glob (may be repeated)
    #[arg(long, value_name = "GLOB")]
    pub(crate) exclude: Vec<String>,
    /// File with passwords of encrypted documents, one a line; one more may be in EDGEWISE_DOCUMENT_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Remove documents of the collection whose files are gone
    #[arg(long)]
    pub(crate) prune: bool,
    /// Stay running and keep the collection in step with the files, removals included
    #[arg(long)]
    pub(crate) watch: bool,
    /// Show what would be done and how long it would take, and do nothing
    #[arg(long, conflicts_with_all = ["watch", "server"])]
    pub(crate) plan: bool,
    /// Do not ask before a collection is made anew, for another profile or embedder
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Bring the collection's summary tree up to date afterwards, or build one
    #[arg(long, conflicts_with_all = ["plan", "watch"])]
    pub(crate) tree: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// A route, or `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RouteArg {
    /// Let Edgewise choose
    Auto,
    /// The top passages
    Passages,
    /// Summaries beside passages; needs `edgewise tree build`
    Tree,
    /// The few right documents, whole
    Documents,
    /// Everything
    Full,
}

impl RouteArg {
    pub(crate) fn forced(self) -> Option<Route> {
        match self {
            Self::Auto => None,
            Self::Passages => Some(Route::Passages),
            Self::Tree => Some(Route::Tree),
            Self::Documents => Some(Route::Documents),
            Self::Full => Some(Route::Full),
        }
    }
}

/// What `auto` optimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectiveArg {
    /// Least cost
    Cheapest,
    /// Quality against cost and latency
    Balanced,
    /// Best expected quality
    Best,
}

impl From<ObjectiveArg> for Objective {
    fn from(value: ObjectiveArg) -> Self {
        match value {
            ObjectiveArg::Cheapest => Self::Cheapest,
            ObjectiveArg::Balanced => Self::Balanced,
            ObjectiveArg::Best => Self::Best,
        }
    }
}

/// Arguments of `query`.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The question
    pub(crate) question: String,
    /// Collection to ask
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: CollectionName,
    /// Route to take
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) route: RouteArg,
    /// What the choice of a route optimises [default: planner.objective]
    #[arg(long, value_enum)]
    pub(crate) objective: Option<ObjectiveArg>,
    /// Most the request may cost, in dollars, such as 0.01
    #[arg(long, value_name = "DOLLARS")]
    pub(crate) max_cost: Option<Money>,
    /// Longest prompt in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_input_tokens: Option<usize>,
    /// Longest predicted time in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) max_latency_ms: Option<u64>,
    /// Most passages in the prompt
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Answer only from documents that satisfy this, such as "year >= 2020 and uri like 'guide/**'"
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Most tokens of the answer
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<usize>,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 0.0)]
    pub(crate) temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    pub(crate) sample_top_k: usize,
    /// Keep the likeliest tokens up to this probability
    #[arg(long, default_value_t = 1.0)]
    pub(crate) top_p: f32,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, default_value_t = 0.0)]
    pub(crate) min_p: f32,
    /// Penalise repetition; 1 is off
    #[arg(long, default_value_t = 1.0)]
    pub(crate) repetition_penalty: f32,
    /// Seed of the sampler
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// End the answer at this text (may be repeated)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Take a wider route once when the sources seem not to hold the answer: "true" or "false" [default: planner.escalate;
    /// not with a route asked for]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) escalate: Option<bool>,
    /// Show the whole decision without generating anything
    #[arg(long)]
    pub(crate) explain: bool,
    /// List every part of the prompt: tokens, position, what was cached, how long it is kept, source
    #[arg(long)]
    pub(crate) map: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// Collection to ask
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: CollectionName,
    /// Route to take
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) route: RouteArg,
    /// What the choice of a route optimises [default: planner.objective]
    #[arg(long, value_enum)]
    pub(crate) objective: Option<ObjectiveArg>,
    /// Most a question may cost, in dollars, such as 0.01
    #[arg(long, value_name = "DOLLARS")]
    pub(crate) max_cost: Option<Money>,
    /// Answer only from documents that satisfy this, such as "year >= 2020 and uri like 'guide/**'"
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Most tokens of an answer
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<usize>,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Arguments of `search`.
#[derive(Debug, Args)]
pub(crate) struct Search {
    /// What to look for
    pub(crate) query: String,
    /// Collection to search
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: CollectionName,
    /// Most hits
    #[arg(short, long, default_value_t = 10)]
    pub(crate) limit: usize,
    /// Fuse by reciprocal rank instead of the profile's way
    #[arg(long, conflicts_with = "lexical_weight")]
    pub(crate) rrf: bool,
    /// Fuse by convex combination with this weight of the lexical arm, 0 to 1
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) lexical_weight: Option<f32>,
    /// Only documents that satisfy this, such as "year >= 2020 and uri like 'guide/**'"
    #[arg(long, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Suppress near-duplicates: 0 not at all, 1 before all else
    #[arg(long, value_name = "SHARE")]
    pub(crate) diversity: Option<f32>,
    /// Let the reranker read the best hits once more: "true" or "false"; without it, if there is one
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) rerank: Option<bool>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Arguments of `collections budget`.
#[derive(Debug, Args)]
pub(crate) struct CollectionBudget {
    /// The collection
    pub(crate) name: CollectionName,
    /// Most a question may cost, in dollars
    #[arg(long, value_name = "DOLLARS")]
    pub(crate) max_cost: Option<Money>,
    /// Longest prompt in tokens
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_input_tokens: Option<usize>,
    /// Longest predicted time of an answer in milliseconds
    #[arg(long, value_name = "MS")]
    pub(crate) max_latency_ms: Option<u64>,
    /// Lift all limits; with other options, those not named
    #[arg(long)]
    pub(crate) clear: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Commands on collections.
#[derive(Debug, Subcommand)]
pub(crate) enum Collections {
    /// List collections
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a collection and its documents
    Info {
        /// The collection
        name: CollectionName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show or set what a question to a collection may use at most
    Budget(CollectionBudget),
    /// Compare a collection's catalog with itself and with both indexes
    Check {
        /// The collections; all if none is named
        names: Vec<CollectionName>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Mend what check finds, from the catalog
    Repair {
        /// The collection
        name: CollectionName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give back the room of deleted documents
    Compact {
        /// The collection
        name: CollectionName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a collection another name
    Rename {
        /// The collection
        #[arg(value_name = "OLD")]
        name: CollectionName,
        /// Its new name
        #[arg(value_name = "NEW")]
        to: CollectionName,
    },
    /// Write everything of a collection to one file
    Export {
        /// The collection
        name: CollectionName,
        /// The new file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a collection from an exported file
    Import {
        /// The exported file
        file: PathBuf,
        /// The new collection
        name: CollectionName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a collection
    Delete {
        /// The collection
        name: CollectionName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// Commands on single documents.
#[derive(Debug, Subcommand)]
pub(crate) enum Documents {
    /// List the documents of a collection
    List {
        /// The collection
        collection: CollectionName,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove documents from a collection; their files stay
    Remove {
        /// The collection
        collection: CollectionName,
        /// The documents, named as `documents list` shows them
        #[arg(required = true, value_name = "DOCUMENT")]
        uris: Vec<String>,
    },
}

/// Commands on models.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// List the registry and what is installed
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch models; without names, the configured ones
    Pull {
        /// Models
        names: Vec<String>,
        /// Take the files from this folder
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Compare what is on disk with the registry's checksums; without names, everything installed
    Verify {
        /// Models
        names: Vec<String>,
    },
    /// Remove models
    Rm {
        /// Models
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Commands on the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check the configuration
    Check,
    /// Print the effective configuration and where each value comes from
    Show,
    /// List every environment variable
    Env,
}
