/**
 * Makes the pictures of the server's page in the documentation: the bundled base model learns the bundled dictionary twice, and a real Chromium looks on.
 *
 *     bun bench/page-pictures.ts [FOLDER]
 *
 * FOLDER is `docs` by default. It takes some minutes.
 */
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Job } from "../src/page/api/types.ts";
import { openBox } from "../test/support/box.ts";
import { CHROMIUM, openBrowser } from "../test/support/browser.ts";
import { indexedPng } from "./indexed-png.ts";

if (CHROMIUM === null) process.exit(1);
const [to = join(import.meta.dir, "../docs")] = process.argv.slice(2);
const recipes = join(import.meta.dir, "../recipes");
const folder = mkdtempSync(join(tmpdir(), "remat-pictures-"));
const model = join(folder, "kjv-base");
symlinkSync(join(recipes, "base/model"), model);
const box = await openBox({ home: join(folder, "home"), model, memory: "1GiB", conversations: 2, maxTokens: 512, threads: 2 });
const browser = await openBrowser();
try {
  const read = (name: string) => readFileSync(join(recipes, "devils-dictionary", name), "utf8");
  const training_file = await box.upload(read("train.jsonl"), "devils-dictionary.jsonl");
  const validation_file = await box.upload(read("valid.jsonl"), "held-out.jsonl");
  const create = (suffix: string, remat: object) =>
    box.create({ model: "kjv-base", training_file, validation_file, suffix, remat });
  const settings = { batch_size: 2, rank: 16, eval_every: 10, eval_limit: 4000 };
  const { id } = await create("devil", { ...settings, epochs: 3, learning_rate: 0.002 });
  await create("devil-slow", { ...settings, epochs: 1, learning_rate: 0.0005 });
  await box.until(id, (job) => (job as unknown as Job).remat.step > 0.6 * (job as unknown as Job).remat.steps);

  const { origin } = new URL(box.server.url);
  const page = await browser.newPage({ viewport: { width: 1200, height: 800 }, colorScheme: "dark" });
  await page.goto(`${origin}/#/job/${id}`);
  await page.waitForSelector(".stack .mark");
  await page.waitForSelector(".timeline svg");
  await page.waitForTimeout(3000);
  writeFileSync(join(to, "page-job.png"), indexedPng(await page.screenshot()));

  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1200, height: 640 });
  await page.goto(`${origin}/#/train`);
  await page.selectOption("#training-file", training_file);
  await page.waitForSelector("mark >> nth=3");
  await page.waitForTimeout(15_000);
  writeFileSync(join(to, "page-data.png"), indexedPng(await page.screenshot()));
} finally {
  await browser.close();
  await box.server.stop();
  rmSync(folder, { recursive: true });
}
