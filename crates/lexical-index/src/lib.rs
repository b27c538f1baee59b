//! The tantivy index of one collection: BM25 over title, heading path and body.
//!
//! Derived data: everything in it comes from the catalog and can be rebuilt from it. It remembers which catalog and
//! which generation it reflects in the payload of tantivy's own commit, so that content and generation can't disagree.
//!
//! Invariants:
//! - An update is visible and durable completely, with its generation, or not at all.
//! - Applying an update twice gives the same index as once.
//! - Hits come by score, largest first, and by id where scores are equal.
//! - User text is never parsed as a query language: every text is a valid query.
//! - A score depends on the chunks that are there and on nothing else: not on what was removed, the order in which chunks
//!   came, or how they are spread over segments.
//!
//! Deliberately not here: stored texts, snippets, fusion with other arms, and the decision when to rebuild.

mod analyser;
mod beside;
mod directory;
mod error;
mod index;
mod lengths;
mod query;
mod top;
mod update;

pub use analyser::Language;
pub use beside::Beside;
pub use error::LexicalError;
pub use index::{Bm25, LexicalConfig, LexicalEntry, LexicalHit, LexicalIndex};
pub use update::LexicalUpdate;
