import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { contrastBatches, drawn, EMBED_FOLDER, EMBED_RUNS, type EmbedRun, readEmbedFixture, textsOf } from "../support/embed.ts";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, type JudgedRun, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";

setDefaultTimeout(120_000);

const fixture = readEmbedFixture();

test("the fixture is of these micro-batches and settings (test/golden/embed makes it anew)", () => {
  expect(fixture.runs.map(({ settings }) => settings)).toEqual([...EMBED_RUNS]);
  expect(drawn(contrastBatches()).map(textsOf)).toEqual(
    fixture.batches.map((batch) => batch.map((texts) => texts.map((ids) => [...ids]))),
  );
});

function judged(run: EmbedRun, packing = false): JudgedRun {
  const { pooling, embedScale } = run;
  const objective = { objective: "embed", pooling, embedScale, hardNegatives: 1 };
  return { run, objective, batches: contrastBatches(packing), padId: 0, start: {} };
}

describe("a whole run with --objective embed is what sentence-transformers makes of it", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(fixture.runs.map((run) => [on, run.settings.model, run] as const))(
      "on %s: %s: losses, gradient norms, the last weights and embeddings within 1e-4",
      async (_, model, { settings, expected }) => {
        const run = judged(settings);
        const ends = readTensors(join(EMBED_FOLDER, `${model}.safetensors`));
        const { steps, weights, logits } = await trainedJudge(run, await EXECUTORS[on]!(), { name: "per-segment" });
        expect(steps.length).toBe(20);
        for (const [i, { loss, gradientNorm }] of expected.steps.entries()) {
          const close = (what: string, got: number, wanted: number) =>
            expectWithin(`${what} of step ${i}: ${got}, ${wanted}`, Math.abs(got - wanted) / Math.max(1, Math.abs(wanted)), 1e-4);
          close("loss", steps[i]!.loss, loss);
          close("gradient norm", steps[i]!.gradientNorm, gradientNorm);
        }
        expect(ends.size).toBeGreaterThan(8);
        // Adam makes steps of the rounding that a gradient of 0 is.
        for (const [name, values] of ends) if (!isZero(name)) expectWithin(name, relativeError(weights.get(name)!, values), 1e-4);
        const width = expected.embeddings[0]!.length;
        const all = logits.flatMap((values) =>
          Array.from({ length: values.length / width }, (_each, i) => normalised(values.subarray(i * width, (i + 1) * width))),
        );
        expect(all.length).toBe(expected.embeddings.length);
        for (const [i, values] of expected.embeddings.entries())
          expectWithin(`embedding ${i}`, relativeError(all[i]!, Float32Array.from(values)), 1e-4);
      },
    );
  }
});

function normalised(values: Float32Array): Float32Array {
  const length = Math.hypot(...values);
  return values.map((value) => value / length);
}

test("a whole run is the same to the bit for every schedule and for 1 and 2 threads, with examples packed into rows", async () => {
  const run = judged(EMBED_RUNS[0]!, true);
  const reference = await trainedJudge(run, await createWasmExecutor({ threads: 1 }), { name: "off" });
  for (const [threads, strategy] of [
    [1, { name: "revolve", slots: 1 }],
    [2, { name: "optimal", limit: { share: 0.5 } }],
  ] as const) {
    const again = await trainedJudge(run, await createWasmExecutor({ threads }), strategy);
    expect(again.weights).toEqual(reference.weights);
    expect(again.steps.map(({ loss, metrics }) => [loss, metrics])).toEqual(
      reference.steps.map(({ loss, metrics }) => [loss, metrics]),
    );
  }
});
