//! Filters over metadata: which documents a search is about.
//!
//! ```text
//! filter     = either , { "or" , either } ;
//! either     = term , { "and" , term } ;
//! term       = "not" , term | "(" , filter , ")" | predicate ;
//! predicate  = field , ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) , value
//!            | field , [ "not" ] , "in" , "(" , value , { "," , value } , ")"
//!            | field , "between" , value , "and" , value
//!            | field , [ "not" ] , "like" , text
//!            | field , "exists" ;
//! value      = text in '…' or "…" | number | "true" | "false" | date ;
//! date       = 2024 "-" 05 [ "-" 31 [ "T" 12:00:00Z ] ] ;
//! ```
//!
//! A field is a key of the metadata, or one of `uri`, `title`, `media_type`, `updated_at`, `tokens`, `chunks`; a key with
//! other signs than letters, digits, `_`, `-` and `.` stands in backquotes. Words of the grammar are read in any case.
//!
//! - `like` matches a path glob: `*` stops at `/`, `**` does not.
//! - A date is a span of time: `= 2024-05` is all of May 2024, `> 2024-05` what comes after it. It is compared with
//!   texts that are RFC 3339 dates or times; a time without zone is UTC. So is a year: `date >= 2020`.
//! - A list satisfies a predicate if one of its elements does.
//! - A predicate on a field that is not there, or is of another type than the value, does not hold, so `!=` holds only
//!   where there is something to compare; `not (a = 1)` holds in all other cases too.
//!
//! Deliberately not here: conversion between types, functions, and filters over chunks.

mod matching;
mod parse;

use std::{fmt, str::FromStr};

use globset::GlobMatcher;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A parsed filter. Serialised as its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter {
    text: String,
    root: Node,
}

/// What is wrong with a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter, character {at}: {reason}, in `{text}`")]
pub struct FilterError {
    /// Where, in characters from 1.
    pub at: usize,
    /// What, and what was expected.
    pub reason: String,
    /// The filter.
    pub text: String,
}

impl Filter {
    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Self { text: text.to_owned(), root: parse::parse(text)? })
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;
    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> String {
        filter.text
    }
}

#[derive(Debug, Clone)]
enum Node {
    Or(Vec<Node>),
    And(Vec<Node>),
    Not(Box<Node>),
    Predicate(Field, Test),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Uri,
    Title,
    MediaType,
    UpdatedAt,
    Tokens,
    Chunks,
    Metadata(String),
}

#[derive(Debug, Clone)]
enum Test {
    Compare(Comparison, Value),
    In(Vec<Value>),
    Between(Value, Value),
    Like(GlobMatcher),
    Exists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(f64),
    Bool(bool),
    /// From the first moment to the one after the last.
    Span(Timestamp, Timestamp),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
