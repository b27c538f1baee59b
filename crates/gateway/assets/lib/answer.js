// An answer and how it came about: its sentences with citations, the sources at the cited span, the prompt part by part,
// the routes that were compared, and where the time went.

import { ApiFailure, Bytes, call } from "./api.js";
import { datum, el, freshId } from "./dom.js";
import { count, duration, money, plural, promptTokens, words } from "./format.js";
import { failureBox, legend, routeColour, routeName, table } from "./parts.js";

const SOURCE_CONTEXT_BYTES = 3000;
const KINDS = {
  system: "var(--k-system)",
  preamble: "var(--k-preamble)",
  document: "var(--k-document)",
  passage: "var(--k-passage)",
  summary: "var(--k-summary)",
  excerpt: "var(--k-excerpt)",
  answer: "var(--k-answer)",
  recap: "var(--k-answer)",
  question: "var(--k-question)",
  template: "var(--k-template)",
};

/** `, p. 12` or `, pp. xi–2`, as printed where that is known; nothing for documents without pages. */
export function pagesOf({ pages }) {
  if (!pages) return "";
  const first = pages.first_label ?? String(pages.first);
  const last = pages.last_label ?? String(pages.last);
  return first === last ? `, p. ${first}` : `, pp. ${first}–${last}`;
}

const pathOf = (c) => [c.title || c.uri, ...(c.heading_path ?? []).filter((h) => h !== c.title)];
const place = (c) => pathOf(c).join(" › ") + pagesOf(c);

// ---------------------------------------------------------------- the source of a citation

/** Opens a document at a span. */
export async function openSource(collection, { document: id, title, uri, heading_path: headings = [], pages, span, quote }) {
  const name = freshId("source");
  const path = el("p", { class: "note" }, [uri, ...headings].join(" › ") + pagesOf({ pages }));
  const text = el("pre", { class: "source-text", tabindex: "0" }, "Loading");
  const dialog = el(
    "dialog",
    { "aria-labelledby": name },
    el(
      "header",
      {},
      el("div", {}, el("h2", { id: name }, title || uri), path),
      el("button", { type: "button", class: "secondary small", onclick: () => dialog.close() }, "Close"),
    ),
    el("div", { class: "body" }, text),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const base = `/v1/collections/${encodeURIComponent(collection)}/documents/${encodeURIComponent(id)}/text`;
    const whole = new Bytes(await (await call(base)).text());
    const start = span?.start ?? 0;
    const end = span?.end ?? 0;
    const from = whole.boundary(start - SOURCE_CONTEXT_BYTES);
    const to = whole.boundary(end + SOURCE_CONTEXT_BYTES);
    const mark = el("mark", {}, whole.slice(start, end));
    text.replaceChildren(
      from > 0 ? "…" : "",
      whole.slice(from, start),
      mark,
      whole.slice(end, to),
      to < whole.length ? "…" : "",
    );
    mark.scrollIntoView({ block: "center" });
    if (quote && whole.slice(start, end) !== quote) path.append(" (the document has changed since)");
  } catch (error) {
    if (!(error instanceof ApiFailure)) throw error;
    text.replaceWith(failureBox(error));
  }
}

// ---------------------------------------------------------------- the text

function citeButton(collection, citation) {
  return el(
    "button",
    {
      type: "button",
      class: "cite",
      title: place(citation),
      "aria-label": `Citation ${citation.n}: ${place(citation)}`,
      onclick: () => openSource(collection, citation),
    },
    String(citation.n),
  );
}

/** A sentence whose markers are buttons; citations without a marker follow it. Several citations may share a number:
 * that of the source they quote. */
function sentenceNodes(collection, text, sentence, { citations, unanswerable }) {
  const open = sentence.citations.map((index) => citations[index]).filter(Boolean);
  const pieces = text.split(/(\[\d+\])/).map((piece) => {
    const n = Number(/^\[(\d+)\]$/.exec(piece)?.[1]);
    const own = open.findIndex((c) => c.n === n);
    if (own >= 0) return citeButton(collection, open.splice(own, 1)[0]);
    const other = citations.find((c) => c.n === n);
    return other ? citeButton(collection, other) : piece;
  });
  const node = el("span", { class: sentence.supported || unanswerable ? "" : "unsupported" }, pieces);
  return [node, ...open.map((c) => citeButton(collection, c))];
}

/** The text of a complete answer: { text, sentences, citations, unanswerable }. */
export function answerNodes(collection, answer) {
  const text = new Bytes(answer.text);
  const nodes = [];
  let at = 0;
  for (const sentence of answer.sentences ?? []) {
    if (sentence.span.start > at) nodes.push(text.slice(at, sentence.span.start));
    nodes.push(...sentenceNodes(collection, text.slice(sentence.span.start, sentence.span.end), sentence, answer));
    at = sentence.span.end;
  }
  const rest = text.slice(at, text.length);
  // Without sentences, as of a request that was kept, the markers alone lead to the sources.
  nodes.push(...(at === 0 ? sentenceNodes(collection, rest, { citations: [], supported: true }, answer) : [rest]));
  return nodes;
}

export const hasUnsupported = (answer) => !answer.unanswerable && (answer.sentences ?? []).some((s) => !s.supported);
export const unsupportedNote = () =>
  el("p", { class: "note" }, el("span", { class: "unsupported" }, "Marked text"), " is not supported by any source.");

export function citationList(collection, { citations, unanswerable }) {
  const item = (c) => {
    const [first, ...rest] = pathOf(c);
    const more = rest.map((h) => ` › ${h}`).join("") + pagesOf(c);
    return el(
      "li",
      {},
      el(
        "button",
        { type: "button", onclick: () => openSource(collection, c) },
        el("span", { class: "num" }, String(c.n)),
        el("span", { class: "where" }, first, more && el("small", {}, more)),
        el("span", { class: "quote" }, c.quote),
      ),
    );
  };
  const none = el(
    "li",
    { class: "none" },
    unanswerable
      ? "The sources do not hold an answer to this question."
      : "No sentence of this answer could be tied to a source.",
  );
  return el("ol", { class: "citations" }, citations.length > 0 ? citations.map(item) : none);
}

// ---------------------------------------------------------------- the prompt

/** The prompt as one bar, with what was found in the cache hatched, and the same as a table. */
export function promptMap(collection, segments) {
  const parts = segments.filter((s) => s.end > s.start);
  const total = parts.reduce((sum, s) => sum + s.end - s.start, 0);
  const cached = parts.reduce((sum, s) => sum + s.cached_tokens, 0);
  if (total === 0) return null;
  const bars = parts.map((s) => {
    const tokens = s.end - s.start;
    const hatch =
      s.cached_tokens > 0 && el("span", { class: "cached", style: { width: `${(s.cached_tokens / tokens) * 100}%` } });
    return el(
      "span",
      {
        class: "segment",
        title: `${s.kind}${s.source ? ` [${s.source}]` : ""}: ${plural(tokens, "token")}, ${count(s.cached_tokens)} from cache`,
        style: { "flex-grow": String(tokens), "--colour": KINDS[s.kind] ?? KINDS.template },
      },
      hatch,
    );
  });
  const sums = Object.keys(KINDS)
    .map((kind) => [kind, parts.filter((s) => s.kind === kind).reduce((sum, s) => sum + s.end - s.start, 0)])
    .filter(([, tokens]) => tokens > 0);
  const described = `${plural(total, "prompt token")}: ${sums.map(([k, n]) => `${count(n)} ${k}`).join(", ")}; ${count(cached)} of them from cache`;
  const source = (s) =>
    s.document && s.span && collection
      ? el(
          "button",
          {
            type: "button",
            class: "linklike",
            onclick: () => openSource(collection, { ...s, title: s.uri }),
          },
          s.uri ?? s.document,
        )
      : (s.uri ?? "–");
  const list = el(
    "details",
    {},
    el("summary", { class: "note" }, "Every part of it"),
    table({
      label: "Parts of the prompt",
      tall: true,
      columns: [
        { title: "From token", n: true, head: true, cell: (s) => count(s.start) },
        { title: "Part", cell: (s) => el("span", { class: "route", style: { "--colour": KINDS[s.kind] ?? KINDS.template } }, words(s.kind)) },
        { title: "Source", n: true, cell: (s) => (s.source ? `[${s.source}]` : "–") },
        { title: "Document", cell: source },
        { title: "Tokens", n: true, cell: (s) => count(s.end - s.start) },
        { title: "From cache", n: true, cell: (s) => count(s.cached_tokens) },
        { title: "Kept", cell: (s) => (s.retention ? words(s.retention) : "–") },
      ],
      rows: parts,
    }),
  );
  const keys = legend(sums.map(([kind, tokens]) => ({ name: `${kind} ${count(tokens)}`, colour: KINDS[kind] })));
  keys.append(el("li", {}, el("span", { class: "swatch cached" }), `from cache ${count(cached)}`));
  return [el("div", { class: "map", role: "img", "aria-label": described }, bars), keys, list];
}

// ---------------------------------------------------------------- the routes

/** Every route that was priced, the chosen one first, and why the others lost. */
export function routeTable({ candidates, forced, chosen }) {
  const price = (text) => (c) => (c.feasible ? text(c) : "–");
  const rows = candidates.map((c, index) => ({ ...c, first: index === 0 }));
  const node = table({
    label: "Routes compared",
    columns: [
      {
        title: "Route",
        head: true,
        cell: (c) => [
          routeName(c.turns ? `${c.route}, going on` : c.route),
          c.first && el("span", { class: "badge ok" }, forced ? "asked for" : "chosen"),
        ],
      },
      { title: "Prompt", n: true, cell: (c) => count(c.prompt_tokens) },
      { title: "Resident", n: true, cell: (c) => count(c.resident_tokens) },
      { title: "Cost", n: true, cell: price((c) => money(c.cost)) },
      { title: "First token", n: true, cell: price((c) => duration(c.ttft_ms)) },
      { title: "Total", n: true, cell: price((c) => duration(c.latency_ms)) },
      { title: "Quality", n: true, cell: price((c) => c.quality.toFixed(2)) },
      { title: "Score", n: true, cell: price((c) => c.score.toFixed(3)) },
      { title: "Why", className: "why", cell: (c) => c.reason },
    ],
    rows,
  });
  node.querySelectorAll("tbody tr").forEach((line, index) => {
    line.classList.toggle("chosen", rows[index].first && rows[index].route === chosen);
    line.classList.toggle("infeasible", !rows[index].feasible);
  });
  return node;
}

const SHAPE = [
  ["Question", (f) => Object.entries(f.kind).sort((a, b) => b[1] - a[1]).slice(0, 2).map(([k, p]) => `${words(k)} ${p.toFixed(2)}`).join(", ")],
  ["Scope", (f) => `${plural(f.scope_documents, "document")}, ${plural(f.scope_tokens, "token")}`],
  ["Found", (f) => `${plural(f.hits, "passage")} in ${plural(f.documents_in_top, "document")}`],
  ["Best match", (f) => `cosine ${f.top_cosine.toFixed(2)}, BM25 ${f.top_bm25.toFixed(1)}`],
  ["Waiting before it", (f) => `${plural(f.queue_requests, "request")}, ${plural(f.queue_tokens, "token")}`],
];

/** What the choice was made on. */
export function decision(explanation) {
  const facts = SHAPE.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text(explanation.features))]);
  const extra = [];
  if (explanation.escalation) {
    const e = explanation.escalation;
    extra.push(
      el("dt", {}, "If the sources lack it"),
      el("dd", {}, e.enabled && e.route ? `go on with ${e.route}: ${plural(e.prompt_tokens, "token")}, ${money(e.cost)}` : e.why),
    );
  }
  if (explanation.dropped.length > 0) {
    extra.push(
      el("dt", {}, "Left out"),
      el(
        "dd",
        {},
        el(
          "details",
          {},
          el("summary", {}, plural(explanation.dropped.length, "source")),
          el("ul", {}, explanation.dropped.map((d) => el("li", { class: "note" }, `${d.uri}: ${d.reason}`))),
        ),
      ),
    );
  }
  for (const limit of explanation.limits ?? []) {
    extra.push(el("dt", {}, `Limit of the ${words(limit.origin)}`), el("dd", {}, `${words(limit.limit)} at most ${limit.most}`));
  }
  return [
    el("dl", { class: "pairs" }, el("dt", {}, "Objective"), el("dd", {}, words(explanation.objective)), facts, extra),
    explanation.notes.length > 0 && el("ul", {}, explanation.notes.map((note) => el("li", { class: "note" }, note))),
  ];
}

// ---------------------------------------------------------------- the time

const STEPS = [
  ["Search", (t) => t.embed_ms + t.lexical_ms + t.vector_ms + t.fuse_ms, "var(--r-tree)"],
  ["Plan", (t) => t.plan_ms, "var(--k-preamble)"],
  ["Wait", (t) => t.queue_ms, "var(--t-input)"],
  ["Read the prompt", (t) => t.prefill_ms, "var(--r-documents)"],
  ["Write the answer", (t) => t.decode_ms, "var(--r-passages)"],
  ["Check citations", (t) => t.cite_ms, "var(--k-excerpt)"],
];

/** The steps of a request, one after the other, each as long as it took. */
export function timeline(timings) {
  const steps = STEPS.map(([name, of, colour]) => ({ name, ms: of(timings), colour })).filter((s) => s.ms > 0);
  const whole = Math.max(timings.total_ms, steps.reduce((sum, s) => sum + s.ms, 0));
  let at = 0;
  const rows = steps.flatMap(({ name, ms, colour }) => {
    const bar = el("span", { style: { left: `${(at / whole) * 100}%`, width: `${(ms / whole) * 100}%`, "--colour": colour } });
    at += ms;
    return [
      el("span", { class: "what", role: "cell" }, name),
      el("span", { class: "track", "aria-hidden": "true" }, bar),
      el("span", { class: "n", role: "cell" }, duration(ms)),
    ];
  });
  const pairs = [];
  for (let i = 0; i < rows.length; i += 3) {
    pairs.push(el("div", { role: "row", style: { display: "contents" } }, rows.slice(i, i + 3)));
  }
  return el("div", { class: "timeline", role: "table", "aria-label": "Where the time went" }, pairs);
}

/** Figures of an answer in one line. */
export function answerFacts(answer) {
  const fact = (text, value, name) => el("li", {}, datum(value, text, name));
  const route = answer.escalation ? `${answer.escalation.from} → ${answer.escalation.to}` : answer.explanation.chosen;
  return [
    el(
      "li",
      { title: answer.escalation?.why ?? "" },
      el("span", { class: "route", style: { "--colour": routeColour(answer.escalation?.to ?? answer.explanation.chosen) } }, route),
    ),
    fact(money(answer.cost), answer.cost, "answer-cost"),
    fact(`${count(promptTokens(answer.usage))} in`, promptTokens(answer.usage), "answer-prompt-tokens"),
    fact(`${count(answer.usage.cache_read_tokens)} from cache`, answer.usage.cache_read_tokens, "answer-cached-tokens"),
    fact(`${count(answer.usage.output_tokens)} out`, answer.usage.output_tokens, "answer-output-tokens"),
    fact(`first token ${duration(answer.timings.ttft_ms)}`, answer.timings.ttft_ms, "answer-ttft"),
    fact(`total ${duration(answer.timings.total_ms)}`, answer.timings.total_ms, "answer-total"),
  ];
}
