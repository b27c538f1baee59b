//! From a JSON schema, a regular expression or a Lark grammar to a constraint.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{InferenceCapabilities, SimpleVob},
};
use serde_json::{Value, json};

use super::{constraint::GrammarConstraint, vocabulary};
use crate::{EngineError, tokenizer::GeneratorTokenizer};

/// Longest source of a grammar, in bytes.
const MAX_SOURCE_BYTES: usize = 256 * 1024;
/// Deepest nesting of brackets in a source. What the library reads by recursion stays far from its stack's end.
const MAX_NESTING: usize = 96;
/// Stack of the thread that compiles. Chains of rules are followed by recursion; the source's length bounds them.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// What an output has to conform to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Grammar<'a> {
    /// A JSON schema (draft 2020-12 and before, the keywords llguidance enforces). The output is one line of JSON with
    /// a space after each colon and comma, as Python's `json.dumps` writes it, unless the schema asks for another form
    /// under `x-guidance`: white space left open invites small models to write nothing else.
    JsonSchema(&'a Value),
    /// A regular expression in the syntax of Rust's `regex` library, without look-around, matching the whole output.
    Regex(&'a str),
    /// A context-free grammar in llguidance's variant of the Lark syntax; its start rule is `start`.
    Lark(&'a str),
}

/// Compiles grammars for one vocabulary, whose trie is built when the first grammar comes.
pub(crate) struct GrammarCompiler {
    tokenizer: Arc<GeneratorTokenizer>,
    prepared: OnceLock<Result<Prepared, String>>,
}

struct Prepared {
    factory: ParserFactory,
    admissible: Arc<SimpleVob>,
}

impl GrammarCompiler {
    /// A compiler for the vocabulary of `tokenizer`.
    pub(crate) fn new(tokenizer: Arc<GeneratorTokenizer>) -> Self {
        Self { tokenizer, prepared: OnceLock::new() }
    }

    /// A fresh constraint. Takes milliseconds for usual schemas and is bounded for all: call it where the request comes
    /// in, not between the steps of other requests.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] for a source that is malformed, uses what cannot be enforced, allows no output or is
    /// too large.
    pub(crate) fn compile(&self, grammar: Grammar<'_>) -> Result<GrammarConstraint, EngineError> {
        let source = source(grammar)?;
        let prepared = self.prepared.get_or_init(|| self.prepare().map_err(|e| e.to_string()));
        let prepared = prepared.as_ref().map_err(|reason| EngineError::Grammar(reason.clone()))?;
        let compiled = std::thread::scope(|scope| {
            let build = || catch_unwind(AssertUnwindSafe(|| Matcher::new(prepared.factory.create_parser(source))));
            let thread = std::thread::Builder::new().name("edgewise-grammar".to_owned()).stack_size(STACK_BYTES);
            match thread.spawn_scoped(scope, build) {
                Ok(thread) => Ok(thread.join().and_then(|result| result)),
                Err(error) => Err(EngineError::Grammar(format!("no thread to compile it: {error}"))),
            }
        })?;
        let matcher = compiled.map_err(|_| EngineError::Grammar("the compiler failed on it".to_owned()))?;
        GrammarConstraint::new(matcher, prepared.admissible.clone())
    }

    fn prepare(&self) -> Result<Prepared, EngineError> {
        let environment = vocabulary::environment(self.tokenizer.clone())?;
        let failed = |e: &dyn std::fmt::Display| EngineError::Grammar(first_line(&e.to_string()));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).map_err(|e| failed(&e))?;
        factory.quiet();
        // The library's bounds, some 20 ms of compilation and 20 ms a step at most by its own account; only the errors
        // are kept short.
        *factory.limits_mut() = ParserLimits { verbose_errors: false, ..ParserLimits::default() };
        Ok(Prepared { factory, admissible: Arc::new(vocabulary::admissible(&environment)) })
    }
}

/// Checks the source's size and gives it to the library's front end.
fn source(grammar: Grammar<'_>) -> Result<TopLevelGrammar, EngineError> {
    match grammar {
        Grammar::JsonSchema(schema) => {
            bounded(&schema.to_string())?;
            let mut schema = schema.clone();
            if let Some(fields) = schema.as_object_mut() {
                fields.entry("x-guidance").or_insert_with(
                    || json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " }),
                );
            }
            Ok(TopLevelGrammar::from_json_schema(schema))
        }
        Grammar::Regex(expression) => {
            bounded(expression)?;
            Ok(TopLevelGrammar::from_regex(expression))
        }
        Grammar::Lark(text) => {
            bounded(text)?;
            Ok(TopLevelGrammar::from_lark(text.to_owned()))
        }
    }
}

fn bounded(source: &str) -> Result<(), EngineError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(EngineError::Grammar(format!(
            "it has {} bytes; at most {MAX_SOURCE_BYTES} are taken",
            source.len()
        )));
    }
    // Brackets inside strings count too, which errs on the safe side.
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    match deepest > MAX_NESTING {
        true => Err(EngineError::Grammar(format!("it nests {deepest} deep; at most {MAX_NESTING} is taken"))),
        false => Ok(()),
    }
}

/// The library's errors carry dumps of its state after the first line.
pub(super) fn first_line(error: &str) -> String {
    const LONGEST: usize = 400;
    let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    line.chars().take(LONGEST).collect()
}
