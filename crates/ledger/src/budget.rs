//! Budgets: how much money a tenant, a key or a collection may use in a day or a month, and who is told.
//!
//! What was spent is the sum of the records' costs in the period, kept in memory beside the records as they come and taken
//! anew from the roll-ups by [`Ledger::recount`], so that other processes' records count too. A hard budget refuses new work
//! once it is spent; work that is under way by then is finished and paid for, so a budget can be exceeded by what runs at
//! once. Alerts refuse nothing.
//!
//! Deliberately not here: sending anything, a clock.

use std::{str::FromStr, sync::Mutex};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use rusqlite::{OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::Money;

use crate::{Ledger, LedgerError, RequestRecord, UsageFilter, UsageQuery, rollup::DAY, store::lock};

/// Most budgets of one owner.
pub const MOST_BUDGETS: usize = 200;

/// How long a budget lasts before it begins anew, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A day.
    Day,
    /// A calendar month.
    Month,
}

impl Period {
    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The period that `at` is in: its first moment, and the first moment after it.
    pub fn around(self, at: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let date = at.to_zoned(TimeZone::UTC).date();
        let (first, next) = match self {
            Self::Day => (date, date.tomorrow().ok()?),
            Self::Month => (date.first_of_month(), date.last_of_month().tomorrow().ok()?),
        };
        let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp());
        Some((midnight(first)?, midnight(next)?))
    }

    /// How far back the rate of spending is measured, in microseconds.
    fn window(self) -> i64 {
        match self {
            Self::Day => DAY,
            Self::Month => 7 * DAY,
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            _ => Err(format!("`{name}` is no period; there are day and month")),
        }
    }
}

/// Whose money is counted; what is absent counts whatever it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetScope {
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Public id of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<String>,
}

impl BudgetScope {
    fn takes(&self, tenant: &str, key: Option<&str>, collection: Option<&str>) -> bool {
        let same = |wanted: &Option<String>, value: Option<&str>| wanted.is_none() || wanted.as_deref() == value;
        same(&self.tenant, Some(tenant)) && same(&self.key, key) && same(&self.collection, collection)
    }
}

/// A limit of money for a period.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoneyBudget {
    /// Whose money.
    #[serde(default)]
    pub scope: BudgetScope,
    /// When it begins anew.
    pub period: Period,
    /// Most to be spent in a period.
    pub limit: Money,
    /// Shares of the limit at which somebody is told, above 0 and at most 1.
    #[serde(default = "shares")]
    pub alert_at: Vec<f64>,
    /// Where alerts are posted to, as JSON; absent posts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Whether new work is refused once it is spent.
    #[serde(default)]
    pub hard: bool,
}

fn shares() -> Vec<f64> {
    vec![0.5, 0.9, 1.0]
}

impl MoneyBudget {
    fn check(&self, name: &str) -> Result<(), LedgerError> {
        let refuse = |reason: &str| Err(LedgerError::Budget { name: name.to_owned(), reason: reason.to_owned() });
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return refuse("a name has 1 to 64 letters, digits, `-`, `_` or `.`");
        }
        if self.limit <= Money::ZERO {
            return refuse("the limit must be more than 0");
        }
        if self.alert_at.len() > 10 || self.alert_at.iter().any(|share| !(*share > 0.0 && *share <= 1.0)) {
            return refuse("alert_at takes at most 10 shares above 0 and at most 1, such as 0.9");
        }
        let url = |url: &String| url.len() <= 2000 && (url.starts_with("https://") || url.starts_with("http://"));
        if !self.webhook.as_ref().is_none_or(url) {
            return refuse("a webhook is an address that begins with https:// or http://");
        }
        Ok(())
    }

    /// Thousandths of the limit at which somebody is told, in order.
    fn per_mille(&self) -> Vec<i64> {
        let mut shares: Vec<i64> = self.alert_at.iter().map(|share| (share * 1000.0).round() as i64).collect();
        shares.sort_unstable();
        shares.dedup();
        shares
    }
}

/// A budget and how it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BudgetStatus {
    /// Its name.
    pub name: String,
    /// The tenant that set it.
    pub owner: String,
    /// Whose money.
    pub scope: BudgetScope,
    /// When it begins anew.
    pub period: Period,
    /// Most to be spent in a period.
    pub limit: Money,
    /// Shares of the limit at which somebody is told.
    pub alert_at: Vec<f64>,
    /// Where alerts are posted to; absent posts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Whether new work is refused once it is spent.
    pub hard: bool,
    /// When the current period began.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub to: Timestamp,
    /// Spent in it so far.
    pub spent: Money,
    /// Expected to be spent by its end: what was spent so far, and for the rest of the period the mean rate of the last 24
    /// hours (of a day's budget) or 7 days (of a month's), or since the first record if that is later.
    pub forecast: Money,
}

/// What to tell when a share of a budget is spent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Name of the budget.
    pub budget: String,
    /// The tenant that set it.
    pub owner: String,
    /// Whose money.
    pub scope: BudgetScope,
    /// Its period.
    pub period: Period,
    /// When the period began.
    #[schema(value_type = String, format = DateTime)]
    pub from: Timestamp,
    /// The share that was reached.
    pub share: f64,
    /// Spent by then.
    pub spent: Money,
    /// The limit.
    pub limit: Money,
    /// Whether new work is refused once the limit is spent.
    pub hard: bool,
    /// When it was noticed.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// An alert that is to be posted.
#[derive(Debug, Clone, PartialEq)]
pub struct DueAlert {
    /// What to tell.
    pub alert: Alert,
    /// Where.
    pub webhook: String,
    /// How often it was tried before.
    pub attempts: u32,
}

/// A hard budget that is spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// Its name.
    pub name: String,
    /// Its limit.
    pub limit: Money,
    /// Its period.
    pub period: Period,
    /// When it begins anew.
    pub until: Timestamp,
}

/// A budget with what was spent of it.
#[derive(Debug, Clone)]
struct Metered {
    owner: String,
    name: String,
    budget: MoneyBudget,
    /// The period that `spent` is of.
    period: (Timestamp, Timestamp),
    spent: Money,
}

impl Metered {
    fn spent_at(&self, at: Timestamp) -> Money {
        if at < self.period.1 { self.spent } else { Money::ZERO }
    }

    fn spend(&mut self, record: &RequestRecord) {
        if record.at >= self.period.1 {
            let Some(period) = self.budget.period.around(record.at) else { return };
            (self.period, self.spent) = (period, Money::ZERO);
        }
        if record.at >= self.period.0 {
            self.spent += record.cost;
        }
    }
}

/// What was spent of every budget, as records come.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Meters>);

#[derive(Debug, Default)]
struct Meters {
    all: Vec<Metered>,
    /// Records that came while the database is asked, which may not have them yet. They may be counted twice then, until
    /// the next count: never less than was spent.
    meanwhile: Option<Vec<RequestRecord>>,
}

impl Meter {
    pub(crate) fn spend(&self, record: &RequestRecord) {
        let mut meters = lock(&self.0);
        if let Some(meanwhile) = &mut meters.meanwhile {
            meanwhile.push(record.clone());
        }
        spend(&mut meters.all, record);
    }
}

fn spend(meters: &mut [Metered], record: &RequestRecord) {
    let (key, collection) = (record.key.as_deref(), record.collection.as_ref().map(|c| c.as_str()));
    for metered in meters.iter_mut().filter(|m| m.budget.scope.takes(&record.tenant.0, key, collection)) {
        metered.spend(record);
    }
}

impl Ledger {
    /// The first hard budget that is spent and counts what this tenant, key and collection would use.
    pub fn exhausted(
        &self,
        at: Timestamp,
        tenant: &str,
        key: Option<&str>,
        collection: Option<&str>,
    ) -> Option<Exhausted> {
        let meters = lock(&self.meter.0);
        let counts = |m: &&Metered| m.budget.hard && m.budget.scope.takes(tenant, key, collection);
        let spent = meters.all.iter().filter(counts).find(|metered| metered.spent_at(at) >= metered.budget.limit)?;
        let MoneyBudget { limit, period, .. } = spent.budget;
        Some(Exhausted { name: spent.name.clone(), limit, period, until: spent.period.1 })
    }

    /// Sets a budget of `owner`, in place of one of the same name.
    ///
    /// # Errors
    /// [`LedgerError::Budget`] for one that makes no sense; failures of the database.
    pub fn set_budget(&self, owner: &str, name: &str, budget: &MoneyBudget, now: Timestamp) -> Result<(), LedgerError> {
        budget.check(name)?;
        let text = serde_json::to_string(budget)
            .map_err(|error| LedgerError::Budget { name: name.to_owned(), reason: error.to_string() })?;
        self.writing(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT OR REPLACE INTO budgets (owner, name, budget) VALUES (?1, ?2, ?3)",
                params![owner, name, text],
            )?;
            let count: i64 =
                transaction.query_row("SELECT count(*) FROM budgets WHERE owner = ?1", [owner], |row| row.get(0))?;
            if count > MOST_BUDGETS as i64 {
                let reason = format!("there are {MOST_BUDGETS} already: delete one first");
                return Err(LedgerError::Budget { name: name.to_owned(), reason });
            }
            // Shares of another limit are told anew.
            transaction.execute("DELETE FROM alerts WHERE owner = ?1 AND name = ?2", [owner, name])?;
            transaction.commit()?;
            Ok(())
        })?;
        self.recount(now)
    }

    /// Deletes a budget of `owner`.
    ///
    /// # Errors
    /// [`LedgerError::UnknownBudget`]; failures of the database.
    pub fn delete_budget(&self, owner: &str, name: &str, now: Timestamp) -> Result<(), LedgerError> {
        let deleted = self.writing(|connection| {
            connection.execute("DELETE FROM alerts WHERE owner = ?1 AND name = ?2", [owner, name])?;
            Ok(connection.execute("DELETE FROM budgets WHERE owner = ?1 AND name = ?2", [owner, name])?)
        })?;
        match deleted {
            0 => Err(LedgerError::UnknownBudget { name: name.to_owned() }),
            _ => self.recount(now),
        }
    }

    /// Takes the budgets, and what was spent of them in the period around `now`, from the database. To be called after
    /// opening, before which there are no budgets, and every now and then, since other processes spend too.
    pub fn recount(&self, now: Timestamp) -> Result<(), LedgerError> {
        self.counted(now).map(drop)
    }

    fn counted(&self, now: Timestamp) -> Result<Vec<Metered>, LedgerError> {
        lock(&self.meter.0).meanwhile = Some(Vec::new());
        let counted = self.count(now);
        let mut meters = lock(&self.meter.0);
        let meanwhile = meters.meanwhile.take().unwrap_or_default();
        let counted = counted?;
        meters.all.clone_from(&counted);
        meanwhile.iter().for_each(|record| spend(&mut meters.all, record));
        Ok(counted)
    }

    fn count(&self, now: Timestamp) -> Result<Vec<Metered>, LedgerError> {
        let stored = self.reading(|connection| {
            let mut select =
                connection.prepare_cached("SELECT owner, name, budget FROM budgets ORDER BY owner, name")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<Result<Vec<(String, String, String)>, _>>()?)
        })?;
        let mut all = Vec::with_capacity(stored.len());
        for (owner, name, text) in stored {
            let budget: MoneyBudget = serde_json::from_str(&text)
                .map_err(|error| LedgerError::Damaged { id: format!("budget {name}"), reason: error.to_string() })?;
            let Some(period) = budget.period.around(now) else { continue };
            let spent = self.spent(&budget, period.0, Some(period.1))?;
            all.push(Metered { owner, name, budget, period, spent });
        }
        Ok(all)
    }

    fn spent(&self, budget: &MoneyBudget, from: Timestamp, to: Option<Timestamp>) -> Result<Money, LedgerError> {
        let BudgetScope { tenant, key, collection } = budget.scope.clone();
        let filter = UsageFilter { tenant, key, collection, ..UsageFilter::default() };
        let query = UsageQuery { from: Some(from), to, filter, ..UsageQuery::default() };
        Ok(self.usage(&query)?.total.cost)
    }

    /// How the budgets of `owner`, or all, stand at `now`.
    pub fn budgets(&self, now: Timestamp, owner: Option<&str>) -> Result<Vec<BudgetStatus>, LedgerError> {
        let all = self.counted(now)?;
        let first: Option<i64> = self
            .reading(|c| Ok(c.query_row("SELECT min(at_us) FROM rollups WHERE span = ?1", [DAY], |row| row.get(0))?))?;
        let wanted = all.into_iter().filter(|metered| owner.is_none_or(|owner| owner == metered.owner));
        let status = |metered: Metered| {
            let Metered { owner, name, budget, period: (from, to), spent } = metered;
            let now_us = now.as_microsecond();
            let since = first.unwrap_or(now_us).max(now_us - budget.period.window());
            let recent = match Timestamp::from_microsecond(since) {
                Ok(since) => self.spent(&budget, since, Some(now))?,
                Err(_) => spent,
            };
            // At least an hour: the first minute of all says nothing about a day.
            let measured = i128::from((now_us - since).max(DAY / 24));
            let rest = i128::from((to.as_microsecond() - now_us).max(0));
            let more = i128::from(recent.nanos()) * rest / measured;
            let forecast = spent + Money::from_nanos(i64::try_from(more).unwrap_or(i64::MAX));
            let MoneyBudget { scope, period, limit, alert_at, webhook, hard } = budget;
            Ok(BudgetStatus { name, owner, scope, period, limit, alert_at, webhook, hard, from, to, spent, forecast })
        };
        wanted.map(status).collect()
    }

    /// Notes which shares were reached since the last call, and gives what is to be told. Of several shares that one budget
    /// reached at once, only the highest is told.
    pub fn new_alerts(&self, now: Timestamp) -> Result<Vec<Alert>, LedgerError> {
        let mut alerts = Vec::new();
        for Metered { owner, name, budget, period: (from, _), spent } in self.counted(now)? {
            let reached = |per_mille: &i64| {
                i128::from(spent.nanos()) * 1000 >= i128::from(budget.limit.nanos()) * i128::from(*per_mille)
            };
            let Some(per_mille) = budget.per_mille().into_iter().rfind(reached) else { continue };
            let told: bool = self.reading(|connection| {
                let told = "SELECT EXISTS (SELECT 1 FROM alerts WHERE owner = ?1 AND name = ?2 AND period_us = ?3 \
                            AND per_mille >= ?4)";
                let period = from.as_microsecond();
                Ok(connection.query_row(told, params![owner, name, period, per_mille], |row| row.get(0))?)
            })?;
            if told {
                continue;
            }
            let state = if budget.webhook.is_some() { "due" } else { "told" };
            self.writing(|connection| {
                connection.execute(
                    "INSERT OR IGNORE INTO alerts \
                     (owner, name, period_us, per_mille, at_us, spent_nanos, limit_nanos, state, attempts) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
                    params![
                        owner,
                        name,
                        from.as_microsecond(),
                        per_mille,
                        now.as_microsecond(),
                        spent.nanos(),
                        budget.limit.nanos(),
                        state
                    ],
                )?;
                Ok(())
            })?;
            let share = per_mille as f64 / 1000.0;
            let MoneyBudget { scope, period, limit, hard, .. } = budget;
            alerts.push(Alert { budget: name, owner, scope, period, from, share, spent, limit, hard, at: now });
        }
        Ok(alerts)
    }

    /// Alerts that are still to be posted, oldest first.
    pub fn due_alerts(&self) -> Result<Vec<DueAlert>, LedgerError> {
        let due = self.reading(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT owner, name, period_us, per_mille, at_us, spent_nanos, limit_nanos, attempts, budget \
                 FROM alerts JOIN budgets USING (owner, name) WHERE state = 'due' ORDER BY at_us, owner, name",
            )?;
            let rows = select.query_map([], |row| {
                let numbers: [i64; 5] = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
                Ok((row.get(0)?, row.get(1)?, numbers, row.get(7)?, row.get(8)?))
            })?;
            Ok(rows.collect::<Result<Vec<(String, String, [i64; 5], u32, String)>, _>>()?)
        })?;
        let read =
            |(owner, name, [from, per_mille, at, spent, limit], attempts, text): (_, String, [i64; 5], _, String)| {
                let damaged = |reason: String| LedgerError::Damaged { id: format!("alert of {name}"), reason };
                let budget: MoneyBudget = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
                let time = |us: i64| Timestamp::from_microsecond(us).map_err(|error| damaged(error.to_string()));
                let MoneyBudget { scope, period, webhook, hard, .. } = budget;
                let alert = Alert {
                    owner,
                    scope,
                    period,
                    from: time(from)?,
                    share: per_mille as f64 / 1000.0,
                    spent: Money::from_nanos(spent),
                    limit: Money::from_nanos(limit),
                    hard,
                    at: time(at)?,
                    budget: name.clone(),
                };
                Ok(webhook.map(|webhook| DueAlert { alert, webhook, attempts }))
            };
        due.into_iter().map(read).filter_map(Result::transpose).collect()
    }

    /// Notes what became of posting an alert: `None` if it was taken, else why not. It is given up after `most` attempts.
    pub fn posted(&self, due: &DueAlert, error: Option<&str>, most: u32) -> Result<(), LedgerError> {
        let state = match error {
            None => "told",
            Some(_) if due.attempts + 1 >= most => "given up",
            Some(_) => "due",
        };
        let Alert { owner, budget, from, share, .. } = &due.alert;
        self.writing(|connection| {
            connection.execute(
                "UPDATE alerts SET state = ?1, attempts = attempts + 1, error = ?2 \
                 WHERE owner = ?3 AND name = ?4 AND period_us = ?5 AND per_mille = ?6",
                params![state, error, owner, budget, from.as_microsecond(), (share * 1000.0).round() as i64],
            )?;
            Ok(())
        })
    }

    /// When the last record came, if there is one.
    pub fn newest(&self) -> Result<Option<Timestamp>, LedgerError> {
        let newest: Option<i64> = self.reading(|connection| {
            Ok(connection.query_row("SELECT max(at_us) FROM requests", [], |row| row.get(0)).optional()?.flatten())
        })?;
        Ok(newest.and_then(|us| Timestamp::from_microsecond(us).ok()))
    }
}
