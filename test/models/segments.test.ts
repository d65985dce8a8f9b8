import { describe, expect, setDefaultTimeout, test } from "bun:test";
import type { ModelConfig } from "../../src/models/config.ts";
import { buildDecoder } from "../../src/models/chain/decode.ts";
import { llamaLayers } from "../../src/models/families/llama/llama.ts";
import type { SegmentOptions } from "../../src/models/parts.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { llama, lora } from "../support/engine.ts";

setDefaultTimeout(120_000);

const gemma = (family: "gemma2" | "gemma3_text", layers: number, overrides: object = {}): ModelConfig =>
  llama(layers, 32, { architectures: undefined, model_type: family, head_dim: 8, sliding_window: 4, ...overrides });

const FULL: SegmentOptions = { tokens: 8, tuning: { method: "full" }, weightType: () => "bf16" };

/** The program of each layer, numbered in the order in which they come. */
function kinds(segments: readonly { readonly name: string; readonly model: { readonly id: string } }[]): number[] {
  const ids = segments.filter(({ name }) => name.includes(".layers.")).map(({ model }) => model.id);
  const distinct = [...new Set(ids)];
  return ids.map((id) => distinct.indexOf(id));
}

describe("blocks of a kind share one program", () => {
  test("layers with and without a window are two", () => {
    expect(kinds(buildSegments(llama(5), FULL))).toEqual([0, 0, 0, 0, 0]);
    expect(kinds(buildSegments(gemma("gemma2", 5), FULL))).toEqual([0, 1, 0, 1, 0]);
    expect(kinds(buildSegments(gemma("gemma3_text", 8), FULL))).toEqual([0, 0, 0, 0, 0, 1, 0, 0]);
    expect(kinds(buildDecoder(gemma("gemma3_text", 8), FULL, { size: 16, texts: 1 }))).toEqual([0, 0, 0, 0, 0, 1, 0, 0]);
  });

  test("layers that differ in an attribute only are two", () => {
    const config = llama(3);
    const layers = [0.25, 0.5, 0.25].map((attentionScale) => llamaLayers({ ...config, attentionScale })[0]!);
    const scales = (segments: ReturnType<typeof buildSegments>) =>
      segments.flatMap(({ model }) => model.forward.nodes.flatMap(({ attrs }) => attrs["scale"] ?? []));
    const trained = buildSegments(config, FULL, layers);
    expect(kinds(trained)).toEqual([0, 1, 0]);
    expect(scales(trained)).toEqual([0.25, 0.5, 0.25]);
    expect(new Set(trained.slice(1, -1).map(({ model }) => model.training!.backward)).size).toBe(2);
    const decoded = buildDecoder(config, FULL, { size: 16, texts: 1 }, layers);
    expect(kinds(decoded)).toEqual([0, 1, 0]);
    expect(scales(decoded)).toEqual([0.25, 0.5, 0.25]);
  });

  test("a first block whose input needs no gradient is a third", () => {
    expect(kinds(buildSegments(gemma("gemma2", 5), { ...FULL, tuning: lora(0) }))).toEqual([0, 1, 2, 1, 2]);
  });

  test("rotary tables of a kind of layer are inputs of its blocks alone", () => {
    const [, windowed, , , , , full] = buildSegments(gemma("gemma3_text", 6), FULL);
    const inputs = (segment: typeof full) => segment!.model.forward.inputs.map(({ name }) => name);
    expect(inputs(windowed)).toContain("windowCos");
    expect(inputs(windowed)).not.toContain("cos");
    expect(inputs(full)).toContain("cos");
    expect(inputs(full)).not.toContain("windowCos");
  });
});

test("Gemma's embeddings are multiplied by sqrt(hidden) in the dtype of the weights", () => {
  const factor = (hidden: number, weights: "f32" | "bf16" | "f16") => {
    const config = llama(1, hidden, { architectures: undefined, model_type: "gemma2", head_dim: 8 });
    const [embedding] = buildSegments(config, { ...FULL, weightType: () => weights });
    return embedding!.model.forward.nodes.find(({ op }) => op === "Affine")?.attrs["alpha"];
  };
  // sqrt(3072) = 55.4256 is 55.5 in bfloat16.
  expect(factor(3072, "bf16")).toBe(55.5);
  expect(factor(3072, "f16")).toBe(55.4375);
  expect(factor(3072, "f32")).toBe(Math.fround(Math.sqrt(3072)));
  const [plain] = buildSegments(llama(1), FULL);
  expect(plain!.model.forward.nodes.map(({ op }) => op)).not.toContain("Affine");
});
