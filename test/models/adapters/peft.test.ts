import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDecoder } from "../../../src/generate/open-decoder.ts";
import { openScorer } from "../../../src/generate/score.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import type { MicroBatch } from "../../../src/data/samples/batch.ts";
import { openAdapterFor } from "../../../src/hf/peft/check-adapter.ts";
import { mergeAdapter } from "../../../src/hf/peft/merge.ts";
import { openModelWeights } from "../../../src/gguf/read/open-weights.ts";
import { writeSafetensors } from "../../../src/hf/weights/safetensors-write.ts";
import { openSafetensors, readFloat32 } from "../../../src/hf/weights/safetensors.ts";
import { nextToken } from "../../../src/objectives/next-token.ts";
import { expertColumns, expertRows, storedName } from "../../../src/models/adapters/expert-parameters.ts";
import { hasAdapters } from "../../../src/models/tuning.ts";
import { adapterTuning, writeAdapterWeights } from "../../../src/load/adapter.ts";
import type { Executor } from "../../../src/runtime/executor.ts";
import { createEngine, type Engine } from "../../../src/train/step/engine.ts";
import { chooseOptimizer } from "../../../src/optimizers/index.ts";
import { createOptimizer } from "../../../src/train/step/optimizer.ts";
import { readStepBatch } from "../../../src/train/step/step-batch.ts";
import { stepGradients } from "../../../src/train/step/step-gradients.ts";
import { tuningOfAdapter } from "../../../src/train/step/tuning.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { batchFile, type GoldenFamily, modelFolder, readTensors, relativeError } from "../../support/golden.ts";
import { openOrt } from "../../support/provider.ts";
import { THREADS } from "../../support/slow.ts";

setDefaultTimeout(120_000);

/** The fixtures of test/golden/adapters; make.py there says what they are. */
const ROOT = join(import.meta.dir, "../../golden/adapters");
const CASES = readdirSync(ROOT, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));

const BOUND = 1e-4;
const MERGED_BOUND = 1e-6;

const scratch = mkdtempSync(join(tmpdir(), "remat-adapters-"));
const executors: Record<string, Executor> = { wasm: await createWasmExecutor({ threads: THREADS }), "ort-cpu": openOrt(THREADS) };
afterAll(() => {
  for (const executor of Object.values(executors)) executor.close();
  rmSync(scratch, { recursive: true });
});

interface AdamW {
  readonly base: GoldenFamily;
  readonly adamw: {
    readonly lr: number;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly weight_decay: number;
  };
  readonly losses: readonly number[];
}

const adamwOf = (name: string) => JSON.parse(readFileSync(join(ROOT, name, "adamw.json"), "utf8")) as AdamW;

/** Everything of a case, as files. */
function open(name: string) {
  const { base } = adamwOf(name);
  const config = loadConfig(modelFolder(base));
  const source = openModelWeights(modelFolder(base), config);
  const adapter = openAdapterFor(source, join(ROOT, name), config);
  return { base, config, source, adapter, batch: readStepBatch(batchFile(base, "rows"), config) };
}

function train(
  name: string,
  executor: Executor,
  optimizer = chooseOptimizer({}),
): { engine: Engine; batch: ReturnType<typeof readStepBatch> } {
  const { config, source, adapter, batch } = open(name);
  const tokens = [batch.ids.length];
  const engine = createEngine(executor, {
    config,
    source,
    tuning: tuningOfAdapter(adapter, config),
    strategy: { name: "per-segment" },
    tokens,
    logits: { tokens, rows: batch.ids.length },
    optimizer,
  });
  writeAdapterWeights(engine, adapter);
  source.close();
  adapter.source.close();
  return { engine, batch };
}

test("adapters of the experts' layers one by one, as PEFT made them of older Transformers, are merged, and refused where they would run", () => {
  const folder = join(scratch, "each");
  const of = openSafetensors(join(ROOT, "experts", "adapter_model.safetensors"));
  const [rank, experts, alpha] = [2, 7, 5];
  const tensors = [0, 1].flatMap((layer) => {
    const list = `base_model.model.model.layers.${layer}.mlp.experts`;
    const [a, b] = ["A", "B"].map((part) => of.tensors.get(`${list}.lora_${part}.weight`)!);
    const [aValues, bValues] = [a, b].map((entry) => readFloat32(of, entry!.name, entry!.shape)) as [Float32Array, Float32Array];
    return Array.from({ length: experts }, (_, expert) => {
      const own = { expert, experts, rank, first: 0, step: 1, count: b!.shape[0]! };
      const name = `${list}.${expert}.down_proj`;
      return [
        { name: `${name}.lora_A.weight`, shape: [rank, a!.shape[1]!], data: expertRows(aValues, expert, experts) },
        { name: `${name}.lora_B.weight`, shape: [b!.shape[0]!, rank], data: expertColumns(bValues, own) },
      ].map((tensor) => ({ ...tensor, dtype: "f32" as const, data: new Uint8Array(tensor.data.slice().buffer) }));
    }).flat();
  });
  of.close();
  mkdirSync(folder);
  writeSafetensors(join(folder, "adapter_model.safetensors"), tensors);
  const config = { peft_type: "LORA", r: rank, lora_alpha: alpha, target_modules: ["down_proj"], task_type: "CAUSAL_LM" };
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  const base = modelFolder("qwen3-moe");
  mergeAdapter({ base, adapter: folder, output: join(scratch, "each-merged") });
  const merged = openSafetensors(join(scratch, "each-merged"));
  const name = "model.layers.1.mlp.experts.6.down_proj.weight";
  const expected = readTensors(join(ROOT, "experts", "merged.safetensors")).get(name)!;
  const { shape } = merged.tensors.get(name)!;
  const model = loadConfig(base);
  const source = openModelWeights(base, model);
  // The base model is of bf16.
  expect(relativeError(readFloat32(merged, name, shape), expected)).toBeLessThan(2 ** -8);
  expect(relativeError(readFloat32(source, name, shape), expected)).toBeGreaterThan(0.1);
  merged.close();
  const adapter = openAdapterFor(source, folder, model);
  expect(() => adapterTuning(adapter, model)).toThrow("can only be used merged: see remat merge");
  adapter.source.close();
  source.close();
});

describe.each(CASES)("%s", (name) => {
  const { loss, logits, ...gradients } = Object.fromEntries(readTensors(join(ROOT, name, "expected.safetensors")));

  test.each(Object.keys(executors))("logits, loss and every gradient on %s: within 1e-4 of PEFT", (device) => {
    const { engine, batch } = train(name, executors[device]!);
    expect(relativeError(engine.logits(batch, Int32Array.from(batch.ids.keys())), logits!)).toBeLessThan(BOUND);
    expect(Math.abs(engine.evaluate(batch).loss / batch.labelled / loss![0]! - 1)).toBeLessThan(BOUND);
    const step = stepGradients(engine, { ...batch }, 1);
    expect(Math.abs(step.loss / loss![0]! - 1)).toBeLessThan(BOUND);
    const { tuning } = engine;
    const isAdapted = (module: string) => hasAdapters(tuning) && tuning.adapts(module) !== null;
    const own = step.gradients.map((tensor) => ({ ...tensor, name: storedName(tensor.name, isAdapted) }));
    expect(own.map((tensor) => tensor.name).sort()).toEqual(Object.keys(gradients).sort());
    const errors = own.map(({ name, data }) => [name, relativeError(floats(data), gradients[name]!)] as const);
    expect(errors.filter(([, error]) => !(error < BOUND))).toEqual([]);
    engine.close();
  });

  test("the losses of ten AdamW steps: within 1e-4 of PyTorch", () => {
    const { adamw, losses } = adamwOf(name);
    const [beta1, beta2] = adamw.betas;
    const choice = chooseOptimizer({ beta1, beta2, epsilon: adamw.eps, weightDecay: adamw.weight_decay });
    const { engine, batch } = train(name, executors["wasm"]!, choice);
    const optimizer = createOptimizer(engine, { clip: 0 });
    const actual = losses.map((_, step) => {
      if (step > 0) {
        optimizer.step(step, adamw.lr);
        optimizer.zeroGradients();
      }
      return engine.forwardBackward(batch, 1 / batch.labelled, 1, step);
    });
    expect(actual.map((value, i) => Math.abs(value / losses[i]! - 1)).filter((error) => !(error < BOUND))).toEqual([]);
    engine.close();
  });

  test("scoring and decoding with it frozen: loss and logits within 1e-4 of PEFT", async () => {
    const { config, source, adapter, batch } = open(name);
    const executor = executors["wasm"]!;
    const { score } = await openScorer(executor, {
      config,
      source,
      adapter,
      head: nextToken.create({}),
      tokens: batch.ids.length,
      weighted: false,
    });
    const scored = score(microBatch(batch));
    expect(Math.abs(Number(scored.loss) / batch.labelled / loss![0]! - 1)).toBeLessThan(BOUND);
    const decoder = createDecoder(executor, { config, source, adapter, maxTokens: 32 });
    const length = batch.ids.length / 2;
    const ids = [...batch.ids.subarray(0, length)];
    for (const count of [1, 2, 7, length]) {
      const expected = logits!.subarray((count - 1) * config.vocabSize, count * config.vocabSize);
      expect(relativeError(decoder.feed(ids.slice(0, count)), expected)).toBeLessThan(BOUND);
    }
    source.close();
    adapter.source.close();
  });

  test("merged: within 1e-6 of PEFT's merge in f32, and the merged model computes what the adapter does; MXFP4 holds none", async () => {
    const { base, config: before } = open(name);
    const output = join(scratch, name);
    if (base === "gpt-oss-mxfp4") {
      const merge = () => mergeAdapter({ base: modelFolder(base), adapter: join(ROOT, name), output });
      expect(merge).toThrow("is MXFP4, which cannot hold trained weights; keep an adapter beside it");
      expect(existsSync(output)).toBe(false);
      return;
    }
    mergeAdapter({ base: modelFolder(base), adapter: join(ROOT, name), output });
    const config = loadConfig(output);
    const source = openModelWeights(output, config);
    const expected = readExpected(join(ROOT, name, "merged.safetensors"));
    const dtype = before.dtype;
    if (dtype === "f32") {
      const merged = readTensors(join(output, "model.safetensors"));
      const errors = [...expected].map(([key, values]) => [key, relativeError(merged.get(key)!, values)] as const);
      expect(errors.filter(([, error]) => !(error < MERGED_BOUND))).toEqual([]);
    }
    const executor = executors["wasm"]!;
    const { batch } = open(name);
    const { score } = await openScorer(executor, {
      config,
      source,
      adapter: null,
      head: nextToken.create({}),
      tokens: batch.ids.length,
      weighted: false,
    });
    const scored = score(microBatch(batch));
    // Half weights are rounded once more.
    expect(Math.abs(Number(scored.loss) / batch.labelled / loss![0]! - 1)).toBeLessThan(dtype === "f32" ? BOUND : 2e-2);
    source.close();
  });
});

/** A batch file as a micro-batch of two examples. */
function microBatch(batch: ReturnType<typeof readStepBatch>): MicroBatch {
  const tokens = batch.ids.length;
  return { ...batch, tokens, weights: null, used: tokens, examples: 2, spans: [], members: [] };
}

function readExpected(path: string): Map<string, Float32Array> {
  try {
    openSafetensors(path).close();
  } catch {
    return new Map();
  }
  return readTensors(path);
}

function floats(data: unknown): Float32Array {
  if (typeof data === "function") return (data as () => Float32Array)();
  const pieces = [...(data as { pieces(): Iterable<Uint8Array> }).pieces()].map((piece) => piece.slice());
  return new Float32Array(Uint8Array.from(Buffer.concat(pieces)).buffer);
}
