// Requests: every one of them, searchable, newest first; new ones come in at the top.

import { getJson, withQuery } from "../lib/api.js";
import { el, throttled } from "../lib/dom.js";
import { count, duration, hitRate, money, percent, plural, promptTokens, when, words } from "../lib/format.js";
import { actionButton, emptyBox, failureBox, loadingBox, pageHead, routeName, statusBadge, table } from "../lib/parts.js";

const PAGE = 50;
const FILTERS = ["q", "work", "route", "status", "collection", "tenant", "key", "from", "to"];
const ROUTES = ["passages", "tree", "documents", "full", "stream", "chat", "warm"];
const WORK = ["answer", "summary", "embedding", "warming"];
const STATES = ["answered", "unanswerable", "cancelled", "failed"];

const columns = [
  { title: "Time", head: true, cell: (r) => el("a", { href: `/requests/${encodeURIComponent(r.id)}` }, when(r.at)) },
  { title: "Collection", className: "text", cell: (r) => r.collection ?? "–" },
  {
    title: "Route",
    cell: (r) => [
      routeName(r.route),
      r.forced && el("span", { class: "badge", title: "The request asked for this route" }, "asked"),
      r.escalated_from && el("span", { class: "badge warn", title: "The first answer was not in the sources" }, `after ${r.escalated_from}`),
    ].filter(Boolean),
  },
  { title: "Outcome", cell: (r) => statusBadge(r.status) },
  { title: "Prompt", n: true, cell: (r) => count(promptTokens(r.usage)) },
  { title: "From cache", n: true, cell: (r) => percent(hitRate(r.usage)) },
  { title: "Miss", cell: (r) => (r.miss ? words(r.miss) : "–") },
  { title: "Output", n: true, cell: (r) => count(r.usage.output_tokens) },
  { title: "Cost", n: true, cell: (r) => money(r.cost) },
  { title: "All read", n: true, cell: (r) => money(r.full_cost) },
  { title: "First token", n: true, cell: (r) => duration(r.timings.ttft_ms) },
  { title: "Total", n: true, cell: (r) => duration(r.timings.total_ms) },
];
/** Shown only where they tell requests apart. */
const telling = [
  { title: "Work", cell: (r) => r.work ?? "answer", of: (r) => r.work ?? "answer" },
  { title: "Key", className: "text mono", cell: (r) => r.key ?? "–", of: (r) => r.key ?? "" },
  { title: "Tenant", className: "text", cell: (r) => r.tenant, of: (r) => r.tenant },
];
const differ = (column, rows) => new Set(rows.map(column.of)).size > 1;

export async function mount(view, context) {
  const asked = Object.fromEntries(FILTERS.map((name) => [name, context.query.get(name) ?? ""]));
  const select = (name, label, values) =>
    el(
      "label",
      { class: "field" },
      el("span", {}, label),
      el(
        "select",
        { name },
        el("option", { value: "" }, "any"),
        values.map((value) => el("option", { value, selected: value === asked[name] }, words(value))),
      ),
    );
  const input = (name, label, properties) =>
    el("label", { class: `field ${properties.className ?? ""}` }, el("span", {}, label), el("input", { name, value: asked[name], ...properties }));
  const form = el(
    "form",
    { class: "panel form-row", role: "search", "aria-label": "Which requests" },
    input("q", "Search", { type: "search", className: "grow", placeholder: "Text of a question, or an id …" }),
    select("work", "Work", WORK),
    select("route", "Route", ROUTES),
    select("status", "Outcome", STATES),
    input("collection", "Collection", { type: "text", autocomplete: "off" }),
    input("tenant", "Tenant", { type: "text", autocomplete: "off" }),
    input("key", "Key", { type: "text", autocomplete: "off", placeholder: "ewk_…" }),
    input("from", "From", { type: "datetime-local" }),
    input("to", "To", { type: "datetime-local" }),
    el("button", { type: "submit" }, "Search"),
    el("button", { type: "button", class: "secondary", onclick: () => clear() }, "Clear"),
  );
  const list = el("div", { class: "panel" }, loadingBox());
  const said = el("p", { class: "note", role: "status" });
  view.append(pageHead("Requests", { tools: [said] }), form, list);

  let requests = [];
  let next = null;
  let deep = false;
  let turn = 0;

  function filters() {
    const data = Object.fromEntries(FILTERS.map((name) => [name, String(new FormData(form).get(name) ?? "").trim()]));
    context.remember(data);
    for (const name of ["from", "to"]) if (data[name]) data[name] = new Date(data[name]).toISOString();
    return data;
  }

  function draw(fresh = () => false) {
    const more =
      next !== null && actionButton("Older ones", older, { className: "secondary", done: "Older requests are below." });
    const any = Object.values(filters()).some(Boolean);
    said.textContent = requests.length > 0 ? `${plural(requests.length, "request")}${next === null ? "" : " shown"}` : "";
    if (requests.length === 0) {
      list.replaceChildren(
        any
          ? emptyBox(el("p", {}, "No request is like that."), el("button", { type: "button", class: "secondary small", onclick: () => clear() }, "Show all"))
          : emptyBox(el("p", {}, "No requests yet."), el("p", {}, el("a", { href: "/ask" }, "Ask a question"), " and it appears here.")),
      );
      return;
    }
    list.replaceChildren(
      table({
        label: "Requests",
        href: (r) => `/requests/${encodeURIComponent(r.id)}`,
        fresh,
        columns: [...columns, ...telling.filter((column) => differ(column, requests))],
        rows: requests,
      }),
      more || "",
    );
  }

  async function load() {
    const mine = (turn += 1);
    try {
      const page = await getJson(withQuery("/v1/requests", { ...filters(), limit: PAGE }));
      if (mine !== turn) return;
      const newest = requests[0]?.at;
      requests = page.requests;
      next = page.next;
      deep = false;
      draw((r) => newest !== undefined && r.at > newest);
    } catch (error) {
      if (mine === turn) list.replaceChildren(failureBox(error, load));
    }
  }

  async function older() {
    const page = await getJson(withQuery("/v1/requests", { ...filters(), limit: PAGE, cursor: next }));
    deep = true;
    const had = new Set(requests.map((r) => r.id));
    requests = [...requests, ...page.requests.filter((r) => !had.has(r.id))];
    next = page.next;
    draw();
  }

  function clear() {
    form.reset();
    for (const field of form.elements) if (field.name) field.value = "";
    load();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    load();
  });
  form.addEventListener("change", (event) => event.target.matches("select, [type=datetime-local]") && load());
  // Whoever reads far down isn't moved; the newest are seen from the top.
  const soon = throttled(() => !deep && load(), 2000);
  context.live("request", soon);
  context.signal.addEventListener("abort", () => soon.stop());
  await load();
}
