//! Asks a generator one question and looks at two things: whether the answer came, and how likely the model held the gold
//! answer.
//!
//! The second needs no scoring call of the engine: the gold answer is forced through a constraint that admits nothing
//! else, and the engine reports the log-probability of each token under the unmodified distribution. Tokens are chosen
//! greedily among the ways of writing the answer, so the sum is that of one, nearly always the likeliest, spelling. It is
//! divided by the answer's length in tokens, so that long answers do not look less likely.
//!
//! Deliberately not here: which questions.

use std::time::Duration;

use edgewise_model_api::{
    ChatMessage, Constraint, GenerateRequest, GenerationEvent, Generator, ModelError, NextEvent, Prompt, Sampling,
};
use edgewise_types::TenantId;

use crate::EvaluationError;

/// Label of the part of a message that holds the answer's passage.
pub(crate) const GOLD: &str = "gold";

/// How often an interruption is looked for.
const PATIENCE: Duration = Duration::from_millis(100);

/// What came of one question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Read {
    pub(crate) prompt_tokens: usize,
    /// Middle of the gold passage, as a share of the prompt.
    pub(crate) depth: f64,
    pub(crate) output: String,
    pub(crate) recalled: bool,
    /// Nats per token of the gold answer; absent where the generator forces no answers.
    pub(crate) gold_logprob: Option<f64>,
}

/// Asks a generator.
pub(crate) struct Reader<'a> {
    pub(crate) generator: &'a dyn Generator,
    /// Whether to stop, asked several times a second.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Reader<'_> {
    /// Asks `messages`, one part of which is labelled [`GOLD`]. Any of `answers` counts as recalled; the first is the
    /// one whose likelihood is measured. At most `most` tokens are generated, and none after the answer.
    pub(crate) fn ask(
        &self,
        messages: &[ChatMessage],
        answers: &[String],
        most: usize,
    ) -> Result<Read, EvaluationError> {
        let encoded = self.generator.encode_chat(messages)?;
        let gold = encoded.parts.iter().find(|(label, _)| label == GOLD).map(|(_, range)| range.clone());
        let prompt_tokens = encoded.tokens.len();
        let middle = gold.map_or(0.0, |gold| (gold.start + gold.end) as f64 / 2.0);
        let wanted: Vec<String> = answers.iter().map(|answer| normalised(answer)).collect();
        let prompt = Prompt { tokens: encoded.tokens, ..Prompt::default() };
        let (output, _) = self.generate(&prompt, most, None, &mut |output| says(output, &wanted))?;
        let gold_logprob = match answers.first() {
            Some(answer) => self.force(&prompt, answer)?,
            None => None,
        };
        Ok(Read {
            prompt_tokens,
            depth: rounded(middle / prompt_tokens.max(1) as f64),
            recalled: says(&output, &wanted),
            output,
            gold_logprob,
        })
    }

    fn force(&self, prompt: &Prompt, answer: &str) -> Result<Option<f64>, EvaluationError> {
        let tokens = self.generator.tokenizer().count(answer)?.max(1);
        let constraint = Constraint::Regex(escaped(answer));
        // A token is a byte or more.
        match self.generate(prompt, answer.len() + 1, Some(constraint), &mut |_| false) {
            Ok((output, logprob)) if output == answer => Ok(Some(rounded(logprob / tokens as f64))),
            Ok(_) => Ok(None),
            Err(EvaluationError::Model(ModelError::InvalidConstraint(_) | ModelError::InvalidSampling(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Text and summed log-probability of a greedy generation that ends when `done` says so.
    fn generate(
        &self,
        prompt: &Prompt,
        most: usize,
        constraint: Option<Constraint>,
        done: &mut dyn FnMut(&str) -> bool,
    ) -> Result<(String, f64), EvaluationError> {
        let mut stream = self.generator.generate(GenerateRequest {
            prompt: prompt.clone(),
            sampling: Sampling::default(),
            max_tokens: most.max(1),
            stop: Vec::new(),
            tenant: TenantId::local(),
            n: 1,
            constraint,
        })?;
        let (mut output, mut sum) = (String::new(), 0.0);
        loop {
            match stream.next_within(PATIENCE) {
                NextEvent::Event(GenerationEvent::Token { text, logprob, .. }) => {
                    output.push_str(&text);
                    sum += f64::from(logprob);
                    if done(&output) {
                        return Ok((output, sum));
                    }
                }
                NextEvent::Event(GenerationEvent::Finished { text, .. }) => {
                    output.push_str(&text);
                    return Ok((output, sum));
                }
                NextEvent::Event(GenerationEvent::Failed(error)) => return Err(error.into()),
                NextEvent::Event(GenerationEvent::Started { .. }) | NextEvent::NotYet => {}
                NextEvent::Ended => {
                    let why = "a generation ended without saying why: look for its failure in the log".to_owned();
                    return Err(ModelError::Stopped(why).into());
                }
            }
            if (self.stop)() {
                // Dropping the stream cancels the generation.
                return Err(EvaluationError::Interrupted);
            }
        }
    }
}

/// To a millionth: more says nothing, and short figures come back from a file of rows exactly as they were.
fn rounded(figure: f64) -> f64 {
    (figure * 1e6).round() / 1e6
}

/// Whether `output` holds one of the normalised answers, as whole words.
fn says(output: &str, wanted: &[String]) -> bool {
    let output = format!(" {} ", normalised(output));
    wanted.iter().any(|answer| !answer.is_empty() && output.contains(&format!(" {answer} ")))
}

/// Lower case, without punctuation and articles, words one space apart: how SQuAD and "Lost in the Middle" compare
/// answers.
fn normalised(text: &str) -> String {
    let lower: String = text.to_lowercase().chars().filter(|c| c.is_alphanumeric() || c.is_whitespace()).collect();
    let words = lower.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

/// A regular expression that matches `text` and nothing else.
fn escaped(text: &str) -> String {
    let mut expression = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation()
            && !matches!(c, '"' | '\'' | ',' | ':' | ';' | '_' | '/' | '@' | '`' | '=' | '!' | '%' | '<' | '>')
        {
            expression.push('\\');
        }
        expression.push(c);
    }
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_as_whole_words_however_they_are_written() {
        let wanted = [normalised("The U.S. dollar"), normalised("10")];
        assert!(says("It is the us Dollar.", &wanted));
        assert!(says("It was 10!", &wanted) && !says("In 2010.", &wanted) && !says("", &wanted));
        assert!(!says("anything", &[String::new()]));
    }

    #[test]
    fn what_is_forced_is_taken_literally() {
        assert_eq!(escaped("a.b (c) [d]-1*"), r"a\.b \(c\) \[d\]\-1\*");
        assert_eq!(escaped("Röntgen's \"x\", 3/4"), "Röntgen's \"x\", 3/4");
    }
}
