//! What plain text says, as far as its form tells: sentences, words by stem, and the facts in it, which are its numbers,
//! dates and names.
//!
//! Everything is a pure function of the text, made for English prose and harmless on anything else. Spans are bytes of the
//! text given and fall on character boundaries.
//!
//! Deliberately not here: tokens of a model, embeddings, any judgement of what supports what beyond "does it occur".

mod facts;
mod scan;
mod sentence;
mod words;

pub use facts::{Fact, FactIndex, FactKind, facts};
pub use sentence::sentences;
pub use words::{Kind, Word, Words, is_content, plain, stem, stems};
