//! Questions that can be laid out at any length and with the answer at any depth.

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use edgewise_model_api::{ChatMessage, ChatPart, Role, Tokenizer};
use edgewise_planner::ReadingTask;
use edgewise_prompts::{PassageVars, PreambleVars, Prompts, QuestionVars};

use super::ProbeText;
use crate::{EvaluationError, Passage, PlacementSet, reader::GOLD};

const BETWEEN_SENTENCES: &str = " ";
const BETWEEN_PAIRS: &str = ",\n ";

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq)]
struct Unit {
    title: String,
    text: String,
    tokens: usize,
}

/// One question: the piece that answers it, and pieces that do not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    task: ReadingTask,
    question: String,
    pub(crate) answers: Vec<String>,
    gold: Unit,
    /// In the order in which they stand; a shorter prompt has the first of them.
    others: Vec<Unit>,
    /// Most tokens of an answer.
    pub(crate) most: usize,
}

/// What a number of an access code is called.
const THINGS: [&str; 12] = [
    "lighthouse",
    "archive",
    "greenhouse",
    "observatory",
    "ferry",
    "bakery",
    "workshop",
    "cellar",
    "library",
    "mill",
    "quarry",
    "stable",
];
const KINDS: [&str; 12] =
    ["northern", "old", "silver", "hidden", "upper", "green", "second", "marble", "quiet", "eastern", "tall", "narrow"];

/// What items are made of.
pub(crate) struct Maker<'a> {
    pub(crate) tokenizer: &'a dyn Tokenizer,
    pub(crate) text: &'a ProbeText,
    pub(crate) set: Option<&'a PlacementSet>,
    pub(crate) seed: u64,
    /// Longest prompt there will be, in tokens.
    pub(crate) longest: usize,
}

impl Maker<'_> {
    fn rng(&self, task: ReadingTask, number: usize) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((number as u64) << 8 | task as u64);
        rng
    }

    /// `count` items of a task, the same ones for the same seed; fewer where the text does not give more.
    pub(crate) fn items(&self, task: ReadingTask, count: usize) -> Result<Vec<Item>, EvaluationError> {
        match task {
            ReadingTask::Needle => (0..count).filter_map(|number| self.needle(number).transpose()).collect(),
            ReadingTask::KeyValue => (0..count).map(|number| self.key_value(number)).collect(),
            ReadingTask::MultiDocument => match self.set {
                Some(set) => self.set_items(set, count),
                None => self.text_items(count),
            },
        }
    }

    /// `text` as one of many, `between` before it.
    fn unit(&self, between: &str, text: String) -> Result<Unit, EvaluationError> {
        Ok(Unit { title: String::new(), tokens: self.tokenizer.count(&format!("{between}{text}"))?, text })
    }

    /// A passage; its number and line ends come on top of what it says.
    fn passage(&self, passage: &Passage) -> Result<Unit, EvaluationError> {
        let Passage { title, text, .. } = passage;
        let tokens = self.tokenizer.count(title)? + self.tokenizer.count(text)? + 6;
        Ok(Unit { title: title.clone(), text: text.clone(), tokens })
    }

    /// A sentence among the sentences of the text (Kamradt 2023, "Needle In A Haystack", with real text around it).
    fn needle(&self, number: usize) -> Result<Option<Item>, EvaluationError> {
        let mut rng = self.rng(ReadingTask::Needle, number);
        let mut sentences: Vec<&String> = self.text.sentences.iter().collect();
        if sentences.is_empty() {
            return Ok(None);
        }
        let what = format!("{} {}", KINDS[rng.random_range(0..KINDS.len())], THINGS[rng.random_range(0..THINGS.len())]);
        let code = rng.random_range(10_000..100_000u32).to_string();
        let (mut others, mut tokens) = (Vec::new(), 0);
        while tokens < self.longest {
            // Short texts come again in another order.
            sentences.shuffle(&mut rng);
            for sentence in &sentences {
                let unit = self.unit(BETWEEN_SENTENCES, (*sentence).clone())?;
                tokens += unit.tokens;
                others.push(unit);
                if tokens >= self.longest {
                    break;
                }
            }
        }
        Ok(Some(Item {
            task: ReadingTask::Needle,
            question: format!("What is the access code of the {what}?"),
            answers: vec![code.clone()],
            gold: self.unit(BETWEEN_SENTENCES, format!("The access code of the {what} is {code}."))?,
            others,
            most: 32,
        }))
    }

    /// A key among many, as Liu et al. 2023 ask for it: random identifiers, which no model can guess.
    fn key_value(&self, number: usize) -> Result<Item, EvaluationError> {
        let mut rng = self.rng(ReadingTask::KeyValue, number);
        let (key, value) = (identifier(&mut rng), identifier(&mut rng));
        let gold = self.unit(BETWEEN_PAIRS, format!("\"{key}\": \"{value}\""))?;
        let (mut others, mut tokens) = (Vec::new(), 0);
        while tokens < self.longest {
            let unit =
                self.unit(BETWEEN_PAIRS, format!("\"{}\": \"{}\"", identifier(&mut rng), identifier(&mut rng)))?;
            tokens += unit.tokens;
            others.push(unit);
        }
        let most = self.tokenizer.count(&value)? + 16;
        Ok(Item { task: ReadingTask::KeyValue, question: key, answers: vec![value], gold, others, most })
    }

    fn set_items(&self, set: &PlacementSet, count: usize) -> Result<Vec<Item>, EvaluationError> {
        let mut order: Vec<usize> = (0..set.questions.len()).collect();
        order.shuffle(&mut self.rng(ReadingTask::MultiDocument, 0));
        let questions = order.into_iter().filter_map(|at| set.questions.get(at)).take(count);
        let made = questions.map(|question| {
            let passage = |at: &usize| match set.passages.get(*at) {
                Some(passage) => self.passage(passage),
                None => Err(EvaluationError::Queries(format!("question {} names no passage", question.id))),
            };
            let mut others: Vec<Unit> = question.distractors.iter().map(passage).collect::<Result<_, _>>()?;
            self.enough(&mut others);
            Ok(Item {
                task: ReadingTask::MultiDocument,
                question: question.text.clone(),
                answers: question.answers.clone(),
                gold: passage(&question.gold)?,
                others,
                most: 48,
            })
        });
        made.collect()
    }

    fn text_items(&self, count: usize) -> Result<Vec<Item>, EvaluationError> {
        let made = self.text.questions(count, self.seed).into_iter().map(|cloze| {
            let passage = |at: &usize| match self.text.passages.get(*at) {
                Some(passage) => self.passage(passage),
                None => Err(EvaluationError::Queries("a question names no passage".to_owned())),
            };
            let mut others: Vec<Unit> = cloze.others.iter().map(passage).collect::<Result<_, _>>()?;
            self.enough(&mut others);
            Ok(Item {
                task: ReadingTask::MultiDocument,
                question: cloze.question,
                answers: vec![cloze.answer],
                gold: passage(&cloze.gold)?,
                others,
                most: 48,
            })
        });
        made.collect()
    }

    /// Leaves out what no prompt has room for.
    fn enough(&self, others: &mut Vec<Unit>) {
        let mut tokens = 0;
        let fits = others.iter().take_while(|unit| {
            tokens += unit.tokens;
            tokens <= self.longest
        });
        let count = fits.count();
        others.truncate(count);
    }
}

impl Item {
    pub(crate) fn task(&self) -> ReadingTask {
        self.task
    }

    /// How many other pieces a prompt of `length` tokens holds beside the answer's, where the prompt with that alone has
    /// `bare` tokens; `None` if there are not enough to fill nine tenths of it.
    pub(crate) fn room(&self, length: usize, bare: usize) -> Option<usize> {
        let mut tokens = bare;
        let count = self
            .others
            .iter()
            .take_while(|unit| {
                tokens += unit.tokens;
                tokens <= length
            })
            .count();
        let all = count == self.others.len();
        let filled = bare + self.others.iter().take(count).map(|unit| unit.tokens).sum::<usize>();
        // One piece may be long: what counts is that there was another to try.
        (bare <= length && count > 0 && (!all || 10 * filled >= 9 * length)).then_some(count)
    }

    /// The prompt with `count` other pieces and the answer's at `depth`, 0 first and 1 last among them.
    pub(crate) fn lay(&self, prompts: &Prompts, count: usize, depth: f64) -> Result<Vec<ChatMessage>, EvaluationError> {
        let count = count.min(self.others.len());
        let before = ((count as f64 * depth).round() as usize).min(count);
        let pieces = self.others.get(..before).unwrap_or_default().iter().map(|unit| (false, unit));
        let behind = self.others.get(before..count).unwrap_or_default().iter().map(|unit| (false, unit));
        let pieces = pieces.chain([(true, &self.gold)]).chain(behind);
        if self.task == ReadingTask::MultiDocument {
            return passages(
                prompts,
                pieces.map(|(gold, unit)| (gold, unit.title.as_str(), unit.text.as_str())),
                &self.question,
            );
        }
        let (head, between, tail) = match self.task {
            ReadingTask::KeyValue => (
                "Here is a JSON object.\n\n{".to_owned(),
                BETWEEN_PAIRS,
                format!("}}\n\nWhat is the value of the key \"{}\"? Answer with the value only.", self.question),
            ),
            _ => (
                "Here is a text.\n\n".to_owned(),
                BETWEEN_SENTENCES,
                format!("\n\n{} Answer with the code only.", self.question),
            ),
        };
        let mut parts = vec![part("head", head)];
        let mut run = String::new();
        for (at, (gold, unit)) in pieces.enumerate() {
            if at > 0 {
                run.push_str(between);
            }
            if gold {
                parts.push(part("text", std::mem::take(&mut run)));
                parts.push(part(GOLD, unit.text.clone()));
            } else {
                run.push_str(&unit.text);
            }
        }
        parts.push(part("text", run));
        parts.push(part("question", tail));
        parts.retain(|part| !part.text.is_empty());
        Ok(vec![ChatMessage { role: Role::User, parts }])
    }
}

/// A prompt like those of real questions: numbered passages in the product's own templates. `true` marks the gold one.
pub(crate) fn passages<'p>(
    prompts: &Prompts,
    passages: impl IntoIterator<Item = (bool, &'p str, &'p str)>,
    question: &str,
) -> Result<Vec<ChatMessage>, EvaluationError> {
    let templates = prompts.answer();
    let mut parts =
        vec![part("preamble", templates.preamble(&PreambleVars { collection: "documents", description: "" })?)];
    for (n, (gold, title, text)) in (1..).zip(passages) {
        let text = templates.passage(&PassageVars { n, title, heading_path: &[], text })?;
        parts.push(part(if gold { GOLD } else { "passage" }, text));
    }
    parts.push(part("question", templates.question(&QuestionVars { question, instruction: None })?));
    Ok(vec![ChatMessage::text(Role::System, templates.system()?), ChatMessage { role: Role::User, parts }])
}

fn part(label: &str, text: String) -> ChatPart {
    ChatPart { label: label.to_owned(), text }
}

/// A random UUID (RFC 9562, version 4).
fn identifier(rng: &mut ChaCha8Rng) -> String {
    let bits: u128 = rng.random();
    let hex = format!("{:032x}", bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62);
    let mut text = String::with_capacity(36);
    for (at, c) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(c);
    }
    text
}
