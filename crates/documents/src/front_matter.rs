//! Metadata at the top of a Markdown file: `---` YAML or `+++` TOML.
//!
//! Of YAML, the part that front matter uses is read: `key: scalar`, `key: [a, b]`, `- item` lists, and `|` and `>`
//! block texts. A nested mapping is kept as its source text. If any line is not understood, the whole block is taken
//! for ordinary Markdown (two thematic breaks with text between), so that no text is lost to a wrong guess.

use edgewise_types::{Metadata, MetadataValue};

/// Metadata and the text after it; `None` if the text does not begin with front matter.
pub(crate) fn split(text: &str) -> Option<(Metadata, &str)> {
    let (fence, rest) = text.split_once('\n')?;
    match fence.trim_end() {
        "---" => {
            let (block, body) = until(rest, &["---", "..."])?;
            Some((yaml(block)?, body))
        }
        "+++" => {
            let (block, body) = until(rest, &["+++"])?;
            let mut metadata = Metadata::new();
            flatten("", &block.parse::<toml::Table>().ok()?, &mut metadata);
            Some((metadata, body))
        }
        _ => None,
    }
}

/// Splits at the first line that is one of `fences`.
fn until<'t>(text: &'t str, fences: &[&str]) -> Option<(&'t str, &'t str)> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if fences.contains(&line.trim_end()) {
            return Some((&text[..at], &text[at + line.len()..]));
        }
        at += line.len();
    }
    None
}

fn flatten(prefix: &str, table: &toml::Table, out: &mut Metadata) {
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let plain = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = match value {
            toml::Value::Table(inner) => {
                flatten(&key, inner, out);
                continue;
            }
            toml::Value::Boolean(flag) => MetadataValue::Bool(*flag),
            toml::Value::Integer(number) => MetadataValue::Integer(*number),
            toml::Value::Float(number) => MetadataValue::Float(*number),
            toml::Value::Array(items) => MetadataValue::List(items.iter().map(plain).collect()),
            text => MetadataValue::Text(plain(text)),
        };
        out.insert(key, value);
    }
}

fn yaml(block: &str) -> Option<Metadata> {
    let mut metadata = Metadata::new();
    let mut lines = block.lines().map(str::trim_end).peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (key, rest) = line.split_once(':')?;
        let key = key.trim_end().trim_matches(['"', '\'']);
        let is_name = |c: char| c.is_alphanumeric() || "_-. ".contains(c);
        if key.is_empty()
            || key.starts_with(' ')
            || !key.chars().all(is_name)
            || !(rest.is_empty() || rest.starts_with(' '))
        {
            return None;
        }
        let rest = without_comment(rest.trim());
        let mut nested = Vec::new();
        if rest.is_empty() || rest.starts_with(['|', '>']) {
            while let Some(line) = lines.next_if(|l| l.is_empty() || l.starts_with(' ') || l.starts_with("- ")) {
                nested.push(line);
            }
        }
        if let Some(value) = value(rest, &nested) {
            metadata.insert(key.to_owned(), value);
        }
    }
    (!metadata.is_empty()).then_some(metadata)
}

fn value(rest: &str, nested: &[&str]) -> Option<MetadataValue> {
    if let Some(inner) = rest.strip_prefix('[').and_then(|r| r.strip_suffix(']')) {
        let items = inner.split(',').map(|item| unquoted(item.trim())).filter(|item| !item.is_empty());
        return Some(MetadataValue::List(items.collect()));
    }
    if !rest.is_empty() && !rest.starts_with(['|', '>']) {
        return scalar(rest);
    }
    let filled: Vec<&str> = nested.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
    if filled.is_empty() {
        return None;
    }
    if rest.is_empty() && filled.iter().all(|line| line.starts_with("- ")) {
        let items = filled.iter().map(|line| unquoted(without_comment(line[2..].trim())));
        return Some(MetadataValue::List(items.collect()));
    }
    let joint = if rest.starts_with('>') { " " } else { "\n" };
    Some(MetadataValue::Text(filled.join(joint)))
}

fn scalar(text: &str) -> Option<MetadataValue> {
    if text.starts_with(['"', '\'']) {
        return Some(MetadataValue::Text(unquoted(text)));
    }
    Some(match text {
        "true" => MetadataValue::Bool(true),
        "false" => MetadataValue::Bool(false),
        "null" | "~" => return None,
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => MetadataValue::Integer(number),
            // `nan` and `inf` parse as floats, but in front matter they are words.
            (_, Ok(number)) if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                MetadataValue::Float(number)
            }
            _ => MetadataValue::Text(text.to_owned()),
        },
    })
}

fn unquoted(text: &str) -> String {
    let inside = |quote: char| text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote));
    match (inside('"'), inside('\'')) {
        (Some(inner), _) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        (_, Some(inner)) => inner.replace("''", "'"),
        _ => text.to_owned(),
    }
}

/// A YAML comment begins with ` #` outside quotes.
fn without_comment(text: &str) -> &str {
    if text.starts_with(['"', '\'']) {
        return text;
    }
    text.split_once(" #").map_or(text, |(before, _)| before.trim_end())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_yaml_that_front_matter_uses() {
        let source = "---\ntitle: \"A: \\\"b\\\"\"\nweight: 3 # order\nratio: 0.5\ndraft: false\ndate: 2024-05-01\n\
                      tags: [x, 'y z']\nauthors:\n  - Ada\n  - Grace\nsummary: >\n  one\n  two\nempty:\n---\n# Body\n";
        let (metadata, body) = split(source).unwrap();
        assert_eq!(body, "# Body\n");
        let text = |s: &str| MetadataValue::Text(s.to_owned());
        let list = |items: &[&str]| MetadataValue::List(items.iter().map(|s| (*s).to_owned()).collect());
        let expected = [
            ("authors", list(&["Ada", "Grace"])),
            ("date", text("2024-05-01")),
            ("draft", MetadataValue::Bool(false)),
            ("ratio", MetadataValue::Float(0.5)),
            ("summary", text("one two")),
            ("tags", list(&["x", "y z"])),
            ("title", text("A: \"b\"")),
            ("weight", MetadataValue::Integer(3)),
        ];
        assert_eq!(metadata, expected.map(|(k, v)| (k.to_owned(), v)).into());
    }

    #[test]
    fn reads_toml() {
        let (metadata, body) = split("+++\ntitle = \"T\"\n[extra]\ntoc = true\n+++\nx").unwrap();
        assert_eq!(metadata.get("extra.toc"), Some(&MetadataValue::Bool(true)));
        assert_eq!((metadata.len(), body), (2, "x"));
    }

    #[test]
    fn thematic_breaks_are_not_front_matter() {
        for text in
            ["---\nSome prose.\n---\nmore", "---\nkey: value\n", "---\n\n---\nx", "text\n---\na: b\n---\n", "---"]
        {
            assert!(split(text).is_none(), "{text:?}");
        }
    }
}
