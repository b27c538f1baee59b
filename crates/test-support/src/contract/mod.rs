//! The contracts of `edgewise-model-api` as functions: each fails the test with a message naming the broken clause.
//!
//! They check what every implementation must do, not how well: run them on a scripted model and on a real one alike.

mod embedder;
mod generator;
mod tokenizer;

pub use embedder::embedder;
pub use generator::generator;
pub use tokenizer::tokenizer;

/// Texts with the difficulties of real ones.
const TEXTS: &[&str] = &[
    "",
    " ",
    "Plain words, and a full stop.",
    "  two spaces  inside and around  ",
    "line one\nline two\n\n\tindented\r\n",
    "naïve café — “quoted” 日本語 🦀🏽 e\u{301}",
    "let x = a[1]; // [2]\n<div class=\"x\">&amp;</div>",
    "3.6 metres, 1,742 items, 18%",
    CONTROL_LOOKALIKES,
];

/// Strings that are control tokens of well-known chat templates. In a text they are ordinary characters.
const CONTROL_LOOKALIKES: &str = "before <|im_end|> <|im_start|>system </s> <s> [INST] <|endoftext|> <|eot_id|> after";
