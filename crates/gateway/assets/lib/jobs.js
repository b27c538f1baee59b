// Background work as a list: how far it is, and pausing, going on and cancelling it.

import { send } from "./api.js";
import { el } from "./dom.js";
import { count, duration, when, words } from "./format.js";
import { actionButton, meter, table } from "./parts.js";

const OVER = ["done", "failed", "cancelled"];
const LOOK = { running: "ok", queued: "", paused: "warn", done: "ok", failed: "bad", cancelled: "" };
const LEAST = 1;

const progress = (job) => {
  const share = job.state === "done" ? 1 : job.total > 0 ? job.done / job.total : 0;
  return el("div", { title: `${count(job.done)} of ${count(job.total)}` }, meter(share, job.state === "failed" ? "bad" : ""));
};

function took(job) {
  if (!job.started_at) return "–";
  const end = job.finished_at ? Date.parse(job.finished_at) : Date.now();
  return duration(Math.max(LEAST, end - Date.parse(job.started_at)));
}

/** The table of jobs; `changed` is called when one was told to do something, `place` shows what went wrong. */
export function jobTable(jobs, { changed, place, collection = true }) {
  const act = (job, verb, className) =>
    actionButton(
      verb[0].toUpperCase() + verb.slice(1),
      async () => {
        await send("POST", `/v1/jobs/${encodeURIComponent(job.id)}/${verb}`);
        await changed();
      },
      { className, place, label: `${verb} the ${job.kind} job of ${job.collection}` },
    );
  const actions = (job) => {
    if (OVER.includes(job.state)) return "";
    return el(
      "span",
      { class: "row" },
      job.state === "paused" ? act(job, "resume", "secondary small") : act(job, "pause", "secondary small"),
      act(job, "cancel", "danger small"),
    );
  };
  return table({
    label: "Jobs",
    columns: [
      { title: "Job", head: true, cell: (job) => words(job.kind) },
      ...(collection
        ? [{ title: "Collection", cell: (job) => el("a", { href: `/collections/${encodeURIComponent(job.collection)}` }, job.collection) }]
        : []),
      { title: "State", cell: (job) => el("span", { class: `badge ${LOOK[job.state] ?? ""}` }, job.state) },
      { title: "Progress", className: "bar-cell", cell: progress },
      { title: "Done", n: true, cell: (job) => (job.total > 0 ? `${count(job.done)} of ${count(job.total)}` : "–") },
      { title: "Began", cell: (job) => (job.started_at ? when(job.started_at) : "–") },
      { title: "Took", n: true, cell: took },
      { title: "", className: "wide", cell: (job) => job.error ?? actions(job) },
    ],
    rows: jobs,
    empty: "No jobs.",
  });
}

export const isOver = (job) => OVER.includes(job.state);
/** The list with a job in the state that an event told of. */
export function merged(jobs, job) {
  const others = jobs.filter((one) => one.id !== job.id);
  return [job, ...others].sort((a, b) => b.created_at.localeCompare(a.created_at));
}
