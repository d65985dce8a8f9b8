import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { randomCheckpoint } from "../../bench/shapes.ts";
import { inPrecision } from "../../src/autodiff/precision.ts";
import { programsOf } from "../../src/graph/segment.ts";
import { type Graph, typeOf } from "../../src/graph/types.ts";
import { type FloatType } from "../../src/base/dtype.ts";
import { toFloat32 } from "../../src/base/float16.ts";
import { type AdapterTuning, type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import type { Strategy } from "../../src/schedule/strategies.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { llama, lora, packedBatch } from "../support/engine.ts";
import { runOn } from "../support/executor.ts";
import {
  type Data,
  expectSameBits,
  expectWithin,
  generator,
  half,
  random,
  relativeError,
  runGraph,
  type TestTensor,
} from "../support/ops.ts";
import { openOrt, PROVIDER } from "../support/provider.ts";
import { addFeeds, addOutputs, chain, CHAINS, LORA } from "../support/segments.ts";
import { combinations, SLOW, THREADS } from "../support/slow.ts";

setDefaultTimeout(120_000);

/** The error of losses and gradients in a half type, relative to f32. */
const BOUND = 2e-2;

type Half = "bf16" | "f16";
/** WebGPU has no bf16. */
const HALVES: readonly Half[] = PROVIDER === "webgpu" ? ["f16"] : ["bf16", "f16"];

const executors: Executor[] = [];
afterAll(() => executors.splice(0).forEach((executor) => executor.close()));
const keep = <E extends Executor>(executor: E): E => {
  executors.push(executor);
  return executor;
};

const floats = (data: Data, dtype: string): Float32Array =>
  dtype === "i32"
    ? Float32Array.from(data)
    : toFloat32(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), dtype as FloatType);

/** The feeds of an f32 graph for the same graph in a half type. */
function narrowed(graph: Graph, feeds: ReadonlyMap<string, TestTensor>): Map<string, TestTensor> {
  const feed = (name: string): TestTensor => {
    const known = feeds.get(name)!;
    const { dtype } = typeOf(graph, name);
    return known.dtype === "f32" && (dtype === "bf16" || dtype === "f16") ? half(known, dtype) : known;
  };
  return new Map(graph.inputs.map(({ name }) => [name, feed(name)]));
}

describe.each(HALVES)("programs of a chain in %s", (dtype) => {
  const executor = keep(openOrt(THREADS));

  test.each([["LoRA", LORA] as const, ["full tuning", CHAINS[2]![1]] as const])(
    `%s: as the kernels in f32, relative error <= ${BOUND}`,
    async (_, tuning) => {
      const rng = generator(6);
      const exact = chain(tuning, tuning.method === "lora" ? dtype : "f32");
      const rounded = inPrecision(exact, dtype);
      for (const model of new Set(exact.map((segment) => segment.model))) {
        const twin = rounded[exact.findIndex((segment) => segment.model === model)]!.model;
        const graphs = new Map(programsOf(twin));
        const feeds = new Map<string, TestTensor>();
        for (const [program, graph] of programsOf(model)) {
          addFeeds(graph, feeds, rng);
          const expected = await runGraph(graph, feeds);
          const actual = runOn(executor, graphs.get(program)!, narrowed(graphs.get(program)!, feeds), { times: 2 });
          expect([...actual.keys()]).toEqual([...expected.keys()]);
          for (const [name, data] of actual) {
            const values = floats(data, typeOf(graphs.get(program)!, name).dtype);
            expectWithin(`${model.id}.${program}: ${name}`, relativeError(values, expected.get(name)!), BOUND);
          }
          if (program === "forward-taped") addOutputs(graph, expected, feeds);
        }
      }
    },
  );

  test("values are of the half type; gradients of parameters, logarithms of sums and losses are f32", () => {
    const exact = chain(CHAINS[2]![1], "f32");
    inPrecision(exact, dtype).forEach(({ model }, i) => {
      for (const [program, graph] of programsOf(model)) {
        for (const { name, role } of [...graph.inputs, ...graph.outputs]) {
          const type = typeOf(graph, name);
          const flows = ["boundary", "input-grad", "output-grad"].includes(role) && type.shape.length > 1;
          const isTaped = role === "tape" && !name.startsWith("attention.");
          expect([program, name, type.dtype]).toEqual([
            program,
            name,
            flows || isTaped ? dtype : typeOf(new Map(programsOf(exact[i]!.model)).get(program)!, name).dtype,
          ]);
        }
      }
    });
  });
});

test("the kernels refuse programs in a half type", async () => {
  const executor = keep(await createWasmExecutor({ threads: 1 }));
  const [, block] = inPrecision(chain(LORA, "bf16"), "bf16");
  expect(() => executor.prepare(block!.model.forward)).toThrow("there is no kernel that computes RMSNormalization in bf16");
});

const TOKENS = 37;
const config = llama(4);
const FULL: Tuning = { method: "full" };

function build(executor: Executor, tuning: Tuning, dtype: FloatType | undefined, strategy: Strategy): Engine {
  const source = randomCheckpoint(config, "bf16");
  const optimizer = chooseOptimizer({ weightDecay: 0.01 });
  const engine = createEngine(keep(executor), { config, source, tuning, strategy, dtype, tokens: [TOKENS], optimizer });
  initialiseAdapter(engine, 3);
  // B = 0 would leave A without a gradient.
  for (const { name, type } of engine.resident.params.filter((param) => /lora_(B\.weight|embedding_A)$/.test(param.name))) {
    const values = random(generator(5), type.shape, 0.1).data;
    executor.write(engine.resident.param.get(name)!, new Uint8Array(values.buffer));
  }
  return engine;
}

/** Losses of AdamW steps, and the gradients of the first one by parameter. `lossScale` multiplies gradients on their way. */
function train(engine: Engine, steps: number, lossScale = 1): { losses: number[]; gradients: Map<string, Float32Array> } {
  const { executor, resident } = engine;
  const optimizer = createOptimizer(engine, { clip: 1 });
  const batch = packedBatch(TOKENS, config.vocabSize);
  engine.scaleGradients(lossScale);
  const losses: number[] = [];
  const gradients = new Map<string, Float32Array>();
  for (let step = 1; step <= steps; step++) {
    optimizer.zeroGradients();
    losses.push(engine.forwardBackward(batch, 1 / batch.labelled, 11, step));
    for (const { name, type } of step === 1 ? resident.params.filter((param) => param.trainable) : []) {
      const gradient = readTensor(executor, resident.gradient.get(name)!, type);
      gradients.set(
        name,
        gradient.map((value) => value / lossScale),
      );
    }
    optimizer.step(step, 1e-3, lossScale);
  }
  return { losses, gradients };
}

/** f16 needs gradients that are larger on their way. */
const SCALES: Readonly<Record<Half, number>> = { bf16: 1, f16: 1024 };

const IA3: AdapterTuning = {
  method: "ia3",
  dropout: 0,
  adapts: (module) => (module.endsWith("_proj") ? { scaled: /(o|down)_proj$/.test(module) ? "inputs" : "outputs" } : null),
  frozen: false,
};

const TUNINGS: readonly (readonly [title: string, tuning: Tuning])[] = [
  ["LoRA with dropout", lora(0.2)],
  ["DoRA with dropout", { ...(lora(0.2) as AdapterTuning), method: "dora" }],
  ["IA3", IA3],
  [
    "LoRA of head and embedding",
    uniformAdapters({ rank: 4, scale: 1.5, dropout: 0.2, targets: new Set(["lm_head", "embed_tokens"]) }),
  ],
  ["full tuning", FULL],
];

test.each(combinations(TUNINGS, HALVES).map(([[title, tuning], dtype]) => [title, dtype, tuning] as const))(
  `%s in %s: losses of three steps and all gradients as in f32, relative error <= ${BOUND}`,
  async (_, dtype, tuning) => {
    const strategy = { name: "per-segment" } as const;
    const expected = train(build(await createWasmExecutor({ threads: 1 }), tuning, undefined, strategy), 3);
    const engine = build(openOrt(THREADS), tuning, dtype, strategy);
    const actual = train(engine, 3, SCALES[dtype]);
    expect(engine.compute).toBe(dtype);
    expectWithin("losses", relativeError(actual.losses, expected.losses), BOUND);
    const all = ({ gradients }: typeof actual) => [...gradients.values()].flatMap((gradient) => [...gradient]);
    expectWithin("all gradients", relativeError(all(actual), all(expected)), BOUND);
    // Single small ones differ more in bf16, with its 8 bits.
    for (const [name, gradient] of dtype === "f16" ? actual.gradients : [])
      expectWithin(name, relativeError(gradient, expected.gradients.get(name)!), BOUND / 4);
  },
);

describe.each(SLOW ? TUNINGS : [TUNINGS[0]!, TUNINGS.at(-1)!])("%s", (_, tuning) => {
  test("activations of half the bytes, predicted and counted", () => {
    const engines = [undefined, HALVES[0]!].map((dtype) => build(openOrt(1), tuning, dtype, { name: "off" }));
    for (const engine of engines) {
      engine.forwardBackward(packedBatch(TOKENS, config.vocabSize), 1, 1, 1);
      // Temporary memory is that of all executors here.
      const { peak, temporary } = engine.predicted;
      expect(engine.measuredPeak - engine.executor.temporary!.bytes).toBe(peak - temporary);
    }
    const [exact, rounded] = engines.map(({ predicted }) => predicted.stash);
    expect(rounded! / exact!).toBeLessThan(0.55);
  });

  test(`every strategy gives the same bits in ${HALVES[0]!}`, () => {
    const strategies: Strategy[] = [{ name: "off" }, { name: "per-segment" }, { name: "sqrt" }];
    const [off, ...others] = strategies.map((strategy) => train(build(openOrt(THREADS), tuning, HALVES[0]!, strategy), 2));
    for (const { losses, gradients } of others) {
      if (PROVIDER === "cpu") {
        expect(losses).toEqual(off!.losses);
        expectSameBits("gradients", [...gradients.values()], [...off!.gradients.values()]);
      } else {
        for (const [name, gradient] of gradients) expectWithin(name, relativeError(gradient, off!.gradients.get(name)!), BOUND);
      }
    }
  });
});

test("30 steps in f16: the same loss curve within 2e-2, falling", async () => {
  const strategy = { name: "per-segment" } as const;
  const expected = train(build(await createWasmExecutor({ threads: 1 }), FULL, undefined, strategy), 30).losses;
  const actual = train(build(openOrt(1), FULL, "f16", strategy), 30, 1024).losses;
  actual.forEach((loss, step) => expect(Math.abs(loss - expected[step]!)).toBeLessThan(BOUND * expected[step]!));
  expect(actual[29]!).toBeLessThan(0.9 * actual[0]!);
});
