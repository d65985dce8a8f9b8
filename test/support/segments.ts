import type { Segment } from "../../src/graph/segment.ts";
import { elements, type Graph, type TensorType, typeOf } from "../../src/graph/types.ts";
import { type FloatType } from "../../src/base/dtype.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { type Data, f32, half, i32, random, type TestTensor } from "./ops.ts";

const TOKENS = 13;

/** Small, of odd sizes, with every part that a block can have. */
const config: ModelConfig = {
  family: "qwen3",
  hiddenSize: 20,
  layers: 3,
  heads: 4,
  kvHeads: 2,
  headDim: 6,
  rotaryDim: 6,
  rotatesNeighbours: false,
  intermediateSize: 27,
  vocabSize: 31,
  normEps: 1e-6,
  norm: "rms",
  positionTable: null,
  encoder: null,
  hiddenAct: "silu",
  tieWordEmbeddings: false,
  maxPositions: 64,
  rope: { theta: 10000, scaling: { type: "default" } },
  rotaryLayers: [],
  slidingWindow: null,
  windowLayers: [],
  windowRope: null,
  queryRope: null,
  fullHeads: null,
  keysAreValues: false,
  sharedKeys: null,
  layerInputs: null,
  attentionScale: 1 / Math.sqrt(6),
  attentionSoftCap: null,
  logitSoftCap: null,
  normOffset: 0,
  embeddingScale: 1,
  roundsEmbeddingScale: false,
  residualScale: 1,
  logitScale: 1,
  modulePrefix: "model.",
  attentionBias: true,
  attentionOutputBias: true,
  mlpBias: false,
  storedTransposed: false,
  headBias: false,
  parallelBranches: false,
  qkNorm: "heads",
  convolution: null,
  delta: null,
  attentionGate: false,
  attentionSinks: false,
  experts: null,
  bosTokenId: null,
  eosTokenIds: [],
  padTokenId: null,
  dtype: "f32",
  textHead: null,
};

export const LORA: Tuning = uniformAdapters({
  rank: 3,
  scale: 2,
  dropout: 0.1,
  targets: new Set(["q_proj", "v_proj", "down_proj"]),
});

export function chain(tuning: Tuning, weights: FloatType): Segment[] {
  return buildSegments(config, { tokens: TOKENS, tuning, weightType: () => weights });
}

/** The chains of the tests. */
export const CHAINS: readonly [title: string, tuning: Tuning, weights: FloatType][] = [
  ["LoRA on f32 weights", LORA, "f32"],
  ["LoRA on bf16 weights", LORA, "bf16"],
  ["full tuning", { method: "full" }, "f32"],
];

/** Adds a random value for each input of the graph that has none yet. */
export function addFeeds(graph: Graph, feeds: Map<string, TestTensor>, rng: () => number): void {
  for (const { name } of graph.inputs) if (!feeds.has(name)) feeds.set(name, feedFor(name, typeOf(graph, name), rng));
}

/** Makes the outputs of a graph the inputs of the next one: the tape of a forward. */
export function addOutputs(graph: Graph, outputs: ReadonlyMap<string, Data>, feeds: Map<string, TestTensor>): void {
  for (const [name, data] of outputs) {
    const { dtype, shape } = typeOf(graph, name);
    feeds.set(name, { dtype: dtype as TestTensor["dtype"], shape, data });
  }
}

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
