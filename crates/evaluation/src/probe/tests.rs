use std::cell::Cell;

use edgewise_model_api::{
    ChatMessage, Constraint, EncodedChat, FinishReason, GenerateRequest, GenerationEvent, GenerationStream,
    GenerationTimings, GeneratorInfo, ModelError, PrefixState, Prompt, QueueState, Tokenizer,
};
use edgewise_planner::{Measurement, ReadingProfile};
use edgewise_test_support::ScriptedGenerator;
use edgewise_types::{TenantId, Usage};

use super::*;
use crate::{placement::set::tests::made, rows::Other};

/// A model that reads a fact with a likelihood that depends on where it stands, and says it if that is above a half.
pub(crate) struct Reads {
    inner: ScriptedGenerator,
    /// Likelihood by depth, 0 to 1.
    by_depth: fn(f64) -> f64,
    /// Whether it tells the likelihood of a forced answer.
    tells: bool,
}

impl Reads {
    pub(crate) fn new(by_depth: fn(f64) -> f64) -> Self {
        let inner = ScriptedGenerator::new(move |prompt| match fact(prompt) {
            Some((at, answer)) if by_depth(at as f64 / prompt.len() as f64) > 0.5 => format!("It is {answer}."),
            _ => "I don't know.".to_owned(),
        });
        Self { inner, by_depth, tells: true }
    }

    fn asked(&self) -> usize {
        self.inner.requests().len()
    }
}

/// Where the answer to a needle, a key or a door stands in a prompt, and what it is.
fn fact(prompt: &str) -> Option<(usize, &str)> {
    let (start, end) = if let Some((_, what)) = prompt.rsplit_once("What is the access code of the ") {
        (format!("The access code of the {} is ", what.split('?').next()?), '.')
    } else if let Some((_, key)) = prompt.rsplit_once("What is the value of the key \"") {
        (format!("\"{}\": \"", key.split('"').next()?), '"')
    } else {
        let (_, door) = prompt.rsplit_once("What is the code of door ")?;
        (format!("The code of door {} is ", door.split('?').next()?), '.')
    };
    let at = prompt.find(&start)? + start.len();
    Some((at, prompt.get(at..)?.split(end).next()?))
}

impl Generator for Reads {
    fn info(&self) -> &GeneratorInfo {
        self.inner.info()
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.inner.tokenizer()
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        self.inner.encode_chat(messages)
    }

    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        self.inner.prefix_state(tenant, prompt)
    }

    fn latency(&self) -> LatencyCurve {
        self.inner.latency()
    }

    fn queue(&self) -> QueueState {
        self.inner.queue()
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        let Some(Constraint::Regex(expression)) = &request.constraint else { return self.inner.generate(request) };
        if !self.tells {
            return Err(ModelError::InvalidConstraint("none are kept here".to_owned()));
        }
        let answer = expression.replace('\\', "");
        let prompt = self.inner.tokenizer().decode(&request.prompt.tokens)?;
        let at = prompt.find(&answer).unwrap_or(0) as f64 / prompt.len() as f64;
        let tokens = self.inner.tokenizer().count(&answer)? as f32;
        let logprob = (self.by_depth)(at).ln() as f32 * tokens;
        let (sender, stream) = GenerationStream::channel();
        let events = [
            GenerationEvent::Token { sample: 0, id: 7, text: answer, logprob },
            GenerationEvent::Finished {
                sample: 0,
                reason: FinishReason::EndOfTurn,
                stop: None,
                text: String::new(),
                usage: Usage::default(),
                timings: GenerationTimings::default(),
            },
        ];
        events.into_iter().for_each(|event| sender.send(event).unwrap());
        Ok(stream)
    }
}

struct Silent;

impl Progress for Silent {
    fn ingested(&self, _: usize, _: usize) {}
    fn answered(&self, _: usize, _: usize) {}
}

fn u_shaped(depth: f64) -> f64 {
    0.2 + 3.0 * (depth - 0.5).powi(2)
}

fn options() -> ProbeOptions {
    ProbeOptions { lengths: vec![600, 1200], depths: 5, items: 6, ..ProbeOptions::quick() }
}

fn profile(generator: &Reads, observations: &[Observation]) -> ReadingProfile {
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    let measurement = Measurement { at, program: "1".to_owned(), seed: 1, text: "made up".to_owned() };
    ReadingProfile::of(generator.info(), measurement, observations)
}

fn measured(generator: &Reads, options: &ProbeOptions) -> (ReadingProfile, Vec<Observation>) {
    let (prompts, set) = (Prompts::load(None).unwrap(), made(10, 60, 12));
    let probe = Probe::new(generator, &prompts, &text::tests::text(), Some(&set), options).unwrap();
    let observations = probe.run(&mut Rows::in_memory(), &Silent, &|| false).unwrap();
    (profile(generator, &observations), observations)
}

#[test]
fn a_model_that_reads_edges_is_found_out() {
    let generator = Reads::new(u_shaped);
    let (profile, observations) = measured(&generator, &options());
    assert_eq!(observations.len(), 3 * 2 * 5 * 6);
    for observation in &observations {
        let nominal = observation.slot as f64 / 4.0;
        assert!((observation.depth - nominal).abs() < 0.25, "{observation:?}");
        assert!(observation.prompt_tokens <= observation.length + 20, "{observation:?}");
        assert!(observation.prompt_tokens * 10 >= observation.length * 7, "{observation:?}");
        assert!(observation.gold_logprob.is_some());
    }
    assert_eq!(profile.tasks().len(), 3);
    let curve = profile.curve(900).unwrap();
    assert!(curve.mean(0.0, 0.1) > curve.mean(0.45, 0.55) + 0.2 && curve.mean(0.9, 1.0) > curve.mean(0.45, 0.55) + 0.2);
    let recalled = |slot| observations.iter().filter(|o| o.slot == slot && o.recalled).count();
    assert!(recalled(0) > recalled(2) && recalled(4) > recalled(2), "{:?}", [0, 1, 2, 3, 4].map(recalled));
}

#[test]
fn without_likelihoods_recall_makes_the_curve() {
    let generator = Reads { tells: false, ..Reads::new(u_shaped) };
    let (profile, observations) = measured(&generator, &options());
    assert!(observations.iter().all(|observation| observation.gold_logprob.is_none()));
    let curve = profile.curve(900).unwrap();
    assert!(curve.mean(0.9, 1.0) > curve.mean(0.45, 0.55) + 0.2);
}

#[test]
fn the_plan_counts_what_is_asked_and_what_is_known_is_not_asked_again() {
    let generator = Reads::new(|_| 0.9);
    let (prompts, set) = (Prompts::load(None).unwrap(), made(10, 60, 12));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let (text, options) = (text::tests::text(), options());
    let probe = Probe::new(&generator, &prompts, &text, Some(&set), &options).unwrap();
    let plan = probe.plan(&[]);
    assert_eq!((plan.observations, plan.done), (180, 0));
    assert!(plan.prefill_tokens < plan.prompt_tokens && plan.predicted_ms > 0.0 && plan.left_out.is_empty());

    let mut rows = Rows::open(&path, "x", Other::Refuse).unwrap();
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 50
    };
    let interrupted = probe.run(&mut rows, &Silent, &stop);
    assert!(matches!(interrupted, Err(EvaluationError::Interrupted)), "{interrupted:?}");
    let known = rows.rows().len();
    assert!(known > 3 && known < 180, "{known}");
    drop(rows);

    let before = generator.asked();
    let mut rows = Rows::open(&path, "x", Other::Refuse).unwrap();
    assert_eq!(probe.plan(rows.rows()).done, known);
    let observations = probe.run(&mut rows, &Silent, &|| false).unwrap();
    assert_eq!((observations.len(), generator.asked() - before), (180, 180 - known));
    let at_once = probe.run(&mut Rows::in_memory(), &Silent, &|| false).unwrap();
    assert_eq!(profile(&generator, &observations), profile(&generator, &at_once));
}

#[test]
fn what_can_not_be_asked_is_said() {
    let generator = Reads::new(|_| 0.9);
    let prompts = Prompts::load(None).unwrap();
    let text = text::tests::text();
    let long = ProbeOptions { lengths: vec![600, 9000], items: 2, ..options() };
    let probe = Probe::new(&generator, &prompts, &text, None, &long).unwrap();
    let plan = probe.plan(&[]);
    assert_eq!(plan.observations, 3 * 2 * 5);
    assert!(plan.left_out.iter().all(|left| left.contains("9000 tokens")) && plan.left_out.len() == 3, "{plan:?}");
    let nothing = ProbeText::new("nothing", []);
    for (options, text, named) in [
        (ProbeOptions { lengths: vec![9000], ..options() }, &text, "nothing can be asked"),
        (ProbeOptions { tasks: vec![ReadingTask::Needle], ..options() }, &nothing, "nothing can be asked"),
        (ProbeOptions { depths: 1, ..options() }, &text, "depths"),
        (ProbeOptions { lengths: vec![20], ..options() }, &text, "128 or more"),
        (ProbeOptions { tasks: Vec::new(), ..options() }, &text, "at least one task"),
    ] {
        let error = Probe::new(&generator, &prompts, text, None, &options).err().unwrap().to_string();
        assert!(error.contains(named), "{error}");
    }
}
