//! The thread that runs an encoder: it gathers texts from all callers into rounds.
//!
//! A round takes texts from every waiting call in turn, as many as fit its tokens, so that a question waits for
//! one round at most while an ingest of thousands of texts is under way. What comes during a round is in the next one:
//! nobody waits for company that may not come.
//!
//! Invariants:
//! - Every accepted call gets an answer, whatever becomes of the worker.
//! - At most `max_tokens` wait, except for a call that finds the queue empty.
//! - A round that fails or panics fails the calls in it and no others: the model is never changed, so nothing can be
//!   left half done.
//! - A call that its caller gave up has no text in any later round.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::batches::{BATCH_TOKENS, Encoder};
use crate::EngineError;
use edgewise_model_api::ModelError;

/// What an unmeasured model is taken to read per second, until the first round is done.
const FIRST_RATE: f64 = 2000.0;
/// How often a caller that may give up is asked.
const ASK_EVERY: Duration = Duration::from_millis(25);

/// What a worker is called, in threads, errors and metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    /// Such as `embedder`.
    pub(crate) name: &'static str,
    /// Gauge of the tokens waiting or being computed.
    pub(crate) queue_tokens: &'static str,
    /// Counter of the tokens computed.
    pub(crate) tokens_total: &'static str,
}

/// The texts of one call that have to be computed, and their results so far.
struct Call {
    texts: Vec<Vec<u32>>,
    /// Texts given to rounds so far.
    taken: usize,
    results: Vec<Vec<f32>>,
    /// The caller is no longer interested.
    given_up: Arc<AtomicBool>,
    answer: mpsc::Sender<Result<Vec<Vec<f32>>, ModelError>>,
}

impl Call {
    fn waiting_tokens(&self) -> usize {
        self.texts[self.taken..].iter().map(Vec::len).sum()
    }

    fn answer(self, result: Result<(), ModelError>) {
        // A caller that is gone needs no answer.
        let _ = self.answer.send(result.map(|()| self.results));
    }
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Call>,
    /// Tokens of calls not answered yet, those in the current round included.
    tokens: usize,
    closed: Option<String>,
    /// Tokens per second, measured.
    rate: Option<f64>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    /// Locks, also after a panic elsewhere: the queue is whole between any two of its statements.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The callers' end.
pub(crate) struct Worker {
    role: Role,
    shared: Arc<Shared>,
    max_tokens: usize,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread. At most `max_tokens` tokens wait.
    pub(crate) fn start(role: Role, encoder: impl Encoder, max_tokens: usize) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let round_tokens = 2 * BATCH_TOKENS * rayon::current_num_threads();
        let thread = std::thread::Builder::new()
            .name(format!("edgewise-{}", role.name))
            .spawn(move || run(role, &encoder, &theirs, round_tokens))
            .map_err(|e| EngineError::Decoder(format!("cannot start the thread of the {}: {e}", role.name)))?;
        Ok(Self { role, shared, max_tokens, thread: Some(thread) })
    }

    /// One result per text, in order. Blocks; asks `cancelled` now and then, and once it says yes, computes no more.
    ///
    /// # Errors
    /// [`ModelError::Overloaded`] when too much is waiting, [`ModelError::Stopped`] after the end or once cancelled,
    /// [`ModelError::Internal`] when the model fails.
    pub(crate) fn encode(
        &self,
        texts: Vec<Vec<u32>>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let (answer, answered) = mpsc::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let call =
            Call { results: Vec::with_capacity(texts.len()), texts, taken: 0, given_up: given_up.clone(), answer };
        let tokens = call.waiting_tokens();
        {
            let mut queue = self.shared.lock();
            if let Some(reason) = &queue.closed {
                return Err(ModelError::Stopped(reason.clone()));
            }
            if queue.tokens > 0 && queue.tokens + tokens > self.max_tokens {
                let excess = (queue.tokens + tokens - self.max_tokens).min(queue.tokens);
                let seconds = excess as f64 / queue.rate.unwrap_or(FIRST_RATE);
                return Err(ModelError::Overloaded { retry_after_s: (seconds.ceil() as u64).max(1) });
            }
            queue.tokens += tokens;
            self.role.publish(&queue);
            queue.calls.push_back(call);
        }
        self.shared.changed.notify_one();
        loop {
            match answered.recv_timeout(ASK_EVERY) {
                Ok(answer) => return answer,
                Err(mpsc::RecvTimeoutError::Timeout) if cancelled() => {
                    given_up.store(true, Ordering::Relaxed);
                    drop_given_up(self.role, &mut self.shared.lock());
                    return Err(ModelError::Stopped("the call was cancelled".to_owned()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(ModelError::Stopped(format!("the worker of the {} ended", self.role.name)));
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.lock().closed = Some("it is shutting down".to_owned());
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the worker of the {} ended by a panic", self.role.name);
        }
    }
}

impl Role {
    fn publish(self, queue: &Queue) {
        metrics::gauge!(self.queue_tokens).set(queue.tokens as f64);
    }
}

fn run(role: Role, encoder: &dyn Encoder, shared: &Shared, round_tokens: usize) {
    loop {
        let mut round = {
            let idle = |queue: &mut Queue| queue.calls.is_empty() && queue.closed.is_none();
            let queue = shared.changed.wait_while(shared.lock(), idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            if let Some(reason) = queue.closed.clone() {
                let calls = std::mem::take(&mut queue.calls);
                queue.tokens = 0;
                role.publish(&queue);
                drop(queue);
                calls.into_iter().for_each(|call| call.answer(Err(ModelError::Stopped(reason.clone()))));
                return;
            }
            drop_given_up(role, &mut queue);
            if queue.calls.is_empty() {
                continue;
            }
            take_round(&mut queue.calls, round_tokens)
        };
        let begun = Instant::now();
        let result = compute(role, encoder, &mut round);
        finish(role, shared, round, result, begun.elapsed());
    }
}

/// Forgets the calls nobody waits for.
fn drop_given_up(role: Role, queue: &mut Queue) {
    let Queue { calls, tokens, .. } = queue;
    calls.retain(|call| {
        let keep = !call.given_up.load(Ordering::Relaxed);
        if !keep {
            *tokens = tokens.saturating_sub(call.waiting_tokens());
        }
        keep
    });
    role.publish(queue);
}

/// The calls with texts in a round, each with the number of texts taken.
type Round = Vec<(Call, usize)>;

/// Takes one text of each call in turn until the round is full; all calls with a text in it leave the queue. At least
/// one text is taken.
fn take_round(calls: &mut VecDeque<Call>, round_tokens: usize) -> Round {
    let mut taken = vec![0; calls.len()];
    let mut tokens = 0;
    let mut progress = true;
    'full: while progress {
        progress = false;
        for (call, taken) in calls.iter().zip(&mut taken) {
            let Some(text) = call.texts.get(call.taken + *taken) else { continue };
            if tokens > 0 && tokens + text.len() > round_tokens {
                break 'full;
            }
            tokens += text.len();
            *taken += 1;
            progress = true;
        }
    }
    let (mut round, mut rest) = (Vec::new(), VecDeque::new());
    for (call, taken) in calls.drain(..).zip(taken) {
        match taken {
            0 => rest.push_back(call),
            _ => round.push((call, taken)),
        }
    }
    *calls = rest;
    round
}

fn compute(role: Role, encoder: &dyn Encoder, round: &mut Round) -> Result<(), ModelError> {
    let texts: Vec<&[u32]> =
        round.iter().flat_map(|(call, taken)| call.texts[call.taken..][..*taken].iter().map(Vec::as_slice)).collect();
    let results = catch_unwind(AssertUnwindSafe(|| encoder.encode(&texts))).unwrap_or_else(|panic| {
        let reason = message(panic.as_ref()).to_owned();
        tracing::error!(reason, "a round of the {} panicked", role.name);
        Err(ModelError::Internal(format!("the {} failed: {reason}", role.name)))
    })?;
    if results.len() != texts.len() {
        return Err(ModelError::Internal(format!("{} texts gave {} results", texts.len(), results.len())));
    }
    let mut results = results.into_iter();
    for (call, taken) in round {
        call.results.extend(results.by_ref().take(*taken));
    }
    Ok(())
}

/// Answers what is done or failed; what is not goes back, behind those that waited longer.
fn finish(role: Role, shared: &Shared, round: Round, result: Result<(), ModelError>, took: Duration) {
    let tokens_of = |call: &Call, taken: usize| call.texts[call.taken..][..taken].iter().map(Vec::len).sum::<usize>();
    let computed: usize = round.iter().map(|(call, taken)| tokens_of(call, *taken)).sum();
    metrics::counter!(role.tokens_total).increment(computed as u64);
    let mut answers = Vec::new();
    {
        let mut queue = shared.lock();
        if result.is_ok() {
            let rate = computed as f64 / took.as_secs_f64().max(1e-6);
            // An exponential mean over about ten rounds.
            queue.rate = Some(queue.rate.map_or(rate, |mean| mean + 0.1 * (rate - mean)));
        }
        for (mut call, taken) in round {
            let left = call.waiting_tokens();
            let done = tokens_of(&call, taken);
            call.taken += taken;
            if result.is_err() {
                queue.tokens = queue.tokens.saturating_sub(left);
                answers.push(call);
            } else {
                queue.tokens = queue.tokens.saturating_sub(done);
                match call.taken == call.texts.len() {
                    true => answers.push(call),
                    false => queue.calls.push_back(call),
                }
            }
        }
        role.publish(&queue);
    }
    answers.into_iter().for_each(|call| call.answer(result.clone()));
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    const ROLE: Role = Role { name: "adder", queue_tokens: "test_queue_tokens", tokens_total: "test_tokens_total" };

    fn encode(worker: &Worker, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, ModelError> {
        worker.encode(texts, &|| false)
    }

    /// Answers with the text's sum, after waiting for leave; text [13] panics, text [14] fails.
    #[derive(Clone, Default)]
    struct Scripted {
        rounds: Arc<Mutex<Vec<Vec<Vec<u32>>>>>,
        held: Option<Arc<Mutex<()>>>,
        entered: Arc<AtomicUsize>,
    }

    impl Encoder for Scripted {
        fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
            self.rounds.lock().unwrap().push(texts.iter().map(|t| t.to_vec()).collect());
            self.entered.fetch_add(1, SeqCst);
            if let Some(held) = &self.held {
                drop(held.lock().unwrap_or_else(PoisonError::into_inner));
            }
            if texts.contains(&&[13][..]) {
                panic!("thirteen");
            }
            if texts.contains(&&[14][..]) {
                return Err(ModelError::Internal("fourteen".to_owned()));
            }
            Ok(texts.iter().map(|text| vec![text.iter().sum::<u32>() as f32]).collect())
        }
    }

    fn wait_for(condition: impl Fn() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it never came to pass");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_short_call_is_in_the_next_round_beside_a_long_one() {
        let held = Arc::new(Mutex::new(()));
        let encoder = Scripted { held: Some(held.clone()), ..Scripted::default() };
        let worker = Worker::start(ROLE, encoder.clone(), usize::MAX).unwrap();
        let round_tokens = 2 * BATCH_TOKENS * rayon::current_num_threads();
        let long: Vec<Vec<u32>> = (0..40).map(|i| vec![i; round_tokens / 10]).collect();
        let sums: Vec<Vec<f32>> = long.iter().map(|t| vec![t.iter().sum::<u32>() as f32]).collect();
        std::thread::scope(|scope| {
            let hold = held.lock().unwrap();
            let first = scope.spawn(|| encode(&worker, long));
            wait_for(|| encoder.entered.load(SeqCst) == 1);
            let second = scope.spawn(|| encode(&worker, vec![vec![7, 8]]));
            wait_for(|| worker.shared.lock().calls.len() == 1);
            drop(hold);
            assert_eq!(second.join().unwrap().unwrap(), [[15.0]]);
            assert_eq!(first.join().unwrap().unwrap(), sums);
        });
        let rounds = encoder.rounds.lock().unwrap();
        assert_eq!(rounds[0].len(), 10, "a round is full at its tokens");
        assert!(rounds[1].contains(&vec![7, 8]), "the short call waited one round");
        assert_eq!(worker.shared.lock().tokens, 0);
    }

    #[test]
    fn a_panic_or_failure_reaches_the_callers_in_its_round_only() {
        let worker = Worker::start(ROLE, Scripted::default(), usize::MAX).unwrap();
        let reason = |text: u32| match encode(&worker, vec![vec![1], vec![text]]) {
            Err(ModelError::Internal(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason(13).contains("thirteen"));
        assert!(reason(14).contains("fourteen"));
        assert_eq!(encode(&worker, vec![vec![2, 3]]).unwrap(), [[5.0]], "it serves on");
        assert_eq!(worker.shared.lock().tokens, 0);
    }

    #[test]
    fn too_much_waiting_is_refused_unless_nothing_else_waits() {
        let held = Arc::new(Mutex::new(()));
        let encoder = Scripted { held: Some(held.clone()), ..Scripted::default() };
        let worker = Worker::start(ROLE, encoder.clone(), 10).unwrap();
        std::thread::scope(|scope| {
            let hold = held.lock().unwrap();
            let large = scope.spawn(|| encode(&worker, vec![vec![1; 50]]));
            wait_for(|| encoder.entered.load(SeqCst) == 1);
            match encode(&worker, vec![vec![1]]) {
                Err(ModelError::Overloaded { retry_after_s }) => assert!(retry_after_s >= 1),
                other => panic!("{other:?}"),
            }
            drop(hold);
            assert_eq!(large.join().unwrap().unwrap(), [[50.0]]);
        });
        assert_eq!(encode(&worker, vec![vec![1]]).unwrap(), [[1.0]]);
    }

    #[test]
    fn the_end_answers_everyone() {
        let held = Arc::new(Mutex::new(()));
        let encoder = Scripted { held: Some(held.clone()), ..Scripted::default() };
        let worker = Worker::start(ROLE, encoder.clone(), usize::MAX).unwrap();
        let shared = worker.shared.clone();
        std::thread::scope(|scope| {
            let hold = held.lock().unwrap();
            // Two callers through a shared handle; the worker is ended from within while they wait.
            let worker = &worker;
            let first = scope.spawn(move || encode(worker, vec![vec![1]]));
            wait_for(|| encoder.entered.load(SeqCst) == 1);
            let second = scope.spawn(move || encode(worker, vec![vec![2]]));
            wait_for(|| shared.lock().calls.len() == 1);
            shared.lock().closed = Some("the end".to_owned());
            drop(hold);
            assert_eq!(first.join().unwrap().unwrap(), [[1.0]]);
            assert_eq!(second.join().unwrap(), Err(ModelError::Stopped("the end".to_owned())));
        });
        assert!(matches!(encode(&worker, vec![vec![3]]), Err(ModelError::Stopped(_))));
    }

    #[test]
    fn a_call_given_up_is_forgotten_and_others_are_served() {
        let held = Arc::new(Mutex::new(()));
        let encoder = Scripted { held: Some(held.clone()), ..Scripted::default() };
        let worker = Worker::start(ROLE, encoder.clone(), usize::MAX).unwrap();
        let round_tokens = 2 * BATCH_TOKENS * rayon::current_num_threads();
        let give_up = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let hold = held.lock().unwrap();
            // Two rounds' worth, given up in the first; and one that never gets into a round.
            let long = vec![vec![1; round_tokens]; 2];
            let running = scope.spawn(|| worker.encode(long, &|| give_up.load(SeqCst)));
            wait_for(|| encoder.entered.load(SeqCst) == 1);
            let waiting = scope.spawn(|| worker.encode(vec![vec![2]], &|| give_up.load(SeqCst)));
            let patient = scope.spawn(|| encode(&worker, vec![vec![3]]));
            wait_for(|| worker.shared.lock().calls.len() == 2);
            give_up.store(true, SeqCst);
            assert!(matches!(running.join().unwrap(), Err(ModelError::Stopped(_))));
            assert!(matches!(waiting.join().unwrap(), Err(ModelError::Stopped(_))));
            drop(hold);
            assert_eq!(patient.join().unwrap().unwrap(), [[3.0]]);
        });
        wait_for(|| worker.shared.lock().tokens == 0);
        let rounds = encoder.rounds.lock().unwrap();
        assert_eq!(rounds[1..], [vec![vec![3]]], "nothing of what was given up is in a later round");
    }
}
