//! The vocabulary every other crate shares: ids, documents, chunks, spans, summary trees, usage and money.
//!
//! Invariants:
//! - A [`Span`] is a half-open range of *bytes* into a document's **normalised** text and always falls on
//!   character boundaries of it.
//! - [`Money`] is an integer number of nano-dollars. One token at a price quoted in dollars per million tokens with
//!   up to three decimals costs a whole number of nano-dollars, so no cost is ever rounded and sums are exact.
//! - Ids are validated where they are built; a value of an id type is well-formed.
//!
//! Deliberately not here: I/O, clocks, tokenisation, prices, anything that can fail for a reason outside its arguments.

mod document;
mod id;
mod metadata;
mod money;
mod page;
mod span;
mod tree;
mod usage;

pub use document::{Chunk, Document, DocumentStatus};
pub use id::{ChunkId, CollectionName, ContentHash, DocumentId, Generation, IdError, TenantId};
pub use metadata::{Metadata, MetadataValue};
pub use money::{HourPrice, Money, MoneyError, TokenPrice};
pub use page::{PageMap, PageRange};
pub use span::{Span, SpanError};
pub use tree::{LeafId, Member, NodeId, SummaryKey, SummaryMethod, TreeScope};
pub use usage::{Timings, Usage};
