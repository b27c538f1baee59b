//! Exact money. No floating point: a price is nano-dollars per token, a cost is a sum of products of integers.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Sub},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number, or one with too many decimals to be exact.
    #[error(
        "`{text}` is not an amount in dollars: write a decimal number with at most {decimals} decimals, like `0.15`"
    )]
    Malformed {
        /// The text as given.
        text: String,
        /// How many decimals are representable.
        decimals: usize,
    },
}

/// Integer nano-dollars (10⁻⁹ US dollars). Serialised as a decimal string in dollars, `"0.000153"`, so that no JSON
/// reader rounds it. Arithmetic saturates at ±9.2 billion dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "0.000153")]
pub struct Money(i64);

const NANOS_PER_DOLLAR: i64 = 1_000_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Money = Money(0);

    /// From nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nano-dollars.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// In dollars, for a chart or a weight in a score; never for adding up.
    pub fn as_dollars_lossy(self) -> f64 {
        self.0 as f64 / NANOS_PER_DOLLAR as f64
    }
}

/// Parses `[-]digits[.digits]` into an integer scaled by `10^decimals`.
fn parse_decimal(text: &str, decimals: usize) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if fraction.is_empty() {
        return None;
    }
    let numeric = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let fraction = if fraction.len() > decimals { fraction.trim_end_matches('0') } else { fraction };
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    if !numeric(whole) || !numeric(fraction) || fraction.len() > decimals {
        return None;
    }
    let scale = 10i64.checked_pow(decimals as u32)?;
    let padded: i64 = format!("{fraction:0<decimals$}").parse().ok()?;
    let value = whole.parse::<i64>().ok()?.checked_mul(scale)?.checked_add(padded)?;
    Some(if negative { -value } else { value })
}

impl fmt::Display for Money {
    /// Dollars with as many decimals as needed, at least two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let (whole, fraction) = (nanos / NANOS_PER_DOLLAR as u64, nanos % NANOS_PER_DOLLAR as u64);
        let fraction = format!("{fraction:09}");
        let kept = fraction.trim_end_matches('0').len().max(2);
        write!(f, "{sign}{whole}.{}", &fraction[..kept])
    }
}

impl FromStr for Money {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse_decimal(text, 9).map(Self).ok_or_else(|| MoneyError::Malformed { text: text.to_owned(), decimals: 9 })
    }
}

impl TryFrom<String> for Money {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> String {
        money.to_string()
    }
}

impl Add for Money {
    type Output = Money;
    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Money) {
        *self = *self + other;
    }
}

impl Sub for Money {
    type Output = Money;
    fn sub(self, other: Money) -> Money {
        Money(self.0.saturating_sub(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Money>>(iter: I) -> Money {
        iter.fold(Money::ZERO, Add::add)
    }
}

/// Price of one token, in nano-dollars. Written as dollars per million tokens, `"0.15"`: at most three decimals, which
/// makes it a whole number of nano-dollars per token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "0.15")]
pub struct TokenPrice(i64);

impl TokenPrice {
    /// From nano-dollars per token.
    pub const fn from_nanos_per_token(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The cost of `tokens` tokens.
    pub fn cost(self, tokens: usize) -> Money {
        Money(self.0.saturating_mul(i64::try_from(tokens).unwrap_or(i64::MAX)))
    }
}

impl FromStr for TokenPrice {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        parse_decimal(text, 3).map(Self).ok_or_else(|| MoneyError::Malformed { text: text.to_owned(), decimals: 3 })
    }
}

impl TryFrom<String> for TokenPrice {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl From<TokenPrice> for String {
    fn from(price: TokenPrice) -> String {
        price.to_string()
    }
}

impl fmt::Display for TokenPrice {
    /// Dollars per million tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nano-dollars per token = milli-dollars per million tokens.
        Money(self.0.saturating_mul(1_000_000)).fmt(f)
    }
}

/// Price of an hour of an engine, in nano-dollars. Written as dollars per hour, `"2.49"`, with at most nine decimals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "2.49")]
pub struct HourPrice(Money);

impl HourPrice {
    /// From nano-dollars per hour.
    pub const fn from_nanos_per_hour(nanos: i64) -> Self {
        Self(Money(nanos))
    }

    /// The cost of this many microseconds, rounded once to the nearest nano-dollar.
    pub fn cost(self, us: u64) -> Money {
        const HOUR: i128 = 3_600_000_000;
        let product = i128::from(self.0.0) * i128::from(us);
        let rounded = (product + HOUR / 2).div_euclid(HOUR);
        Money(i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_price_per_million_is_exact_per_token() {
        let price: TokenPrice = "0.15".parse().unwrap();
        assert_eq!(price.cost(1_000_000).to_string(), "0.15");
        assert_eq!(price.cost(1).nanos(), 150);
        assert_eq!("3.75".parse::<TokenPrice>().unwrap().to_string(), "3.75");
    }

    #[test]
    fn malformed_amounts_are_refused() {
        for bad in ["", ".", "1.", ".5", "1e3", "+1", "1,5", "--1", "0.0001", "NaN", "99999999999999999999"] {
            assert!(bad.parse::<TokenPrice>().is_err(), "{bad}");
        }
        assert_eq!("1.5000".parse::<TokenPrice>().unwrap().to_string(), "1.50");
    }

    #[test]
    fn a_price_per_hour_is_rounded_once() {
        let price: HourPrice = serde_json::from_str("\"3.60\"").unwrap();
        assert_eq!(price.cost(3_600_000_000).to_string(), "3.60");
        assert_eq!((price.cost(1).nanos(), price.cost(0).nanos()), (1, 0));
        assert_eq!(HourPrice::from_nanos_per_hour(1_800_000_000).cost(3).nanos(), 2, "1.5 is rounded up");
        assert_eq!(HourPrice::from_nanos_per_hour(i64::MAX).cost(u64::MAX).nanos(), i64::MAX);
        assert_eq!(serde_json::to_string(&price).unwrap(), "\"3.60\"");
    }

    proptest! {
        #[test]
        fn text_round_trips(nanos in any::<i64>().prop_filter("negatable", |n| *n != i64::MIN)) {
            let money = Money::from_nanos(nanos);
            prop_assert_eq!(money.to_string().parse::<Money>().unwrap(), money);
        }

        #[test]
        fn sums_do_not_depend_on_order(mut amounts in prop::collection::vec(-1_000_000_000i64..1_000_000_000, 0..50)) {
            let forward: Money = amounts.iter().copied().map(Money::from_nanos).sum();
            amounts.reverse();
            let backward: Money = amounts.into_iter().map(Money::from_nanos).sum();
            prop_assert_eq!(forward, backward);
        }
    }
}
