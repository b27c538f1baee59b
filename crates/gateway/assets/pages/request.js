// One request as a picture: what was asked and answered, from which places, on which route and why, in what time.

import { getJson } from "../lib/api.js";
import {
  answerNodes,
  citationList,
  decision,
  hasUnsupported,
  promptMap,
  routeTable,
  timeline,
  unsupportedNote,
} from "../lib/answer.js";
import { datum, el } from "../lib/dom.js";
import { count, duration, hitRate, moment, money, percent, promptTokens, words } from "../lib/format.js";
import { emptyBox, pageHead, panel, routeName, statusBadge, table, tile } from "../lib/parts.js";

const box = (title, ...children) => {
  const one = panel({ title, render: () => null });
  one.body.replaceChildren(...children.flat(2).filter(Boolean));
  return one.node;
};

function compared(record) {
  const p = record.predicted;
  const rows = [
    ["Cost", "cost", money(p.cost), money(record.cost), Number(p.cost), Number(record.cost)],
    ["First token", "ttft", duration(p.ttft_ms), duration(record.timings.ttft_ms), p.ttft_ms, record.timings.ttft_ms],
    ["Whole answer", "total", duration(p.latency_ms), duration(record.timings.total_ms), p.latency_ms, record.timings.total_ms],
  ];
  if (p.usage) {
    const classes = [
      ["Prompt tokens", promptTokens],
      ["From cache", (u) => u.cache_read_tokens],
      ["Output tokens", (u) => u.output_tokens],
    ];
    for (const [name, of] of classes) rows.push([name, name, count(of(p.usage)), count(of(record.usage)), of(p.usage), of(record.usage)]);
  }
  const off = ([, , , , predicted, actual]) => (actual > 0 ? percent(predicted / actual - 1) : "–");
  return table({
    label: "Predicted against actual",
    columns: [
      { title: "", head: true, cell: (r) => r[0] },
      { title: "Predicted", n: true, cell: (r) => r[2] },
      { title: "Actual", n: true, cell: (r) => r[3] },
      { title: "Off by", n: true, cell: off },
    ],
    rows,
  });
}

function facts(record) {
  const pair = (name, value) => (value === null || value === undefined || value === "" ? [] : [el("dt", {}, name), el("dd", {}, value)]);
  return el(
    "dl",
    { class: "pairs" },
    pair("Asked at", moment(record.at)),
    pair("Collection", record.collection && el("a", { href: `/collections/${encodeURIComponent(record.collection)}` }, record.collection)),
    pair("Tenant", record.tenant),
    pair("Key", record.key && el("span", { class: "mono" }, record.key)),
    pair("Model", record.model),
    pair("Missed in cache", record.miss && words(record.miss)),
    pair("Written to cache", count(record.usage.cache_write_5m_tokens + record.usage.cache_write_1h_tokens)),
    pair("Reading all", record.full_cost && `would have cost ${money(record.full_cost)}`),
    pair("Id", el("span", { class: "mono" }, record.id)),
  );
}

export async function mount(view, context) {
  const [id] = context.parameters;
  const { record, detail } = await getJson(`/v1/requests/${encodeURIComponent(id)}`);
  if (context.signal.aborted) return;
  const { usage, timings } = record;
  const tiles = el(
    "div",
    { class: "tiles", role: "group", "aria-label": "Figures" },
    tile({ title: "Cost", name: "cost", value: record.cost, text: money(record.cost), note: record.full_cost ? `all read: ${money(record.full_cost)}` : "" }),
    tile({ title: "Prompt", name: "prompt-tokens", value: promptTokens(usage), text: count(promptTokens(usage)), note: "tokens" }),
    tile({ title: "From cache", name: "cached-tokens", value: usage.cache_read_tokens, text: percent(hitRate(usage)), note: `${count(usage.cache_read_tokens)} tokens` }),
    tile({ title: "Output", name: "output-tokens", value: usage.output_tokens, text: count(usage.output_tokens), note: "tokens" }),
    tile({ title: "First token", name: "ttft", value: timings.ttft_ms, text: duration(timings.ttft_ms), note: `predicted ${duration(record.predicted.ttft_ms)}` }),
    tile({ title: "Total", name: "total", value: timings.total_ms, text: duration(timings.total_ms), note: `predicted ${duration(record.predicted.latency_ms)}` }),
  );
  const route = [
    record.escalated_from && [routeName(record.escalated_from), " → "],
    routeName(record.route),
    " ",
    statusBadge(record.status),
  ]
    .flat()
    .filter(Boolean);
  view.append(pageHead("Request", { trail: [["Requests", "/requests"]], lead: el("span", {}, route) }), tiles);

  const explanation = detail?.explanation ?? null;
  const final = detail?.escalation?.explanation ?? explanation;
  const answer = detail && {
    text: detail.answer ?? "",
    sentences: detail.sentences ?? [],
    citations: detail.citations ?? [],
    unanswerable: detail.unanswerable ?? record.status === "unanswerable",
  };
  const time = box("Where the time went", timeline(timings));
  const predicted = box("Predicted against actual", compared(record));
  const about = box("Record", facts(record));
  if (!detail) {
    view.append(
      box(
        "Question and answer",
        emptyBox(
          el("p", {}, "The decision and the texts of this request are not kept any more, or never were."),
          el("p", {}, "The setting ", el("code", {}, "ledger.texts_days"), " says for how long they are kept, ", el("code", {}, "ledger.texts"), " whether texts are at all."),
        ),
      ),
      el("div", { class: "cols" }, ...[time, predicted, about].map((node) => (node.classList.add("w4"), node))),
    );
    return;
  }
  const asked = detail.question
    ? box(
        "Question and answer",
        el("p", { class: "asked" }, detail.question),
        el("div", { class: "answer", "data-name": "answer" }, answerNodes(record.collection, answer)),
        !detail.answer && el("p", { class: "note" }, `There is no answer: the request was ${record.status === "failed" ? "not finished, it failed" : words(record.status)}.`),
        hasUnsupported(answer) && unsupportedNote(),
        detail.escalation && el("p", { class: "note" }, `Looked further: ${detail.escalation.why}.`),
      )
    : box("Question and answer", emptyBox(el("p", {}, "Texts are not kept: ", el("code", {}, "ledger.texts"), " is off.")));
  asked.querySelector(".panel-body").classList.add("stack");
  const left = [asked];
  const map = detail.prompt_map && promptMap(record.collection, detail.prompt_map);
  if (map) left.push(box("Prompt", map));
  left.push(time);
  const right = [];
  if (record.collection && detail.question) right.push(box("Citations", citationList(record.collection, answer)));
  right.push(predicted, about);
  view.append(el("div", { class: "answer-grid" }, el("div", {}, left), el("div", {}, right)));
  if (final) {
    const compare = box("Routes compared", routeTable(final), el("details", {}, el("summary", { class: "note" }, "What the choice was made on"), decision(final)));
    view.append(compare);
    if (detail.escalation && explanation) view.append(box("Routes compared at first", routeTable(explanation)));
  }
}
