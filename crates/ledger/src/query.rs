//! Sums by any dimensions, over any time, in any steps.
//!
//! A stretch of time is covered by the longest spans that roll-ups exist for, and by single records where it begins or ends
//! within a minute, so that the sums are those of exactly the records in it. Before the oldest record that is kept, a stretch
//! is widened to full hours, and the answer says so.

use std::{collections::BTreeMap, str::FromStr};

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Ledger, LedgerError, RequestRecord, Sums,
    retention::{self, mark},
    rollup::{self, DAY, HOUR, MINUTE, Values, ceil, floor},
    rows,
    sums::Tally,
};

/// Most rows of a report.
pub const MOST_GROUPS: usize = 50_000;

/// Full days before and behind every time there can be.
const FIRST: i64 = -4_400_000 * DAY;
const LAST: i64 = 3_100_000 * DAY;

/// What sums are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Tenant.
    Tenant,
    /// Public id of the key.
    Key,
    /// Collection.
    Collection,
    /// Model.
    Model,
    /// Route taken.
    Route,
    /// How requests ended.
    Status,
    /// What the work was for.
    Work,
}

impl Dimension {
    /// All of them, in the order of the roll-ups' values.
    pub const ALL: [Self; rollup::DIMENSIONS] =
        [Self::Tenant, Self::Key, Self::Collection, Self::Model, Self::Route, Self::Status, Self::Work];

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Collection => "collection",
            Self::Model => "model",
            Self::Route => "route",
            Self::Status => "status",
            Self::Work => "work",
        }
    }

    fn of(self, values: &Values) -> &str {
        &values[self as usize]
    }
}

impl FromStr for Dimension {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|dimension| dimension.as_str() == name).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.into_iter().map(Self::as_str).collect();
            format!("`{name}` is nothing to group by; there are {}", all.join(", "))
        })
    }
}

/// Steps of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Days in UTC.
    Day,
}

impl Interval {
    /// Its length in microseconds.
    fn span(self) -> i64 {
        match self {
            Self::Minute => MINUTE,
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }
}

impl FromStr for Interval {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "minute" => Ok(Self::Minute),
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            _ => Err(format!("`{name}` is no interval; there are minute, hour and day")),
        }
    }
}

/// Which records count; absent dimensions take all. An empty text takes records without a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// The tenant.
    pub tenant: Option<String>,
    /// The key.
    pub key: Option<String>,
    /// The collection.
    pub collection: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The route.
    pub route: Option<String>,
    /// How requests ended.
    pub status: Option<String>,
    /// What the work was for.
    pub work: Option<String>,
}

impl UsageFilter {
    /// What one tenant used.
    pub fn tenant(tenant: &edgewise_types::TenantId) -> Self {
        Self { tenant: Some(tenant.0.to_string()), ..Self::default() }
    }

    fn takes(&self, values: &Values) -> bool {
        let wanted = [&self.tenant, &self.key, &self.collection, &self.model, &self.route, &self.status, &self.work];
        wanted.iter().zip(values).all(|(wanted, value)| wanted.as_ref().is_none_or(|wanted| wanted == value))
    }
}

/// What to sum up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// First moment; absent begins with the first record there ever was.
    pub from: Option<jiff::Timestamp>,
    /// First moment that is not counted any more; absent has no end.
    pub to: Option<jiff::Timestamp>,
    /// What to group by, in this order.
    pub by: Vec<Dimension>,
    /// Steps of time to group by; absent takes all of it as one.
    pub interval: Option<Interval>,
    /// Which records count.
    pub filter: UsageFilter,
}

/// The sums of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageGroup {
    /// When its step of time begins; absent without steps.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<jiff::Timestamp>,
    /// Its value of each dimension that is grouped by; empty where the records have none.
    pub keys: BTreeMap<String, String>,
    /// Its sums.
    pub sums: Sums,
}

/// Sums by group, and over everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageTable {
    /// The first moment that is counted, where it was given: earlier than asked for where that is before the oldest record
    /// that is kept.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<jiff::Timestamp>,
    /// The first moment that is not, where it was given.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<jiff::Timestamp>,
    /// In order of time, then of the dimensions. Groups without records are left out.
    pub groups: Vec<UsageGroup>,
    /// Over all groups.
    pub total: Sums,
    /// The same by route, whatever the groups are by.
    #[serde(default)]
    pub by_route: BTreeMap<String, Sums>,
}

/// Where the sums of a stretch of time come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Records,
    Rollups(i64),
}

/// A stretch of time and where its sums come from.
type Piece = (Source, i64, i64);

/// Covers `from..to` by roll-ups of at most `span`, and by records where those do not fit.
fn cover(from: i64, to: i64, span: i64, minutes_from: i64, pieces: &mut Vec<Piece>) {
    if from >= to {
        return;
    }
    let shorter = match span {
        DAY => HOUR,
        HOUR => MINUTE,
        _ => {
            let (a, b) = (ceil(from.max(minutes_from), MINUTE), floor(to, MINUTE));
            if a < b {
                let parts = [(Source::Records, from, a), (Source::Rollups(MINUTE), a, b), (Source::Records, b, to)];
                pieces.extend(parts.into_iter().filter(|(_, from, to)| from < to));
            } else {
                pieces.push((Source::Records, from, to));
            }
            return;
        }
    };
    let (a, b) = (ceil(from, span), floor(to, span));
    if a < b {
        cover(from, a, shorter, minutes_from, pieces);
        pieces.push((Source::Rollups(span), a, b));
        cover(b, to, shorter, minutes_from, pieces);
    } else {
        cover(from, to, shorter, minutes_from, pieces);
    }
}

/// Groups while they are summed up.
struct Groups<'q> {
    query: &'q UsageQuery,
    groups: BTreeMap<(Option<i64>, Vec<String>), Tally>,
    /// Sums by route. Together they are those of everything, so that each row is added up twice only.
    routes: BTreeMap<String, Tally>,
}

impl Groups<'_> {
    fn tally(&mut self, at: i64, values: &Values) -> &mut Tally {
        let step = self.query.interval.map(|interval| floor(at, interval.span()));
        let keys = self.query.by.iter().map(|dimension| dimension.of(values).to_owned()).collect();
        self.groups.entry((step, keys)).or_default()
    }

    /// The sums of the route of `values`.
    fn route(&mut self, values: &Values) -> &mut Tally {
        self.routes.entry(Dimension::Route.of(values).to_owned()).or_default()
    }

    fn check(&self) -> Result<(), LedgerError> {
        match self.groups.len() {
            0..=MOST_GROUPS => Ok(()),
            _ => Err(LedgerError::TooManyGroups { most: MOST_GROUPS }),
        }
    }

    fn records(&mut self, connection: &Connection, from: i64, to: i64) -> Result<(), LedgerError> {
        let mut select = connection
            .prepare_cached(&format!("SELECT {} FROM requests WHERE at_us >= ?1 AND at_us < ?2", rows::COLUMNS))?;
        let mut found = select.query([from, to])?;
        while let Some(row) = found.next()? {
            let record: RequestRecord = rows::read(row)?;
            let values = rollup::values(&record);
            if self.query.filter.takes(&values) {
                self.tally(record.at.as_microsecond(), &values).record(&record);
                self.route(&values).record(&record);
                self.check()?;
            }
        }
        Ok(())
    }

    fn rollups(
        &mut self,
        connection: &Connection,
        combinations: &BTreeMap<i64, Values>,
        (span, from, to): (i64, i64, i64),
    ) -> Result<(), LedgerError> {
        let mut select = connection.prepare_cached(&format!(
            "SELECT at_us, dimensions, {} FROM rollups WHERE span = ?1 AND at_us >= ?2 AND at_us < ?3",
            rollup::COLUMNS
        ))?;
        let mut found = select.query([span, from, to])?;
        while let Some(row) = found.next()? {
            // Those that the filter does not take are not among them.
            let Some(values) = combinations.get(&row.get(1)?) else { continue };
            let more = rollup::read(row, 2)?;
            self.tally(row.get(0)?, values).merge(&more);
            self.route(values).merge(&more);
            self.check()?;
        }
        Ok(())
    }
}

/// The combinations of values that the filter takes, by number.
fn combinations(connection: &Connection, filter: &UsageFilter) -> Result<BTreeMap<i64, Values>, LedgerError> {
    let mut select =
        connection.prepare_cached(&format!("SELECT number, {} FROM dimensions", rollup::DIMENSION_COLUMNS))?;
    let mut found = select.query([])?;
    let mut combinations = BTreeMap::new();
    while let Some(row) = found.next()? {
        let mut values = Values::default();
        for (column, value) in values.iter_mut().enumerate() {
            *value = row.get(column + 1)?;
        }
        if filter.takes(&values) {
            combinations.insert(row.get(0)?, values);
        }
    }
    Ok(combinations)
}

fn timestamp(us: i64) -> Result<jiff::Timestamp, LedgerError> {
    jiff::Timestamp::from_microsecond(us)
        .map_err(|error| LedgerError::Damaged { id: "roll-up".to_owned(), reason: error.to_string() })
}

impl Ledger {
    /// Sums up records.
    ///
    /// # Errors
    /// [`LedgerError::TooManyGroups`]; failures of the database.
    pub fn usage(&self, query: &UsageQuery) -> Result<UsageTable, LedgerError> {
        self.reading(|connection| {
            // One moment for all pieces: a record that is added meanwhile is in all of them or in none.
            let connection = &*connection.transaction()?;
            sum_up(connection, query)
        })
    }
}

fn sum_up(connection: &Connection, query: &UsageQuery) -> Result<UsageTable, LedgerError> {
    let records_from = mark(connection, retention::RECORDS)?.unwrap_or(i64::MIN);
    let minutes_from = mark(connection, retention::MINUTES)?.unwrap_or(FIRST);
    // Single records are gone there: only full hours have sums.
    let from = query.from.map(|from| from.as_microsecond());
    let from = from.map(|from| if from < records_from { floor(from, HOUR) } else { from });
    let to = query.to.map(|to| to.as_microsecond());
    let to = to.map(|to| if to < records_from { ceil(to, HOUR) } else { to });
    let combinations = combinations(connection, &query.filter)?;
    let mut groups = Groups { query, groups: BTreeMap::new(), routes: BTreeMap::new() };
    let mut pieces = Vec::new();
    let longest = query.interval.map_or(DAY, Interval::span);
    let (first, last) = (from.unwrap_or(FIRST), to.unwrap_or(LAST));
    match longest {
        // What was asked for by the minute is only there by the hour before that.
        MINUTE => {
            let cut = ceil(records_from.max(FIRST), HOUR).clamp(first, last.max(first));
            cover(first, cut, DAY, minutes_from, &mut pieces);
            cover(cut, last, MINUTE, minutes_from, &mut pieces);
        }
        _ => cover(first, last, longest, minutes_from, &mut pieces),
    }
    for (source, from, to) in pieces {
        match source {
            Source::Records => groups.records(connection, from, to)?,
            Source::Rollups(span) => groups.rollups(connection, &combinations, (span, from, to))?,
        }
    }
    let Groups { groups, routes, .. } = groups;
    let mut total = Tally::default();
    routes.values().for_each(|tally| total.merge(tally));
    let groups = groups.into_iter().map(|((at, values), tally)| {
        let keys = query.by.iter().map(|dimension| dimension.as_str().to_owned()).zip(values).collect();
        Ok(UsageGroup { at: at.map(timestamp).transpose()?, keys, sums: tally.into_sums() })
    });
    Ok(UsageTable {
        from: from.map(timestamp).transpose()?,
        to: to.map(timestamp).transpose()?,
        groups: groups.collect::<Result<_, LedgerError>>()?,
        total: total.into_sums(),
        by_route: routes.into_iter().map(|(route, tally)| (route, tally.into_sums())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_follow_each_other_and_cover_everything(
            from in -3 * DAY..3 * DAY, length in 0..5 * DAY, span in prop::sample::select(rollup::SPANS.to_vec()),
            minutes_from in -4 * DAY..4 * DAY,
        ) {
            let mut pieces = Vec::new();
            cover(from, from + length, span, minutes_from, &mut pieces);
            let mut at = from;
            for (source, from, to) in pieces {
                prop_assert!(from == at && to > from);
                at = to;
                if let Source::Rollups(of) = source {
                    prop_assert!(of <= span && from % of == 0 && to % of == 0);
                    prop_assert!(of > MINUTE || from >= minutes_from);
                }
            }
            prop_assert_eq!(at, from + length);
        }
    }

    #[test]
    fn names_lead_back() {
        for dimension in Dimension::ALL {
            assert_eq!(dimension.as_str().parse(), Ok(dimension));
            assert_eq!(serde_json::to_value(dimension).ok(), Some(dimension.as_str().into()));
        }
        assert!("colour".parse::<Dimension>().is_err_and(|error| error.contains("collection")));
        assert!("year".parse::<Interval>().is_err());
    }
}
