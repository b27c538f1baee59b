//! One sequence to be computed: a prompt and what was generated behind it.
//!
//! A task does not remember whether it prefills or decodes: it has tokens, and the keys and values of some of them are
//! held in pages. What is left is computed; one token left behind a whole prompt is a decode step. A preempted task
//! holds nothing and starts again, generated tokens included.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    time::Duration,
};

use edgewise_kv_cache::{Boundary, KvCache, Miss, Move, OpenRequest, Sequence};
use edgewise_types::TenantId;

/// A sample of a request. Requests are numbered in the order of their arrival, so the smaller id is the older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TaskId {
    pub(crate) request: u64,
    pub(crate) sample: usize,
}

/// What a task is made of.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) tenant: TenantId,
    pub(crate) prompt: Vec<u32>,
    pub(crate) public_tokens: usize,
    pub(crate) boundaries: Vec<Boundary>,
    /// Samples the request wants; they are forked from the first when its prompt is prefilled.
    pub(crate) samples: usize,
}

/// What the cache had of a prompt when its task was opened, or when what it waited for was published.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Found {
    /// Tokens.
    pub(crate) resident: usize,
    /// Why not more.
    pub(crate) miss: Option<Miss>,
}

/// A sequence to be computed.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) tenant: TenantId,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: usize,
    public_tokens: usize,
    boundaries: Vec<Boundary>,
    /// Sequences it stands for: more than one until it is forked.
    pub(crate) samples: usize,
    /// For each whole page of the prompt, a hash of everything up to its end.
    chain: Vec<u64>,
    /// Its pages, while it runs.
    pub(crate) sequence: Option<Sequence>,
    pub(crate) found: Found,
    /// Whether there was room for all of it when it was let in.
    pub(crate) admitted: bool,
    /// Whether it waited for another's prefill and has not looked since.
    pub(crate) follows: bool,
}

impl Task {
    pub(crate) fn new(id: TaskId, spec: Spec, page_tokens: usize) -> Self {
        let Spec { tenant, prompt, public_tokens, boundaries, samples } = spec;
        let mut chain: Vec<u64> = Vec::with_capacity(prompt.len() / page_tokens);
        for (i, page) in prompt.chunks_exact(page_tokens).enumerate() {
            let mut hasher = DefaultHasher::new();
            (chain.last(), page).hash(&mut hasher);
            if (i + 1) * page_tokens > public_tokens {
                tenant.hash(&mut hasher);
            }
            chain.push(hasher.finish());
        }
        Self {
            id,
            tenant,
            prompt_tokens: prompt.len(),
            tokens: prompt,
            public_tokens,
            boundaries,
            samples,
            chain,
            sequence: None,
            found: Found::default(),
            admitted: false,
            follows: false,
        }
    }

    /// Another sample of the same prompt, which shares all pages so far.
    pub(crate) fn fork(&self, sample: usize, sequence: Sequence) -> Self {
        Self {
            id: TaskId { sample, ..self.id },
            tenant: self.tenant.clone(),
            tokens: self.tokens.clone(),
            prompt_tokens: self.prompt_tokens,
            public_tokens: self.public_tokens,
            boundaries: self.boundaries.clone(),
            samples: 1,
            chain: self.chain.clone(),
            sequence: Some(sequence),
            found: self.found,
            admitted: true,
            follows: false,
        }
    }

    /// Takes hold of what is resident.
    pub(crate) fn open(&mut self, cache: &mut KvCache, now: Duration) -> Vec<Move> {
        let request = OpenRequest {
            tenant: &self.tenant,
            prompt: self.reusable(cache),
            public_tokens: self.public_tokens,
            boundaries: &self.boundaries,
        };
        let opened = cache.open(&request, now);
        self.found = Found { resident: opened.resident, miss: opened.miss };
        self.sequence = Some(opened.sequence);
        self.admitted = false;
        self.follows = false;
        opened.moves
    }

    /// The tokens whose keys and values may be another sequence's. After a preemption, generated ones are among them if
    /// they are computed as prompts are.
    fn reusable(&self, cache: &KvCache) -> &[u32] {
        if cache.prompts_only() { &self.tokens[..self.prompt_tokens] } else { &self.tokens }
    }

    /// Looks again, after another task published what this one waited for.
    pub(crate) fn refresh(&mut self, cache: &mut KvCache, now: Duration) -> Vec<Move> {
        self.follows = false;
        let Some(sequence) = &mut self.sequence else { return Vec::new() };
        let prompt = if cache.prompts_only() { &self.tokens[..self.prompt_tokens] } else { &self.tokens };
        let refreshed = cache.refresh(sequence, prompt, now);
        self.found.resident = refreshed.resident;
        refreshed.moves
    }

    /// Positions whose keys and values it holds.
    pub(crate) fn held(&self) -> usize {
        self.sequence.as_ref().map_or(0, Sequence::tokens)
    }

    /// Tokens still to be computed.
    pub(crate) fn left(&self) -> usize {
        self.tokens.len() - self.held()
    }

    /// Whether one more generated token is all there is to compute.
    pub(crate) fn decodes(&self) -> bool {
        self.tokens.len() > self.prompt_tokens && self.left() == 1
    }

    /// Pages it lacks for all its tokens, and one more to grow into.
    pub(crate) fn lacks(&self, page_tokens: usize) -> usize {
        let pages = self.sequence.as_ref().map_or(0, |sequence| sequence.pages().len());
        ((self.tokens.len() + 1).div_ceil(page_tokens) + 1).saturating_sub(pages)
    }

    /// How many leading tokens, in whole pages, its prompt shares with `other`'s.
    pub(crate) fn common(&self, other: &Self, page_tokens: usize) -> usize {
        let both = self.chain.len().min(other.chain.len());
        // A hash covers all pages before it, so equality is monotone. A collision would cost a wait, nothing more.
        let (mut low, mut high) = (0, both);
        while low < high {
            let middle = (low + high) / 2;
            if self.chain[middle] == other.chain[middle] { low = middle + 1 } else { high = middle }
        }
        low * page_tokens
    }
}
