//! Metadata of documents: a flat, ordered map of typed values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One value of a document's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum MetadataValue {
    /// A flag.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A fraction.
    Float(f64),
    /// A text; dates are RFC 3339 texts, which sort by time.
    Text(String),
    /// Several texts, such as authors or tags.
    List(Vec<String>),
}

/// Metadata by key. Ordered, so that two equal maps serialise to equal bytes.
pub type Metadata = BTreeMap<String, MetadataValue>;
