//! Which tokens are computed in the next step, as plain data: waiting and running tasks in, one step's batch out.
//!
//! A step is built in this order:
//! 1. Every running task with one generated token left gets it computed (decode).
//! 2. What is left of the token budget goes to prompts, chunk by chunk, to the tenant that was served least; within a
//!    tenant first to what has begun, then to the oldest that waits. Beside decodes the budget is smaller, since those
//!    wait for the whole step.
//!
//! Rules:
//! - A task is let in when there is room for its whole prompt beside what those running still need; when the next in
//!   order does not fit, nobody behind overtakes it, so it can't starve. Alone, a task is always let in.
//! - When pages run out, the youngest running task gives its own back and waits again (preemption by recompute). What it
//!   published stays cached. Only an older one can take pages from a younger one, so the oldest always gets on: no two
//!   tasks can push each other out for ever.
//! - A prompt whose next page another task is computing right now waits for it, and has its turn spent on that task
//!   (single flight). Should the other leave, it goes on by itself.
//!
//! Deliberately not here: the model, streams, sampling, clocks. Time comes in as an argument; pages are the cache's.

use std::time::Duration;

use edgewise_kv_cache::{KvCache, Move, PageId};
use edgewise_types::TenantId;

use super::{
    fair_queue::{DECODE, FairQueue, PREFILL},
    task::{Spec, Task, TaskId},
};

/// Limits that don't change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Positions in a page.
    pub(crate) page_tokens: usize,
    /// Most tasks running at once.
    pub(crate) max_sequences: usize,
    /// Shorter prefixes are not worth waiting for.
    pub(crate) min_shared_tokens: usize,
}

/// Most prompt tokens of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// When nothing decodes.
    pub(crate) alone: usize,
    /// When something does.
    pub(crate) beside_decodes: usize,
}

/// A task's part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) task: TaskId,
    /// Tokens to compute, behind those held.
    pub(crate) tokens: usize,
    /// Whether they are the last, so that a token is to be drawn.
    pub(crate) last: bool,
}

/// What to do next: the moves in order, then one forward pass over the entries.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) entries: Vec<Entry>,
    pub(crate) moves: Vec<Move>,
    /// Tasks that gave back their pages.
    pub(crate) preempted: Vec<TaskId>,
    /// Tasks that don't fit even alone; they are gone.
    pub(crate) refused: Vec<TaskId>,
}

/// All tasks that are not finished.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    waiting: FairQueue,
    /// By age.
    running: Vec<Task>,
    /// Whether a task was preempted since one ended. Nobody is let in meanwhile, or it would only be the next to go.
    short_of_pages: bool,
}

/// Whether a task got room.
enum Room {
    Made,
    /// Not in this step.
    None,
    /// The task itself is gone.
    Gone,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, waiting: FairQueue::default(), running: Vec::new(), short_of_pages: false }
    }

    /// Takes a new request in. Ids must grow.
    pub(crate) fn push(&mut self, request: u64, spec: Spec) -> TaskId {
        let id = TaskId { request, sample: 0 };
        self.waiting.push(Task::new(id, spec, self.limits.page_tokens));
        id
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.len() == 0
    }

    /// Running and waiting tasks.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// A running task.
    pub(crate) fn task(&self, id: TaskId) -> Option<&Task> {
        self.index(id).map(|index| &self.running[index])
    }

    fn index(&self, id: TaskId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |task| task.id).ok()
    }

    /// Chooses the next step's work and makes room for it.
    pub(crate) fn plan(&mut self, cache: &mut KvCache, budget: Budget, now: Duration) -> Step {
        let mut step = Step::default();
        self.plan_decodes(cache, &mut step, now);
        let mut left = if step.entries.is_empty() { budget.alone } else { budget.beside_decodes };
        // Tasks that found no room in this step.
        let mut stuck = Vec::new();
        while left > 0 {
            let Some(id) = self.next_prefill(cache, &mut step, &stuck, now) else { break };
            match self.place(cache, &mut step, id, left, now) {
                Some(tokens) => left -= tokens,
                None => stuck.push(id),
            }
        }
        if step.entries.is_empty()
            && let Some(oldest) = self.running.first().map(|task| task.id)
        {
            // Only tasks that wait for each other or for pages: the oldest goes on, whatever it takes.
            self.place(cache, &mut step, oldest, budget.alone.max(1), now);
        }
        step
    }

    fn plan_decodes(&mut self, cache: &mut KvCache, step: &mut Step, now: Duration) {
        let mut index = 0;
        while let Some(task) = self.running.get(index) {
            // Whoever is preempted is behind this one or this one itself, so the index still points to the next.
            let id = task.id;
            if task.decodes() {
                self.place(cache, step, id, 1, now);
            }
            index = self.running.partition_point(|task| task.id <= id);
        }
    }

    /// Enters up to `most` tokens of a task into the step; `None` if there is no room.
    fn place(&mut self, cache: &mut KvCache, step: &mut Step, id: TaskId, most: usize, now: Duration) -> Option<usize> {
        let task = &self.running[self.index(id)?];
        let (tokens, left) = (task.left().min(most), task.left());
        let (tenant, price) = (task.tenant.clone(), if task.decodes() { DECODE } else { PREFILL });
        match self.make_room(cache, step, id, tokens, now) {
            Room::Made => {}
            Room::None | Room::Gone => return None,
        }
        self.waiting.charge(&tenant, price * tokens as u64);
        step.entries.push(Entry { task: id, tokens, last: tokens == left });
        Some(tokens)
    }

    /// Reserves pages, taking them from younger tasks if there are no others.
    fn make_room(&mut self, cache: &mut KvCache, step: &mut Step, id: TaskId, tokens: usize, now: Duration) -> Room {
        loop {
            let Some(index) = self.index(id) else { return Room::Gone };
            let Some(sequence) = &mut self.running[index].sequence else { return Room::Gone };
            match cache.reserve(sequence, tokens, now) {
                Ok(moves) => {
                    step.moves.extend(moves);
                    return Room::Made;
                }
                Err(_) if self.running.len() == 1 => {
                    step.refused.push(id);
                    self.remove(cache, id, true, now);
                    return Room::Gone;
                }
                Err(_) if index + 1 == self.running.len() => {
                    // The youngest itself. A decode must not sit on its pages; a prefill may wait for more.
                    if self.running[index].decodes() {
                        self.preempt(cache, step, now);
                        return Room::Gone;
                    }
                    return Room::None;
                }
                Err(_) => self.preempt(cache, step, now),
            }
        }
    }

    /// Takes all pages from the youngest running task.
    fn preempt(&mut self, cache: &mut KvCache, step: &mut Step, now: Duration) {
        let Some(mut task) = self.running.pop() else { return };
        step.entries.retain(|entry| entry.task != task.id);
        step.preempted.push(task.id);
        if let Some(sequence) = task.sequence.take() {
            cache.preempt(sequence, now);
        }
        self.short_of_pages = true;
        self.waiting.put_back(task);
    }

    /// The task whose prompt is continued next, let in if it was waiting.
    fn next_prefill(
        &mut self,
        cache: &mut KvCache,
        step: &mut Step,
        stuck: &[TaskId],
        now: Duration,
    ) -> Option<TaskId> {
        let mut prefilling: Vec<TaskId> =
            self.running.iter().filter(|task| task.admitted && !task.decodes()).map(|task| task.id).collect();
        // Most steps: everybody decodes, and there is nothing to put in order.
        if prefilling.is_empty() && self.waiting.len() == 0 && self.running.iter().all(|task| task.admitted) {
            return None;
        }
        let is_free =
            |step: &Step, id: TaskId| !stuck.contains(&id) && !step.entries.iter().any(|entry| entry.task == id);
        let mut full = false;
        for tenant in self.waiting.order() {
            let mut next = 0;
            loop {
                while let Some(&id) = prefilling.get(next) {
                    next += 1;
                    let Some(index) = self.index(id) else { continue };
                    if self.running[index].tenant != tenant || !is_free(step, id) {
                        continue;
                    }
                    match self.leader(index) {
                        Some(leader) => {
                            self.running[index].follows = true;
                            if is_free(step, leader) {
                                return Some(leader);
                            }
                        }
                        None => {
                            if self.running[index].follows {
                                step.moves.extend(self.running[index].refresh(cache, now));
                            }
                            return Some(id);
                        }
                    }
                }
                if full {
                    break;
                }
                match self.admit(cache, step, &tenant, now) {
                    Admission::Admitted(id) => prefilling.push(id),
                    Admission::Nobody => break,
                    // Nobody overtakes, but what was let in goes on.
                    Admission::Full => full = true,
                }
            }
        }
        None
    }

    /// Lets in the oldest waiting task of a tenant.
    fn admit(&mut self, cache: &mut KvCache, step: &mut Step, tenant: &TenantId, now: Duration) -> Admission {
        // One that was opened and found too little room is next, whoever's turn it is.
        let index = match self.running.iter().position(|task| !task.admitted) {
            Some(index) => index,
            None => {
                let Some(head) = self.waiting.head(tenant) else { return Admission::Nobody };
                let sequences: usize = self.running.iter().map(|task| task.samples).sum();
                let full = sequences + head.samples > self.limits.max_sequences;
                if sequences > 0 && (full || self.short_of_pages) {
                    return Admission::Full;
                }
                let Some(mut task) = self.waiting.start(tenant) else { return Admission::Nobody };
                step.moves.extend(task.open(cache, now));
                let index = self.running.partition_point(|other| other.id < task.id);
                self.running.insert(index, task);
                index
            }
        };
        let stats = cache.stats();
        let page_tokens = self.limits.page_tokens;
        let needed: usize = self
            .running
            .iter()
            .enumerate()
            .filter(|(i, task)| task.admitted || *i == index)
            .map(|(_, task)| task.lacks(page_tokens))
            .sum();
        if self.running.len() > 1 && (self.short_of_pages || needed > stats.free + stats.cached) {
            return Admission::Full;
        }
        self.running[index].admitted = true;
        Admission::Admitted(self.running[index].id)
    }

    /// The task that is computing pages which the one at `index` would compute next.
    fn leader(&self, index: usize) -> Option<TaskId> {
        let task = &self.running[index];
        let ahead = |other: &&Task| {
            other.admitted
                && !other.decodes()
                && other.id != task.id
                && (other.held(), std::cmp::Reverse(other.id)) > (task.held(), std::cmp::Reverse(task.id))
        };
        let mut candidates = self.running.iter().filter(ahead);
        let leads = |other: &&Task| {
            let common = other.common(task, self.limits.page_tokens);
            common >= self.limits.min_shared_tokens && common > other.held()
        };
        candidates.find(leads).map(|other| other.id)
    }

    /// The tokens, first position and pages of an entry.
    pub(crate) fn entry(&self, entry: &Entry) -> Option<(&[u32], usize, &[PageId])> {
        let task = self.task(entry.task)?;
        let held = task.held();
        Some((&task.tokens[held..held + entry.tokens], held, task.sequence.as_ref()?.pages()))
    }

    /// Notes that an entry was computed, and publishes its whole pages.
    pub(crate) fn computed(&mut self, cache: &mut KvCache, entry: &Entry, now: Duration) {
        let Some(index) = self.index(entry.task) else { return };
        let task = &mut self.running[index];
        let held = task.held();
        if let Some(sequence) = &mut task.sequence {
            cache.commit(sequence, &task.tokens[held..held + entry.tokens], now);
        }
    }

    /// Splits a task whose prompt is computed into its samples, and returns the new ones.
    pub(crate) fn fork(&mut self, cache: &mut KvCache, id: TaskId) -> Vec<TaskId> {
        let Some(index) = self.index(id) else { return Vec::new() };
        let samples = std::mem::replace(&mut self.running[index].samples, 1);
        let mut new = Vec::new();
        for sample in 1..samples {
            let task = &self.running[index];
            let Some(sequence) = &task.sequence else { break };
            let fork = task.fork(sample, cache.fork(sequence));
            new.push(fork.id);
            self.waiting.forked(&fork.tenant);
            self.running.insert(index + sample, fork);
        }
        new
    }

    /// Appends a generated token, to be computed next.
    pub(crate) fn append(&mut self, id: TaskId, token: u32) {
        if let Some(index) = self.index(id) {
            self.running[index].tokens.push(token);
        }
    }

    /// Ends a task, running or waiting. With `keep`, its pages stay cached. Whether there was one.
    pub(crate) fn remove(&mut self, cache: &mut KvCache, id: TaskId, keep: bool, now: Duration) -> bool {
        let Some(index) = self.index(id) else { return self.waiting.remove(id).is_some() };
        let mut task = self.running.remove(index);
        if let Some(sequence) = task.sequence.take() {
            cache.close(sequence, keep, now);
        }
        self.waiting.ended(&task.tenant);
        self.short_of_pages = false;
        true
    }

    /// Running tasks, by age.
    pub(crate) fn running(&self) -> &[Task] {
        &self.running
    }

    /// Waiting tasks of a tenant.
    #[cfg(test)]
    pub(crate) fn waiting_of(&self, tenant: &TenantId) -> usize {
        self.waiting.waiting(tenant)
    }

    /// What a tenant was served.
    #[cfg(test)]
    pub(crate) fn served(&self, tenant: &TenantId) -> u64 {
        self.waiting.served(tenant)
    }
}

/// Whether a waiting task was let in.
enum Admission {
    Admitted(TaskId),
    /// The tenant has none waiting.
    Nobody,
    /// There is no room for the next in order.
    Full,
}
