// How long each page takes from the click to the last figure, first and once more: times.mjs URL [SHOTS].
//
// Over a ledger of a million records: `cargo run --release -p edgewise-ledger --example measure -- queries 1000000 FOLDER`,
// then a server with `--set paths.ledger=FOLDER/ledger.sqlite`. Environment: as pages.mjs.

import { join } from "node:path";
import { launch, open, visit } from "./browser.mjs";

const [, , base, shots] = process.argv;
const browser = await launch();
const page = await open(browser, base);
await visit(page, "/collections");
for (const path of ["/", "/?range=7d", "/?range=30d", "/cost?range=7d", "/cost", "/cache?range=30d", "/requests", "/requests?status=failed", "/quality"]) {
  const times = [];
  for (let turn = 0; turn < 2; turn += 1) {
    const began = performance.now();
    await visit(page, path);
    times.push(`${Math.round(performance.now() - began)} ms`.padStart(9));
  }
  console.log(path.padEnd(26), ...times);
  if (shots) await page.screenshot({ path: join(shots, `${path.replaceAll(/\W+/g, "-")}.png`), fullPage: true });
}
await browser.close();
