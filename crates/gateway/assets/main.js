// The frame of all pages: which page is shown, the navigation, the colours, the connection to the server.
//
// Each page is a module with `mount(view, context)`; what it starts ends when `context.signal` says so, before the next
// page begins. Links between pages are followed here without loading the frame again.

import { ApiFailure, getJson, onSignInNeeded, send } from "./lib/api.js";
import { $, el, svg } from "./lib/dom.js";
import { connect, disconnect, on } from "./lib/live.js";
import { money } from "./lib/format.js";
import { failureBox } from "./lib/parts.js";
import { forgetSession, rights, session } from "./lib/session.js";

const PAGES = [
  { path: /^\/$/, name: "Overview", module: "overview", nav: "M3 3h6v8H3zM11 3h6v5h-6zM11 10h6v7h-6zM3 13h6v4H3z", href: "/" },
  { path: /^\/ask$/, name: "Ask", module: "ask", nav: "M4 4h12v9H9l-4 3.5V13H4z", href: "/ask" },
  { path: /^\/requests$/, name: "Requests", module: "requests", watch: true, nav: "M7 5h10M7 10h10M7 15h10M3 5h.5M3 10h.5M3 15h.5", href: "/requests" },
  { path: /^\/requests\/([^/]+)$/, name: "Request", module: "request", under: "/requests" },
  { path: /^\/cache$/, name: "Cache", module: "cache", nav: "M3 3h8v14H3zM11 3h6v6h-6zM11 9h3v8h-3zM14 9h3v8h-3z", href: "/cache" },
  { path: /^\/cost$/, name: "Cost", module: "cost", nav: "M10 2.5v15M14 6c-.5-1.5-2-2-4-2-2.4 0-4 1-4 2.800C6 9 8 9.500 10 10s4 1 4 3.200C14 15 12.400 16 10 16c-2.300 0-4-.8-4.500-2.300", href: "/cost" },
  { path: /^\/quality$/, name: "Quality", module: "quality", nav: "M3 17V3M3 17h14M6 12l3.500-4 3 2.500L17 5", href: "/quality" },
  { path: /^\/collections$/, name: "Collections", module: "collections", nav: "M3 5h5l2 2h7v9H3z", href: "/collections" },
  { path: /^\/collections\/([^/]+)$/, name: "Collection", module: "collection", under: "/collections" },
  { path: /^\/collections\/([^/]+)\/tree$/, name: "Summary tree", module: "tree", under: "/collections" },
  { path: /^\/sign-in$/, name: "Sign in", module: "signin", bare: true },
];

let current = new AbortController();
let connected = false;

function find(pathname) {
  for (const page of PAGES) {
    const match = page.path.exec(pathname);
    if (match) return { page, parameters: match.slice(1).map(decodeURIComponent) };
  }
  return null;
}

/** What a page may use; all of it ends with the page. */
function contextOf(parameters, who) {
  const { signal } = current;
  return {
    parameters,
    /** What may be seen and done here. */
    may: who && rights(who),
    signal,
    query: new URLSearchParams(location.search),
    go,
    /** Calls `listener` at each event of a kind. */
    live(kind, listener) {
      const stop = on(kind, listener);
      signal.addEventListener("abort", stop, { once: true });
    },
    every(ms, job) {
      const timer = setInterval(() => !document.hidden && job(), ms);
      signal.addEventListener("abort", () => clearInterval(timer), { once: true });
    },
    /** Changes the address without leaving the page. */
    remember(parameters) {
      const query = new URLSearchParams(location.search);
      for (const [name, value] of Object.entries(parameters)) {
        if (value === null || value === undefined || value === "") query.delete(name);
        else query.set(name, value);
      }
      const text = query.toString();
      history.replaceState(null, "", location.pathname + (text ? `?${text}` : ""));
    },
  };
}

async function show({ focus }) {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  const found = find(location.pathname);
  if (!found) {
    const home = new ApiFailure({ message: `There is no page at ${location.pathname}.`, hint: "The pages are listed at the side." });
    return $("main").replaceChildren(failureBox(home));
  }
  const { page, parameters } = found;
  document.title = `${page.name} · Edgewise`;
  document.querySelector(".shell").classList.toggle("bare", Boolean(page.bare));
  closeMenu();
  for (const link of $("links").querySelectorAll("a")) {
    const own = link.getAttribute("href");
    if (own === page.href) link.setAttribute("aria-current", "page");
    else if (own === page.under) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  if (page.bare) {
    disconnect();
    connected = false;
  }
  const view = el("div", { class: `page page-${page.module}` });
  try {
    const [module, who] = await Promise.all([import(`./pages/${page.module}.js`), page.bare ? null : session()]);
    if (signal.aborted) return;
    if (who) showWho(who);
    $("main").replaceChildren(view);
    if (focus) {
      scrollTo(0, 0);
    }
    await module.mount(view, contextOf(parameters, who));
    if (focus && !signal.aborted && document.activeElement === document.body) view.querySelector("h1")?.focus();
  } catch (error) {
    if (signal.aborted) return;
    view.append(failureBox(error, () => show({ focus: false })));
    if (!view.isConnected) $("main").replaceChildren(view);
    if (!(error instanceof ApiFailure)) throw error;
  }
}

function go(path, { replace = false } = {}) {
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  return show({ focus: true });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const url = new URL(link.href);
  if (url.origin !== location.origin || link.target || link.hasAttribute("download")) return;
  if (url.hash && url.pathname === location.pathname) return;
  if (!find(url.pathname)) return;
  event.preventDefault();
  // Focus moves to the new page; the link may be gone by then.
  link.blur();
  go(url.pathname + url.search);
});
addEventListener("popstate", () => show({ focus: false }));

// ---------------------------------------------------------------- the frame

function setLive(state, text) {
  $("live").className = `live ${state}`;
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
}

async function showInfo() {
  try {
    const info = await getJson("/v1/info");
    for (const name of ["generator", "embedder", "version"]) $(name).textContent = info[name];
    $("models").hidden = false;
  } catch (error) {
    if (!(error instanceof ApiFailure)) throw error;
  }
}

onSignInNeeded(() => {
  forgetSession();
  if (location.pathname === "/sign-in") return;
  go(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`, { replace: true });
});

function showWho(who) {
  const may = rights(who);
  if (!connected) {
    connected = true;
    // Whoever may not watch is told by looking now and then.
    connect(setLive, may.watch);
    showInfo();
  }
  $("signout").hidden = !who.keys_needed;
  $("who").textContent = who.keys_needed ? `${who.tenant}${who.operator ? ", operator" : ""}` : "";
  $("who").title = who.key ?? "";
  for (const link of $("links").querySelectorAll("a")) {
    const page = PAGES.find(({ href }) => href === link.getAttribute("href"));
    link.parentElement.hidden = Boolean(page.watch) && !may.watch;
  }
}

$("signout").addEventListener("click", async () => {
  await send("DELETE", "/v1/session");
  forgetSession();
  go("/sign-in");
});

function closeMenu() {
  $("side").classList.remove("open");
  $("menu").setAttribute("aria-expanded", "false");
}
$("menu").addEventListener("click", () => {
  const open = $("side").classList.toggle("open");
  $("menu").setAttribute("aria-expanded", String(open));
});
$("side").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && $("side").classList.contains("open")) {
    closeMenu();
    $("menu").focus();
  }
});

function theme() {
  const root = document.documentElement;
  const radios = document.querySelectorAll('input[name="theme"]');
  for (const radio of radios) {
    radio.checked = radio.value === (root.dataset.theme ?? "auto");
    radio.addEventListener("change", () => {
      if (radio.value === "auto") delete root.dataset.theme;
      else root.dataset.theme = radio.value;
      try {
        if (radio.value === "auto") localStorage.removeItem("edgewise-theme");
        else localStorage.setItem("edgewise-theme", radio.value);
      } catch {
        // Not kept, then.
      }
    });
  }
}

$("links").append(
  ...PAGES.filter((page) => page.nav).map((page) =>
    el(
      "li",
      {},
      el(
        "a",
        { href: page.href },
        svg("svg", { class: "nav-icon", viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: page.nav })),
        page.name,
      ),
    ),
  ),
);
theme();
on("alert", (alert) => {
  if (!alert) return;
  const share = `${Math.round(alert.share * 100)} %`;
  const text = `${share} of the budget ${alert.budget} is spent: ${money(alert.spent)} of ${money(alert.limit)} a ${alert.period}.`;
  const note = el(
    "p",
    { class: "alert" },
    el("span", {}, text, " ", el("a", { href: "/cost" }, "Budgets")),
    el("button", { type: "button", class: "secondary small", onclick: () => note.remove() }, "Close"),
  );
  $("alerts").prepend(note);
});
show({ focus: false });
