//! Source code: the file as it stands, cut at its outermost declarations.
//!
//! Languages are not parsed. What all of them share is used: an outermost declaration begins at a line that is not
//! indented, mostly after a blank line, and comments or attributes directly above it belong to it. The line that opens
//! a declaration becomes the last title of its heading path, so that every part of a long body says what it is part of.

use edgewise_types::{MetadataValue, PageMap};

use crate::assemble::Assembler;
use crate::normalise::{one_line, truncated};
use crate::parser::{Front, finish};
use crate::{BlockKind, DocumentError, ParsedDocument, Parser, SourceInfo, Work, decode};

/// Longest title made of a declaration, in bytes.
const MAX_TITLE_BYTES: usize = 80;

/// Extensions and the languages they stand for.
const LANGUAGES: &[(&str, &str)] = &[
    ("bash", "Shell"),
    ("c", "C"),
    ("cc", "C++"),
    ("cjs", "JavaScript"),
    ("clj", "Clojure"),
    ("cpp", "C++"),
    ("cs", "C#"),
    ("cu", "CUDA"),
    ("cxx", "C++"),
    ("dart", "Dart"),
    ("erl", "Erlang"),
    ("ex", "Elixir"),
    ("exs", "Elixir"),
    ("go", "Go"),
    ("h", "C"),
    ("hh", "C++"),
    ("hpp", "C++"),
    ("hs", "Haskell"),
    ("java", "Java"),
    ("jl", "Julia"),
    ("js", "JavaScript"),
    ("jsx", "JavaScript"),
    ("kt", "Kotlin"),
    ("lua", "Lua"),
    ("mjs", "JavaScript"),
    ("ml", "OCaml"),
    ("nim", "Nim"),
    ("php", "PHP"),
    ("pl", "Perl"),
    ("proto", "Protocol Buffers"),
    ("ps1", "PowerShell"),
    ("py", "Python"),
    ("pyi", "Python"),
    ("r", "R"),
    ("rb", "Ruby"),
    ("rs", "Rust"),
    ("scala", "Scala"),
    ("sh", "Shell"),
    ("sql", "SQL"),
    ("swift", "Swift"),
    ("ts", "TypeScript"),
    ("tsx", "TypeScript"),
    ("zig", "Zig"),
];

/// Words that open declarations, in the languages above.
const DECLARATIONS: &[&str] = &[
    "class",
    "struct",
    "enum",
    "union",
    "trait",
    "impl",
    "interface",
    "fn",
    "func",
    "function",
    "def",
    "sub",
    "module",
    "mod",
    "namespace",
    "macro_rules!",
    "type",
    "protocol",
    "extension",
    "object",
    "record",
    "message",
    "service",
    "create",
    "fun",
    "void",
    "int",
    "template",
    "defmodule",
    "procedure",
    "package",
];

/// Parser of source code.
pub struct CodeParser;

impl Parser for CodeParser {
    fn name(&self) -> &'static str {
        "source code"
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/x-source-code"]
    }

    fn extensions(&self) -> &'static [&'static str] {
        const EXTENSIONS: [&str; LANGUAGES.len()] = {
            let mut extensions = [""; LANGUAGES.len()];
            let mut at = 0;
            while at < LANGUAGES.len() {
                extensions[at] = LANGUAGES[at].0;
                at += 1;
            }
            extensions
        };
        &EXTENSIONS
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let text = decode::decode(bytes, &source.uri, None)?.replace("\r\n", "\n");
        let name = source.uri.rsplit(['/', '\\']).next().unwrap_or(&source.uri).to_owned();
        let mut out = Assembler::default();
        let mut titles = Vec::new();
        for piece in pieces(&text) {
            work.check(source)?;
            let before = out.blocks().len();
            out.push_block(BlockKind::Code, piece);
            titles.extend((before < out.blocks().len()).then(|| declaration(piece)));
        }
        let mut assembled = out.finish(None);
        for (block, title) in assembled.blocks.iter_mut().zip(titles) {
            block.heading_path = std::iter::once(name.clone()).chain(title).collect();
        }
        let language = source.extension().and_then(|extension| {
            LANGUAGES.iter().find(|(known, _)| *known == extension).map(|(_, language)| (*language).to_owned())
        });
        let metadata = language.map(|language| ("code_language".to_owned(), MetadataValue::Text(language)));
        let front = Front {
            titles: vec![name],
            metadata: metadata.into_iter().collect(),
            // Comments are too few to tell a language by, and names are none.
            language: Some("zxx".to_owned()),
            pages: PageMap::default(),
        };
        let mut document = finish(self, source, assembled, front)?;
        document.language = None;
        document.metadata.remove("language");
        Ok(document)
    }
}

/// Consecutive pieces of the file, each an outermost declaration with the comments above it, or what stands between.
fn pieces(text: &str) -> Vec<&str> {
    let mut cuts = vec![0];
    let (mut at, mut blank_before, mut block_start) = (0, false, 0);
    for line in text.split_inclusive('\n') {
        if line.trim().is_empty() {
            blank_before = true;
        } else {
            let is_outermost = !line.starts_with([' ', '\t', '}', ')', ']', '#']) || is_attribute(line);
            if blank_before {
                block_start = at;
            }
            // After a blank line at the outermost level a piece begins, where the run of lines that holds it does.
            if is_outermost && blank_before && block_start > 0 {
                cuts.push(block_start);
            }
            blank_before = false;
        }
        at += line.len();
    }
    cuts.push(text.len());
    cuts.dedup();
    cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Whether a line that begins with `#` opens a declaration: an attribute of Rust, a comment of Python.
fn is_attribute(line: &str) -> bool {
    line.starts_with("#[") || line.starts_with("# ")
}

/// The line of a piece that opens a declaration, without its body.
fn declaration(piece: &str) -> Option<String> {
    let is_comment = |line: &str| ["//", "/*", "*", "#", "--", "@", "\"\"\""].iter().any(|mark| line.starts_with(mark));
    let line = piece.lines().find(|line| !line.trim().is_empty() && !is_comment(line.trim_start()))?;
    if line.starts_with([' ', '\t']) {
        return None;
    }
    let opens = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '!')).take(5);
    let mut opens = opens.map(str::to_lowercase);
    if !opens.any(|word| DECLARATIONS.contains(&word.as_str())) {
        return None;
    }
    let title = line.split(['{', '=']).next().unwrap_or(line).trim_end_matches([' ', ':', ';', '(']);
    Some(truncated(&one_line(title), MAX_TITLE_BYTES)).filter(|title| !title.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{IndexProfile, ParserRegistry};

    #[test]
    fn declarations_are_blocks_with_their_comments() {
        let source = "//! A module.\n\nuse std::fmt;\nuse std::io;\n\n/// Adds.\n#[inline]\npub fn add(a: u8) -> u8 {\n    let b = 1;\n\n\
                      \x20   a + b\n}\n\nstruct Pair {\n    a: u8,\n}\n";
        let registry = ParserRegistry::new(&IndexProfile::default());
        let document = registry.parse(source.as_bytes(), &SourceInfo::new("src/add.rs")).unwrap();
        document.check_blocks().unwrap();
        let text = |index: usize| document.blocks[index].span.slice(&document.text).unwrap();
        let titles: Vec<String> = document.blocks.iter().map(|block| block.heading_path.join(" > ")).collect();
        assert_eq!(titles, ["add.rs", "add.rs", "add.rs > pub fn add(a: u8) -> u8", "add.rs > struct Pair"]);
        assert!(text(2).starts_with("/// Adds.") && text(2).ends_with("a + b\n}"));
        assert_eq!(document.title, "add.rs");
        assert_eq!(document.metadata.get("code_language"), Some(&MetadataValue::Text("Rust".to_owned())));
        assert_eq!(document.language, None);
    }

    #[test]
    fn python_functions_and_nested_blank_lines() {
        let source = "import os\n\n# Greets.\ndef greet(name):\n    x = 1\n\n    return name\n\n\nclass A(B):\n\n    def f(self):\n        pass\n";
        let found = pieces(source);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(declaration(found[1]).as_deref(), Some("def greet(name)"));
        assert_eq!(declaration(found[2]).as_deref(), Some("class A(B)"));
        assert_eq!(found.concat(), source);
    }
}
