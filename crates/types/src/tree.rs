//! The vocabulary of summary trees.
//!
//! A tree's leaves are chunks; every node above them holds a summary of its members. All three ids are hashes of content,
//! so equal content, options and summariser give equal ids on any machine; an id never names two different things.
//!
//! - [`LeafId`]: a chunk's text and headings within its document.
//! - [`SummaryKey`]: what decides the text of a summary: the members' texts in order, the summariser's identity and its
//!   limits. The same key in two places is one summary, made once.
//! - [`NodeId`]: a place in the tree: scope, members in order, and the key of its summary.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DocumentId, IdError};

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The hash of `parts`, each preceded by its length, so that no two lists of parts run together alike.
            pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
                let mut hasher = blake3::Hasher::new();
                hasher.update(stringify!($name).as_bytes());
                for part in parts {
                    hasher.update(&(part.len() as u64).to_le_bytes());
                    hasher.update(part);
                }
                Self(*hasher.finalize().as_bytes())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                let wrong = || IdError::ContentHash { hash: s.to_owned() };
                let lower_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
                if s.len() != 64 || !s.as_bytes().iter().all(lower_hex) {
                    return Err(wrong());
                }
                let mut bytes = [0; 32];
                for (byte, pair) in bytes.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
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
                value.to_string()
            }
        }
    };
}

digest_id!(
    /// A chunk by content: document, heading path, text, and which of several equal ones in its document it is.
    LeafId
);
digest_id!(
    /// What decides the text of a summary.
    SummaryKey
);
digest_id!(
    /// A node of a tree.
    NodeId
);

/// What a node summarises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Member {
    /// A chunk.
    Leaf(LeafId),
    /// Another node.
    Node(NodeId),
}

/// Whose a node is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", content = "document", rename_all = "snake_case")]
pub enum TreeScope {
    /// One document's tree: everything below it is of that document.
    Document(DocumentId),
    /// The layers above documents, up to the collection's root.
    Collection,
}

/// How the text of a summary came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SummaryMethod {
    /// Sentences of the members, word for word.
    Extractive,
    /// Written by a generator, and checked against the members.
    Abstractive,
    /// Sentences of the members, because what the generator wrote did not pass the check.
    ExtractiveFallback,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_from_text_and_nothing_else_is_one() {
        let id = NodeId::of([b"a".as_slice(), b"b"]);
        assert_eq!(id.to_string().parse::<NodeId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<NodeId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for bad in ["", "ab", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let parts: [&[&[u8]]; 4] = [&[b"ab"], &[b"a", b"b"], &[b"ab", b""], &[b"", b"ab"]];
        let ids: std::collections::BTreeSet<NodeId> = parts.iter().map(|p| NodeId::of(p.iter().copied())).collect();
        assert_eq!(ids.len(), parts.len());
        assert_ne!(NodeId::of([b"a".as_slice()]).0, LeafId::of([b"a".as_slice()]).0);
    }
}
