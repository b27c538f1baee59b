//! The thread that owns the decoder and all keys and values.
//!
//! It serves one request at a time, first in, first out, and keeps finished sequences for reuse. Everything other
//! threads may look at is in [`Shared`]; locks there are held for look-ups only, never during a forward pass or a copy.
//!
//! A panic inside a generation ends the worker: the caller, everyone waiting and everyone coming later get
//! [`ModelError::Stopped`], nobody hangs.

use std::{
    any::Any,
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use edgewise_model_api::{GenerateRequest, GenerationEvent, ModelError};
use edgewise_telemetry::names;
use edgewise_types::TenantId;

use super::{
    clock::Clock,
    generation::{self, Context, Ending},
    latency_fit::LatencyFit,
    prefix_slots::{Change, Finished, Mark, PrefixSlots, Reuse, SlotId, common},
    queue::{Call, Counters, Job, Next, Queue, lock},
    step_model::StepModel,
};
use crate::tokenizer::GeneratorTokenizer;

/// How often expired prefixes are dropped while there is nothing to do.
const SWEEP: Duration = Duration::from_secs(10);

/// What callers and the worker share.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) counters: Arc<Counters>,
    pub(crate) latency: Mutex<LatencyFit>,
    pub(crate) prefixes: Mutex<Prefixes>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What is resident.
pub(crate) struct Prefixes {
    pub(crate) slots: PrefixSlots,
    /// The sequence being worked on. It will be a slot by the time the next request runs.
    active: Option<Active>,
}

struct Active {
    tenant: TenantId,
    tokens: Vec<u32>,
    /// How many of the tokens are in the state so far.
    held: usize,
}

impl Prefixes {
    pub(crate) fn new(slots: PrefixSlots) -> Self {
        Self { slots, active: None }
    }
}

impl Shared {
    /// Leading tokens of `prompt` that are resident for `tenant`.
    pub(crate) fn resident(&self, tenant: &TenantId, prompt: &[u32]) -> usize {
        let prefixes = lock(&self.prefixes);
        let active = prefixes.active.as_ref().filter(|active| active.tenant == *tenant);
        let in_active = active.map_or(0, |active| common(&active.tokens[..active.held], prompt));
        prefixes.slots.resident(tenant, prompt, self.clock.now()).max(in_active)
    }
}

/// The worker's own belongings.
pub(crate) struct Worker<M: StepModel> {
    pub(crate) model: M,
    pub(crate) tokenizer: Arc<GeneratorTokenizer>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) prefill_chunk: usize,
    pub(crate) states: HashMap<SlotId, M::State>,
}

impl<M: StepModel> Worker<M> {
    /// Serves until the queue is closed.
    pub(crate) fn run(mut self) {
        loop {
            match self.shared.queue.next(SWEEP) {
                Next::Idle => self.expire(),
                Next::Closed => break,
                Next::Job(job) => {
                    self.expire();
                    let sender = job.call.sender.clone();
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.serve(*job))) {
                        let reason = format!("its worker failed: {}; restart it", message(panic.as_ref()));
                        tracing::error!(reason, "the engine stops");
                        fail_all(self.shared.queue.close(&reason), &reason);
                        let _ = sender.send(GenerationEvent::Failed(ModelError::Stopped(reason)));
                        lock(&self.shared.prefixes).active = None;
                        return;
                    }
                }
            }
        }
    }

    fn serve(&mut self, job: Job) {
        let Job { call, mut load } = job;
        if call.sender.is_closed() {
            return;
        }
        let (mut state, resident, marks) = self.begin(&call);
        let prompt_tokens = call.request.prompt.tokens.len();
        load.set_prefill_tokens(prompt_tokens - resident);
        let shared = self.shared.clone();
        let mut prefilled = |held: usize| {
            load.set_prefill_tokens(prompt_tokens - held);
            if let Some(active) = &mut lock(&shared.prefixes).active {
                active.held = held;
            }
        };
        let mut context = Context {
            model: &self.model,
            tokenizer: &self.tokenizer,
            clock: shared.clock.as_ref(),
            prefill_chunk: self.prefill_chunk,
            closed: &|| shared.queue.closed(),
            prefilled: &mut prefilled,
        };
        let mut sequence = Vec::new();
        let ending = generation::run(&mut context, &call, &mut state, resident, &mut sequence);
        let computed = sequence.len().min(prompt_tokens).saturating_sub(resident);
        metrics::counter!(names::CACHED_TOKENS_TOTAL).increment(resident as u64);
        metrics::counter!(names::PREFILL_TOKENS_TOTAL).increment(computed as u64);

        let GenerateRequest { prompt, tenant, .. } = call.request;
        let kept = match ending {
            // After a failure the state can't be trusted.
            Ending::Failed(ModelError::Internal(_)) => false,
            _ => self.keep(
                Finished {
                    tenant,
                    bytes: self.model.bytes(&state),
                    tokens: sequence,
                    boundaries: &prompt.boundaries,
                    inherited: marks,
                },
                state,
            ),
        };
        lock(&self.shared.prefixes).active = None;
        // The counters have let go of the request before its last event is seen.
        drop(load);
        let event = match ending {
            Ending::Cancelled => return,
            Ending::Failed(error) => GenerationEvent::Failed(error),
            Ending::Finished(finish) => {
                lock(&self.shared.latency).observe(finish.prefill, finish.decode);
                metrics::counter!(names::OUTPUT_TOKENS_TOTAL).increment(finish.output_tokens as u64);
                let output = finish.output_tokens;
                let usage = generation::usage(prompt_tokens, resident, &prompt.boundaries, kept, output);
                GenerationEvent::Finished { reason: finish.reason, text: finish.text, usage, timings: finish.timings }
            }
        };
        let _ = call.sender.send(event);
    }

    /// A state that holds the longest resident prefix of the prompt, and its length.
    fn begin(&mut self, call: &Call) -> (M::State, usize, Vec<Mark>) {
        let prompt = &call.request.prompt.tokens;
        let tenant = &call.request.tenant;
        let now = self.shared.clock.now();
        let reuse = lock(&self.shared.prefixes).slots.reuse(tenant, prompt, now);
        let found = match reuse {
            Reuse::Nothing => None,
            Reuse::Copy { slot, tokens } => {
                self.states.get(&slot).map(|state| (self.model.copy_prefix(state, tokens), tokens, Vec::new()))
            }
            Reuse::Take { slot, tokens, marks } => self.states.remove(&slot).map(|mut state| {
                self.model.truncate(&mut state, tokens);
                (state, tokens, marks)
            }),
        };
        let (state, resident, marks) = found.unwrap_or_else(|| (self.model.new_state(), 0, Vec::new()));
        lock(&self.shared.prefixes).active =
            Some(Active { tenant: tenant.clone(), tokens: prompt.clone(), held: resident });
        (state, resident, marks)
    }

    /// Keeps a sequence for reuse; whether there was room.
    fn keep(&mut self, finished: Finished<'_>, state: M::State) -> bool {
        let (id, changes) = lock(&self.shared.prefixes).slots.keep(finished, self.shared.clock.now());
        self.apply(changes);
        id.map(|id| self.states.insert(id, state)).is_some()
    }

    fn expire(&mut self) {
        let changes = lock(&self.shared.prefixes).slots.expire(self.shared.clock.now());
        self.apply(changes);
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Drop(id) => {
                    self.states.remove(&id);
                }
                Change::Truncate(id, tokens) => {
                    if let Some(state) = self.states.get_mut(&id) {
                        self.model.truncate(state, tokens);
                        let bytes = self.model.bytes(state);
                        lock(&self.shared.prefixes).slots.set_bytes(id, bytes);
                    }
                }
            }
        }
    }
}

/// Fails jobs that never ran.
pub(crate) fn fail_all(jobs: Vec<Job>, reason: &str) {
    for Job { call, load } in jobs {
        drop(load);
        let _ = call.sender.send(GenerationEvent::Failed(ModelError::Stopped(reason.to_owned())));
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
