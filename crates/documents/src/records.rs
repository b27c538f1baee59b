//! Files of records: CSV, TSV and JSON lines. Each record becomes a block of lines `name: value`, which says by itself
//! what each value is.
//!
//! A CSV file whose first row does not look like names is read as a table. Delimiters are found by which of them cuts
//! the first rows most evenly, since `.csv` files with semicolons or tabs are common.

use csv::{ReaderBuilder, StringRecord};
use serde_json::Value;

use crate::assemble::{Assembled, Assembler};
use crate::normalise::one_line;
use crate::parser::{Front, finish};
use crate::{BlockKind, DocumentError, ParsedDocument, Parser, SourceInfo, Work, decode};

/// Rows looked at to find the delimiter.
const SAMPLE_ROWS: usize = 20;
/// Longest name of a field, in bytes: a longer one is a sentence.
const MAX_NAME_BYTES: usize = 100;

/// Parser of CSV, TSV and JSON lines.
pub struct RecordsParser;

impl Parser for RecordsParser {
    fn name(&self) -> &'static str {
        "records"
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/csv", "text/tab-separated-values", "application/x-ndjson", "application/jsonl"]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["csv", "tsv", "jsonl", "ndjson"]
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let text = decode::decode(bytes, &source.uri, None)?;
        let declared = source.media_type.as_deref().unwrap_or_default();
        let extension = source.extension().unwrap_or_default();
        let is_json = ["jsonl", "ndjson"].contains(&extension.as_str())
            || declared.contains("json")
            || text.trim_start().starts_with('{');
        let (assembled, media_type, records) = if is_json {
            let (assembled, records) = json_lines(&text, source, work)?;
            (assembled, "application/x-ndjson", records)
        } else {
            let delimiter = delimiter(&text);
            let (assembled, records) = table(&text, delimiter, source, work)?;
            (assembled, if delimiter == b'\t' { "text/tab-separated-values" } else { "text/csv" }, records)
        };
        let mut front = Front::default();
        let records = edgewise_types::MetadataValue::Integer(i64::try_from(records).unwrap_or(i64::MAX));
        front.metadata.insert("records".to_owned(), records);
        let mut document = finish(self, source, assembled, front)?;
        document.media_type = media_type.to_owned();
        Ok(document)
    }
}

/// The delimiter that cuts the first rows into the same number of fields, more than one; a comma if none does.
fn delimiter(text: &str) -> u8 {
    let sample: String = text.lines().take(SAMPLE_ROWS).flat_map(|line| [line, "\n"]).collect();
    let score = |delimiter: u8| {
        let mut reader =
            ReaderBuilder::new().delimiter(delimiter).flexible(true).has_headers(false).from_reader(sample.as_bytes());
        let widths: Vec<usize> = reader.records().flatten().map(|row| row.len()).collect();
        let first = widths.first().copied().unwrap_or(0);
        // The last row of the sample may be cut inside quotes.
        let even = widths.iter().filter(|width| **width == first).count() + 1 >= widths.len();
        if first > 1 && even { first } else { 0 }
    };
    [b',', b'\t', b';', b'|']
        .into_iter()
        .rev()
        .max_by_key(|delimiter| score(*delimiter))
        .filter(|d| score(*d) > 0)
        .unwrap_or(b',')
}

fn table(text: &str, delimiter: u8, source: &SourceInfo, work: &Work) -> Result<(Assembled, usize), DocumentError> {
    let mut reader =
        ReaderBuilder::new().delimiter(delimiter).flexible(true).has_headers(false).from_reader(text.as_bytes());
    let mut out = Assembler::default();
    let mut names: Option<StringRecord> = None;
    let mut rows = Vec::new();
    let mut count = 0;
    for (index, row) in reader.records().enumerate() {
        work.check(source)?;
        let row = row.map_err(|error| DocumentError::Damaged {
            uri: source.uri.clone(),
            format: "CSV",
            reason: format!("row {} cannot be read: {error}", index + 1),
        })?;
        if index == 0 && are_names(&row) {
            names = Some(row);
            continue;
        }
        count += 1;
        if let Some(names) = &names {
            record(names.iter(), row.iter(), &mut out);
        } else {
            rows.push(row.iter().map(one_line).collect::<Vec<_>>().join(" | "));
        }
        if out.len() > work.max_unpacked_bytes() {
            return Err(work.too_much(source));
        }
    }
    // A row of names and nothing else is the text there is.
    if count == 0
        && let Some(names) = &names
    {
        rows.push(names.iter().map(one_line).collect::<Vec<_>>().join(" | "));
    }
    out.push_block(BlockKind::Table, &rows.join("\n"));
    Ok((out.finish(None), count))
}

/// Whether a first row holds names: each filled, short, no number, and none twice.
fn are_names(row: &StringRecord) -> bool {
    let is_name = |name: &str| {
        let name = name.trim();
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.parse::<f64>().is_err()
    };
    let mut names: Vec<&str> = row.iter().map(str::trim).collect();
    // A trailing delimiter leaves a blank field.
    names.pop_if(|name| name.is_empty());
    let filled = !names.is_empty() && names.iter().all(|name| is_name(name));
    names.sort_unstable();
    names.dedup();
    filled && names.len() + 1 >= row.len()
}

fn record<'r>(names: impl Iterator<Item = &'r str>, values: impl Iterator<Item = &'r str>, out: &mut Assembler) {
    let mut names = names.map(one_line);
    let mut lines = Vec::new();
    for (index, value) in values.enumerate() {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| format!("column {}", index + 1));
        let value = value.trim();
        if !value.is_empty() {
            lines.push(format!("{name}: {value}"));
        }
    }
    out.push_block(BlockKind::Record, &lines.join("\n"));
}

fn json_lines(text: &str, source: &SourceInfo, work: &Work) -> Result<(Assembled, usize), DocumentError> {
    let mut out = Assembler::default();
    let mut count = 0;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        work.check(source)?;
        // Its own recursion limit is 128 levels.
        let value: Value = serde_json::from_str(line).map_err(|error| {
            // It counts lines within this one.
            let said = error.to_string().replace(" at line 1 column ", " at column ");
            let reason = format!("line {} is not JSON: {said}", index + 1);
            DocumentError::Damaged { uri: source.uri.clone(), format: "JSON lines", reason }
        })?;
        count += 1;
        let mut fields = Vec::new();
        flatten("", &value, &mut fields);
        out.push_block(BlockKind::Record, &fields.join("\n"));
    }
    Ok((out.finish(None), count))
}

/// Adds a line per leaf, named by its path: `author.name: Ada`. Recursion is bounded by the JSON reader.
fn flatten(path: &str, value: &Value, lines: &mut Vec<String>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let named = |text: &str| if path.is_empty() { text.to_owned() } else { format!("{path}: {text}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&below(key), value, lines)),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            if !items.is_empty() {
                lines.push(named(&items.join(", ")));
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(&below(&at.to_string()), item, lines));
        }
        leaf => {
            let text = plain(leaf);
            if !text.trim().is_empty() {
                lines.push(named(&text));
            }
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{IndexProfile, ParserRegistry};

    fn parse(name: &str, text: &str) -> Result<ParsedDocument, DocumentError> {
        let document = ParserRegistry::new(&IndexProfile::default()).parse(text.as_bytes(), &SourceInfo::new(name))?;
        document.check_blocks().unwrap();
        Ok(document)
    }

    #[test]
    fn rows_become_records() {
        let document = parse("a.csv", "Name,Note\nAda,\"first, \"\"programmer\"\"\nof all\"\nGrace,\n").unwrap();
        assert_eq!(document.text, "Name: Ada\nNote: first, \"programmer\"\nof all\n\nName: Grace");
        assert!(document.blocks.iter().all(|block| block.kind == BlockKind::Record));
        assert_eq!((document.media_type.as_str(), document.blocks.len()), ("text/csv", 2));
        assert_eq!(parse("a.csv", "Stadt;Fläche\nKöln;405,0\n").unwrap().text, "Stadt: Köln\nFläche: 405,0");
        assert_eq!(parse("a.tsv", "a\tb\nx, y\t2\n").unwrap().text, "a: x, y\nb: 2");
    }

    #[test]
    fn rows_without_names_are_a_table() {
        let document = parse("a.csv", "1,2\n3,4\n").unwrap();
        assert_eq!((document.text.as_str(), &document.blocks[0].kind), ("1 | 2\n3 | 4", &BlockKind::Table));
        assert_eq!(parse("a.csv", "only,names\n").unwrap().text, "only | names");
    }

    #[test]
    fn json_lines_are_flattened() {
        let line = r#"{"title":"T","author":{"name":"Ada"},"tags":["x","y"],"items":[{"n":1}],"none":null}"#;
        let document = parse("a.jsonl", &format!("{line}\n\n{{\"title\":\"U\"}}\n")).unwrap();
        assert_eq!(document.text.split("\n\n").nth(1), Some("title: U"));
        let mut lines: Vec<&str> = document.text.lines().take(4).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["author.name: Ada", "items.0.n: 1", "tags: x, y", "title: T"]);
        let error = parse("a.jsonl", "{}\n{\"a\":1}\n{oops\n").unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        let deep = "[".repeat(100_000);
        assert!(matches!(parse("a.jsonl", &deep), Err(DocumentError::Damaged { .. })));
    }
}
