import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RunEvent } from "../../src/train/run/events.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, rematApart, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const data = join(folder, "data.jsonl");
writeFileSync(data, '{"prompt": "Define king. ", "completion": "A thing called king, and more than a few words."}\n'.repeat(40));
const output = join(folder, "run");
const args = ["train", "--model", model, "--data", data, "--output", output, "--threads", "1", "--sequence-length", "32"];

test("--dry-run says steps, data, memory and time, trains nothing and writes nothing", async () => {
  const { code, stdout } = await remat([...args, "--epochs", "3", "--gradient-accumulation", "2", "--dry-run", "--json"]);
  expect(code).toBe(0);
  const events = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunEvent);
  expect(events.map(({ type }) => type)).toEqual(["start", "estimate"]);
  const [start, estimate] = events as [Extract<RunEvent, { type: "start" }>, Extract<RunEvent, { type: "estimate" }>];
  expect(start.examples).toBe(40);
  expect(start.predictedPeak).toBeGreaterThan(0);
  expect(start.firstExample.length).toBeGreaterThan(1);
  expect(estimate.seconds).toBeCloseTo(estimate.steps * estimate.secondsPerStep, 9);
  expect(estimate.secondsPerStep).toBeGreaterThan(0);
  // As many steps as the run has, and as many passes as were asked for, but for the rest of the last step.
  expect(estimate.epochs).toBeGreaterThanOrEqual(3);
  expect(estimate.epochs).toBeLessThan(3.2);
  expect(existsSync(output)).toBe(false);
  const words = await rematApart([...args, "--steps", "5", "--dry-run", "--memory", "auto"]);
  expect(words.stderr).toMatch(/\nsteps +5 of about \S+ s, [\d.]+ passes over the data\n/);
  expect(words.stderr).toMatch(/within auto \([\d.]+ [MG]iB\) for the process/);
  expect(existsSync(output)).toBe(false);
});

test("few steps at the default learning rate are told; with one that was asked for they are not", async () => {
  const few = /note +3 steps at the default learning rate will hardly teach anything/;
  expect((await remat([...args, "--steps", "3", "--dry-run"])).stderr).toMatch(few);
  expect((await remat([...args, "--steps", "3", "--dry-run", "--learning-rate", "1e-3"])).stderr).not.toMatch(few);
  expect((await remat([...args, "--steps", "1", "--dry-run"])).stderr).toContain("1 step at the default learning rate");
});

test("a dry run into a folder that holds a run says what it would be all the same", async () => {
  expect((await remat([...args, "--steps", "1", "--no-sample"])).code).toBe(0);
  expect((await remat([...args, "--steps", "1", "--dry-run"])).code).toBe(0);
});
