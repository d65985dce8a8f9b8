/**
 * How fast the server's page is, in a real Chromium: the time to the first paint on this machine, and the longest task while the charts of a job with
 * many steps are moved.
 *
 *     bun bench/page.ts [--steps 100000] [--loads 10] [--json]
 *
 * The page is to have been painted after 300 ms (median), and no task of panning is to take longer than 50 ms of the processor's time, which is what
 * browsers call long.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Browser, Page } from "playwright-core";
import { openDatabase } from "../src/jobs/home/database.ts";
import { chats, openBox, QUICK, writeBase } from "../test/support/box.ts";
import { CHROMIUM, openBrowser } from "../test/support/browser.ts";

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "100000" },
    loads: { type: "string", default: "10" },
    json: { type: "boolean", default: false },
  },
});

const MOST_PAINT_MS = 300;
const MOST_TASK_MS = 50;
/** Moves of the charts, each by a key as a person would hold it down. */
const MOVES = 60;

/** Gives a job of a home as many steps as a long run has, as its events. */
function addSteps(home: string, job: string, steps: number): void {
  const database = openDatabase(join(home, "remat.sqlite"));
  database.transaction(() => {
    database.run("DELETE FROM events WHERE job = ? AND kind IS NOT NULL", [job]);
    const insert = database.query(
      "INSERT INTO events (job, created_at, level, type, message, data, kind, step) VALUES (?, 0, 'info', 'metrics', '', ?, 'step', ?)",
    );
    for (let step = 1; step <= steps; step++) {
      const noise = Math.sin(step * 12.9898) * 0.4;
      const data = {
        step,
        train_loss: 1 + 4 / Math.sqrt(step) + noise,
        learning_rate: 2e-4 * (1 - step / steps),
        gradient_norm: 1 + noise * noise,
        tokens_per_second: 1500 + 100 * noise,
      };
      insert.run(job, JSON.stringify(data), step);
    }
  })();
  database.close();
}

/** Milliseconds from the request to the first paint, of pages that are opened one after the other with an empty cache. */
async function paints(browser: Browser, origin: string, loads: number): Promise<number[]> {
  const found: number[] = [];
  for (let load = 0; load < loads; load++) {
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(origin);
    await page.waitForSelector("h1");
    await page.waitForTimeout(100);
    found.push(
      (await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? Infinity")) as number,
    );
    await context.close();
  }
  return found;
}

interface TraceEvent {
  readonly name: string;
  readonly pid: number;
  readonly tid: number;
  /** Microseconds, by the clock and of the processor. */
  readonly dur?: number;
  readonly tdur?: number;
  readonly args?: { readonly name?: string };
}

/** The longest task of the page's main thread while something happens, in milliseconds. */
interface LongestTask {
  /** By the clock: what other programs take of the processor is in it. */
  readonly clock: number;
  /** Of the processor. */
  readonly processor: number;
}

async function longestTask(page: Page, act: () => Promise<void>): Promise<LongestTask> {
  await browser.startTracing(page, { categories: ["toplevel", "disabled-by-default-devtools.timeline"] });
  await act();
  await page.waitForTimeout(500);
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString()) as { readonly traceEvents: readonly TraceEvent[] };
  const mains = new Set(
    traceEvents
      .filter(({ name, args }) => name === "thread_name" && args?.name === "CrRendererMain")
      .map(({ pid, tid }) => `${pid} ${tid}`),
  );
  const tasks = traceEvents.filter(({ name, pid, tid }) => name.endsWith("RunTask") && mains.has(`${pid} ${tid}`));
  if (tasks.length === 0) throw new Error("the browser told of no task");
  const most = (of: (event: TraceEvent) => number) => Math.max(...tasks.map(of)) / 1000;
  return { clock: most(({ dur = 0 }) => dur), processor: most(({ tdur = 0 }) => tdur) };
}

if (CHROMIUM === null) process.exit(1);
const folder = mkdtempSync(join(tmpdir(), "remat-page-"));
const home = join(folder, "home");
const options = { home, model: writeBase(folder), memory: "2GiB" };
let box = await openBox(options);
const { id } = await box.create({ training_file: await box.upload(chats()), suffix: "long", remat: QUICK });
await box.until(id);
await box.server.stop();
addSteps(home, id, Number(values.steps));
box = await openBox(options);
const browser = await openBrowser();
try {
  const { origin } = new URL(box.server.url);
  const painted = (await paints(browser, origin, Number(values.loads))).sort((a, b) => a - b);
  const paint = painted[painted.length >> 1]!;
  const page = await browser.newPage({ viewport: { width: 1280, height: 1400 } });
  await page.goto(`${origin}/#/job/${id}`);
  const loading = await longestTask(page, async () => {
    await page.waitForSelector(".chart canvas");
    await page.waitForTimeout(4000);
  });
  await page.focus(".plot");
  for (let i = 0; i < 4; i++) await page.keyboard.press("+");
  await page.waitForTimeout(500);
  const panning = await longestTask(page, async () => {
    for (let move = 0; move < MOVES; move++) {
      await page.keyboard.press(move < MOVES / 2 ? "ArrowRight" : "ArrowLeft");
      await page.waitForTimeout(30);
    }
  });
  const result = {
    steps: Number(values.steps),
    firstPaintMs: painted,
    medianPaintMs: paint,
    loadingMs: loading,
    panningMs: panning,
  };
  if (values.json) console.log(JSON.stringify(result));
  else {
    console.log(
      `first paint   ${paint.toFixed(0)} ms (median of ${painted.length}; ${painted.map((ms) => ms.toFixed(0)).join(", ")})`,
    );
    const said = ({ clock, processor }: LongestTask) =>
      `${processor.toFixed(0)} ms of the processor (${clock.toFixed(0)} by the clock)`;
    console.log(`longest task  ${said(loading)} while ${values.steps} steps are read and drawn`);
    console.log(`              ${said(panning)} while the charts are moved ${MOVES} times`);
  }
  if (paint > MOST_PAINT_MS || panning.processor > MOST_TASK_MS) process.exitCode = 1;
} finally {
  await browser.close();
  await box.server.stop();
  rmSync(folder, { recursive: true });
}
