import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import {
  CLASSIFY_FOLDER,
  type ClassifyRun,
  drawn,
  ENCODER_RUNS,
  labelledBatches,
  PAD,
  readClassifyFixture,
  textsOf,
} from "../support/classify.ts";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, expectScheduleFree, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readClassifyFixture("encoders.json");

test("the fixture is of these micro-batches and settings (test/golden/classify makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...ENCODER_RUNS]);
  for (const kind of ["single", "several", "number"] as const)
    expect(drawn(labelledBatches(kind, false, true)).map(textsOf)).toEqual(fixture.batches[kind].map((batch) => [...batch]));
  // Texts in two parts, and some in one.
  expect(new Set(fixture.batches.single.flat().flatMap(({ types }) => types ?? []))).toEqual(new Set([0, 1]));
});

/** A run, and the weights that it has to end with. */
function judged(
  run: ClassifyRun,
  packing = false,
): { readonly run: JudgedRun; readonly ends: ReadonlyMap<string, Float32Array> } {
  const tensors = [...readTensors(join(CLASSIFY_FOLDER, `${run.model}-${run.kind}.safetensors`))];
  const isStart = (name: string) => name.startsWith("start.");
  return {
    run: {
      run,
      objective: { objective: "classify", labels: ["a", "b", "c"], labelKind: run.kind },
      batches: labelledBatches(run.kind, packing, true),
      padId: PAD,
      start: Object.fromEntries(tensors.flatMap(([name, data]) => (isStart(name) ? [[name.slice("start.".length), data]] : []))),
    },
    ends: new Map(tensors.filter(([name]) => !isStart(name))),
  };
}

describe("a whole run of an encoder with --objective classify is what Transformers' Trainer makes of it", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.name, run] as const))(
      "on %s: %s: losses, gradient norms, the last weights and logits within 1e-4",
      async (_, _name, { settings, expected }) => {
        const { run, ends } = judged(settings);
        const { steps, weights, logits } = await trainedJudge(run, await EXECUTORS[on]!(), { name: "per-segment" });
        expectSteps(steps, expected.steps);
        expect(ends.size).toBeGreaterThan(8);
        // Adam makes steps of the rounding that a gradient of 0 is.
        for (const [weight, values] of ends)
          if (!isZero(weight)) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
        if (settings.method === "lora") expect([...ends.keys()].sort()).toEqual([...weights.keys()].sort());
        const all = logits.flatMap((each) => [...each]);
        expectWithin("logits", relativeError(all, expected.logits.flat()), 1e-4);
      },
    );
  }
});

slowTest(
  "a whole run is the same to the bit for every schedule and for 1 and 2 threads, with texts packed into rows",
  async () => {
    await expectScheduleFree(judged(ENCODER_RUNS[0]!, true).run);
  },
);
