//! Prices, per-request records and aggregates.
//!
//! Invariants:
//! - A cost is an exact sum of integers ([`edgewise_types::Money`]): the sum over any grouping of records is the total.
//! - [`Ledger::record`] returns after the record is on disk. A record is written once and never changed.
//! - Records hold no text of questions, answers or documents, only their measures. A comment on a rating is kept.
//!
//! Deliberately not here: what a request *will* cost (the planner predicts), limits (the planner and the gateway
//! enforce them), and any clock: times come from the caller.

mod error;
mod feedback;
mod prediction;
mod prices;
mod record;
mod schema;
mod store;

pub use error::LedgerError;
pub use feedback::{Decision, LAST, Rated, Rating};
pub use prediction::{Accuracy, Compared, PredictionErrors};
pub use prices::{ModelPrices, PriceBook};
pub use record::{Grouping, Prediction, RequestRecord, RequestStatus, Sums, Totals};
pub use store::{Ledger, MOST_COMPARED};
