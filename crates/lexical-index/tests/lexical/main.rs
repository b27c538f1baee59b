//! The lexical index against a model, against damage, and against being killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod beside;
mod crash;
mod damage;
mod search;

use edgewise_lexical_index::{Bm25, Language, LexicalConfig, LexicalEntry};
use edgewise_types::ChunkId;

fn config(language: Language) -> LexicalConfig {
    LexicalConfig { language, bm25: Bm25::default(), source: "catalog".to_owned() }
}

fn entry(chunk: u64, title: &str, heading_path: &[&str], body: &str) -> LexicalEntry {
    LexicalEntry {
        chunk: ChunkId(chunk),
        title: title.to_owned(),
        heading_path: heading_path.iter().map(|&heading| heading.to_owned()).collect(),
        body: body.to_owned(),
    }
}
