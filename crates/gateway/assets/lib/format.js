// How values are written. One place, so that a figure looks the same on every page.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const style = (options) => new Intl.DateTimeFormat(undefined, { hourCycle: "h23", ...options });
const clock = style({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = style({ hour: "2-digit", minute: "2-digit" });
const dayMinute = style({ month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const utcDay = style({ month: "short", day: "numeric", timeZone: "UTC" });
const full = style({ dateStyle: "medium", timeStyle: "medium" });

export const NONE = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(Number(value));

export const count = (n) => (!known(n) ? NONE : Math.abs(n) < 100_000 ? whole.format(n) : compact.format(n));
export const exact = (n) => (known(n) ? whole.format(n) : NONE);
export const plural = (n, noun, many = `${noun}s`) => `${count(n)} ${n === 1 ? noun : many}`;
export const percent = (share) => {
  if (!known(share)) return NONE;
  const size = Math.abs(share * 100);
  return `${(share * 100).toFixed(size > 0 && size < 9.95 ? 1 : 0).replace("-", "−")} %`;
};
export const duration = (ms) => {
  if (!known(ms) || !(ms > 0)) return NONE;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  if (ms < 100_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${whole.format(ms / 1000)} s`;
};
/** Time left, as it is read off a clock. */
export const left = (seconds) => {
  const s = Math.max(0, Math.floor(seconds));
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
  return `${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`;
};
/** Amounts are decimal strings in dollars; shown with as many decimals as say something. */
export const money = (amount) => {
  if (!known(amount)) return NONE;
  const dollars = Number(amount);
  const size = Math.abs(dollars);
  if (size === 0) return "$0";
  const sign = dollars < 0 ? "−" : "";
  if (size >= 1000) return `${sign}$${size >= 1e6 ? compact.format(size) : whole.format(size)}`;
  const decimals = size >= 1 ? 2 : Math.min(9, 2 - Math.floor(Math.log10(size)));
  return `${sign}$${size.toFixed(decimals)}`;
};
export const bytes = (n) => {
  if (!known(n)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
};
export const promptTokens = (u) => u.input_tokens + u.cache_read_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens;
/** Share of the prompt's tokens that came from the cache; `null` without any. */
export const hitRate = (u) => {
  const prompt = promptTokens(u);
  return prompt > 0 ? u.cache_read_tokens / prompt : null;
};
export const when = (time) => {
  const date = new Date(time);
  return (date.toDateString() === new Date().toDateString() ? clock : dayMinute).format(date);
};
export const moment = (time) => full.format(new Date(time));
/** The beginning of a bucket on an axis. Days are those of UTC, as the server sums them. */
export const tick = (time, interval) => (interval === "day" ? utcDay : minute).format(new Date(time));
export const bucketName = (time, interval) =>
  interval === "day" ? utcDay.format(new Date(time)) : dayMinute.format(new Date(time));
export const words = (name) => String(name).replaceAll("_", " ");
/** On an axis: without the digits that say nothing there. */
export const brief = (text) => (text.includes(".") ? text.replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "") : text);
