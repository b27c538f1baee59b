//! The open sequences: what they are computing, so that others can wait for it, and whether one is alone.

use std::{collections::BTreeMap, sync::Arc};

use crate::{budget::AccountId, tree::common};

/// An open sequence.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) account: AccountId,
    pub(crate) public_pages: usize,
    pub(crate) prompt: Arc<[u32]>,
    /// Tokens it holds.
    pub(crate) tokens: usize,
    /// Pages it holds.
    pub(crate) pages: usize,
}

/// Whoever might wait.
pub(crate) struct Waiting<'a> {
    pub(crate) account: Option<AccountId>,
    pub(crate) public_pages: usize,
    /// The prompt without its last token.
    pub(crate) tokens: &'a [u32],
    /// Only sequences before this one count.
    pub(crate) before: u64,
}

/// All open sequences, by their number.
#[derive(Debug, Default)]
pub(crate) struct RunningSet {
    open: BTreeMap<u64, Running>,
    last: u64,
    page: usize,
    /// Sequences of fewer tokens publish nothing.
    minimum: usize,
}

impl RunningSet {
    pub(crate) fn new(page: usize, minimum: usize) -> Self {
        Self { open: BTreeMap::new(), last: 0, page, minimum }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// The number a new sequence gets.
    pub(crate) fn add(&mut self, running: Running) -> u64 {
        self.last += 1;
        self.open.insert(self.last, running);
        self.last
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Running> {
        self.open.get(&id)
    }

    pub(crate) fn note(&mut self, id: u64, tokens: usize, pages: usize) {
        if let Some(running) = self.open.get_mut(&id) {
            running.tokens = tokens;
            running.pages = pages;
        }
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.open.remove(&id);
    }

    /// Whether no other sequence holds pages.
    pub(crate) fn is_alone(&self, id: u64) -> bool {
        self.open.iter().all(|(&other, running)| other == id || running.pages == 0)
    }

    /// Leading tokens, in whole pages, that another sequence is going to publish.
    pub(crate) fn coming(&self, waiting: &Waiting<'_>) -> usize {
        let earlier = self.open.range(..waiting.before).map(|(_, running)| running);
        let computing = earlier.filter(|r| r.tokens < r.prompt.len() && r.prompt.len() >= self.minimum);
        let coming = computing.map(|running| {
            let public = running.public_pages.min(waiting.public_pages);
            let same = Some(running.account) == waiting.account && running.public_pages == waiting.public_pages;
            let visible = if same { usize::MAX } else { public * self.page };
            let shared = common(&running.prompt, waiting.tokens).min(visible) / self.page * self.page;
            if running.tokens < shared { shared } else { 0 }
        });
        coming.max().unwrap_or(0)
    }
}
