// Sums of the ledger over time: what most pages ask for.

import { getJson, withQuery } from "./api.js";
import { buckets } from "./chart.js";

const rfc = (ms) => new Date(ms).toISOString();

/** The report of a range: `by` is a list of dimensions; with `interval` its groups are also cut in time. */
export const usage = ({ from, to }, { by = [], interval, ...rest } = {}) =>
  getJson(withQuery("/v1/usage", { from: rfc(from), to: rfc(to), by: by.join(","), interval, recent: 0, ...rest }));

/** Sums in order of time: `value(sums)` for each bucket, `missing` where there was nothing. */
export function overTime(groups, range, value, missing = 0) {
  const times = buckets(range.from, range.to, range.interval);
  const at = new Map(groups.map((group) => [Date.parse(group.at), group]));
  return times.map((time) => (at.has(time) ? value(at.get(time).sums) : missing));
}

/** One series for each value of a dimension, in the order of `compare`. */
export function seriesOver(groups, range, dimension, value, { compare, colour, name = (key) => key }) {
  const keys = [...new Set(groups.map((group) => group.keys[dimension] ?? ""))].sort(compare);
  return keys.map((key, index) => ({
    key,
    name: name(key),
    colour: colour(key, index),
    values: overTime(
      groups.filter((group) => (group.keys[dimension] ?? "") === key),
      range,
      value,
    ),
  }));
}

/** What an amount was before, as a share of it; null where that says nothing. */
export const change = (now, before) => (before > 0 ? now / before - 1 : null);
