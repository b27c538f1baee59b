//! The thread that owns the model and its page storage, and runs: admit → plan a step → move pages → compute → publish →
//! draw. What callers are told of a step, they are told while the next one is computed by a device, or before it is
//! computed by the CPU; and at once where none follows, or pages are moved or written to disk first ([`super::outbox`]).
//!
//! The next step is not planned before the one that runs is settled: publishing may exchange a sequence's page for one
//! of the same content, and its block tables are only known then. It is little that this would save (`kernels/README.md`).
//!
//! Everything other threads may look at is in [`Shared`]; locks there are held for bookkeeping only, never during a
//! forward pass or a copy.
//!
//! A request at fault (logits no token can be drawn from, a grammar that gets stuck, a failed forward pass) fails alone.
//! A panic, or pages that can't be moved, ends the worker: everyone running, waiting and coming later gets
//! [`ModelError::Stopped`], nobody hangs.

use std::{
    any::Any,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use edgewise_kv_cache::{Digest, KvCache, OpenRequest};
use edgewise_model_api::{FinishReason, GenerationEvent, ModelError, Prompt};
use edgewise_telemetry::names;
use edgewise_types::TenantId;

use super::{
    clock::Clock,
    convert,
    latency_fit::LatencyFit,
    outbox::Outbox,
    persist::Persistence,
    queue::{Counters, Decoding, Job, Queue, lock},
    report,
    request::{Kept, Next, Request},
    scheduler::{Budget, Entry, Scheduler, Step},
    storage::{Computed, Storage},
    task::{Spec, TaskId},
    work::{self, Part},
};
use crate::{
    EngineError,
    step_model::{BatchEntry, Demand, Scores, StepModel},
    tokenizer::GeneratorTokenizer,
};

/// How often expired prefixes are dropped while there is nothing to do.
const SWEEP: Duration = Duration::from_secs(10);
/// How often that is done, and figures are reported, while there is.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What callers and the worker share.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) counters: Arc<Counters>,
    pub(crate) latency: Mutex<LatencyFit>,
    pub(crate) cache: Mutex<KvCache>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where the cache's time begins.
    pub(crate) start: Instant,
    /// Prefixes whose files are to be removed.
    pub(crate) released: Mutex<Vec<Digest>>,
}

impl Shared {
    /// The cache's time.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.start)
    }

    /// What is resident of a prompt.
    pub(crate) fn lookup(&self, tenant: &TenantId, prompt: &Prompt) -> edgewise_kv_cache::Lookup {
        let boundaries = convert::boundaries(&prompt.boundaries);
        let Prompt { tokens, public_tokens, .. } = prompt;
        let request = OpenRequest { tenant, prompt: tokens, public_tokens: *public_tokens, boundaries: &boundaries };
        let now = self.now();
        lock(&self.cache).lookup(&request, now)
    }
}

/// How large steps are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Most prompt tokens of a step.
    pub(crate) prefill_chunk: usize,
    /// Longest step while something decodes, in milliseconds.
    pub(crate) target_step_ms: f64,
}

/// The worker's own belongings.
pub(crate) struct Worker<M: StepModel> {
    pub(crate) model: M,
    pub(crate) storage: Storage<M>,
    pub(crate) tokenizer: Arc<GeneratorTokenizer>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pace: Pace,
    pub(crate) kept: Kept,
    pub(crate) scheduler: Scheduler,
    pub(crate) requests: HashMap<u64, Request>,
    pub(crate) outbox: Outbox,
    pub(crate) next_request: u64,
    pub(crate) tidied: Duration,
    pub(crate) persistence: Option<Persistence>,
}

impl<M: StepModel> Worker<M> {
    /// Serves until the queue is closed.
    pub(crate) fn run(mut self) {
        let reason = match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(reason)) => reason,
            Ok(Err(error)) => format!("its worker failed: {error}; restart it"),
            Err(panic) => format!("its worker failed: {}; restart it", message(panic.as_ref())),
        };
        if !self.scheduler.is_empty() {
            tracing::error!(reason, "the engine stops with work to do");
        }
        self.outbox.send();
        fail_all(self.shared.queue.close(&reason), &reason);
        for (_, request) in self.requests.drain() {
            request.fail(ModelError::Stopped(reason.clone()));
        }
        // The cache is of no further use, and after a panic perhaps not consistent: no sequence is closed any more.
        std::mem::forget(self.scheduler);
    }

    /// Runs step after step; returns why the queue was closed.
    fn serve(&mut self) -> Result<String, EngineError> {
        loop {
            self.tidy();
            let patience = match self.scheduler.is_empty() {
                true => self.persistence.as_ref().and_then(Persistence::patience).unwrap_or(SWEEP),
                false => Duration::ZERO,
            };
            match self.shared.queue.take(patience) {
                Err(reason) => {
                    self.keep_prefixes(true)?;
                    return Ok(reason);
                }
                Ok(jobs) => jobs.into_iter().for_each(|job| self.accept(job)),
            }
            self.drop_cancelled();
            if !self.scheduler.is_empty() {
                self.step()?;
                if self.scheduler.is_empty() {
                    // At once: whoever asks next is told that nothing is in the way.
                    self.shared.counters.set_decoding(Decoding::default());
                    self.outbox.send();
                }
            }
            let now = self.shared.now();
            if self.scheduler.is_empty() || self.persistence.as_ref().is_some_and(|files| files.is_due(now)) {
                self.keep_prefixes(false)?;
            }
        }
    }

    /// Brings the files of retained prefixes some way up to date, or all of it.
    fn keep_prefixes(&mut self, all: bool) -> Result<(), EngineError> {
        self.outbox.send();
        let Some(files) = &mut self.persistence else { return Ok(()) };
        std::mem::take(&mut *lock(&self.shared.released)).iter().for_each(|digest| files.remove(digest));
        files.sync(&self.shared.cache, self.shared.now(), &self.model, &mut self.storage, all)
    }

    fn accept(&mut self, mut job: Job) {
        let prompt = &mut job.call.request.prompt;
        let spec = Spec {
            tenant: job.call.request.tenant.clone(),
            prompt: std::mem::take(&mut prompt.tokens),
            public_tokens: prompt.public_tokens,
            boundaries: convert::boundaries(&prompt.boundaries),
            samples: job.call.request.n,
        };
        self.next_request += 1;
        let prompt_tokens = spec.prompt.len();
        self.requests.insert(self.next_request, Request::new(job, prompt_tokens));
        self.scheduler.push(self.next_request, spec);
    }

    /// Gives back what requests hold whose callers left.
    fn drop_cancelled(&mut self) {
        let gone: Vec<u64> = self.requests.iter().filter(|(_, r)| r.sender.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.take_out(id, true);
        }
    }

    /// Removes a request with all its samples.
    fn take_out(&mut self, id: u64, keep: bool) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        let now = self.shared.now();
        let mut cache = lock(&self.shared.cache);
        for sample in 0..request.samples() {
            self.scheduler.remove(&mut cache, TaskId { request: id, sample }, keep, now);
        }
        Some(request)
    }

    fn fail(&mut self, id: u64, error: ModelError) {
        if let Some(request) = self.take_out(id, false) {
            // Behind its other events.
            self.outbox.send();
            request.fail(error);
        }
    }

    fn tidy(&mut self) {
        let now = self.shared.now();
        let idle = self.scheduler.is_empty();
        if idle {
            self.shared.counters.set_decoding(Decoding::default());
        }
        if idle || now.saturating_sub(self.tidied) >= HOUSEKEEPING {
            self.tidied = now;
            let mut cache = lock(&self.shared.cache);
            cache.expire(now);
            report::cache(&cache.stats(), self.scheduler.counts());
            report::evicted(&cache.take_evicted());
        }
    }

    /// Prompt tokens of the next step: beside decodes as many as fit into the target, at least a page's worth.
    fn budget(&self) -> Budget {
        let alone = self.pace.prefill_chunk;
        let curve = lock(&self.shared.latency).curve();
        let (mut decode, mut context) = (0.0, 0);
        let mut decoding = Decoding::default();
        for task in self.scheduler.running() {
            if task.decodes() {
                decode = f64::max(decode, curve.d) + curve.e * task.held() as f64;
                decoding.sequences += 1;
                decoding.held += task.held();
                let left = self.requests.get(&task.id.request).map_or(0, |request| request.left(task.id.sample));
                decoding.left = decoding.left.max(left);
            } else {
                context = context.max(task.held());
            }
        }
        let per_token = curve.b + 2.0 * curve.c * context as f64;
        let affordable = ((self.pace.target_step_ms - decode) / per_token.max(1e-9)).max(0.0);
        let beside_decodes = (affordable as usize).max(self.model.page_tokens()).min(alone);
        self.shared.counters.set_decoding(Decoding { chunk: beside_decodes, ..decoding });
        Budget { alone, beside_decodes }
    }

    /// One step of the batch.
    fn step(&mut self) -> Result<(), EngineError> {
        let (budget, now) = (self.budget(), self.shared.now());
        let step = self.scheduler.plan(&mut lock(&self.shared.cache), budget, now);
        if !step.moves.is_empty() {
            // Pages may go to the host and back, which nobody's events wait for.
            self.outbox.send();
        }
        self.storage.execute(&self.model, &step.moves)?;
        self.note(&step);
        let (mut parts, mut batch, mut demands) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &step.entries {
            let Some((tokens, position, pages)) = self.scheduler.entry(entry) else { continue };
            let Some(task) = self.scheduler.task(entry.task) else { continue };
            parts.push(Part { held: position, tokens: tokens.len(), decodes: task.decodes() });
            batch.push(BatchEntry { tokens, position, pages, logits: entry.last, generated_from: task.prompt_tokens });
            demands.push(self.requests.get(&entry.task.request).map_or(Demand::Whole, Request::demand));
        }
        if batch.len() != step.entries.len() {
            return Err(EngineError::Decoder("a step holds a sequence that does not run".to_owned()));
        }
        if batch.is_empty() {
            self.outbox.send();
            return Ok(());
        }
        if !self.model.is_device() {
            // Not part of the step's time, which is shared out among the requests and which latencies are learnt from.
            self.outbox.send();
        }
        let begun = self.shared.clock.now();
        let computed = self.storage.forward_beside(&self.model, &batch, &demands, &mut || self.outbox.send());
        let done = self.shared.clock.now();
        // Where the pass did not come to it: nobody wants its logits yet, or it failed.
        self.outbox.send();
        let ms = done.saturating_duration_since(begun).as_secs_f64() * 1e3;
        self.attribute(&step.entries, &parts, ms);
        report::step(&parts);
        for (entry, computed) in step.entries.iter().zip(computed) {
            self.settle(entry, computed, done);
        }
        Ok(())
    }

    /// Tells callers of what the plan did to their requests.
    fn note(&mut self, step: &Step) {
        for id in &step.refused {
            let why = "its pages don't fit into the cache even alone: raise engine.cache_bytes or shorten it";
            self.fail(id.request, ModelError::Internal(why.to_owned()));
        }
        report::preempted(step.preempted.len());
        for id in &step.preempted {
            if let Some(request) = self.requests.get_mut(&id.request) {
                request.work.spoil();
            }
        }
        let now = self.shared.clock.now();
        for entry in &step.entries {
            let found = self.scheduler.task(entry.task).map(|task| task.found);
            let request = self.requests.get_mut(&entry.task.request);
            if let (Some(found), Some(request)) = (found, request)
                && request.begin(found.resident, found.miss.map(convert::miss), now, &mut self.outbox)
            {
                request.prefilled(found.resident);
                metrics::counter!(names::CACHED_TOKENS_TOTAL).increment(found.resident as u64);
            }
        }
    }

    /// Gives every request its share of a step's time.
    fn attribute(&mut self, entries: &[Entry], parts: &[Part], ms: f64) {
        let curve = lock(&self.shared.latency).curve();
        for ((entry, part), share) in entries.iter().zip(parts).zip(work::split(parts, ms, curve)) {
            if let Some(request) = self.requests.get_mut(&entry.task.request) {
                request.work.add(*part, share);
            }
        }
    }

    /// Takes in what was computed for one sequence.
    fn settle(&mut self, entry: &Entry, computed: Computed, now: Instant) {
        let id = entry.task;
        let scores = match computed {
            Ok(scores) => scores,
            Err(error) => return self.fail(id.request, error.into()),
        };
        let cache_now = now.saturating_duration_since(self.shared.start);
        self.scheduler.computed(&mut lock(&self.shared.cache), entry, cache_now);
        let Some(request) = self.requests.get_mut(&id.request) else { return };
        if let Some(task) = self.scheduler.task(id)
            && id.sample == 0
        {
            request.prefilled(task.held());
        }
        match (entry.last, scores) {
            (false, _) => {}
            (true, Some(scores)) => self.draw(id, &scores, now),
            (true, None) => {
                let error = EngineError::Decoder("the model gave no logits for a sequence's last token".to_owned());
                self.fail(id.request, error.into());
            }
        }
    }

    /// Draws the next token of a task; behind a prompt, the first of every sample.
    fn draw(&mut self, id: TaskId, scores: &Scores, now: Instant) {
        let mut ids = vec![id];
        if let (Some(task), Some(request)) = (self.scheduler.task(id), self.requests.get_mut(&id.request))
            && task.tokens.len() == task.prompt_tokens
        {
            request.start_samples(&task.tokens, self.model.vocabulary());
            if let Some(prefill) = request.work.prefill(request.prompt_tokens(), request.resident()) {
                lock(&self.shared.latency).observe(Some(prefill), None);
            }
            ids.extend(self.scheduler.fork(&mut lock(&self.shared.cache), id));
        }
        for id in ids {
            let Some(request) = self.requests.get_mut(&id.request) else { return };
            match request.draw(id.sample, scores, &self.tokenizer, now, &mut self.outbox) {
                Ok(Next::Token(token)) => self.scheduler.append(id, token),
                Ok(Next::End(reason)) => self.finish(id, reason),
                Err(error) => return self.fail(id.request, error.into()),
            }
        }
    }

    /// Ends a sample: gives back its pages, then says so.
    fn finish(&mut self, id: TaskId, reason: FinishReason) {
        let now = self.shared.now();
        self.scheduler.remove(&mut lock(&self.shared.cache), id, true, now);
        let Some(request) = self.requests.get_mut(&id.request) else { return };
        let event = request.finish(id.sample, reason, self.kept);
        if request.is_over() {
            let decode = request.work.decode();
            lock(&self.shared.latency).observe(None, decode);
        }
        if let Some(event) = event {
            if let GenerationEvent::Finished { usage, .. } = &event {
                metrics::counter!(names::OUTPUT_TOKENS_TOTAL).increment(usage.output_tokens as u64);
            }
            self.outbox.put(&request.sender, event);
        }
        if request.is_over() {
            self.requests.remove(&id.request);
        }
    }
}

/// Fails jobs that never ran.
pub(crate) fn fail_all(jobs: impl IntoIterator<Item = Job>, reason: &str) {
    for job in jobs {
        Request::new(job, 0).fail(ModelError::Stopped(reason.to_owned()));
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
