//! Shows what becomes of files: `inspect [--chunks | --text | --summary] TOKENIZER.json FILE…`.
//!
//! For looking at parsers and chunker on real input. Blocks are shown by default.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::ops::Range;
use std::time::Instant;

use edgewise_documents::{IndexProfile, ParserRegistry, SourceInfo, chunk, embedding_text};
use edgewise_model_api::{ModelError, Tokenizer};

struct WordPiece(tokenizers::Tokenizer);

impl WordPiece {
    fn encoding(&self, text: &str) -> Result<tokenizers::Encoding, ModelError> {
        self.0.encode(text, false).map_err(|error| ModelError::Tokenizer(error.to_string()))
    }
}

impl Tokenizer for WordPiece {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.encoding(text)?.get_ids().to_vec())
    }
    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
        Ok(self.encoding(text)?.get_offsets().iter().map(|(start, end)| *start..*end).collect())
    }
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.0.decode(ids, true).map_err(|error| ModelError::Tokenizer(error.to_string()))
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mode = arguments.iter().position(|a| a.starts_with("--")).map(|at| arguments.remove(at)).unwrap_or_default();
    let (tokenizer, files) = arguments.split_first().ok_or("usage: inspect [--chunks] TOKENIZER.json FILE…")?;
    let mut tokenizer = tokenizers::Tokenizer::from_file(tokenizer)?;
    tokenizer.with_truncation(None)?.with_padding(None);
    let tokenizer = WordPiece(tokenizer);
    let profile = IndexProfile::default();
    let registry = ParserRegistry::new(&profile);
    let (mut bytes_read, mut all) = (0, Vec::new());
    let (mut parsing, mut chunking) = (0.0, 0.0);
    for file in files {
        let bytes = std::fs::read(file)?;
        let start = Instant::now();
        let document = match registry.parse(&bytes, &SourceInfo::new(file.as_str())) {
            Ok(document) => document,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        parsing += start.elapsed().as_secs_f64();
        bytes_read += bytes.len();
        let start = Instant::now();
        let chunks = chunk(&document, &tokenizer, &profile.chunk)?;
        chunking += start.elapsed().as_secs_f64();
        all.extend(chunks.iter().map(|chunk| chunk.embedder_tokens));
        match mode.as_str() {
            "--summary" => {
                let over = chunks.iter().filter(|chunk| chunk.embedder_tokens > profile.chunk.max_tokens).count();
                println!(
                    "{file}: `{}` {} blocks, {} chunks, {over} over",
                    document.title,
                    document.blocks.len(),
                    chunks.len()
                );
            }
            "--text" => println!("{}", document.text),
            "--chunks" => {
                for chunk in &chunks {
                    let text = chunk.span.slice(&document.text)?;
                    println!("━━ {} · {} tokens · {:?}", chunk.ordinal, chunk.embedder_tokens, chunk.span);
                    println!("{}", embedding_text(&chunk.heading_path, text));
                }
            }
            _ => {
                println!(
                    "━━ {file}: `{}` {} {:?} {:?}",
                    document.title, document.media_type, document.language, document.metadata
                );
                for block in &document.blocks {
                    println!("── {:?} · {}", block.kind, block.heading_path.join(" > "));
                    println!("{}", block.span.slice(&document.text)?);
                }
            }
        }
    }
    all.sort_unstable();
    let at = |share: f64| all.get(((all.len() as f64 - 1.0).max(0.0) * share) as usize).copied().unwrap_or_default();
    println!(
        "{} files, {bytes_read} bytes, {} chunks; tokens p5 {} median {} p95 {} max {}; parse {parsing:.3} s, chunk {chunking:.3} s",
        files.len(),
        all.len(),
        at(0.05),
        at(0.5),
        at(0.95),
        at(1.0)
    );
    Ok(())
}
