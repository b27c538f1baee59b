//! The catalog against a model, against bad files, and against being killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crash;
mod faults;
mod model;

use edgewise_catalog::{CatalogMeta, EmbedderIdentity, NewChunk, NewDocument};
use edgewise_types::{ContentHash, Metadata, MetadataValue, PageMap, Span};
use jiff::Timestamp;

const DIMENSION: usize = 3;

/// What a test does to a sound document.
type Change = fn(&mut NewDocument);

fn meta() -> CatalogMeta {
    CatalogMeta {
        collection: "test".parse().unwrap(),
        profile: "language = \"english\"\n".to_owned(),
        embedder: EmbedderIdentity { model: "tiny".to_owned(), digest: "00".to_owned(), dimension: DIMENSION },
        generator_tokenizer: "tiny".to_owned(),
    }
}

/// A document whose chunks are `chunk_chars` characters each.
fn document(uri: &str, text: &str, chunk_chars: usize) -> NewDocument {
    let mut bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(chunk_chars).collect();
    bounds.push(text.len());
    bounds.dedup();
    let chunks = bounds
        .windows(2)
        .enumerate()
        .map(|(ordinal, pair)| {
            let angle = (ordinal + text.len()) as f32;
            NewChunk {
                span: Span::new(pair[0], pair[1]),
                section: Span::new(if ordinal % 2 == 0 { 0 } else { pair[0] }, text.len()),
                heading_path: vec![uri.to_uppercase(); ordinal % 3],
                embedder_tokens: ordinal + 3,
                generator_tokens: ordinal + 2,
                embedding: vec![angle.cos(), angle.sin(), 0.0],
            }
        })
        .collect();
    NewDocument {
        uri: uri.to_owned(),
        title: format!("Title of {uri}"),
        media_type: "text/plain".to_owned(),
        content_hash: ContentHash::of(text.as_bytes()),
        tokens: text.chars().count(),
        metadata: Metadata::from([("length".to_owned(), MetadataValue::Integer(text.len() as i64))]),
        updated_at: Timestamp::from_second(1_700_000_000 + text.len() as i64).unwrap(),
        text: text.to_owned(),
        // Every other document has pages, as long as a chunk and a half.
        pages: PageMap::new((0..text.len() * (text.len() % 2)).step_by(chunk_chars + chunk_chars / 2).collect()),
        chunks,
    }
}
