//! The dashboard for Grafana and the alert rules for Prometheus in `config/`: every metric and label they name exists, and
//! promtool takes every expression, where it is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use edgewise_telemetry::names::{ALL, Metric, MetricKind};
use serde_json::Value;

fn config(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(file)
}

/// Expressions of all panels, with the title of their panel.
fn of_dashboard() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(config("grafana/edgewise.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id");
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    expressions
}

/// Expressions of all rules, with the name of their alert. The file has one key a line.
fn of_rules() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(config("prometheus/alerts.yml")).unwrap();
    let mut expressions = Vec::new();
    let mut alert = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            name.clone_into(&mut alert);
        } else if let Some(expression) = line.strip_prefix("expr: ") {
            expressions.push((alert.clone(), expression.to_owned()));
        }
    }
    expressions
}

/// The metric of a series: histograms have three for each.
fn metric(series: &str) -> Option<&'static Metric> {
    let named = |name: &str| ALL.iter().find(|metric| metric.name == name);
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| series.strip_suffix(part));
    match part.and_then(named).filter(|metric| metric.kind == MetricKind::Histogram) {
        Some(metric) => Some(metric),
        // The series itself of a histogram does not exist.
        None => named(series).filter(|metric| metric.kind != MetricKind::Histogram),
    }
}

/// Words of an expression outside of quotes, and what follows each up to the next quote.
fn words(expression: &str) -> Vec<(&str, &str)> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    for part in expression.split('"').step_by(2) {
        let mut rest = part;
        while let Some(start) = rest.find(word) {
            let end = rest[start..].find(|c| !word(c)).map_or(rest.len(), |length| start + length);
            words.push((&rest[start..end], &rest[end..]));
            rest = &rest[end..];
        }
    }
    words
}

#[test]
fn every_metric_and_label_exists() {
    let expressions = [of_dashboard(), of_rules()].concat();
    assert!(expressions.len() > 40, "{}", expressions.len());
    let mut used = BTreeSet::new();
    for (title, expression) in &expressions {
        let metrics: Vec<&Metric> = words(expression)
            .into_iter()
            .filter(|(word, _)| word.starts_with("edgewise_"))
            .map(|(series, _)| metric(series).unwrap_or_else(|| panic!("{title}: there is no series {series}")))
            .collect();
        assert!(!metrics.is_empty(), "{title}: {expression}");
        used.extend(metrics.iter().map(|metric| metric.name));
        let labels: BTreeSet<&str> = metrics.iter().flat_map(|metric| metric.labels).copied().chain(["le"]).collect();
        // Labels are what is compared with a text, and what is grouped by.
        let compared = words(expression).into_iter().filter(|(_, next)| ["=", "=~", "!=", "!~"].contains(next));
        let compared = compared.map(|(label, _)| label);
        let grouped = expression.split(" by (").skip(1).flat_map(|rest| rest.split(')').next().unwrap().split(", "));
        for label in compared.chain(grouped) {
            assert!(labels.contains(label), "{title}: {expression} has no label {label}");
        }
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{title}: {expression}");
        // A counter is only of use as a rate.
        for metric in metrics.iter().filter(|metric| metric.kind == MetricKind::Counter) {
            let rated = ["rate(", "increase("].iter().any(|f| expression.contains(&format!("{f}{}", metric.name)));
            assert!(rated, "{title}: {expression} takes {} as it stands", metric.name);
        }
    }
    // What an operator must be able to see.
    for prefix in ["edgewise_kv_", "edgewise_engine_", "edgewise_index_", "edgewise_prefix_", "edgewise_cost_"] {
        assert!(used.iter().any(|name| name.starts_with(prefix)), "nothing shows {prefix}*");
    }
}

/// promtool, where it is on the path or named by PROMTOOL.
fn promtool() -> Option<PathBuf> {
    let named = std::env::var_os("PROMTOOL").map(PathBuf::from);
    let found = named.unwrap_or_else(|| PathBuf::from("promtool"));
    Command::new(&found).arg("--version").output().ok().map(|_| found)
}

#[test]
fn promtool_takes_every_expression() {
    let Some(promtool) = promtool() else {
        eprintln!("promtool is not installed: expressions are only checked by the other test");
        return;
    };
    let check = |file: &Path| {
        let output = Command::new(&promtool).args(["check", "rules"]).arg(file).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
    };
    check(&config("prometheus/alerts.yml"));
    // Expressions of panels as rules; Grafana fills in the interval.
    let mut rules = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (place, (_, expression)) in of_dashboard().iter().enumerate() {
        let expression = serde_json::to_string(&expression.replace("$__rate_interval", "5m")).unwrap();
        rules.push_str(&format!("      - record: panel:expression{place}\n        expr: {expression}\n"));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    std::fs::write(&file, rules).unwrap();
    check(&file);
}
