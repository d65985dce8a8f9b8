import { afterAll, beforeAll, describe, expect, setDefaultTimeout } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { temporaryFolder } from "../hf/temp.ts";
import { type Box, chats, openBox, QUICK, writeBase } from "../support/box.ts";
import { accessibilityProblems, browserTest, CHROMIUM, openBrowser, openPage, type WatchedPage } from "../support/browser.ts";
import { limitHere } from "../support/process-tree.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(240_000);

/** Tests of the whole way take half a minute. */
const wholeTest = SLOW ? browserTest : browserTest.skip;

const folder = temporaryFolder();
const home = join(folder, "home");
const boxes: Box[] = [];
let model: string;
let box: Box;
let browser: Browser;
let tuned: string;

const open = async (options: Parameters<typeof openBox>[0]): Promise<Box> => {
  const opened = await openBox({ model, memory: limitHere(2 ** 31), conversations: 2, ...options });
  boxes.push(opened);
  return opened;
};
const originOf = ({ server }: Box): string => new URL(server.url).origin;
const pageOf = (path: string, options: Parameters<Browser["newPage"]>[0] = {}): Promise<WatchedPage> =>
  pageAt(box, path, options);
const pageAt = async (at: Box, path: string, options: Parameters<Browser["newPage"]>[0] = {}): Promise<WatchedPage> => {
  const watched = await openPage(browser, originOf(at), options);
  await watched.page.goto(`${originOf(at)}/#/${path}`);
  return watched;
};
/** Waits until an expression is true; the page's security policy keeps Playwright's own way from it. */
const until = async (page: Page, expression: string): Promise<void> => {
  for (let tries = 0; (await page.evaluate(expression)) !== true; tries++) {
    if (tries > 600) throw new Error(`it did not come: ${expression}`);
    await Bun.sleep(50);
  }
};
const has = (page: Page, selector: string) => page.waitForSelector(selector);

beforeAll(async () => {
  if (CHROMIUM === null) return;
  model = writeBase(folder);
  box = await open({ home });
  browser = await openBrowser();
  const remat = { ...QUICK, sample: true, valid: "34%", eval_every: 2 };
  const { id } = await box.create({ training_file: await box.upload(chats(), "words.jsonl"), suffix: "first", remat });
  tuned = (await box.until(id)).fine_tuned_model!;
});
afterAll(async () => {
  await browser?.close();
  for (const { server } of boxes) await server.stop();
});

wholeTest("the page shows the nodes of a fleet, what each does, what it has sent, and says when there is none", async () => {
  const watched = await openPage(browser, originOf(box));
  const { page, complaints } = watched;
  const node = { object: "node", version: "1", processor: "x64", slots: 2, memory: 3 * 2 ** 30, leaving: false };
  const traffic = { bases: { received: 2 ** 20, sent: 0 }, checkpoints: { received: 0, sent: 3 * 2 ** 20 } };
  const gradients = { gradients: { received: 2048, sent: 4096 } };
  const work = [
    { job: "ftjob-one", name: "f.ftjob-one", traffic: { checkpoints: { received: 0, sent: 2 ** 20 } } },
    { job: null, name: "parallel.x", traffic: gradients },
  ];
  let data: object[] = [
    {
      ...node,
      id: "shelf",
      models: ["SmolLM2-135M"],
      jobs: ["ftjob-one"],
      running: 2,
      traffic: { ...traffic, ...gradients },
      work,
    },
    { ...node, id: "desk", models: [], jobs: [], running: 0, traffic: {}, work: [] },
  ];
  await page.route("**/v1/nodes", (route) => route.fulfill({ json: { object: "list", data, has_more: false, fleet: true } }));
  await page.goto(`${originOf(box)}/#/`);
  await has(page, ".nodes tbody tr");
  const rows = async (table: string) => (await page.locator(`${table} tbody tr`).allInnerTexts()).map((row) => row.split("\t"));
  expect(await rows(".nodes > table")).toEqual([
    ["shelf", "ftjob-one, 1 of another server (of 2)", "3.00 GiB", "SmolLM2-135M"],
    ["desk", "none of 2", "3.00 GiB", "none yet"],
  ]);
  expect(await rows(".traffic")).toEqual([
    ["shelf", "1.00 MiB in", "–", "3.00 MiB out", "–", "2.00 KiB in, 4.00 KiB out"],
    ["ftjob-one", "–", "–", "1.00 MiB out", "–", "–"],
    ["parallel.x", "–", "–", "–", "–", "2.00 KiB in, 4.00 KiB out"],
    ["desk", "–", "–", "–", "–", "–"],
  ]);
  expect(await accessibilityProblems(page)).toEqual([]);
  data = [];
  await has(page, "text=There is no node");
  // The job's own page has what all of its nodes have sent.
  await page.route("**/traffic", (route) => route.fulfill({ json: { object: "fine_tuning.traffic", fleet: true, traffic } }));
  await page.click("text=first");
  await has(page, "[aria-label='Traffic'] tbody tr");
  expect(await rows("[aria-label='Traffic']")).toEqual([
    ["Base models", "1.00 MiB", "0 B"],
    ["Checkpoints", "0 B", "3.00 MiB"],
  ]);
  expect(complaints).toEqual([]);
  await page.close();
});

wholeTest("the page shows the rounds of a federation as they are closed, of all nodes and of each", async () => {
  const watched = await openPage(browser, originOf(box));
  const { page, complaints } = watched;
  const federation = {
    id: "abc",
    object: "federation",
    name: "wards",
    model: "SmolLM2-135M",
    created_at: 1,
    rounds: 3,
    local_steps: 20,
  };
  const roundOf = (round: number) => ({
    round,
    valid_loss: 3 - round / 4,
    bytes_received: 2000,
    bytes_sent: 4000,
    nodes: ["east", "west"].slice(0, round).map((id) => ({
      id,
      examples: 1200,
      share: 1 / Math.min(2, round),
      train_loss: 2,
      valid_loss: 2.5,
      epsilon: null,
      bytes: 1000,
    })),
  });
  let closed = 1;
  await page.route("**/v1/federations*", (route) => route.fulfill({ json: { object: "list", has_more: false, data: [view()] } }));
  const asked: string[] = [];
  await page.route("**/v1/federations/*", (route) => {
    const after = Number(new URL(route.request().url()).searchParams.get("after"));
    asked.push(`${after} of ${closed}`);
    const data = [1, 2, 3].filter((round) => round > after && round <= closed).map(roundOf);
    return route.fulfill({ json: { ...view(), data } });
  });
  const view = () => ({
    ...federation,
    status: closed < 3 ? "running" : "succeeded",
    closed,
    parameters: 5000,
    wanted: 2,
    nodes: ["east", "west"],
    updates: closed < 3 ? ["east"] : [],
    valid_loss: 3 - closed / 4,
  });
  await page.goto(`${originOf(box)}/#/`);
  await page.click(".federations >> text=wards");
  await has(page, ".chart canvas");
  const rows = async () => (await page.locator(".nodes tbody tr").allInnerTexts()).map((row) => row.split("\t"));
  expect(await rows()).toEqual([
    ["east", "1 of 1", "1,200", "100 %", "2.5", "1000 B", "–"],
    ["west", "none yet", "–", "–", "–", "0 B", "–"],
  ]);
  closed = 3;
  await has(page, ".pill >> text=Done");
  expect(await rows()).toEqual([
    ["east", "3 of 3", "1,200", "50 %", "2.5", "2.93 KiB", "–"],
    ["west", "2 of 3", "1,200", "50 %", "2.5", "1.95 KiB", "–"],
  ]);
  await until(page, "document.querySelector('.chart .keys').textContent === 'all nodes 2.25east 2.5west 2.5'");
  const tiles = (await page.locator(".tiles dd").allInnerTexts()).slice(0, 3);
  expect([...tiles, asked.at(-1)]).toEqual(["3 / 3", "2.25", "–", "1 of 3"]);
  expect(await page.locator(".chart canvas").count()).toBe(4);
  expect(await accessibilityProblems(page)).toEqual([]);
  expect(complaints).toEqual([]);
  await page.close();
});

browserTest("the page shows jobs and a job, asks nothing of elsewhere, and can be read in both colour schemes", async () => {
  const { page, complaints } = await pageOf("");
  await has(page, "text=first");
  expect(await page.title()).toBe("Jobs · Remat");
  expect(await accessibilityProblems(page)).toEqual([]);
  await page.click("text=first");
  await has(page, ".chart canvas");
  await has(page, ".timeline svg");
  await has(page, "text=Before training");
  expect(await accessibilityProblems(page)).toEqual([]);
  expect(complaints).toEqual([]);
  await page.close();
});

describe("in a browser", () => {
  wholeTest("a file is uploaded, looked at, trained on, paused, resumed, and goes on when the server comes again", async () => {
    const { page, complaints } = await pageOf("train");
    const upload = (name: string, text: string) =>
      page.setInputFiles("#file", { name, mimeType: "application/octet-stream", buffer: Buffer.from(text) });

    await upload("bad.jsonl", `${chats()}{"messages": [{"role": "user", "content": 3}]}\n`);
    await has(page, ".problems.error >> text=bad.jsonl:7");
    await upload("questions.csv", "question,reply\nWho?,Me.\nWhere?,Here.\n");
    await has(page, ".problem >> text=questions.csv:2");
    await page.selectOption("[aria-label='Meaning of the column question']", "prompt");
    await page.selectOption("[aria-label='Meaning of the column reply']", "completion");
    await has(page, "mark >> text=Me.");
    await upload("good.jsonl", chats());
    await has(page, "mark >> text=A thing called king.");
    expect(await accessibilityProblems(page)).toEqual([]);

    await page.fill("#suffix", "second");
    await page.selectOption("#held-out", "20%");
    await page.fill("#setting-rank", "0");
    await page.click("text=Start training");
    await has(page, ".problem >> text=remat.rank");
    expect(await page.getAttribute("#setting-rank", "aria-invalid")).toBe("true");
    await page.fill("#setting-rank", "4");
    await page.fill("#setting-epochs", "20000");
    await page.fill("#setting-sequence_length", "32");
    await page.click("summary >> text=More");
    await page.fill("#setting-more", '{ "packing": false, "threads": 1, "sample": false }');
    await page.click("button >> text=Check");
    await has(page, ".estimate >> text=Steps");
    await page.click("text=Start training");

    await has(page, ".pill >> text=Training");
    await until(page, "Number(document.querySelector('.tiles dd').textContent.split(' ')[0].replace(',', '')) > 20");
    await has(page, ".stack .mark");
    await page.click("button >> text=Pause");
    await has(page, ".pill >> text=Paused");
    await page.click("button >> text=Resume");
    await has(page, ".pill >> text=Training");

    const { port } = new URL(box.server.url);
    await box.server.stop();
    boxes.splice(boxes.indexOf(box), 1);
    await has(page, ".connection >> text=Connecting");
    box = await open({ home, port: Number(port) });
    await has(page, ".connection >> text=Live");
    await has(page, ".events >> text=Attempt 3 has started");
    await has(page, ".pill >> text=Training");
    await page.click("button >> text=Cancel");
    await page.click("dialog >> text=Cancel the job");
    await has(page, ".pill >> text=Cancelled");
    await page.click("[role=tab] >> text=Configuration");
    await has(page, ".code >> text=data: good.jsonl");
    // The browser itself told of the setting that was refused, and of connections that failed while the server was away.
    expect(complaints.filter((text) => !/ERR_|status of 400/.test(text))).toEqual([]);
    await page.close();
  });

  wholeTest("two models are talked with side by side, runs are compared, models are exported", async () => {
    const { page, complaints } = await openPage(browser, originOf(box));
    const ask = async () => {
      await page.goto(`${originOf(box)}/#/chat?right=${encodeURIComponent(tuned)}`);
      await page.fill("#prompt", "Define king.");
      await page.keyboard.press("Enter");
    };
    // What cannot be said to any model is given back.
    await page.route("**/v1/models", (route) => route.fulfill({ json: { object: "list", data: [], has_more: false } }));
    await ask();
    await until(
      page,
      "document.querySelector('#prompt').value === 'Define king.' && !document.querySelector('.composer [type=submit]').hidden",
    );
    await page.unroute("**/v1/models");
    // What is said before the models are known waits for them.
    await page.route("**/v1/models", async (route) => {
      await Bun.sleep(500);
      await route.continue();
    });
    await page.goto("about:blank");
    await ask();
    await until(page, "[...document.querySelectorAll('.log')].every((log) => log.textContent.includes('tokens/s'))");
    expect(await accessibilityProblems(page)).toEqual([]);

    await page.goto(`${originOf(box)}/#/`);
    const { id } = await box.create({ training_file: await box.upload(chats()), suffix: "third", remat: QUICK });
    await box.until(id);
    // Until it is among those that have ended rows move, maybe away from under a click.
    await has(page, ".job[data-state=succeeded] [aria-label='Compare third']");
    for (const name of ["first", "third"]) await page.check(`[aria-label='Compare ${name}']`);
    await page.click("text=Compare 2 jobs");
    await has(page, ".chart .keys >> text=third");
    await page.click("text=Show this one alone");
    await has(page, ".chart .keys >> text=held out");
    await page.selectOption("[aria-label='Compare with another job']", id);
    await has(page, ".chart .keys >> text=third");
    expect(await accessibilityProblems(page)).toEqual([]);

    await page.goto(`${originOf(box)}/#/models`);
    await page.click("[aria-label='Export first']");
    expect(await accessibilityProblems(page)).toEqual([]);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("dialog button >> text=Export")]);
    expect(download.suggestedFilename()).toMatch(/\.peft\.tar$/);
    expect(
      readFileSync(await download.path())
        .subarray(257, 262)
        .toString(),
    ).toBe("ustar");
    expect(await accessibilityProblems(page)).toEqual([]);
    expect(complaints).toEqual([]);
    await page.close();
  });

  wholeTest("everything is reached by keys, on a narrow screen too", async () => {
    const { page, complaints } = await pageOf("", { viewport: { width: 390, height: 844 } });
    await has(page, "text=first");
    await page.keyboard.press("Tab");
    expect(await page.evaluate("document.activeElement.textContent")).toBe("Skip to the content");
    await page.keyboard.press("Enter");
    expect(await page.evaluate("document.activeElement.id")).toBe("main");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await has(page, "#training-file");
    await page.goto(`${originOf(box)}/#/`);
    await page.focus("a:has-text('first')");
    await page.keyboard.press("Enter");
    await has(page, ".chart canvas");
    await page.focus(".plot");
    for (const key of ["+", "+", "ArrowRight", "ArrowLeft", "-", "0"]) await page.keyboard.press(key);
    await page.focus("[role=tab]");
    await page.keyboard.press("ArrowRight");
    expect(await page.evaluate("document.activeElement.textContent")).toBe("Configuration");
    expect(await page.evaluate("document.documentElement.scrollWidth <= innerWidth")).toBe(true);
    await page.click("[aria-label^='Colours']");
    expect(await page.evaluate("document.documentElement.dataset.theme")).toBe("light");
    for (const place of ["train", "chat", "models"]) {
      await page.goto(`${originOf(box)}/#/${place}`);
      await has(page, "h1");
      expect([place, await page.evaluate("document.documentElement.scrollWidth <= innerWidth")]).toEqual([place, true]);
    }
    expect(complaints).toEqual([]);
    await page.close();
  });

  wholeTest("a key is asked for where there are keys, and kept in the tab", async () => {
    const closed = await open({ home: join(folder, "closed"), apiKey: "secret" });
    const { page, complaints } = await pageAt(closed, "");
    await has(page, "dialog[open] >> text=This server asks for a key");
    await page.fill("#key", "wrong");
    await page.keyboard.press("Enter");
    await until(page, "document.querySelector('#key')?.value === ''");
    await page.fill("#key", "secret");
    await page.keyboard.press("Enter");
    await has(page, "text=Nothing has been trained here yet");
    expect(await page.evaluate("[sessionStorage.length, Object.keys(localStorage).includes('remat-key')]")).toEqual([1, false]);
    await page.reload();
    await has(page, "text=Nothing has been trained here yet");
    // The browser itself tells of answers that are refusals.
    expect(complaints.filter((text) => !text.includes("401"))).toEqual([]);
    await page.close();
  });
});
