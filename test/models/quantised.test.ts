import { uniformAdapters } from "../../src/models/tuning.ts";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { initialiseAdapter, writeAdapterWeights } from "../../src/load/adapter.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openAdapter } from "../../src/hf/peft/peft.ts";
import {
  openSafetensors,
  readBytes,
  readFloat32,
  type TensorEntry,
  type TensorSource,
} from "../../src/hf/weights/safetensors.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createAddonExecutor } from "../../src/ort/addon.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { tuningOfAdapter } from "../../src/train/step/tuning.ts";
import type { WeightStorage } from "../../src/load/weights.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { createQuantiser } from "../../src/wasm/quantiser.ts";
import { readTensors, relativeError } from "../support/golden.ts";
import { f32, runWasm, type TestTensor } from "../support/ops.ts";
import { quantised } from "../support/quantised.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";
import { THREADS } from "../support/slow.ts";

setDefaultTimeout(120_000);

/** Values that bitsandbytes, PyTorch, Transformers and PEFT computed: see make.py there. */
const ROOT = join(import.meta.dir, "../golden/quantised");
const FOLDER = join(ROOT, "llama");
const BOUND = 1e-4;

interface AdamW {
  readonly learning_rate: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weight_decay: number;
  readonly losses: readonly number[];
  readonly unquantised: number;
}

const EXECUTORS: Readonly<Record<string, () => Promise<Executor>>> = {
  wasm: () => createWasmExecutor({ threads: THREADS }),
  "wasm with native products": () => createWasmExecutor({ threads: THREADS, matmul: "native" }),
  "the addon": async () => createAddonExecutor({ threads: THREADS }),
  "ort-cpu": async () => createOrtExecutor({ threads: THREADS }),
};

test("NF4: codes, scales and values are those of bitsandbytes, bit for bit", async () => {
  const source = openSafetensors(join(ROOT, "codes.safetensors"));
  const read = (name: string) => readFloat32(source, name, source.tensors.get(name)!.shape);
  const [weights, absmax, values] = [read("weights"), read("absmax"), read("values")];
  const expected = readBytes(source, source.tensors.get("codes")!);
  source.close();
  const { input, run } = createQuantiser();
  input.set(new Uint8Array(weights.buffer));
  const { codes, scales } = run("nf4", "f32", weights.length);
  expect(new Float32Array(new Uint8Array(scales).buffer)).toEqual(absmax);
  expect(
    Buffer.from(Uint8Array.from({ length: expected.length }, (_, i) => (codes[i >> 1]! >> (4 * (i & 1))) & 15)).equals(
      Buffer.from(expected),
    ),
  ).toBe(true);
  const inputs = [
    { dtype: "u8", shape: [64, 64], data: new Uint8Array(codes) } satisfies TestTensor,
    f32([64, 2], absmax),
  ] as const;
  expect((await runWasm(Dequantize, inputs, {}))[0]!).toEqual(values);
});

describe.each(Object.keys(EXECUTORS))("a Llama with NF4 weights on %s: within 1e-4 of PyTorch", (name) => {
  const adamw = JSON.parse(readFileSync(join(FOLDER, "adamw.json"), "utf8")) as AdamW;
  const [beta1, beta2] = adamw.betas;

  async function withEngine(
    use: (engine: Engine, batch: ReturnType<typeof readStepBatch>) => void,
    { source = openSafetensors(FOLDER), ...storage }: WeightStorage & { source?: TensorSource } = {},
  ): Promise<void> {
    const executor = await EXECUTORS[name]!();
    const config = loadConfig(FOLDER);
    const batch = readStepBatch(join(FOLDER, "batch.safetensors"), config);
    const adapter = openAdapter(join(FOLDER, "adapter"), config);
    const tokens = [batch.ids.length];
    const engine = createEngine(executor, {
      config,
      source,
      tuning: tuningOfAdapter(adapter, config),
      strategy: { name: "per-segment" },
      tokens,
      logits: { tokens, rows: batch.ids.length },
      optimizer: chooseOptimizer({ beta1, beta2, epsilon: adamw.eps, weightDecay: adamw.weight_decay }),
      quantize: "nf4",
      ...storage,
    });
    source.close();
    writeAdapterWeights(engine, adapter);
    adapter.source.close();
    use(engine, batch);
    engine.close();
    executor.close();
  }

  test("logits, loss and the gradient of every adapter", async () => {
    await withEngine((engine, batch) => {
      const { loss, logits, ...gradients } = Object.fromEntries(readTensors(join(FOLDER, "expected.safetensors")));
      const vocabulary = engine.config.vocabSize;
      const got = engine.logits(batch, Int32Array.from(batch.ids.keys()));
      // Zeros in the fixture: padding.
      const kept = [...batch.ids.keys()].filter((t) => logits!.subarray(t * vocabulary, (t + 1) * vocabulary).some(Boolean));
      const rows = (values: Float32Array) => kept.flatMap((t) => [...values.subarray(t * vocabulary, (t + 1) * vocabulary)]);
      expect(kept.length).toBe(34);
      expect(relativeError(rows(got), rows(logits!))).toBeLessThan(BOUND);
      const own = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
      expect(Math.abs(own / loss![0]! - 1)).toBeLessThan(BOUND);
      // The bound tells quantised weights from those of the checkpoint.
      expect(Math.abs(adamw.unquantised / loss![0]! - 1)).toBeGreaterThan(10 * BOUND);
      const { params, gradient } = engine.resident;
      const trained = params.filter((param) => param.trainable);
      expect(trained.map((param) => param.name).sort()).toEqual(Object.keys(gradients).sort());
      const errors = trained.map((param) =>
        relativeError(readTensor(engine.executor, gradient.get(param.name)!, param.type), gradients[param.name]!),
      );
      expect(Math.max(...errors)).toBeLessThan(BOUND);
    });
  });

  test("the losses of ten AdamW steps", async () => {
    await withEngine((engine, batch) => {
      const optimizer = createOptimizer(engine, { clip: 0 });
      const got: number[] = [];
      for (let step = 1; step < adamw.losses.length; step++) {
        optimizer.zeroGradients();
        got.push(engine.forwardBackward(batch, 1 / batch.labelled, 1, step));
        optimizer.step(step, adamw.learning_rate);
      }
      got.push(engine.evaluate(batch).loss / batch.labelled);
      expect(Math.max(...adamw.losses.map((loss, i) => Math.abs(got[i]! / loss - 1)))).toBeLessThan(BOUND);
    });
  });

  test("with a quantised embedding and head, all is within 1e-5 of what a checkpoint with those numbers gives", async () => {
    interface Results {
      readonly loss: number;
      readonly correct: number;
      readonly logits: Float32Array;
      readonly gradients: readonly Float32Array[];
    }
    const results: Results[] = [];
    const run = (engine: Engine, batch: ReturnType<typeof readStepBatch>) => {
      const logits = engine.logits(batch, Int32Array.from(batch.ids.keys()));
      const loss = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
      const { params, gradient } = engine.resident;
      const gradients = params
        .filter((param) => param.trainable)
        .map((param) => readTensor(engine.executor, gradient.get(param.name)!, param.type));
      results.push({ loss, logits, gradients, correct: engine.evaluate(batch).correct });
    };
    await withEngine(run, { quantizeEmbedding: true });
    await withEngine(run, { source: withQuantisedEmbedding(openSafetensors(FOLDER)) });
    await withEngine(run);
    const [actual, expected, plain] = results as [Results, Results, Results];
    expect(Math.abs(actual.loss / expected.loss - 1)).toBeLessThan(1e-5);
    expect(Math.abs(plain.loss / expected.loss - 1)).toBeGreaterThan(1e-4);
    expect(actual.correct).toBe(expected.correct);
    expect(relativeError(actual.logits, expected.logits)).toBeLessThan(1e-5);
    const errors = actual.gradients.map((values, i) => relativeError(values, expected.gradients[i]!));
    expect(Math.max(...errors)).toBeLessThan(1e-5);
  });
});

test("ONNX Runtime computes in bf16 with NF4 weights: the loss is within 1 % of that in f32", () => {
  const config = loadConfig(FOLDER);
  const batch = readStepBatch(join(FOLDER, "batch.safetensors"), config);
  const losses = (["f32", "bf16"] as const).map((dtype) => {
    const executor = createOrtExecutor({ threads: THREADS });
    const source = openSafetensors(FOLDER);
    const engine = createEngine(executor, {
      config,
      source,
      tuning: uniformAdapters({ rank: 2, scale: 1, dropout: 0, targets: new Set(["q_proj", "down_proj"]) }),
      strategy: { name: "per-segment" },
      tokens: [batch.ids.length],
      optimizer: null,
      dtype,
      quantize: "nf4",
      quantizeEmbedding: true,
    });
    source.close();
    initialiseAdapter(engine, 1);
    const loss = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
    executor.close();
    return loss;
  });
  expect(losses[0]).not.toBe(losses[1]);
  expect(Math.abs(losses[1]! / losses[0]! - 1)).toBeLessThan(0.01);
});

/** A checkpoint whose embedding holds, in f32, what q8 makes of it. */
function withQuantisedEmbedding(source: TensorSource): TensorSource {
  const name = "model.embed_tokens.weight";
  const entry = source.tensors.get(name)!;
  const { values } = quantised(f32(entry.shape, readFloat32(source, name, entry.shape)), "q8");
  const all = new Uint8Array(values.data.buffer);
  const replaced: TensorEntry = { ...entry, dtype: "f32", bytes: all.length };
  return {
    ...source,
    tensors: new Map([...source.tensors, [name, replaced]]),
    read(wanted, target, from = 0) {
      if (wanted === replaced) target.set(all.subarray(from, from + target.length));
      else source.read(wanted, target, from);
    },
  };
}
