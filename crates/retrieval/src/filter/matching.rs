//! Whether a document satisfies a filter.

use std::cmp::Ordering;

use edgewise_types::{Document, MetadataValue};

use super::{Comparison, Field, Filter, Node, Test, Value, parse::span};

/// A value of a document.
enum Found<'d> {
    Text(&'d str),
    Number(f64),
    Bool(bool),
}

impl Filter {
    /// Whether `document` satisfies it.
    pub fn matches(&self, document: &Document) -> bool {
        holds(&self.root, document)
    }
}

fn holds(node: &Node, document: &Document) -> bool {
    match node {
        Node::Or(nodes) => nodes.iter().any(|node| holds(node, document)),
        Node::And(nodes) => nodes.iter().all(|node| holds(node, document)),
        Node::Not(node) => !holds(node, document),
        Node::Predicate(field, test) => values(field, document).iter().any(|found| passes(test, found)),
    }
}

/// What a document has in a field: nothing, one value, or the elements of a list.
fn values<'d>(field: &Field, document: &'d Document) -> Vec<Found<'d>> {
    match field {
        Field::Uri => vec![Found::Text(&document.uri)],
        Field::Title => vec![Found::Text(&document.title)],
        Field::MediaType => vec![Found::Text(&document.media_type)],
        Field::UpdatedAt => vec![Found::Text(&document.updated_at)],
        Field::Tokens => vec![Found::Number(document.tokens as f64)],
        Field::Chunks => vec![Found::Number(document.chunks as f64)],
        Field::Metadata(key) => match document.metadata.get(key) {
            None => Vec::new(),
            Some(MetadataValue::Bool(value)) => vec![Found::Bool(*value)],
            Some(MetadataValue::Integer(value)) => vec![Found::Number(*value as f64)],
            Some(MetadataValue::Float(value)) => vec![Found::Number(*value)],
            Some(MetadataValue::Text(value)) => vec![Found::Text(value)],
            Some(MetadataValue::List(values)) => values.iter().map(|value| Found::Text(value)).collect(),
        },
    }
}

fn passes(test: &Test, found: &Found<'_>) -> bool {
    let is = |value: &Value, wanted: fn(Ordering) -> bool| order(found, value).is_some_and(wanted);
    match test {
        Test::Exists => true,
        Test::Like(glob) => matches!(found, Found::Text(text) if glob.is_match(text)),
        Test::In(values) => values.iter().any(|value| is(value, Ordering::is_eq)),
        Test::Between(low, high) => is(low, Ordering::is_ge) && is(high, Ordering::is_le),
        Test::Compare(comparison, value) => is(
            value,
            match comparison {
                Comparison::Equal => Ordering::is_eq,
                Comparison::NotEqual => Ordering::is_ne,
                Comparison::Less => Ordering::is_lt,
                Comparison::AtMost => Ordering::is_le,
                Comparison::Greater => Ordering::is_gt,
                Comparison::AtLeast => Ordering::is_ge,
            },
        ),
    }
}

/// Where what was found stands to a value; `None` if the two can't be compared.
fn order(found: &Found<'_>, value: &Value) -> Option<Ordering> {
    match (found, value) {
        (Found::Text(found), Value::Text(value)) => Some((*found).cmp(value.as_str())),
        (Found::Number(found), Value::Number(value)) => found.partial_cmp(value),
        (Found::Bool(found), Value::Bool(value)) => Some(found.cmp(value)),
        (Found::Text(found), Value::Span(start, end)) => {
            let (moment, _) = span(found)?;
            Some(if moment < *start {
                Ordering::Less
            } else if moment >= *end {
                Ordering::Greater
            } else {
                Ordering::Equal
            })
        }
        // Against a date, a number is a year.
        (Found::Text(_), Value::Number(year)) if year.fract() == 0.0 && (1000.0..9999.0).contains(year) => {
            let (start, _) = span(&format!("{year}-01"))?;
            let (end, _) = span(&format!("{}-01", year + 1.0))?;
            order(found, &Value::Span(start, end))
        }
        _ => None,
    }
}
