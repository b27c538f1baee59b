//! What work costs, and from when.
//!
//! Invariant: the price of a moment never depends on entries that begin later, so that new prices change no cost of before.

use std::{collections::BTreeMap, path::Path};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Deserialize;

use edgewise_types::{HourPrice, Money, TokenPrice, Usage};

use crate::LedgerError;

const EMBEDDED: &str = include_str!("../../../config/prices.toml");

/// Prices of one model: by token, in dollars per million tokens, or by hour. What is not in force is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelPrices {
    /// A prompt token that is prefilled and not kept.
    pub input: TokenPrice,
    /// A prompt token whose keys and values are resident.
    pub cache_read: TokenPrice,
    /// A prompt token that is prefilled and kept for five minutes.
    pub cache_write_5m: TokenPrice,
    /// A prompt token that is prefilled and kept for an hour.
    pub cache_write_1h: TokenPrice,
    /// A token of the answer.
    pub output: TokenPrice,
    /// An hour of the engine.
    pub hour: HourPrice,
}

impl ModelPrices {
    /// The exact cost of the tokens of `usage`.
    pub fn cost(&self, usage: &Usage) -> Money {
        self.input.cost(usage.input_tokens)
            + self.cache_read.cost(usage.cache_read_tokens)
            + self.cache_write_5m.cost(usage.cache_write_5m_tokens)
            + self.cache_write_1h.cost(usage.cache_write_1h_tokens)
            + self.output.cost(usage.output_tokens)
    }

    /// The cost of `usage` that took the engine `ms` milliseconds. Only a price by hour depends on the time.
    pub fn cost_of(&self, usage: &Usage, ms: f64) -> Money {
        // The cast takes an undefined or negative time for 0.
        self.cost(usage) + self.hour.cost((ms * 1e3).round() as u64)
    }
}

/// Prices of all models over time. The file `config/prices.toml` is the built-in one and documents the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceBook {
    /// Of models without an entry.
    default: History,
    /// By registry name.
    models: BTreeMap<String, History>,
}

/// Prices by the day they begin; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
struct History {
    /// In force before the second entry begins.
    first: ModelPrices,
    later: BTreeMap<Date, ModelPrices>,
}

impl History {
    fn at(&self, date: Date) -> ModelPrices {
        self.later.range(..=date).next_back().map_or(self.first, |(_, prices)| *prices)
    }
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    default: Vec<Entry>,
    #[serde(default)]
    models: BTreeMap<String, Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    from: Date,
    input: Option<TokenPrice>,
    cache_read: Option<TokenPrice>,
    cache_write_5m: Option<TokenPrice>,
    cache_write_1h: Option<TokenPrice>,
    output: Option<TokenPrice>,
    hour: Option<HourPrice>,
}

impl Entry {
    fn prices(&self) -> Result<ModelPrices, String> {
        let tokens = [
            ("input", self.input),
            ("cache_read", self.cache_read),
            ("cache_write_5m", self.cache_write_5m),
            ("cache_write_1h", self.cache_write_1h),
            ("output", self.output),
        ];
        if let Some(hour) = self.hour {
            if let Some((name, _)) = tokens.iter().find(|(_, price)| price.is_some()) {
                return Err(format!("has both `hour` and `{name}`: give prices by hour or by token"));
            }
            if hour.cost(3_600_000_000) < Money::ZERO {
                return Err("has a negative price: prices are at least 0".to_owned());
            }
            return Ok(ModelPrices { hour, ..ModelPrices::default() });
        }
        let given = |(name, price): (&str, Option<TokenPrice>)| match price {
            None => Err(format!("has no price `{name}`: give all five prices by token, or `hour`")),
            Some(price) if price.cost(1) < Money::ZERO => {
                Err(format!("has a negative price `{name}`: prices are at least 0"))
            }
            Some(price) => Ok(price),
        };
        let [input, cache_read, cache_write_5m, cache_write_1h, output] = tokens.map(given);
        Ok(ModelPrices {
            input: input?,
            cache_read: cache_read?,
            cache_write_5m: cache_write_5m?,
            cache_write_1h: cache_write_1h?,
            output: output?,
            hour: HourPrice::default(),
        })
    }
}

fn history(model: &str, entries: &[Entry]) -> Result<History, String> {
    let mut later = BTreeMap::new();
    for entry in entries {
        let prices = entry.prices().map_err(|wrong| format!("the entry of `{model}` from {} {wrong}", entry.from))?;
        if later.insert(entry.from, prices).is_some() {
            return Err(format!("`{model}` has two entries from {}: keep one of them", entry.from));
        }
    }
    match later.pop_first() {
        Some((_, first)) => Ok(History { first, later }),
        None => Err(format!("`{model}` has no entry: give at least one, or leave it out")),
    }
}

impl PriceBook {
    /// The built-in prices.
    pub fn embedded() -> Result<Self, LedgerError> {
        Self::parse(EMBEDDED, "config/prices.toml (built in)")
    }

    /// The prices in `file`.
    pub fn load(file: &Path) -> Result<Self, LedgerError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| LedgerError::ReadPrices { file: file.to_owned(), source })?;
        Self::parse(&text, &file.display().to_string())
    }

    /// The same prices for every model, at any time.
    pub fn flat(prices: ModelPrices) -> Self {
        Self { default: History { first: prices, later: BTreeMap::new() }, models: BTreeMap::new() }
    }

    /// The prices in `text`, which error messages call `file`. Unknown keys, missing prices, negative ones and two entries
    /// of one day are refused.
    pub fn parse(text: &str, file: &str) -> Result<Self, LedgerError> {
        let refuse = |message: String| LedgerError::Prices { file: file.to_owned(), message };
        let PriceFile { default, models } = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let models = models.iter().map(|(model, entries)| Ok((model.clone(), history(model, entries)?)));
        Ok(Self {
            default: history("default", &default).map_err(refuse)?,
            models: models.collect::<Result<_, _>>().map_err(refuse)?,
        })
    }

    /// Whether there are prices for `model` itself.
    pub fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// The prices of `model`, or the default ones, at a moment. Before its first entry, a model has the prices of that.
    pub fn of(&self, model: &str, at: Timestamp) -> ModelPrices {
        let history = self.models.get(model).unwrap_or(&self.default);
        history.at(at.to_zoned(TimeZone::UTC).date())
    }

    /// The prices of `model`'s first entry, or of the default's: for measurements that must not depend on the day.
    pub fn earliest(&self, model: &str) -> ModelPrices {
        self.models.get(model).unwrap_or(&self.default).first
    }

    /// The exact cost of the tokens of `usage` on `model` at a moment.
    pub fn cost(&self, model: &str, usage: &Usage, at: Timestamp) -> Money {
        self.of(model, at).cost(usage)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PRICES: &str = r#"
        [[default]]
        from = "2026-01-31"
        input = "1"
        cache_read = "0.1"
        cache_write_5m = "1.25"
        cache_write_1h = "2"
        output = "5"
        [[models.small]]
        from = "2026-01-31"
        input = "0.02"
        cache_read = "0.002"
        cache_write_5m = "0.025"
        cache_write_1h = "0.04"
        output = "0.08"
        [[models.rented]]
        from = "2026-01-31"
        hour = "3.60"
    "#;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_built_in_file_is_valid() {
        let default = PriceBook::embedded().unwrap().of("unheard-of", at("2026-06-01T00:00:00Z"));
        assert!(default.cache_read.cost(1) < default.input.cost(1));
    }

    #[test]
    fn each_class_of_tokens_has_its_own_price() {
        let book = PriceBook::parse(PRICES, "test").unwrap();
        let usage = Usage {
            input_tokens: 1,
            cache_read_tokens: 10,
            cache_write_5m_tokens: 100,
            cache_write_1h_tokens: 1000,
            output_tokens: 10000,
        };
        let now = at("2026-02-01T00:00:00Z");
        assert_eq!(book.cost("other", &usage, now).nanos(), 1000 + 10 * 100 + 100 * 1250 + 1000 * 2000 + 10000 * 5000);
        assert_eq!(book.cost("small", &usage, now).nanos(), 20 + 10 * 2 + 100 * 25 + 1000 * 40 + 10000 * 80);
        assert_eq!(book.of("small", now).cost_of(&usage, 9e9), book.cost("small", &usage, now), "time is free there");
    }

    #[test]
    fn an_hour_of_the_engine_has_a_price() {
        let rented = PriceBook::parse(PRICES, "test").unwrap().of("rented", at("2026-02-01T00:00:00Z"));
        let usage = Usage { input_tokens: 1000, ..Usage::default() };
        assert_eq!(rented.cost(&usage), Money::ZERO);
        assert_eq!(rented.cost_of(&usage, 1000.0).to_string(), "0.001");
        assert_eq!(rented.cost_of(&usage, f64::NAN), Money::ZERO);
    }

    #[test]
    fn prices_hold_from_their_day_until_the_next_ones() {
        let more = "\n[[models.rented]]\nfrom = \"2026-03-01\"\nhour = \"7.20\"\n";
        let book = PriceBook::parse(&format!("{PRICES}{more}"), "test").unwrap();
        let cost = |time: &str| book.of("rented", at(time)).cost_of(&Usage::default(), 1000.0).to_string();
        assert_eq!(cost("2026-02-28T23:59:59Z"), "0.001");
        assert_eq!(cost("2026-03-01T00:00:00Z"), "0.002");
        assert_eq!(cost("2025-01-01T00:00:00Z"), "0.001", "before the first entry, the first");
        // The order in the file does not matter.
        let turned =
            PriceBook::parse(&format!("[[models.rented]]\nfrom = \"2027-01-01\"\nhour = \"9\"\n{PRICES}"), "test");
        assert_eq!(
            turned.unwrap().of("rented", at("2026-05-01T00:00:00Z")),
            book.of("rented", at("2026-02-01T00:00:00Z"))
        );
    }

    #[test]
    fn mistakes_are_refused_with_the_place() {
        let refused =
            |from: &str, to: &str| PriceBook::parse(&PRICES.replacen(from, to, 1), "p.toml").unwrap_err().to_string();
        assert!(refused("cache_read = \"0.1\"", "cached = \"0.1\"").contains("cached"), "an unknown key is named");
        assert!(refused("output = \"5\"", "").contains("output"), "a missing price is named");
        assert!(refused("\"1.25\"", "\"1.2345\"").contains("1.2345"), "a price that is not exact is refused");
        assert!(refused("\"1.25\"", "1.25").contains("line 6"), "a floating-point number is refused with its line");
        assert!(refused("input = \"0.02\"", "input = \"-0.02\"").contains("`small`"));
        assert!(refused("hour = \"3.60\"", "hour = \"-3.60\"").contains("negative"));
        assert!(refused("hour = \"3.60\"", "hour = \"3.60\"\ninput = \"1\"").contains("by hour or by token"));
        assert!(refused("2026-01-31", "2026-02-31").contains("p.toml"), "there is no such day");
        assert!(refused("[[models.rented]]", "[[models.small]]").contains("two entries"));
        assert!(PriceBook::parse("default = []", "p.toml").unwrap_err().to_string().contains("no entry"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = PriceBook::load(Path::new("/nowhere/prices.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/prices.toml"));
    }
}
