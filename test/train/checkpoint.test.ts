import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createBatches } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createCheckpoints, START, type TrainingPosition } from "../../src/train/run/checkpoint.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { resetOptimizer } from "../../src/optimizers/plan.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { rewindJsonLines } from "../../src/train/run/folder.ts";
import { trainLoop, type TrainingRun } from "../../src/train/run/loop.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { build, closeExecutors, llama, lora } from "../support/engine.ts";

setDefaultTimeout(120_000);
afterAll(closeExecutors);

const folder = temporaryFolder();
const STEPS = 6;
const config = trainConfigSchema.parse({
  model: "m",
  data: "d",
  output: "o",
  steps: STEPS,
  saveEvery: 1,
  keep: 3,
  evalEvery: 2,
  learningRate: 1e-2,
  batchSize: 2,
  gradientAccumulation: 2,
});

const random = createRandom(1, "samples");
const store = createSampleStore((number) => `d:${number}`);
for (let i = 0; i < 40; i++) {
  const ids = Int32Array.from({ length: 4 + random.below(8) }, () => random.below(67));
  store.add({ ids, labels: ids, weights: null }, i + 1);
}
const samples = store.finish();
const options = { rows: 2, rowLength: 12, packing: true, seed: 5, padId: 0 };
const batches = createBatches(samples, { ...options, shuffle: true });
const held = createBatches(samples, { ...options, shuffle: false });

const engine = await build(llama(2, 16, { intermediate_size: 24 }), lora(0.1), { name: "per-segment" }, 24, 1);
const { executor, resident } = engine;
const optimizer = createOptimizer(engine, config);
const stateBytes = 4 * resident.trainable.layout.size;
const initial = executor.read(resident.trainable.param, stateBytes).slice();

/** All losses and the last weights of a run from a position on; the weights in memory are the start's. */
async function train(run: string, start: TrainingPosition, fingerprint = "same") {
  const losses: number[] = [];
  const training: TrainingRun = {
    engine,
    optimizer,
    config,
    data: { train: batches, valid: [held.batch(0, 0)] },
    checkpoints: createCheckpoints(run, engine, { keep: config.keep, fingerprint }),
    events: {
      step: ({ loss, gradientNorm }) => void losses.push(loss, gradientNorm),
      evaluation: ({ loss }) => void losses.push(loss),
      checkpoint: () => {},
      warning: () => {},
    },
    collect: () => {},
    shouldStop: () => false,
  };
  await trainLoop(training, start);
  const weights = resident.params
    .filter((param) => param.trainable)
    .map((param) => readTensor(executor, resident.param.get(param.name)!, param.type).slice());
  return { losses, weights };
}

function scrub(): void {
  executor.write(resident.trainable.param, initial);
  resetOptimizer(executor, engine.optimizer!);
}

const whole = join(folder, "whole");
scrub();
const uninterrupted = await train(whole, START);
const names = readdirSync(join(whole, "checkpoints")).sort();

let copies = 0;
function copyOfWhole(): string {
  const run = join(folder, `run-${copies++}`);
  cpSync(join(whole, "checkpoints"), join(run, "checkpoints"), { recursive: true });
  return run;
}

/** Restores into memory that was scrubbed, trains to the end, and expects the numbers of the uninterrupted run. */
async function expectSame(run: string, step: number): Promise<string[]> {
  const warnings: string[] = [];
  scrub();
  const checkpoints = createCheckpoints(run, engine, { keep: config.keep, fingerprint: "same" });
  const position = checkpoints.restore((message) => warnings.push(message))!;
  expect(position.step).toBe(step);
  const { losses, weights } = await train(run, position);
  expect(losses.length === 0 || step < STEPS).toBe(true);
  if (losses.length > 0) expect(losses).toEqual(uninterrupted.losses.slice(-losses.length));
  expect(weights).toEqual(uninterrupted.weights);
  return warnings;
}

type Damage = (path: string, random: Random) => void;
const DAMAGES: Readonly<Record<string, Damage>> = {
  // The last byte of a text file ends its line and says nothing.
  "cut off": (path, places) => truncateSync(path, places.below(statSync(path).size - 1)),
  "one byte changed": (path, places) => {
    const bytes = readFileSync(path);
    bytes[places.below(bytes.length)]! ^= 1 << places.below(8);
    writeFileSync(path, bytes);
  },
};

describe("a damaged file of the newest checkpoint: the one before is used, and the run goes on bit for bit", () => {
  for (const file of ["state.safetensors", "state.json"]) {
    for (const [name, damage] of Object.entries(DAMAGES)) {
      test(`${file}, ${name} at 20 random places`, async () => {
        const places = createRandom(2, `${file} ${name}`);
        for (let i = 0; i < 20; i++) {
          const run = copyOfWhole();
          damage(join(run, "checkpoints", names.at(-1)!, file), places);
          const warnings = await expectSame(run, STEPS - 1);
          expect(warnings).toHaveLength(1);
          expect(warnings[0]).toContain(`${names.at(-1)} is damaged and passed over: `);
          expect(warnings[0]!.length).toBeLessThan(600);
        }
      });
    }

    test(`${file}, missing`, async () => {
      const run = copyOfWhole();
      rmSync(join(run, "checkpoints", names.at(-1)!, file));
      expect(await expectSame(run, STEPS - 1)).toEqual([expect.stringContaining("no such file")]);
    });
  }

  test("two damaged ones: the one before both; the new ones take their places, and none of the whole ones is lost for them", async () => {
    const run = copyOfWhole();
    for (const name of names.slice(-2)) truncateSync(join(run, "checkpoints", name, "state.safetensors"), 100);
    expect(await expectSame(run, STEPS - 2)).toHaveLength(2);
    expect(readdirSync(join(run, "checkpoints")).sort()).toEqual(names);
    await expectSame(run, STEPS);
  });

  test("saving removes what was damaged and of later steps, instead of counting it among the newest", async () => {
    const run = copyOfWhole();
    for (const name of names.slice(1)) truncateSync(join(run, "checkpoints", name, "state.json"), 10);
    const checkpoints = createCheckpoints(run, engine, { keep: 1, fingerprint: "same" });
    const position = checkpoints.restore(() => {})!;
    checkpoints.save(position);
    expect(readdirSync(join(run, "checkpoints"))).toEqual([names[0]!]);
    await expectSame(run, position.step);
  });
});

test("when no checkpoint is whole, the run is not begun anew without a word", () => {
  const run = copyOfWhole();
  for (const name of names) truncateSync(join(run, "checkpoints", name, "state.safetensors"), 9);
  const { restore } = createCheckpoints(run, engine, { keep: 1, fingerprint: "same" });
  expect(userError(() => restore(() => {}))).toMatch(/no checkpoint in .* is whole; .*--overwrite/);
  expect(existsSync(join(run, "checkpoints", names[0]!))).toBe(true);
});

test("metrics.jsonl cut off or changed at 20 random places: whole lines up to the step stay, the others go", () => {
  const path = join(folder, "metrics.jsonl");
  const lines = Array.from({ length: 9 }, (_, i) => JSON.stringify({ type: "step", step: i + 1, loss: 1 / (i + 1) }));
  const places = createRandom(4, "metrics");
  for (let i = 0; i < 20; i++) {
    for (const damage of Object.values(DAMAGES)) {
      writeFileSync(path, `${lines.join("\n")}\n`);
      damage(path, places);
      rewindJsonLines(path, 6);
      const kept = readFileSync(path, "utf8").split("\n").filter(Boolean);
      for (const line of kept) expect((JSON.parse(line) as { step: number }).step).toBeLessThanOrEqual(6);
      // One damaged byte can cost the two lines that it joins.
      if (damage === DAMAGES["one byte changed"])
        expect(kept.filter((line) => lines.includes(line)).length).toBeGreaterThanOrEqual(4);
    }
  }
});
