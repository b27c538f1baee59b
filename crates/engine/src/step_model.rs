//! What scheduling needs of a model: a batched forward pass over paged keys and values, so that scheduling and caching
//! can be tested on a scripted one.
//!
//! Contract: a token's keys, values and logits depend, bit for bit, only on the tokens before it in its sequence: not
//! on what else is in the batch, on how the sequence was cut into calls, nor on which pages hold it. Where
//! [`StepModel::shares_generated`] is false, they also depend on which of these tokens were generated.
//!
//! Deliberately not here: which pages a sequence has, when they are shared or given back.

use edgewise_kv_cache::PageId;

use crate::EngineError;

/// One sequence's part of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct BatchEntry<'a> {
    /// Tokens to append; at least one.
    pub tokens: &'a [u32],
    /// Positions already held, whose keys and values are in the pages.
    pub position: usize,
    /// The sequence's pages in order, with room for `position + tokens.len()` positions. Those that are written to,
    /// from `position / page_tokens` on, must not be in another entry of the batch.
    pub pages: &'a [PageId],
    /// Whether the logits after the last token are wanted.
    pub logits: bool,
    /// Position of the sequence's first generated token; anything beyond the entry's tokens where none of them was
    /// generated. Makes a difference to backends that compute generated tokens in another way than prompts, see
    /// [`Backend::shares_generated`](crate::backend::Backend::shares_generated).
    pub generated_from: usize,
}

/// How much of its logits a sequence's next token is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Demand {
    /// All of them.
    #[default]
    Whole,
    /// That many of the largest, at least one, and the sum over all.
    Likeliest(usize),
}

/// What a token is drawn from.
#[derive(Debug, Clone, PartialEq)]
pub enum Scores {
    /// The logits of the whole vocabulary.
    Whole(Vec<f32>),
    /// The largest of them.
    Likeliest(Likeliest),
}

impl Scores {
    /// All logits, where these are given.
    pub(crate) fn whole(&self) -> Option<&[f32]> {
        match self {
            Self::Whole(logits) => Some(logits),
            Self::Likeliest(_) => None,
        }
    }
}

/// The likeliest tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeliest {
    /// Ids and logits, in descending order of the logits, equal ones by ascending ids.
    pub tokens: Vec<(u32, f32)>,
    /// `ln Σ exp(logit)` over the whole vocabulary.
    pub log_sum: f64,
}

/// What the calling thread does while a pass runs on a device. It can be called more than once: what is done is not done
/// again.
pub type Meanwhile<'a> = dyn FnMut() + Send + 'a;

/// A model that extends sequences, whose keys and values lie in pages.
pub(crate) trait StepModel: Send + 'static {
    /// Page storage of all layers.
    type Kv: Send;

    /// Length of the logits.
    fn vocabulary(&self) -> usize;

    /// Positions in a page.
    fn page_tokens(&self) -> usize;

    /// Bytes of one page over all layers, keys and values.
    fn page_bytes(&self) -> usize;

    /// What, besides weights and tokens, the contents of a page depend on; part of the identity of what is cached.
    fn kv_identity(&self) -> String {
        String::new()
    }

    /// Whether the keys and values of a generated token are, bit for bit, those the token would have in a prompt.
    fn shares_generated(&self) -> bool {
        true
    }

    /// Room for `pages` pages, with unspecified contents.
    ///
    /// # Errors
    /// [`EngineError`] when there is not enough memory.
    fn allocate(&self, pages: usize) -> Result<Self::Kv, EngineError>;

    /// Writes the keys and values of every entry's tokens to its pages, and returns the logits asked for, entry by
    /// entry.
    ///
    /// # Errors
    /// [`EngineError`] when a token is unknown, pages are too few or out of range, or the arithmetic fails. Positions
    /// that were held before are untouched.
    fn forward(&self, kv: &mut Self::Kv, batch: &[BatchEntry<'_>]) -> Result<Vec<Option<Vec<f32>>>, EngineError>;

    /// As [`Self::forward`], with what each entry's token is to be drawn from: at least as much as its place in `demands`
    /// says, which are as many as the batch has entries.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn forward_for(
        &self,
        kv: &mut Self::Kv,
        batch: &[BatchEntry<'_>],
        _demands: &[Demand],
    ) -> Result<Vec<Option<Scores>>, EngineError> {
        Ok(self.forward(kv, batch)?.into_iter().map(|logits| logits.map(Scores::Whole)).collect())
    }

    /// Whether passes are computed by a device beside the calling thread.
    fn is_device(&self) -> bool {
        false
    }

    /// As [`Self::forward_for`], and where a device computes the pass, calls `meanwhile` once it has been issued. A pass
    /// that fails, or that nobody wants logits of, may not come to it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn forward_beside(
        &self,
        kv: &mut Self::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
        _meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Option<Scores>>, EngineError> {
        self.forward_for(kv, batch, demands)
    }

    /// Copies the first `tokens` positions of a page to another.
    fn copy_page(&self, kv: &mut Self::Kv, from: PageId, to: PageId, tokens: usize);

    /// Appends the contents of a page, [`Self::page_bytes`] bytes, to `out`.
    fn read_page(&self, kv: &Self::Kv, page: PageId, out: &mut Vec<u8>);

    /// Puts back what [`Self::read_page`] gave.
    ///
    /// # Errors
    /// [`EngineError`] when `bytes` is not [`Self::page_bytes`] long.
    fn write_page(&self, kv: &mut Self::Kv, page: PageId, bytes: &[u8]) -> Result<(), EngineError>;
}
