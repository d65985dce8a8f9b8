import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Segment, programsOf } from "../../src/graph/segment.ts";
import { elements, type FloatType, type Graph, type TensorType } from "../../src/graph/types.ts";
import type { ModelConfig } from "../../src/hf/config.ts";
import { buildSegments } from "../../src/models/llama.ts";
import type { Tuning } from "../../src/models/linear.ts";
import { readModel } from "../../src/onnx/read.ts";
import { fileNameOf, writeSegmentModels } from "../../src/onnx/segments.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { filesIn, temporaryFolder, userError } from "../hf/temp.ts";
import { f32, generator, half, i32, random, runGraph, type TestTensor } from "../support/ops.ts";
import { expectParity } from "../support/ort.ts";

const TOKENS = 13;

const config: ModelConfig = {
  family: "qwen3",
  hiddenSize: 20,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 6,
  intermediateSize: 27,
  vocabSize: 31,
  rmsNormEps: 1e-6,
  hiddenAct: "silu",
  tieWordEmbeddings: false,
  maxPositions: 64,
  rope: { theta: 10000, scaling: { type: "default" } },
  slidingWindow: null,
  windowFrom: 0,
  attentionBias: true,
  attentionOutputBias: true,
  mlpBias: false,
  qkNorm: true,
  bosTokenId: null,
  eosTokenIds: [],
  padTokenId: null,
  dtype: "f32",
};

const LORA: Tuning = { method: "lora", rank: 3, scale: 2, dropout: 0.1, targets: new Set(["q_proj", "v_proj", "down_proj"]) };

function chain(tuning: Tuning, weights: FloatType): Segment[] {
  return buildSegments(config, { tokens: TOKENS, tuning, weightType: () => weights });
}

describe("segment models in a folder", () => {
  const folder = temporaryFolder();
  const segments = chain(LORA, "f32");
  writeSegmentModels(folder, segments);

  test("identical blocks share one file per program", () => {
    expect(filesIn(folder)).toEqual([
      "block-first.backward.onnx",
      "block-first.forward-taped.onnx",
      "block-first.forward.onnx",
      "block.backward.onnx",
      "block.forward-taped.onnx",
      "block.forward.onnx",
      "embedding.forward.onnx",
      "head.forward-backward.onnx",
      "head.forward.onnx",
      "segments.json",
    ]);
  });

  test("segments.json says which files and parameters each segment uses", () => {
    const { segments: entries } = JSON.parse(readFileSync(join(folder, "segments.json"), "utf8"));
    expect(entries.map((entry: { name: string }) => entry.name)).toEqual(segments.map((segment) => segment.name));
    expect(entries[2]).toMatchObject({
      name: "model.layers.1",
      model: "block",
      files: { forward: "block.forward.onnx", "forward-taped": "block.forward-taped.onnx", backward: "block.backward.onnx" },
    });
    expect(entries[2].params["mlp.up_proj.weight"]).toBe("model.layers.1.mlp.up_proj.weight");
  });

  test("each file gives its graph back", () => {
    for (const model of new Set(segments.map((segment) => segment.model))) {
      for (const [program, graph] of programsOf(model)) {
        const path = join(folder, fileNameOf(model, program));
        const back = readModel(readFileSync(path), path);
        expect(back.inputs).toEqual(graph.inputs);
        expect(back.outputs).toEqual(graph.outputs);
        expect(back.types).toEqual(graph.types);
        expect(back.nodes.map(({ op, inputs, outputs }) => [op, inputs, outputs])).toEqual(
          graph.nodes.map(({ op, inputs, outputs }) => [op, inputs, outputs]),
        );
        expect(writeModel(back)).toEqual(writeModel(graph));
      }
    }
  });

  test("a folder that cannot be made gives one clear error", () => {
    const path = join(folder, "segments.json", "sub");
    expect(userError(() => writeSegmentModels(path, segments))).toContain(`cannot create the folder ${path}`);
  });
});

describe("each program of a model: kernels and ONNX Runtime agree, relative error <= 1e-5", () => {
  const cases: [string, Tuning, FloatType][] = [
    ["LoRA on f32 weights", LORA, "f32"],
    ["LoRA on bf16 weights", LORA, "bf16"],
    ["full tuning", { method: "full" }, "f32"],
  ];
  test.each(cases)("%s", async (_, tuning, weights) => {
    const rng = generator(5);
    for (const model of new Set(chain(tuning, weights).map((segment) => segment.model))) {
      const feeds = new Map<string, TestTensor>();
      const parity = (graph: Graph) => {
        for (const { name } of graph.inputs) if (!feeds.has(name)) feeds.set(name, feedFor(name, graph.types.get(name)!, rng));
        return expectParity(graph, feeds, 1e-5);
      };
      for (const [program, graph] of programsOf(model)) {
        await parity(graph);
        if (program !== "forward-taped") continue;
        // The backward gets the tape of this very forward.
        for (const [name, data] of await runGraph(graph, feeds)) {
          const { dtype, shape } = graph.types.get(name)!;
          feeds.set(name, { dtype: dtype as TestTensor["dtype"], shape, data });
        }
      }
    }
  });
});

/** A value that suits the graph input of this name. */
function feedFor(name: string, type: TensorType, rng: () => number): TestTensor {
  const { dtype, shape } = type;
  const below = (limit: number) => Array.from({ length: elements(shape) }, () => Math.floor(rng() * limit));
  switch (name) {
    case "ids":
      return i32(shape, below(config.vocabSize));
    case "labels":
      return i32(
        shape,
        below(config.vocabSize).map((label, i) => (i % 4 === 0 ? -100 : label)),
      );
    case "starts":
      return i32(shape, [0, 0, 0, 0, 4, 4, 6, 6, 6, 6, 6, 11, 12]);
    case "rng":
      return i32(shape, [77, 3]);
    case "segment":
      return i32(shape, [2]);
    case "scale":
      return f32(shape, [0.1]);
    default: {
      const values = random(rng, shape, shape.length === 2 && name !== "x" ? 0.3 : 1);
      return dtype === "bf16" || dtype === "f16" ? half(values, dtype) : values;
    }
  }
}
