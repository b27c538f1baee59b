//! Identifiers. All of them are cheap to clone, ordered, hashable and serialised as plain strings or numbers.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a string is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The collection name breaks a rule.
    #[error(
        "`{name}` is not a valid collection name: use 1 to 63 lower-case letters, digits, `-`, `_` or `.`, starting with a letter or digit"
    )]
    CollectionName {
        /// The name as given.
        name: String,
    },
    /// The document id does not look like `d_` and 32 hexadecimal digits.
    #[error("`{id}` is not a document id: expected `d_` followed by 32 hexadecimal digits")]
    DocumentId {
        /// The id as given.
        id: String,
    },
    /// The content hash is not 64 hexadecimal digits.
    #[error("`{hash}` is not a content hash: expected 64 hexadecimal digits")]
    ContentHash {
        /// The hash as given.
        hash: String,
    },
}

macro_rules! string_id {
    ($name:ident) => {
        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                value.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.to_string()
            }
        }
    };
}

/// Name of a collection: 1 to 63 characters of `[a-z0-9._-]`, the first a letter or digit.
///
/// It is used as a folder name, so it can never contain a separator or be `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "guide")]
pub struct CollectionName(Arc<str>);
string_id!(CollectionName);

impl FromStr for CollectionName {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let ok = (1..=63).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if ok { Ok(Self(s.into())) } else { Err(IdError::CollectionName { name: s.to_owned() }) }
    }
}

/// Id of a document within its collection: `d_` and the first 16 bytes, in hexadecimal, of BLAKE3 over its source URI.
///
/// The same source always has the same id, so an update replaces and never duplicates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "d_0123456789abcdef0123456789abcdef")]
pub struct DocumentId(Arc<str>);
string_id!(DocumentId);

impl DocumentId {
    /// The id of the document that comes from `uri`.
    pub fn from_uri(uri: &str) -> Self {
        let hex = blake3::hash(uri.as_bytes()).to_hex();
        Self(format!("d_{}", &hex[..32]).into())
    }
}

impl FromStr for DocumentId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let ok = s.strip_prefix("d_").is_some_and(|hex| {
            hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        });
        if ok { Ok(Self(s.into())) } else { Err(IdError::DocumentId { id: s.to_owned() }) }
    }
}

/// BLAKE3 of some content, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct ContentHash(Arc<str>);
string_id!(ContentHash);

impl ContentHash {
    /// The hash of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(blake3::hash(content).to_hex().as_str().into())
    }
}

impl FromStr for ContentHash {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let ok = s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if ok { Ok(Self(s.into())) } else { Err(IdError::ContentHash { hash: s.to_owned() }) }
    }
}

/// Key of a chunk inside its collection. Handed out by the catalog, never used twice, even after a delete, so that a
/// stale entry of a derived index can be told from a live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct ChunkId(pub u64);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A collection's version: 0 when empty, plus one for each committed change of the catalog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Whose request it is. Cached keys and values are never shared between two tenants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "local")]
pub struct TenantId(pub Arc<str>);

impl TenantId {
    /// The tenant of a server without keys.
    pub fn local() -> Self {
        Self("local".into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn collection_names_are_safe_folder_names() {
        for good in ["a", "guide", "0-9_x.y", &"a".repeat(63)] {
            assert_eq!(good.parse::<CollectionName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".x", "-x", "A", "a/b", "a\\b", "é", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<CollectionName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_checked_when_deserialised() {
        assert!(serde_json::from_str::<CollectionName>("\"../etc\"").is_err());
        assert!(serde_json::from_str::<DocumentId>("\"d_XYZ\"").is_err());
        let id = DocumentId::from_uri("file:///a.md");
        assert_eq!(id, DocumentId::from_uri("file:///a.md"));
        assert_ne!(id, DocumentId::from_uri("file:///b.md"));
        assert_eq!(serde_json::from_str::<DocumentId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }
}
