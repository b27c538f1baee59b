// Every page, in a real browser, over a real server with real answers.
//
// Arguments: address of the server, a collection that is there, a folder for screenshots.
// Environment: EDGEWISE_BROWSER, the Chromium; EDGEWISE_BROWSER_PACKAGES, the folder with node_modules.

import { join } from "node:path";
import { accessible, check, equal, faultsFound, fits, launch, open, reachable, settled, value, visit } from "./browser.mjs";

const [, , base, collection, shots] = process.argv;
const api = async (path, options) => {
  const response = await fetch(base + path, options);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return response.json();
};
const post = (path, body) =>
  api(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
const metrics = async () => {
  const text = await (await fetch(`${base}/metrics`)).text();
  const found = new Map();
  for (const line of text.split("\n")) {
    const at = line.lastIndexOf(" ");
    if (line && !line.startsWith("#")) found.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return found;
};
/** The range that a page asks for, as the page computes it. */
function range(ms, step) {
  const to = (Math.floor(Date.now() / step) + 1) * step;
  return `from=${new Date(to - ms).toISOString()}&to=${new Date(to).toISOString()}`;
}
const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const step = (name) => console.error(`-- ${name} (${Math.round(performance.now() / 1000)} s)`);
const shot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });

const browser = await launch();

// ---------------------------------------------------------------- asking, by hand

step("ask");
const asking = await open(browser, base);
await visit(asking, "/ask");
await asking.getByLabel("Question").fill("When was the harbour of Westmar founded?");
await asking.getByText("Limits, filter and drawing").click();
await asking.getByLabel("Answer tokens at most").fill("24");
await asking.getByLabel("Question").press("Enter");
await asking.waitForSelector('.answer[aria-busy="false"]', { timeout: 120_000 });
const answer = await asking.locator('[data-name="answer"]').innerText();
check(answer.trim().length > 0, "the answer is there");
check((await asking.locator(".failure").count()) === 0, "the answer came without a failure");
await asking.waitForSelector('table tr.chosen');
await asking.getByText("Every part of it").click();
check((await asking.locator('[aria-label="Parts of the prompt"] tbody tr').count()) > 2, "the prompt is shown part by part");
{
  // A part of the prompt leads to its document, at its span.
  await asking.locator('[aria-label="Parts of the prompt"] button').first().click();
  await asking.waitForSelector("dialog[open] mark");
  const marked = await asking.locator("dialog[open] mark").innerText();
  check(marked.length > 10, `the source opens at the span: ${marked}`);
  await accessible(asking, "the source of a part");
  await asking.keyboard.press("Escape");
}
for (const cite of await asking.locator(".citations button").all()) {
  const quote = await cite.locator(".quote").innerText();
  await cite.click();
  await asking.waitForSelector("dialog[open] mark");
  const marked = await asking.locator("dialog[open] mark").innerText();
  const plain = (text) => text.replace(/\s+/g, " ").trim();
  equal(plain(marked), plain(quote), "a citation opens its document at the quote");
  await asking.keyboard.press("Escape");
}
await asking.getByRole("button", { name: "Copy as curl or Python" }).click();
{
  const code = await asking.locator("dialog[open] pre").innerText();
  check(code.includes("/v1/query") && code.includes('"collection":"'), `curl is shown: ${code}`);
  await asking.getByRole("radio", { name: "Python" }).check();
  check((await asking.locator("dialog[open] pre").innerText()).includes("urllib.request"), "Python is shown");
  await accessible(asking, "the snippets");
  await asking.keyboard.press("Escape");
}
await asking.getByRole("button", { name: "Good answer" }).click();
await asking.getByText("Noted.").waitFor();
await accessible(asking, "ask, answered");
await shot(asking, "ask-answered");
await asking.getByRole("button", { name: "Compare routes only" }).click();
await asking.getByText(/^Would take /).waitFor({ timeout: 60_000 });
await asking.context().close();

// ---------------------------------------------------------------- live

step("live");
const overview = await open(browser, base);
await visit(overview, "/");
await overview.locator("#live.ok").waitFor({ timeout: 20_000 });
const before = Number(await value(overview, "requests"));
await post("/v1/query", { collection, question: "How often do ferries leave?", route: "passages", max_output_tokens: 12 });
await post("/v1/query", { collection, question: "How often do ferries leave?", route: "full", max_output_tokens: 12 });
await overview
  .waitForFunction((n) => Number(document.querySelector('[data-name="requests"]')?.value) === n, before + 2, { timeout: 20_000 })
  .catch(() => check(false, `the overview hears of requests by itself: ${before} and two more`));

// ---------------------------------------------------------------- values

step("values");
{
  const usage = await api(`/v1/usage?${range(DAY, HOUR)}&by=route&work=answer&recent=0`);
  const spent = await api(`/v1/usage?${range(DAY, HOUR)}&recent=0`);
  await visit(overview, "/");
  equal(await value(overview, "requests"), usage.total.requests, "overview, requests");
  equal(await value(overview, "cost"), spent.total.cost, "overview, cost");
  equal(await value(overview, "saved"), usage.total.saved_against_full, "overview, saved");
  const u = usage.total.usage;
  const prompt = u.input_tokens + u.cache_read_tokens + u.cache_write_5m_tokens + u.cache_write_1h_tokens;
  equal(await value(overview, "hit-rate"), u.cache_read_tokens / prompt, "overview, hit rate");
  equal(await value(overview, "ttft-p50"), usage.total.ttft_ms.p50, "overview, first token");
  let sum = 0;
  for (const { keys, sums } of usage.groups) {
    equal(await value(overview, `route-${keys.route}-requests`), sums.requests, `overview, requests of ${keys.route}`);
    equal(await value(overview, `route-${keys.route}-cost`), sums.cost, `overview, cost of ${keys.route}`);
    sum += sums.requests;
  }
  equal(sum, usage.total.requests, "routes add up to all");
  const measured = await metrics();
  for (const [name, state] of [["pages-in-use", "used"], ["pages-cached", "cached"], ["pages-free", "free"]]) {
    equal(await value(overview, name), measured.get(`edgewise_kv_pages{state="${state}"}`), `overview, pages ${state}`);
  }
  // The same values as a table, by keyboard alone.
  const toggle = overview.getByRole("button", { name: "Table" }).first();
  await toggle.focus();
  await overview.keyboard.press("Enter");
  equal(await toggle.getAttribute("aria-pressed"), "true", "the chart turns into a table");
  check((await overview.locator(".data-table:not([hidden]) tbody tr").count()) > 0, "the table of the chart has rows");
}
await overview.context().close();

const page = await open(browser, base);
let newest;
{
  const { requests } = await api("/v1/requests?limit=50");
  newest = requests.find((r) => (r.work ?? "answer") === "answer");
  await visit(page, "/requests");
  await page.waitForSelector("tbody a");
  equal(await page.locator("tbody a").count(), requests.length, "requests, rows");
  equal(await page.locator("tbody a").first().getAttribute("href"), `/requests/${encodeURIComponent(requests[0].id)}`, "requests, newest first");
  await page.getByLabel("Route").selectOption("full");
  const full = requests.filter((r) => r.route === "full").length;
  await page
    .waitForFunction((n) => document.querySelectorAll("tbody a").length === n, full, { timeout: 10_000 })
    .catch(() => check(false, `requests of the route full: ${full}`));
  await page.locator("tbody a").first().click();
  await page.waitForURL(/\/requests\/.+/);
  await settled(page);
  const record = requests.find((r) => r.route === "full");
  equal(await value(page, "cost"), record.cost, "request, cost");
  equal(await value(page, "ttft"), record.timings.ttft_ms, "request, first token");
  equal(await value(page, "cached-tokens"), record.usage.cache_read_tokens, "request, cached tokens");
  check((await page.locator(".timeline .track").count()) > 2, "request, timeline");
  check((await page.locator(".map .segment").count()) > 2, "request, prompt map");
  check((await page.locator("tr.chosen").count()) === 1, "request, routes compared");
  await shot(page, "request");
  await page.goBack();
  await page.waitForURL(/\/requests\?route=full/);
}
{
  const usage = await api(`/v1/usage?${range(30 * DAY, DAY)}&by=route&recent=0`);
  await visit(page, "/cost");
  equal(await value(page, "cost"), usage.total.cost, "cost, sum");
  equal(await value(page, "saved"), usage.total.saved_against_full, "cost, saved");
  equal(await value(page, "cost", "tfoot"), usage.total.cost, "cost, together");
  const rows = await page.locator('[aria-label="Sums by route"] tbody tr').count();
  equal(rows, usage.groups.length, "cost, rows");
  const csv = await page.getByRole("link", { name: "CSV" }).getAttribute("href");
  check((await (await fetch(base + csv)).text()).split("\n").length > 1, "cost, CSV");
}
{
  // A budget that is spent as soon as it is made: the pages tell of it, and it can be taken back.
  await visit(page, "/cost");
  await page.getByRole("button", { name: "New budget" }).click();
  const form = page.getByRole("dialog");
  await form.getByLabel("Name").fill("no/name");
  await form.getByLabel("At most, in $").fill("0.00000001");
  await accessible(page, "new budget");
  await shot(page, "budget");
  await form.getByRole("button", { name: "Save" }).click();
  check(await form.isVisible(), "a name that can't be is not sent");
  await form.getByLabel("Name").fill("tight");
  await form.getByRole("button", { name: "Save" }).click();
  await page.waitForSelector('[data-name="budget-tight-spent"]');
  const made = (await api("/v1/budgets")).budgets.find((b) => b.name === "tight");
  equal(await value(page, "budget-tight-spent"), made.spent, "cost, spent of a budget");
  const banner = page.locator("#alerts .alert", { hasText: "tight" }).first();
  await banner.waitFor({ timeout: 15_000 }).catch(() => check(false, "a spent budget is told of"));
  check(/of the budget tight is spent: \$/.test(await banner.innerText()), `the alert says how much: ${await banner.innerText()}`);
  await accessible(page, "an alert");
  await shot(page, "alert");
  while ((await page.locator("#alerts .alert").count()) > 0) {
    await page.locator("#alerts .alert").first().getByRole("button", { name: "Close" }).click();
  }
  await page.getByRole("button", { name: "Delete the budget tight" }).click();
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  await page.waitForFunction(() => !document.querySelector('[data-name="budget-tight-spent"]'));
  equal((await api("/v1/budgets")).budgets.length, 0, "the budget is gone");
}
{
  // Warmed by hand: what is kept grows, and the next question reads it.
  for (const { id } of (await api("/v1/cache/prefixes")).prefixes) await fetch(`${base}/v1/cache/prefixes/${id}`, { method: "DELETE" });
  await visit(page, "/cache");
  equal(await page.locator(".treemap button").count(), 0, "nothing is kept");
  await page.locator('select[name="collection"]').selectOption(collection);
  await page.locator('select[name="ttl"]').selectOption("1h");
  await page.getByRole("button", { name: "Warm", exact: true }).click();
  await page.locator(".treemap button").first().waitFor({ timeout: 60_000 });
  const { prefixes } = await api("/v1/cache/prefixes");
  check(prefixes.some((prefix) => prefix.expires_in_s > 3000), `kept for an hour: ${JSON.stringify(prefixes)}`);
  await shot(page, "warmed");
}
{
  await post("/v1/cache/prefixes", { collection, ttl: "5m" });
  const [cache, measured] = [await api("/v1/cache"), await metrics()];
  await visit(page, "/cache");
  equal(await value(page, "cache-hit-tokens"), cache.hit_tokens, "cache, hit tokens");
  equal(await value(page, "cache-hit-tokens"), measured.get("edgewise_kv_hit_tokens_total"), "cache, hit tokens in metrics");
  equal(await value(page, "pages-free"), measured.get('edgewise_kv_pages{state="free"}'), "cache, pages free");
  equal(await value(page, "pages-retained"), cache.pages_retained, "cache, pages kept");
  for (const [reason, tokens] of Object.entries(cache.miss_tokens)) {
    if (tokens > 0) equal(await value(page, `tokens-${reason}`), tokens, `cache, missed as ${reason}`);
  }
  const cell = page.locator(".treemap button").first();
  await cell.focus();
  await page.keyboard.press("Enter");
  await page.getByText("Time left").waitFor();
  const countdown = page.locator(".countdown");
  const first = await countdown.innerText();
  await page.waitForFunction((text) => document.querySelector(".countdown")?.textContent !== text, first, { timeout: 5000 });
  const kept = (await api("/v1/cache/prefixes")).prefixes.length;
  await page.getByRole("button", { name: "Release" }).click();
  await page
    .waitForFunction((n) => document.querySelectorAll(".treemap button").length === n, kept - 1, { timeout: 10_000 })
    .catch(() => check(false, `a released prefix goes away: ${kept - 1} are left`));
}
{
  const { collections } = await api("/v1/collections");
  await visit(page, "/collections");
  for (const c of collections) {
    equal(await value(page, `${c.name}-documents`), c.documents, `collections, documents of ${c.name}`);
    equal(await value(page, `${c.name}-chunks`), c.chunks, `collections, passages of ${c.name}`);
  }
  await page.getByLabel("Name").fill("dropped");
  await page.getByRole("button", { name: "Make" }).click();
  await page.waitForURL(/\/collections\/dropped$/);
  await settled(page);
  await page.locator('input[type="file"]').first().setInputFiles([
    { name: "boats.md", mimeType: "text/markdown", buffer: Buffer.from("# Boats\n\nThe blue boat leaves at nine.\n") },
    { name: "broken.pdf", mimeType: "application/pdf", buffer: Buffer.from("%PDF-1.7\n1 0 obj <<\n") },
  ]);
  await page.locator(".uploads .badge", { hasText: "1 added" }).waitFor({ timeout: 60_000 });
  await page.locator(".uploads .badge", { hasText: "1 failed" }).waitFor();
  check(/broken\.pdf: .{10}/.test(await page.locator(".uploads").innerText()), "the file that failed says why");
  await page.waitForFunction(() => document.querySelector('[data-name="documents"]')?.value === "1");
  // Dropped, as by a mouse.
  const transfer = await page.evaluateHandle(() => {
    const data = new DataTransfer();
    data.items.add(new File(["# Tides\n\nThe tide turns at noon.\n"], "tides.md", { type: "text/markdown" }));
    return data;
  });
  await page.dispatchEvent(".drop", "drop", { dataTransfer: transfer });
  await page.waitForFunction(() => document.querySelector('[data-name="documents"]')?.value === "2", null, { timeout: 60_000 });
  equal((await api("/v1/collections/dropped")).documents, 2, "what was dropped is there");
  await page.getByRole("button", { name: "Check" }).click();
  await page.getByText("sound").waitFor();
  await page.getByRole("button", { name: "Delete Boats" }).click();
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  await page.waitForFunction(() => document.querySelector('[data-name="documents"]')?.value === "1");
}
{
  const { routes } = await api("/v1/usage/predictions");
  await visit(page, "/quality");
  for (const r of routes) {
    equal(await value(page, `predicted-${r.route}-${r.warm ? "warm" : "cold"}`), r.requests, `quality, predictions of ${r.route}`);
  }
}

// ---------------------------------------------------------------- every page: console, accessibility, keyboard, widths

const PAGES = [
  ["overview", "/"],
  ["ask", "/ask"],
  ["requests", "/requests"],
  ["request", `/requests/${encodeURIComponent(newest.id)}`],
  ["cache", "/cache"],
  ["cost", "/cost"],
  ["quality", "/quality"],
  ["collections", "/collections"],
  ["collection", `/collections/${collection}`],
  ["tree", `/collections/${collection}/tree`],
  ["signin", "/sign-in"],
];
for (const theme of ["light", "dark"]) {
  const wide = await open(browser, base, { theme });
  for (const [name, path] of PAGES) {
    step(`${name}, ${theme}`);
    await visit(wide, path);
    await accessible(wide, `${name}, ${theme}`);
    if (theme === "light") await reachable(wide, name);
    await shot(wide, `${name}-${theme}`);
  }
  await wide.context().close();
}
const phone = await open(browser, base, { width: 360, height: 740, hasTouch: true });
const huge = await open(browser, base, { width: 2560, height: 1300 });
for (const [name, path] of PAGES) {
  step(`${name}, widths`);
  for (const [screen, size] of [[phone, "phone"], [huge, "huge"]]) {
    await visit(screen, path);
    await fits(screen, `${name}, ${size}`);
    await shot(screen, `${name}-${size}`);
  }
  await accessible(phone, `${name}, phone`);
}
await visit(phone, "/");
await phone.getByRole("button", { name: "Menu" }).tap();
await phone.getByRole("link", { name: "Cost" }).tap();
await phone.waitForURL(/\/cost$/);
equal(await phone.getByRole("button", { name: "Menu" }).getAttribute("aria-expanded"), "false", "the menu closes");

// The colours that were chosen stay.
await visit(huge, "/");
await huge.getByRole("radio", { name: "Dark" }).check();
await huge.reload();
equal(await huge.evaluate(() => getComputedStyle(document.documentElement).colorScheme), "dark", "dark stays dark");

// What is not there says so, and what to do.
const lost = await open(browser, base, { expects: (url) => url.includes("/v1/") });
await lost.goto("/requests/nothing");
await lost.waitForSelector(".failure");
await lost.goto("/collections/nothing");
await lost.waitForSelector(".failure");
check((await lost.locator(".failure").innerText()).includes("nothing"), "an unknown collection is named");
await lost.route("**/v1/usage**", (route) => route.abort());
await lost.goto("/");
await lost.waitForSelector(".panel .failure");
await lost.unroute("**/v1/usage**");
await lost.locator(".panel .failure button").first().click();
await lost.waitForFunction(() => document.querySelectorAll(".panel .failure").length === 0);

await browser.close();
const faults = faultsFound();
if (faults.length > 0) {
  console.error(`${faults.length} faults`);
  process.exit(1);
}
console.log("passed");
