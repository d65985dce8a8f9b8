import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Desktop, openInBrowser } from "../../src/cli/terminal/browser.ts";
import { train } from "../../src/library/train.ts";
import type { TrainConfigInput } from "../../src/train/config.ts";
import type { RunEvent } from "../../src/train/run/events.ts";
import { factsIn } from "../../src/train/run/report/facts.ts";
import { rejection, temporaryFolder } from "../hf/temp.ts";
import { ok, refused, remat, writeTinyModel } from "../support/cli.ts";
import { collisions } from "../support/drawings.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"));
const data = join(folder, "data.jsonl");
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night", "horse", "lamp"];
writeFileSync(
  data,
  words
    .map((word) => `${JSON.stringify({ prompt: `Define <b>${word}</b>: `, completion: `a thing called ${word}.` })}\n`)
    .join(""),
);

const config = (output: string, more: Partial<TrainConfigInput> = {}): TrainConfigInput => ({
  model,
  data,
  output: join(folder, output),
  threads: 1,
  sequenceLength: 64,
  valid: "2",
  steps: 8,
  evalEvery: 2,
  learningRate: 1e-2,
  ...more,
});

const pageOf = (output: string): string => readFileSync(join(folder, output, "report.html"), "utf8");

/** How many points the curves of training and of held-out examples have, as their drawing says under the pointer. */
function valuesOf(page: string): { steps: number; heldOut: number } {
  const loss = /<div class="wide">(<svg [^]*?<\/svg>)/.exec(page)![1]!;
  const count = (name: string) => [...loss.matchAll(new RegExp(`\n${name}: `, "g"))].length;
  return { steps: count("training"), heldOut: count("held out") };
}

const withoutTime = (page: string): string => page.replace(/As of [^<]*/, "");

test("a run has a report of its whole course, which no checksum covers", async () => {
  const { predictedPeak, measuredPeak } = await train(config("whole"));
  const page = pageOf("whole");
  expect(page).toContain("Finished after 8 steps");
  expect(valuesOf(page)).toEqual({ steps: 8, heldOut: 5 });
  const facts = factsIn(page)!;
  const { resident, stash, workspace, temporary, peak, measured, process } = facts.memory;
  const planned = Object.values(resident).reduce((sum, bytes) => sum + bytes, stash + workspace + temporary);
  expect(planned).toBe(peak);
  expect([peak, measured]).toEqual([predictedPeak, measuredPeak]);
  expect(process).toBeGreaterThan(peak);
  const highest = Math.max(...facts.memory.timeline.slots.map(({ bytes }) => bytes.reduce((sum, part) => sum + part, 0)));
  expect(highest).toBe(stash + workspace);
  expect(facts.sample?.prompt).toMatch(/^Define <b>\w+<\/b>/);
  expect(facts.sample?.before).toBeString();
  expect(facts.sample?.after).toBeString();
  expect(page).toContain("Define &lt;b&gt;");
  for (const svg of page.match(/<svg [^]*?<\/svg>/g)!) expect(collisions(svg)).toEqual([]);
  expect(readFileSync(join(folder, "whole", "SHA256SUMS"), "utf8")).not.toContain("report");
});

test("at a checkpoint it shows the run so far; after an interruption, it says so; the resumed run has one report of all", async () => {
  const controller = new AbortController();
  let atCheckpoint = "";
  const sink = (event: RunEvent) => {
    if (event.type === "checkpoint" && event.step === 2) atCheckpoint = pageOf("resumed");
    if (event.type === "step" && event.step === 4) controller.abort();
  };
  await train(config("resumed", { saveEvery: 2 }), { sink, signal: controller.signal });
  expect(atCheckpoint).toContain("Training, step 2 of 8 done");
  expect(valuesOf(atCheckpoint)).toEqual({ steps: 2, heldOut: 2 });
  expect(pageOf("resumed")).toContain("Interrupted after step 4 of 8");
  const { before } = factsIn(pageOf("resumed"))!.sample!;
  await train(config("resumed", { saveEvery: 2, resume: true }));
  const page = pageOf("resumed");
  expect(page).toContain("Finished after 8 steps");
  expect(valuesOf(page)).toEqual({ steps: 8, heldOut: 5 });
  expect(factsIn(page)!.sample!.before).toBe(before);
});

test("a run that diverges says why", async () => {
  const message = await rejection(train(config("diverged", { learningRate: 1e30, clip: 0 })));
  expect(message).toContain("diverged");
  expect(pageOf("diverged")).toContain("Failed after step ");
  expect(factsIn(pageOf("diverged"))!.end.message).toBe(message);
});

test("a report that cannot be written is one warning, and the run goes on", async () => {
  await train(config("blocked", { steps: 2 }));
  rmSync(join(folder, "blocked", "report.html"));
  mkdirSync(join(folder, "blocked", "report.html", "full"), { recursive: true });
  const warnings: string[] = [];
  const sink = (event: RunEvent) => event.type === "warning" && warnings.push(event.text);
  const { reason } = await train(config("blocked", { steps: 4, saveEvery: 1, resume: true }), { sink });
  expect(reason).toBe("finished");
  expect(warnings.filter((text) => text.includes("without a report"))).toHaveLength(1);
});

test("`remat report` makes the same page anew, or one of the metrics alone, and draws the losses", async () => {
  const run = join(folder, "whole");
  const page = pageOf("whole");
  const svg = join(folder, "loss.svg");
  expect((await ok("report", run, "--svg", svg)).split("\n")).toEqual([join(run, "report.html"), svg, ""]);
  expect(withoutTime(pageOf("whole"))).toBe(withoutTime(page));
  expect(readFileSync(svg, "utf8")).toMatch(/^<svg [^]*>held out<[^]*<\/svg>\n$/);
  expect(collisions(readFileSync(svg, "utf8"))).toEqual([]);
  rmSync(join(run, "report.html"));
  // A run under way may have half a line in its file.
  writeFileSync(join(run, "metrics.jsonl"), `${readFileSync(join(run, "metrics.jsonl"), "utf8")}{"type":"st`);
  await ok("report", run);
  expect(pageOf("whole")).toContain("Step 8 of 8");
  expect(valuesOf(pageOf("whole"))).toEqual({ steps: 8, heldOut: 5 });
  expect(await refused("report")).toContain("takes one run folder");
  expect((await ok("report", run, "--svg", svg, "--metric", "accuracy")).split("\n")).toContain(svg);
  expect(readFileSync(svg, "utf8")).toMatch(/<svg[^]*Token accuracy/);
  expect(await refused("report", run, "--svg", svg, "--metric", "kl")).toMatch(
    /--metric kl: the run has values of loss, .*accuracy/,
  );
  expect(await refused("report", run, "--metric", "accuracy")).toContain("--metric says what --svg draws");
  expect(await refused("report", folder)).toContain("is no run folder: it holds no train-config.json");
});

test("--open opens no browser in a pipe, and says where the report is; --dry-run has none", async () => {
  const flags = ["--model", model, "--data", data, "--threads", "1", "--sequence-length", "64", "--steps", "1", "--open"];
  const output = join(folder, "opened");
  const dry = await remat(["train", ...flags, "--output", output, "--dry-run"]);
  expect([dry.code, existsSync(output)]).toEqual([0, false]);
  expect(dry.stderr).not.toContain("not opened");
  const { code, stderr } = await remat(["train", ...flags, "--output", output]);
  expect(code).toBe(0);
  expect(stderr).toContain(`note: ${join(output, "report.html")} is not opened: `);
});

test("a browser is started where there is a desktop and somebody looks, and a note says why elsewhere", () => {
  const tried = (desktop: Partial<Desktop>): string => {
    let result = "";
    const whole: Desktop = {
      platform: "linux",
      env: { DISPLAY: ":0" },
      isTerminal: true,
      which: (program) => `/bin/${program}`,
      start: (command) => (result = command.join(" ")),
      ...desktop,
    };
    openInBrowser("a/report.html", whole, (text) => (result = text));
    return result;
  };
  expect(tried({})).toBe("/bin/xdg-open a/report.html");
  expect(tried({ env: { WAYLAND_DISPLAY: "wayland-0" } })).toBe("/bin/xdg-open a/report.html");
  expect(tried({ platform: "darwin", env: {} })).toBe("/bin/open a/report.html");
  for (const [desktop, reason] of [
    [{ env: {} }, "no desktop"],
    [{ isTerminal: false }, "no terminal"],
    [{ env: { DISPLAY: ":0", CI: "true" } }, "CI is set"],
    [{ which: () => null }, "there is no xdg-open here"],
    [{ platform: "win32" }, "win32"],
    [
      {
        start() {
          throw new Error("EACCES");
        },
      },
      "EACCES",
    ],
  ] as const)
    expect(tried(desktop)).toMatch(new RegExp(`^a/report.html is not opened: .*${reason}`));
});
