import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Batches, MicroBatch } from "../../src/data/samples/batch.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import {
  contrastBatches,
  drawn,
  EMBED_FOLDER,
  EMBED_RUNS,
  type EmbedRun,
  LOSS_RUNS,
  type LossFixture,
  pairsOf,
  readEmbedFixture,
  textsOf,
} from "../support/embed.ts";
import { isZero, readTensors } from "../support/golden.ts";
import { EXECUTORS, expectScheduleFree, expectSteps, type JudgedRun, runsOn, trainedJudge } from "../support/judged-runs.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { slowTest } from "../support/slow.ts";

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
    test.each(runsOn(on, fixture.runs).map((run) => [on, run.settings.model, run] as const))(
      "on %s: %s: losses, gradient norms, the last weights and embeddings within 1e-4",
      async (_, model, { settings, expected }) => {
        const run = judged(settings);
        const ends = readTensors(join(EMBED_FOLDER, `${model}.safetensors`));
        const { steps, weights, logits } = await trainedJudge(run, await EXECUTORS[on]!(), { name: "per-segment" });
        expectSteps(steps, expected.steps);
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

describe("a whole run with another loss is what sentence-transformers makes of it", () => {
  const { pairs, runs } = JSON.parse(readFileSync(join(EMBED_FOLDER, "losses.json"), "utf8")) as LossFixture;

  test("the fixture is of these micro-batches and settings", () => {
    expect(runs.map(({ name, settings }) => [name, settings])).toEqual(LOSS_RUNS.map(([name, settings]) => [name, settings]));
    expect(drawn(contrastBatches(false, true)).map(pairsOf)).toEqual(pairs as ReturnType<typeof pairsOf>[]);
  });

  test.each(runs.map((run) => [run.name, run] as const))(
    "%s: losses, gradient norms and the last weights within 1e-4",
    async (name, run) => {
      const { pooling, embedScale, ...more } = run.settings;
      const own = {
        embedLoss: more.embedLoss,
        matryoshka: more.matryoshka,
        gradCache: more.gradCache,
        symmetric: more.symmetric,
      };
      const scored = more.embedLoss === "cosent" || more.embedLoss === "cosine";
      const objective = {
        ...own,
        tripletMargin: more.tripletMargin,
        objective: "embed",
        pooling,
        embedScale,
        hardNegatives: scored ? 0 : 1,
      };
      const judge = { run: run.settings, objective, batches: contrastBatches(false, scored), padId: 0, start: {} };
      const { steps, weights } = await trainedJudge(judge, await EXECUTORS["wasm"]!(), { name: "per-segment" });
      expectSteps(steps, run.steps);
      const ends = readTensors(join(EMBED_FOLDER, `loss-${name}.safetensors`));
      expect(ends.size).toBeGreaterThan(3);
      for (const [weight, values] of ends)
        if (!isZero(weight)) expectWithin(weight, relativeError(weights.get(weight)!, values), 1e-4);
    },
  );
});

slowTest(
  "a whole run is the same to the bit for every schedule and for 1 and 2 threads, with examples packed into rows",
  async () => {
    await expectScheduleFree(judged(EMBED_RUNS[0]!, true));
  },
);

/** Two micro-batches as one of twice the rows. */
function joined([a, b]: readonly [MicroBatch, MicroBatch]): MicroBatch {
  const later = (values: Int32Array) => values.map((value) => value + a.tokens);
  const both = (x: Int32Array, y: Int32Array) => Int32Array.from([...x, ...y]);
  return {
    ...a,
    tokens: a.tokens + b.tokens,
    ids: both(a.ids, b.ids),
    labels: both(a.labels, b.labels),
    starts: both(a.starts, later(b.starts)),
    positions: both(a.positions, b.positions),
    used: a.used + b.used,
    examples: a.examples + b.examples,
    spans: [...a.spans, ...b.spans.map((texts) => texts.map(({ from, to }) => ({ from: from + a.tokens, to: to + a.tokens })))],
    members: [...a.members, ...b.members],
  };
}

test("--grad-cache: a step of two micro-batches is the step of one with the rows of both", async () => {
  const small = contrastBatches(true);
  const large: Batches = {
    sizes: small.sizes.map((size) => 2 * size),
    most: 2 * small.most,
    count: (epoch) => Math.floor(small.count(epoch) / 2),
    batch: (epoch, index) => joined([small.batch(epoch, 2 * index), small.batch(epoch, 2 * index + 1)]),
    locate: () => ({ epoch: 0, index: 0 }),
  };
  // Both draw the first two micro-batches of the first epoch in every step.
  const first: Batches = { ...small, locate: (ordinal) => ({ epoch: 0, index: ordinal % 2 }) };
  const judge = async (batches: Batches, settings: Record<string, unknown>, gradientAccumulation: number) => {
    const run = judged({ ...EMBED_RUNS[1]!, gradientAccumulation });
    const objective = { ...run.objective, ...settings };
    return trainedJudge({ ...run, objective, batches }, await createWasmExecutor({ threads: 1 }), { name: "per-segment" });
  };
  const whole = await judge(large, {}, 1);
  const cached = await judge(first, { gradCache: true }, 2);
  const apart = await judge(first, {}, 2);
  for (const [i, { loss, gradientNorm, metrics }] of whole.steps.entries()) {
    expectWithin(`loss of step ${i}`, Math.abs(cached.steps[i]!.loss - loss), 1e-4);
    expectWithin(
      `gradient norm of step ${i}`,
      Math.abs(cached.steps[i]!.gradientNorm - gradientNorm),
      1e-4 * Math.max(1, gradientNorm),
    );
    expect(cached.steps[i]!.metrics).toEqual(metrics);
  }
  for (const [name, values] of whole.weights) expectWithin(name, relativeError(cached.weights.get(name)!, values), 1e-4);
  // Fewer candidates are an easier task.
  expect(apart.steps[0]!.loss).toBeLessThan(whole.steps[0]!.loss - 0.1);
});
