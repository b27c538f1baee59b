// Cost: who spent what on what, what it would have cost otherwise, where it is heading, and what it may cost at most.

import { ApiFailure, getJson, send, withQuery } from "../lib/api.js";
import { buckets, timeChart } from "../lib/chart.js";
import { datum, el, say, throttled } from "../lib/dom.js";
import { count, exact, hitRate, money, percent, promptTokens, words } from "../lib/format.js";
import {
  TOKEN_CLASSES,
  actionButton,
  confirmed,
  emptyBox,
  failureBox,
  fill,
  meter,
  pageHead,
  panel,
  routeColour,
  routeName,
  routeOrder,
  seriesColour,
  split,
  loadingTiles,
  table,
  tile,
} from "../lib/parts.js";
import { rangePicker } from "../lib/range.js";
import { overTime, seriesOver, usage } from "../lib/usage.js";

const DIMENSIONS = [
  ["route", "Route"],
  ["collection", "Collection"],
  ["tenant", "Tenant"],
  ["key", "Key"],
  ["model", "Model"],
  ["work", "Work"],
];
const DAY = 86_400_000;
const none = { route: "no route", collection: "no collection", tenant: "no tenant", key: "no key", model: "no model", work: "no work" };
const MOST_SERIES = 6;

const monthOf = (now) => {
  const date = new Date(now);
  return {
    from: Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1),
    to: Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1),
  };
};

/** The month to its end, if the days left are like the last seven whole ones (or those there were). */
export function forecast(days, month, now) {
  const today = Math.floor(now / DAY) * DAY;
  const spent = days.filter((d) => d.at >= month.from).reduce((sum, d) => sum + d.cost, 0);
  const before = days.filter((d) => d.at < today && d.at >= today - 7 * DAY);
  const first = Math.min(...days.filter((d) => d.cost > 0).map((d) => d.at), today);
  const whole = Math.min(7, Math.round((today - Math.max(first, today - 7 * DAY)) / DAY));
  if (whole === 0) return { spent, end: null, daily: null };
  const daily = before.reduce((sum, d) => sum + d.cost, 0) / whole;
  const rest = (month.to - now) / DAY;
  return { spent, daily, end: spent + daily * rest };
}

export async function mount(view, context) {
  const range = rangePicker(context, "30d", () => refresh());
  const asked = context.query.get("by");
  let dimension = DIMENSIONS.some(([key]) => key === asked) ? asked : "route";
  const by = el(
    "select",
    { "aria-label": "By", class: "by" },
    DIMENSIONS.filter(([key]) => key !== "tenant" || context.may.operator).map(([key, name]) => el("option", { value: key, selected: key === dimension }, `by ${name.toLowerCase()}`)),
  );
  by.addEventListener("change", () => {
    dimension = by.value;
    context.remember({ by: dimension === "route" ? null : dimension });
    refresh();
  });
  const csv = el("a", { class: "button secondary small", download: "" }, "CSV");
  const top = el("div", { class: "tiles", role: "group", "aria-label": "Sums" }, loadingTiles(5));
  const nothing = (r) => emptyBox(el("p", {}, `Nothing was spent in ${r.words}.`), el("p", {}, "Choose a longer time, or ", el("a", { href: "/ask" }, "ask a question"), "."));

  const nameOf = (key) => (key === "" ? none[dimension] : dimension === "route" ? words(key) : key);
  const colour = (key, index) => (dimension === "route" ? routeColour(key) : seriesColour(index));
  const compare = (a, b) => (dimension === "route" ? routeOrder(a, b) : a.localeCompare(b));

  const overDays = panel({
    title: "Cost over time",
    render: ({ timed, total, range: r }) => {
      if (total.requests === 0) return nothing(r);
      let series = seriesOver(timed, r, dimension, (s) => Number(s.cost), { compare, colour, name: nameOf });
      if (series.length > MOST_SERIES) {
        const sum = (s) => s.values.reduce((a, b) => a + b, 0);
        const sorted = [...series].sort((a, b) => sum(b) - sum(a));
        const rest = sorted.slice(MOST_SERIES - 1);
        const others = rest[0].values.map((_, i) => rest.reduce((a, s) => a + s.values[i], 0));
        series = [...sorted.slice(0, MOST_SERIES - 1), { name: `${rest.length} others`, colour: "var(--t-input)", values: others }];
      }
      return timeChart({
        label: `Cost by ${dimension}, ${r.words}`,
        describe: `Stacked bars, one for each ${r.interval}, a colour for each ${dimension}.`,
        kind: "bars",
        times: buckets(r.from, r.to, r.interval),
        interval: r.interval,
        series,
        format: money,
        height: 240,
        tools: overDays.tools,
      });
    },
  });
  const sums = panel({
    title: "Sums",
    render: ({ groups, total, range: r }) => {
      if (total.requests === 0) return nothing(r);
      const [, title] = DIMENSIONS.find(([key]) => key === dimension);
      const named = (g) => {
        const key = g.keys[dimension] ?? "";
        if (dimension === "route") return routeName(key);
        if (dimension === "collection" && key) return el("a", { href: `/collections/${encodeURIComponent(key)}` }, key);
        return nameOf(key);
      };
      const figures = [
        ["Requests", (s) => datum(s.requests, exact(s.requests), "requests")],
        ["Prompt tokens", (s) => datum(promptTokens(s.usage), exact(promptTokens(s.usage)), "prompt-tokens")],
        ["From cache", (s) => percent(hitRate(s.usage))],
        ["Output tokens", (s) => datum(s.usage.output_tokens, exact(s.usage.output_tokens), "output-tokens")],
        ["Saved", (s) => datum(s.saved_against_full, money(s.saved_against_full), "saved")],
        ["Cost", (s) => datum(s.cost, money(s.cost), "cost")],
      ];
      const rows = [...groups].sort((a, b) => Number(b.sums.cost) - Number(a.sums.cost));
      return table({
        label: `Sums by ${dimension}`,
        columns: [
          { title, head: true, cell: named },
          ...figures.map(([name, cell]) => ({ title: name, n: true, cell: (g) => cell(g.sums) })),
          { title: "Share", className: "bar-cell", cell: (g) => meter(Number(total.cost) > 0 ? Number(g.sums.cost) / Number(total.cost) : 0) },
        ],
        rows,
        foot: [el("th", { scope: "row" }, "Together"), ...figures.map(([, cell]) => el("td", { class: "n" }, cell(total))), el("td", {})],
      });
    },
  });
  const otherwise = panel({
    title: "What it would have cost",
    className: "w6",
    render: ({ whole, total, range: r }) => {
      if (total.requests === 0) return nothing(r);
      const rows = Object.entries(total.alternatives ?? {}).sort(([a], [b]) => routeOrder(a, b));
      return [
        table({
          label: "What each route would have cost",
          columns: [
            { title: "Always", head: true, cell: ([route]) => routeName(route) },
            { title: "Requests it fits", n: true, cell: ([, a]) => exact(a.requests) },
            { title: "Would have cost", n: true, cell: ([route, a]) => datum(a.cost, money(a.cost), `always-${route}`) },
            { title: "Was paid", n: true, cell: ([, a]) => money(a.paid) },
            {
              title: "Saved",
              n: true,
              cell: ([, a]) => (Number(a.cost) > 0 ? percent(1 - Number(a.paid) / Number(a.cost)) : "–"),
            },
          ],
          rows,
          empty: "No request had routes to choose from.",
        }),
        timeChart({
          label: `Paid against always reading all, ${r.words}`,
          describe: "Two lines: what was paid, and what reading the whole scope for each request would have cost.",
          kind: "lines",
          times: buckets(r.from, r.to, r.interval),
          interval: r.interval,
          series: [
            { name: "paid", colour: "var(--r-passages)", area: true, values: overTime(whole.groups, r, (s) => Number(s.cost)) },
            { name: "always reading all", colour: "var(--r-full)", dashed: true, values: overTime(whole.groups, r, (s) => Number(s.cost) + Number(s.saved_against_full)) },
          ],
          format: money,
          tools: otherwise.tools,
        }),
      ].flat();
    },
  });
  const cached = panel({
    title: "Cached against uncached",
    className: "w6",
    render: ({ whole, total, range: r }) => {
      if (total.requests === 0) return nothing(r);
      const parts = TOKEN_CLASSES.map(({ key, name, colour: c }) => ({ name, value: total.usage[key], colour: c }));
      const prompt = promptTokens(total.usage);
      return [
        split(parts, parts.map((p) => `${p.name} ${percent(p.value / prompt)}`).join(", ")),
        timeChart({
          label: `Prompt tokens by class, ${r.words}`,
          describe: "Stacked bars: tokens from the cache, tokens written to it, and tokens computed only once.",
          kind: "bars",
          times: buckets(r.from, r.to, r.interval),
          interval: r.interval,
          series: TOKEN_CLASSES.map(({ key, name, colour: c }) => ({ name, colour: c, values: overTime(whole.groups, r, (s) => s.usage[key]) })),
          format: count,
          tools: cached.tools,
        }),
      ].flat();
    },
  });

  const head = {
    show({ total, month, range: r }) {
      const each = total.requests > 0 ? Number(total.cost) / total.requests : null;
      const saved = Number(total.saved_against_full);
      const full = Number(total.full_cost);
      top.replaceChildren(
        tile({ title: "Cost", name: "cost", value: total.cost, text: money(total.cost), note: r.words }),
        tile({ title: "On average", name: "cost-each", value: each, text: money(each), note: `of ${count(total.requests)} records` }),
        tile({ title: "Saved by routing", name: "saved", value: total.saved_against_full, text: money(total.saved_against_full), note: full > 0 ? `${percent(saved / full)} of always reading all` : "" }),
        tile({ title: "This month so far", name: "month", value: month.spent, text: money(month.spent), note: "days of UTC" }),
        tile({
          title: "Month's end, forecast",
          name: "forecast",
          value: month.end,
          text: money(month.end),
          note: month.daily === null ? "needs one whole day" : `at ${money(month.daily)} a day, the last 7 days' mean`,
        }),
      );
    },
    fail: (error) => top.replaceChildren(el("div", { class: "tile" }, el("p", { class: "note" }, error.message))),
  };

  async function load() {
    const r = range.now();
    const now = Date.now();
    const month = monthOf(now);
    const days = { from: Math.min(month.from, now - 8 * DAY), to: now + 1000 };
    const [whole, timed, groups, daily] = await Promise.all([
      usage(r, { interval: r.interval }),
      usage(r, { by: [dimension], interval: r.interval }),
      usage(r, { by: [dimension] }),
      usage(days, { interval: "day" }),
    ]);
    const rfc = (ms) => new Date(ms).toISOString();
    csv.href = withQuery("/v1/usage", { from: rfc(r.from), to: rfc(r.to), by: dimension, interval: r.interval, format: "csv" });
    csv.download = `edgewise-cost-by-${dimension}.csv`;
    return {
      range: r,
      total: whole.total,
      whole,
      timed: timed.groups,
      groups: groups.groups,
      month: forecast(daily.groups.map((g) => ({ at: Date.parse(g.at), cost: Number(g.sums.cost) })), month, now),
    };
  }
  const refresh = () => fill([head, overDays, sums, otherwise, cached], load);

  const budgets = budgetPanel();
  view.append(
    pageHead("Cost", { tools: [by, range.node, csv] }),
    top,
    overDays.node,
    sums.node,
    el("div", { class: "cols" }, otherwise.node, cached.node),
    context.may.watch ? budgets.node : "",
  );
  const soon = throttled(refresh, 5000);
  const soonBudgets = throttled(() => context.may.watch && budgets.refresh(), 5000);
  context.live("request", () => {
    soon();
    soonBudgets();
  });
  context.live("alert", soonBudgets);
  context.signal.addEventListener("abort", () => {
    soon.stop();
    soonBudgets.stop();
  });
  await Promise.all([refresh(), context.may.watch && budgets.refresh()]);
}

// ---------------------------------------------------------------- budgets

const scopeOf = (scope) =>
  Object.entries(scope ?? {})
    .filter(([, value]) => value)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ") || "everything";

function budgetForm(changed) {
  const place = el("div", {});
  const field = (label, properties, className = "") => el("label", { class: `field ${className}` }, el("span", {}, label), el("input", properties));
  const dialog = el(
    "dialog",
    { class: "narrow", "aria-labelledby": "budget-title" },
    el("header", {}, el("h2", { id: "budget-title" }, "New budget"), el("button", { type: "button", class: "secondary small", onclick: () => dialog.close() }, "Close")),
    el(
      "form",
      { class: "body" },
      field("Name", { name: "name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "letters, digits, dots, underscores and hyphens", autocomplete: "off" }),
      el(
        "div",
        { class: "form-row" },
        field("At most, in $", { name: "limit", required: true, inputMode: "decimal", pattern: "[0-9]*\\.?[0-9]+", title: "an amount such as 25 or 0.50" }),
        el("label", { class: "field" }, el("span", {}, "In each"), el("select", { name: "period" }, el("option", { value: "month" }, "month"), el("option", { value: "day" }, "day"))),
      ),
      el(
        "div",
        { class: "form-row" },
        field("Only tenant", { name: "tenant", placeholder: "all" }),
        field("Only collection", { name: "collection", placeholder: "all" }),
        field("Only key", { name: "key", placeholder: "all" }),
      ),
      field("Alert at, in %", { name: "alert_at", value: "50, 90, 100", pattern: "[0-9., ]*", title: "percentages with commas between them" }),
      field("Tell this address (webhook)", { name: "webhook", type: "url", placeholder: "https://…" }),
      el("label", { class: "check" }, el("input", { type: "checkbox", name: "hard" }), el("span", {}, "Refuse requests once it is spent")),
      place,
      el("button", { type: "submit" }, "Save"),
    ),
  );
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const data = new FormData(event.target);
    const text = (name) => String(data.get(name) ?? "").trim();
    const scope = {};
    for (const name of ["tenant", "collection", "key"]) if (text(name)) scope[name] = text(name);
    const body = {
      scope,
      period: text("period"),
      limit: text("limit"),
      alert_at: text("alert_at").split(",").map((part) => Number(part) / 100).filter((share) => share > 0),
      hard: data.get("hard") === "on",
    };
    if (text("webhook")) body.webhook = text("webhook");
    try {
      await send("PUT", `/v1/budgets/${encodeURIComponent(text("name"))}`, body);
      dialog.close();
      say("Budget saved.");
      changed();
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      place.replaceChildren(failureBox(error));
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function budgetPanel() {
  const place = el("div", {});
  const one = panel({
    title: "Budgets",
    tools: el("button", { type: "button", class: "secondary small", onclick: () => budgetForm(() => one.refresh()) }, "New budget"),
    load: () => getJson("/v1/budgets"),
    render: ({ budgets }) =>
      budgets.length === 0
        ? emptyBox(el("p", {}, "No budgets."), el("p", {}, "A budget limits what a tenant, a key or a collection may cost in a day or a month, and says so before it is spent."))
        : [
            table({
              label: "Budgets",
              columns: [
                { title: "Name", head: true, cell: (b) => b.name },
                { title: "For", cell: (b) => scopeOf(b.scope) },
                { title: "Spent", n: true, cell: (b) => datum(b.spent, money(b.spent), `budget-${b.name}-spent`) },
                { title: "Limit", n: true, cell: (b) => `${money(b.limit)} a ${b.period}` },
                {
                  title: "",
                  className: "bar-cell",
                  cell: (b) => {
                    const share = Number(b.limit) > 0 ? Number(b.spent) / Number(b.limit) : 1;
                    return meter(share, share >= 1 ? "bad" : b.alert_at.some((at) => share >= at) ? "warn" : "");
                  },
                },
                { title: "Forecast", n: true, cell: (b) => [money(b.forecast), " ", Number(b.forecast) > Number(b.limit) && el("span", { class: "badge warn" }, "over")].filter(Boolean) },
                { title: "When spent", cell: (b) => (b.hard ? el("span", { class: "badge bad" }, "refuses") : el("span", { class: "badge" }, "alerts")) },
                {
                  title: "",
                  n: true,
                  cell: (b) =>
                    actionButton(
                      "Delete",
                      async () => {
                        if (!(await confirmed(`Delete the budget ${b.name}?`, "What was spent stays recorded; nothing limits it any more.", "Delete"))) return;
                        await send("DELETE", `/v1/budgets/${encodeURIComponent(b.name)}`);
                        await one.refresh();
                      },
                      { className: "danger small", place, label: `Delete the budget ${b.name}`, done: "Deleted." },
                    ),
                },
              ],
              rows: budgets,
            }),
            place,
          ],
  });
  return one;
}
