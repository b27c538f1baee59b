// Collections: what there is to ask, and the work that goes on.

import { ApiFailure, getJson, send } from "../lib/api.js";
import { datum, el, throttled } from "../lib/dom.js";
import { bytes, count, exact, plural } from "../lib/format.js";
import { jobTable, merged } from "../lib/jobs.js";
import { emptyBox, failureBox, pageHead, panel, table } from "../lib/parts.js";

export function indexBadge(c) {
  const behind = Math.max(c.generation - c.lexical_generation, c.generation - c.vector_generation);
  if (behind <= 0) return el("span", { class: "badge ok" }, "up to date");
  return el("span", { class: "badge warn", title: "Until it has caught up, search scans what is missing." }, `${plural(behind, "change")} behind`);
}

export async function mount(view, context) {
  const list = panel({
    title: "Collections",
    load: () => getJson("/v1/collections"),
    render: ({ collections, damaged }) => {
      if (collections.length + damaged.length === 0) {
        return emptyBox(
          el("p", {}, "No collections yet."),
          el("p", {}, "Make one below and drop documents into it, or run ", el("code", {}, "edgewise ingest FOLDER --collection NAME"), "."),
        );
      }
      return [
        table({
          label: "Collections",
          href: (c) => `/collections/${encodeURIComponent(c.name)}`,
          columns: [
            { title: "Name", head: true, cell: (c) => el("a", { href: `/collections/${encodeURIComponent(c.name)}` }, c.name) },
            { title: "Documents", n: true, cell: (c) => datum(c.documents, exact(c.documents), `${c.name}-documents`) },
            { title: "Passages", n: true, cell: (c) => datum(c.chunks, exact(c.chunks), `${c.name}-chunks`) },
            { title: "Tokens", n: true, cell: (c) => datum(c.tokens, count(c.tokens), `${c.name}-tokens`) },
            { title: "Text", n: true, cell: (c) => bytes(c.text_bytes) },
            { title: "Index", cell: indexBadge },
            { title: "Embedder", cell: (c) => c.embedder },
            { title: "", n: true, cell: (c) => el("a", { href: `/ask?collection=${encodeURIComponent(c.name)}` }, "Ask") },
          ],
          rows: collections,
          empty: "No collection that works.",
        }),
        damaged.map((c) =>
          el(
            "div",
            { class: "failure" },
            el("p", {}, el("strong", {}, c.name), ` can't be opened: ${c.error.message}`),
            c.error.hint && el("p", { class: "hint" }, c.error.hint),
          ),
        ),
      ].flat();
    },
  });

  const place = el("div", {});
  const form = el(
    "form",
    { class: "form-row" },
    el(
      "label",
      { class: "field grow" },
      el("span", {}, "Name"),
      el("input", { name: "name", required: true, autocomplete: "off", placeholder: "handbook", "aria-describedby": "name-note" }),
    ),
    el("button", { type: "submit" }, "Make"),
  );
  const making = panel({ title: "New collection" });
  making.body.replaceChildren(form, place);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = String(new FormData(form).get("name")).trim();
    try {
      await send("POST", "/v1/collections", { name });
      context.go(`/collections/${encodeURIComponent(name)}`);
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      place.replaceChildren(failureBox(error));
    }
  });
  form.querySelector("input").removeAttribute("aria-describedby");

  const jobPlace = el("div", {});
  let jobs = [];
  const work = panel({
    title: "Jobs",
    note: "newest first",
    load: async () => {
      ({ jobs } = await getJson("/v1/jobs"));
      return jobs;
    },
    render: (all) =>
      all.length === 0
        ? emptyBox(el("p", {}, "No jobs. Building a summary tree, for one, is a job."))
        : [jobTable(all, { changed: () => work.refresh(), place: jobPlace }), jobPlace],
  });

  view.append(pageHead("Collections"), list.node, context.may.write ? making.node : "", work.node);
  const soon = throttled(() => list.refresh(), 2000);
  context.live("jobs", (job) => {
    soon();
    if (!job) return work.refresh();
    jobs = merged(jobs, job);
    return work.show(jobs);
  });
  context.every(15_000, soon);
  context.signal.addEventListener("abort", () => soon.stop());
  await Promise.all([list.refresh(), work.refresh()]);
}
