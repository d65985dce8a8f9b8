import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { layerOf } from "../../src/models/names.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import type { Strategy } from "../../src/schedule/strategies.ts";
import { createEngine } from "../../src/train/step/engine.ts";
import { readStepBatch } from "../../src/train/step/step-batch.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { remat } from "../support/cli.ts";
import { batchFile, ENCODERS, type GoldenFamily, modelFolder, readExpected, readTensors } from "../support/golden.ts";
import { expectSameBits } from "../support/ops.ts";
import { combinations } from "../support/slow.ts";

setDefaultTimeout(120_000);

const work = mkdtempSync(join(tmpdir(), "remat-encoders-"));
afterAll(() => rmSync(work, { recursive: true }));

async function gradientsOf(family: GoldenFamily, strategy: Strategy, threads: number): Promise<Float32Array[]> {
  const executor = await createWasmExecutor({ threads });
  const config = loadConfig(modelFolder(family));
  const batch = readStepBatch(batchFile(family, "packed"), config);
  const source = openModelWeights(modelFolder(family), config);
  const tokens = [batch.ids.length];
  const engine = createEngine(executor, { config, source, tuning: { method: "full" }, strategy, tokens, optimizer: null });
  source.close();
  engine.zeroGradients();
  const loss = engine.forwardBackward(batch, 1 / batch.labelled, 1, 0);
  const { params, gradient } = engine.resident;
  const values = params.map(({ name, type }) => readTensor(executor, gradient.get(name)!, type).slice());
  executor.close();
  return [Float32Array.of(loss), ...values];
}

const STRATEGIES: readonly Strategy[] = [
  { name: "per-segment" },
  { name: "every", k: 2 },
  { name: "uniform", size: 2 },
  { name: "sqrt" },
  { name: "revolve", slots: 2 },
];

test.each(["bert", "modernbert"] as const)("%s: the same bits for every strategy, and for 1 and 2 threads", async (family) => {
  const reference = await gradientsOf(family, { name: "off" }, 1);
  for (const [strategy, threads] of combinations(STRATEGIES, [1, 2]))
    expectSameBits(`${strategy.name}, ${threads} threads`, await gradientsOf(family, strategy, threads), reference);
});

describe("configurations", () => {
  const bert = { model_type: "bert", architectures: ["BertForMaskedLM"] };

  test("have the defaults of Transformers", () => {
    expect(parseConfig(bert)).toMatchObject({
      hiddenSize: 768,
      layers: 12,
      heads: 12,
      kvHeads: 12,
      headDim: 64,
      vocabSize: 30_522,
      normEps: 1e-12,
      hiddenAct: "gelu",
      maxPositions: 512,
      tieWordEmbeddings: true,
      padTokenId: 0,
      positionTable: { rows: 512, first: 0 },
      encoder: { typeRows: 2, predictsTokens: true },
    });
    expect(parseConfig({ model_type: "roberta", max_position_embeddings: 514 })).toMatchObject({
      vocabSize: 50_265,
      maxPositions: 512,
      bosTokenId: 0,
      eosTokenIds: [2],
      positionTable: { rows: 514, first: 2 },
    });
    expect(parseConfig({ model_type: "distilbert" })).toMatchObject({ layers: 6, encoder: { typeRows: 0 } });
    expect(parseConfig({ model_type: "modernbert" })).toMatchObject({
      layers: 22,
      rotaryDim: 64,
      normEps: 1e-5,
      maxPositions: 8192,
      rope: { theta: 160_000 },
      windowRope: { theta: 10_000 },
      slidingWindow: 65,
      windowLayers: Array.from({ length: 22 }, (_, layer) => layer % 3 > 0),
      positionTable: null,
      encoder: { typeRows: 0 },
      norm: "layer-without-bias",
    });
    const kinds = { full_attention: { rope_type: "default", rope_theta: 7 }, sliding_attention: { rope_theta: 5 } };
    const layers = { num_hidden_layers: 2, layer_types: ["sliding_attention", "full_attention"] };
    expect(parseConfig({ model_type: "modernbert", rope_parameters: kinds, ...layers })).toMatchObject({
      rope: { theta: 7 },
      windowRope: { theta: 5 },
      windowLayers: [true, false],
    });
    expect(parseConfig({ ...bert, architectures: ["BertModel"] }).encoder!.predictsTokens).toBe(false);
  });

  test.each([
    [{ position_embedding_type: "relative_key" }, 'position_embedding_type "relative_key" is not supported; expected "absolute"'],
    [{ is_decoder: true }, "an encoder that is used as a decoder (is_decoder, add_cross_attention) is not supported"],
    [{ hidden_act: "silu" }, 'hidden_act "silu" is not supported in an encoder; expected gelu'],
    [{ hidden_size: 20, num_attention_heads: 4 }, "heads of 5 features are not supported; expected an even number"],
    [{ hidden_size: 21, num_attention_heads: 4 }, "hidden_size (21) is not a multiple of num_attention_heads (4)"],
    [{ tie_word_embeddings: false }, "an encoder with a head of its own (tie_word_embeddings false) is not supported"],
    [{ quantization_config: {} }, "the checkpoint is quantised"],
  ])("are refused: %p", (more, message) => {
    expect(() => parseConfig({ ...bert, ...more }, "x/config.json")).toThrow(`x/config.json: ${message}`);
  });

  test.each([
    [{ norm_bias: true }, "norm_bias true is not supported; expected false"],
    [{ decoder_bias: false }, "decoder_bias false is not supported; expected true"],
    [{ num_hidden_layers: 3, layer_types: ["full_attention"] }, "layer_types has 1 entries; expected one for each of 3 layers"],
    [
      { architectures: ["ModernBertForSequenceClassification"], classifier_pooling: "mean" },
      'classifier_pooling "mean" is not supported; expected "cls"',
    ],
  ])("of a ModernBERT are refused: %p", (more, message) => {
    expect(() => parseConfig({ model_type: "modernbert", ...more }, "x/config.json")).toThrow(`x/config.json: ${message}`);
  });

  test("blocks are told by the family's own names", () => {
    expect(layerOf("bert.encoder.layer.11.output.dense", { modulePrefix: "bert." })).toBe(11);
    expect(layerOf("bert.pooler.dense", { modulePrefix: "bert." })).toBeNull();
    expect(layerOf("bert.layers.1.x", { modulePrefix: "bert." })).toBeNull();
    expect(layerOf("distilbert.transformer.layer.3.ffn.lin1", { modulePrefix: "distilbert." })).toBe(3);
  });
});

/** A copy of a fixture's folder whose configuration and tensors are changed. */
function changed(name: string, family: GoldenFamily, more: object, rename: (tensor: string) => string[]): string {
  const folder = join(work, name);
  mkdirSync(folder);
  const config = JSON.parse(readFileSync(join(modelFolder(family), "config.json"), "utf8")) as object;
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, ...more }));
  const source = openSafetensors(modelFolder(family));
  const tensors = [...source.tensors.values()].flatMap(({ name, shape }) =>
    rename(name).map((to) => ({ name: to, dtype: "f32" as const, shape, data: readFloat32(source, name, shape) })),
  );
  source.close();
  writeSafetensors(join(folder, "model.safetensors"), tensors);
  return folder;
}

/** Names as the first checkpoints have them. */
const old = (name: string): string =>
  name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");

describe("weights", () => {
  test.each([
    ["TensorFlow's names of norms", "old", (name: string) => [old(name)]],
    [
      "the bias of the logits by its other name",
      "decoder",
      (name: string) => [name.replace("predictions.bias", "predictions.decoder.bias")],
    ],
    [
      "the bias of the logits by both names",
      "both",
      (name: string) =>
        name.endsWith("predictions.bias") ? [name, name.replace("predictions.bias", "predictions.decoder.bias")] : [name],
    ],
  ] as const)("are found: %s", (_, folder, rename) => {
    const path = changed(folder, "bert", {}, rename);
    const config = loadConfig(path);
    const [source, expected] = [openModelWeights(path, config), openModelWeights(modelFolder("bert"), config)];
    expect([...source.tensors.keys()].sort()).toEqual([...expected.tensors.keys()].sort());
    for (const { name, shape } of expected.tensors.values())
      expect(readBytes(source, source.tensors.get(name)!)).toEqual(
        readBytes(expected, { ...expected.tensors.get(name)!, shape }),
      );
    source.close();
    expected.close();
  });

  test("of a model without a head have no prefix", () => {
    const path = changed("bare", "bert", { architectures: ["BertModel"] }, (name) =>
      name.startsWith("cls.") ? [] : [name.replace("bert.", "")],
    );
    const source = openModelWeights(path, loadConfig(path));
    expect([...source.tensors.keys()]).toContain("bert.encoder.layer.1.attention.self.query.weight");
    source.close();
  });
});

describe("verbs", () => {
  const bert = modelFolder("bert");
  const refusal = `${bert} holds an encoder (BERT), which sees each text from both sides and predicts no next tokens`;

  test("that continue texts refuse an encoder", async () => {
    const data = join(work, "data.jsonl");
    writeFileSync(data, `${JSON.stringify({ prompt: "a", completion: "b" })}\n`);
    const out = join(work, "out");
    for (const args of [
      ["train", "--data", data, "--output", out, "--steps", "1"],
      ["generate", "--data", data, "--out", join(work, "answers.jsonl")],
      ["chat"],
      ["eval", "--data", data],
    ]) {
      const { code, stderr } = await remat([...args, "--model", bert]);
      expect([args[0], code, stderr]).toEqual([args[0], 2, expect.stringContaining(refusal)]);
    }
  });

  test.each(ENCODERS)("remat step gives PyTorch's loss of a %s", async (family) => {
    const out = join(work, `${family}.safetensors`);
    const args = ["--method", "full", "--batch", batchFile(family, "padded"), "--out", out];
    const { code, stderr } = await remat(["step", "--model", modelFolder(family), ...args]);
    expect([code, stderr]).toEqual([0, expect.any(String)]);
    expect(readTensors(out).get("loss")![0]!).toBeCloseTo(readExpected(family, "full", "padded").loss, 4);
  });

  test("remat step refuses an encoder without a head, and batches that do not fit", async () => {
    const step = (model: string, batch: string) =>
      remat(["step", "--method", "full", "--model", model, "--batch", batch, "--out", join(work, "none.safetensors")]);
    const bare = changed("bare-step", "bert", { architectures: ["BertModel"] }, (name) =>
      name.startsWith("cls.") ? [] : [name.replace("bert.", "")],
    );
    const batch = batchFile("bert", "padded");
    const headless = await step(bare, batch);
    expect([headless.code, headless.stderr]).toEqual([
      2,
      expect.stringContaining(`${bare} holds an encoder without a head, which predicts no tokens; expected a BertForMaskedLM`),
    ]);
    const untyped = await step(modelFolder("distilbert"), batch);
    expect(untyped.stderr).toContain('tensor "token_type_ids" would not count; the model has no types');
    const short = join(work, "short");
    cpSync(bert, short, { recursive: true });
    const config = JSON.parse(readFileSync(join(bert, "config.json"), "utf8")) as object;
    writeFileSync(join(short, "config.json"), JSON.stringify({ ...config, max_position_embeddings: 16 }));
    expect((await step(short, batch)).stderr).toContain("sequence length 17 is longer than the model's context of 16 tokens");
  });
});
