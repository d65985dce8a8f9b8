import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import {
  CLASSIFY_FOLDER,
  CLASSIFY_RUNS,
  type ClassifyRun,
  drawn,
  labelledBatches,
  PAD,
  readClassifyFixture,
  textsOf,
} from "../support/classify.ts";
import { readTensors } from "../support/golden.ts";
import { EXECUTORS, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const fixture = readClassifyFixture();

test("the fixture is of these micro-batches and settings (test/golden/classify makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...CLASSIFY_RUNS]);
  for (const kind of ["single", "several", "number"] as const)
    expect(drawn(labelledBatches(kind)).map(textsOf)).toEqual(fixture.batches[kind].map((batch) => [...batch]));
});

const judged = (run: ClassifyRun, start: Float32Array, packing = false): JudgedRun => ({
  run,
  objective: { objective: "classify", labels: ["a", "b", "c"], labelKind: run.kind },
  batches: labelledBatches(run.kind, packing),
  padId: PAD,
  start: { "score.weight": start },
});

describe("a whole run with --objective classify is what Transformers' Trainer makes of it", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.name, run] as const))(
      "on %s: %s: losses, gradient norms, the last weights and logits within 1e-4",
      async (_, name, { settings, expected }) => {
        const tensors = readTensors(join(CLASSIFY_FOLDER, `${name}.safetensors`));
        const { steps, weights, logits } = await trainedJudge(judged(settings, tensors.get("start")!), await EXECUTORS[on]!(), {
          name: "per-segment",
        });
        expectSteps(steps, expected.steps);
        tensors.delete("start");
        expect(tensors.size).toBeGreaterThan(8);
        for (const [weight, values] of tensors) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
        if (settings.method === "lora") expect([...tensors.keys()].sort()).toEqual([...weights.keys()].sort());
        expectWithin(
          "logits",
          relativeError(
            logits.flatMap((each) => [...each]),
            expected.logits.flat(),
          ),
          1e-4,
        );
      },
    );
  }
});

test("a whole run is the same to the bit for every schedule and for 1 and 2 threads, with texts packed into rows too", async () => {
  const run = CLASSIFY_RUNS[1]!;
  const start = readTensors(join(CLASSIFY_FOLDER, "gemma2-single.safetensors")).get("start")!;
  for (const packing of SLOW ? [false, true] : [true]) {
    const reference = await trainedJudge(judged(run, start, packing), await createWasmExecutor({ threads: 1 }), { name: "off" });
    const strategies: Checkpointing[] = [
      { name: "revolve", slots: 1 },
      { name: "optimal", limit: { share: 0.4 } },
    ];
    for (const [i, strategy] of strategies.entries()) {
      const again = await trainedJudge(judged(run, start, packing), await createWasmExecutor({ threads: 1 + (i % 2) }), strategy);
      expect(again.weights).toEqual(reference.weights);
      expect(again.evaluation).toEqual(reference.evaluation);
      expect(again.steps.map(({ loss, metrics }) => [loss, metrics])).toEqual(
        reference.steps.map(({ loss, metrics }) => [loss, metrics]),
      );
    }
  }
});
