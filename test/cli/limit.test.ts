import { expect, setDefaultTimeout } from "bun:test";
import { join } from "node:path";
import type { RunEvent } from "../../src/train/run/events.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { rematApart } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const MIB = 2 ** 20;

/** Optimizer steps of the runs with a given limit, and of those with the least one: memory that leaks shows after many. */
const [STEPS, LEAST_STEPS] = [80, 20];
/** Tokens of an evaluation. */
const EVALUATED = 512;

/** Flags of a run with evaluations and checkpoints, `parts` of each. */
const often = (steps: number, parts: number): string[] =>
  `--steps ${steps} --eval-every ${steps / parts} --eval-limit ${EVALUATED} --save-every ${steps / parts}`.split(" ");

function train(method: string, limit: number, flags: readonly string[]) {
  const output = join(folder, `${method}-${limit}`);
  const common = "train --model recipes/base/model --data recipes/devils-dictionary --sequence-length 128 --truncate";
  const memory = ["--method", method, "--memory", `${limit}MiB`, "--output", output, "--json", "--threads", "2"];
  return rematApart([...common.split(" "), ...memory, ...flags]);
}

// The high-water mark of the process covers start-up, planning, evaluations, checkpoints, samples and the export.
// memory.test.ts has such runs in the plain suite.
const GIVEN = [
  ["lora", 215, ["--no-packing", "--batch-size", "2"]],
  ["full", 240, []],
] as const;
slowTest.each(GIVEN)(`%s: ${STEPS} steps with a limit of %d MiB never take a tenth more`, async (method, limit, flags) => {
  const { code, stdout, stderr } = await train(method, limit, [...often(STEPS, 4), ...flags]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const events = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunEvent);
  expect(events.filter(({ type }) => type === "step").length).toBe(STEPS);
  expect(events.filter(({ type }) => type === "checkpoint").length).toBe(4);
  const done = events.find((event) => event.type === "done")!;
  expect(done.processPeak / MIB).toBeLessThan(1.1 * limit);
});

/** A run with the least limit that an error names for weights in memory, and the MiB that the error speaks of. */
async function trainAtLeast(method: string, flags: readonly string[]) {
  const asked = [...often(LEAST_STEPS, 2), "--batch-size", "4", "--stream", "off", ...flags];
  const refused = await train(method, 100, asked);
  expect(refused.code).toBe(2);
  const [, least] = /the least that works is (\d+) MiB /.exec(refused.stderr)!.map(Number);
  const temporary = Number(/ ([\d.]+) MiB of temporary memory of ONNX Runtime\)/.exec(refused.stderr)?.[1] ?? 0);
  const { code, stdout, stderr } = await train(method, least!, asked);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const done = JSON.parse(stdout.trim().split("\n").at(-1)!) as RunEvent & { type: "done" };
  expect(done.type).toBe("done");
  expect(done.processPeak / MIB).toBeLessThan(1.1 * least!);
  return { done, temporary };
}

slowTest.each(["lora", "full"])(
  `ort-cpu, %s: ${LEAST_STEPS} steps with the least limit that an error names never take a tenth more`,
  async (method) => {
    const { done, temporary } = await trainAtLeast(method, ["--device", "ort-cpu"]);
    // What the programs took when each had run once is what they took in all.
    expect(temporary).toBeGreaterThan(0);
    expect(Math.abs(done.temporary / MIB - temporary)).toBeLessThan(0.1 * temporary);
  },
);

slowTest.each(["lora", "full"])("replay checks, %s: the same, with what they keep to compare with", async (method) => {
  await trainAtLeast(method, ["--verify-replay"]);
});
