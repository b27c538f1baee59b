//! A batch of decoding sequences without a model, to measure what a step costs besides its forward pass.

use std::time::Duration;

use edgewise_kv_cache::{CacheError, CacheOptions, Identity, KvCache, Reserved};
use edgewise_types::TenantId;

use super::{
    scheduler::{Budget, Limits, Scheduler},
    task::Spec,
};

/// Sequences of several tenants that decode for ever, over a real cache.
pub struct SteadyBatch {
    scheduler: Scheduler,
    cache: KvCache,
    now: Duration,
}

const PAGE_TOKENS: usize = 32;
const BUDGET: Budget = Budget { alone: usize::MAX, beside_decodes: usize::MAX };

impl SteadyBatch {
    /// `sequences` with prompts of `context` tokens, prefilled, and pages for `steps` steps.
    ///
    /// # Errors
    /// Those of the cache, when the numbers are out of its range.
    pub fn new(sequences: usize, context: usize, steps: usize) -> Result<Self, CacheError> {
        let cache = KvCache::new(CacheOptions {
            page_tokens: PAGE_TOKENS,
            pages: sequences * ((context + steps).div_ceil(PAGE_TOKENS) + 2),
            host_pages: 0,
            min_prefix_tokens: PAGE_TOKENS,
            identity: Identity::new(&[]),
            secret: [0; 32],
            reserved: Reserved::default(),
        })?;
        let limits = Limits { page_tokens: PAGE_TOKENS, max_sequences: sequences, min_shared_tokens: PAGE_TOKENS };
        let mut scheduler = Scheduler::new(limits);
        for request in 0..sequences {
            let spec = Spec {
                tenant: TenantId(format!("tenant {}", request % 4).into()),
                prompt: (0..context).map(|i| (request * context + i) as u32).collect(),
                public_tokens: 0,
                boundaries: Vec::new(),
                samples: 1,
            };
            scheduler.push(request as u64, spec);
        }
        let mut batch = Self { scheduler, cache, now: Duration::ZERO };
        while batch.step() < sequences {}
        Ok(batch)
    }

    /// One step: planned, its block tables read, committed, published, and a token appended to each sequence. Returns
    /// how many tokens were drawn.
    pub fn step(&mut self) -> usize {
        self.now += Duration::from_millis(10);
        let step = self.scheduler.plan(&mut self.cache, BUDGET, self.now);
        let pages: usize =
            step.entries.iter().filter_map(|entry| self.scheduler.entry(entry)).map(|(.., pages)| pages.len()).sum();
        std::hint::black_box(pages);
        let mut drawn = 0;
        for entry in &step.entries {
            self.scheduler.computed(&mut self.cache, entry, self.now);
            if entry.last {
                self.scheduler.append(entry.task, 7);
                drawn += 1;
            }
        }
        drawn
    }
}

impl Drop for SteadyBatch {
    fn drop(&mut self) {
        let ids: Vec<_> = self.scheduler.running().iter().map(|task| task.id).collect();
        for id in ids {
            self.scheduler.remove(&mut self.cache, id, false, self.now);
        }
    }
}
