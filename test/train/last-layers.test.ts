import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { writeAdapterWeights } from "../../src/load/adapter.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { type Adapter, openAdapter } from "../../src/hf/peft/peft.ts";
import type { Tuning } from "../../src/models/tuning.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { idealTime } from "../../src/schedule/chain.ts";
import { isComputation } from "../../src/schedule/ops.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { tuningOf, tuningOfAdapter } from "../../src/train/step/tuning.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { userError } from "../hf/temp.ts";
import { build, closeExecutors, gradients, llama } from "../support/engine.ts";
import { SLOW } from "../support/slow.ts";
import {
  batchFile,
  type GoldenBatch,
  type GoldenFamily,
  modelFolder,
  readExpected,
  readTensors,
  relativeError,
} from "../support/golden.ts";

setDefaultTimeout(120_000);

const BOUND = 1e-4;
const PEFT = join(import.meta.dir, "../golden/peft");

const closers: (() => void)[] = [];
afterEach(() => closers.splice(0).forEach((close) => close()));
afterEach(closeExecutors);

/** An engine on a fixture's weights and one of its batches, with an adapter if there is one. */
async function golden(family: GoldenFamily, tuning: Tuning, adapter: Adapter | null = null, name: GoldenBatch = "rows") {
  const config = loadConfig(modelFolder(family));
  const batch = readStepBatch(batchFile(family, name), config);
  const source = openModelWeights(modelFolder(family), config);
  const executor = await createWasmExecutor({ threads: 1 });
  closers.push(() => executor.close());
  const tokens = [batch.ids.length];
  const options = { config, source, tuning, strategy: { name: "per-segment" }, tokens, optimizer: null } as const;
  const engine = createEngine(executor, { ...options, logits: { tokens, rows: batch.ids.length } });
  if (adapter) writeAdapterWeights(engine, adapter);
  source.close();
  return { engine, batch };
}

function gradientsOf({ executor, resident }: Engine): Map<string, Float32Array> {
  const trainable = resident.params.filter((param) => param.trainable);
  return new Map(trainable.map(({ name, type }) => [name, readTensor(executor, resident.gradient.get(name)!, type)]));
}

function expectGradients(engine: Engine, expected: ReadonlyMap<string, Float32Array>): void {
  const actual = gradientsOf(engine);
  expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort());
  const errors = [...expected].map(([name, gradient]) => [name, relativeError(actual.get(name)!, gradient)] as const);
  expect(errors.filter(([, error]) => !(error < BOUND))).toEqual([]);
}

/** Names of weights that nothing is asked of. */
const ANY = { tensors: new Map() };

const settings = (changes: object) => trainConfigSchema.parse({ model: "m", data: "d", ...changes });

describe("adapters of some modules, as PEFT makes them: within 1e-4 of PyTorch", () => {
  const model = loadConfig(modelFolder("smollm2"));

  test.each(["last-layers", "some-layers", "patterns", "all-linear"])("%s: logits, loss and gradients", async (name) => {
    const adapter = openAdapter(join(PEFT, name), model);
    const { loss, logits, ...expected } = Object.fromEntries(readTensors(join(PEFT, name, "expected.safetensors")));
    const { engine, batch } = await golden("smollm2", tuningOfAdapter(adapter, model), adapter);
    expect(relativeError(engine.logits(batch, Int32Array.from(batch.ids.keys())), logits!)).toBeLessThan(BOUND);
    const actual = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
    expect(Math.abs(actual / loss![0]! - 1)).toBeLessThan(BOUND);
    expectGradients(engine, new Map(Object.entries(expected)));
    adapter.source.close();
  });

  test("what --last-layers makes has the parameters of PEFT's layers_to_transform", async () => {
    const config = settings({ rank: 3, alpha: 5, targets: ["q_proj", "v_proj", "down_proj"], lastLayers: 2 });
    const { engine } = await golden("smollm2", tuningOf(config, model, ANY));
    const trained = engine.resident.params.filter((param) => param.trainable).map(({ name }) => name);
    expect(trained.sort()).toEqual([...readTensors(join(PEFT, "last-layers/adapter_model.safetensors")).keys()].sort());
  });

  test("training further: what PEFT has adapted, and nothing else", async () => {
    const adapter = openAdapter(join(PEFT, "some-layers"), model);
    const { engine, batch } = await golden("smollm2", tuningOfAdapter(adapter, model), adapter);
    const {
      loss: _loss,
      logits: _logits,
      ...expected
    } = Object.fromEntries(readTensors(join(PEFT, "some-layers/expected.safetensors")));
    engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
    expectGradients(engine, new Map(Object.entries(expected)));
    adapter.source.close();
  });
});

describe("full fine-tuning of the last blocks: gradients within 1e-4 of PyTorch's, and of nothing else", () => {
  test.each([
    ["smollm2", 2],
    ["llama", 1],
    ["gemma3", 1],
    ["gemma3-vision", 1],
    ["gemma4", 3],
    ["internlm2", 2],
  ] as const)("%s, the last %d", async (family, lastLayers) => {
    const model = loadConfig(modelFolder(family));
    const { engine, batch } = await golden(
      family,
      tuningOf(settings({ method: "full", lastLayers }), model, ANY),
      null,
      "packed",
    );
    const expected = readExpected(family, "full", "packed");
    const first = model.layers - lastLayers;
    const isTrained = (name: string) => {
      const layer = /\.layers\.(\d+)\./.exec(name)?.[1];
      return layer === undefined ? !/embed|per_layer_/.test(name) : Number(layer) >= first;
    };
    const loss = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
    expect(Math.abs(loss / expected.loss - 1)).toBeLessThan(BOUND);
    expectGradients(engine, new Map([...expected.gradients].filter(([name]) => isTrained(name))));
  });
});

describe("below the first trained parameter nothing is differentiated, stored or run again", () => {
  const LAYERS = 6;
  const TOKENS = 48;
  const config = llama(LAYERS);
  const STRATEGIES: Checkpointing[] = [
    { name: "off" },
    { name: "per-segment" },
    { name: "ratio", ratio: 0.5 },
    { name: "revolve", slots: 2 },
    ...(SLOW
      ? ([{ name: "every", k: 2 }, { name: "first", count: 2 }, { name: "uniform", size: 2 }, { name: "sqrt" }] as const)
      : []),
    { name: "optimal", limit: { share: 0.6 } },
  ];
  const few = { rank: 4, targets: ["q_proj", "v_proj", "down_proj"] };
  const tuning = (method: "lora" | "full", lastLayers: number) =>
    tuningOf(settings({ method, lastLayers, ...(method === "lora" && few) }), config, ANY);

  for (const method of ["lora", "full"] as const) {
    test(`${method}: in every strategy, each frozen segment runs its forward once; the same gradients to the bit`, async () => {
      const lastLayers = 2;
      let reference: ReturnType<typeof gradients> | null = null;
      for (const strategy of STRATEGIES) {
        const engine = await build(config, tuning(method, lastLayers), strategy, TOKENS, 1);
        const { chain, schedule, segments } = engine;
        expect(chain.frozen).toBe(1 + LAYERS - lastLayers);
        expect(chain.g.slice(0, chain.frozen + 1).every((bytes) => bytes === 0)).toBe(true);
        for (const { model } of segments.slice(0, chain.frozen)) expect([model.training, model.fused]).toEqual([null, null]);
        const frozen = schedule.filter((op) => "i" in op && op.i <= chain.frozen);
        expect(frozen).toEqual(Array.from({ length: chain.frozen }, (_, i) => ({ kind: "FN", i: i + 1 })));
        expect(schedule.filter(isComputation).filter(({ kind, i }) => kind === "B" && i <= chain.frozen)).toEqual([]);
        const result = gradients(engine, TOKENS);
        expect(engine.measuredPeak).toBeLessThanOrEqual(engine.predicted.peak);
        reference ??= result;
        expect(result).toEqual(reference);
      }
    });

    test(`${method}: memory and time fall with every block that is not trained`, async () => {
      const plans = [];
      for (let lastLayers = LAYERS; lastLayers > 0; lastLayers--)
        plans.push((await build(config, tuning(method, lastLayers), { name: "off" }, TOKENS, 1)).plan);
      for (const [i, plan] of plans.entries()) {
        if (i === 0) continue;
        const before = plans[i - 1]!;
        expect(plan.predicted.peak).toBeLessThan(before.predicted.peak);
        expect(plan.predicted.stash).toBeLessThan(before.predicted.stash);
        expect(plan.fixed.gradients).toBeLessThan(before.fixed.gradients);
        expect(plan.fixed.optimizer).toBeLessThan(before.fixed.optimizer);
        expect(idealTime(plan.largest.chain)).toBeLessThan(idealTime(before.largest.chain));
      }
    });
  }

  test("more blocks than the model has are one clear sentence", () => {
    expect(userError(() => tuning("lora", 7))).toBe("--last-layers 7: the model has 6 layers");
  });
});
