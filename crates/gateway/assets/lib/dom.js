// Elements. Text from documents and models only ever becomes text nodes, so nothing in it is markup here.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

const present = (child) => child !== null && child !== undefined && child !== false;

/**
 * An element. Of `properties`, `class`, `data-…`, `aria-…`, `role`, `for` and the like become attributes, `on…` listeners,
 * `style` single declarations (the policy of the pages forbids style attributes, not the object model), the rest
 * properties. Strings become text.
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (!present(value)) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name === "class") node.className = value;
    else if (name in node && !name.includes("-") && name !== "role") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter(present));
  return node;
}

/** An SVG element with attributes and children; strings become text. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (present(value)) node.setAttribute(name, value);
  node.append(...children.flat().filter(present));
  return node;
}

/** Announces something to a screen reader. */
export function say(text) {
  $("said").textContent = text;
}

let ids = 0;
/** An id that no other element has. */
export const freshId = (stem) => `${stem}-${(ids += 1)}`;

/** A value as shown, with the value itself for whoever reads the page by program. */
export const datum = (value, text, name) =>
  el("data", { value: value === null || value === undefined ? "" : String(value), "data-name": name }, text);

/** Runs `job` at most once every `ms`, and once more after the last call. */
export function throttled(job, ms) {
  let last = 0;
  let timer = 0;
  const run = () => {
    timer = 0;
    last = Date.now();
    job();
  };
  const ask = () => {
    if (!timer) timer = setTimeout(run, Math.max(0, last + ms - Date.now()));
  };
  ask.stop = () => clearTimeout(timer);
  return ask;
}
