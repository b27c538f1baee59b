//! Quality against share of long-context tokens, as a picture.

use std::fmt::Write as _;

use super::replay::{Point, Replay};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 62.0;

/// The curve as SVG: ours at rising shares, the constant policies with the line of choosing at random between them, and
/// the oracle. Means over the models.
pub fn svg(replay: &Replay) -> String {
    let average = |value: &dyn Fn(&super::ModelReplay) -> f64| {
        replay.models.iter().map(value).sum::<f64>() / replay.models.len().max(1) as f64
    };
    let passages = Point { share: 0.0, recall: average(&|model| model.passages) };
    let full = Point { share: 1.0, recall: average(&|model| model.full) };
    let oracle = Point { share: average(&|model| model.oracle_share), recall: average(&|model| model.oracle) };
    let bounded = Point { share: average(&|m| m.ours.share), recall: average(&|m| m.ours.recall.mean) };
    let free = Point { share: average(&|m| m.unbounded.share), recall: average(&|m| m.unbounded.recall.mean) };

    let all = replay.curve.iter().chain([&passages, &full, &oracle, &bounded, &free]);
    let (low, high) = all
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| (low.min(point.recall), high.max(point.recall)));
    let step = 0.02;
    let (low, high) = (((low - 0.005) / step).floor() * step, ((high + 0.005) / step).ceil() * step);
    let x = |share: f64| LEFT + share * (WIDTH - LEFT - RIGHT);
    let y = |recall: f64| HEIGHT - BOTTOM - (recall - low) / (high - low).max(1e-9) * (HEIGHT - TOP - BOTTOM);

    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\">Answer quality against long-context tokens</text>\n\
         <text x=\"{LEFT}\" y=\"42\" fill=\"#666\">mean over {} models, each document left out of training in turn</text>\n",
        replay.models.len()
    );
    let lines = ((high - low) / step).round() as usize;
    for line in 0..=lines {
        let recall = low + line as f64 * step;
        let at = y(recall);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{recall:.2}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for tenth in (0..=10).step_by(2) {
        let share = f64::from(tenth) / 10.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}%</text>",
            x(share),
            HEIGHT - BOTTOM + 20.0,
            tenth * 10
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">share of the tokens that always reading the full context takes\
         </text>\n<text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">recall</text>",
        (x(0.0) + x(1.0)) / 2.0,
        HEIGHT - 18.0,
        (TOP + HEIGHT - BOTTOM) / 2.0
    );
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#999\" stroke-dasharray=\"5 4\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#777\">chosen at random</text>",
        x(0.0),
        y(passages.recall),
        x(1.0),
        y(full.recall),
        x(0.62),
        y(passages.recall + 0.62 * (full.recall - passages.recall)) + 22.0
    );
    let points: Vec<String> = replay.curve.iter().map(|p| format!("{:.1},{:.1}", x(p.share), y(p.recall))).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1b6ca8\" stroke-width=\"2.5\"/>",
        points.join(" ")
    );
    let mut mark = |point: Point, colour: &str, label: &str, dx: f64, dy: f64, anchor: &str| {
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"{anchor}\">{label} {:.3}</text>",
            x(point.share),
            y(point.recall),
            x(point.share) + dx,
            y(point.recall) + dy,
            point.recall
        );
    };
    mark(passages, "#444", "always passages", 10.0, 18.0, "start");
    mark(full, "#444", "always full", -10.0, 20.0, "end");
    mark(oracle, "#2a8a4a", "oracle", 10.0, 4.0, "start");
    mark(bounded, "#1b6ca8", "ours, at most half the tokens", -6.0, -14.0, "end");
    mark(free, "#c0561f", "ours, wherever a gain is expected", 0.0, -16.0, "middle");
    out.push_str("</svg>\n");
    out
}
