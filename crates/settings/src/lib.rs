//! Loads, layers and validates configuration; the one place that knows every environment variable.
//!
//! Layers, later wins: the embedded `config/edgewise.toml` (the reference of every key), one configuration file,
//! `EDGEWISE_<SECTION>__<KEY>` variables, flags. Invariants:
//! - [`Settings::default`], `config/edgewise.toml` and the table of [`fields`] say the same; a test compares them.
//! - An unknown key or variable, a wrong type or a value out of range is an error that names the file and line, the
//!   variable or the flag, and says what is allowed. Nothing is ignored and nothing is corrected silently.
//! - Loading reads files only; the environment and the working folder are arguments, so that tests can set them.
//!
//! Deliberately not here: what the settings mean. Whether a model exists, a folder can be written or a log filter
//! parses is for the crate that uses it to say.

pub mod env;
mod error;
pub mod fields;
mod layer;
mod ledger;
mod load;
mod reference;
mod show;
mod tree;
mod upstream;
mod values;

pub use error::SettingsError;
pub use ledger::{LedgerDurability, LedgerSettings};
pub use load::{LoadOptions, Loaded, Source};
pub use reference::{DEFAULT_FILE, EnvVar, environment_reference};
pub use tree::{Summariser, Tree};
pub use upstream::Upstream;
pub use values::{
    EffectiveWindow, Engine, LogFormat, Models, Monitor, Objective, Paths, Planner, PreRoute, Server, Settings,
    Telemetry, default_models_dir,
};
