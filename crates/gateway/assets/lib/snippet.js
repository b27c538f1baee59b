// The same request outside of these pages: for a shell, and for Python with nothing installed.

import { el, freshId, say } from "./dom.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl(path, body) {
  return [
    `curl -sS ${quoted(location.origin + path)} \\`,
    `  -H 'content-type: application/json' \\`,
    `  -H "authorization: Bearer $EDGEWISE_API_KEY" \\`,
    `  -d ${quoted(JSON.stringify(body))}`,
  ].join("\n");
}

/** A value of JSON as Python writes it. */
function python(value, indent = "") {
  const inner = `${indent}    `;
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) {
    return value.length === 0 ? "[]" : `[\n${value.map((v) => inner + python(v, inner)).join(",\n")},\n${indent}]`;
  }
  if (typeof value === "object") {
    const fields = Object.entries(value).map(([k, v]) => `${inner}${JSON.stringify(k)}: ${python(v, inner)}`);
    return fields.length === 0 ? "{}" : `{\n${fields.join(",\n")},\n${indent}}`;
  }
  return JSON.stringify(value);
}

function pythonScript(path, body) {
  return `import json
import os
import urllib.request

request = urllib.request.Request(
    ${JSON.stringify(location.origin + path)},
    data=json.dumps(${python(body, "    ")}).encode(),
    headers={
        "content-type": "application/json",
        "authorization": "Bearer " + os.environ.get("EDGEWISE_API_KEY", ""),
    },
)
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
print(answer["text"])
for citation in answer["citations"]:
    print(f"[{citation['n']}] {citation['uri']}: {citation['quote']}")`;
}

/** Shows `POST path` with `body` as something to copy. */
export function showSnippets(path, body) {
  const id = freshId("copy");
  const forms = { curl: curl(path, body), Python: pythonScript(path, body) };
  const code = el("pre", { class: "snippet", tabindex: "0" }, forms.curl);
  const name = freshId("form");
  const choice = el(
    "fieldset",
    { class: "segmented small" },
    el("legend", { class: "sr" }, "For"),
    Object.keys(forms).map((form, i) =>
      el(
        "label",
        {},
        el("input", { type: "radio", name, checked: i === 0, onchange: () => (code.textContent = forms[form]) }),
        el("span", {}, form),
      ),
    ),
  );
  const copy = el("button", { type: "button", class: "small" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
      say("Copied.");
    } catch {
      // Only pages served over TLS or from this machine may write to the clipboard.
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected: press Ctrl+C";
    }
  });
  const dialog = el(
    "dialog",
    { "aria-labelledby": id },
    el(
      "header",
      {},
      el("h2", { id }, "The same by program"),
      el("button", { type: "button", class: "secondary small", onclick: () => dialog.close() }, "Close"),
    ),
    el(
      "div",
      { class: "body" },
      el("div", { class: "form-row" }, choice, copy),
      code,
      el("p", { class: "note" }, "The key is read from EDGEWISE_API_KEY; a server without keys ignores it."),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
