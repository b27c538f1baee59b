// The stretch of time that a page is about, kept in its address.

import { el, freshId } from "./dom.js";

const RANGES = {
  "1h": { name: "1 h", words: "the last hour", ms: 3_600_000, interval: "minute" },
  "24h": { name: "24 h", words: "the last 24 hours", ms: 86_400_000, interval: "hour" },
  "7d": { name: "7 d", words: "the last 7 days", ms: 7 * 86_400_000, interval: "hour" },
  "30d": { name: "30 d", words: "the last 30 days", ms: 30 * 86_400_000, interval: "day" },
  "90d": { name: "90 d", words: "the last 90 days", ms: 90 * 86_400_000, interval: "day" },
};
const STEP = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };

/** A choice of ranges. `now()` gives the chosen one: `from` and `to` in ms, cut to whole buckets, and their interval. */
export function rangePicker(context, fallback, onChange) {
  const asked = context.query.get("range");
  let chosen = asked in RANGES ? asked : fallback;
  const name = freshId("range");
  const options = Object.entries(RANGES).map(([key, range]) =>
    el(
      "label",
      {},
      el("input", {
        type: "radio",
        name,
        value: key,
        checked: key === chosen,
        onchange: () => {
          chosen = key;
          context.remember({ range: key === fallback ? null : key });
          onChange();
        },
      }),
      el("span", {}, range.name),
    ),
  );
  return {
    node: el("fieldset", { class: "segmented small" }, el("legend", { class: "sr" }, "Time"), options),
    now() {
      const { name: short, ms, interval, words } = RANGES[chosen];
      const step = STEP[interval];
      // The bucket that is being filled belongs to it; so do as many whole ones as fit the range.
      const to = (Math.floor(Date.now() / step) + 1) * step;
      return { from: to - ms, to, ms, interval, words, name: short, key: chosen };
    },
  };
}
