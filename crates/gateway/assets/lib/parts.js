// What pages are put together from: heads, panels with their states, tables, badges.

import { ApiFailure } from "./api.js";
import { datum, el, freshId, say } from "./dom.js";
import { words } from "./format.js";

const ROUTES = ["passages", "tree", "documents", "full", "stream", "chat", "warm"];
/** The order in which routes are listed and stacked, everywhere. */
export const routeOrder = (a, b) => {
  const rank = (name) => (ROUTES.includes(name) ? ROUTES.indexOf(name) : ROUTES.length);
  return rank(a) - rank(b) || String(a).localeCompare(String(b));
};
export const routeColour = (name) => (ROUTES.includes(name) ? `var(--r-${name})` : "var(--r-chat)");
export const routeName = (name) => el("span", { class: "route", style: { "--colour": routeColour(name) } }, words(name));

const SERIES = ["passages", "tree", "documents", "full", "stream", "chat"].map((name) => `var(--r-${name})`);
/** Colours of things that have none of their own, such as tenants: by place in their list. */
export const seriesColour = (index) => SERIES[index % SERIES.length];

/** Classes of tokens, in the order in which they are stacked. */
export const TOKEN_CLASSES = [
  { key: "cache_read_tokens", name: "from cache", colour: "var(--t-read)" },
  { key: "cache_write_5m_tokens", name: "written, 5 min", colour: "var(--t-write)" },
  { key: "cache_write_1h_tokens", name: "written, 1 h", colour: "var(--r-stream)" },
  { key: "input_tokens", name: "computed", colour: "var(--t-input)" },
];

const STATUS = { answered: "ok", unanswerable: "warn", cancelled: "", failed: "bad" };
export const statusBadge = (status) => el("span", { class: `badge ${STATUS[status] ?? ""}` }, words(status));

// ---------------------------------------------------------------- the head of a page

/** `trail` is a list of [name, href] above the title. */
export function pageHead(title, { lead, trail = [], tools = [] } = {}) {
  const above = trail.flatMap(([name, href]) => [el("a", { href }, name), " / "]);
  return el(
    "div",
    { class: "page-head" },
    trail.length > 0 && el("nav", { class: "trail", "aria-label": "Where you are" }, above),
    el("h1", { tabindex: "-1" }, title),
    lead && el("p", { class: "lead" }, lead),
    el("div", { class: "tools" }, tools),
  );
}

// ---------------------------------------------------------------- states

export function failureBox(error, again) {
  return el(
    "div",
    { class: "failure", role: "alert" },
    el("p", {}, error.message),
    error.hint && el("p", { class: "hint" }, error.hint),
    again && el("button", { type: "button", class: "secondary small", onclick: again }, "Try again"),
  );
}

/** Nothing to show: why, and what would change that. */
export const emptyBox = (...children) => el("div", { class: "state" }, children);
export const loadingBox = () => el("div", { class: "state loading" }, el("span", {}, "Loading"));

/** Remembers where the focus is and how far tables are scrolled; the result puts both back into new content. */
function placeIn(body) {
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const name = (node) => `${node.tagName} ${node.getAttribute("href") ?? node.getAttribute("aria-label") ?? node.textContent}`;
  const wanted = focused && name(focused);
  const scrolls = [...body.querySelectorAll(".scroll")].map((node) => [node.scrollLeft, node.scrollTop]);
  return () => {
    body.querySelectorAll(".scroll").forEach((node, i) => {
      if (scrolls[i]) [node.scrollLeft, node.scrollTop] = scrolls[i];
    });
    if (!wanted) return;
    const again = [...body.querySelectorAll("a, button, [tabindex]")].find((node) => name(node) === wanted);
    again?.focus({ preventScroll: true });
  };
}

/**
 * A panel that loads its content: `load` gives data, `render` makes nodes of it. What is shown stays while new data is on
 * its way, and changes only if the data did, so that a selection is not lost to a refresh. The last call wins.
 */
export function panel({ title, note, tools = [], className = "", load, render, level = "h2" }) {
  const id = freshId("panel");
  const body = el("div", { class: "panel-body" }, loadingBox());
  const noteNode = el("span", { class: "note" }, note ?? "");
  const toolsNode = el("div", { class: "tools" }, tools);
  const node = el(
    "section",
    { class: `panel ${className}`, "aria-labelledby": id },
    el("div", { class: "panel-head" }, el(level, { id }, title), noteNode, toolsNode),
    body,
  );
  let shown = null;
  let turn = 0;
  const self = {
    node,
    body,
    tools: toolsNode,
    note: (text) => (noteNode.textContent = text),
    /** Shows data that is here already. */
    show(data) {
      const text = JSON.stringify(data);
      if (text === shown) return;
      shown = text;
      const back = placeIn(body);
      body.replaceChildren(...[render(data)].flat(2).filter((child) => child || child === 0));
      back();
    },
    fail(error, again) {
      shown = null;
      body.replaceChildren(failureBox(error, again));
    },
    async refresh() {
      const mine = (turn += 1);
      try {
        const data = await load();
        if (mine === turn) self.show(data);
      } catch (error) {
        if (mine === turn) self.fail(error, () => self.refresh());
        if (!(error instanceof ApiFailure)) throw error;
      }
    },
  };
  return self;
}

/** Loads once for several panels: each gets the data, or the failure with a way to try again. */
export async function fill(panels, load) {
  try {
    const data = await load();
    for (const one of panels) one.show(data);
    return data;
  } catch (error) {
    for (const one of panels) one.fail(error, () => fill(panels, load));
    if (!(error instanceof ApiFailure)) throw error;
    return null;
  }
}

// ---------------------------------------------------------------- tiles

/** A figure with what it means. `value` is the figure itself, for whoever reads the page by program. */
export function tile({ title, name, value, text, note, spark }) {
  return el(
    "div",
    { class: "tile" },
    el("h2", {}, title),
    el("p", { class: "figure" }, datum(value, text, name)),
    el("p", { class: "note" }, note ?? ""),
    spark,
  );
}

/** As many tiles as there will be, so that nothing jumps when their figures come. */
export const loadingTiles = (n) =>
  Array.from({ length: n }, () =>
    el("div", { class: "tile" }, el("h2", {}, "\u00a0"), el("p", { class: "figure", "aria-label": "Loading" }, "…"), el("p", { class: "note" })),
  );

// ---------------------------------------------------------------- tables

/**
 * A table in a region that scrolls by itself. `columns` are { title, cell(row), n, className, head }; with `head` the cell
 * names its row. `href(row)` makes a row lead somewhere: its first cell holds the link, the rest of the row is for the mouse.
 */
export function table({ label, columns, rows, href, foot, tall = false, empty, fresh }) {
  const body = rows.map((row) => {
    const cells = columns.map((column) => {
      const content = [column.cell(row)].flat();
      const className = [column.n && "n", column.className].filter(Boolean).join(" ");
      return column.head ? el("th", { scope: "row", class: className }, content) : el("td", { class: className }, content);
    });
    const to = href?.(row);
    const line = el("tr", { class: [to && "linked", fresh?.(row) && "fresh"].filter(Boolean).join(" ") }, cells);
    if (to) {
      line.addEventListener("click", (event) => {
        if (!event.target.closest("a, button, input") && !String(getSelection())) line.querySelector("a")?.click();
      });
    }
    return line;
  });
  if (rows.length === 0) {
    body.push(el("tr", {}, el("td", { colSpan: columns.length, class: "why" }, empty ?? "Nothing here yet.")));
  }
  const head = columns.map((c) => el("th", { scope: "col", class: c.n ? "n" : "" }, c.title));
  return el(
    "div",
    { class: `scroll${tall ? " tall" : ""}`, role: "region", "aria-label": label, tabindex: "0" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, head)),
      el("tbody", {}, body),
      foot && el("tfoot", {}, el("tr", {}, foot)),
    ),
  );
}

// ---------------------------------------------------------------- actions

/** A button that does one thing at a time and says how it went; failures appear in `place`. */
export function actionButton(text, action, { className = "secondary small", place, label, done } = {}) {
  const button = el("button", { type: "button", class: className, "aria-label": label }, text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    place?.replaceChildren();
    try {
      await action();
      if (done) say(done);
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      if (place) place.replaceChildren(failureBox(error));
      else say(error.message);
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

/** Asks before something that can't be taken back. Resolves to whether it was agreed to. */
export function confirmed(question, explanation, verb) {
  return new Promise((resolve) => {
    const id = freshId("confirm");
    const dialog = el(
      "dialog",
      { class: "narrow", "aria-labelledby": id },
      el("header", {}, el("h2", { id }, question)),
      el(
        "form",
        { class: "body", method: "dialog" },
        el("p", {}, explanation),
        el(
          "div",
          { class: "form-row" },
          el("button", { class: "danger", value: "yes" }, verb),
          el("button", { class: "secondary", value: "no", autofocus: true }, "Cancel"),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export const legend = (entries) =>
  el(
    "ul",
    { class: "legend" },
    entries.map(({ name, colour }) =>
      el("li", {}, el("span", { class: "swatch", style: { "--colour": colour } }), name),
    ),
  );

/** Parts of a whole, side by side. */
export function split(parts, label) {
  const bars = parts
    .filter((part) => part.value > 0)
    .map((part) => el("span", { style: { "flex-grow": String(part.value), "--colour": part.colour }, title: part.name }));
  return el("div", { class: "split", role: "img", "aria-label": label }, bars);
}

export function meter(share, className = "") {
  const bar = el("span", { style: { width: `${Math.max(0, Math.min(1, share)) * 100}%` } });
  return el("div", { class: `meter ${className}`, "aria-hidden": "true" }, bar);
}
