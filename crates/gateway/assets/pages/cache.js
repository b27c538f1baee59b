// Cache: what is resident, for how long yet, what it saved, and why the rest was missed.

import { getJson, send } from "../lib/api.js";
import { timeChart, buckets } from "../lib/chart.js";
import { datum, el, say, throttled } from "../lib/dom.js";
import { bytes, count, exact, hitRate, left, percent, plural, promptTokens, words } from "../lib/format.js";
import { actionButton, emptyBox, failureBox, fill, loadingTiles, meter, pageHead, panel, seriesColour, split, table, tile } from "../lib/parts.js";
import { treemap } from "../lib/picture.js";
import { rangePicker } from "../lib/range.js";
import { overTime, usage } from "../lib/usage.js";

const MISSES = {
  never_written: "Nobody has asked with this beginning before, or not within memory. The first question always pays.",
  expired: "It was kept, and its time was over before it was asked for again. A longer time to live (1 h) would have held it.",
  evicted: "Its pages were needed for something else. More pages, or fewer kept prefixes, would have held it.",
  diverged_at: "A kept prompt begins the same and then differs: other documents, another order, or an edited text.",
  below_minimum: "The beginning is shorter than what is worth keeping.",
  in_flight: "Another request was computing it at that moment; this one waited for it rather than computing it twice.",
  other_tenant: "Another tenant holds the same text. Pages are never shared between tenants.",
};
const EVICTIONS = {
  expired: "The time to live was over.",
  unretained: "Nobody had asked to keep it, and room was needed.",
  over_budget: "Its tenant kept more than its share.",
  within_budget: "Room was needed for a request, and nothing else was left.",
};
const SHARE_OF = { five_minutes: 300, one_hour: 3600 };

const byShare = (entries, explain, unit) => {
  const total = entries.reduce((sum, [, n]) => sum + n, 0);
  if (total === 0) return null;
  return table({
    label: "Reasons",
    columns: [
      {
        title: "Reason",
        head: true,
        className: "wide",
        cell: ([name]) => [words(name), el("p", { class: "note" }, explain[name] ?? "")],
      },
      { title: unit, n: true, cell: ([name, n]) => datum(n, count(n), `${unit.toLowerCase()}-${name}`) },
      { title: "Share", className: "bar-cell", cell: ([, n]) => meter(n / total) },
      { title: "", n: true, cell: ([, n]) => percent(n / total) },
    ],
    rows: entries.filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]),
  });
};

const nameOf = (prefix) => prefix.collection ?? prefix.title ?? `Prefix ${prefix.id}`;
const leftOf = (prefix, at) => Math.max(0, prefix.expires_in_s - (performance.now() - at) / 1000);
const labelOf = (prefix, at) =>
  `${nameOf(prefix)}, tenant ${prefix.tenant}: ${plural(prefix.tokens, "token")}, ${plural(prefix.hits, "hit")}, ${left(leftOf(prefix, at))} left`;
const linesOf = (prefix, at) => [plural(prefix.tokens, "token"), `${left(leftOf(prefix, at))} left`, plural(prefix.hits, "hit")];

export async function mount(view, context) {
  const range = rangePicker(context, "24h", () => history());
  const top = el("div", { class: "tiles", role: "group", "aria-label": "The cache now" }, loadingTiles(6));
  const overRange = panel({
    title: "Hit rate by token",
    className: "w6",
    render: ({ groups, total, range: r }) =>
      total.requests === 0
        ? emptyBox(el("p", {}, `No requests in ${r.words}.`))
        : timeChart({
            label: `Share of prompt tokens found in the cache, ${r.words}`,
            describe: "A line: of each time, the share of prompt tokens that were resident.",
            kind: "lines",
            times: buckets(r.from, r.to, r.interval),
            interval: r.interval,
            series: [{ name: "from cache", colour: "var(--t-read)", area: true, values: overTime(groups, r, (s) => hitRate(s.usage), null) }],
            format: percent,
            top: 1,
            tools: overRange.tools,
          }),
  });
  const classes = panel({
    title: "Prompt tokens",
    className: "w6",
    render: ({ total, range: r }) => {
      const u = total.usage;
      const prompt = promptTokens(u);
      if (prompt === 0) return emptyBox(el("p", {}, `No requests in ${r.words}.`));
      const parts = [
        ["Read from the cache", u.cache_read_tokens, "var(--t-read)", "hit-tokens"],
        ["Written, kept 5 min", u.cache_write_5m_tokens, "var(--t-write)", "write-5m"],
        ["Written, kept 1 h", u.cache_write_1h_tokens, "var(--r-stream)", "write-1h"],
        ["Computed only once", u.input_tokens, "var(--t-input)", "input"],
      ];
      const missed = Object.entries(total.miss ?? {}).map(([name, m]) => [name, m.requests]);
      return [
        split(parts.map(([name, value, colour]) => ({ name, value, colour })), parts.map(([n, v]) => `${n} ${percent(v / prompt)}`).join(", ")),
        table({
          label: "Prompt tokens by class",
          columns: [
            { title: r.words, head: true, cell: ([name, , colour]) => el("span", { class: "route", style: { "--colour": colour } }, name) },
            { title: "Tokens", n: true, cell: ([, n, , name]) => datum(n, exact(n), name) },
            { title: "Share", n: true, cell: ([, n]) => percent(n / prompt) },
          ],
          rows: parts,
        }),
        missed.length > 0 && el("p", { class: "note" }, `Requests that missed: ${missed.map(([n, k]) => `${words(n)} ${count(k)}`).join(", ")}.`),
      ];
    },
  });
  const misses = panel({
    title: "Missed tokens by reason",
    note: "since the server started",
    render: (cache) =>
      byShare(Object.entries(cache.miss_tokens), MISSES, "Tokens") ?? emptyBox(el("p", {}, "Nothing was missed yet.")),
  });
  const evictions = panel({
    title: "Evicted pages",
    note: "since the server started",
    className: "w7",
    render: (cache) =>
      byShare(Object.entries(cache.evicted_pages), EVICTIONS, "Pages") ?? emptyBox(el("p", {}, "No page was evicted yet.")),
  });
  const tiers = panel({
    title: "Tiers",
    className: "w5",
    render: (c) => {
      const size = (pages) => bytes(pages * c.page_bytes);
      const rows = [["Model's memory", c.pages_used + c.pages_cached, c.pages_total]];
      if (c.host_pages_total > 0) rows.push(["Host memory", c.host_pages_used, c.host_pages_total]);
      return [
        table({
          label: "Tiers",
          columns: [
            { title: "Tier", head: true, cell: ([name]) => name },
            { title: "Pages", n: true, cell: ([, used, total]) => `${count(used)} of ${count(total)}` },
            { title: "Size", n: true, cell: ([, used, total]) => `${size(used)} of ${size(total)}` },
            { title: "Filled", n: true, cell: ([, used, total]) => percent(used / total) },
          ],
          rows,
        }),
        el("p", { class: "note" }, `A page holds ${plural(c.page_tokens, "token")}. Kept prefixes are also written to files, and read back at the next start.`),
      ];
    },
  });

  // ------------------------------------------------------------ what is kept

  const detail = el("div", { class: "stack" });
  let map = null;
  let prefixes = [];
  let takenAt = performance.now();
  let chosen = null;
  const resident = panel({
    title: "Kept prefixes",
    render: ({ prefixes: list }) => {
      if (list.length === 0) {
        map = null;
        chosen = null;
        detail.replaceChildren();
        return emptyBox(
          el("p", {}, "Nothing is kept at the moment."),
          el("p", {}, "Long prompts are kept for five minutes after each use. Warm a collection to keep its beginning before anybody asks."),
        );
      }
      const tenants = [...new Set(list.map((p) => p.tenant))].sort();
      map = treemap({
        label: "Kept prefixes, each as large as it has tokens",
        groups: tenants.map((tenant, index) => ({
          name: `Tenant ${tenant}`,
          items: list
            .filter((p) => p.tenant === tenant)
            .map((p) => ({
              key: p.id,
              // A prefix that begins with another shares its pages.
              size: Math.max(1, p.tokens - (list.find((other) => other.id === p.parent)?.tokens ?? 0)),
              title: nameOf(p),
              lines: linesOf(p, takenAt),
              label: labelOf(p, takenAt),
              colour: seriesColour(index),
              share: leftOf(p, takenAt) / (SHARE_OF[p.retention] ?? 300),
              prefix: p,
            })),
        })),
        onChoose: (item) => {
          chosen = item.key;
          showChosen();
        },
      });
      return [map.node, el("p", { class: "note" }, "Colours are tenants; a prefix fades as its time runs out. Choose one to see or release it."), detail];
    },
  });

  function showChosen() {
    const prefix = prefixes.find((p) => p.id === chosen);
    if (!prefix) {
      detail.replaceChildren();
      return;
    }
    const place = el("div", {});
    const pair = (name, ...value) => [el("dt", {}, name), el("dd", {}, value)];
    detail.replaceChildren(
      el("h3", {}, nameOf(prefix)),
      el(
        "dl",
        { class: "pairs" },
        pair("Tenant", prefix.tenant),
        prefix.collection ? pair("Collection", el("a", { href: `/collections/${encodeURIComponent(prefix.collection)}` }, prefix.collection)) : [],
        pair("Tokens", exact(prefix.tokens)),
        pair("Pages", exact(prefix.pages)),
        pair("Hits", exact(prefix.hits)),
        pair("Kept for", words(prefix.retention), " after each use"),
        pair("Time left", el("span", { class: "countdown" }, left(leftOf(prefix, takenAt)))),
      ),
      el(
        "div",
        { class: "form-row" },
        actionButton(
          "Release",
          async () => {
            await send("DELETE", `/v1/cache/prefixes/${prefix.id}`);
            chosen = null;
            await now();
          },
          { className: "danger small", place, done: "Released." },
        ),
        el("span", { class: "note" }, "Its pages stay until they are needed for something else."),
      ),
      place,
    );
  }

  /** Time passes without asking the server again. */
  context.every(1000, () => {
    for (const p of prefixes) {
      const share = leftOf(p, takenAt) / (SHARE_OF[p.retention] ?? 300);
      map?.change(p.id, { share, lines: linesOf(p, takenAt), label: labelOf(p, takenAt) });
    }
    const prefix = prefixes.find((p) => p.id === chosen);
    const place = detail.querySelector(".countdown");
    if (prefix && place) place.textContent = left(leftOf(prefix, takenAt));
    if (prefixes.some((p) => leftOf(p, takenAt) === 0)) soon();
  });

  function tiles(c) {
    const missed = Object.values(c.miss_tokens).reduce((a, b) => a + b, 0);
    const looked = c.hit_tokens + missed;
    const evicted = Object.values(c.evicted_pages).reduce((a, b) => a + b, 0);
    top.replaceChildren(
      tile({ title: "Hit tokens since start", name: "cache-hit-tokens", value: c.hit_tokens, text: count(c.hit_tokens), note: looked > 0 ? `${percent(c.hit_tokens / looked)} of ${count(looked)} looked up` : "nothing looked up yet" }),
      tile({ title: "Pages free", name: "pages-free", value: c.pages_free, text: count(c.pages_free), note: `of ${count(c.pages_total)}` }),
      tile({ title: "Pages in use", name: "pages-used", value: c.pages_used, text: count(c.pages_used), note: "by running requests" }),
      tile({ title: "Pages cached", name: "pages-cached", value: c.pages_cached, text: count(c.pages_cached), note: bytes(c.pages_cached * c.page_bytes) }),
      tile({ title: "Pages kept on purpose", name: "pages-retained", value: c.pages_retained, text: count(c.pages_retained), note: plural(prefixes.length, "prefix", "prefixes") }),
      tile({ title: "Pages evicted", name: "pages-evicted", value: evicted, text: count(evicted), note: "since start" }),
    );
  }

  // ------------------------------------------------------------ warming

  const warmPlace = el("div", {});
  const select = el("select", { name: "collection", required: true });
  const warm = el(
    "form",
    { class: "form-row" },
    el("label", { class: "field" }, el("span", {}, "Collection"), select),
    el(
      "label",
      { class: "field" },
      el("span", {}, "What to read"),
      el("select", { name: "route" }, el("option", { value: "full" }, "all documents"), el("option", { value: "passages" }, "the instructions alone")),
    ),
    el(
      "label",
      { class: "field" },
      el("span", {}, "Keep for"),
      el("select", { name: "ttl" }, el("option", { value: "5m" }, "5 minutes after each use"), el("option", { value: "1h" }, "1 hour after each use")),
    ),
    el("button", { type: "submit" }, "Warm"),
  );
  const warming = panel({ title: "Warm a collection", note: "reads it now, so that the first question finds it" });
  warming.body.replaceChildren(warm, warmPlace);
  warm.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = warm.querySelector("button");
    button.disabled = true;
    warmPlace.replaceChildren(el("p", { class: "note", role: "status" }, "Reading. This takes as long as a first question would."));
    try {
      const data = Object.fromEntries(new FormData(warm));
      await send("POST", "/v1/cache/prefixes", data);
      warmPlace.replaceChildren();
      say("The collection is warm.");
      await now();
    } catch (error) {
      warmPlace.replaceChildren(failureBox(error));
    } finally {
      button.disabled = false;
    }
  });

  async function now() {
    const data = await fill([misses, evictions, tiers], () => getJson("/v1/cache"));
    try {
      const list = await getJson("/v1/cache/prefixes");
      takenAt = performance.now();
      prefixes = list.prefixes;
      resident.show({ prefixes });
      showChosen();
    } catch (error) {
      resident.fail(error, now);
    }
    if (data) tiles(data);
  }
  const history = () =>
    fill([overRange, classes], async () => {
      const r = range.now();
      return { ...(await usage(r, { interval: r.interval, work: "answer" })), range: r };
    });

  // Figures of the whole cache move with what others ask: they are the operator's.
  const whole = context.may.operator;
  view.append(
    pageHead("Cache", { tools: [range.node] }),
    whole ? top : "",
    resident.node,
    el("div", { class: "cols" }, overRange.node, classes.node),
    ...(whole ? [misses.node, el("div", { class: "cols" }, evictions.node, tiers.node)] : []),
    warming.node,
  );
  const soon = throttled(now, 2000);
  const later = throttled(history, 5000);
  context.live("cache", soon);
  context.live("request", () => {
    soon();
    later();
  });
  context.signal.addEventListener("abort", () => {
    soon.stop();
    later.stop();
  });
  const names = getJson("/v1/collections").then(({ collections }) => {
    select.replaceChildren(...collections.map((c) => el("option", { value: c.name }, c.name)));
    warming.node.hidden = collections.length === 0;
  });
  await Promise.all([now(), history(), names]);
}
