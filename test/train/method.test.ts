import { expect, test } from "bun:test";
import type { TensorSource } from "../../src/hf/weights/safetensors.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { withUsualMethod } from "../../src/train/method.ts";

const bert = parseConfig({ model_type: "bert", architectures: ["BertForMaskedLM"] });
const llama = { ...bert, encoder: null };
const source = (parameters: number) =>
  ({
    tensors: new Map([
      ["a.weight", { shape: [parameters / 1000, 500] }],
      ["b.weight", { shape: [parameters / 2] }],
    ]),
  }) as unknown as TensorSource;
const methodOf = (settings: object, config = bert, parameters = 110e6, adapter: unknown = null) => {
  const notes: string[] = [];
  const given = trainConfigSchema.parse({ model: "m", data: "d", ...settings });
  const model = { config, source: source(parameters), adapter } as Parameters<typeof withUsualMethod>[1];
  const { method } = withUsualMethod(given, model, Object.keys(settings), (text) => notes.push(text));
  return [method, notes.length];
};

test("a text encoder of fewer than 200 million parameters is trained whole, unless something else is asked for", () => {
  expect(methodOf({})).toEqual(["full", 1]);
  expect(methodOf({}, bert, 199.999e6)).toEqual(["full", 1]);
  expect(methodOf({}, bert, 200e6)).toEqual(["lora", 0]);
  expect(methodOf({}, llama)).toEqual(["lora", 0]);
  expect(methodOf({ method: "lora" })).toEqual(["lora", 0]);
  expect(methodOf({ method: "dora" })).toEqual(["dora", 0]);
  for (const settings of [
    { rank: 4 },
    { dropout: 0.1 },
    { targets: ["query"] },
    { modulesToSave: ["classifier"] },
    { quantize: "q8" },
  ])
    expect(methodOf(settings)).toEqual(["lora", 0]);
  expect(methodOf({ lastLayers: 2, learningRate: 1e-4 })).toEqual(["full", 1]);
  expect(methodOf({}, bert, 110e6, {})).toEqual(["lora", 0]);
});
