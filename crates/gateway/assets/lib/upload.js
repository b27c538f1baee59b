// Files to a collection: dropped, or chosen. In batches, one after the other, each with its progress; every file gets its
// own outcome, and one that can't be read keeps no other out.

import { ApiFailure } from "./api.js";
import { el, say } from "./dom.js";
import { bytes, plural } from "./format.js";
import { meter } from "./parts.js";

const BATCH_FILES = 16;
const BATCH_BYTES = 16 * 1024 * 1024;
const WORDS = { added: "ok", changed: "ok", unchanged: "", removed: "warn", failed: "bad" };

/** All files below what was dropped, folders included, with their paths. */
async function dropped(items) {
  const files = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      files.push({ file, name: path + file.name });
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (part.length === 0) return;
      for (const one of part) await walk(one, `${path}${entry.name}/`);
    }
  };
  for (const entry of items) await walk(entry, "");
  return files;
}

function batches(files) {
  const list = [];
  let size = Infinity;
  for (const one of files) {
    if (size + one.file.size > BATCH_BYTES || list.at(-1)?.length >= BATCH_FILES) {
      list.push([]);
      size = 0;
    }
    list.at(-1).push(one);
    size += one.file.size;
  }
  return list;
}

/** `fetch` can't tell how much was sent. */
function post(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(request.response);
      else {
        const error = request.response?.error ?? { message: `The server answered with status ${request.status}.` };
        reject(new ApiFailure(error, request.status));
      }
    });
    const gone = { message: "The upload was cut off.", hint: "Check that the server still runs, and send the files again: what was added is kept." };
    request.addEventListener("error", () => reject(new ApiFailure(gone)));
    request.send(form);
  });
}

/** A place to drop files on. `target()` gives the collection's name, `done` is called after each batch. */
export function dropZone({ target, done }) {
  const input = el("input", { type: "file", multiple: true, class: "sr", tabindex: "-1", "aria-hidden": "true" });
  const folder = el("input", { type: "file", multiple: true, class: "sr", webkitdirectory: true, tabindex: "-1", "aria-hidden": "true" });
  const list = el("ul", { class: "uploads", "aria-label": "Uploads" });
  const zone = el(
    "div",
    { class: "drop" },
    el("span", {}, "Drop files or folders here"),
    el(
      "span",
      { class: "row" },
      el("button", { type: "button", class: "secondary small", onclick: () => input.click() }, "Choose files"),
      el("button", { type: "button", class: "secondary small", onclick: () => folder.click() }, "Choose a folder"),
    ),
    input,
    folder,
  );
  let queue = Promise.resolve();

  async function send(batch) {
    const size = batch.reduce((sum, { file }) => sum + file.size, 0);
    const title = batch.length === 1 ? batch[0].name : `${batch[0].name} and ${plural(batch.length - 1, "more", "more")}`;
    const state = el("span", { class: "note" }, bytes(size));
    const outcomes = el("div", { class: "note" });
    const bar = el("div", {}, meter(0));
    const line = el("li", {}, el("span", { class: "ellipsis" }, title), state, bar, outcomes);
    list.prepend(line);
    const form = new FormData();
    for (const { file, name } of batch) form.append("file", file, name);
    try {
      const path = `/v1/collections/${encodeURIComponent(target())}/documents`;
      const report = await post(path, form, (share) => {
        bar.replaceChildren(meter(share));
        state.textContent = share < 1 ? `${Math.round(share * 100)} %` : "Reading and embedding";
      });
      const sums = Object.entries(Object.groupBy(report.sources, (s) => s.outcome));
      bar.replaceChildren(meter(1));
      state.replaceChildren(
        ...sums.flatMap(([name, all]) => [el("span", { class: `badge ${WORDS[name] ?? ""}` }, `${all.length} ${name}`), " "]),
      );
      outcomes.replaceChildren(
        ...report.sources.filter((s) => s.outcome === "failed").map((s) => el("p", {}, `${s.uri}: ${s.reason}`)),
      );
      say(`${title}: ${sums.map(([name, all]) => `${all.length} ${name}`).join(", ")}.`);
      done(report);
    } catch (error) {
      if (!(error instanceof ApiFailure)) throw error;
      bar.replaceChildren(meter(1, "bad"));
      state.replaceChildren(el("span", { class: "badge bad" }, "failed"));
      outcomes.replaceChildren(el("p", {}, [error.message, error.hint].filter(Boolean).join(" ")));
    }
  }

  function take(files) {
    const good = files.filter(({ name }) => !name.split("/").some((part) => part.startsWith(".")));
    for (const batch of batches(good)) queue = queue.then(() => send(batch));
  }

  for (const one of [input, folder]) {
    one.addEventListener("change", () => {
      take([...one.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
      one.value = "";
    });
  }
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    // Both lists are gone after the first wait. What was not dragged from a folder has no entries, only files.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...event.dataTransfer.files].map((file) => ({ file, name: file.name }));
    take(entries.length > 0 ? await dropped(entries) : plain);
  });
  return el("div", {}, zone, list);
}
