import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { test } from "bun:test";
import { type Browser, chromium, type Page } from "playwright-core";

/** Chromium's program: Debian's, or the one that the environment names; null: there is none. */
export const CHROMIUM: string | null =
  [process.env["CHROMIUM"], "/usr/bin/chromium"].find((path) => path !== undefined && existsSync(path)) ?? null;

if (CHROMIUM === null)
  process.stderr.write("no Chromium (apt-get install chromium, or CHROMIUM=PATH): tests in a browser are passed over\n");

/** A test that needs a browser. */
export const browserTest = CHROMIUM === null ? test.skip : test;

/** Starts a browser with an empty profile, which asks nothing of the network by itself. */
export const openBrowser = (): Promise<Browser> =>
  chromium.launch({
    executablePath: CHROMIUM!,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-background-networking",
      "--no-first-run",
      "--disable-sync",
      "--disable-component-update",
    ],
  });

/** A page, and what it did that it should not have done: errors, and requests to other places. */
export interface WatchedPage {
  readonly page: Page;
  readonly complaints: readonly string[];
}

export async function openPage(
  browser: Browser,
  origin: string,
  options: Parameters<Browser["newPage"]>[0] = {},
): Promise<WatchedPage> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
  page.setDefaultTimeout(60_000);
  const complaints: string[] = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") complaints.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(origin) && !request.url().startsWith("data:")) complaints.push(`request: ${request.url()}`);
  });
  return { page, complaints };
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

interface Violation {
  readonly id: string;
  readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[];
}

/** Breaches of WCAG 2 (A and AA) and of good practice that axe-core finds in what is shown, in both colour schemes. */
export async function accessibilityProblems(page: Page): Promise<string[]> {
  const found: string[] = [];
  await page.evaluate(AXE);
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme });
    const violations = (await page.evaluate("axe.run().then(({ violations }) => violations)")) as readonly Violation[];
    for (const { id, nodes } of violations)
      found.push(...nodes.map(({ html, failureSummary }) => `${colorScheme}, ${id}: ${html} ${failureSummary}`));
  }
  return found;
}
