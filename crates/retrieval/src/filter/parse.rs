//! From a filter's text to its tree. Recursion is bounded by [`MAX_DEPTH`]; every error says where and what was expected.

use globset::GlobBuilder;
use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

use super::{Comparison, Field, FilterError, Node, Test, Value};

/// Nesting of parentheses and `not` beyond which a filter is refused.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A bare word: a keyword, a field or a literal.
    Word(String),
    /// A field in backquotes.
    Quoted(String),
    Text(String),
    Sign(&'static str),
    End,
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0 };
    let node = parser.either()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.expected("`and`, `or` or the end")),
    }
}

fn error(text: &str, byte: usize, reason: impl Into<String>) -> FilterError {
    let at = text.get(..byte).unwrap_or_default().chars().count() + 1;
    FilterError { at, reason: reason.into(), text: text.to_owned() }
}

fn word_character(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '+')
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, FilterError> {
    const SIGNS: [&str; 10] = ["!=", "<=", ">=", "==", "=", "<", ">", "(", ")", ","];
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(first) = rest.chars().next() else { break };
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push((at, Token::Sign(if *sign == "==" { "=" } else { sign })));
            at += sign.len();
            continue;
        }
        if matches!(first, '\'' | '"' | '`') {
            let (content, length) = quoted(rest, first)
                .ok_or_else(|| error(text, at, format!("a text that starts with {first} never ends")))?;
            tokens.push((at, if first == '`' { Token::Quoted(content) } else { Token::Text(content) }));
            at += length;
            continue;
        }
        let length = rest.find(|c| !word_character(c)).unwrap_or(rest.len());
        if length == 0 {
            return Err(error(text, at, format!("unexpected `{first}`")));
        }
        tokens.push((at, Token::Word(rest.get(..length).unwrap_or_default().to_owned())));
        at += length;
    }
    tokens.push((text.len(), Token::End));
    Ok(tokens)
}

/// The content of a quoted text at the start of `rest`, and its length with quotes. A quote in it is doubled.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut content = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c != quote {
            content.push(c);
        } else if characters.peek().is_some_and(|(_, next)| *next == quote) {
            characters.next();
            content.push(c);
        } else {
            return Some((content, at + c.len_utf8()));
        }
    }
    None
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    fn byte(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |(byte, _)| *byte)
    }

    fn expected(&self, what: &str) -> FilterError {
        let found = match self.peek() {
            Token::Word(word) => format!("found `{word}`"),
            Token::Quoted(word) => format!("found the field `{word}`"),
            Token::Text(text) => format!("found the text '{text}'"),
            Token::Sign(sign) => format!("found `{sign}`"),
            Token::End => "the filter ends".to_owned(),
        };
        error(self.text, self.byte(), format!("expected {what}, but {found}"))
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(found);
        found
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.all()?];
        while self.keyword("or") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Or(nodes) })
    }

    fn all(&mut self) -> Result<Node, FilterError> {
        let mut nodes = vec![self.term()?];
        while self.keyword("and") {
            nodes.push(self.term()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::And(nodes) })
    }

    fn term(&mut self) -> Result<Node, FilterError> {
        if self.depth >= MAX_DEPTH {
            return Err(error(self.text, self.byte(), format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let node = if self.keyword("not") {
            Node::Not(Box::new(self.term()?))
        } else if self.sign("(") {
            let node = self.either()?;
            if !self.sign(")") {
                return Err(self.expected("`)`"));
            }
            node
        } else {
            self.predicate()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn predicate(&mut self) -> Result<Node, FilterError> {
        let field = self.field()?;
        let comparison = match self.peek() {
            Token::Sign("=") => Some(Comparison::Equal),
            Token::Sign("!=") => Some(Comparison::NotEqual),
            Token::Sign("<") => Some(Comparison::Less),
            Token::Sign("<=") => Some(Comparison::AtMost),
            Token::Sign(">") => Some(Comparison::Greater),
            Token::Sign(">=") => Some(Comparison::AtLeast),
            _ => None,
        };
        if let Some(comparison) = comparison {
            self.at += 1;
            return Ok(Node::Predicate(field, Test::Compare(comparison, self.value()?)));
        }
        if self.keyword("exists") {
            return Ok(Node::Predicate(field, Test::Exists));
        }
        if self.keyword("between") {
            let low = self.value()?;
            if !self.keyword("and") {
                return Err(self.expected("`and` and the upper end"));
            }
            return Ok(Node::Predicate(field, Test::Between(low, self.value()?)));
        }
        let negated = self.keyword("not");
        let test = if self.keyword("in") {
            self.set()?
        } else if self.keyword("like") {
            self.glob()?
        } else if negated {
            return Err(self.expected("`in` or `like` after `not`"));
        } else {
            return Err(self.expected("=, !=, <, <=, >, >=, `in`, `between`, `like` or `exists` after the field"));
        };
        let node = Node::Predicate(field, test);
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn field(&mut self) -> Result<Field, FilterError> {
        let field = match self.peek() {
            Token::Quoted(name) => Field::Metadata(name.clone()),
            Token::Word(word) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => match word.as_str() {
                "uri" => Field::Uri,
                "title" => Field::Title,
                "media_type" => Field::MediaType,
                "updated_at" => Field::UpdatedAt,
                "tokens" => Field::Tokens,
                "chunks" => Field::Chunks,
                _ => Field::Metadata(word.clone()),
            },
            _ => return Err(self.expected("a field")),
        };
        self.at += 1;
        Ok(field)
    }

    fn set(&mut self) -> Result<Test, FilterError> {
        if !self.sign("(") {
            return Err(self.expected("`(` after `in`"));
        }
        let mut values = vec![self.value()?];
        while self.sign(",") {
            values.push(self.value()?);
        }
        if self.sign(")") { Ok(Test::In(values)) } else { Err(self.expected("`,` or `)`")) }
    }

    fn glob(&mut self) -> Result<Test, FilterError> {
        let Token::Text(pattern) = self.peek() else { return Err(self.expected("a pattern in quotes after `like`")) };
        let glob = GlobBuilder::new(pattern).literal_separator(true).build();
        let glob = glob.map_err(|problem| error(self.text, self.byte(), format!("bad pattern: {}", problem.kind())))?;
        self.at += 1;
        Ok(Test::Like(glob.compile_matcher()))
    }

    fn value(&mut self) -> Result<Value, FilterError> {
        let value = match self.peek() {
            Token::Text(text) => Some(Value::Text(text.clone())),
            Token::Word(word) => literal(word),
            _ => None,
        };
        let what = "a number, a date, true, false or a text in quotes";
        let value = value.ok_or_else(|| self.expected(what))?;
        self.at += 1;
        Ok(value)
    }
}

/// A value without quotes.
fn literal(word: &str) -> Option<Value> {
    match word.to_ascii_lowercase().as_str() {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    // Not `inf` or `nan`, which Rust would read too.
    if word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && let Ok(number) = word.parse::<f64>()
    {
        return Some(Value::Number(number));
    }
    span(word).map(|(start, end)| Value::Span(start, end))
}

/// The span of time of the year that a number of four digits stands for.
pub(super) fn year(number: f64) -> Option<(Timestamp, Timestamp)> {
    if number.fract() != 0.0 || !(1000.0..=9998.0).contains(&number) {
        return None;
    }
    let january = |year: f64| Some(Date::new(year as i16, 1, 1).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp());
    Some((january(number)?, january(number + 1.0)?))
}

/// The span of time a date, month, year or moment stands for.
pub(super) fn span(text: &str) -> Option<(Timestamp, Timestamp)> {
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [number] if digits(number, 4) => year(number.parse().ok()?),
        [year, month] if digits(year, 4) && digits(month, 2) => {
            let first = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
            Some((midnight(first)?, midnight(first.checked_add(1.month()).ok()?)?))
        }
        [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2) => {
            let date = Date::new(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?).ok()?;
            Some((midnight(date)?, midnight(date.tomorrow().ok()?)?))
        }
        [year, ..] if digits(year, 4) && text.contains(['T', 't']) => {
            let moment = text.parse::<Timestamp>().ok().or_else(|| {
                let civil: jiff::civil::DateTime = text.parse().ok()?;
                Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp())
            })?;
            // A moment lasts as long as the clock can tell.
            Some((moment, moment.checked_add(1.nanosecond()).ok()?))
        }
        _ => None,
    }
}
