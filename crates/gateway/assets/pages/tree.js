// A collection's summary tree.
//
// The tree is drawn as an icicle: a row a level below the node at the top, each node as wide as its share of the passages
// below that. A member of two nodes stands below both. What lies deeper than was asked for is fetched when it is opened.

import { ApiFailure, call, getJson, send, serverSentEvents } from "../lib/api.js";
import { $, el, svg } from "../lib/dom.js";
import { count, duration, money, plural } from "../lib/format.js";
import { skeleton } from "./tree_skeleton.js";

const ROW = 46;
const LEAST_WIDTH = 3;
const DEPTH = 3;
const PREVIEW = 160;
/** Widths of a letter of the drawing, on the safe side. */
const LETTER = 6.7;
const BOLD_LETTER = 7.6;
const isNode = (item) => item.kind === "node";
const keyOf = (item) => (isNode(item) ? item.id : `chunk ${item.chunk}`);
const sizeOf = (item) => (isNode(item) ? Math.max(1, item.leaves) : 1);
const levelOf = (item) => (isNode(item) ? item.level : 0);
const titleOf = (item) => {
  if (!isNode(item)) return [item.uri, ...item.heading_path].join(" › ");
  if (item.uri) return item.root ? item.uri : `${item.uri}, part`;
  return item.root ? `All ${plural(item.documents, "document")}` : plural(item.documents, "document");
};

export async function mount(view, context) {
  const [collection] = context.parameters;
  const base = `/v1/collections/${encodeURIComponent(collection)}/tree`;
  view.append(...skeleton(collection));

  // ---------------------------------------------------------------- state of the page

  /** Roots, and the path of nodes that were opened over the whole width; the last one is at the top. */
  let roots = [];
  let path = [];
  let status = null;
  let chosen = null;
  let hits = new Map();

  /** Members of a node, fetched if they are not here yet. */
  async function withMembers(item) {
    if (!isNode(item) || item.members) return item;
    const view = await getJson(`${base}?node=${item.id}&depth=${DEPTH}&text_chars=${PREVIEW}`);
    item.members = view.roots[0]?.members ?? [];
    return item;
  }

  async function load() {
    const view = await getJson(`${base}?depth=${DEPTH}&text_chars=${PREVIEW}`);
    roots = view.roots;
    status = view.status;
    path = [];
    showState(view);
    const again = chosen && [...reachable(roots)].find((item) => keyOf(item) === keyOf(chosen));
    chosen = again ?? roots.find(isNode) ?? null;
    draw();
    if (chosen) await showNode(chosen);
  }

  /** Everything that is here, from the top. */
  function* reachable(items) {
    for (const item of items) {
      yield item;
      if (isNode(item) && item.members) yield* reachable(item.members);
    }
  }

  // ---------------------------------------------------------------- the head

  function showState({ status: s, more_documents: more }) {
    const [text, className] = !s.built
      ? ["not built", "badge warn"]
      : s.current
        ? ["up to date", "badge ok"]
        : [s.documents_behind > 0 ? `${plural(s.documents_behind, "document")} behind` : "upper layers behind", "badge warn"];
    $("verdict").textContent = text;
    $("verdict").className = className;
    $("verdict").hidden = false;
    const facts = [`${plural(s.documents, "document")}`];
    if (s.built) {
      facts.push(plural(s.nodes, "node"), plural(s.levels, "level"));
      const { abstractive, extractive_fallback: fallback } = s.methods;
      if (abstractive + fallback > 0) facts.push(`${count(abstractive)} generated`, `${count(fallback)} fell back`);
      else facts.push("sentences of the documents");
    }
    if (more > 0) facts.push(`${plural(more, "document")} not shown`);
    $("facts").replaceChildren(...facts.map((fact) => el("li", { title: s.summariser ?? "" }, fact)));
    $("build").textContent = s.current ? "Build again" : s.built ? "Bring up to date" : "Build";
  }

  function say(text) {
    $("tree-said").textContent = text;
    $("tree-said").hidden = !text;
  }

  function showFailure(error) {
    $("tree-failure").replaceChildren(
      el("p", {}, error.message),
      error.hint ? el("p", { className: "hint" }, error.hint) : null,
    );
    $("tree-failure").hidden = false;
  }

  /** Runs what a button does, and shows its failure. */
  async function attempt(work) {
    $("tree-failure").hidden = true;
    try {
      await work();
    } catch (error) {
      showFailure(error);
    }
  }

  const post = (where, body = {}) => send("POST", where, body);

  async function plan() {
    say("Planning …");
    try {
      const p = await (await post(`${base}/plan`)).json();
      const todo = p.documents - p.documents_kept;
      if (todo === 0 && p.summaries === 0) return say("The tree is up to date: there is nothing to build.");
      const spent = p.calls > 0 ? `${plural(p.calls, "call")} of the generator, about ${money(p.cost)}` : "no call of the generator, no cost";
      say(
        `${plural(todo, "document")} to build, about ${count(p.summaries)} summaries (${count(p.summaries_kept)} kept); ` +
          `${spent}; about ${duration(p.seconds * 1000)}.`,
      );
    } catch (error) {
      say("");
      throw error;
    }
  }

  // ---------------------------------------------------------------- jobs

  let following = null;

  function showJob(job) {
    const d = job.detail ?? {};
    const over = ["done", "failed", "cancelled"].includes(job.state);
    $("job").hidden = false;
    const parts = [job.state === "running" ? { preparing: "Preparing", documents: "Summarising documents", collection: "Above documents", finishing: "Finishing" }[d.stage] ?? "Running" : job.state[0].toUpperCase() + job.state.slice(1)];
    if (d.documents !== undefined) parts.push(`${count(d.documents_done)} of ${plural(d.documents, "document")}`);
    if (d.summaries_made !== undefined) parts.push(`${count(d.summaries_made)} made, ${count(d.summaries_kept)} kept`);
    if (d.fallbacks > 0) parts.push(`${count(d.fallbacks)} fell back`);
    if (d.calls > 0) parts.push(money(d.cost));
    if (!over && d.eta_seconds > 0) parts.push(`${duration(d.eta_seconds * 1000)} left`);
    $("job-text").textContent = parts.join(" · ");
    const share = job.state === "done" ? 1 : d.documents > 0 ? d.documents_done / d.documents : 0;
    $("job-bar").style.width = `${share * 100}%`;
    $("job-meter").setAttribute("aria-valuemax", d.documents ?? 0);
    $("job-meter").setAttribute("aria-valuenow", d.documents_done ?? 0);
    $("pause").textContent = job.state === "paused" ? "Resume" : "Pause";
    $("pause").hidden = $("cancel").hidden = over;
    $("build").disabled = !over;
    if (job.state === "failed") showFailure(new ApiFailure({ message: job.error }));
    if (job.state === "done" && d.stopped) say(`Stopped before the end: ${d.stopped}.`);
  }

  /** Follows a job to its end, then shows the tree it built. */
  async function follow(job) {
    if (following?.id === job.id) return;
    following = job;
    showJob(job);
    try {
      const response = await call(`/v1/jobs/${job.id}/events`, { signal: context.signal });
      for await (const { data } of serverSentEvents(response.body)) {
        following = data;
        showJob(data);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      throw error;
    } finally {
      following = null;
      if (!context.signal.aborted) $("build").disabled = false;
    }
    await load();
  }

  async function build() {
    say("");
    const job = await (await post(base)).json();
    await follow(job);
  }

  async function running() {
    const { jobs } = await getJson(`/v1/jobs?collection=${encodeURIComponent(collection)}`);
    return jobs.find((job) => job.kind === "tree" && !["done", "failed", "cancelled"].includes(job.state));
  }

  // ---------------------------------------------------------------- the drawing

  /** Places items side by side in [x, x + width), each as wide as its size, and what is below them below. */
  function place(items, x, width, row, cells) {
    const total = items.reduce((sum, item) => sum + sizeOf(item), 0);
    let at = x;
    for (const item of items) {
      const own = (width * sizeOf(item)) / total;
      if (own >= LEAST_WIDTH) {
        const cell = { item, x: at, width: own, row, below: [] };
        cells.push(cell);
        if (isNode(item) && item.members) {
          const before = cells.length;
          place(item.members, at, own, row + 1, cells);
          cell.below = cells.slice(before).filter((other) => other.row === row + 1);
          cell.below.forEach((other) => (other.above = cell));
        }
      }
      at += own;
    }
  }

  let cells = [];

  function draw() {
    const chart = $("chart");
    const top = path.at(-1);
    const items = top ? [top] : roots;
    $("hint").hidden = items.length === 0;
    // An empty tree is no tree.
    for (const [name, value] of Object.entries({ role: "tree", "aria-label": "Summary tree" })) {
      if (items.length > 0) chart.setAttribute(name, value);
      else chart.removeAttribute(name);
    }
    drawCrumbs();
    if (items.length === 0) {
      $("legend").replaceChildren();
      chart.replaceChildren(
        el(
          "p",
          { className: "empty-tree" },
          status?.documents > 0 ? "No tree yet. Build one above; Plan says what it takes." : "The collection holds no documents yet.",
        ),
      );
      return;
    }
    const width = Math.max(280, chart.clientWidth);
    cells = [];
    place(items, 0, width, 0, cells);
    const rows = 1 + Math.max(...cells.map((cell) => cell.row));
    const picture = svg("svg", {
      viewBox: `0 0 ${width} ${rows * ROW}`,
      width: "100%",
      height: rows * ROW,
      preserveAspectRatio: "none",
      role: "presentation",
    });
    const groups = cells.map(drawCell);
    // The frame of what is chosen lies above its neighbours.
    const isChosen = (group) => group.classList.contains("chosen");
    picture.append(...groups.filter((group) => !isChosen(group)), ...groups.filter(isChosen));
    chart.replaceChildren(picture);
    showLegend();
  }

  function drawCell(cell, index) {
    const { item, x, width, row } = cell;
    const level = Math.min(5, levelOf(item));
    const classes = ["cell", `lv${level}`];
    if (level >= 4) classes.push("deep");
    if (isNode(item) && !item.members && item.member_count > 0) classes.push("more");
    if (chosen && keyOf(item) === keyOf(chosen)) classes.push("chosen");
    if (hits.has(keyOf(item))) classes.push("hit");
    const group = svg("g", {
      class: classes.join(" "),
      role: "treeitem",
      tabindex: index === 0 ? 0 : -1,
      "aria-level": row + 1,
      "aria-label": `${isNode(item) ? `level ${item.level}` : "passage"}, ${titleOf(item)}: ${item.text}`,
    });
    if (isNode(item)) group.setAttribute("aria-expanded", String(Boolean(item.members)));
    if (chosen) group.setAttribute("aria-selected", String(keyOf(item) === keyOf(chosen)));
    group.append(svg("title", {}, `${titleOf(item)}\n${item.text}`));
    group.append(svg("rect", { x: x + 0.5, y: row * ROW + 0.5, width: Math.max(1, width - 1), height: ROW - 1, rx: 4 }));
    const room = width - 14;
    if (room >= 5 * BOLD_LETTER) {
      const cut = (text, letter) => {
        const letters = Math.floor(room / letter);
        return text.length > letters ? `${text.slice(0, letters - 1).trimEnd()}…` : text;
      };
      const line = (text, letter, dy, extra) =>
        svg("text", { x: x + 7, y: row * ROW + dy, ...extra }, cut(text.replace(/\s+/g, " "), letter));
      group.append(
        line(titleOf(item), BOLD_LETTER, 18, { "font-weight": 600 }),
        line(item.text, LETTER, 35, { opacity: 0.85 }),
      );
    }
    cell.group = group;
    group.addEventListener("click", () => open(cell));
    group.addEventListener("dblclick", () => zoom(cell));
    group.addEventListener("keydown", (event) => keyed(event, cell));
    return group;
  }

  function showLegend() {
    const levels = [...new Set(cells.map((cell) => Math.min(5, levelOf(cell.item))))].sort((a, b) => b - a);
    const deepest = Math.max(...cells.map((cell) => levelOf(cell.item)));
    const key = (className, text) => el("li", {}, el("span", { className: `swatch ${className}` }), text);
    $("legend").replaceChildren(
      ...levels.map((level) => key(`lv${level}`, level === 0 ? "passages" : `level ${level}${level === 5 && deepest > 5 ? " and above" : ""}`)),
      ...(hits.size > 0 ? [key("hit", "found")] : []),
    );
  }

  function drawCrumbs() {
    const crumb = (text, index) => {
      const button = el("button", { type: "button", title: text }, text);
      button.addEventListener("click", () => {
        path = path.slice(0, index);
        draw();
      });
      return button;
    };
    const above = path.length > 0 ? [crumb(roots.length === 1 ? titleOf(roots[0]) : "All documents", 0)] : [];
    path.slice(0, -1).forEach((item, index) => above.push(crumb(titleOf(item), index + 1)));
    $("crumbs").replaceChildren(...above);
  }

  /** Shows a node over the whole width. */
  async function zoom(cell) {
    const { item } = cell;
    if (!isNode(item)) return;
    await attempt(async () => {
      await withMembers(item);
      if (path.at(-1) === item) {
        path.pop();
      } else {
        const between = [];
        for (let c = cell; c && c.item !== path.at(-1); c = c.above) between.unshift(c.item);
        path.push(...between.filter((one) => roots.length > 1 || one !== roots[0]));
      }
      draw();
      focusItem(item);
    });
  }

  function focusItem(item) {
    const cell = cells.find((c) => keyOf(c.item) === keyOf(item)) ?? cells[0];
    if (!cell) return;
    cells.forEach((c) => c.group.setAttribute("tabindex", c === cell ? 0 : -1));
    cell.group.focus();
  }

  /** Opens a node: its text beside the drawing, its members below it if they were not drawn yet. */
  async function open(cell) {
    await attempt(async () => {
      const fetched = isNode(cell.item) && !cell.item.members;
      await withMembers(cell.item);
      chosen = cell.item;
      const had = document.activeElement === cell.group;
      draw();
      if (had || fetched) focusItem(chosen);
      await showNode(chosen);
    });
  }

  function keyed(event, cell) {
    const row = cells.filter((other) => other.row === cell.row);
    const at = row.indexOf(cell);
    const to = {
      ArrowRight: row[at + 1],
      ArrowLeft: row[at - 1],
      ArrowUp: cell.above,
      ArrowDown: cell.below[0],
      Home: cells[0],
    }[event.key];
    if (to) {
      event.preventDefault();
      focusItem(to.item);
      return;
    }
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(cell);
    } else if (event.key === "+" || event.key === "z") {
      event.preventDefault();
      zoom(cell);
    } else if (event.key === "Escape" && path.length > 0) {
      event.preventDefault();
      const left = path.pop();
      draw();
      focusItem(left);
    }
  }

  // ---------------------------------------------------------------- one node

  const METHODS = {
    extractive: "Sentences of its members, word for word",
    abstractive: "Written by the generator; its names and numbers are in its members",
    extractive_fallback: "Sentences of its members: what the generator wrote did not pass the check",
  };

  async function showNode(item) {
    $("node-title").textContent = titleOf(item);
    if (!isNode(item)) {
      const text = await fullText(item);
      $("node-body").replaceChildren(
        facts([`passage`, `${count(item.tokens)} tokens`]),
        el("p", { className: "summary" }, text),
      );
      return;
    }
    const view = await getJson(`${base}?node=${item.id}&depth=1`);
    const node = view.roots[0];
    if (!isNode(node)) return;
    const members = node.members.map((member) => {
      const button = el(
        "button",
        { type: "button" },
        el("span", { className: `tag ${isNode(member) ? "" : "leaf"}` }, isNode(member) ? `level ${member.level}` : "passage"),
        el("span", { className: "origin" }, titleOf(member)),
        el("span", {}),
        el("span", { className: "excerpt" }, member.text),
      );
      button.addEventListener("click", () => {
        const cell = cells.find((c) => keyOf(c.item) === keyOf(member));
        if (cell) open(cell);
        else attempt(() => showNode(member));
      });
      return el("li", {}, button);
    });
    const body = [
      facts([
        `level ${node.level}`,
        plural(node.leaves, "passage"),
        plural(node.documents, "document"),
        `${count(node.tokens)} tokens`,
      ]),
      el("p", { className: "summary" }, node.text),
      el("p", { className: "note" }, `${METHODS[node.method]}.`),
    ];
    if (node.unsupported.length > 0) {
      body.push(
        el(
          "p",
          { className: "note" },
          `Written again ${node.regenerated === 1 ? "once" : `${node.regenerated} times`}, because its members do not hold: ${node.unsupported.join(", ")}.`,
        ),
      );
    }
    body.push(
      el("div", {}, el("h3", {}, "Members ", el("span", { className: "sub" }, count(node.member_count))), el("ul", { className: "members" }, ...members)),
      el("p", { className: "id" }, node.id),
    );
    $("node-body").replaceChildren(...body);
  }

  const facts = (list) => el("ul", { className: "facts" }, ...list.map((fact) => el("li", {}, fact)));

  /** Text of a passage, of which only the beginning may be here. */
  async function fullText(leaf) {
    if (!leaf.text.endsWith("…")) return leaf.text;
    for (const { item } of cells) {
      if (isNode(item) && item.members?.includes(leaf)) {
        const view = await getJson(`${base}?node=${item.id}&depth=1`);
        return view.roots[0].members.find((member) => keyOf(member) === keyOf(leaf))?.text ?? leaf.text;
      }
    }
    return leaf.text;
  }

  // ---------------------------------------------------------------- search

  const pickKey = (pick) => pick.node ?? `chunk ${pick.chunk.id}`;

  async function search(query) {
    if (!query) {
      hits = new Map();
      $("hits").hidden = true;
      draw();
      return;
    }
    const results = await (await post(`${base}/search`, { query })).json();
    hits = new Map(results.picks.map((pick) => [pickKey(pick), pick]));
    $("hits-note").textContent =
      results.picks.length > 0 ? `${plural(results.picks.length, "place")}, best first` : "nothing";
    say(results.notes.join(" "));
    $("hits-list").replaceChildren(
      ...results.picks.map((pick) => {
        const button = el(
          "button",
          { type: "button" },
          el("span", { className: `tag ${pick.level > 0 ? "" : "leaf"}` }, pick.level > 0 ? `level ${pick.level}` : "passage"),
          el("span", { className: "origin" }, pick.title || "several documents"),
          el("span", { className: "note" }, pick.score.toFixed(2)),
          el("span", { className: "excerpt" }, pick.text),
        );
        button.addEventListener("click", () => attempt(() => reveal(pick)));
        return el("li", {}, button);
      }),
    );
    $("hits").hidden = false;
    draw();
  }

  /** Shows what was found: in the drawing if it is there, else by itself. */
  async function reveal(pick) {
    const key = pickKey(pick);
    const cell = cells.find((c) => keyOf(c.item) === key);
    if (cell) return open(cell);
    if (pick.node) {
      const view = await getJson(`${base}?node=${pick.node}&depth=1&text_chars=${PREVIEW}`);
      chosen = view.roots[0];
      return showNode(chosen);
    }
    $("node-title").textContent = pick.title || "Passage";
    $("node-body").replaceChildren(el("p", { className: "summary" }, pick.text));
  }

  // ---------------------------------------------------------------- start

  document.title = `${collection} · summary tree · Edgewise`;
  $("plan").addEventListener("click", () => attempt(plan));
  $("build").addEventListener("click", () => attempt(build));
  $("pause").addEventListener("click", () =>
    attempt(async () => {
      if (following) await post(`/v1/jobs/${following.id}/${following.state === "paused" ? "resume" : "pause"}`);
    }),
  );
  $("cancel").addEventListener("click", () =>
    attempt(async () => {
      if (following) await post(`/v1/jobs/${following.id}/cancel`);
    }),
  );
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => search($("q").value.trim()));
  });
  let resized;
  window.addEventListener(
    "resize",
    () => {
      clearTimeout(resized);
      resized = setTimeout(() => !context.signal.aborted && draw(), 100);
    },
    { signal: context.signal },
  );

  try {
    await load();
    const asked = context.query;
    if (asked.get("node")) await reveal({ node: asked.get("node") });
    const query = asked.get("q");
    if (query) {
      $("q").value = query;
      await search(query);
    }
    const job = await running();
    if (job) attempt(() => follow(job));
  } catch (error) {
    for (const id of ["plan", "build"]) $(id).disabled = true;
    showFailure(error);
  }
}
