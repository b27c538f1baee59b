//! A reading profile as tables.

use std::{collections::BTreeSet, io};

use edgewise_evaluation::ProbePlan;
use edgewise_planner::{EFFECTIVE_SHARE, Interval, ReadingCell, ReadingProfile};

use crate::output::{self, count, duration, plural};

/// From badly to well read.
const SHADES: [&str; 5] = [" ", "░", "▒", "▓", "█"];

pub(super) fn plan(plan: &ProbePlan) -> io::Result<()> {
    let known = if plan.done > 0 { format!(", {} of them known already", count(plan.done)) } else { String::new() };
    output::line(&format!(
        "{}{known}: {} tokens of prompts, {} of them to be computed, at most {} generated, about {}",
        plural(plan.observations, "question"),
        count(plan.prompt_tokens),
        count(plan.prefill_tokens),
        count(plan.output_tokens),
        duration(plan.predicted_ms)
    ))?;
    plan.left_out.iter().try_for_each(|left| output::line(&output::dim(&format!("left out: {left}"))))
}

pub(super) fn profile(profile: &ReadingProfile) -> io::Result<()> {
    output::line(&format!(
        "{}  measured {} with {}, seed {}",
        output::bold(&profile.model),
        profile.measured_at.strftime("%Y-%m-%d %H:%M UTC"),
        profile.text,
        profile.seed
    ))?;
    for task in profile.tasks() {
        let cells: Vec<&ReadingCell> = profile.cells.iter().filter(|cell| cell.task == task).collect();
        output::line("")?;
        output::line(&format!("{}  recall, and likelihood of the right answer", output::bold(task.as_str())))?;
        output::line(&heat_map(&cells))?;
    }
    output::line("")?;
    let rows = profile.lengths.iter().map(|length| {
        let of = format!("{:.0} %", 100.0 * length.of_shortest);
        vec![count(length.length), count(length.items), interval(&length.recall), of]
    });
    output::line(&output::table(&["tokens", "questions", "recall", "of the shortest"], &[0, 1, 2, 3], rows.collect()))?;
    output::line("")?;
    let rows = profile.curves.iter().map(|curve| {
        let length = curve.length.map_or_else(|| "all".to_owned(), count);
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|point| {
                format!("{:.2}: {:+.3}±{:.3}", point.depth, point.gain.mean, point.gain.high - point.gain.mean)
            })
            .collect();
        let used = if curve.distinct { "yes" } else { "no" };
        vec![length, count(curve.items), used.to_owned(), points.join("  ")]
    });
    let header = ["tokens", "questions", "positions differ", "depth: likelihood over the mean of all depths"];
    output::line(&output::table(&header, &[0, 1], rows.collect()))?;
    output::line("")?;
    let verdict = match profile.effective_window {
        Some(window) => format!(
            "effective window {} tokens: recall falls below {:.0} % of that at the shortest length beyond it",
            count(window),
            100.0 * EFFECTIVE_SHARE
        ),
        None => {
            "no effective window found: recall holds at all lengths measured, or is too low at the shortest".to_owned()
        }
    };
    output::line(&output::bold(&verdict))?;
    let placed = if profile.curves.iter().any(|curve| curve.distinct) {
        "passages are placed by the curves where positions differ, elsewhere by the rule: best last, second best first"
    } else {
        "no position is beyond chance better than another: passages are placed by the rule, best last, second best first"
    };
    output::line(placed)
}

/// A row a length, a column a depth.
fn heat_map(cells: &[&ReadingCell]) -> String {
    let lengths: BTreeSet<usize> = cells.iter().map(|cell| cell.length).collect();
    let slots: BTreeSet<usize> = cells.iter().map(|cell| cell.slot).collect();
    let last = slots.iter().max().copied().unwrap_or(0).max(1);
    let mut header = vec!["tokens".to_owned()];
    header.extend(slots.iter().map(|slot| format!("depth {:.2}", *slot as f64 / last as f64)));
    let rows = lengths.iter().map(|length| {
        let mut row = vec![count(*length)];
        row.extend(slots.iter().map(|slot| {
            let found = cells.iter().find(|cell| (cell.length, cell.slot) == (*length, *slot));
            found.map_or_else(String::new, |cell| {
                let shade = SHADES[((cell.recall.mean * 4.0).round() as usize).min(4)];
                let held = cell.gold_probability.map_or_else(String::new, |held| format!(" {held:.2}"));
                format!("{shade}{shade} {}/{}{held}", cell.recalled, cell.items)
            })
        }));
        row
    });
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    output::table(&header, &[0], rows.collect())
}

fn interval(interval: &Interval) -> String {
    format!("{:.2} [{:.2}, {:.2}]", interval.mean, interval.low, interval.high)
}
