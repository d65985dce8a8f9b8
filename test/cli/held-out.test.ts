import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"));
const data = join(folder, "data.jsonl");
const words = Array.from({ length: 20 }, (_, i) => `word${i}`);
writeFileSync(
  data,
  words.map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`).join(""),
);

const output = join(folder, "run");
const flags = ["--model", model, "--data", data, "--sequence-length", "32", "--threads", "1", "--json"];

interface Event {
  readonly type: string;
  readonly [key: string]: unknown;
}

async function train(...more: string[]): Promise<Event[]> {
  const { code, stdout, stderr } = await remat(["train", ...more]);
  expect(`${code} ${stderr}`).toBe("0 ");
  return stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Event);
}

const metrics = () =>
  readFileSync(join(output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Event)
    .map(({ type, step, loss, labelled }) => [type, step, loss, labelled]);

test("--valid 20% holds out a fifth; a resumed run has the same held-out examples and losses, bit for bit", async () => {
  const run = [...flags, "--output", output, "--valid", "20%", "--steps", "6", "--save-every", "3", "--eval-every", "2"];
  const events = await train(...run);
  expect(events.find(({ type }) => type === "start")).toMatchObject({ examples: 16, heldOut: 4 });
  expect(events.find(({ type }) => type === "sample")).toHaveProperty("prompt", expect.stringMatching(/^Define word\d+\.$/));
  const whole = metrics();
  expect(whole.filter(([type]) => type === "evaluation").map(([, step]) => step)).toEqual([0, 2, 4, 6]);

  rmSync(join(output, "checkpoints", "step-00000006"), { recursive: true });
  const resumed = await train(...run, "--resume");
  expect(resumed.find(({ type }) => type === "resume")).toMatchObject({ step: 3 });
  expect(metrics()).toEqual(whole);

  const { code, stderr } = await remat(["train", ...run.map((word) => (word === "20%" ? "25%" : word)), "--resume"]);
  expect([code, stderr]).toEqual([2, expect.stringMatching(/data of 16 examples.*data of 15 examples/)]);
});

test("in a configuration file it is no path, and may be a number", async () => {
  for (const [text, count] of [
    ["0.1", 2],
    ["3", 3],
    ["15%", 3],
  ] as const) {
    const file = join(folder, "train.yaml");
    writeFileSync(
      file,
      `model: ${model}\ndata: ${data}\nvalid: ${text}\noutput: ${join(folder, "other")}\nsteps: 1\noverwrite: true\n`,
    );
    const events = await train(file, "--json", "--threads", "1");
    expect(events.find(({ type }) => type === "start")).toMatchObject({ examples: 20 - count, heldOut: count });
  }
});
