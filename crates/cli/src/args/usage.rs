//! Arguments of `usage`.

use clap::{Args, Subcommand};

use edgewise_ledger::{Dimension, Interval, Period};
use edgewise_types::Money;

/// Arguments of `usage`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Usage {
    /// What to do instead of a report.
    #[command(subcommand)]
    pub(crate) command: Option<UsageCommand>,
    /// Requests to list
    #[arg(long, default_value_t = 10)]
    pub(crate) recent: usize,
    /// Show how far predictions of tokens, cost and time were off, instead
    #[arg(long, conflicts_with_all = ["by", "interval", "csv"])]
    pub(crate) predictions: bool,
    /// Group by these, separated by commas: tenant, key, collection, model, route, status, work
    #[arg(long, value_delimiter = ',', value_name = "WHAT")]
    pub(crate) by: Vec<Dimension>,
    /// First moment to count: a day in UTC such as 2026-05-01, a time such as 2026-05-01T12:00:00Z, or how long ago, such
    /// as 24h or 30d
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub(crate) from: Option<jiff::Timestamp>,
    /// First moment not to count any more, likewise
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    pub(crate) to: Option<jiff::Timestamp>,
    /// Group by steps of time: minute, hour or day (UTC)
    #[arg(long, value_name = "STEP")]
    pub(crate) interval: Option<Interval>,
    /// Count only this tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Count only requests with this key
    #[arg(long, value_name = "ID")]
    pub(crate) key: Option<String>,
    /// Count only this collection
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: Option<String>,
    /// Count only requests that took this route
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Option<String>,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Subcommands of `usage`.
#[derive(Debug, Subcommand)]
pub(crate) enum UsageCommand {
    /// Limits of money for a day or a month, with alerts
    #[command(subcommand)]
    Budgets(Budgets),
}

/// Subcommands of `usage budgets`.
#[derive(Debug, Subcommand)]
pub(crate) enum Budgets {
    /// Show budgets, what was spent of them, and what is expected to be by the end of their period
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set a budget, in place of one of the same name
    Set(BudgetSet),
    /// Delete a budget
    Delete {
        /// Its name
        name: String,
    },
}

/// Arguments of `usage budgets set`.
#[derive(Debug, Args)]
pub(crate) struct BudgetSet {
    /// Its name
    pub(crate) name: String,
    /// Most to be spent in a period, in dollars, such as 25.00
    #[arg(long, value_name = "DOLLARS")]
    pub(crate) limit: Money,
    /// When it begins anew: day or month (UTC)
    #[arg(long, default_value = "month")]
    pub(crate) period: Period,
    /// Count only this tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Count only requests with this key
    #[arg(long, value_name = "ID")]
    pub(crate) key: Option<String>,
    /// Count only this collection
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: Option<String>,
    /// Shares of the limit at which to tell, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "0.5,0.9,1", value_name = "SHARES")]
    pub(crate) alert_at: Vec<f64>,
    /// Post alerts to this address, as JSON
    #[arg(long, value_name = "URL")]
    pub(crate) webhook: Option<String>,
    /// Refuse new work once it is spent
    #[arg(long)]
    pub(crate) hard: bool,
}

/// A day, a time, or how long ago.
fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    let wrong = || {
        format!(
            "`{text}` is no moment: write a day such as 2026-05-01, a time such as 2026-05-01T12:00:00Z, or 24h or 30d for how long ago"
        )
    };
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?;
        return Ok(midnight.timestamp());
    }
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        _ => return Err(wrong()),
    };
    let ago = number.parse::<i64>().ok().filter(|n| (0..=100_000).contains(n)).ok_or_else(wrong)? * hours;
    jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(ago)).map_err(|_| wrong())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_days_times_and_how_long_ago() {
        assert_eq!(moment("2026-05-01").unwrap(), moment("2026-05-01T00:00:00Z").unwrap());
        let day = moment("24h").unwrap();
        assert!((day.as_second() - moment("1d").unwrap().as_second()).abs() <= 1);
        assert!(day < jiff::Timestamp::now());
        for wrong in ["", "h", "-3d", "3w", "2026-13-01", "yesterday", "é"] {
            assert!(moment(wrong).unwrap_err().contains("30d"), "{wrong}");
        }
    }
}
