// What the pages share: elements, formats, the API.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; strings become text. */
export function el(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// ---------------------------------------------------------------- formats

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const day = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});

export const count = (n) => (n < 100_000 ? whole.format(n) : compact.format(n));
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
export const duration = (ms) => {
  if (!(ms > 0)) return "–";
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  return ms < 100_000 ? `${(ms / 1000).toFixed(1)} s` : `${whole.format(ms / 1000)} s`;
};
/** Amounts are decimal strings in dollars; shown with as many decimals as say something. */
export const money = (amount) => {
  const dollars = Number(amount);
  const sign = dollars < 0 ? "−" : "";
  const size = Math.abs(dollars);
  if (size === 0) return "$0";
  const decimals = size >= 1 ? 2 : Math.min(9, 2 - Math.floor(Math.log10(size)));
  return `${sign}$${size.toFixed(decimals)}`;
};
export const promptTokens = (u) => u.input_tokens + u.cache_read_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens;
export const when = (time) => {
  const date = new Date(time);
  return (date.toDateString() === new Date().toDateString() ? clock : day).format(date);
};

// ---------------------------------------------------------------- the API

export class ApiFailure extends Error {
  constructor({ message, hint }) {
    super(message);
    this.hint = hint;
  }
}

/** The response, or an error with the server's own message. */
export async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiFailure({ message: "The server can't be reached.", hint: "Check that it still runs." });
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiFailure(body?.error ?? { message: `The server answered with status ${response.status}.` });
}

export const getJson = async (path) => (await call(path)).json();

/** Events of a stream: the fields `event` and `data` of the server-sent events format. */
export async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const lines = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const field = (name) =>
        lines.filter((l) => l.startsWith(`${name}:`)).map((l) => l.slice(name.length + 1).replace(/^ /, ""));
      const data = field("data").join("\n");
      if (data) yield { event: field("event")[0] ?? "message", data: JSON.parse(data) };
    }
  }
}

// ---------------------------------------------------------------- the head of a page

export function setStatus(state, text) {
  $("status").className = `status ${state}`;
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}
