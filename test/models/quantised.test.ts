import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { writeAdapterWeights } from "../../src/generate/adapter.ts";
import { loadConfig } from "../../src/hf/config.ts";
import { readAdapter } from "../../src/hf/peft.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/safetensors.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { createEngine, type Engine } from "../../src/train/engine.ts";
import { createOptimizer } from "../../src/train/optimizer.ts";
import { readStepBatch } from "../../src/train/step-batch.ts";
import { tuningOfAdapter } from "../../src/train/tuning.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { createQuantiser } from "../../src/wasm/quantiser.ts";
import { readTensors, relativeError } from "../support/golden.ts";
import { f32, runWasm, type TestTensor } from "../support/ops.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";

setDefaultTimeout(120_000);

/** What bitsandbytes, PyTorch, Transformers and PEFT computed: see make.py there. */
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
  wasm: () => createWasmExecutor({ threads: 2 }),
  "wasm with native products": () => createWasmExecutor({ threads: 2, matmul: "native" }),
  "ort-cpu": async () => createOrtExecutor({ threads: 2 }),
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

  async function withEngine(use: (engine: Engine, batch: ReturnType<typeof readStepBatch>) => void): Promise<void> {
    const executor = await EXECUTORS[name]!();
    const config = loadConfig(FOLDER);
    const batch = readStepBatch(join(FOLDER, "batch.safetensors"), config);
    const adapter = readAdapter(join(FOLDER, "adapter"), config);
    const source = openSafetensors(FOLDER);
    const tokens = [batch.ids.length];
    const engine = createEngine(executor, {
      config,
      source,
      tuning: tuningOfAdapter(adapter, 0),
      strategy: { name: "per-segment" },
      tokens,
      logits: { tokens, rows: batch.ids.length },
      optimizer: true,
      quantize: "nf4",
    });
    source.close();
    writeAdapterWeights(executor, engine.resident, adapter, adapter.scale);
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
      const [beta1, beta2] = adamw.betas;
      const settings = { beta1, beta2, epsilon: adamw.eps, weightDecay: adamw.weight_decay, clip: 0 };
      const optimizer = createOptimizer(engine.executor, engine.resident.trainable, settings);
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
});
