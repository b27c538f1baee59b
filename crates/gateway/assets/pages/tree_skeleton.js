// What the page of a summary tree is made of, before anything is known of the tree.

import { el } from "../lib/dom.js";
import { pageHead } from "../lib/parts.js";

/** What the page is made of; texts come later. */
export function skeleton(collection) {
  const button = (id, text, className = "secondary small") => el("button", { type: "button", id, class: className }, text);
  return [
    pageHead("Summary tree", {
      trail: [
        ["Collections", "/collections"],
        [collection, `/collections/${encodeURIComponent(collection)}`],
      ],
      lead: el("span", { class: "badge", id: "verdict", hidden: true }),
      tools: [button("plan", "Plan", "secondary"), button("build", "Build", "")],
    }),
    el(
      "section",
      { class: "panel", "aria-label": "State of the tree" },
      el("ul", { class: "facts", id: "facts" }),
      el(
        "div",
        { id: "job", class: "job", hidden: true },
        el(
          "div",
          { class: "job-line" },
          el("span", { id: "job-text", role: "status" }),
          el("span", { class: "job-actions" }, button("pause", "Pause"), button("cancel", "Cancel")),
        ),
        el(
          "div",
          { class: "meter", role: "progressbar", "aria-label": "Documents built", "aria-valuemin": "0", id: "job-meter" },
          el("span", { id: "job-bar" }),
        ),
      ),
      el("p", { id: "tree-said", class: "note said", hidden: true }),
      el("div", { id: "tree-failure", class: "failure", role: "alert", hidden: true }),
    ),
    el(
      "div",
      { class: "tree-grid" },
      el(
        "section",
        { class: "panel", "aria-labelledby": "chart-title" },
        el(
          "div",
          { class: "chart-head" },
          el("h2", { id: "chart-title" }, "Nodes"),
          el(
            "form",
            { id: "search", role: "search" },
            el("label", { class: "sr", for: "q" }, "Search the tree"),
            el("input", { id: "q", name: "q", type: "search", placeholder: "Which nodes would answer …", autocomplete: "off" }),
            el("button", { type: "submit", class: "secondary small" }, "Search"),
          ),
        ),
        el("nav", { class: "crumbs", id: "crumbs", "aria-label": "Above what is shown" }),
        el("div", { id: "chart", class: "icicle", tabindex: "-1" }),
        el("ul", { class: "legend", id: "legend" }),
        el(
          "p",
          { class: "note", id: "hint", hidden: true },
          "Arrow keys move, Enter opens a node, + shows it over the whole width, Escape goes up.",
        ),
        el(
          "div",
          { id: "hits", hidden: true },
          el("h3", {}, "Found ", el("span", { class: "sub", id: "hits-note" })),
          el("ol", { class: "hits", id: "hits-list" }),
        ),
      ),
      el(
        "aside",
        { class: "panel node", "aria-labelledby": "node-title", id: "node" },
        el("h2", { id: "node-title", tabindex: "-1" }, "No node chosen"),
        el(
          "div",
          { id: "node-body" },
          el("p", { class: "note" }, "Choose a node to read its summary and what it is made of."),
        ),
      ),
    ),
  ];
}
