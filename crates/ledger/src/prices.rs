//! What tokens cost.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{Money, TokenPrice, Usage};

use crate::LedgerError;

const EMBEDDED: &str = include_str!("../../../config/prices.toml");

/// Prices of one model, in dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
}

impl ModelPrices {
    /// The exact cost of `usage`.
    pub fn cost(&self, usage: &Usage) -> Money {
        self.input.cost(usage.input_tokens)
            + self.cache_read.cost(usage.cache_read_tokens)
            + self.cache_write_5m.cost(usage.cache_write_5m_tokens)
            + self.cache_write_1h.cost(usage.cache_write_1h_tokens)
            + self.output.cost(usage.output_tokens)
    }
}

/// Prices of all models. The file `config/prices.toml` is the built-in one and documents the form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceBook {
    /// The day the prices took effect.
    #[schema(value_type = String, format = Date)]
    pub effective: jiff::civil::Date,
    /// Prices of models without an entry.
    pub default: ModelPrices,
    /// Prices by registry name.
    #[serde(default)]
    pub models: BTreeMap<String, ModelPrices>,
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

    /// The prices in `text`, which error messages call `file`. Unknown keys, missing prices and negative ones are
    /// refused.
    pub fn parse(text: &str, file: &str) -> Result<Self, LedgerError> {
        let refuse = |message: String| LedgerError::Prices { file: file.to_owned(), message };
        let book: Self = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let all = book.models.iter().map(|(name, prices)| (name.as_str(), prices)).chain([("default", &book.default)]);
        for (model, p) in all {
            let prices = [p.input, p.cache_read, p.cache_write_5m, p.cache_write_1h, p.output];
            if prices.iter().any(|price| price.cost(1) < Money::ZERO) {
                return Err(refuse(format!("a price of `{model}` is negative: prices are at least 0")));
            }
        }
        Ok(book)
    }

    /// The prices of `model`, or the default ones.
    pub fn of(&self, model: &str) -> &ModelPrices {
        self.models.get(model).unwrap_or(&self.default)
    }

    /// The exact cost of `usage` on `model`.
    pub fn cost(&self, model: &str, usage: &Usage) -> Money {
        self.of(model).cost(usage)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PRICES: &str = r#"
        effective = "2026-01-31"
        [default]
        input = "1"
        cache_read = "0.1"
        cache_write_5m = "1.25"
        cache_write_1h = "2"
        output = "5"
        [models."small"]
        input = "0.02"
        cache_read = "0.002"
        cache_write_5m = "0.025"
        cache_write_1h = "0.04"
        output = "0.08"
    "#;

    #[test]
    fn the_built_in_file_is_valid() {
        let book = PriceBook::embedded().unwrap();
        assert!(book.default.cache_read.cost(1) < book.default.input.cost(1));
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
        assert_eq!(book.cost("other", &usage).nanos(), 1000 + 10 * 100 + 100 * 1250 + 1000 * 2000 + 10000 * 5000);
        assert_eq!(book.cost("small", &usage).nanos(), 20 + 10 * 2 + 100 * 25 + 1000 * 40 + 10000 * 80);
    }

    #[test]
    fn mistakes_are_refused_with_the_place() {
        let refused =
            |from: &str, to: &str| PriceBook::parse(&PRICES.replacen(from, to, 1), "p.toml").unwrap_err().to_string();
        assert!(refused("cache_read = \"0.1\"", "cached = \"0.1\"").contains("cached"), "an unknown key is named");
        assert!(refused("output = \"5\"", "").contains("output"), "a missing price is named");
        assert!(refused("\"1.25\"", "\"1.2345\"").contains("1.2345"), "a price that is not exact is refused");
        assert!(refused("\"1.25\"", "1.25").contains("line 6"), "a floating-point number is refused with its line");
        assert!(refused("input = \"0.02\"", "input = \"-0.02\"").contains("`small` is negative"));
        assert!(refused("2026-01-31", "2026-02-31").contains("p.toml"), "there is no such day");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = PriceBook::load(Path::new("/nowhere/prices.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/prices.toml"));
    }
}
