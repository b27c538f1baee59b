//! What was learned moves routes: kinds, the model's word before a choice, feedback.

use std::{ops::ControlFlow, sync::Arc};

use edgewise_ledger::PriceBook;
use edgewise_model_api::{
    CacheState, ChatMessage, EncodedChat, GenerateRequest, GenerationStream, Generator, GeneratorInfo, LatencyCurve,
    ModelError, PrefixState, Prompt, QueueState, Tokenizer,
};
use edgewise_planner::{Corrections, Explanation, Feedback, Planner, PlannerOptions, QuestionKind, Route};
use edgewise_prompts::Prompts;
use edgewise_test_support::{HashEmbedder, ScriptedGenerator};
use edgewise_types::TenantId;

use crate::fixture::{Fixture, candidate, forced, query, tiny};

const QUESTION: &str = "When was the harbour of Westmar founded, and by whom?";

/// A scripted model whose script keeps to every constraint by itself.
struct Obedient(ScriptedGenerator);

impl Generator for Obedient {
    fn info(&self) -> &GeneratorInfo {
        self.0.info()
    }
    fn tokenizer(&self) -> &dyn Tokenizer {
        self.0.tokenizer()
    }
    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        self.0.encode_chat(messages)
    }
    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        self.0.prefix_state(tenant, prompt)
    }
    fn latency(&self) -> LatencyCurve {
        self.0.latency()
    }
    fn queue(&self) -> QueueState {
        self.0.queue()
    }
    fn cache(&self) -> CacheState {
        self.0.cache()
    }
    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        self.0.generate(GenerateRequest { constraint: None, ..request })
    }
}

fn judging(model: ScriptedGenerator) -> (Fixture, Planner) {
    let options = PlannerOptions { pre_route: true, ..PlannerOptions::default() };
    let fixture = Fixture::with(model.clone(), options.clone(), &tiny());
    let (prompts, prices) = (Prompts::load(None).unwrap(), PriceBook::embedded().unwrap());
    let embedder = Arc::new(HashEmbedder::with_dimension(256));
    let planner = Planner::new(Arc::new(Obedient(model)), embedder, prompts, prices, options).unwrap();
    (fixture, planner)
}

#[test]
fn a_question_and_its_hits_are_measured() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let features = fixture.explain(&query(QUESTION)).unwrap().features;
    assert!(features.content_words >= 3 && features.covered_by_top > 0.5, "{features:?}");
    assert!(features.sections_in_top >= 2 && features.hit_share > 0.0, "{features:?}");
    assert!((features.kind.values().iter().sum::<f32>() - 1.0).abs() < 1e-4);
    let router = features.router.unwrap();
    assert!(router.trust < 0.5, "a collection of a few hundred words is nothing like what was trained on: {router:?}");
    let turn = fixture.explain(&query("And when was it founded?")).unwrap().features;
    assert_eq!(turn.kind.likeliest(), QuestionKind::Conversation);
}

#[test]
fn the_models_word_counts_and_is_paid_for() {
    let script = |prompt: &str| if prompt.trim_end().contains("Kind:") { "summary" } else { "Elsa Brandt [1]." };
    let (fixture, planner) = judging(ScriptedGenerator::new(script));
    let plain = Fixture::new(ScriptedGenerator::new(script)).explain(&query(QUESTION)).unwrap();
    assert_eq!(plain.pre_route, None);

    let answer = planner.answer(&fixture.collection, &query(QUESTION), &mut |_| ControlFlow::Continue(())).unwrap();
    let judged = answer.explanation.pre_route.clone().unwrap();
    assert_eq!(judged.kind, Some(QuestionKind::Global));
    assert!(answer.explanation.features.kind.global > plain.features.kind.global + 0.2);
    assert!(judged.usage.prompt_tokens() > 0 && judged.cost > edgewise_types::Money::ZERO);
    let chosen = &answer.explanation.candidates[0];
    assert_eq!(answer.usage.prompt_tokens(), chosen.prompt_tokens + judged.usage.prompt_tokens());
    assert!(answer.cost > judged.cost);

    // A route that is asked for leaves nothing to judge.
    let asked = planner.explain(&fixture.collection, &forced(QUESTION, Route::Passages)).unwrap();
    assert_eq!(asked.pre_route, None);
}

#[test]
fn a_model_that_cannot_judge_stops_nothing() {
    // The scripted model refuses constraints.
    let options = PlannerOptions { pre_route: true, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &tiny());
    let explanation = fixture.explain(&query(QUESTION)).unwrap();
    assert_eq!(explanation.pre_route, None);
    assert!(explanation.notes.iter().any(|note| note.contains("could not judge")), "{:?}", explanation.notes);
    let (other, nonsense) = judging(ScriptedGenerator::new(|_| "cheese"));
    let explanation = nonsense.explain(&other.collection, &query(QUESTION)).unwrap();
    assert_eq!(explanation.pre_route.unwrap().kind, None);
}

#[test]
fn feedback_moves_a_route_and_says_by_how_much() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let before = fixture.explain(&forced(QUESTION, Route::Passages)).unwrap();
    let rated: Vec<Feedback> = (0..10).map(|_| before.rated(&TenantId::local(), -1.0).unwrap()).collect();
    let learned = fixture.planner.correct_with(|| Ok::<_, ()>(Corrections::replay(rated))).unwrap();
    assert_eq!(learned, 10);
    let after = fixture.explain(&forced(QUESTION, Route::Passages)).unwrap();
    let (was, is) = (candidate(&before, Route::Passages), candidate(&after, Route::Passages));
    assert!(was.feedback_shift == 0.0 && is.feedback_shift < -0.03, "{is:?}");
    assert!((is.quality - was.quality - is.feedback_shift).abs() < 1e-9);
    assert_eq!(candidate(&after, Route::Full).feedback_shift, 0.0, "nobody rated that route");
    assert_eq!(
        after.rated(&TenantId::local(), 1.0).unwrap().expected,
        before.rated(&TenantId::local(), 1.0).unwrap().expected,
        "without the feedback itself"
    );

    let failed = fixture.planner.correct_with(|| Err::<Corrections, _>("unreadable"));
    assert_eq!(failed, Err("unreadable"));
    let still = fixture.explain(&forced(QUESTION, Route::Passages)).unwrap();
    assert_eq!(untimed(&still), untimed(&after), "what was learned stays");
}

/// The whole decision but what depends on how long planning took just now, and thereby on the machine; candidates by
/// route, since the scores that order them depend on it too.
fn untimed(explanation: &Explanation) -> Explanation {
    let mut untimed = explanation.clone();
    for candidate in &mut untimed.candidates {
        (candidate.ttft_ms, candidate.latency_ms, candidate.score, candidate.worth_of_keeping) = (0.0, 0.0, 0.0, 0.0);
        candidate.reason = String::new();
    }
    untimed.candidates.sort_by_key(|candidate| (candidate.route, candidate.turns));
    if let Some(escalation) = &mut untimed.escalation {
        escalation.latency_ms = 0.0;
    }
    untimed
}
