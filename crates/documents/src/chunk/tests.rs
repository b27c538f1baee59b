//! Tests of the chunker, on tokenizers that behave in the ways real ones do.

use std::ops::Range;

use edgewise_model_api::{ModelError, Tokenizer};
use proptest::prelude::*;

use super::*;
use crate::{MarkdownParser, Parser, PlainTextParser, SourceInfo};

/// Declares a tokenizer by its offsets; ids are lengths.
macro_rules! tokenizer {
    ($(#[$doc:meta])* $name:ident, $offsets:expr) => {
        $(#[$doc])*
        pub(crate) struct $name;
        impl Tokenizer for $name {
            fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
                Ok(self.offsets(text)?.iter().map(|range| range.len() as u32).collect())
            }
            fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
                let offsets: fn(&str) -> Vec<Range<usize>> = $offsets;
                Ok(offsets(text))
            }
            fn decode(&self, _: &[u32]) -> Result<String, ModelError> {
                Err(ModelError::Tokenizer("these tests never decode".to_owned()))
            }
        }
    };
}

tokenizer!(
    /// One token per character, white space included.
    Characters,
    |text| text.char_indices().map(|(at, c)| at..at + c.len_utf8()).collect()
);
tokenizer!(
    /// One token per word, however long: like WordPiece's unknown token.
    Words,
    |text| {
        let base = text.as_ptr() as usize;
        text.split_whitespace().map(|word| word.as_ptr() as usize - base).zip(text.split_whitespace())
            .map(|(at, word)| at..at + word.len()).collect()
    }
);
tokenizer!(
    /// Runs of three characters counted from the start of the text: what a token is depends on where the text begins.
    Triples,
    |text| {
        let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(3).collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
    }
);
tokenizer!(
    /// Four tokens per character, all with its range, like bytes outside a vocabulary.
    Bytes,
    |text| text.char_indices().flat_map(|(at, c)| std::iter::repeat_n(at..at + c.len_utf8(), 4)).collect()
);

fn options(max_tokens: usize, target_tokens: usize, overlap_tokens: usize) -> ChunkOptions {
    ChunkOptions { max_tokens, target_tokens, overlap_tokens }
}

fn markdown(source: &str) -> ParsedDocument {
    MarkdownParser.parse(source.as_bytes(), &SourceInfo::new("a.md"), &crate::work::tests::work()).unwrap()
}

fn texts<'d>(document: &'d ParsedDocument, chunks: &[ChunkDraft]) -> Vec<&'d str> {
    chunks.iter().map(|chunk| chunk.span.slice(&document.text).unwrap()).collect()
}

/// Checks everything the module promises about any document.
fn check(document: &ParsedDocument, tokenizer: &dyn Tokenizer, options: &ChunkOptions) -> Vec<ChunkDraft> {
    let chunks = chunk(document, tokenizer, options).unwrap();
    let mut covered = 0;
    let mut start = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk.ordinal, index);
        let text = chunk.span.slice(&document.text).unwrap();
        assert!(!text.trim().is_empty() && text.trim_end() == text && !text.starts_with('\n'), "{text:?}");
        assert!(text.len() <= options.max_tokens * MAX_BYTES_PER_TOKEN);
        assert!(chunk.span.start >= start && chunk.span.end > covered, "out of order at {index}");
        if options.overlap_tokens == 0 {
            assert!(chunk.span.start >= covered, "overlap at {index}");
        }
        if chunk.span.start > covered {
            assert!(document.text[covered..chunk.span.start].trim().is_empty(), "text lost before {index}");
        }
        let counted = tokenizer.count(&embedding_text(&chunk.heading_path, text)).unwrap();
        assert_eq!(chunk.embedder_tokens, counted);
        assert!(counted <= options.max_tokens);
        (start, covered) = (chunk.span.start, chunk.span.end);
        // Headings with text after them begin their chunk, or follow only other headings in it.
        let inside = document.blocks.iter().filter(|block| chunk.span.contains(block.span));
        let mut text_seen = false;
        for block in inside {
            let is_heading = matches!(block.kind, BlockKind::Heading { .. });
            assert!(!(is_heading && text_seen), "chunk {index} reaches over a heading");
            text_seen |= !is_heading;
        }
    }
    assert!(document.text[covered..].trim().is_empty(), "text lost at the end");
    chunks
}

#[test]
fn whole_blocks_are_packed_within_their_section() {
    let document = markdown("# A\n\none two\n\nthree four\n\nfive six seven 8 9\n\n## B\n\neight\n");
    let chunks = check(&document, &Words, &options(16, 6, 0));
    assert_eq!(texts(&document, &chunks), ["A\n\none two\n\nthree four", "five six seven 8 9", "B\n\neight"]);
    assert_eq!(chunks[1].heading_path, ["A"]);
    assert_eq!(chunks[2].heading_path, ["A", "B"]);
    assert_eq!(chunks[2].embedder_tokens, 4, "`A > B` and `eight`");
}

#[test]
fn headings_without_text_join_what_follows_but_not_a_higher_section() {
    let document = markdown("# A\n\n## B\n\nb\n\n## C\n\n## D\n\nd\n\n## E\n\n# F\n\nf\n");
    let chunks = check(&document, &Words, &options(32, 32, 0));
    assert_eq!(texts(&document, &chunks), ["A\n\nB\n\nb", "C\n\nD\n\nd", "E", "F\n\nf"]);
    assert_eq!(chunks[1].heading_path, ["A", "D"]);
}

#[test]
fn an_oversize_paragraph_is_cut_between_sentences_into_even_parts() {
    let sentence = |n: usize| format!("Sentence number {n} has six words.");
    let source = format!("# T\n\n{}\n", (0..9).map(sentence).collect::<Vec<_>>().join(" "));
    let document = markdown(&source);
    let chunks = check(&document, &Words, &options(32, 26, 0));
    assert_eq!(chunks.len(), 3);
    for text in texts(&document, &chunks) {
        assert!(text.ends_with("words.") && text.split_whitespace().count() >= 18, "{text}");
    }
    assert!(texts(&document, &chunks)[0].starts_with("T\n\n"), "the heading stands with the first part");
}

#[test]
fn code_is_cut_between_lines_and_keeps_its_indentation() {
    let body = (0..30).map(|n| format!("    let x{n} = {n};")).collect::<Vec<_>>().join("\n");
    let document = markdown(&format!("```\nfn f() {{\n{body}\n}}\n```\n"));
    let chunks = check(&document, &Words, &options(40, 40, 0));
    let texts = texts(&document, &chunks);
    assert!(texts.len() > 2 && texts[1].starts_with("    let x"), "{texts:?}");
    assert!(texts.iter().rev().skip(1).all(|text| text.ends_with(';')));
}

#[test]
fn a_word_of_ten_thousand_characters_is_cut() {
    let word = "x".repeat(10_000);
    let document =
        PlainTextParser.parse(word.as_bytes(), &SourceInfo::new("a.txt"), &crate::work::tests::work()).unwrap();
    assert_eq!(check(&document, &Characters, &options(240, 200, 0)).len(), 50);
    // One token by this tokenizer, but no chunk may stand for so many bytes.
    assert!(check(&document, &Words, &options(240, 200, 0)).len() >= 3);
}

#[test]
fn a_long_heading_path_leaves_half_for_the_text() {
    let title = |word: &str| [word; 12].join(" ");
    let source = format!("# {}\n\n## {}\n\n### {}\n\nsome text\n", title("a"), title("b"), title("c"));
    let chunks = check(&markdown(&source), &Words, &options(32, 32, 0));
    let last = chunks.last().unwrap();
    assert_eq!(last.heading_path, [title("c")]);
    let source = format!("# {}\n\n{}\n", vec!["long"; 60].join(" "), vec!["text"; 60].join(" "));
    for chunk in check(&markdown(&source), &Words, &options(32, 32, 0)) {
        assert!(chunk.heading_path[0].ends_with('…'));
    }
}

#[test]
fn overlap_repeats_whole_sentences_within_the_section() {
    let source = "# A\n\nOne two three. Four five six. Seven eight nine. Ten eleven twelve. Thirteen fourteen. \
                  Fifteen sixteen.\n\n# B\n\nAlone here.\n";
    let document = markdown(source);
    let chunks = check(&document, &Words, &options(16, 11, 4));
    let texts = texts(&document, &chunks);
    assert!(texts[1].ends_with("Seven eight nine."), "{texts:?}");
    assert!(texts[2].starts_with("Seven eight nine. Ten"), "{texts:?}");
    assert_eq!(*texts.last().unwrap(), "B\n\nAlone here.");
}

#[test]
fn a_short_tail_joins_the_chunk_before_it() {
    let paragraph = |words: usize| vec!["w"; words].join(" ");
    let document = markdown(&format!("{}\n\n{}\n\n{}\n", paragraph(20), paragraph(19), paragraph(2)));
    let chunks = check(&document, &Words, &options(24, 20, 0));
    assert_eq!(chunks.iter().map(|chunk| chunk.embedder_tokens).collect::<Vec<_>>(), [20, 21]);
}

#[test]
fn limits_out_of_proportion_are_refused() {
    let document = markdown("x");
    for (bad, field) in [
        (options(8, 8, 0), "max_tokens"),
        (options(32, 33, 0), "target_tokens"),
        (options(32, 0, 0), "target_tokens"),
        (options(32, 32, 9), "overlap_tokens"),
    ] {
        let error = chunk(&document, &Words, &bad).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn blocks_that_do_not_describe_the_text_are_refused() {
    let mut document = markdown("one\n\ntwo\n");
    document.blocks.pop();
    assert!(matches!(chunk(&document, &Words, &options(32, 32, 0)), Err(DocumentError::InvalidBlocks { .. })));
}

/// Markdown with everything the parser knows, at any length.
fn any_markdown() -> impl Strategy<Value = String> {
    let word = prop_oneof![8 => "[a-z]{1,8}", 2 => "[A-Z][a-z]{0,5}[.!?]", 1 => "[a-z]{60,200}", 1 => "é{1,4}|猫{1,9}。|👩‍👩‍👧|e\u{301}\u{301}"];
    let words = |most: usize| prop::collection::vec(word.clone(), 1..most).prop_map(|words| words.join(" "));
    let block = prop_oneof![
        3 => (1..7usize, words(6)).prop_map(|(level, title)| format!("{} {title}", "#".repeat(level))),
        1 => words(60).prop_map(|title| format!("## {title}")),
        4 => words(20),
        1 => words(200),
        1 => prop::collection::vec(words(12), 1..12).prop_map(|items| format!("- {}", items.join("\n- "))),
        1 => prop::collection::vec(words(8), 1..20).prop_map(|lines| format!("```\n{}\n```", lines.join("\n    "))),
        1 => (words(5), words(5)).prop_map(|(title, text)| format!("> ## {title}\n>\n> {text}")),
    ];
    prop::collection::vec(block, 1..12).prop_map(|blocks| blocks.join("\n\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_document_is_covered_in_order_and_within_the_limit(
        source in any_markdown(),
        max in 16usize..120,
        target in 1usize..=100,
        overlap in prop_oneof![Just(0usize), 1usize..=25],
    ) {
        let document = markdown(&source);
        let options = options(max, (max * target / 100).max(1), max * overlap / 100);
        let tokenizers: [&dyn Tokenizer; 4] = [&Characters, &Words, &Triples, &Bytes];
        for tokenizer in tokenizers {
            check(&document, tokenizer, &options);
        }
    }
}

#[test]
fn parts_of_a_cut_table_carry_its_column_names() {
    let rows: String = (0..40).map(|n| format!("| plant number {n} | every {n} days |\n")).collect();
    let document = markdown(&format!("# Garden\n\n| Plant | Water |\n|---|---|\n{rows}\nAfter the table.\n"));
    let chunks = chunk(&document, &Words, &options(60, 50, 0)).unwrap();
    assert!(chunks.len() > 4, "{chunks:?}");
    assert_eq!(chunks[0].heading_path, ["Garden"], "its text has the names already");
    for part in &chunks[1..] {
        let text = part.span.slice(&document.text).unwrap();
        assert_eq!(part.heading_path, ["Garden", "Plant | Water"], "{text}");
        assert!(!text.contains("Plant | Water"));
        assert!(part.embedder_tokens <= 60);
    }
    // Numbers at the top are no names.
    let rows: String = (0..80).map(|n| format!("| {n} | {n} |\n")).collect();
    let document = markdown(&format!("| 2024 | 2025 |\n|---|---|\n{rows}"));
    let chunks = chunk(&document, &Words, &options(60, 50, 0)).unwrap();
    assert!(chunks.len() > 2 && chunks.iter().all(|part| part.heading_path.is_empty()));
}

#[test]
fn a_caption_goes_with_its_table() {
    let words = "word ".repeat(40);
    let rows: String = (0..8).map(|n| format!("| plant {n} | {n} days |\n")).collect();
    let document =
        markdown(&format!("{words}\n\nHow often plants want water:\n\n| Plant | Water |\n|---|---|\n{rows}"));
    let chunks = chunk(&document, &Words, &options(60, 50, 0)).unwrap();
    let texts = texts(&document, &chunks);
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[1].starts_with("How often plants want water:\n\nPlant | Water"), "{texts:?}");
}
