//! Scheduler, cache and pages in one thread, step by step, with every invariant checked after each.

use std::{collections::HashMap, sync::Arc, time::Duration};

use edgewise_kv_cache::{CacheOptions, Identity, KvCache, Reserved};
use edgewise_types::TenantId;

use super::scripted::{PAGE, Probe, Scripted, continuation, greedy};
use crate::{
    serve::{
        scheduler::{Budget, Limits, Scheduler, Step},
        storage::Storage,
        task::{Spec, TaskId},
    },
    step_model::{BatchEntry, Demand, Scores, StepModel as _},
};

const VOCABULARY: usize = 97;

/// How a simulated engine is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) pages: usize,
    pub(super) host_pages: usize,
    pub(super) max_sequences: usize,
    pub(super) budget: Budget,
    pub(super) min_prefix: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            pages: 64,
            host_pages: 0,
            max_sequences: 16,
            budget: Budget { alone: 16, beside_decodes: 8 },
            min_prefix: 1,
        }
    }
}

pub(super) struct Simulation {
    setup: Setup,
    model: Scripted,
    storage: Storage<Scripted>,
    pub(super) cache: KvCache,
    pub(super) scheduler: Scheduler,
    pub(super) now: Duration,
    requests: u64,
    /// Tokens to generate, those generated, and the prompt, of tasks that have not ended.
    open: HashMap<TaskId, (usize, Vec<u32>, Vec<u32>)>,
    pub(super) finished: Vec<TaskId>,
    pub(super) computed: usize,
    pub(super) preempted: usize,
    pub(super) steps: usize,
}

impl Simulation {
    pub(super) fn new(setup: Setup) -> Self {
        let model =
            Scripted { vocabulary: VOCABULARY, marks: false, selects: false, probe: Arc::new(Probe::default()) };
        let storage = Storage::new(model.allocate(setup.pages).unwrap(), setup.host_pages);
        let cache = KvCache::new(CacheOptions {
            page_tokens: PAGE,
            pages: setup.pages,
            host_pages: setup.host_pages,
            min_prefix_tokens: setup.min_prefix,
            identity: Identity::new(&[("model", b"scripted")]),
            secret: [7; 32],
            reserved: Reserved { default: setup.pages / 4, limit: setup.pages / 2, ..Reserved::default() },
        })
        .unwrap();
        let limits =
            Limits { page_tokens: PAGE, max_sequences: setup.max_sequences, min_shared_tokens: setup.min_prefix };
        Self {
            setup,
            model,
            storage,
            cache,
            scheduler: Scheduler::new(limits),
            now: Duration::ZERO,
            requests: 0,
            open: HashMap::new(),
            finished: Vec::new(),
            computed: 0,
            preempted: 0,
            steps: 0,
        }
    }

    pub(super) fn push(&mut self, tenant: &str, prompt: &[u32], output: usize) -> TaskId {
        self.push_spec(Spec { samples: 1, ..spec(tenant, prompt) }, output)
    }

    pub(super) fn push_spec(&mut self, spec: Spec, output: usize) -> TaskId {
        self.requests += 1;
        let prompt = spec.prompt.clone();
        let id = self.scheduler.push(self.requests, spec);
        self.open.insert(id, (output, Vec::new(), prompt));
        id
    }

    pub(super) fn cancel(&mut self, id: TaskId) {
        if self.open.remove(&id).is_some() {
            assert!(self.scheduler.remove(&mut self.cache, id, true, self.now));
            self.check();
        }
    }

    /// One step; greedy tokens are appended, complete tasks end.
    pub(super) fn step(&mut self) -> Step {
        self.steps += 1;
        self.now += Duration::from_millis(10);
        let decoding: Vec<TaskId> =
            self.scheduler.running().iter().filter(|task| task.decodes()).map(|task| task.id).collect();
        let step = self.scheduler.plan(&mut self.cache, self.setup.budget, self.now);
        assert!(step.refused.is_empty(), "everything here fits by itself");
        assert!(!step.entries.is_empty() || self.scheduler.is_empty(), "there is work, but none is done");
        self.check_entries(&step, &decoding);
        self.preempted += step.preempted.len();
        self.storage.execute(&self.model, &step.moves).unwrap();
        let batch: Vec<BatchEntry<'_>> = step
            .entries
            .iter()
            .map(|entry| {
                let (tokens, position, pages) = self.scheduler.entry(entry).unwrap();
                let generated_from = self.scheduler.task(entry.task).unwrap().prompt_tokens;
                BatchEntry { tokens, position, pages, logits: entry.last, generated_from }
            })
            .collect();
        self.computed += batch.iter().map(|entry| entry.tokens.len()).sum::<usize>();
        let results = if batch.is_empty() {
            Vec::new()
        } else {
            self.storage.forward(&self.model, &batch, &vec![Demand::Whole; batch.len()])
        };
        for (entry, result) in step.entries.iter().zip(results) {
            let scores = result.unwrap();
            assert_eq!(scores.is_some(), entry.last);
            self.scheduler.computed(&mut self.cache, entry, self.now);
            if let Some(Scores::Whole(logits)) = scores {
                self.draw(entry.task, greedy(&logits));
            }
        }
        self.check();
        step
    }

    fn draw(&mut self, id: TaskId, token: u32) {
        let mut ids = vec![id];
        for fork in self.scheduler.fork(&mut self.cache, id) {
            self.open.insert(fork, self.open[&id].clone());
            ids.push(fork);
        }
        for id in ids {
            let (wanted, output, prompt) = self.open.get_mut(&id).unwrap();
            output.push(token);
            if output.len() < *wanted {
                self.scheduler.append(id, token);
                continue;
            }
            assert_eq!(*output, continuation(prompt, *wanted, VOCABULARY), "{id:?} gave something else than alone");
            self.open.remove(&id);
            self.finished.push(id);
            self.scheduler.remove(&mut self.cache, id, true, self.now);
        }
    }

    pub(super) fn run(&mut self) {
        let before = self.steps;
        while !self.scheduler.is_empty() {
            self.step();
            assert!(self.steps - before < 20_000, "no end");
        }
        assert!(self.open.is_empty());
        assert_eq!(self.cache.stats().used, 0, "a page is held by nobody");
    }

    fn check_entries(&self, step: &Step, decoding: &[TaskId]) {
        for (i, entry) in step.entries.iter().enumerate() {
            assert!(step.entries[..i].iter().all(|other| other.task != entry.task), "twice in a step");
        }
        let decodes = |id| self.scheduler.task(id).unwrap().decodes();
        let prefilled: usize = step.entries.iter().filter(|e| !decodes(e.task)).map(|e| e.tokens).sum();
        assert!(prefilled <= self.setup.budget.alone);
        if step.entries.iter().any(|e| decoding.contains(&e.task)) {
            assert!(prefilled <= self.setup.budget.beside_decodes);
        }
    }

    fn check(&self) {
        let stats = self.cache.stats();
        assert_eq!(stats.free + stats.used + stats.cached, stats.total, "{stats:?}");
        assert_eq!(stats.sequences, self.scheduler.counts().0, "every running task has a sequence and nobody else");
        let sequences: usize = self.scheduler.running().iter().map(|task| task.samples).sum();
        assert!(sequences <= self.setup.max_sequences, "{sequences} sequences");
    }
}

pub(super) fn spec(tenant: &str, prompt: &[u32]) -> Spec {
    Spec {
        tenant: TenantId(tenant.into()),
        prompt: prompt.to_vec(),
        public_tokens: 0,
        boundaries: Vec::new(),
        samples: 1,
    }
}
