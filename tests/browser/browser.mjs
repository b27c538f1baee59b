// A headless Chromium with what every check needs: console errors and failed requests are collected, accessibility is
// judged by axe-core, and what can't be reached by keyboard is found by trying.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const require = createRequire(join(process.env.EDGEWISE_BROWSER_PACKAGES, "package.json"));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const faults = [];
/** Notes a failure and goes on: one run says everything that is wrong. */
export function check(condition, message) {
  if (!condition) {
    faults.push(message);
    console.error(`FAILED ${message}`);
  }
}
export function equal(actual, expected, message) {
  check(String(actual) === String(expected), `${message}: the page says ${actual}, the API ${expected}`);
}
export const faultsFound = () => faults;

export const launch = () =>
  chromium.launch({ executablePath: process.env.EDGEWISE_BROWSER, args: ["--no-sandbox", "--disable-dev-shm-usage"] });

/** A page whose every console error, exception and failed request is a fault, unless `expects` says otherwise. */
export async function open(browser, base, { width = 1440, height = 900, theme = "light", expects = () => false, ...more } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, baseURL: base, ...more });
  const page = await context.newPage();
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !expects(message.location().url, message.text())) {
      check(false, `console ${message.type()} on ${page.url()}: ${message.text()} (${message.location().url})`);
    }
  });
  page.on("pageerror", (error) => check(false, `exception on ${page.url()}: ${error.stack}`));
  page.on("request", (request) => check(request.url().startsWith(base) || /^(data|blob):/.test(request.url()), `${page.url()} asks elsewhere: ${request.url()}`));
  return page;
}

/** Goes to a page and waits until everything on it is loaded. */
export async function visit(page, path) {
  await page.goto(path);
  await settled(page);
}
export async function settled(page) {
  await page.waitForSelector("main h1");
  await page.waitForFunction(() => !document.querySelector(".state.loading, [aria-label=Loading]"), null, { timeout: 60_000 });
}

/** Serious and critical violations of accessibility rules. */
export async function accessible(page, name) {
  // Injected outside of the page's policy, which forbids any script but its own.
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    return violations
      .filter((v) => ["serious", "critical"].includes(v.impact))
      .map((v) => `${v.id}: ${v.help} at ${v.nodes.map((n) => `${n.target.join(" ")} (${n.failureSummary.split("\n").at(-1).trim()})`).slice(0, 4).join("; ")}`);
  });
  for (const violation of found) check(false, `accessibility of ${name}: ${violation}`);
}

export async function fits(page, name) {
  const [content, width] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  check(content <= width, `${name} scrolls sideways: ${content} px in ${width} px`);
}

/** Everything that can be operated is reached by the Tab key, and shows that it is. */
export async function reachable(page, name) {
  const total = await page.evaluate(() => {
    const visible = (node) => node.checkVisibility({ visibilityProperty: true }) && !node.disabled && node.tabIndex >= 0;
    const radios = new Set();
    const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")].filter(visible);
    const wanted = all.filter((node) => {
      if (node.type !== "radio") return true;
      const group = node.name;
      if (radios.has(group)) return false;
      radios.add(group);
      return true;
    });
    window.__wanted = new Set(wanted.map((node) => (node.type === "radio" ? node.name : node)));
    return wanted.length;
  });
  await page.evaluate(() => {
    document.activeElement?.blur?.();
    window.scrollTo(0, 0);
  });
  for (let i = 0; i < total + 12; i += 1) {
    await page.keyboard.press("Tab");
    const left = await page.evaluate(() => {
      const node = document.activeElement;
      window.__wanted.delete(node.type === "radio" ? node.name : node);
      return window.__wanted.size;
    });
    if (left === 0) return;
  }
  const missed = await page.evaluate(() => [...window.__wanted].filter((n) => typeof n === "string" || n.isConnected).map((n) => (typeof n === "string" ? n : n.outerHTML.slice(0, 120))));
  check(missed.length === 0, `${name}: not reached by keyboard: ${missed.slice(0, 5).join(" | ")}`);
}

/** The value of a figure on the page. */
export const value = (page, name, within = "main") => page.locator(`${within} data[data-name="${name}"]`).first().getAttribute("value");
