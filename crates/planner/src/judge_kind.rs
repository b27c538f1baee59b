//! The optional pre-route: the model says in one word what kind of question is asked.
//!
//! Its word, with its probability, is blended with what the trained router says of the kind; half and half, since neither
//! is right often enough to be believed alone. It costs a short prompt before every choice, which is accounted with the
//! answer; the examples in it stay resident.
//!
//! A model that fails at this stops nothing: the router's judgement stands, and a note says why.
//!
//! Deliberately not here: choosing a route.

use std::time::Instant;

use edgewise_model_api::{
    Boundary, ChatMessage, Constraint, GenerateRequest, GenerationEvent, ModelError, NextEvent, Prompt, Retention,
    Role, Sampling,
};
use edgewise_types::{TenantId, Usage};

use crate::{KindProbabilities, Planner, PlannerError, PreRoute, QuestionKind, planner::elapsed_ms};

/// The words, in the order of [`QuestionKind::TRAINED`].
const WORDS: [&str; 4] = ["fact", "reasoning", "comparison", "summary"];

/// Tokens that the longest of the words may take.
const MOST_TOKENS: usize = 8;

/// How much the model's word counts.
const SHARE: f32 = 0.5;

impl Planner {
    /// What the model says of `question`, and the router's `kinds` blended with it.
    ///
    /// # Errors
    /// Those of the model, which may refuse constraints; a choice of route goes on without its word.
    pub fn judge_kind(
        &self,
        question: &str,
        tenant: &TenantId,
        kinds: &KindProbabilities,
    ) -> Result<(KindProbabilities, PreRoute), PlannerError> {
        let started = Instant::now();
        let task = self.prompts.route();
        let encoded = self.generator.encode_chat(&[
            ChatMessage::text(Role::System, task.system()?),
            ChatMessage::text(Role::User, task.question(question)?),
        ])?;
        // The system message is the operator's, and the same for everybody.
        let stable = encoded.parts.first().map_or(0, |(_, range)| range.end);
        let boundaries = vec![Boundary { at: stable, retention: Retention::OneHour }];
        let mut stream = self.generator.generate(GenerateRequest {
            prompt: Prompt { tokens: encoded.tokens, boundaries, public_tokens: stable },
            sampling: Sampling::default(),
            max_tokens: MOST_TOKENS,
            stop: Vec::new(),
            tenant: tenant.clone(),
            n: 1,
            constraint: Some(Constraint::Regex(format!(" ?({})", WORDS.join("|")))),
        })?;
        let (mut word, mut logprob) = (String::new(), 0.0f32);
        let usage = loop {
            match stream.next_within(std::time::Duration::from_millis(200)) {
                NextEvent::Event(GenerationEvent::Token { text, logprob: of_token, .. }) => {
                    word.push_str(&text);
                    logprob += of_token;
                }
                NextEvent::Event(GenerationEvent::Finished { text, usage, .. }) => {
                    word.push_str(&text);
                    break usage;
                }
                NextEvent::Event(GenerationEvent::Failed(error)) => return Err(error.into()),
                NextEvent::Event(_) | NextEvent::NotYet => {}
                NextEvent::Ended => {
                    let error = "the judgement of a question ended without saying why".to_owned();
                    return Err(ModelError::Stopped(error).into());
                }
            }
        };
        let probability = logprob.exp().clamp(0.0, 1.0);
        let said = WORDS.iter().position(|known| *known == word.trim().to_lowercase());
        let kind = said.and_then(|at| QuestionKind::TRAINED.get(at).copied());
        let ms = elapsed_ms(started);
        let cost = self.model_prices().cost_of(&usage, ms);
        let judged = PreRoute { kind, probability, usage, cost, ms };
        Ok((said.map_or(*kinds, |at| blend(kinds, at, probability)), judged))
    }
}

/// `kinds` with the model's word at `said`. What the model did not put on its word is spread over the other words. A
/// conversation is known by rule, of which the model was not asked.
fn blend(kinds: &KindProbabilities, said: usize, probability: f32) -> KindProbabilities {
    let mut values = kinds.values();
    let open = 1.0 - kinds.conversation;
    for (at, value) in values.iter_mut().enumerate().take(WORDS.len()) {
        let model = if at == said { probability } else { (1.0 - probability) / (WORDS.len() - 1) as f32 };
        // A word that the model found unlikely itself, and said only because it had to, should not count against itself.
        let model = if probability < 1.0 / WORDS.len() as f32 { 1.0 / WORDS.len() as f32 } else { model };
        *value = (1.0 - SHARE) * *value + SHARE * open * model;
    }
    KindProbabilities::of(values)
}

impl PreRoute {
    /// `usage` with the judgement's added.
    pub(crate) fn with(&self, usage: &Usage) -> Usage {
        Usage {
            input_tokens: usage.input_tokens + self.usage.input_tokens,
            cache_read_tokens: usage.cache_read_tokens + self.usage.cache_read_tokens,
            cache_write_5m_tokens: usage.cache_write_5m_tokens + self.usage.cache_write_5m_tokens,
            cache_write_1h_tokens: usage.cache_write_1h_tokens + self.usage.cache_write_1h_tokens,
            output_tokens: usage.output_tokens + self.usage.output_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sure_word_moves_its_kind_and_an_unsure_one_does_not() {
        let kinds = KindProbabilities::of([0.4, 0.3, 0.2, 0.08, 0.02]);
        let sure = blend(&kinds, 3, 0.95);
        assert!(sure.global > 0.45 && (sure.conversation - 0.02).abs() < 1e-3, "{sure:?}");
        let unsure = blend(&kinds, 3, 0.05);
        assert_eq!(unsure.likeliest(), QuestionKind::LocalFact);
    }

    proptest! {
        #[test]
        fn blends_are_probabilities(values in prop::array::uniform5(0.01f32..1.0), said in 0..4usize, p in 0f32..=1.0) {
            let blended = blend(&KindProbabilities::of(values), said, p);
            prop_assert!((blended.values().iter().sum::<f32>() - 1.0).abs() < 1e-4);
            prop_assert!(blended.values().iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }
}
