// The dashboard: a client of the public API. Text from documents and models only ever becomes `textContent`, so
// nothing in them is markup here. Spans are bytes of UTF-8, while strings of this language count UTF-16 units: all
// slicing by span goes through `Bytes`.

import {
  ApiFailure,
  call,
  count,
  duration,
  el,
  getJson,
  money,
  percent,
  promptTokens,
  serverSentEvents,
  setStatus,
  when,
  $,
} from "./common.js";

const REFRESH_MS = 4000;
const SOURCE_CONTEXT_BYTES = 3000;
const KINDS = ["system", "preamble", "document", "passage", "excerpt", "answer", "recap", "question", "template"];

/** A text that can be cut by byte offsets. */
class Bytes {
  constructor(text) {
    this.bytes = new TextEncoder().encode(text);
  }
  get length() {
    return this.bytes.length;
  }
  slice(start, end) {
    return new TextDecoder().decode(this.bytes.subarray(start, end));
  }
  /** The nearest beginning of a character at or after `at`. */
  boundary(at) {
    let index = Math.max(0, Math.min(at, this.length));
    while (index < this.length && (this.bytes[index] & 0xc0) === 0x80) index += 1;
    return index;
  }
}

// ---------------------------------------------------------------- overview

function tile(name, text) {
  const node = document.querySelector(`[data-tile="${name}"]`);
  if (node.textContent !== text) node.textContent = text;
}

function showTotals(totals) {
  const prompt = promptTokens(totals.usage);
  const share = prompt > 0 ? totals.usage.cache_read_tokens / prompt : 0;
  const routes = Object.entries(totals.by_route).map(([route, sums]) => `${count(sums.requests)} ${route}`);
  tile("requests", count(totals.requests));
  tile("requests-note", routes.join(", ") || "none yet");
  tile("computed", count(prompt - totals.usage.cache_read_tokens));
  tile("cached", count(totals.usage.cache_read_tokens));
  tile("output", count(totals.usage.output_tokens));
  tile("share", prompt > 0 ? percent(share) : "–");
  $("share-bar").style.width = `${share * 100}%`;
  tile("cost", money(totals.cost));
  tile(
    "cost-note",
    totals.requests > 0 ? `${money(Number(totals.cost) / totals.requests)} a request` : "at the configured prices",
  );
  tile("saved", money(totals.saved_against_full));
}

function rows(body, nodes, columns, empty) {
  body.replaceChildren(
    ...(nodes.length > 0 ? nodes : [el("tr", {}, el("td", { colSpan: columns, className: "empty" }, empty))]),
  );
}

const cell = (text, className = "") => el("td", { className }, text);
const number = (text) => cell(text, "n");

function showRecent(records) {
  const row = (r) => {
    const route = cell(r.route);
    if (r.forced) route.append(el("span", { className: "badge", title: "The request asked for this route" }, "asked"));
    if (r.status !== "answered")
      route.append(el("span", { className: `badge ${r.status === "failed" ? "bad" : ""}` }, r.status));
    return el(
      "tr",
      {},
      el("td", {}, el("time", { dateTime: r.at, title: r.at }, when(r.at))),
      cell(r.collection),
      route,
      number(count(promptTokens(r.usage))),
      number(count(r.usage.cache_read_tokens)),
      number(count(r.usage.output_tokens)),
      number(money(r.cost)),
      number(duration(r.timings.ttft_ms)),
      number(duration(r.timings.total_ms)),
    );
  };
  rows($("recent"), records.map(row), 9, "No requests yet. Ask something above.");
}

function indexState(c) {
  const behind = Math.max(c.generation - c.lexical_generation, c.generation - c.vector_generation);
  if (behind <= 0) return el("span", { className: "badge ok" }, "up to date");
  return el(
    "span",
    { className: "badge warn", title: "Until it has caught up, search scans what is missing." },
    `${behind} ${behind === 1 ? "change" : "changes"} behind`,
  );
}

function showCollections({ collections, damaged }) {
  const good = collections.map((c) =>
    el(
      "tr",
      {},
      el(
        "td",
        {},
        el("a", { href: `/collections/${encodeURIComponent(c.name)}/tree`, title: "Summary tree" }, c.name),
      ),
      number(count(c.documents)),
      number(count(c.chunks)),
      number(count(c.tokens)),
      el("td", {}, indexState(c)),
    ),
  );
  const bad = damaged.map((c) =>
    el(
      "tr",
      {},
      cell(c.name),
      el(
        "td",
        { colSpan: 4, className: "why" },
        el("span", { className: "badge bad" }, "damaged"),
        ` ${c.error.message}`,
      ),
    ),
  );
  rows(
    $("collections"),
    [...good, ...bad],
    5,
    "No collections yet. Add one with: edgewise ingest FOLDER --collection NAME",
  );

  const select = $("collection");
  const names = collections.map((c) => c.name);
  if (names.join("\n") !== [...select.options].map((o) => o.value).join("\n")) {
    const kept = select.value;
    select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    if (names.includes(kept)) select.value = kept;
  }
  if (!running) $("submit").disabled = names.length === 0;
}

/** Shows data only when it has changed, so that a selection or a position in a table is not lost to a refresh. */
const shown = new Map();
function showIfChanged(show, data) {
  const text = JSON.stringify(data);
  if (shown.get(show) === text) return;
  shown.set(show, text);
  show(data);
}

async function refresh() {
  try {
    const [usage, collections] = await Promise.all([getJson("/v1/usage?recent=50"), getJson("/v1/collections")]);
    showIfChanged(showTotals, usage.totals);
    showIfChanged(showRecent, usage.recent);
    showIfChanged(showCollections, collections);
    setStatus("ok", "Ready");
  } catch (error) {
    setStatus("down", error.message);
  }
}

async function showInfo() {
  const info = await getJson("/v1/info");
  $("version").textContent = info.version;
  $("generator").textContent = info.generator;
  $("embedder").textContent = info.embedder;
  $("version").hidden = $("models").hidden = false;
}

// ---------------------------------------------------------------- asking

let running = null;

function showFailure(error) {
  $("failure").replaceChildren(
    el("p", {}, error.message),
    error.hint ? el("p", { className: "hint" }, error.hint) : null,
  );
  $("failure").hidden = false;
  $("progress").textContent = "";
}

function clearResult() {
  for (const id of ["answer", "citations", "facts", "map", "legend", "candidates"]) $(id).replaceChildren();
  for (const id of ["failure", "prompt", "comparison", "unsupported-note"]) $(id).hidden = true;
  $("result").hidden = false;
}

function showPlan(explanation) {
  const row = (c) => {
    // The chosen one comes first; in a conversation a route may be listed twice, afresh and going on.
    const chosen = c === explanation.candidates[0];
    const name = cell(c.turns ? `${c.route}, going on` : c.route);
    if (chosen && explanation.forced) name.append(el("span", { className: "badge" }, "asked"));
    const price = (text) => number(c.feasible ? text : "–");
    return el(
      "tr",
      { className: chosen ? "chosen" : c.feasible ? "" : "infeasible" },
      name,
      number(count(c.prompt_tokens)),
      number(count(c.resident_tokens)),
      price(money(c.cost)),
      price(duration(c.ttft_ms)),
      price(duration(c.latency_ms)),
      price(c.quality.toFixed(2)),
      cell(c.reason, "why"),
    );
  };
  $("candidates").replaceChildren(...explanation.candidates.map(row));
  $("objective").textContent = explanation.forced ? "route asked for" : `objective: ${explanation.objective}`;
  $("comparison").hidden = false;
  $("facts").replaceChildren(el("li", { className: "route" }, explanation.chosen));
}

/** `, p. 12` or `, pp. xi–2`, as printed where that is known; nothing for documents without pages. */
function pagesOf({ pages }) {
  if (!pages) return "";
  const first = pages.first_label ?? String(pages.first);
  const last = pages.last_label ?? String(pages.last);
  return first === last ? `, p. ${first}` : `, pp. ${first}–${last}`;
}

const place = (c) => [c.title || c.uri, ...c.heading_path.filter((h) => h !== c.title)].join(" › ") + pagesOf(c);

function citeButton(citation) {
  const button = el("button", { type: "button", className: "cite", title: place(citation) }, String(citation.n));
  button.setAttribute("aria-label", `Citation ${citation.n}: ${place(citation)}`);
  button.addEventListener("click", () => openSource(citation));
  return button;
}

/** A sentence whose markers are buttons; citations without a marker follow it. Several citations may share a number:
 * that of the source they quote. */
function sentenceNodes(text, sentence, { citations, unanswerable }) {
  const open = sentence.citations.map((index) => citations[index]).filter(Boolean);
  const pieces = text.split(/(\[\d+\])/).map((piece) => {
    const n = Number(/^\[(\d+)\]$/.exec(piece)?.[1]);
    const own = open.findIndex((c) => c.n === n);
    if (own >= 0) return citeButton(open.splice(own, 1)[0]);
    const other = citations.find((c) => c.n === n);
    return other ? citeButton(other) : piece;
  });
  const node = el("span", { className: sentence.supported || unanswerable ? "" : "unsupported" }, ...pieces);
  return [node, ...open.map(citeButton)];
}

function showAnswerText(answer) {
  const text = new Bytes(answer.text);
  const nodes = [];
  let at = 0;
  for (const sentence of answer.sentences) {
    if (sentence.span.start > at) nodes.push(text.slice(at, sentence.span.start));
    nodes.push(...sentenceNodes(text.slice(sentence.span.start, sentence.span.end), sentence, answer));
    at = sentence.span.end;
  }
  nodes.push(text.slice(at, text.length));
  $("answer").replaceChildren(...nodes);
  $("unsupported-note").hidden = answer.unanswerable || answer.sentences.every((s) => s.supported);
}

function showCitations({ citations, unanswerable }) {
  const item = (c) => {
    const heading = [c.title || c.uri, ...c.heading_path.filter((h) => h !== c.title)];
    const where = el("span", { className: "where" }, heading[0]);
    const rest = heading.slice(1).map((h) => ` › ${h}`).join("") + pagesOf(c);
    if (rest) where.append(el("small", {}, rest));
    const button = el(
      "button",
      { type: "button" },
      el("span", { className: "num" }, String(c.n)),
      where,
      el("span", { className: "quote" }, c.quote),
    );
    button.addEventListener("click", () => openSource(c));
    return el("li", {}, button);
  };
  const none = el(
    "li",
    { className: "none" },
    unanswerable
      ? "The sources do not hold an answer to this question."
      : "No sentence of this answer could be tied to a source.",
  );
  $("citations").replaceChildren(...(citations.length > 0 ? citations.map(item) : [none]));
}

/** What stands in place of the citations until they are known. */
function showReading(sources) {
  const things = `${count(sources.length)} ${sources.length === 1 ? "source" : "sources"}`;
  $("citations").replaceChildren(el("li", { className: "none" }, `Reading ${things}.`));
}

function showPromptMap(segments) {
  const total = segments.reduce((sum, s) => sum + s.end - s.start, 0);
  const cached = segments.reduce((sum, s) => sum + s.cached_tokens, 0);
  if (total === 0) return;
  const bars = segments
    .filter((s) => s.end > s.start)
    .map((s) => {
      const tokens = s.end - s.start;
      const source = s.source ? ` [${s.source}]` : "";
      const bar = el("span", {
        className: `segment k-${s.kind}`,
        title: `${s.kind}${source}: ${count(tokens)} tokens, ${count(s.cached_tokens)} from cache`,
      });
      bar.style.flexGrow = tokens;
      if (s.cached_tokens > 0) {
        const hatch = el("span", { className: "cached" });
        hatch.style.width = `${(s.cached_tokens / tokens) * 100}%`;
        bar.append(hatch);
      }
      return bar;
    });
  const sums = KINDS.map((kind) => [
    kind,
    segments.filter((s) => s.kind === kind).reduce((sum, s) => sum + s.end - s.start, 0),
  ]).filter(([, tokens]) => tokens > 0);
  const key = (className, text) => el("li", {}, el("span", { className: `swatch ${className}` }), text);
  $("map").replaceChildren(...bars);
  $("map").setAttribute(
    "aria-label",
    `${count(total)} prompt tokens: ${sums.map(([k, n]) => `${count(n)} ${k}`).join(", ")}; ${count(cached)} of them from cache`,
  );
  $("legend").replaceChildren(
    ...sums.map(([kind, tokens]) => key(`k-${kind}`, `${kind} ${count(tokens)}`)),
    key("k-cached", `from cache ${count(cached)}`),
  );
  $("prompt-size").textContent = `${count(total)} tokens`;
  $("prompt").hidden = false;
}

function showFacts(answer) {
  const t = answer.timings;
  const search = t.embed_ms + t.lexical_ms + t.vector_ms + t.fuse_ms;
  const fact = (text, title = "") => el("li", { title }, text);
  const steps = [
    ["search", search],
    ["plan", t.plan_ms],
    ["queue", t.queue_ms],
    ["prefill", t.prefill_ms],
    ["decode", t.decode_ms],
    ["citations", t.cite_ms],
  ];
  $("facts").replaceChildren(
    el(
      "li",
      { className: "route", title: answer.escalation?.why ?? "" },
      answer.escalation ? `${answer.escalation.from} → ${answer.escalation.to}` : answer.explanation.chosen,
    ),
    fact(money(answer.cost)),
    fact(`${count(promptTokens(answer.usage))} in`),
    fact(`${count(answer.usage.cache_read_tokens)} cached`),
    fact(`${count(answer.usage.output_tokens)} out`),
    fact(`first token ${duration(t.ttft_ms)}`),
    fact(
      `total ${duration(t.total_ms)}`,
      steps
        .filter(([, ms]) => ms > 0)
        .map(([name, ms]) => `${name} ${duration(ms)}`)
        .join("\n"),
    ),
  );
}

function showAnswer(answer) {
  showPlan(answer.escalation?.explanation ?? answer.explanation);
  showAnswerText(answer);
  showCitations(answer);
  showPromptMap(answer.prompt_map);
  showFacts(answer);
  const cited = answer.citations.length;
  $("progress").textContent = `Answer complete, ${cited} ${cited === 1 ? "citation" : "citations"}.`;
}

async function ask(form) {
  const data = new FormData(form);
  const request = { collection: data.get("collection"), question: data.get("question"), stream: true };
  if (data.get("route")) request.route = data.get("route");
  running = new AbortController();
  const { signal } = running;
  clearResult();
  $("submit").disabled = true;
  $("stop").hidden = false;
  $("answer").setAttribute("aria-busy", "true");
  $("progress").textContent = "Answering.";
  let complete = false;
  try {
    const response = await call("/v1/query", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      signal,
    });
    for await (const { event, data: payload } of serverSentEvents(response.body)) {
      if (event === "plan") showPlan(payload);
      else if (event === "sources") showReading(payload.sources);
      else if (event === "token") $("answer").append(payload.text);
      else if (event === "escalated") {
        // What was streamed so far is superseded.
        $("answer").replaceChildren();
        showPlan(payload.explanation);
        $("progress").textContent = "Looking further: " + payload.reason + ".";
      }
      else if (event === "done") {
        showAnswer(payload);
        complete = true;
      } else if (event === "error") throw new ApiFailure(payload.error);
    }
    if (!complete) throw new ApiFailure({ message: "The connection ended before the answer did." });
  } catch (error) {
    $("citations").replaceChildren();
    if (error.name === "AbortError") {
      $("progress").textContent = "Stopped.";
      $("facts").append(el("li", {}, "stopped"));
    } else {
      showFailure(error);
    }
  } finally {
    running = null;
    $("answer").setAttribute("aria-busy", "false");
    $("submit").disabled = $("collection").options.length === 0;
    $("stop").hidden = true;
    refresh();
  }
}

// ---------------------------------------------------------------- source viewer

async function openSource(citation) {
  const collection = lastCollection;
  $("source-title").textContent = citation.title || citation.uri;
  $("source-path").textContent = [citation.uri, ...citation.heading_path].join(" › ") + pagesOf(citation);
  $("source-text").replaceChildren("Loading");
  $("source").showModal();
  try {
    const path = `/v1/collections/${encodeURIComponent(collection)}/documents/${encodeURIComponent(citation.document)}/text`;
    const text = new Bytes(await (await call(path)).text());
    const { start, end } = citation.span;
    const from = text.boundary(start - SOURCE_CONTEXT_BYTES);
    const to = text.boundary(end + SOURCE_CONTEXT_BYTES);
    const mark = el("mark", {}, text.slice(start, end));
    $("source-text").replaceChildren(
      from > 0 ? "…" : "",
      text.slice(from, start),
      mark,
      text.slice(end, to),
      to < text.length ? "…" : "",
    );
    mark.scrollIntoView({ block: "center" });
    if (text.slice(start, end) !== citation.quote) $("source-path").append(" (the document has changed since)");
  } catch (error) {
    $("source-text").replaceChildren(error.message);
  }
}

// ---------------------------------------------------------------- start

let lastCollection = "";

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  lastCollection = $("collection").value;
  ask(event.target);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("source-close").addEventListener("click", () => $("source").close());
$("source").addEventListener("click", (event) => {
  if (event.target === $("source")) $("source").close();
});

showInfo().catch(() => {});
refresh();
setInterval(() => {
  if (!document.hidden) refresh();
}, REFRESH_MS);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
