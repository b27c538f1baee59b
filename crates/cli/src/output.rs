//! What the command line prints. Results go to standard output, everything else to standard error.
//!
//! Colour is used where the terminal supports it and `NO_COLOR` is unset. Nothing here computes.

mod decision;

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Stream, Style};

use edgewise_planner::{Answer, CitationMethod, Route};
use edgewise_retrieval::{IngestReport, Outcome, Plan, SourceReport};
use edgewise_types::{Money, PageRange, Usage};

pub(crate) use decision::{explanation, prompt_map};

/// Prints a line to standard output; a closed pipe ends the process quietly, as `head` expects.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
}

/// Prints text without a line end, at once: for streaming.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a value as JSON.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<(), crate::error::CliError> {
    Ok(line(&serde_json::to_string_pretty(value)?)?)
}

/// Prints a progress remark to standard error.
pub(crate) fn note(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub(crate) fn bold(text: &str) -> String {
    styled(text, Style::new().bold())
}

pub(crate) fn dim(text: &str) -> String {
    styled(text, Style::new().dimmed())
}

pub(crate) fn good(text: &str) -> String {
    styled(text, Style::new().green())
}

pub(crate) fn bad(text: &str) -> String {
    styled(text, Style::new().red())
}

fn styled(text: &str, style: Style) -> String {
    text.if_supports_color(Stream::Stdout, |t| t.style(style)).to_string()
}

/// A table with a header, no lines, columns two spaces apart. `right` are the columns of numbers.
pub(crate) fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|h| Cell::new(bold(h))));
    for row in rows {
        table.add_row(row);
    }
    for index in right {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.2} GB", n as f64 / 1e9),
    }
}

/// Milliseconds for people.
pub(crate) fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} min {:02.0} s", (ms / 60_000.0).floor(), (ms % 60_000.0) / 1e3),
    }
}

/// `n` and the noun in the right number.
pub(crate) fn plural(n: usize, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(n))
}

pub(crate) fn route_name(route: Route) -> &'static str {
    match route {
        Route::Passages => "passages",
        Route::Tree => "tree",
        Route::Documents => "documents",
        Route::Full => "full",
    }
}

/// Where something stands: document, sections and pages, as in `guide.pdf › Tides › Spring tide, p. 12`.
pub(crate) fn place(uri: &str, heading_path: &[String], pages: Option<&PageRange>) -> String {
    let mut path = vec![uri];
    path.extend(heading_path.iter().map(String::as_str));
    let pages = pages.map_or(String::new(), |pages| format!(", {pages}"));
    path.join(" › ") + &pages
}

/// Everything that follows the text of an answer: citations, the comparison, usage, cost, times.
pub(crate) fn answer_details(answer: &Answer) -> io::Result<()> {
    let unsupported: Vec<&str> = answer
        .sentences
        .iter()
        .filter(|s| !s.supported)
        .filter_map(|s| s.span.slice(&answer.text).ok())
        .map(str::trim)
        .collect();
    if answer.unanswerable {
        line(&dim("The model found no answer in what it read."))?;
    }
    if !answer.citations.is_empty() {
        line(&format!("\n{}", bold("Citations")))?;
        let mut shown = BTreeSet::new();
        for citation in &answer.citations {
            // Several sentences may rest on one place; it is shown once.
            if !shown.insert((&citation.document, citation.span)) {
                continue;
            }
            let path = place(&citation.uri, &citation.heading_path, citation.pages.as_ref());
            let method = match citation.method {
                CitationMethod::Marker => "marked by the model, checked",
                CitationMethod::Aligned => "aligned",
            };
            let place = format!("bytes {}–{}, {method}, {:.2}", citation.span.start, citation.span.end, citation.score);
            line(&format!("[{}] {path} {}", citation.n, dim(&format!("({place})"))))?;
            let quote = citation.quote.split_whitespace().collect::<Vec<_>>().join(" ");
            line(&format!("    “{quote}”"))?;
        }
    }
    if !unsupported.is_empty() && !answer.unanswerable {
        line(&format!("\n{}", bold("Not supported by any source")))?;
        for sentence in unsupported {
            line(&bad(&format!("  {sentence}")))?;
        }
    }
    line(&format!("\n{}", bold("Routes")))?;
    decision::routes(&answer.explanation)?;
    decision::left_out(&answer.explanation)?;
    if let Some(escalation) = &answer.escalation {
        line(&format!("\n{}", bold("Looked further")))?;
        line(&format!("  {}", decision::escalation(escalation)))?;
    } else if let Some(why) = &answer.judgement.not_escalated {
        line(&dim(&format!("not looked further: {why}")))?;
    }
    line(&format!("\n{}", bold("Used")))?;
    line(&format!("  tokens  {}", usage(&answer.usage)))?;
    let second = answer.escalation.as_ref().and_then(|escalation| escalation.explanation.candidates.first());
    let predicted: Vec<_> = answer.explanation.candidates.first().into_iter().chain(second).collect();
    let cost = predicted.iter().fold(Money::ZERO, |sum, candidate| sum + candidate.cost);
    let time: f64 = predicted.iter().map(|candidate| candidate.latency_ms).sum();
    let (cost, time) = (format!(" (predicted ${cost})"), format!(" (predicted {})", duration(time)));
    line(&format!("  cost    ${}{}", answer.cost, dim(&cost)))?;
    let t = &answer.timings;
    line(&format!("  time    {}{}", duration(t.total_ms), dim(&time)))?;
    let stages = [
        ("embed", t.embed_ms),
        ("lexical", t.lexical_ms),
        ("vector", t.vector_ms),
        ("fuse", t.fuse_ms),
        ("plan", t.plan_ms),
        ("queue", t.queue_ms),
        ("prefill", t.prefill_ms),
        ("decode", t.decode_ms),
        ("cite", t.cite_ms),
    ];
    let stages: Vec<String> = stages.iter().map(|(name, ms)| format!("{name} {}", duration(*ms))).collect();
    line(&dim(&format!("          {}", stages.join(" · "))))?;
    line(&dim(&format!(
        "  judged  probability {:.2} that the sources do not hold the answer",
        answer.unanswerable_probability
    )))?;
    line(&dim(&format!("  model   {}", answer.model)))
}

/// Tokens of a request in one line.
pub(crate) fn usage(usage: &Usage) -> String {
    let written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens;
    format!(
        "{} in the prompt ({} from the cache, {} written to it), {} generated",
        count(usage.prompt_tokens()),
        count(usage.cache_read_tokens),
        count(written),
        count(usage.output_tokens)
    )
}

/// Counts of an ingest report: added, changed, unchanged, removed, failed.
pub(crate) fn outcome_counts(report: &IngestReport) -> [usize; 5] {
    let mut counts = [0; 5];
    for source in &report.sources {
        let slot = match source.outcome {
            Outcome::Added => 0,
            Outcome::Changed => 1,
            Outcome::Unchanged => 2,
            Outcome::Removed => 3,
            Outcome::Failed { .. } => 4,
        };
        counts[slot] += 1;
    }
    counts
}

/// Why a file failed, as a sentence that names it once.
fn failure(uri: &str, reason: &str) -> String {
    let named = format!("`{uri}`");
    if reason.contains(&named) { reason.to_owned() } else { format!("{named}: {reason}") }
}

/// `text` without line breaks and other control characters, which names of files may hold to deceive a terminal.
fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// One line for a document that changed while its folder is watched.
pub(crate) fn change(report: &SourceReport, as_json: bool) -> io::Result<()> {
    let now = jiff::Zoned::now();
    if as_json {
        let time = now.timestamp().to_string();
        let mut value = serde_json::to_value(report).map_err(io::Error::other)?;
        value["time"] = time.into();
        return line(&value.to_string());
    }
    let time = dim(&now.strftime("%H:%M:%S").to_string());
    let uri = &report.uri;
    let chunks = plural(report.chunks, "chunk");
    match &report.outcome {
        Outcome::Added => line(&format!("{time} {} {uri} ({chunks})", good("added"))),
        Outcome::Changed => line(&format!("{time} {} {uri} ({chunks})", good("changed"))),
        Outcome::Unchanged => line(&format!("{time} unchanged {uri}")),
        Outcome::Removed => line(&format!("{time} removed {uri}")),
        Outcome::Failed { reason } => line(&format!("{time} {} {uri}: {reason}", bad("failed"))),
    }
}

/// What an ingest would do.
pub(crate) fn plan(plan: &Plan) -> io::Result<()> {
    line(&plan_text(plan))
}

/// As [`plan`], as text.
pub(crate) fn plan_text(plan: &Plan) -> String {
    let mut lines = Vec::new();
    let name = bold(plan.collection.as_str());
    match &plan.anew {
        Some(reason) if plan.documents_now > 0 => {
            lines.push(format!("collection {name} must be made anew, because {reason}"));
        }
        _ => lines.push(format!("collection {name}")),
    }
    let parts = [
        (plan.recut, "to cut anew"),
        (plan.added, "new"),
        (plan.changed, "changed"),
        (plan.unchanged, "as they are"),
        (plan.removed, "to remove"),
        (plan.failed, "that can't be ingested"),
    ];
    let mut documents: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", count(*n))).collect();
    if documents.is_empty() {
        documents.push("none".to_owned());
    }
    lines.push(format!("  documents  {} now; {}", count(plan.documents_now), documents.join(", ")));
    lines.push(format!(
        "  chunks     {} now; {} to make, of which {} keep their vectors",
        count(plan.chunks_now),
        count(plan.chunks),
        count(plan.chunks_kept)
    ));
    lines.push(format!(
        "  embedding  {}, {}",
        plural(plan.chunks_to_embed, "chunk"),
        plural(plan.tokens_to_embed, "token")
    ));
    if let (Some(rate), Some(seconds)) = (plan.tokens_per_second, plan.seconds) {
        let rate = count(rate as usize);
        lines.push(format!("  time       about {} at {rate} tokens/s, measured just now", duration(seconds * 1e3)));
    }
    if plan.anew.is_some() && plan.documents_now > 0 {
        lines.push("  meanwhile  the collection answers from what it has, until the new one is complete".to_owned());
    }
    lines.join("\n")
}

/// The summary of an ingest.
pub(crate) fn ingest_report(report: &IngestReport, skipped: &[(String, String)]) -> io::Result<()> {
    let counts = outcome_counts(report);
    let names = ["added", "changed", "unchanged", "removed", "failed"];
    let rows = names
        .iter()
        .zip(counts)
        .map(|(name, n)| {
            let text = count(n);
            let text = match (*name, n) {
                (_, 0) => dim(&text),
                ("failed", _) => bad(&text),
                _ => text,
            };
            vec![(*name).to_owned(), text]
        })
        .collect();
    line(&table(&["documents", ""], &[1], rows))?;
    for source in &report.sources {
        if let Outcome::Failed { reason } = &source.outcome {
            line(&format!("{} {}", bad("failed "), one_line(&failure(&source.uri, reason))))?;
        }
    }
    for (path, reason) in skipped.iter().take(10) {
        line(&dim(&format!("skipped {}", one_line(&format!("`{path}`: {reason}")))))?;
    }
    if skipped.len() > 10 {
        line(&dim(&format!("… and {} more skipped (--json lists all)", skipped.len() - 10)))?;
    }
    let rate = if report.seconds > 0.0 { report.chunks_embedded as f64 / report.seconds } else { 0.0 };
    let files = (counts[0] + counts[1]) as f64 / report.seconds.max(1e-9);
    let speed =
        if report.chunks_embedded > 0 { format!(" ({files:.1} files/s, {rate:.1} chunks/s)") } else { String::new() };
    line(&format!(
        "collection {} is at generation {}: {} embedded in {}{speed}",
        bold(report.collection.as_str()),
        report.generation,
        plural(report.chunks_embedded, "chunk"),
        duration(report.seconds * 1e3),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_names_the_file_once() {
        assert_eq!(failure("a.md", "`a.md` holds no text"), "`a.md` holds no text");
        assert_eq!(failure("a.md", "out of luck"), "`a.md`: out of luck");
        assert_eq!(one_line("a\nb\u{1b}[31m é"), "a\\nb\\u{1b}[31m é");
    }

    #[test]
    fn places_name_sections_and_pages() {
        let path = ["Tides".to_owned(), "Spring tide".to_owned()];
        assert_eq!(place("a.pdf", &path, Some(&PageRange::new(3, 4))), "a.pdf › Tides › Spring tide, pp. 3–4");
        assert_eq!(place("a.md", &path[..1], None), "a.md › Tides");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(plural(1, "chunk"), "1 chunk");
        assert_eq!(plural(2_000, "chunk"), "2,000 chunks");
        assert_eq!(bytes(98_362_432), "98.4 MB");
        assert_eq!(duration(3.04), "3.0 ms");
        assert_eq!(duration(61_500.0), "1 min 02 s");
    }
}
