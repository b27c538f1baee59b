//! Index profiles: how the documents of a collection are read, cut, embedded and searched.
//!
//! A profile is a TOML file under `indexes/`; [`DEFAULT_PROFILE`] is compiled in. Every key must be known, and all but
//! three later ones of the limits present, so a file says all there is to say, and a misspelt key is never silently ignored. Errors name file, line and column.
//!
//! Deliberately not here: summary-tree parameters, which arrive with what they configure.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use edgewise_types::Money;

use crate::{ChunkOptions, DocumentError, TEXT_VERSION};

/// The default profile's source, `indexes/default.toml`.
pub const DEFAULT_PROFILE: &str = include_str!("../../../indexes/default.toml");

/// How a collection is indexed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexProfile {
    /// Registry name of the embedder.
    pub embedder: String,
    /// File formats that are read; at least one.
    pub formats: Vec<Format>,
    /// Text analysis of the lexical index.
    pub analyser: Analyser,
    /// Chunk limits, in the embedder's tokens.
    pub chunk: ChunkOptions,
    /// How lexical and vector results are combined.
    pub fusion: Fusion,
    /// What is refused.
    pub limits: Limits,
    /// The graph over many vectors. Optional, as it came after the first profiles were stored with collections.
    #[serde(default)]
    pub graph: GraphProfile,
    /// What a question to the collection may use at most. Set on a collection and kept there whatever profile it is
    /// ingested with later.
    #[serde(default, skip_serializing_if = "Ceiling::is_none")]
    pub ceiling: Ceiling,
}

/// Limits of every question to a collection; absent ones do not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceiling {
    /// Most a question may cost, in dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<Money>,
    /// Longest prompt in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<usize>,
    /// Longest predicted time to the last token, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<u64>,
}

impl Ceiling {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the ranges: an amount and numbers above 0.
    ///
    /// # Errors
    /// The limit that is out of range, and the rule.
    pub fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        let rule = "must be above 0: leave it out to set no limit";
        let checks = [
            (self.max_cost.is_none_or(|most| most > Money::ZERO), "max_cost"),
            (self.max_input_tokens != Some(0), "max_input_tokens"),
            (self.max_latency_ms != Some(0), "max_latency_ms"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, name)) => Err((name, rule)),
            None => Ok(()),
        }
    }
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Markdown: `.md`, `.markdown`.
    Markdown,
    /// Plain text: `.txt`, `.log`.
    Text,
    /// HTML: `.html`, `.htm`.
    Html,
    /// PDF: `.pdf`.
    Pdf,
    /// Word documents: `.docx`.
    Docx,
    /// E-books: `.epub`.
    Epub,
    /// AsciiDoc: `.adoc`, `.asciidoc`.
    Asciidoc,
    /// Tables and records: `.csv`, `.tsv`, `.jsonl`, `.ndjson`.
    Records,
    /// Source code.
    Code,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 9] = [
        Self::Markdown,
        Self::Text,
        Self::Html,
        Self::Pdf,
        Self::Docx,
        Self::Epub,
        Self::Asciidoc,
        Self::Records,
        Self::Code,
    ];
}

/// Text analysis of the lexical index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Analyser {
    /// Language of the stemmer and of the stop words.
    pub language: Language,
    /// Whether stop words are left out.
    pub stop_words: bool,
}

/// Languages with a Snowball stemmer (<https://snowballstem.org/algorithms/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Language {
    /// Words as they are, for mixed or other languages.
    None,
    Arabic,
    Danish,
    Dutch,
    English,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Tamil,
    Turkish,
}

/// How the ranked lists of the two indexes become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// Which formula.
    pub method: FusionMethod,
    /// Weight of the lexical list, 0 to 1; the vector list has the rest.
    pub lexical_weight: f64,
    /// Constant of reciprocal rank fusion, at least 1.
    pub rrf_k: u32,
}

/// Formulas of fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FusionMethod {
    /// Weighted sum of scores scaled to 0..1 (Bruch, Gai and Ingber, 2023, <https://arxiv.org/abs/2210.11934>).
    Convex,
    /// Weighted sum of `1 / (k + rank)` (Cormack, Clarke and Büttcher, 2009, <https://doi.org/10.1145/1571941.1572114>).
    Rrf,
}

/// What is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest file, in bytes.
    pub max_file_bytes: usize,
    /// Most bytes that a compressed file may unpack to, and most bytes of a document's text.
    #[serde(default = "Limits::default_unpacked_bytes")]
    pub max_unpacked_bytes: usize,
    /// Longest time for parsing one file, in seconds.
    #[serde(default = "Limits::default_seconds")]
    pub max_seconds: u64,
    /// Most address space of a process that parses, in bytes; of no effect on threads.
    #[serde(default = "Limits::default_memory_bytes")]
    pub max_memory_bytes: usize,
}

/// Keys added after the first profiles were stored with collections have defaults.
impl Limits {
    fn default_unpacked_bytes() -> usize {
        256 * 1024 * 1024
    }

    fn default_seconds() -> u64 {
        120
    }

    fn default_memory_bytes() -> usize {
        4 * 1024 * 1024 * 1024
    }
}

/// The graph over the vectors of a large collection (hierarchical navigable small world, Malkov and Yashunin, 2018,
/// <https://arxiv.org/abs/1603.09320>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphProfile {
    /// From this many vectors on a graph is built; fewer are scanned.
    pub threshold: usize,
    /// Neighbours of a vector, 4 to 128 (M of the paper).
    pub neighbours: usize,
    /// Candidates kept while building, 16 to 2000.
    pub ef_construction: usize,
    /// Candidates kept while searching, 16 to 2000; more for searches that ask for more than half as many hits.
    pub ef_search: usize,
}

impl Default for GraphProfile {
    fn default() -> Self {
        Self { threshold: 20_000, neighbours: 16, ef_construction: 200, ef_search: 100 }
    }
}

impl Default for IndexProfile {
    /// [`DEFAULT_PROFILE`]. A test keeps the two equal.
    fn default() -> Self {
        Self {
            embedder: "all-minilm-l6-v2".to_owned(),
            formats: Format::ALL.to_vec(),
            analyser: Analyser { language: Language::English, stop_words: true },
            chunk: ChunkOptions { max_tokens: 240, target_tokens: 200, overlap_tokens: 0 },
            fusion: Fusion { method: FusionMethod::Convex, lexical_weight: 0.15, rrf_k: 60 },
            limits: Limits {
                max_file_bytes: 32 * 1024 * 1024,
                max_unpacked_bytes: Limits::default_unpacked_bytes(),
                max_seconds: Limits::default_seconds(),
                max_memory_bytes: Limits::default_memory_bytes(),
            },
            graph: GraphProfile::default(),
            ceiling: Ceiling::default(),
        }
    }
}

impl IndexProfile {
    /// Reads and checks the profile in the file at `path`.
    pub fn load(path: &Path) -> Result<Self, DocumentError> {
        let name = path.display().to_string();
        let source = std::fs::read_to_string(path)
            .map_err(|source| DocumentError::ProfileRead { path: name.clone(), source })?;
        Self::parse(&source, &name)
    }

    /// Reads and checks a profile's source; `name` stands for the file in errors.
    pub fn parse(source: &str, name: &str) -> Result<Self, DocumentError> {
        let error = |at: usize, message: String| {
            let (line, column) = position(source, at);
            DocumentError::Profile { path: name.to_owned(), line, column, message }
        };
        let profile: Self = toml::from_str(source).map_err(|problem| {
            let at = problem.span().map_or(0, |span| span.start);
            error(at, problem.message().trim().replace('\n', "; "))
        })?;
        match profile.problem() {
            None => Ok(profile),
            Some((section, key, rule)) => {
                let full = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
                Err(error(key_offset(source, section, key), format!("{full} {rule}")))
            }
        }
    }

    /// The first value that is out of range: its section, key and the rule it breaks.
    fn problem(&self) -> Option<(&'static str, &'static str, String)> {
        if self.embedder.trim().is_empty() {
            return Some(("", "embedder", "must name a model of config/models.toml, but is blank".to_owned()));
        }
        if self.formats.is_empty() {
            return Some(("", "formats", "must list at least one format".to_owned()));
        }
        if let Err((key, rule)) = self.chunk.validate() {
            return Some(("chunk", key, rule));
        }
        if !(0.0..=1.0).contains(&self.fusion.lexical_weight) {
            let rule = format!("must be between 0 and 1, but is {}", self.fusion.lexical_weight);
            return Some(("fusion", "lexical_weight", rule));
        }
        if self.fusion.rrf_k == 0 {
            return Some(("fusion", "rrf_k", "must be at least 1, but is 0".to_owned()));
        }
        let Limits { max_file_bytes, max_unpacked_bytes, max_seconds, max_memory_bytes } = self.limits;
        let at_least_one = [
            ("max_file_bytes", max_file_bytes == 0),
            ("max_unpacked_bytes", max_unpacked_bytes == 0),
            ("max_seconds", max_seconds == 0),
            ("max_memory_bytes", max_memory_bytes == 0),
        ];
        if let Some((key, _)) = at_least_one.into_iter().find(|(_, is_zero)| *is_zero) {
            return Some(("limits", key, "must be at least 1, but is 0".to_owned()));
        }
        let GraphProfile { threshold, neighbours, ef_construction, ef_search } = self.graph;
        let ranges = [
            ("threshold", threshold, 1..=usize::MAX),
            ("neighbours", neighbours, 4..=128),
            ("ef_construction", ef_construction, 16..=2000),
            ("ef_search", ef_search, 16..=2000),
        ];
        if let Some((key, value, range)) = ranges.into_iter().find(|(_, value, range)| !range.contains(value)) {
            let rule = match key {
                "threshold" => "must be at least 1, but is 0".to_owned(),
                _ => format!("must be between {} and {}, but is {value}", range.start(), range.end()),
            };
            return Some(("graph", key, rule));
        }
        if let Err((key, rule)) = self.ceiling.validate() {
            return Some(("ceiling", key, rule.to_owned()));
        }
        None
    }

    /// BLAKE3, in hexadecimal, over everything that decides what is stored for a document: embedder, analyser, chunk
    /// limits and [`TEXT_VERSION`]. A collection whose stored hash differs must be cut and embedded again. Fusion and ceiling act
    /// on queries only, formats and limits on which files are read, and the graph is made of what is stored, so they are
    /// left out.
    pub fn hash(&self) -> String {
        let Self { embedder, analyser, chunk, formats: _, fusion: _, limits: _, graph: _, ceiling: _ } = self;
        let mut canonical = format!("edgewise index profile\ntext_version={TEXT_VERSION}\nembedder={embedder:?}\n");
        // Writing to a string cannot fail.
        let _ = write!(
            canonical,
            "analyser.language={:?}\nanalyser.stop_words={}\nchunk.max_tokens={}\nchunk.target_tokens={}\nchunk.overlap_tokens={}\n",
            analyser.language, analyser.stop_words, chunk.max_tokens, chunk.target_tokens, chunk.overlap_tokens
        );
        blake3::hash(canonical.as_bytes()).to_hex().to_string()
    }
}

/// Line and column, both from 1, of a byte.
fn position(source: &str, at: usize) -> (usize, usize) {
    let before = &source[..source.floor_char_boundary(at)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Where `key` of `section` (empty for the top level) is set in a source that parses.
fn key_offset(source: &str, section: &str, key: &str) -> usize {
    let Ok(document) = toml::de::DeTable::parse(source) else { return 0 };
    let mut table = document.get_ref();
    if !section.is_empty() {
        match table.get(section).map(|value| value.get_ref()) {
            Some(toml::de::DeValue::Table(inner)) => table = inner,
            _ => return 0,
        }
    }
    table.get_key_value(key).map_or(0, |(key, _)| key.span().start)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_from_before_the_graph_has_its_defaults() {
        let before = &DEFAULT_PROFILE[..DEFAULT_PROFILE.find("# The graph over").unwrap()];
        assert_eq!(IndexProfile::parse(before, "p.toml").unwrap(), IndexProfile::default());
    }

    #[test]
    fn the_shipped_profile_is_the_default() {
        assert_eq!(IndexProfile::parse(DEFAULT_PROFILE, "indexes/default.toml").unwrap(), IndexProfile::default());
    }

    #[test]
    fn every_shipped_key_has_a_comment() {
        let lines: Vec<&str> = DEFAULT_PROFILE.lines().collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains('=') && !line.starts_with('#')) {
            assert!(lines[index - 1].starts_with('#'), "{line}");
        }
    }

    fn message(from: &str, to: &str) -> String {
        assert!(DEFAULT_PROFILE.contains(from), "{from}");
        IndexProfile::parse(&DEFAULT_PROFILE.replace(from, to), "p.toml").unwrap_err().to_string()
    }

    fn line_of(text: &str) -> usize {
        DEFAULT_PROFILE.lines().position(|line| line.starts_with(text)).unwrap() + 1
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let at = |key: &str| format!("p.toml:{}:", line_of(key));
        for (from, to, key, says) in [
            ("target_tokens = 200", "target_tokens = 300", "target_tokens", "chunk.target_tokens must be between"),
            ("target_tokens = 200", "targt_tokens = 200", "target_tokens", "targt_tokens"),
            ("max_tokens = 240", "max_tokens = \"240\"", "max_tokens", "invalid type"),
            ("lexical_weight = 0.15", "lexical_weight = 1.5", "lexical_weight", "between 0 and 1"),
            ("rrf_k = 60", "rrf_k = 0", "rrf_k", "at least 1"),
            ("language = \"english\"", "language = \"klingon\"", "language", "klingon"),
            ("embedder = \"all-minilm-l6-v2\"", "embedder = \"\"", "embedder", "blank"),
            ("neighbours = 16", "neighbours = 2", "neighbours", "graph.neighbours must be between 4 and 128, but is 2"),
            ("rrf_k = 60", "rrf_k = ", "rrf_k", ""),
        ] {
            let message = message(from, to);
            assert!(message.starts_with(&at(key)) && message.contains(says) && !message.contains('\n'), "{message}");
        }
        assert!(message("rrf_k = 60", "").contains("missing field `rrf_k`"));
        let error = IndexProfile::load(Path::new("/nonexistent/p.toml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/p.toml"), "{error}");
    }

    #[test]
    fn the_hash_changes_with_what_is_stored_and_only_with_that() {
        let base = IndexProfile::default();
        let changed = |change: &dyn Fn(&mut IndexProfile)| {
            let mut profile = base.clone();
            change(&mut profile);
            profile.hash()
        };
        assert_eq!(changed(&|_| ()), base.hash());
        assert_eq!(changed(&|p| p.fusion.lexical_weight = 0.9), base.hash());
        assert_eq!(changed(&|p| p.limits.max_file_bytes = 1), base.hash());
        assert_eq!(changed(&|p| p.graph.threshold = 1), base.hash());
        let stored: [&dyn Fn(&mut IndexProfile); 4] = [
            &|p| p.chunk.target_tokens = 100,
            &|p| p.chunk.overlap_tokens = 20,
            &|p| p.analyser.language = Language::None,
            &|p| p.embedder = "other".to_owned(),
        ];
        for change in stored {
            assert_ne!(changed(change), base.hash());
        }
        // Fixed, so that collections written by an earlier build are recognised.
        assert_eq!(base.hash(), "59e9857ec556b2a182fe0d851997d79228e1920ba413175b17a025b6c8366986");
    }
}
