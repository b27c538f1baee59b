// One collection: its documents, the health of its indexes, its jobs, and a place to drop files on.

import { getJson, send, withQuery } from "../lib/api.js";
import { openSource } from "../lib/answer.js";
import { datum, el, throttled } from "../lib/dom.js";
import { bytes, count, exact, plural, when } from "../lib/format.js";
import { jobTable, merged } from "../lib/jobs.js";
import { actionButton, confirmed, emptyBox, pageHead, panel, table, tile } from "../lib/parts.js";
import { dropZone } from "../lib/upload.js";
import { indexBadge } from "./collections.js";

const PAGE = 100;

export async function mount(view, context) {
  const [name] = context.parameters;
  const base = `/v1/collections/${encodeURIComponent(name)}`;
  document.title = `${name} · Edgewise`;
  const first = await getJson(base);
  if (context.signal.aborted) return;

  const top = el("div", { class: "tiles", role: "group", "aria-label": "Figures" });
  const badge = el("span", {});
  function showStats(c) {
    badge.replaceChildren(indexBadge(c));
    top.replaceChildren(
      tile({ title: "Documents", name: "documents", value: c.documents, text: exact(c.documents) }),
      tile({ title: "Passages", name: "chunks", value: c.chunks, text: exact(c.chunks) }),
      tile({ title: "Tokens", name: "tokens", value: c.tokens, text: exact(c.tokens), note: "by the generator's tokenizer" }),
      tile({ title: "Text", name: "text-bytes", value: c.text_bytes, text: bytes(c.text_bytes) }),
      tile({ title: "Generation", name: "generation", value: c.generation, text: exact(c.generation), note: "grows with each change" }),
    );
    health.show(c);
  }

  // ------------------------------------------------------------ documents

  let offset = 0;
  let filter = "";
  const docPlace = el("div", {});
  const search = el(
    "form",
    { class: "row", role: "search" },
    el("input", { type: "search", name: "filter", "aria-label": "Only documents where", placeholder: "title like '*key*' and date >= 2020" }),
    el("button", { type: "submit", class: "secondary small" }, "Filter"),
  );
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    filter = search.elements.filter.value.trim();
    offset = 0;
    documents.refresh();
  });
  const documents = panel({
    title: "Documents",
    tools: search,
    load: () => getJson(withQuery(`${base}/documents`, { offset, limit: PAGE, filter })),
    render: ({ documents: list, total }) => {
      if (total === 0) {
        return filter
          ? emptyBox(el("p", {}, "No document is like that."))
          : emptyBox(el("p", {}, "No documents yet. Drop files above, or run ", el("code", {}, `edgewise ingest FOLDER --collection ${name}`), "."));
      }
      const turn = (by, text) =>
        el(
          "button",
          {
            type: "button",
            class: "secondary small",
            disabled: offset + by < 0 || offset + by >= total,
            onclick: () => {
              offset += by;
              documents.refresh();
            },
          },
          text,
        );
      return [
        table({
          label: "Documents",
          tall: true,
          columns: [
            {
              title: "Document",
              head: true,
              className: "text",
              cell: (d) =>
                el("button", { type: "button", class: "linklike", title: d.uri, onclick: () => openSource(name, { document: d.id, title: d.title, uri: d.uri }) }, d.title || d.uri),
            },
            { title: "Name", className: "text mono", cell: (d) => d.uri },
            { title: "Type", cell: (d) => d.media_type },
            { title: "Passages", n: true, cell: (d) => count(d.chunks) },
            { title: "Tokens", n: true, cell: (d) => count(d.tokens) },
            { title: "Text", n: true, cell: (d) => bytes(d.text_bytes) },
            { title: "Changed", cell: (d) => when(d.updated_at) },
            {
              title: "",
              n: true,
              cell: (d) =>
                actionButton(
                  "Delete",
                  async () => {
                    if (!(await confirmed(`Delete ${d.title || d.uri}?`, "Its passages are not found any more. The file it came from is left alone.", "Delete"))) return;
                    await send("DELETE", `${base}/documents/${encodeURIComponent(d.id)}`);
                    await refresh();
                  },
                  { className: "danger small", place: docPlace, label: `Delete ${d.title || d.uri}`, done: "Deleted." },
                ),
            },
          ],
          rows: list,
        }),
        docPlace,
        total > PAGE && el("div", { class: "row" }, turn(-PAGE, "Earlier"), turn(PAGE, "Later"), el("span", { class: "note" }, `${exact(offset + 1)} to ${exact(offset + list.length)} of ${exact(total)}`)),
      ];
    },
  });

  // ------------------------------------------------------------ health

  const found = el("div", { class: "stack" });
  const act = (text, job, className) => actionButton(text, job, { className, place: found });
  const report = ({ findings, notes, documents: n, chunks }) =>
    found.replaceChildren(
      findings.length === 0
        ? el("p", {}, el("span", { class: "badge ok" }, "sound"), ` ${plural(n, "document")} and ${plural(chunks, "passage")} were compared.`)
        : el("ul", {}, findings.map((f) => el("li", {}, el("span", { class: "badge bad" }, f.part), ` ${f.problem}`))),
      ...notes.map((note) => el("p", { class: "note" }, note)),
    );
  const health = panel({
    title: "Index",
    className: "w6",
    tools: [
      act("Check", async () => report(await (await send("POST", `${base}/check`)).json())),
      act("Repair", async () => {
        const { before, after } = await (await send("POST", `${base}/repair`)).json();
        report(after);
        found.prepend(el("p", {}, `${plural(before.findings.length - after.findings.length, "fault")} mended.`));
      }),
      act("Compact", async () => {
        const { bytes_before: before, bytes_after: after } = await (await send("POST", `${base}/compact`)).json();
        found.replaceChildren(el("p", {}, `${bytes(before)} before, ${bytes(after)} now.`));
      }),
    ],
    render: (c) => {
      const pair = (label, ...value) => [el("dt", {}, label), el("dd", {}, value)];
      const state = (at) => (at >= c.generation ? "up to date" : `${plural(c.generation - at, "change")} behind`);
      return [
        el(
          "dl",
          { class: "pairs" },
          pair("Words", state(c.lexical_generation)),
          pair("Vectors", state(c.vector_generation)),
          pair("Graph", c.building_graph ? "being built; an exact scan answers" : c.graph_vectors > 0 ? `${plural(c.graph_vectors, "vector")}` : "none: an exact scan is faster at this size"),
          pair("Embedder", c.embedder),
        ),
        found,
      ];
    },
  });
  const tree = panel({
    title: "Summary tree",
    className: "w6",
    tools: el("a", { class: "button secondary small", href: `/collections/${encodeURIComponent(name)}/tree` }, "Open the tree"),
    load: async () => (await getJson(`${base}/tree?depth=0&text_chars=1`)).status,
    render: (s) =>
      s.built
        ? el(
            "dl",
            { class: "pairs" },
            el("dt", {}, "State"),
            el("dd", {}, s.current ? el("span", { class: "badge ok" }, "up to date") : el("span", { class: "badge warn" }, `${plural(s.documents_behind, "document")} behind`)),
            el("dt", {}, "Nodes"),
            el("dd", {}, `${count(s.nodes)} on ${plural(s.levels, "level")}`),
            el("dt", {}, "Written by"),
            el("dd", {}, s.summariser ?? "–"),
          )
        : emptyBox(el("p", {}, "Not built. It answers what passages can't: what something is about as a whole.")),
  });

  // ------------------------------------------------------------ jobs

  const jobPlace = el("div", {});
  let jobs = [];
  const work = panel({
    title: "Jobs",
    load: async () => {
      ({ jobs } = await getJson(withQuery("/v1/jobs", { collection: name })));
      return jobs;
    },
    render: (all) =>
      all.length === 0
        ? emptyBox(el("p", {}, "No jobs of this collection."))
        : [jobTable(all, { changed: () => work.refresh(), place: jobPlace, collection: false }), jobPlace],
  });

  const removal = el("div", {});
  const remove = actionButton(
    "Delete the collection",
    async () => {
      if (!(await confirmed(`Delete ${name}?`, "Its documents, indexes and summary tree are deleted. This can't be taken back.", "Delete all of it"))) return;
      await send("DELETE", base);
      await context.go("/collections");
    },
    { className: "danger small", place: removal },
  );
  const refresh = async () => {
    showStats(await getJson(base));
    await documents.refresh();
  };
  const upload = panel({ title: "Add documents" });
  upload.body.replaceChildren(dropZone({ target: () => name, done: () => refresh() }));

  view.append(
    pageHead(name, {
      trail: [["Collections", "/collections"]],
      lead: badge,
      tools: [
        el("a", { class: "button small", href: `/ask?collection=${encodeURIComponent(name)}` }, "Ask"),
        el("a", { class: "button secondary small", href: `/requests?collection=${encodeURIComponent(name)}` }, "Requests"),
        el("a", { class: "button secondary small", href: `${base}/export`, download: `${name}.edgewise` }, "Export"),
        context.may.write && remove,
      ],
    }),
    removal,
    top,
    context.may.write ? upload.node : "",
    documents.node,
    el("div", { class: "cols" }, health.node, tree.node),
    work.node,
  );
  showStats(first);
  const soon = throttled(() => {
    refresh();
    tree.refresh();
  }, 3000);
  context.live("jobs", (job) => {
    if (!job) return work.refresh();
    if (job.collection !== name) return undefined;
    jobs = merged(jobs, job);
    soon();
    return work.show(jobs);
  });
  context.signal.addEventListener("abort", () => soon.stop());
  await Promise.all([documents.refresh(), tree.refresh(), work.refresh()]);
}
