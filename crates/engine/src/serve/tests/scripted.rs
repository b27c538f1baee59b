//! A model whose logits are a function of the token history alone, and which knows that history only from its pages.
//!
//! A page holds, for every position, the token written there. Logits are a hash of what the block table leads to, so a
//! wrong table, a missed copy, a page given out twice or read before it was written changes the output. Positions that
//! were never written, or that a partial copy leaves behind, hold a token that no prompt has.

use std::sync::{Arc, Condvar, Mutex};

use edgewise_kv_cache::PageId;

use crate::{
    EngineError,
    serve::queue::lock,
    step_model::{BatchEntry, Demand, Likeliest, Scores, StepModel},
};

/// Positions of a page.
pub(super) const PAGE: usize = 4;
/// What a position holds that was not written.
const GARBAGE: u32 = u32::MAX;
/// Tokens that make a forward pass panic, fail, or give NaN when a sequence begins with token 1 and ends with them.
pub(super) const PANIC: u32 = 250;
pub(super) const FAIL: u32 = 251;
pub(super) const NAN: u32 = 252;

/// What a generated token is marked with.
const MARK: u32 = 1 << 31;

/// What happens in forward passes, and whether they may happen.
#[derive(Default)]
pub(super) struct Probe {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Passes that may still run; absent: any number.
    permits: Option<usize>,
    /// Position and number of tokens of every entry of every pass.
    passes: Vec<Vec<(usize, usize)>>,
}

impl Probe {
    /// Lets no pass run until [`Probe::permit`]; forgets what was seen.
    pub(super) fn close(&self) {
        *lock(&self.state) = State { permits: Some(0), passes: Vec::new() };
    }

    /// Lets all passes run; forgets what was seen.
    pub(super) fn open(&self) {
        *lock(&self.state) = State::default();
        self.changed.notify_all();
    }

    /// Lets `passes` more run.
    pub(super) fn permit(&self, passes: usize) {
        if let Some(permits) = &mut lock(&self.state).permits {
            *permits += passes;
        }
        self.changed.notify_all();
    }

    /// Passes begun so far.
    pub(super) fn passes(&self) -> Vec<Vec<(usize, usize)>> {
        lock(&self.state).passes.clone()
    }

    fn enter(&self, batch: &[BatchEntry<'_>]) {
        let mut state = lock(&self.state);
        state.passes.push(batch.iter().map(|entry| (entry.position, entry.tokens.len())).collect());
        self.changed.notify_all();
        while state.permits == Some(0) {
            state = self.changed.wait(state).unwrap();
        }
        if let Some(permits) = &mut state.permits {
            *permits -= 1;
        }
    }
}

pub(super) struct Scripted {
    pub(super) vocabulary: usize,
    /// Whether generated tokens leave a mark in their pages, as in a model that computes them in another way.
    pub(super) marks: bool,
    /// Whether it gives only the likeliest tokens where these suffice.
    pub(super) selects: bool,
    pub(super) probe: Arc<Probe>,
}

/// The logits behind a history.
pub(super) fn logits_after(history: &[u32], vocabulary: usize) -> Vec<f32> {
    let bytes: Vec<u8> = history.iter().flat_map(|t| t.to_le_bytes()).collect();
    let mut stream = vec![0; vocabulary];
    blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut stream);
    let mut logits: Vec<f32> = stream.into_iter().map(|byte| f32::from(byte) / 16.0).collect();
    // Control tokens are left out, so that outputs have their full length.
    logits[..3].fill(-100.0);
    logits
}

/// The token with the largest logit, the first among equals.
pub(super) fn greedy(logits: &[f32]) -> u32 {
    let best =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0 as u32
}

/// The `k` largest logits.
fn likeliest(logits: &[f32], k: usize) -> Likeliest {
    let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    tokens.truncate(k);
    Likeliest { tokens, log_sum: logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() }
}

/// What greedy decoding gives behind a prompt.
pub(super) fn continuation(prompt: &[u32], tokens: usize, vocabulary: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..tokens {
        history.push(greedy(&logits_after(&history, vocabulary)));
    }
    history.split_off(prompt.len())
}

/// The same of a model that marks generated tokens.
pub(super) fn marked_continuation(prompt: &[u32], tokens: usize, vocabulary: usize) -> Vec<u32> {
    let mut history = prompt.to_vec();
    for _ in 0..tokens {
        history.push(greedy(&logits_after(&history, vocabulary)) | MARK);
    }
    history[prompt.len()..].iter().map(|token| token & !MARK).collect()
}

impl StepModel for Scripted {
    type Kv = Vec<[u32; PAGE]>;

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn page_tokens(&self) -> usize {
        PAGE
    }

    fn page_bytes(&self) -> usize {
        PAGE * 4
    }

    fn shares_generated(&self) -> bool {
        !self.marks
    }

    fn allocate(&self, pages: usize) -> Result<Self::Kv, EngineError> {
        Ok(vec![[GARBAGE; PAGE]; pages])
    }

    fn forward(&self, kv: &mut Self::Kv, batch: &[BatchEntry<'_>]) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        self.probe.enter(batch);
        let written = |entry: &BatchEntry<'_>| {
            let (from, to) = (entry.position / PAGE, (entry.position + entry.tokens.len()).div_ceil(PAGE));
            entry.pages[from..to].to_vec()
        };
        for (i, entry) in batch.iter().enumerate() {
            assert!(!entry.tokens.is_empty());
            let others = batch.iter().enumerate().filter(|(j, _)| *j != i);
            let pages = written(entry);
            for (_, other) in others {
                assert!(pages.iter().all(|page| !other.pages.contains(page)), "a page that is written is shared");
            }
        }
        let mut results = Vec::new();
        for entry in batch {
            for (i, token) in entry.tokens.iter().enumerate() {
                let at = entry.position + i;
                let mark = if self.marks && at >= entry.generated_from { MARK } else { 0 };
                kv[entry.pages[at / PAGE].0 as usize][at % PAGE] = *token | mark;
            }
            let end = entry.position + entry.tokens.len();
            let history: Vec<u32> = (0..end).map(|at| kv[entry.pages[at / PAGE].0 as usize][at % PAGE]).collect();
            assert!(!history.contains(&GARBAGE), "a position is read that was not written: {history:?}");
            let mut logits = logits_after(&history, self.vocabulary);
            if history[0] == 1 {
                match history.last() {
                    Some(&PANIC) => panic!("scripted"),
                    Some(&FAIL) => return Err(EngineError::Decoder("scripted".to_owned())),
                    Some(&NAN) => logits.fill(f32::NAN),
                    _ => {}
                }
            }
            results.push(entry.logits.then_some(logits));
        }
        Ok(results)
    }

    fn forward_for(
        &self,
        kv: &mut Self::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
    ) -> Result<Vec<Option<Scores>>, EngineError> {
        assert_eq!(batch.len(), demands.len());
        let select = |(logits, demand): (Option<Vec<f32>>, &Demand)| match demand {
            Demand::Likeliest(k) if self.selects && *k <= self.vocabulary => {
                logits.map(|logits| Scores::Likeliest(likeliest(&logits, *k)))
            }
            _ => logits.map(Scores::Whole),
        };
        Ok(self.forward(kv, batch)?.into_iter().zip(demands).map(select).collect())
    }

    fn copy_page(&self, kv: &mut Self::Kv, from: PageId, to: PageId, tokens: usize) {
        assert!(tokens <= PAGE && from != to);
        let source = kv[from.0 as usize];
        kv[to.0 as usize] = std::array::from_fn(|i| if i < tokens { source[i] } else { GARBAGE });
    }

    fn read_page(&self, kv: &Self::Kv, page: PageId, out: &mut Vec<u8>) {
        out.extend(kv[page.0 as usize].iter().flat_map(|token| token.to_le_bytes()));
    }

    fn write_page(&self, kv: &mut Self::Kv, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        if bytes.len() != PAGE * 4 {
            return Err(EngineError::Decoder(format!("a page of {} bytes", bytes.len())));
        }
        let tokens = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        tokens.zip(&mut kv[page.0 as usize]).for_each(|(token, at)| *at = token);
        Ok(())
    }
}
