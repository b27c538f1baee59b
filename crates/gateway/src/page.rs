//! Pages of lists.
//!
//! A list's `next` is a cursor: where it goes on, to be sent back as `cursor`. It names the last item of the page rather
//! than a number of items, so that nothing is left out or repeated when others come or go meanwhile. What is in it is
//! nobody's business and may change.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::{ApiError, ErrorKind};

/// Most items of one page.
pub(crate) const MAX_LIMIT: usize = 1000;

/// Longest cursor taken from a client, in characters.
const MAX_CURSOR: usize = 8192;

/// What stands between the parts of a cursor: no key holds it, as control characters are refused in all of them.
const SEPARATOR: char = '\u{1f}';

/// Which part of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageParams {
    /// Most items to return, 1 to 1,000; absent is 100.
    #[serde(default)]
    #[param(default = 100, minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
}

impl PageParams {
    /// The number of items asked for.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        limit(self.limit, 100)
    }

    /// What the cursor was made of.
    pub(crate) fn after<const N: usize>(&self) -> Result<Option<[String; N]>, ApiError> {
        self.cursor.as_deref().map(parse).transpose()
    }
}

/// Checks a number of items.
pub(crate) fn limit(asked: Option<usize>, default: usize) -> Result<usize, ApiError> {
    match asked.unwrap_or(default) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(ApiError::new(ErrorKind::InvalidRequest, format!("limit must be between 1 and {MAX_LIMIT}"))),
    }
}

/// A cursor of these parts.
pub(crate) fn cursor(parts: &[&str]) -> String {
    let joined = parts.join(&SEPARATOR.to_string());
    joined.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a cursor.
pub(crate) fn parse<const N: usize>(cursor: &str) -> Result<[String; N], ApiError> {
    let read = || {
        if cursor.len() > MAX_CURSOR
            || !cursor.len().is_multiple_of(2)
            || !cursor.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return None;
        }
        let bytes: Option<Vec<u8>> =
            (0..cursor.len()).step_by(2).map(|at| u8::from_str_radix(cursor.get(at..at + 2)?, 16).ok()).collect();
        let text = String::from_utf8(bytes?).ok()?;
        let parts: Vec<String> = text.split(SEPARATOR).map(str::to_owned).collect();
        parts.try_into().ok()
    };
    read().ok_or_else(|| {
        ApiError::new(ErrorKind::InvalidRequest, "this is not a cursor of this list")
            .hint("send `next` of the page before, or leave `cursor` out to begin at the front")
    })
}

/// The first `limit` of `items`, of which there may be one more, and the cursor of the next page, made of the last.
pub(crate) fn cut<T>(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(key);
    (items, next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cursor_is_of_its_own_list() {
        let two = cursor(&["a", "b"]);
        assert_eq!(parse::<2>(&two).unwrap(), ["a", "b"]);
        assert!(parse::<1>(&two).is_err());
        for bad in ["x", "zz", "f", "é", "ff", "6g", "+1"] {
            assert!(parse::<1>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn cursors_come_back_as_they_were(key in "[^\\p{Cc}]{0,40}", second in "[a-z]{0,5}") {
            prop_assert_eq!(parse::<2>(&cursor(&[&key, &second])).unwrap(), [key, second]);
        }

        #[test]
        fn nothing_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = parse::<1>(&text);
        }
    }
}
