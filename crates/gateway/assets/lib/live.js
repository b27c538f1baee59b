// What happens on the server, as it happens: one connection for all pages.
//
// `/v1/events` says `request`, `cache`, `jobs` and `alert`. Where it can't be had, every listener is told to look for
// itself every few seconds, so that the pages stay true, only later.

const FALLBACK_MS = 5000;
const KINDS = ["request", "cache", "jobs", "alert"];

const listeners = new Map(KINDS.map((kind) => [kind, new Set()]));
let source = null;
let timer = 0;
let report = () => {};

const tell = (kind, data) => listeners.get(kind).forEach((listener) => listener(data));

function poll() {
  if (!document.hidden) for (const kind of ["request", "cache", "jobs"]) tell(kind, null);
}

function fallBack(state, text) {
  if (!timer) timer = setInterval(poll, FALLBACK_MS);
  report(state, text);
}

/** Connects, if `allowed`. `onState` hears ("ok" | "slow" | "down", words). */
export function connect(onState, allowed = true) {
  report = onState;
  source?.close();
  if (!allowed) return fallBack("slow", "Refreshed every 5 s");
  source = new EventSource("/v1/events");
  source.addEventListener("open", () => {
    // What happened while the connection was gone was not told.
    if (timer) poll();
    clearInterval(timer);
    timer = 0;
    report("ok", "Live");
  });
  source.addEventListener("error", () => {
    // Closed for good: the answer was not a stream. Otherwise the browser tries again by itself.
    if (source.readyState === EventSource.CLOSED) {
      fallBack("slow", "Refreshed every 5 s");
      const mine = source;
      setTimeout(() => source === mine && connect(report), 30_000);
    } else fallBack("down", "Reconnecting");
  });
  // What was not told has to be looked for.
  source.addEventListener("missed", poll);
  for (const kind of KINDS) source.addEventListener(kind, (event) => tell(kind, JSON.parse(event.data)));
}

export function disconnect() {
  source?.close();
  source = null;
  clearInterval(timer);
  timer = 0;
}

/** Calls `listener` at each event of a kind; its data is `null` where only a look can tell. Returns how to end that. */
export function on(kind, listener) {
  listeners.get(kind).add(listener);
  return () => listeners.get(kind).delete(listener);
}
