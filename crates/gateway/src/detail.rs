//! What is kept of a request besides its record: question, answer, sources, the decision, the prompt, part by part.
//!
//! Invariant: without texts nothing is kept that was asked, answered, quoted or read: neither question nor answer, no quote,
//! title, heading or name of a document. Ids, spans, numbers and the reasons of the decision stay.

use edgewise_ledger::Detail;
use edgewise_planner::{Answer, AnswerSentence, Citation, Escalation, Explanation, Segment, SourceRef};
use edgewise_types::Timings;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stretch of a request's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// What was done: `embed`, `lexical`, `vector`, `fuse`, `plan`, `queue`, `prefill`, `decode`, `cite`; after an
    /// escalation each stands for both answers together.
    pub name: String,
    /// When it began, in milliseconds since the question came.
    pub start_ms: f64,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// What is kept of a request for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestDetail {
    /// The question; absent where no texts are kept.
    pub question: Option<String>,
    /// The answer; absent where no texts are kept, or there was none.
    pub answer: Option<String>,
    /// Its sentences with their citations; empty where no texts are kept.
    #[serde(default)]
    pub sentences: Vec<AnswerSentence>,
    /// Its citations; empty where no texts are kept.
    pub citations: Vec<Citation>,
    /// What was in the prompt; empty where no texts are kept.
    pub sources: Vec<SourceRef>,
    /// The decision.
    pub explanation: Explanation,
    /// The wider route that was taken after the first answer, if one was.
    pub escalation: Option<Escalation>,
    /// The prompt, part by part.
    pub prompt_map: Vec<Segment>,
    /// Where the time went, in order.
    pub timeline: Vec<Stage>,
}

/// Stages one after the other, without those that took no time.
fn timeline(timings: &Timings) -> Vec<Stage> {
    let stages = [
        ("embed", timings.embed_ms),
        ("lexical", timings.lexical_ms),
        ("vector", timings.vector_ms),
        ("fuse", timings.fuse_ms),
        ("plan", timings.plan_ms),
        ("queue", timings.queue_ms),
        ("prefill", timings.prefill_ms),
        ("decode", timings.decode_ms),
        ("cite", timings.cite_ms),
    ];
    let mut start_ms = 0.0;
    let mut timeline = Vec::with_capacity(stages.len());
    for (name, ms) in stages {
        if ms > 0.0 {
            timeline.push(Stage { name: name.to_owned(), start_ms, ms });
            start_ms += ms;
        }
    }
    timeline
}

impl RequestDetail {
    /// Of an answer.
    pub(crate) fn answered(question: String, answer: Answer) -> Self {
        let timeline = timeline(&answer.timings);
        let Answer { text, sentences, citations, sources, explanation, escalation, prompt_map, .. } = answer;
        Self {
            question: Some(question),
            answer: Some(text),
            sentences,
            citations,
            sources,
            explanation,
            escalation,
            prompt_map,
            timeline,
        }
    }

    /// Of a question that failed.
    pub(crate) fn failed(question: String, explanation: Explanation, timings: &Timings) -> Self {
        let timeline = timeline(timings);
        Self {
            question: Some(question),
            answer: None,
            sentences: Vec::new(),
            citations: Vec::new(),
            sources: Vec::new(),
            explanation,
            escalation: None,
            prompt_map: Vec::new(),
            timeline,
        }
    }

    /// Takes every text out.
    fn without_texts(mut self) -> Self {
        fn clear(explanation: &mut Explanation) {
            explanation.searched = None;
            explanation.dropped.iter_mut().for_each(|dropped| dropped.uri.clear());
            explanation.prompt_map.iter_mut().for_each(|segment| segment.uri = None);
        }
        (self.question, self.answer) = (None, None);
        (self.sentences, self.citations, self.sources) = (Vec::new(), Vec::new(), Vec::new());
        clear(&mut self.explanation);
        if let Some(escalation) = &mut self.escalation {
            escalation.first_answer.clear();
            clear(&mut escalation.explanation);
        }
        self.prompt_map.iter_mut().for_each(|segment| segment.uri = None);
        self
    }

    /// As the ledger keeps it.
    pub(crate) fn kept(self, texts: bool) -> Option<Detail> {
        let detail = if texts { self } else { self.without_texts() };
        match serde_json::to_string(&detail) {
            Ok(body) => Some(Detail { question: detail.question, body }),
            Err(error) => {
                tracing::error!(%error, "what there is to tell of a request cannot be written down");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other() {
        let timings = Timings { embed_ms: 2.0, plan_ms: 1.0, decode_ms: 4.0, total_ms: 9.0, ..Timings::default() };
        let stages: Vec<(String, f64, f64)> =
            timeline(&timings).into_iter().map(|stage| (stage.name, stage.start_ms, stage.ms)).collect();
        let expected = [("embed", 0.0, 2.0), ("plan", 2.0, 1.0), ("decode", 3.0, 4.0)];
        assert_eq!(stages, expected.map(|(name, start, ms)| (name.to_owned(), start, ms)));
    }
}
