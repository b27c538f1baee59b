// Ask: a question, its answer as it is written, and the whole decision behind it.

import { ApiFailure, getJson, send, serverSentEvents } from "../lib/api.js";
import {
  answerFacts,
  answerNodes,
  citationList,
  decision,
  hasUnsupported,
  promptMap,
  routeTable,
  timeline,
  unsupportedNote,
} from "../lib/answer.js";
import { el, say } from "../lib/dom.js";
import { duration, money, plural } from "../lib/format.js";
import { emptyBox, failureBox, pageHead, routeName } from "../lib/parts.js";
import { showSnippets } from "../lib/snippet.js";

const ROUTES = [
  ["", "Auto"],
  ["passages", "Passages"],
  ["tree", "Tree"],
  ["documents", "Documents"],
  ["full", "Full"],
];

const box = (title, ...children) =>
  el("section", { class: "panel stack", "aria-label": title }, el("h2", {}, title), children.flat(2).filter(Boolean));

function makeForm(context) {
  const asked = context.query;
  const field = (label, control, className = "") => el("label", { class: `field ${className}` }, el("span", {}, label), control);
  const question = el("textarea", {
    name: "question",
    rows: 2,
    required: true,
    placeholder: "What would you like to know?",
    value: asked.get("q") ?? "",
  });
  const collection = el("select", { name: "collection", required: true });
  const routes = el(
    "fieldset",
    { class: "field" },
    el("legend", {}, "Route"),
    el(
      "div",
      { class: "segmented" },
      ROUTES.map(([value, name]) =>
        el("label", {}, el("input", { type: "radio", name: "route", value, checked: value === (asked.get("route") ?? "") }), el("span", {}, name)),
      ),
    ),
  );
  const objective = el(
    "select",
    { name: "objective" },
    ["balanced", "cheapest", "best"].map((value) => el("option", { value }, value)),
  );
  const more = el(
    "details",
    {},
    el("summary", { class: "note" }, "Limits, filter and drawing"),
    el(
      "div",
      { class: "form-row" },
      field("Prefer", objective),
      field("Passages at most", el("input", { name: "top_k", type: "number", min: 1, max: 1000, placeholder: "as set" })),
      field("Answer tokens at most", el("input", { name: "max_output_tokens", type: "number", min: 1, placeholder: "as set" })),
      field("Cost at most, in $", el("input", { name: "max_cost", inputMode: "decimal", pattern: "[0-9]*\\.?[0-9]+", placeholder: "no limit" })),
      field("Seconds at most", el("input", { name: "max_seconds", type: "number", min: 0.1, step: 0.1, placeholder: "no limit" })),
      field("Temperature", el("input", { name: "temperature", type: "number", min: 0, max: 2, step: 0.1, placeholder: "0, the likeliest" })),
      field("Only documents where", el("input", { name: "filter", placeholder: "language = 'en' and date >= 2020" }), "grow"),
    ),
  );
  const ask = el("button", { type: "submit" }, "Ask");
  const stop = el("button", { type: "button", class: "secondary", hidden: true }, "Stop");
  const price = el("button", { type: "button", class: "secondary" }, "Compare routes only");
  const copy = el("button", { type: "button", class: "secondary" }, "Copy as curl or Python");
  const onward = el("input", { type: "checkbox" });
  const onwardLabel = el("label", { class: "check", hidden: true }, onward, el("span", {}, "Follow up on the answer below"));
  const form = el(
    "form",
    { class: "panel stack" },
    field("Question", question),
    el("div", { class: "form-row" }, field("Collection", collection), routes),
    more,
    onwardLabel,
    el("div", { class: "form-row" }, ask, stop, price, copy),
  );
  return { form, question, collection, ask, stop, price, copy, onward, onwardLabel };
}

/** The body of a question, without what was left at its default. */
function bodyOf(form, history) {
  const data = new FormData(form);
  const text = (name) => String(data.get(name) ?? "").trim();
  const number = (name) => (text(name) === "" ? undefined : Number(text(name)));
  const body = { collection: text("collection"), question: text("question") };
  if (text("route")) body.route = text("route");
  if (text("objective") !== "balanced") body.objective = text("objective");
  if (number("top_k")) body.top_k = number("top_k");
  if (number("max_output_tokens")) body.max_output_tokens = number("max_output_tokens");
  if (text("filter")) body.filter = text("filter");
  const budget = {};
  if (text("max_cost")) budget.max_cost = text("max_cost");
  if (number("max_seconds")) budget.max_latency_ms = Math.round(number("max_seconds") * 1000);
  if (Object.keys(budget).length > 0) body.budget = budget;
  if (number("temperature")) body.sampling = { temperature: number("temperature") };
  if (history.length > 0) body.history = history;
  return body;
}

/** Whether the answer helped: teaches the router. */
function rating(requestId) {
  const said = el("span", { class: "note", role: "status" });
  const give = (good, text) =>
    el(
      "button",
      {
        type: "button",
        class: "secondary small",
        onclick: async () => {
          try {
            await send("POST", "/v1/feedback", { request_id: requestId, good });
            said.textContent = "Noted. Later questions are routed with it in mind.";
          } catch (error) {
            if (!(error instanceof ApiFailure)) throw error;
            said.textContent = error.message;
          }
        },
      },
      text,
    );
  return el("div", { class: "form-row" }, give(true, "Good answer"), give(false, "Bad answer"), said);
}

export async function mount(view, context) {
  const ui = makeForm(context);
  const progress = el("p", { class: "sr", role: "status", "aria-live": "polite" });
  const result = el("div", { class: "page" });
  view.append(pageHead("Ask", { lead: "Every answer shows what it read and what it cost." }), ui.form, progress, result);
  let running = null;
  let history = [];

  const { collections } = await getJson("/v1/collections");
  const wanted = context.query.get("collection");
  ui.collection.replaceChildren(
    ...collections.map((c) => el("option", { value: c.name, selected: c.name === wanted }, c.name)),
  );
  if (collections.length === 0) {
    ui.ask.disabled = ui.price.disabled = true;
    result.append(
      emptyBox(
        el("p", {}, "There is no collection to ask yet."),
        el("p", {}, el("a", { href: "/collections" }, "Make one and drop documents into it"), ", or run ", el("code", {}, "edgewise ingest FOLDER --collection NAME"), "."),
      ),
    );
  }

  function begin() {
    const answer = el("div", { class: "answer", "aria-live": "polite", "aria-busy": "true", "data-name": "answer" });
    const facts = el("ul", { class: "facts" });
    const parts = {
      answer,
      facts,
      failure: el("div", {}),
      under: el("div", { class: "stack" }),
      citations: el("div", {}, el("p", { class: "note" }, "Looking for sources.")),
      prompt: el("div", {}),
      time: el("div", {}),
      routes: el("div", {}),
    };
    result.replaceChildren(
      el(
        "div",
        { class: "answer-grid" },
        el("div", {}, box("Answer", facts, parts.failure, answer, parts.under), parts.prompt, parts.time),
        el("div", {}, box("Citations", parts.citations)),
      ),
      parts.routes,
    );
    return parts;
  }

  function showRoutes(place, explanation, title = "Routes compared") {
    place.replaceChildren(
      box(title, routeTable(explanation), el("details", {}, el("summary", { class: "note" }, "What the choice was made on"), decision(explanation))),
    );
  }

  function showDone(parts, collection, answer, requestId) {
    parts.answer.replaceChildren(...answerNodes(collection, answer));
    parts.facts.replaceChildren(...answerFacts(answer));
    parts.citations.replaceChildren(citationList(collection, answer));
    const map = promptMap(collection, answer.prompt_map);
    if (map) parts.prompt.replaceChildren(box("Prompt", map));
    parts.time.replaceChildren(box("Where the time went", timeline(answer.timings)));
    showRoutes(parts.routes, answer.escalation?.explanation ?? answer.explanation);
    parts.under.replaceChildren(
      ...[
        hasUnsupported(answer) && unsupportedNote(),
        answer.escalation && el("p", { class: "note" }, `Looked further: ${answer.escalation.why}.`),
        answer.finish_reason === "length" && el("p", { class: "note" }, "The answer reached its limit of tokens."),
        requestId && rating(requestId),
      ].filter(Boolean),
    );
    const cited = answer.citations.length;
    progress.textContent = `Answer complete, ${plural(cited, "citation")}.`;
    history = [...history, answer.turn];
    ui.onwardLabel.hidden = false;
  }

  async function ask() {
    if (!ui.onward.checked) history = [];
    const body = bodyOf(ui.form, history);
    running = new AbortController();
    const parts = begin();
    ui.ask.disabled = true;
    ui.stop.hidden = false;
    progress.textContent = "Answering.";
    let complete = false;
    try {
      const response = await send("POST", "/v1/query", { ...body, stream: true }, { signal: running.signal });
      const requestId = response.headers.get("x-request-id");
      for await (const { event, data } of serverSentEvents(response.body)) {
        if (event === "plan") {
          showRoutes(parts.routes, data);
          parts.facts.replaceChildren(el("li", {}, routeName(data.chosen)));
        } else if (event === "sources") {
          parts.citations.replaceChildren(el("p", { class: "note" }, `Reading ${plural(data.sources.length, "source")}.`));
        } else if (event === "token") {
          parts.answer.append(data.text);
        } else if (event === "escalated") {
          // What was streamed so far is superseded.
          parts.answer.replaceChildren();
          showRoutes(parts.routes, data.explanation);
          progress.textContent = `Looking further: ${data.reason}.`;
        } else if (event === "done") {
          showDone(parts, body.collection, data, requestId);
          complete = true;
        } else if (event === "error") throw new ApiFailure(data.error);
      }
      if (!complete) throw new ApiFailure({ message: "The connection ended before the answer did." });
    } catch (error) {
      parts.citations.replaceChildren();
      if (error.name === "AbortError") {
        progress.textContent = "Stopped.";
        parts.facts.append(el("li", {}, "stopped"));
      } else {
        parts.failure.replaceChildren(failureBox(error));
        progress.textContent = "";
        if (!(error instanceof ApiFailure)) throw error;
      }
    } finally {
      running = null;
      parts.answer.setAttribute("aria-busy", "false");
      ui.ask.disabled = ui.collection.options.length === 0;
      ui.stop.hidden = true;
    }
  }

  async function compare() {
    if (!ui.form.reportValidity()) return;
    if (!ui.onward.checked) history = [];
    const { sampling, ...body } = bodyOf(ui.form, history);
    const place = el("div", { class: "page" });
    result.replaceChildren(place);
    ui.price.disabled = true;
    try {
      const explanation = await (await send("POST", "/v1/routes/explain", body)).json();
      const best = explanation.candidates[0];
      showRoutes(place, explanation, `Would take ${explanation.chosen}: about ${money(best.cost)}, ${duration(best.latency_ms)}`);
      const map = promptMap(body.collection, explanation.prompt_map);
      if (map) place.append(box("Prompt", map));
      say("Routes compared.");
    } catch (error) {
      place.append(failureBox(error));
      if (!(error instanceof ApiFailure)) throw error;
    } finally {
      ui.price.disabled = false;
    }
  }

  ui.form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) ask();
  });
  ui.question.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      ui.form.requestSubmit();
    }
  });
  ui.stop.addEventListener("click", () => running?.abort());
  ui.price.addEventListener("click", compare);
  ui.copy.addEventListener("click", () => ui.form.reportValidity() && showSnippets("/v1/query", bodyOf(ui.form, ui.onward.checked ? history : [])));
  ui.collection.addEventListener("change", () => {
    history = [];
    ui.onward.checked = false;
    ui.onwardLabel.hidden = true;
  });
  context.signal.addEventListener("abort", () => running?.abort());
  ui.question.focus({ preventScroll: true });
}
