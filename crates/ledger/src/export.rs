//! Tables of sums as CSV (RFC 4180).

use crate::{Dimension, UsageTable};

/// A value as a field: in quotes where it needs them. A text that a spreadsheet would take for a formula gets an apostrophe
/// before it: names of models and keys come from others.
fn field(value: String) -> String {
    let formula = value.starts_with(['=', '+', '-', '@', '\t', '\r']) && value.parse::<f64>().is_err();
    if !formula && !value.contains(['"', ',', '\n', '\r']) {
        return value;
    }
    format!("\"{}{}\"", if formula { "'" } else { "" }, value.replace('"', "\"\""))
}

/// One line a group, after a header. Amounts are dollars; times are milliseconds, empty where there are none.
pub fn csv(table: &UsageTable, by: &[Dimension], steps: bool) -> String {
    const COLUMNS: [&str; 16] = [
        "requests",
        "input_tokens",
        "cache_read_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "cost",
        "full_cost",
        "saved_against_full",
        "missed_tokens",
        "ttft_p50_ms",
        "ttft_p95_ms",
        "ttft_p99_ms",
        "latency_p50_ms",
        "latency_p95_ms",
        "latency_p99_ms",
    ];
    let mut text = String::new();
    let mut add = |values: &mut dyn Iterator<Item = String>| {
        let fields: Vec<String> = values.map(field).collect();
        text.push_str(&fields.join(","));
        text.push_str("\r\n");
    };
    let names = by.iter().map(|dimension| dimension.as_str());
    let mut header = steps.then_some("at").into_iter().chain(names).chain(COLUMNS).map(str::to_owned);
    add(&mut header);
    for group in &table.groups {
        let sums = &group.sums;
        let missed: usize = sums.miss.values().map(|missed| missed.tokens).sum();
        let counts = [
            sums.requests,
            sums.usage.input_tokens,
            sums.usage.cache_read_tokens,
            sums.usage.cache_write_5m_tokens,
            sums.usage.cache_write_1h_tokens,
            sums.usage.output_tokens,
        ];
        let money = [sums.cost, sums.full_cost, sums.saved_against_full];
        let times = [sums.ttft_ms, sums.latency_ms].into_iter().flat_map(|times| {
            let of =
                |time: fn(crate::Percentiles) -> f64| times.map_or_else(String::new, |t| format!("{:.3}", time(t)));
            [of(|t| t.p50), of(|t| t.p95), of(|t| t.p99)]
        });
        let at = steps.then(|| group.at.map_or_else(String::new, |at| at.to_string()));
        let keys = by.iter().map(|dimension| group.keys.get(dimension.as_str()).cloned().unwrap_or_default());
        let values = at.into_iter().chain(keys);
        let values = values.chain(counts.iter().map(ToString::to_string));
        let values = values.chain(money.iter().map(ToString::to_string));
        add(&mut values.chain([missed.to_string()]).chain(times));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sums, UsageGroup};

    #[test]
    fn values_are_quoted_where_they_must_be() {
        let group = |key: &str| UsageGroup {
            at: None,
            keys: [("key".to_owned(), key.to_owned())].into(),
            sums: Sums { requests: 2, ..Sums::default() },
        };
        let groups = ["", "plain", "a,\"b\"", "=1+1", "-3"].map(group).to_vec();
        let table = UsageTable { groups, ..UsageTable::default() };
        let text = csv(&table, &[Dimension::Key], false);
        let starts: Vec<&str> = text.lines().map(|line| line.split(",2,0,").next().unwrap_or_default()).collect();
        assert_eq!(starts[1..], ["", "plain", "\"a,\"\"b\"\"\"", "\"'=1+1\"", "-3"]);
        let columns = text.lines().next().map_or(0, |header| header.split(',').count());
        assert_eq!(columns, 17);
        assert_eq!(text.lines().nth(1).map_or(0, |line| line.split(',').count()), columns, "{text}");
        assert!(text.lines().all(|line| !line.is_empty()) && text.ends_with("\r\n"));
    }
}
