// Signing in, and what each key may see.
//
// Arguments: address of a server with keys, the operator's key, the key of a tenant that may only ask, a collection of the
// operator's, a folder for screenshots. Environment: as pages.mjs.

import { join } from "node:path";
import { accessible, check, equal, faultsFound, fits, launch, open, settled } from "./browser.mjs";

const [, , base, operator, tenant, collection, shots] = process.argv;
const browser = await launch();
// That a page is refused before the sign-in is what is tested.
const refused = (url) => url.includes("/v1/");

async function signIn(page, key) {
  await page.getByLabel("Key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
}

// ---------------------------------------------------------------- the operator

const page = await open(browser, base, { expects: refused });
await page.goto("/cost?range=7d");
await page.waitForURL(/\/sign-in\?next=/);
await settled(page);
await accessible(page, "sign in");
await page.screenshot({ path: join(shots, "sign-in.png") });
await signIn(page, "ewk_nobodyhasthiskey");
await page.waitForSelector('.failure[role="alert"]');
check((await page.locator(".failure").innerText()).length > 10, "a wrong key is refused with a reason");
await signIn(page, operator);
await page.waitForURL(/\/cost\?range=7d$/);
await settled(page);
equal(await page.locator(".page .failure").count(), 0, "the operator sees the page that was asked for");
await page
  .locator("#live.ok")
  .waitFor({ timeout: 10_000 })
  .catch(() => check(false, "the operator's pages are live"));
const cookies = await page.context().cookies();
const session = cookies.find((cookie) => cookie.name === "edgewise_session");
check(session?.httpOnly && session.sameSite === "Strict", `the cookie is kept from scripts and other sites: ${JSON.stringify(session)}`);
check(!(await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, document.cookie]))).includes("ewk_"), "the key is kept nowhere in the page");
await page.getByRole("link", { name: "Collections" }).click();
await page.waitForSelector(`tbody a[href="/collections/${collection}"]`);
await page.getByRole("button", { name: "Sign out" }).click();
await page.waitForURL(/\/sign-in$/);
equal(await page.evaluate(async () => (await fetch("/v1/collections")).status), 401, "after signing out");
// Where the way back leads is not for others to say.
for (const next of ["//evil.example/", "https://evil.example/", "/\\evil.example"]) {
  await page.goto(`/sign-in?next=${encodeURIComponent(next)}`);
  await signIn(page, operator);
  await page.waitForURL((url) => url.pathname === "/", { timeout: 15_000 }).catch(() => check(false, `next=${next} led to ${page.url()}`));
  equal(new URL(page.url()).origin, new URL(base).origin, `next=${next} stays here`);
  await page.context().clearCookies();
}
await page.context().close();

// ---------------------------------------------------------------- a tenant that may only ask

const other = await open(browser, base, { expects: refused });
await other.goto("/");
await other.waitForURL(/\/sign-in/);
await signIn(other, tenant);
await other.waitForURL((url) => url.pathname === "/");
await settled(other);
equal(await other.getByRole("link", { name: "Requests", exact: true }).count(), 0, "links to requests for who may not see any");
equal(await other.locator(".page .failure").count(), 0, "the overview has no part that is refused");
await other.getByRole("link", { name: "Collections" }).click();
await other.waitForURL(/\/collections$/);
await settled(other);
check(!(await other.locator("main").innerText()).includes(collection), "no collection of the operator's");
equal(await other.getByRole("button", { name: "Make" }).count(), 0, "nothing to make for who may not");
for (const path of ["/cache", "/cost", "/quality", "/ask"]) {
  await other.goto(path);
  await settled(other);
  equal(await other.locator(".page .failure").count(), 0, `${path} has no part that is refused`);
  await accessible(other, `${path}, of a tenant`);
  await fits(other, `${path}, of a tenant`);
}
await other.goto(`/collections/${collection}`);
await other.waitForSelector(".failure");
check((await other.locator(".failure").innerText()).includes(collection), "another tenant's collection is an unknown one");

await browser.close();
const faults = faultsFound();
if (faults.length > 0) {
  console.error(`${faults.length} faults`);
  process.exit(1);
}
console.log("passed");
