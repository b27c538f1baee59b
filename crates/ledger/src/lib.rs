//! Prices, per-request records, sums and budgets.
//!
//! Invariants:
//! - A cost is an exact sum of integers ([`edgewise_types::Money`]): the sum over any grouping of records is the total.
//! - [`Ledger::record`] returns after the record is durable: it survives the end of the process, however that comes. A
//!   record is written once and never changed; other prices change none.
//! - Sums by minute, hour and day are brought up to date in the transaction that adds the records, and outlive them.
//! - Records hold no text of questions, answers or documents, only their measures. Texts are in details, which are kept
//!   apart and for a shorter time. A comment on a rating is kept.
//!
//! Deliberately not here: what a request *will* cost (the planner predicts), limits of one request (the planner and the
//! gateway enforce them), sending alerts, and any clock: times come from the caller.

mod apply;
mod budget;
mod error;
mod export;
mod feedback;
mod histogram;
mod journal;
mod prediction;
mod prices;
mod query;
mod record;
mod requests;
mod retention;
mod rollup;
mod rows;
mod schema;
mod store;
mod sums;
mod writer;

pub use budget::{Alert, BudgetScope, BudgetStatus, DueAlert, Exhausted, MOST_BUDGETS, MoneyBudget, Period};
pub use error::LedgerError;
pub use export::csv;
pub use feedback::{Decision, LAST, Rated, Rating};
pub use histogram::{Histogram, Percentiles};
pub use prediction::{Accuracy, Compared, PredictionErrors};
pub use prices::{ModelPrices, PriceBook};
pub use query::{Dimension, Interval, MOST_GROUPS, UsageFilter, UsageGroup, UsageQuery, UsageTable};
pub use record::{Prediction, PricedRoute, RequestRecord, RequestStatus, Work};
pub use requests::{RequestPage, RequestQuery};
pub use retention::{Deleted, Retention};
pub use store::{Decided, Detail, DetailSource, Durability, Entry, Ledger, LedgerOptions, MOST_COMPARED};
pub use sums::{Counterfactual, Missed, Sums, Totals};
