//! A device that computes by itself: what callers are told of a step, they are told while it computes the next one.

use std::sync::Mutex;

use edgewise_kv_cache::PageId;
use edgewise_model_api::NextEvent;

use super::{scripted::continuation, *};
use crate::{
    serve::queue::lock,
    step_model::{BatchEntry, Demand, Meanwhile, Scores},
};

/// What a pass saw of the stream it can look into: tokens that came before it was issued, and while it ran.
type Seen = [Vec<u32>; 2];

/// What passes see and do.
#[derive(Default)]
struct Watch {
    stream: Mutex<Option<GenerationStream>>,
    seen: Mutex<Vec<Seen>>,
    /// Passes after which the stream is dropped, while the last of them runs; or before whose last one there is a panic.
    drops: Mutex<Option<usize>>,
    panics: Mutex<Option<usize>>,
}

impl Watch {
    fn tokens(&self) -> Vec<u32> {
        let mut tokens = Vec::new();
        if let Some(stream) = lock(&self.stream).as_mut() {
            while let NextEvent::Event(event) = stream.next_within(Duration::ZERO) {
                if let GenerationEvent::Token { id, .. } = event {
                    tokens.push(id);
                }
            }
        }
        tokens
    }
}

/// Those that came while it ran, and none before.
fn during(tokens: &[u32]) -> Seen {
    [Vec::new(), tokens.to_vec()]
}

struct Device {
    inner: Scripted,
    watch: Arc<Watch>,
}

impl StepModel for Device {
    type Kv = <Scripted as StepModel>::Kv;

    fn vocabulary(&self) -> usize {
        self.inner.vocabulary()
    }

    fn page_tokens(&self) -> usize {
        self.inner.page_tokens()
    }

    fn page_bytes(&self) -> usize {
        self.inner.page_bytes()
    }

    fn allocate(&self, pages: usize) -> Result<Self::Kv, EngineError> {
        self.inner.allocate(pages)
    }

    fn forward(&self, kv: &mut Self::Kv, batch: &[BatchEntry<'_>]) -> Result<Vec<Option<Vec<f32>>>, EngineError> {
        self.inner.forward(kv, batch)
    }

    fn is_device(&self) -> bool {
        true
    }

    fn forward_beside(
        &self,
        kv: &mut Self::Kv,
        batch: &[BatchEntry<'_>],
        demands: &[Demand],
        meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Option<Scores>>, EngineError> {
        let before = self.watch.tokens();
        let pass = lock(&self.watch.seen).len() + 1;
        assert!(*lock(&self.watch.panics) != Some(pass), "the device is gone");
        meanwhile();
        lock(&self.watch.seen).push([before, self.watch.tokens()]);
        if *lock(&self.watch.drops) == Some(pass) {
            *lock(&self.watch.stream) = None;
        }
        self.inner.forward_for(kv, batch, demands)
    }

    fn copy_page(&self, kv: &mut Self::Kv, from: PageId, to: PageId, tokens: usize) {
        self.inner.copy_page(kv, from, to, tokens);
    }

    fn read_page(&self, kv: &Self::Kv, page: PageId, out: &mut Vec<u8>) {
        self.inner.read_page(kv, page, out);
    }

    fn write_page(&self, kv: &mut Self::Kv, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        self.inner.write_page(kv, page, bytes)
    }
}

/// An engine on such a device, whose passes need permission.
fn device() -> (Opener, LocalGenerator, Arc<Watch>, Arc<Probe>) {
    let tokenizer = GeneratorTokenizer::from_gguf(byte_vocabulary()).unwrap();
    let (probe, watch) = (Arc::new(Probe::default()), Arc::new(Watch::default()));
    let vocabulary = tokenizer.vocabulary_size();
    let inner = Scripted { vocabulary, marks: false, selects: true, probe: probe.clone() };
    let template = ChatTemplate::new("{{ messages[0].content }}".to_owned(), "", "").unwrap();
    let info = GeneratorInfo { model: "device".to_owned(), digest: "device".to_owned(), context_window: 500 };
    let parts = Parts { model: Device { inner, watch: watch.clone() }, info, tokenizer, template };
    let generator = LocalGenerator::start(parts, &options(), Arc::new(ManualClock::new())).unwrap();
    probe.close();
    (Opener(probe.clone()), generator, watch, probe)
}

/// Starts a request that the passes watch, from its first token on.
fn watched(generator: &LocalGenerator, watch: &Watch, probe: &Probe, request: GenerateRequest) {
    let stream = generator.generate(request).unwrap();
    eventually(|| probe.passes().len() == 1);
    *lock(&watch.stream) = Some(stream);
}

#[test]
fn a_step_is_told_while_the_next_one_runs() {
    let (_opener, generator, watch, probe) = device();
    watched(&generator, &watch, &probe, request(&[10, 11, 12]));
    probe.open();
    eventually(|| generator.queue() == QueueState::default());
    let expected = continuation(&[10, 11, 12], 5, generator.tokenizer.vocabulary_size());
    let seen = lock(&watch.seen).clone();
    assert_eq!(seen[0], during(&[]), "the prompt");
    for (pass, token) in seen[1..].iter().zip(&expected) {
        assert_eq!(*pass, during(&[*token]), "{seen:?}");
    }
    assert_eq!(seen.len(), 5);
    // No pass follows the last token, so it waits for none.
    let mut stream = lock(&watch.stream).take().unwrap();
    let id = match stream.next_blocking() {
        Some(GenerationEvent::Token { id, .. }) => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(id, expected[4]);
    match stream.next_blocking() {
        Some(GenerationEvent::Finished { reason, usage, .. }) => {
            assert_eq!((reason, usage.output_tokens), (FinishReason::Length, 5));
        }
        other => panic!("{other:?}"),
    }
    assert!(stream.next_blocking().is_none());
}

#[test]
fn a_stream_dropped_while_a_pass_runs_gets_no_further_one() {
    let (_opener, generator, watch, probe) = device();
    *lock(&watch.drops) = Some(3);
    watched(&generator, &watch, &probe, GenerateRequest { max_tokens: 400, ..request(&[10, 11, 12]) });
    probe.open();
    eventually(|| generator.queue() == QueueState::default());
    assert_eq!(lock(&watch.seen).len(), 3);
    assert_eq!(generator.cache().pages_used, 0);
}

#[test]
fn what_was_drawn_comes_before_the_news_of_a_panic() {
    let (_opener, generator, watch, probe) = device();
    *lock(&watch.panics) = Some(3);
    watched(&generator, &watch, &probe, request(&[10, 11, 12]));
    probe.open();
    let taken = || lock(&watch.stream).take();
    eventually(|| generator.queue() == QueueState::default());
    let expected = continuation(&[10, 11, 12], 2, generator.tokenizer.vocabulary_size());
    assert_eq!(lock(&watch.seen)[1], during(&expected[..1]));
    let mut stream = taken().unwrap();
    assert!(matches!(stream.next_blocking(), Some(GenerationEvent::Token { id, .. }) if id == expected[1]));
    match stream.next_blocking() {
        Some(GenerationEvent::Failed(ModelError::Stopped(reason))) => assert!(reason.contains("gone"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Requests that come and go at different steps: everyone's events are complete and in order.
#[test]
fn requests_together_get_all_their_events() {
    let (_opener, generator, _, probe) = device();
    probe.open();
    let vocabulary = generator.tokenizer.vocabulary_size();
    let prompts: Vec<Vec<u32>> = (0..12).map(|i| (10 + i..12 + 2 * i).collect()).collect();
    let streams: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| generator.generate(GenerateRequest { max_tokens: 1 + 3 * i, ..request(prompt) }).unwrap())
        .collect();
    for (i, (stream, prompt)) in streams.into_iter().zip(&prompts).enumerate() {
        let output = collect(stream).unwrap();
        assert_eq!(output.ids, continuation(prompt, 1 + 3 * i, vocabulary));
        assert_eq!(output.usage.output_tokens, 1 + 3 * i);
    }
    eventually(|| generator.queue() == QueueState::default());
}
