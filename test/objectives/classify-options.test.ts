import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { NO_TUNING } from "../../src/models/tuning.ts";
import {
  askedBatches,
  CLASSIFY_FOLDER,
  drawn,
  OPTION_RUNS,
  OPTIONS,
  PAD,
  readOptionsFixture,
  textsOf,
} from "../support/classify.ts";
import { modelFolder, readTensors } from "../support/golden.ts";
import { EXECUTORS, expectScheduleFree, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readOptionsFixture();

test("the fixture is of these micro-batches and settings (test/golden/classify makes it anew)", () => {
  expect(fixture.options).toEqual([...OPTIONS]);
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...OPTION_RUNS]);
  expect(drawn(askedBatches()).map(textsOf)).toEqual(fixture.batches.map((batch) => [...batch]));
});

const picked = (run: (typeof OPTION_RUNS)[number], packing = false): JudgedRun => ({
  run,
  objective: { objective: "classify", labels: ["a", "b", "c"], labelSmoothing: run.labelSmoothing, optionTokens: true },
  batches: askedBatches(packing),
  padId: PAD,
  options: OPTIONS,
  start: {},
});

describe("a whole run with --option-tokens is that of a cross entropy over a few logits in PyTorch", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.name, run] as const))(
      "on %s: %s: losses, gradient norms, the last weights and logits within 1e-4",
      async (_, name, { settings, expected }) => {
        const tensors = readTensors(join(CLASSIFY_FOLDER, `${name}.safetensors`));
        const { steps, weights, logits } = await trainedJudge(picked(settings), await EXECUTORS[on]!(), { name: "per-segment" });
        expectSteps(steps, expected.steps);
        expect(tensors.size).toBeGreaterThan(8);
        for (const [weight, values] of tensors) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
        if (settings.method === "lora") expect([...tensors.keys()].sort()).toEqual([...weights.keys()].sort());
        const found = logits.flatMap((each) => [...each]);
        expectWithin("logits", relativeError(found, expected.logits.flat()), 1e-4);
      },
    );
  }
});

test("a whole run is the same to the bit for every schedule and for 1 and 2 threads, with texts packed into rows", async () => {
  // A schedule in half the memory is there for these.
  const runs = OPTION_RUNS.filter(({ model }) => model === "granite" || (SLOW && model === "gemma2"));
  expect(runs).not.toEqual([]);
  for (const run of runs) await expectScheduleFree(picked(run, true));
});

test.each(["f32", "bf16", "q8"] as const)(
  "of a %s head for tokens, tied or not, rows are read: nothing that is computed has the size of the vocabulary",
  (type) => {
    for (const name of ["gemma2", "llama"] as const) {
      const declared = loadConfig(modelFolder(name));
      const config = { ...declared, hiddenSize: 64, textHead: { outputs: OPTIONS.length, padId: null, options: OPTIONS } };
      const options = { tokens: 20, texts: 2, head: "logits", tuning: NO_TUNING, weightType: () => type } as const;
      const { forward } = buildSegments(config, options).at(-1)!.model;
      const given = forward.inputs.map((input) => input.name);
      const large = [...forward.types].filter(([value, { shape }]) => shape.includes(config.vocabSize) && !given.includes(value));
      // A Cast in front of a Gather is not executed: the kernel widens the rows that it reads.
      expect(large.map(([value]) => value)).toEqual(type === "bf16" ? ["lm_head.weight.f32"] : []);
    }
  },
);
