// Quality: how the model reads, how routes are chosen, how search ranks, and how far predictions are off.

import { ApiFailure, getJson } from "../lib/api.js";
import { datum, el, throttled } from "../lib/dom.js";
import { count, exact, moment, percent, plural, words } from "../lib/format.js";
import { emptyBox, pageHead, panel, routeName, routeOrder, table, tile } from "../lib/parts.js";
import { heatMap, pointChart } from "../lib/picture.js";

const TASKS = {
  needle: "One sentence in text about other things",
  key_value: "The value of a key among many",
  multi_document: "The passage that answers among passages that look like it",
};
const share = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(3)}`.replace("-", "−");

// ---------------------------------------------------------------- the position curve

const unmeasured = (model) =>
  emptyBox(
    el("p", {}, `How ${model} reads was not measured yet.`),
    el("p", {}, "Run ", el("code", {}, "edgewise probe"), " on this machine (minutes), and passages are placed where the model reads best."),
  );

function positionPanel() {
  const one = panel({
    title: "Where in a prompt the model reads well",
    className: "w7",
    render: ({ model, profile }) => {
      if (!profile) return unmeasured(model);
      const lengths = [...new Set(profile.cells.map((c) => c.length))].sort((a, b) => a - b);
      const slots = [...new Set(profile.cells.map((c) => c.slot))].sort((a, b) => a - b);
      const at = (length, slot) => profile.cells.filter((c) => c.length === length && c.slot === slot);
      const recall = (length, slot) => {
        const cells = at(length, slot);
        const items = cells.reduce((sum, c) => sum + c.items, 0);
        return items > 0 ? cells.reduce((sum, c) => sum + c.recalled, 0) / items : null;
      };
      const depth = (slot) => profile.cells.find((c) => c.slot === slot).depth;
      return heatMap({
        label: "Share of facts found, by length of the prompt and by depth in it",
        describe: `Rows are prompt lengths, columns are depths from the beginning to the end. ${plural(profile.cells.reduce((s, c) => s + c.items, 0), "question")} of ${model}.`,
        rows: lengths.map((length) => ({ name: `${count(length)}`, length })),
        columns: slots.map((slot) => ({ name: percent(depth(slot)), slot })),
        rowTitle: "Tokens",
        columnTitle: "depth in the prompt; rows: tokens of the prompt",
        cell: (row, column) => recall(row.length, column.slot),
        format: (v) => v.toFixed(2),
        tools: one.tools,
      });
    },
  });
  return one;
}

function gainPanel() {
  const one = panel({
    title: "What a position is worth",
    className: "w5",
    render: ({ model, profile }) => {
      if (!profile) return unmeasured(model);
      const whole = profile.curves.find((c) => c.length === null) ?? profile.curves[0];
      if (!whole) return emptyBox(el("p", {}, "The probe asked too little for a curve."));
      return [
        pointChart({
          label: "Gain of a position over the mean, with its interval",
          describe: "A point for each depth; the line through it is its interval.",
          series: [
            {
              name: "gain",
              colour: "var(--r-passages)",
              line: true,
              points: whole.points.map((p) => ({ x: p.depth, mean: p.gain.mean, low: p.gain.low, high: p.gain.high })),
            },
          ],
          xTitle: "depth in the prompt",
          xFormat: percent,
          yFormat: (v) => v.toFixed(2),
          xRange: [0, 1],
          tools: one.tools,
        }).at(-1),
        el(
          "p",
          { class: "note" },
          whole.distinct
            ? "Some position is beyond chance better than another: passages are placed by this curve."
            : "No position is beyond chance better than another: passages keep the usual order, best last.",
        ),
      ];
    },
  });
  return one;
}

const readingPanel = () =>
  panel({
    title: "Is it still read that well?",
    note: "watched while questions are answered",
    render: ({ profile, signals }) => {
      const rows = signals.flatMap((signal) =>
        signal.now
          ? signal.now.regions.map((region) => ({ ...region, signal: signal.signal }))
          : [{ signal: signal.signal, pending: signal.pending, needed: signal.needed }],
      );
      return [
        profile &&
          el("p", { class: "note" }, `Measured ${moment(profile.measured_at)} by ${profile.program}; effective window ${profile.effective_window ? plural(profile.effective_window, "token") : "not found"} of ${plural(profile.window, "token")}.`),
        table({
          label: "Thirds of prompts",
          columns: [
            { title: "Signal", head: true, cell: (r) => words(r.signal) },
            { title: "Third", cell: (r) => r.region ?? "–" },
            { title: "Seen", n: true, cell: (r) => (r.region ? exact(r.seen) : `${exact(r.pending)} of ${exact(r.needed)} needed`) },
            { title: "Used", n: true, cell: (r) => (r.region ? exact(r.used) : "–") },
            { title: "Share", n: true, cell: (r) => (r.region ? percent(r.recall) : "–") },
            { title: "Expected", n: true, cell: (r) => percent(r.expected ?? null) },
            { title: "", cell: (r) => (r.alert ? el("span", { class: "badge bad" }, "read worse than before") : r.region ? el("span", { class: "badge ok" }, "as before") : "") },
          ],
          rows,
        }),
      ].filter(Boolean);
    },
  });

// ---------------------------------------------------------------- kept evaluations

const kept = ({ evaluations }, kind) => evaluations.filter((e) => e.kind === kind);
const measured = (e) => el("p", { class: "note" }, `Measured ${moment(e.at)} by ${e.program}.`);
const howTo = (what, command) =>
  emptyBox(el("p", {}, `${what} was not measured yet, or not kept.`), el("p", {}, "Run ", el("code", {}, command), " with this server's data folder."));

function routingPanel() {
  const one = panel({
    title: "Routing: quality against long context read",
    className: "w6",
    render: (report) => {
      const [e] = kept(report, "routing");
      if (!e) return howTo("Routing", "edgewise eval routing --data FOLDER --save");
      const { replay, questions, documents } = e.report;
      const mean = (of) => replay.models.reduce((sum, m) => sum + of(m), 0) / replay.models.length;
      const chart = pointChart({
        label: "Recall against the share of long-context tokens",
        describe: "A rising line: what is reached when more questions may read the whole document. Beside it, always passages, always the whole, and the best choice for each question.",
        series: [
          { name: "chosen by the router", colour: "var(--r-passages)", line: true, points: replay.curve.map((p) => ({ x: p.share, mean: p.recall })) },
          { name: "always passages", colour: "var(--r-tree)", points: [{ x: 0, mean: mean((m) => m.passages) }] },
          { name: "always the whole", colour: "var(--r-full)", points: [{ x: 1, mean: mean((m) => m.full) }] },
          { name: "best for each question", colour: "var(--r-documents)", points: [{ x: mean((m) => m.oracle_share), mean: mean((m) => m.oracle) }] },
        ],
        xTitle: "share of the tokens that always reading the whole takes",
        xFormat: percent,
        yFormat: (v) => v.toFixed(2),
        xRange: [0, 1],
        yRange: around([...replay.curve.map((p) => p.recall), mean((m) => m.passages), mean((m) => m.full), mean((m) => m.oracle)]),
        tools: one.tools,
      });
      return [...chart, el("p", { class: "note" }, `${plural(questions, "question")} about ${plural(documents, "document")}, ${plural(replay.models.length, "model")}, each document left out in turn.`), measured(e)];
    },
  });
  return one;
}

/** A range around values with room, on round numbers of a twentieth. */
function around(values) {
  const least = Math.floor((Math.min(...values) - 0.02) * 20) / 20;
  const most = Math.ceil((Math.max(...values) + 0.02) * 20) / 20;
  return [Math.max(0, least), most];
}

const routingModels = () =>
  panel({
    title: "Routing by model",
    className: "w6",
    render: (report) => {
      const [e] = kept(report, "routing");
      if (!e) return howTo("Routing", "edgewise eval routing --data FOLDER --save");
      return table({
        label: "Routing by model",
        tall: true,
        columns: [
          { title: "Model", head: true, cell: (m) => m.model },
          { title: "Passages", n: true, cell: (m) => share(m.passages) },
          { title: "Whole", n: true, cell: (m) => share(m.full) },
          { title: "Router", n: true, cell: (m) => share(m.ours.recall.mean) },
          { title: "Over the better", n: true, cell: (m) => el("span", { title: `${signed(m.ours.over_better.low)} to ${signed(m.ours.over_better.high)}` }, signed(m.ours.over_better.mean)) },
          { title: "Long read", n: true, cell: (m) => percent(m.ours.share) },
        ],
        rows: e.report.replay.models,
      });
    },
  });

const retrievalPanel = () =>
  panel({
    title: "Retrieval",
    render: (report) => {
      const list = [...kept(report, "collection"), ...kept(report, "retrieval")];
      if (list.length === 0) return howTo("Retrieval", "edgewise eval retrieval --collection NAME --save");
      const sets = list.flatMap((e) =>
        (e.report.sets ?? [e.report]).map((set) => ({ e, set, name: set.dataset ?? set.collection })),
      );
      return sets.flatMap(({ e, set, name }) => {
        const metrics = set.systems[0]?.metrics.map(([metric]) => metric) ?? [];
        return [
          el("h3", {}, `${name}, ${plural(set.queries, "question")}`),
          table({
            label: `Retrieval on ${name}`,
            columns: [
              { title: "System", head: true, cell: (s) => [s.name, s.name === set.in_force && el("span", { class: "badge ok" }, "in force")].filter(Boolean) },
              ...metrics.map((metric, i) => ({
                title: metric,
                n: true,
                cell: (s) => {
                  const m = s.metrics[i]?.[1];
                  return m ? el("span", { title: `${m.low.toFixed(3)} to ${m.high.toFixed(3)}` }, m.mean.toFixed(3)) : "–";
                },
              })),
              {
                title: "Over the better arm",
                n: true,
                cell: (s) => (s.over_better_arm ? `${signed(s.over_better_arm.mean)} (${signed(s.over_better_arm.low)} to ${signed(s.over_better_arm.high)})` : "–"),
              },
            ],
            rows: set.systems,
          }),
          measured(e),
        ];
      });
    },
  });

// ---------------------------------------------------------------- predictions

const predictionPanel = () =>
  panel({
    title: "Predicted against actual",
    note: "of the newest 10,000 requests",
    load: () => getJson("/v1/usage/predictions"),
    render: ({ routes }) =>
      routes.length === 0
        ? emptyBox(el("p", {}, "No answered request to compare with yet."))
        : [
            table({
              label: "Predicted against actual",
              columns: [
                { title: "Route", head: true, cell: (r) => routeName(r.route) },
                { title: "Cache", cell: (r) => (r.warm ? "warm" : "cold") },
                { title: "Requests", n: true, cell: (r) => datum(r.requests, exact(r.requests), `predicted-${r.route}-${r.warm ? "warm" : "cold"}`) },
                { title: "Prompt tokens exact", n: true, cell: (r) => percent(r.tokens_exact) },
                { title: "Resident exact", n: true, cell: (r) => percent(r.resident_exact) },
                { title: "Prompt cost exact", n: true, cell: (r) => percent(r.prompt_cost_exact) },
                { title: "Cost off by", n: true, cell: (r) => `${percent(r.cost.median)} / ${percent(r.cost.p90)}` },
                { title: "First token off by", n: true, cell: (r) => `${percent(r.ttft.median)} / ${percent(r.ttft.p90)}` },
                { title: "Total off by", n: true, cell: (r) => `${percent(r.total.median)} / ${percent(r.total.p90)}` },
                {
                  title: "Total, length known",
                  n: true,
                  cell: (r) => `${percent(r.total_at_length.median)} / ${percent(r.total_at_length.p90)}`,
                },
              ],
              rows: [...routes].sort((a, b) => routeOrder(a.route, b.route) || Number(a.warm) - Number(b.warm)),
            }),
            el("p", { class: "note" }, "Off by: half of the requests at most, and nine tenths at most. Warm is a prompt of which most was resident."),
          ],
  });

export async function mount(view, context) {
  const top = el("div", { class: "tiles", role: "group", "aria-label": "In short" });
  const position = positionPanel();
  const gain = gainPanel();
  const reading = readingPanel();
  const routing = routingPanel();
  const models = routingModels();
  const retrieval = retrievalPanel();
  const predictions = predictionPanel();
  const damaged = el("div", {});
  view.append(
    pageHead("Quality"),
    top,
    el("div", { class: "cols" }, position.node, gain.node),
    // The rest is measured over all tenants, or on the operator's collections.
    ...(context.may.operator
      ? [predictions.node, el("div", { class: "cols" }, routing.node, models.node), retrieval.node, reading.node, damaged]
      : []),
  );
  const load = async (panels, path) => {
    try {
      const data = await getJson(path);
      for (const one of panels) one.show(data);
      return data;
    } catch (error) {
      for (const one of panels) one.fail(error, () => load(panels, path));
      if (!(error instanceof ApiFailure)) throw error;
      return null;
    }
  };
  const soon = throttled(() => context.may.operator && predictions.refresh(), 10_000);
  context.live("request", soon);
  context.signal.addEventListener("abort", () => soon.stop());
  const [report, quality] = await Promise.all([
    load([position, gain, reading], "/v1/models/current/reading"),
    context.may.operator && load([routing, models, retrieval], "/v1/quality"),
    context.may.operator && predictions.refresh(),
  ]);
  const tiles = [];
  if (report?.profile) {
    const p = report.profile;
    const items = p.cells.reduce((sum, c) => sum + c.items, 0);
    const recalled = p.cells.reduce((sum, c) => sum + c.recalled, 0);
    for (const task of Object.keys(TASKS)) {
      const cells = p.cells.filter((c) => c.task === task);
      const all = cells.reduce((sum, c) => sum + c.items, 0);
      if (all === 0) continue;
      const right = cells.reduce((sum, c) => sum + c.recalled, 0);
      tiles.push(tile({ title: TASKS[task], name: `probe-${task}`, value: right / all, text: percent(right / all), note: `of ${plural(all, "question")}` }));
    }
    tiles.push(
      tile({ title: "Facts found by the probe", name: "probe-recall", value: recalled / items, text: percent(recalled / items), note: `of ${plural(items, "question")}` }),
      tile({ title: "Effective window", name: "effective-window", value: p.effective_window, text: p.effective_window ? count(p.effective_window) : "–", note: `of ${count(p.window)} tokens` }),
    );
  }
  if (tiles.length > 0) top.replaceChildren(...tiles);
  else top.remove();
  if (quality && quality.damaged.length > 0) {
    damaged.replaceChildren(...quality.damaged.map((text) => el("p", { class: "failure" }, `A kept evaluation can't be read: ${text}`)));
  }
}
