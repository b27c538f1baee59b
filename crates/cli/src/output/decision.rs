//! A decision as text: what the question was, what was found, every route with its price, the prompt, and what else.

use std::io;

use edgewise_model_api::Retention;
use edgewise_planner::{
    Escalation, EscalationPlan, Explanation, LimitInForce, Origin, QuestionKind, Segment, SegmentKind,
};

use super::{bold, count, dim, duration, good, line, plural, route_name, table};

/// Left-out items that are listed.
const SHOWN: usize = 5;

/// The whole decision.
pub(crate) fn explanation(explanation: &Explanation) -> io::Result<()> {
    let row = |name: &str, text: String| line(&format!("{}  {text}", bold(&format!("{name:<9}"))));
    let features = &explanation.features;
    let chosen = explanation.candidates.first();
    let going_on = chosen.map_or(String::new(), |c| going_on(c.turns));
    let how = if explanation.forced { "asked for" } else { "chosen" };
    let after = explanation.escalated_from.map_or(String::new(), |from| format!(" after {}", route_name(from)));
    row("route", format!("{}{going_on}, {how}{after}", good(route_name(explanation.chosen))))?;
    row("why", chosen.map_or_else(String::new, |candidate| candidate.reason.clone()))?;
    row("objective", format!("{}; {}", objective(explanation), budget(explanation)))?;
    row("question", kinds(explanation))?;
    row(
        "scope",
        format!(
            "{} of {} in {} (generation {})",
            plural(features.scope_documents, "document"),
            plural(features.scope_tokens, "token"),
            explanation.collection,
            explanation.generation
        ),
    )?;
    row(
        "evidence",
        format!(
            "{} in {} of the first ten; best cosine {:.2}, BM25 {:.1}; gap {:.2}; both arms agree on {:.0} %",
            plural(features.hits, "hit"),
            plural(features.documents_in_top, "document"),
            features.top_cosine,
            features.top_bm25,
            features.gap,
            100.0 * features.arm_overlap
        ),
    )?;
    if let Some(searched) = &explanation.searched {
        row("searched", searched.clone())?;
    }
    if features.queue_requests > 0 {
        let ahead = plural(features.queue_tokens, "prompt token");
        row("queue", format!("{} ahead with {ahead}", plural(features.queue_requests, "request")))?;
    }
    if !explanation.prompt_map.is_empty() {
        row("prompt", prompt_summary(&explanation.prompt_map))?;
    }
    if let Some(plan) = &explanation.escalation {
        row("then", escalation_plan(plan))?;
    }
    line("")?;
    routes(explanation)?;
    left_out(explanation)
}

/// Every route with its prediction; the reasons stand below, where they have room.
pub(crate) fn routes(explanation: &Explanation) -> io::Result<()> {
    let name = |at: usize| {
        let candidate = &explanation.candidates[at];
        let name = format!("{}{}", route_name(candidate.route), going_on(candidate.turns));
        if at == 0 { good(&format!("→ {name}")) } else { format!("  {name}") }
    };
    let rows = explanation
        .candidates
        .iter()
        .enumerate()
        .map(|(at, c)| {
            let number = |text: String| if c.feasible { text } else { dim("–") };
            vec![
                name(at),
                count(c.prompt_tokens),
                number(count(c.resident_tokens)),
                number(format!("${}", c.cost)),
                number(duration(c.ttft_ms)),
                number(duration(c.latency_ms)),
                number(format!("{:.2}", c.quality)),
                number(format!("{:.3}", c.score)),
            ]
        })
        .collect();
    let header = ["  route", "tokens", "cached", "cost", "first token", "total", "quality", "score"];
    line(&table(&header, &[1, 2, 3, 4, 5, 6, 7], rows))?;
    for (at, candidate) in explanation.candidates.iter().enumerate().skip(1) {
        line(&dim(&format!("{}: {}", name(at), candidate.reason)))?;
    }
    Ok(())
}

/// What the prompt leaves out, and what else is to be known.
pub(crate) fn left_out(explanation: &Explanation) -> io::Result<()> {
    if !explanation.dropped.is_empty() {
        line(&dim(&format!("left out of the prompt: {}", plural(explanation.dropped.len(), "item"))))?;
        for drop in explanation.dropped.iter().take(SHOWN) {
            let part = drop.span.map_or(String::new(), |span| format!(" bytes {}–{}", span.start, span.end));
            line(&dim(&format!("  {}{part} — {}", drop.uri, drop.reason)))?;
        }
        if let Some(more) = explanation.dropped.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            line(&dim(&format!("  … and {more} more (--json shows all)")))?;
        }
    }
    for note in &explanation.notes {
        line(&format!("note: {note}"))?;
    }
    Ok(())
}

/// The prompt, part by part.
pub(crate) fn prompt_map(segments: &[Segment]) -> io::Result<()> {
    let conversation = segments.iter().any(|segment| segment.turn > 1);
    let rows = segments
        .iter()
        .map(|segment| {
            let cached = match segment.cached_tokens {
                0 => dim("–"),
                all if all == segment.tokens => "all".to_owned(),
                some => count(some),
            };
            let kept = match segment.retention {
                Some(Retention::OneHour) => "1 h".to_owned(),
                Some(Retention::FiveMinutes) => "5 min".to_owned(),
                None => dim("–"),
            };
            let mut row = vec![
                format!("{}–{}", count(segment.start), count(segment.end)),
                count(segment.tokens),
                cached,
                kept,
                what(segment),
            ];
            if conversation {
                row.insert(4, if segment.turn > 0 { segment.turn.to_string() } else { String::new() });
            }
            row
        })
        .collect();
    match conversation {
        true => line(&table(&["position", "tokens", "cached", "kept", "turn", "part"], &[0, 1, 2, 3, 4], rows)),
        false => line(&table(&["position", "tokens", "cached", "kept", "part"], &[0, 1, 2, 3], rows)),
    }
}

fn what(segment: &Segment) -> String {
    let source = segment.source.map_or(String::new(), |n| {
        let span = segment.span.map_or(String::new(), |span| format!(" bytes {}–{}", span.start, span.end));
        format!(" [{n}] {}{}", segment.uri.as_deref().unwrap_or_default(), dim(&span))
    });
    format!("{}{source}", kind(segment.kind))
}

fn kind(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::System => "system",
        SegmentKind::Preamble => "preamble",
        SegmentKind::Passage => "passage",
        SegmentKind::Summary => "summary",
        SegmentKind::Document => "document",
        SegmentKind::Excerpt => "excerpt",
        SegmentKind::Question => "question",
        SegmentKind::Answer => "earlier answer",
        SegmentKind::Recap => "recap",
        SegmentKind::Template => "template",
    }
}

/// Tokens by kind, in order of first appearance.
fn prompt_summary(segments: &[Segment]) -> String {
    let mut sums: Vec<(SegmentKind, usize, usize)> = Vec::new();
    for segment in segments {
        match sums.iter_mut().find(|(kind, ..)| *kind == segment.kind) {
            Some((_, tokens, parts)) => {
                *tokens += segment.tokens;
                *parts += 1;
            }
            None => sums.push((segment.kind, segment.tokens, 1)),
        }
    }
    let total: usize = segments.iter().map(|segment| segment.tokens).sum();
    let cached: usize = segments.iter().map(|segment| segment.cached_tokens).sum();
    let sources = |of: SegmentKind| matches!(of, SegmentKind::Passage | SegmentKind::Document | SegmentKind::Summary);
    let parts: Vec<String> = sums
        .into_iter()
        .map(|(of, tokens, parts)| match sources(of) {
            true => format!("{} {}", plural(parts, kind(of)), count(tokens)),
            false => format!("{} {}", kind(of), count(tokens)),
        })
        .collect();
    format!("{}, {} cached: {} (--map lists every part)", plural(total, "token"), count(cached), parts.join(" · "))
}

fn escalation_plan(plan: &EscalationPlan) -> String {
    match plan.route {
        Some(route) => format!(
            "if the sources seem not to hold the answer (probability above {:.2}): {}, {} with {} cached, ${} and {} more",
            plan.above,
            route_name(route),
            plural(plan.prompt_tokens, "token"),
            count(plan.resident_tokens),
            plan.cost,
            duration(plan.latency_ms)
        ),
        None => format!("no wider route after the answer: {}", plan.why),
    }
}

/// The wider look that was taken, in one sentence.
pub(crate) fn escalation(escalation: &Escalation) -> String {
    format!(
        "{} → {}: {} (first answer ${})",
        route_name(escalation.from),
        route_name(escalation.to),
        escalation.why,
        escalation.cost
    )
}

fn going_on(turns: usize) -> String {
    match turns {
        0 => String::new(),
        turns => format!(", going on from {}", plural(turns, "turn")),
    }
}

fn objective(explanation: &Explanation) -> String {
    format!("{:?}", explanation.objective).to_lowercase()
}

fn budget(explanation: &Explanation) -> String {
    let set_by = |origin: &Origin| match origin {
        Origin::Request => "",
        Origin::Key => " (set for the API key)",
        Origin::Collection => " (set for the collection)",
        Origin::Server => " (set for the server)",
    };
    let limit = |limit: &LimitInForce| match limit {
        LimitInForce::MaxCost { most, origin } => format!("at most ${most}{}", set_by(origin)),
        LimitInForce::MaxInputTokens { most, origin } => {
            format!("at most {}{}", plural(*most, "prompt token"), set_by(origin))
        }
        LimitInForce::MaxLatencyMs { most, origin } => {
            format!("at most {}{}", duration(*most as f64), set_by(origin))
        }
    };
    let limits: Vec<String> = explanation.limits.iter().map(limit).collect();
    if limits.is_empty() { "no budget".to_owned() } else { format!("budget: {}", limits.join(", ")) }
}

/// Kinds of question worth naming, the likeliest first.
fn kinds(explanation: &Explanation) -> String {
    let name = |kind: QuestionKind| match kind {
        QuestionKind::LocalFact => "one fact",
        QuestionKind::MultiHop => "several places",
        QuestionKind::Comparison => "a comparison",
        QuestionKind::Global => "about the whole",
        QuestionKind::Conversation => "part of the conversation",
    };
    let mut kinds: Vec<(QuestionKind, f32)> =
        QuestionKind::ALL.into_iter().zip(explanation.features.kind.values()).filter(|(_, p)| *p >= 0.1).collect();
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let kinds: Vec<String> = kinds.iter().map(|(kind, p)| format!("{} {:.0} %", name(*kind), 100.0 * p)).collect();
    kinds.join(", ")
}
