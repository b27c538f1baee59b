//! Summaries that a generator writes.
//!
//! Each is written greedily, cut at its last whole sentence, and checked: it must not be empty or repeat itself, and its
//! names, numbers and dates must occur in the members. One that fails is written once more under another instruction that
//! says what was wrong; after that, sentences of the members take its place. All of this is counted in the summary.
//!
//! Invariants:
//! - A prompt and its answer fit the generator's window: members that do not are summarised in halves first.
//! - A failure of the generator is tried again a few times where that can help, and then an error. It is never a text.
//! - What waits asks several times a second whether to go on; an error then drops the stream, which ends the generation.

mod answer;
mod call;

use std::{ops::Range, sync::Arc};

use edgewise_model_api::{Generator, ModelError};
use edgewise_prompts::Prompts;
use edgewise_types::{SummaryMethod, TenantId, Usage};

use crate::{
    Effort, Extractive, ExtractiveOptions, MemberText, SummariseError, Summariser, SummaryLimits, SummaryRequest,
    SummaryText, faithful::Ground,
};
use answer::Rejected;

/// Changes with every change of how an answer is asked for, cut or checked, beyond the templates.
const VERSION: u32 = 1;
/// Prompt tokens that must be free for texts.
const LEAST_ROOM: usize = 64;
/// Repetition penalty of a second attempt.
const PENALTY: f32 = 1.15;
/// Words of an English text a token, about.
const WORDS_A_TOKEN: f64 = 0.7;

/// How summaries are written.
#[derive(Debug, Clone, PartialEq)]
pub struct AbstractiveOptions {
    /// Bounds of summaries.
    pub limits: SummaryLimits,
    /// Most tokens that the generator writes for one.
    pub max_tokens: usize,
    /// Times that a call is made before its failure is an error, where trying again can help.
    pub attempts: u32,
    /// Milliseconds before the second attempt; doubled before each further one.
    pub backoff_ms: u64,
    /// Summaries written at the same time. More than one may change how a local engine rounds, and so a word.
    pub parallel: usize,
    /// On whose account the generator's cache is used.
    pub tenant: TenantId,
}

impl Default for AbstractiveOptions {
    fn default() -> Self {
        Self {
            limits: SummaryLimits { members: 8, source_tokens: 1600, ..SummaryLimits::default() },
            max_tokens: 160,
            attempts: 4,
            backoff_ms: 500,
            parallel: 1,
            tenant: TenantId::local(),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub struct Abstractive {
    generator: Arc<dyn Generator>,
    prompts: Prompts,
    options: AbstractiveOptions,
    /// Tokens of a prompt without any text.
    overhead: usize,
    fallback: Extractive,
}

/// What was spent on the way to a summary.
#[derive(Debug, Default)]
struct Tally {
    usage: Usage,
    regenerated: u32,
    unsupported: Vec<String>,
}

impl Abstractive {
    /// A summariser on this generator.
    ///
    /// # Errors
    /// [`SummariseError::Limits`] if the generator's window has no room for a text and its summary, and errors of the
    /// templates and the tokenizer.
    pub fn new(
        generator: Arc<dyn Generator>,
        prompts: Prompts,
        options: AbstractiveOptions,
    ) -> Result<Self, SummariseError> {
        let fallback = Extractive::new(ExtractiveOptions { limits: options.limits, ..ExtractiveOptions::default() });
        let mut summariser = Self { generator, prompts, options, overhead: 0, fallback };
        summariser.overhead = summariser.encoded("", &[], None)?.len();
        let window = summariser.generator.info().context_window;
        // Once for the answer, once for what a second instruction adds.
        let room = window.saturating_sub(summariser.overhead + 2 * summariser.options.max_tokens);
        if room < LEAST_ROOM || summariser.options.max_tokens == 0 {
            return Err(SummariseError::Limits(format!(
                "the generator's window of {window} tokens has no room for a text and a summary of {} tokens: choose a \
                 generator with a larger window, shorter summaries, or extractive ones",
                summariser.options.max_tokens
            )));
        }
        let source_tokens = summariser.options.limits.source_tokens.min(room);
        summariser.options.limits.source_tokens = source_tokens;
        Ok(summariser)
    }

    fn words(&self) -> usize {
        (self.options.max_tokens as f64 * WORDS_A_TOKEN) as usize
    }

    /// The prompt for these members; with `again`, the one after a rejection.
    fn encoded(
        &self,
        title: &str,
        members: &[MemberText<'_>],
        again: Option<&Rejected>,
    ) -> Result<Vec<u32>, SummariseError> {
        let prompt = self.prompts.summary();
        let mut text = String::new();
        for member in members {
            text.push_str(&prompt.text(member.headings, member.text)?);
        }
        text.push_str(&match again {
            None => prompt.instruction(title, self.words())?,
            Some(rejected) => prompt.again(title, self.words(), &rejected.unsupported)?,
        });
        call::encode(self.generator.as_ref(), prompt.system()?, text)
    }

    /// A summary of these members, in parts first where they are too long for one prompt.
    fn written(
        &self,
        request: &SummaryRequest<'_>,
        members: &[MemberText<'_>],
        tally: &mut Tally,
    ) -> Result<(String, SummaryMethod), SummariseError> {
        // The second instruction may be longer than the first by what it forbids.
        let slack = 2 * self.options.max_tokens;
        let prompt = self.encoded(request.title, members, None)?;
        let window = self.generator.info().context_window;
        if prompt.len() + slack <= window || prompt.len() + self.options.max_tokens <= window && members.len() <= 1 {
            return self.checked(request, members, prompt, tally);
        }
        let halves = match members {
            [] => return Err(SummariseError::Limits("there is nothing to summarise".to_owned())),
            [one] => halves_of(one.text).map(|text| vec![MemberText { text, ..*one }]),
            several => {
                let (left, right) = several.split_at(several.len() / 2);
                [left.to_vec(), right.to_vec()]
            }
        };
        let shrunk = |half: &[MemberText<'_>]| half.iter().map(|member| member.text.len()).sum::<usize>();
        if halves.iter().any(|half| shrunk(half) == 0 || shrunk(half) >= shrunk(members)) {
            return Err(SummariseError::Limits(format!(
                "a text cannot be brought into the generator's window of {window} tokens: choose a generator with a \
                 larger window, or extractive summaries"
            )));
        }
        let mut parts = Vec::new();
        for half in &halves {
            parts.push((self.written(request, half, tally)?.0, half));
        }
        let merged: Vec<MemberText<'_>> =
            parts.iter().filter_map(|(text, half)| Some(MemberText { text, ..*half.first()? })).collect();
        if shrunk(&merged) >= shrunk(members) {
            // Summaries as long as what they are of would go round in circles.
            return self.by_sentences(request, members);
        }
        self.written(request, &merged, tally)
    }

    /// Writes, checks, writes once more, checks, and falls back on sentences of the members.
    fn checked(
        &self,
        request: &SummaryRequest<'_>,
        members: &[MemberText<'_>],
        prompt: Vec<u32>,
        tally: &mut Tally,
    ) -> Result<(String, SummaryMethod), SummariseError> {
        let ground = Ground::new(request.title, members);
        let window = self.generator.info().context_window;
        let mut attempt = |prompt: Vec<u32>, penalty: f32| {
            let call = call::Call { generator: self.generator.as_ref(), options: &self.options, penalty };
            let answer = call.answer(prompt, request.waiting, &mut tally.usage)?;
            Ok::<_, SummariseError>(answer::checked(&answer, self.options.limits.tokens, request.tokenizer, &ground))
        };
        let first = match attempt(prompt, 1.0)?.map_err(SummariseError::Tokenizer)? {
            Ok(text) => return Ok((text, SummaryMethod::Abstractive)),
            Err(rejected) => rejected,
        };
        let again = self.encoded(request.title, members, Some(&first))?;
        let second = match again.len() + self.options.max_tokens <= window {
            true => Some(attempt(again, PENALTY)?.map_err(SummariseError::Tokenizer)?),
            false => None,
        };
        tally.regenerated += 1;
        tally.unsupported.extend(first.unsupported);
        match second {
            Some(Ok(text)) => return Ok((text, SummaryMethod::Abstractive)),
            Some(Err(rejected)) => {
                tally.regenerated += 1;
                tally.unsupported.extend(rejected.unsupported);
            }
            None => {}
        }
        self.by_sentences(request, members)
    }

    fn by_sentences(
        &self,
        request: &SummaryRequest<'_>,
        members: &[MemberText<'_>],
    ) -> Result<(String, SummaryMethod), SummariseError> {
        let text = self.fallback.summarise(&SummaryRequest { members, ..*request })?.text;
        Ok((text, SummaryMethod::ExtractiveFallback))
    }
}

/// A text in two, between sentences if there are several, else between characters.
fn halves_of(text: &str) -> [&str; 2] {
    let middle = text.len() / 2;
    let sentences = edgewise_text::sentences(text);
    let starts = sentences.iter().map(|span| span.start).filter(|at| *at > 0);
    let at = starts.min_by_key(|at| at.abs_diff(middle));
    let at = at.or_else(|| (middle..text.len()).find(|at| text.is_char_boundary(*at))).unwrap_or(text.len());
    [Range { start: 0, end: at }, Range { start: at, end: text.len() }].map(|range| &text[range])
}

impl Summariser for Abstractive {
    fn identity(&self) -> String {
        let (digest, templates) = (&self.generator.info().digest, self.prompts.summary().template_hash());
        format!(
            "abstractive {VERSION} {digest} {templates} {} or {}",
            self.options.max_tokens,
            self.fallback.identity()
        )
    }

    fn limits(&self) -> SummaryLimits {
        self.options.limits
    }

    fn summarise(&self, request: &SummaryRequest<'_>) -> Result<SummaryText, SummariseError> {
        let mut tally = Tally::default();
        let (text, method) = self.written(request, request.members, &mut tally)?;
        let (facts, facts_left_out) = Ground::new(request.title, request.members).left_out(&text);
        tally.unsupported.sort();
        tally.unsupported.dedup();
        let Tally { usage, regenerated, unsupported } = tally;
        Ok(SummaryText { text, method, usage, regenerated, unsupported, facts, facts_left_out })
    }

    fn estimate(&self, source_tokens: usize) -> Effort {
        let room = self.options.limits.source_tokens.max(1);
        let parts = source_tokens.div_ceil(room).max(1);
        // Parts are merged two by two.
        let calls = 2 * parts - 1;
        let merged = (parts - 1) * 2 * self.options.max_tokens;
        Effort {
            summaries: 1,
            calls,
            prompt_tokens: source_tokens + merged + calls * self.overhead,
            output_tokens: calls * self.options.max_tokens,
        }
    }

    fn parallel(&self) -> usize {
        self.options.parallel.max(1)
    }

    fn batch(&self) -> usize {
        self.options.parallel.max(1)
    }
}

impl std::fmt::Debug for Abstractive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Abstractive")
            .field("model", &self.generator.info().model)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Whether trying again can help.
fn passing(error: &ModelError) -> bool {
    matches!(error, ModelError::Overloaded { .. } | ModelError::Internal(_))
}

#[cfg(test)]
mod tests;
