import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { createBatches, type MicroBatch } from "../../src/data/samples/batch.ts";
import { createSampleStore } from "../../src/data/samples/sample-store.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { readEmbedder } from "../../src/hf/config/embeddings.ts";
import { withDense } from "../../src/hf/weights/dense.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { withPooling } from "../../src/load/embedder.ts";
import { headBatch } from "../../src/load/head-batch.ts";
import { embedderHead } from "../../src/objectives/index.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import type { Strategy } from "../../src/schedule/strategies.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { exportOnnx } from "../../src/library/export-onnx.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused } from "../support/cli.ts";
import { EMBED_FOLDER } from "../support/embed.ts";
import { EXECUTORS } from "../support/judged-runs.ts";
import { expectSameBits, expectWithin, relativeError } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = join(EMBED_FOLDER, "gemma");
const exported = temporaryFolder();
const texts = JSON.parse(readFileSync(join(folder, "texts.json"), "utf8")) as number[][];
const expected = new Map<string, Float32Array>();
const source = openSafetensors(join(folder, "expected.safetensors"));
for (const [name, { shape }] of source.tensors) expected.set(name, readFloat32(source, name, shape));
source.close();

/** All texts in one micro-batch: a row for each, filled up, or one row for all. */
function batchOf(kind: "padded" | "packed"): MicroBatch {
  const store = createSampleStore(() => "");
  for (const [i, text] of texts.entries()) {
    const ids = Int32Array.from(text);
    store.add({ ids, labels: ids.slice().fill(IGNORED), weights: null }, i);
  }
  const shape = kind === "padded" ? { rows: 3, rowLength: 17, packing: false } : { rows: 1, rowLength: 33, packing: true };
  return createBatches(store.finish(), { ...shape, seed: 0, shuffle: false, padId: 0 }).batch(0, 0);
}

/** Embeddings in the order of the fixture's texts, and the gradients of its loss. */
function computed(executor: Executor, kind: "padded" | "packed", strategy: Strategy = { name: "per-segment" }) {
  const { dense } = readEmbedder(folder)!;
  const config = withPooling(loadConfig(folder), "mean", dense);
  const weights = withDense(openModelWeights(folder, config), folder, dense);
  const batch = batchOf(kind);
  const rest = { strategy, tokens: [batch.tokens], head: "logits", texts: 3, optimizer: null } as const;
  const engine = createEngine(executor, { config, source: weights, tuning: { method: "full" }, ...rest });
  weights.close();
  const { outputs } = config.textHead!;
  const ordered = batch.members.flatMap((text) => [...expected.get("weights")!.subarray(text * outputs, (text + 1) * outputs)]);
  const embeddings = new Float32Array(3 * outputs);
  engine.zeroGradients();
  engine.forwardBackwardOpen(headBatch(embedderHead("mean"), batch, config), 1, 1, 0, (values) => {
    for (const [i, text] of batch.members.entries()) embeddings.set(values.slice(i * outputs, (i + 1) * outputs), text * outputs);
    return Float64Array.from(ordered);
  });
  const { params, gradient } = engine.resident;
  const gradients = new Map(params.map(({ name, type }) => [name, readTensor(executor, gradient.get(name)!, type).slice()]));
  engine.close();
  executor.close();
  return { embeddings, gradients };
}

describe("an EmbeddingGemma, whose tokens see both sides and whose mean goes through two layers", () => {
  for (const on of Object.keys(EXECUTORS)) {
    test.each(["padded", "packed"] as const)(
      `on ${on}, %s: embeddings and every gradient are those of Transformers within 1e-4`,
      async (kind) => {
        const { embeddings, gradients } = computed(await EXECUTORS[on]!(), kind);
        expectWithin("embeddings", relativeError(embeddings, expected.get(`${kind}.embeddings`)!), 1e-4);
        const begin = `${kind}.gradient.`;
        const names = [...expected.keys()].filter((name) => name.startsWith(begin)).map((name) => name.slice(begin.length));
        expect(names.length).toBe(gradients.size);
        for (const name of names) {
          const own = gradients.get(name) ?? gradients.get(`model.${name}`)!;
          expectWithin(name, relativeError(own, expected.get(begin + name)!), 1e-4);
        }
      },
    );
  }

  test("the same bits for every strategy, and for 1 and 2 threads", async () => {
    const reference = computed(await createWasmExecutor({ threads: 1 }), "packed", { name: "off" });
    for (const [threads, strategy] of [
      [1, { name: "revolve", slots: 1 }],
      [2, { name: "uniform", size: 2 }],
    ] as const) {
      const again = computed(await createWasmExecutor({ threads }), "packed", strategy);
      expectSameBits(
        strategy.name,
        [again.embeddings, ...again.gradients.values()],
        [reference.embeddings, ...reference.gradients.values()],
      );
    }
  });

  test("onnxruntime-node makes of its ONNX file the same embeddings within 1e-5, of texts of all lengths in one batch", async () => {
    const out = join(exported, "onnx");
    const { outputs } = await exportOnnx({ model: folder, out, normalize: false });
    expect(outputs).toEqual(["last_hidden_state", "sentence_embedding"]);
    for (const file of ["modules.json", "2_Dense/config.json", "3_Dense/model.safetensors"])
      expect(existsSync(join(out, file))).toBe(true);
    const length = Math.max(...texts.map((ids) => ids.length));
    const tensor = (valuesOf: (ids: readonly number[]) => readonly number[]) => {
      const rows = texts.map((ids) => [...valuesOf(ids), ...Array.from({ length: length - ids.length }, () => 0)]);
      return new Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [texts.length, length]);
    };
    const session = await InferenceSession.create(join(out, "onnx/model.onnx"), { logSeverityLevel: 3 });
    const found = await session.run({ input_ids: tensor((ids) => ids), attention_mask: tensor((ids) => ids.map(() => 1)) });
    await session.release();
    const { embeddings } = computed(await createWasmExecutor({ threads: 1 }), "padded");
    const own = found["sentence_embedding"]!;
    expect(own.dims).toEqual([texts.length, embeddings.length / texts.length]);
    for (const [i, value] of embeddings.entries())
      expectWithin(`number ${i}`, Math.abs((own.data as Float32Array)[i]! - value), 1e-5);
    // The first numbers, at length 1.
    const short = join(exported, "short");
    await exportOnnx({ model: folder, out: short, normalize: true, dimensions: 8 });
    const cut = await InferenceSession.create(join(short, "onnx/model.onnx"), { logSeverityLevel: 3 });
    const { sentence_embedding: kept } = await cut.run({
      input_ids: tensor((ids) => ids),
      attention_mask: tensor((ids) => ids.map(() => 1)),
    });
    await cut.release();
    const first = embeddings.subarray(0, 8);
    const norm = Math.hypot(...first);
    for (const [i, value] of first.entries())
      expectWithin(`number ${i} of 8`, Math.abs((kept!.data as Float32Array)[i]! - value / norm), 1e-5);
  });

  test("makes nothing that wants next tokens", async () => {
    expect(await refused("eval", "--model", folder, "--data", "none.jsonl")).toContain("sees each text from both sides");
  });
});
