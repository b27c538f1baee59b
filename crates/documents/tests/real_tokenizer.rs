//! The chunker on the embedder's own tokenizer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;
use std::path::{Path, PathBuf};

use edgewise_documents::{IndexProfile, ParserRegistry, SourceInfo, chunk, embedding_text};
use edgewise_model_api::{ModelError, Tokenizer};

/// Tokens all-MiniLM-L6-v2 reads, without the two special ones.
const WINDOW: usize = 256 - 2;

struct WordPiece(tokenizers::Tokenizer);

impl WordPiece {
    fn load() -> Self {
        let models = std::env::var_os("EDGEWISE_TEST_MODELS")
            .expect("EDGEWISE_TEST_MODELS is not set: run the tests with ./scripts/test, which gets the models");
        let file = PathBuf::from(models).join("all-minilm-l6-v2/tokenizer.json");
        let mut tokenizer = tokenizers::Tokenizer::from_file(&file)
            .unwrap_or_else(|error| panic!("{}: {error}; run ./scripts/test, which gets the models", file.display()));
        tokenizer.with_truncation(None).unwrap().with_padding(None);
        Self(tokenizer)
    }

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

#[test]
fn chunks_of_real_and_of_hostile_text_fit_the_embedder() {
    let tokenizer = WordPiece::load();
    let profile = IndexProfile::default();
    let registry = ParserRegistry::new(&profile);
    let fixtures = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixtures");
    let read = |name: &str| (name.to_owned(), std::fs::read(fixtures.join(name)).unwrap());
    let base64 = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo".repeat(400);
    let sources = [
        read("rust-book-ownership.md"),
        read("rich-tables.html"),
        read("pride-and-prejudice.txt"),
        ("base64.txt".to_owned(), base64.clone().into_bytes()),
        ("minified.md".to_owned(), format!("# {base64}\n\n```\n{}\n```\n", "a=b(c);".repeat(3000)).into_bytes()),
        ("cjk.txt".to_owned(), "吾輩は猫である。名前はまだ無い。どこで生れたか".repeat(200).into_bytes()),
        ("emoji.txt".to_owned(), "👩‍👩‍👧‍👦🏳️‍🌈".repeat(400).into_bytes()),
        ("marks.txt".to_owned(), format!("e{}", "\u{301}\u{316}".repeat(2000)).into_bytes()),
        ("spaces.md".to_owned(), format!("```\nx{}y\n```\n", " ".repeat(50_000)).into_bytes()),
    ];
    for (name, bytes) in sources {
        let document = registry.parse(&bytes, &SourceInfo::new(name.as_str())).unwrap();
        let chunks = chunk(&document, &tokenizer, &profile.chunk).unwrap();
        let mut covered = 0;
        for chunk in &chunks {
            let text = chunk.span.slice(&document.text).unwrap();
            let tokens = tokenizer.count(&embedding_text(&chunk.heading_path, text)).unwrap();
            assert_eq!(tokens, chunk.embedder_tokens, "{name}");
            assert!(tokens <= profile.chunk.max_tokens && tokens <= WINDOW, "{name}: {tokens}");
            assert!(text.len() <= 16 * profile.chunk.max_tokens, "{name}: {} bytes in a chunk", text.len());
            assert!(document.text[covered..chunk.span.start].trim().is_empty(), "{name}: text lost");
            covered = chunk.span.end;
        }
        assert!(document.text[covered..].trim().is_empty(), "{name}: text lost at the end");
    }
}
