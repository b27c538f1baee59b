// Overview: what was asked, what it cost, what that saved, and how fast it was.

import { getJson } from "../lib/api.js";
import { buckets, spark, timeChart } from "../lib/chart.js";
import { datum, el, throttled } from "../lib/dom.js";
import { count, duration, hitRate, money, percent, plural, promptTokens, when } from "../lib/format.js";
import {
  TOKEN_CLASSES,
  emptyBox,
  fill,
  loadingTiles,
  pageHead,
  panel,
  routeColour,
  routeName,
  routeOrder,
  split,
  statusBadge,
  table,
  tile,
} from "../lib/parts.js";
import { rangePicker } from "../lib/range.js";
import { change, overTime, seriesOver, usage } from "../lib/usage.js";

const RECENT = 12;

const against = (now, before, words) => {
  const by = change(now, before);
  if (by === null || !Number.isFinite(by)) return null;
  return `${by >= 0 ? "+" : ""}${percent(by)} on ${words}`;
};

function tiles({ total, failed, whole, spent, previous, range }) {
  const timed = whole.groups;
  const line = (value) => spark(overTime(timed, range, value));
  const prompt = promptTokens(total.usage);
  const rate = hitRate(total.usage);
  const before = `the ${range.name} before`;
  const saved = Number(total.saved_against_full);
  const full = Number(total.full_cost);
  return [
    tile({
      title: "Requests",
      name: "requests",
      value: total.requests,
      text: count(total.requests),
      note: failed > 0 ? `${count(failed)} failed` : (against(total.requests, previous.requests, before) ?? ""),
      spark: line((s) => s.requests),
    }),
    tile({
      title: "Cost",
      name: "cost",
      value: spent.total.cost,
      text: money(spent.total.cost),
      note: against(Number(spent.total.cost), Number(previous.cost), before) ?? "at the configured prices",
      spark: spark(overTime(spent.groups, range, (s) => Number(s.cost))),
    }),
    tile({
      title: "Saved by routing",
      name: "saved",
      value: total.saved_against_full,
      text: money(total.saved_against_full),
      note: full > 0 ? `${percent(saved / full)} of always reading all` : "",
      spark: line((s) => Math.max(0, Number(s.saved_against_full))),
    }),
    tile({
      title: "Cache hit rate",
      name: "hit-rate",
      value: rate,
      text: percent(rate),
      note: prompt > 0 ? `${count(total.usage.cache_read_tokens)} of ${count(prompt)} tokens` : "",
      spark: line((s) => hitRate(s.usage) ?? 0),
    }),
    tile({
      title: "First token, median",
      name: "ttft-p50",
      value: total.ttft_ms?.p50,
      text: duration(total.ttft_ms?.p50),
      note: total.ttft_ms?.p95 ? `95 % within ${duration(total.ttft_ms.p95)}` : "",
      spark: line((s) => s.ttft_ms?.p50 ?? 0),
    }),
    tile({
      title: "Whole answer, median",
      name: "latency-p50",
      value: total.latency_ms?.p50,
      text: duration(total.latency_ms?.p50),
      note: total.latency_ms?.p95 ? `95 % within ${duration(total.latency_ms.p95)}` : "",
      spark: line((s) => s.latency_ms?.p50 ?? 0),
    }),
  ];
}

const nothing = (range) =>
  emptyBox(
    el("p", {}, `No requests in ${range.words}.`),
    el("p", {}, el("a", { href: "/ask" }, "Ask a question"), ", or choose a longer time."),
  );

export async function mount(view, context) {
  const range = rangePicker(context, "24h", () => refresh());
  const top = el("div", { class: "tiles", "aria-label": "Sums", role: "group" }, loadingTiles(6));
  const chart = (title, className, render) => {
    return panel({ title, className, render: (data) => (data.total.requests === 0 ? nothing(data.range) : render(data)) });
  };
  const times = (r) => buckets(r.from, r.to, r.interval);

  const routes = chart("Requests by route", "w7", ({ byRoute, range: r }) =>
    timeChart({
      label: `Requests by route, ${r.words}`,
      describe: "Stacked bars, one for each time, a colour for each route.",
      kind: "bars",
      times: times(r),
      interval: r.interval,
      series: seriesOver(byRoute, r, "route", (s) => s.requests, { compare: routeOrder, colour: routeColour }),
      format: count,
      tools: routes.tools,
    }),
  );
  const shares = panel({
    title: "Routes",
    className: "w5",
    render: ({ routes: list, total, range: r }) =>
      total.requests === 0
        ? nothing(r)
        : [
            split(
              list.map((one) => ({ name: one.route, value: one.sums.requests, colour: routeColour(one.route) })),
              list.map((one) => `${one.route} ${percent(one.sums.requests / total.requests)}`).join(", "),
            ),
            table({
              label: "Routes",
              columns: [
                { title: "Route", head: true, cell: (one) => routeName(one.route) },
                { title: "Requests", n: true, cell: (one) => datum(one.sums.requests, count(one.sums.requests), `route-${one.route}-requests`) },
                { title: "Cost", n: true, cell: (one) => datum(one.sums.cost, money(one.sums.cost), `route-${one.route}-cost`) },
                { title: "From cache", n: true, cell: (one) => percent(hitRate(one.sums.usage)) },
                { title: "First token", n: true, cell: (one) => duration(one.sums.ttft_ms?.p50) },
              ],
              rows: list,
            }),
          ],
  });
  const cost = chart("Cost against always reading all", "w6 quarter", ({ spent, range: r }) =>
    timeChart({
      label: `Cost, ${r.words}`,
      describe: "Two lines: what was paid, and what reading the whole scope for each request would have cost.",
      kind: "lines",
      times: times(r),
      interval: r.interval,
      series: [
        { name: "paid", colour: "var(--r-passages)", area: true, values: overTime(spent.groups, r, (s) => Number(s.cost)) },
        {
          name: "always reading all",
          colour: "var(--r-full)",
          dashed: true,
          values: overTime(spent.groups, r, (s) => Number(s.cost) + Number(s.saved_against_full)),
        },
      ],
      format: money,
      tools: cost.tools,
    }),
  );
  const tokens = chart("Prompt tokens", "w6 quarter", ({ whole, range: r }) =>
    timeChart({
      label: `Prompt tokens, ${r.words}`,
      describe: "Stacked bars: tokens from the cache, tokens written to it, and tokens computed only once.",
      kind: "bars",
      times: times(r),
      interval: r.interval,
      series: TOKEN_CLASSES.map(({ key, name, colour }) => ({
        name,
        colour,
        values: overTime(whole.groups, r, (s) => s.usage[key]),
      })),
      format: count,
      tools: tokens.tools,
    }),
  );
  const speed = chart("Time to the first token", "w6 quarter", ({ whole, range: r }) =>
    timeChart({
      label: `Time to the first token, ${r.words}`,
      describe: "Three lines: half of the requests, 95 % and 99 % of them were at least this fast.",
      kind: "lines",
      times: times(r),
      interval: r.interval,
      series: [
        { name: "half", colour: "var(--r-passages)", values: overTime(whole.groups, r, (s) => s.ttft_ms?.p50 ?? null, null) },
        { name: "95 %", colour: "var(--r-tree)", values: overTime(whole.groups, r, (s) => s.ttft_ms?.p95 ?? null, null) },
        { name: "99 %", colour: "var(--r-stream)", values: overTime(whole.groups, r, (s) => s.ttft_ms?.p99 ?? null, null) },
      ],
      format: (v) => (v === 0 ? "0" : duration(v)),
      tools: speed.tools,
    }),
  );
  const pages = panel({
    title: "Cache now",
    className: "w6 quarter",
    tools: el("a", { class: "button secondary small", href: "/cache" }, "Cache"),
    load: () => getJson("/v1/cache"),
    render: (c) => {
      const parts = [
        { name: "in use", value: c.pages_used, colour: "var(--r-documents)" },
        { name: "cached", value: c.pages_cached, colour: "var(--t-read)" },
        { name: "free", value: c.pages_free, colour: "var(--sunken)" },
      ];
      return [
        split(parts, parts.map((p) => `${count(p.value)} pages ${p.name}`).join(", ")),
        el(
          "dl",
          { class: "pairs", style: { "margin-top": "0.75rem" } },
          parts.flatMap((p) => [
            el("dt", {}, el("span", { class: "route", style: { "--colour": p.colour } }, p.name)),
            el("dd", {}, datum(p.value, `${plural(p.value, "page")}`, `pages-${p.name.replace(" ", "-")}`)),
          ]),
          el("dt", {}, "kept on purpose"),
          el("dd", {}, `${plural(c.pages_retained, "page")} in ${plural(c.prefixes.length, "prefix", "prefixes")}`),
        ),
      ];
    },
  });
  let newest = null;
  const recent = panel({
    title: "Latest requests",
    tools: el("a", { class: "button secondary small", href: "/requests" }, "All requests"),
    load: () => getJson(`/v1/requests?limit=${RECENT}&work=answer`),
    render: ({ requests }) => {
      const before = newest;
      newest = requests[0]?.at ?? null;
      return table({
        label: "Latest requests",
        href: (r) => `/requests/${encodeURIComponent(r.id)}`,
        fresh: (r) => before !== null && r.at > before,
        columns: [
          { title: "Time", head: true, cell: (r) => el("a", { href: `/requests/${encodeURIComponent(r.id)}` }, when(r.at)) },
          { title: "Collection", cell: (r) => r.collection ?? "–" },
          { title: "Route", cell: (r) => routeName(r.route) },
          { title: "Outcome", cell: (r) => statusBadge(r.status) },
          { title: "Prompt", n: true, cell: (r) => count(promptTokens(r.usage)) },
          { title: "From cache", n: true, cell: (r) => percent(hitRate(r.usage)) },
          { title: "Output", n: true, cell: (r) => count(r.usage.output_tokens) },
          { title: "Cost", n: true, cell: (r) => money(r.cost) },
          { title: "First token", n: true, cell: (r) => duration(r.timings.ttft_ms) },
          { title: "Total", n: true, cell: (r) => duration(r.timings.total_ms) },
        ],
        rows: requests,
        empty: ["No requests yet. ", el("a", { href: "/ask" }, "Ask a question"), "."],
      });
    },
  });

  const head = {
    show: (data) => top.replaceChildren(...tiles(data)),
    fail: (error) => top.replaceChildren(el("div", { class: "tile" }, el("p", { class: "note" }, error.message))),
  };

  async function load() {
    const r = range.now();
    const earlier = { from: r.from - r.ms, to: r.from };
    // Summaries and vectors cost, too, but are no requests.
    const work = "answer";
    const [whole, spent, timedRoutes, byStatus, before, spentBefore] = await Promise.all([
      usage(r, { interval: r.interval, work }),
      usage(r, { interval: r.interval }),
      usage(r, { by: ["route"], interval: r.interval, work }),
      usage(r, { by: ["status"], work }),
      usage(earlier, { work }),
      usage(earlier),
    ]);
    return {
      range: r,
      whole,
      spent,
      previous: { requests: before.total.requests, cost: spentBefore.total.cost },
      total: whole.total,
      byRoute: timedRoutes.groups,
      routes: Object.entries(whole.totals.by_route)
        .map(([route, sums]) => ({ route, sums }))
        .sort((a, b) => routeOrder(a.route, b.route)),
      failed: byStatus.groups.find((g) => g.keys.status === "failed")?.sums.requests ?? 0,
    };
  }
  const refresh = () => fill([head, routes, shares, cost, tokens, speed], load);

  view.append(
    pageHead("Overview", { tools: [range.node] }),
    top,
    el("div", { class: "cols" }, routes.node, shares.node, cost.node, tokens.node, speed.node, context.may.operator ? pages.node : ""),
    context.may.watch ? recent.node : "",
  );
  const soon = throttled(() => {
    refresh();
    if (context.may.watch) recent.refresh();
  }, 2000);
  const soonPages = throttled(() => context.may.operator && pages.refresh(), 2000);
  context.live("request", soon);
  context.live("cache", soonPages);
  context.signal.addEventListener("abort", () => {
    soon.stop();
    soonPages.stop();
  });
  // Time goes on without requests, too.
  context.every(60_000, refresh);
  await Promise.all([refresh(), context.may.watch && recent.refresh(), context.may.operator && pages.refresh()]);
}
