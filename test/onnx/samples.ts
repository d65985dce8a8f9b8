import { SWIGLU_EXPERTS } from "../../src/ops/expert-mlp.ts";
import type { Attrs } from "../../src/graph/types.ts";
import { CAST_TO } from "../../src/ops/cast.ts";
import type { OpName } from "../../src/ops/index.ts";
import { QUANTISED_FORMATS, quantised } from "../support/quantised.ts";
import { f32, generator, half, i32, random, type TestTensor } from "../support/ops.ts";
import {
  ADAPTED_EXPERTS,
  adaptedChunks,
  adaptedHead,
  attention,
  below,
  cachedConv,
  cachedDelta,
  cappedAttention,
  cappedCache,
  cappedHead,
  CHUNKED,
  chunkedScales,
  CLAMPED_EXPERTS,
  codedState,
  columnDot,
  delta,
  ENDS,
  expertPairs,
  FACTORED,
  filtered,
  LABELS,
  layerNorm,
  layerNormGrad,
  LONG,
  LONG_ENDS,
  LONG_STARTS,
  longAttention,
  lse,
  mixture,
  normal,
  rollingConv,
  routed,
  rowNorm,
  scaleColumns,
  short,
  STARTS,
  uniform,
} from "./sample-operands.ts";

/** One call of an operator, small and of odd sizes. */
export interface Sample {
  readonly attrs: Attrs;
  /** `null` is an absent optional input. A half tensor reaches the operator through a `Cast`. */
  readonly inputs: readonly (TestTensor | null)[];
  /** Norm-wise relative difference of two executors in f32; 1e-6 unless said. */
  readonly bound?: number;
}

/** A sample or more of every operator: an operator without one does not compile. */
export const SAMPLES: Readonly<Record<OpName, readonly Sample[]>> = {
  AdafactorColumns: [
    { attrs: {}, inputs: [normal(37, 11), uniform([11]), FACTORED] },
    { attrs: {}, inputs: [normal(23), uniform([23]), FACTORED] },
  ],
  AdafactorRows: [{ attrs: {}, inputs: [normal(37, 11), uniform([37]), FACTORED] }],
  AdafactorSquares: [
    { attrs: {}, inputs: [normal(37, 11), uniform([11]), FACTORED, uniform([37])] },
    { attrs: {}, inputs: [normal(23), uniform([23]), FACTORED] },
  ],
  AdafactorStep: [
    { attrs: {}, inputs: [normal(5, 11), normal(5, 11), uniform([11]), FACTORED, f32([1], [51]), f32([1], [99]), uniform([5])] },
    { attrs: {}, inputs: [normal(23), normal(23), uniform([23]), FACTORED, f32([1], [1e-9]), f32([1], [9])] },
  ],
  // It has no ONNX function.
  AdaptedRows: [],
  AdamW: [
    {
      attrs: {},
      inputs: [
        normal(3, 37),
        normal(3, 37),
        normal(3, 37),
        uniform([3, 37]),
        f32([8], [0.01, 0.9, 0.999, 1e-8, 0.1, 0.271, 0.003, 0.7]),
      ],
    },
  ],
  AdamW8bit: [{ attrs: {}, inputs: codedState() }],
  Add: [{ attrs: {}, inputs: [normal(7, 13), normal(7, 13)] }],
  Affine: [{ attrs: { alpha: 1.7, beta: -0.3 }, inputs: [random(generator(12), [7, 13])], bound: 0 }],
  CachedAttention: [
    {
      attrs: attention,
      inputs: [
        normal(3, 60),
        normal(3, 20),
        normal(3, 20),
        normal(2, 9, 10),
        normal(2, 9, 10),
        { dtype: "i32", shape: [3], data: Int32Array.of(0, 2, 5) },
        { dtype: "i32", shape: [1], data: Int32Array.of(4) },
      ],
    },
    {
      attrs: attention,
      inputs: [
        normal(3, 60),
        normal(3, 20),
        normal(3, 20),
        normal(6, 9, 10),
        normal(6, 9, 10),
        { dtype: "i32", shape: [3], data: Int32Array.of(0, 2, 5) },
        { dtype: "i32", shape: [3], data: Int32Array.of(4, 2, 8) },
      ],
    },
    { attrs: { ...attention, softcap: 1.5 }, inputs: cappedCache() },
  ],
  CachedConv: [
    { attrs: {}, inputs: cachedConv(1, true) },
    { attrs: {}, inputs: cachedConv(3, false) },
  ],
  Cast: [
    { attrs: { to: CAST_TO.f32 }, inputs: [half(normal(5, 9), "bf16")], bound: 0 },
    { attrs: { to: CAST_TO.f32 }, inputs: [half(normal(5, 9), "f16")], bound: 0 },
  ],
  Attention: [
    { attrs: attention, inputs: [normal(13, 60), normal(13, 20), normal(13, 20), STARTS] },
    { attrs: short, inputs: [normal(LONG, 4), normal(LONG, 2), normal(LONG, 2), LONG_STARTS] },
    { attrs: { ...attention, softcap: 1.5 }, inputs: cappedAttention().slice(0, 4) },
    { attrs: attention, inputs: [...cappedAttention().slice(0, 4), ENDS] },
    { attrs: short, inputs: [...longAttention().slice(0, 4), LONG_ENDS] },
    { attrs: attention, inputs: [...cappedAttention().slice(0, 4), null, normal(6)] },
    { attrs: short, inputs: [...longAttention().slice(0, 4), LONG_ENDS, normal(2)] },
  ],
  AttentionSinksGrad: [{ attrs: { heads: 6 }, inputs: [normal(13, 60), normal(13, 60), lse, normal(6)] }],
  AttentionGrad: [
    {
      attrs: attention,
      inputs: [normal(13, 60), normal(13, 20), normal(13, 20), STARTS, normal(13, 60), lse, normal(13, 60)],
    },
    {
      attrs: short,
      inputs: [
        normal(LONG, 4),
        normal(LONG, 2),
        normal(LONG, 2),
        LONG_STARTS,
        normal(LONG, 4),
        uniform([LONG, 2], 6),
        normal(LONG, 4),
      ],
    },
    { attrs: { ...attention, softcap: 1.5 }, inputs: cappedAttention() },
    { attrs: { ...attention, softcap: 1.5 }, inputs: [...cappedAttention(), ENDS] },
    { attrs: short, inputs: [...longAttention(), LONG_ENDS] },
  ],
  CausalConv: [
    { attrs: {}, inputs: [...filtered(13, 7, 3).slice(0, 2), STARTS, filtered(13, 7, 3)[2]] },
    { attrs: {}, inputs: [...filtered(13, 7, 4).slice(0, 2), STARTS, null] },
  ],
  CausalConvGrad: [{ attrs: {}, inputs: [random(generator(29), [13, 7]), ...filtered(13, 7, 3).slice(0, 2), STARTS] }],
  ColumnDot: [
    { attrs: {}, inputs: columnDot() },
    { attrs: {}, inputs: columnDot().with(2, null) },
  ],
  ColumnSum: [
    { attrs: {}, inputs: [normal(129, 7)] },
    { attrs: {}, inputs: [normal(5, 19), normal(19)] },
  ],
  Dequantize: QUANTISED_FORMATS.map((format) => {
    const { codes, scales } = quantised(random(generator(18), [5, 192]), format);
    return { attrs: {}, inputs: [codes, scales], bound: 0 };
  }),
  EmbeddingGrad: [
    { attrs: { vocab: 11 }, inputs: [below(17, 11), normal(17, 5)] },
    { attrs: { vocab: 11 }, inputs: [below(17, 11), normal(17, 5), normal(11, 5)] },
  ],
  CachedGatedDelta: ([1, 5] as const).map((texts) => ({
    attrs: { keyHeads: 1, keyDim: 5 },
    inputs: cachedDelta(texts),
    bound: 2e-6,
  })),
  ExpertMlp: [
    { attrs: SWIGLU_EXPERTS, inputs: mixture("f32") },
    { attrs: SWIGLU_EXPERTS, inputs: mixture("bf16") },
    { attrs: { ...SWIGLU_EXPERTS, activation: "geglu" }, inputs: mixture("f32") },
    { attrs: CLAMPED_EXPERTS, inputs: [...mixture("f32"), normal(4, 10), normal(4, 6)] },
    { attrs: ADAPTED_EXPERTS, inputs: [...mixture("f32"), ...expertPairs()] },
    {
      attrs: { ...ADAPTED_EXPERTS, ...CLAMPED_EXPERTS },
      inputs: [...mixture("f32"), normal(4, 10), normal(4, 6), ...expertPairs()],
    },
  ],
  ExpertMlpGrad: [
    { attrs: SWIGLU_EXPERTS, inputs: [random(generator(42), [9, 6]), ...mixture("f32")], bound: 2e-6 },
    { attrs: SWIGLU_EXPERTS, inputs: [random(generator(42), [9, 6]), ...mixture("bf16")], bound: 2e-6 },
    {
      attrs: { ...SWIGLU_EXPERTS, activation: "geglu" },
      inputs: [random(generator(42), [9, 6]), ...mixture("f32")],
      bound: 2e-6,
    },
    {
      attrs: CLAMPED_EXPERTS,
      inputs: [random(generator(42), [9, 6]), ...mixture("f32"), normal(4, 10), normal(4, 6)],
      bound: 2e-6,
    },
    { attrs: ADAPTED_EXPERTS, inputs: [random(generator(42), [9, 6]), ...mixture("f32"), ...expertPairs()], bound: 2e-6 },
    {
      attrs: { ...ADAPTED_EXPERTS, ...CLAMPED_EXPERTS },
      inputs: [random(generator(42), [9, 6]), ...mixture("f32"), normal(4, 10), normal(4, 6), ...expertPairs()],
      bound: 5e-6,
    },
  ],
  GatedDelta: [{ attrs: { keyHeads: 1, keyDim: 5 }, inputs: delta(), bound: 2e-6 }],
  GatedDeltaGrad: [
    {
      attrs: { keyHeads: 1, keyDim: 5 },
      inputs: [random(generator(31), [70, 6]), ...delta(), random(generator(32), [2, 2, 5, 3])],
      bound: 5e-5,
    },
  ],
  Gather: [
    { attrs: {}, inputs: [normal(11, 7), below(13, 11)], bound: 0 },
    { attrs: {}, inputs: [half(normal(11, 7), "bf16"), below(13, 11)], bound: 0 },
  ],
  Gelu: [
    { attrs: { approximate: "none" }, inputs: [normal(7, 13)] },
    { attrs: { approximate: "tanh" }, inputs: [normal(7, 13)] },
  ],
  GeluGrad: [
    { attrs: { approximate: "none" }, inputs: [normal(7, 13), normal(7, 13)] },
    { attrs: { approximate: "tanh" }, inputs: [normal(7, 13), normal(7, 13)] },
  ],
  Gemm: [
    { attrs: { alpha: 1, beta: 1, transA: 0, transB: 1 }, inputs: [normal(7, 13), normal(19, 13)] },
    { attrs: { alpha: 0.5, beta: 1, transA: 1, transB: 0 }, inputs: [normal(13, 7), normal(13, 19), normal(7, 19)] },
    { attrs: { alpha: 1, beta: 1, transA: 0, transB: 0 }, inputs: [normal(7, 13), normal(13, 19), normal(19)] },
    { attrs: { alpha: 2, beta: 1, transA: 0, transB: 1 }, inputs: [normal(7, 13), half(normal(19, 13), "bf16")] },
    { attrs: { alpha: 2, beta: 1, transA: 0, transB: 1 }, inputs: [normal(7, 13), half(normal(19, 13), "f16")] },
  ],
  Identity: [{ attrs: {}, inputs: [normal(5, 3)], bound: 0 }],
  JoinColumns: [
    { attrs: { groups: 1, sizes: [4, 2, 1] }, inputs: [normal(6, 4), normal(6, 2), normal(6, 1)], bound: 0 },
    { attrs: { groups: 3, sizes: [4, 2] }, inputs: [normal(6, 12), null], bound: 0 },
  ],
  LayerNormalization: [
    { attrs: { axis: -1, epsilon: 1e-12 }, inputs: layerNorm(5, 67) },
    { attrs: { axis: -1, epsilon: 1e-5 }, inputs: layerNorm(5, 67).slice(0, 2) },
  ],
  LayerNormGrad: [
    { attrs: { axis: -1, epsilon: 1e-6 }, inputs: layerNormGrad(70, 19).slice(0, 3) },
    { attrs: { axis: -1, epsilon: 1e-6 }, inputs: layerNormGrad(5, 67) },
  ],
  LinearCrossEntropy: [
    { attrs: {}, inputs: [normal(13, 7), normal(17, 7), LABELS, f32([1], [0.3])] },
    { attrs: {}, inputs: [normal(13, 7), half(normal(17, 7), "bf16"), LABELS, f32([1], [0.3])] },
    { attrs: {}, inputs: CHUNKED },
    { attrs: { softcap: 2 }, inputs: cappedHead() },
    { attrs: {}, inputs: CHUNKED.with(3, chunkedScales()) },
    { attrs: { alpha: 0.7 }, inputs: adaptedHead(4) },
    { attrs: { alpha: -2, softcap: 3 }, inputs: adaptedHead(4) },
  ],
  LinearCrossEntropyGrad: [
    { attrs: {}, inputs: [normal(13, 7), normal(17, 7), LABELS, f32([1], [0.3]), f32([1], [1.5])] },
    { attrs: {}, inputs: [normal(13, 7), normal(17, 7), LABELS, f32([1], [0.3]), f32([1], [1]), normal(17, 7)] },
    { attrs: {}, inputs: [...CHUNKED, f32([1], [1.5]), normal(20011, 3)] },
    { attrs: { softcap: 2 }, inputs: [...cappedHead(), f32([1], [1.5])] },
    { attrs: {}, inputs: [...CHUNKED.with(3, chunkedScales()), f32([1], [1.5]), random(generator(18), [20011, 3])] },
    { attrs: { alpha: 0.7 }, inputs: adaptedHead(6) },
    { attrs: { alpha: -2, softcap: 3 }, inputs: adaptedHead(6).with(5, random(generator(22), [17, 7])) },
    { attrs: { alpha: 0.3 }, inputs: adaptedChunks() },
  ],
  Lion: [
    { attrs: {}, inputs: [normal(3, 37), normal(3, 37), normal(3, 37), f32([5], [0.01, 0.9, 0.99, 0.1, 0.7])] },
    {
      attrs: {},
      inputs: [f32([4], [1, 2, 3, 4]), f32([4], [0, 0, 1, -1]), f32([4], [0, 1, 0, 0]), f32([5], [0.01, 0.9, 0.99, 0, 1])],
    },
  ],
  Mul: [{ attrs: {}, inputs: [normal(7, 13), normal(7, 13)] }],
  MuonMomentum: [{ attrs: {}, inputs: [normal(3, 37), normal(3, 37), f32([5], [0.01, 0.95, 0.1, 0.7, 0.95])] }],
  MuonStep: [{ attrs: { scale: 485.3 }, inputs: [normal(3, 37), normal(3, 37), f32([5], [0.01, 0.95, 0.1, 0.7, 0.95])] }],
  PhiloxDropout: [
    { attrs: { probability: 0.1, site: 3 }, inputs: [normal(7, 13), i32([2], [1234567, -5]), i32([1], [9])] },
    { attrs: { probability: 0.5, site: 0 }, inputs: [normal(3, 1), i32([2], [-1, 0]), i32([1], [0])] },
  ],
  Relu: [{ attrs: {}, inputs: [random(generator(27), [7, 13])], bound: 0 }],
  ReluGrad: [{ attrs: {}, inputs: [random(generator(27), [7, 13]), random(generator(28), [7, 13])], bound: 0 }],
  Reshape: [{ attrs: { shape: [3, 2, 5] }, inputs: [normal(6, 5)], bound: 0 }],
  RMSNormalization: [{ attrs: { axis: -1, epsilon: 1e-5 }, inputs: [normal(5, 67), normal(67)] }],
  RMSNormGrad: [
    { attrs: { axis: -1, epsilon: 1e-6 }, inputs: [normal(70, 19), normal(70, 19), normal(19)] },
    { attrs: { axis: -1, epsilon: 1e-6 }, inputs: [normal(5, 67), normal(5, 67), normal(67), normal(5, 67)] },
  ],
  RollingConv: ([1, 3] as const).map((texts) => ({ attrs: {}, inputs: rollingConv(texts) })),
  Rope: [
    { attrs: { heads: 3, rotaryDim: 10, inverse: 0 }, inputs: [normal(7, 30), uniform([7, 5], -0.5), uniform([7, 5], -0.5)] },
    {
      attrs: { heads: 3, rotaryDim: 6, inverse: 0, neighbours: 1 },
      inputs: [normal(7, 30), uniform([7, 3], -0.5), uniform([7, 3], -0.5)],
    },
    { attrs: { heads: 3, rotaryDim: 6, inverse: 1 }, inputs: [normal(7, 30), uniform([7, 3], -0.5), uniform([7, 3], -0.5)] },
  ],
  Sgd: [{ attrs: {}, inputs: [normal(3, 37), normal(3, 37), normal(3, 37), f32([6], [0.01, 0.9, 0.1, 0.7, 1, 0.9])] }],
  RowNorm: [{ attrs: { alpha: 0.5 }, inputs: rowNorm() }],
  ScaleRows: [{ attrs: {}, inputs: [normal(19, 7), normal(19, 1)] }],
  RowDot: [{ attrs: {}, inputs: [normal(19, 7), random(generator(31), [19, 7])] }],
  ScaleColumns: [
    { attrs: {}, inputs: scaleColumns(null) },
    { attrs: {}, inputs: scaleColumns([7]) },
    { attrs: {}, inputs: scaleColumns([13, 7]) },
    { attrs: {}, inputs: scaleColumns(null).slice(0, 2) },
  ],
  Silu: [{ attrs: {}, inputs: [normal(7, 13)] }],
  SiluGrad: [{ attrs: {}, inputs: [normal(7, 13), normal(7, 13)] }],
  SoftCap: [{ attrs: { softcap: 1.5 }, inputs: [random(generator(16), [7, 13])] }],
  SplitColumns: [
    { attrs: { groups: 1, sizes: [4, 2, 1] }, inputs: [normal(6, 7)], bound: 0 },
    { attrs: { groups: 3, sizes: [4, 2] }, inputs: [normal(6, 18)], bound: 0 },
  ],
  SumSquares: [{ attrs: {}, inputs: [normal(67, 71)] }],
  RouteTokens: ([0, 1] as const).flatMap((normalise) => [
    { attrs: { k: 2, normalise, score: "softmax", epsilon: 0 }, inputs: [routed().logits] },
    { attrs: { k: 2, normalise, score: "sigmoid", epsilon: 1e-6 }, inputs: [routed().logits, f32([4], [0.1, 0.3, 2, -0.2])] },
  ]),
  RouteTokensGrad: ([0, 1] as const).flatMap((normalise) =>
    (["softmax", "sigmoid"] as const).map((score) => ({
      attrs: { k: 2, normalise, score, epsilon: 0 },
      inputs: [routed().logits, routed(normalise).weights, routed().experts, random(generator(44), [9, 2])],
    })),
  ),
  SwiGLU: [{ attrs: {}, inputs: [normal(7, 13), normal(7, 13)] }],
  SwiGLUGrad: [{ attrs: {}, inputs: [normal(7, 13), normal(7, 13), normal(7, 13)] }],
  UnitNorm: [
    { attrs: { epsilon: 1e-7 }, inputs: [normal(3, 37), f32([1], [111])] },
    { attrs: { epsilon: 1e-7 }, inputs: [f32([3], [0, 1e-9, -1e-9]), f32([1], [2e-18])] },
  ],
  Tanh: [{ attrs: {}, inputs: [random(generator(29), [7, 13])] }],
  TokenCrossEntropy: [
    { attrs: {}, inputs: [normal(13, 7), normal(17, 7), LABELS] },
    { attrs: {}, inputs: [normal(13, 7), half(normal(17, 7), "bf16"), LABELS] },
    { attrs: { softcap: 2 }, inputs: cappedHead().slice(0, 3) },
    { attrs: {}, inputs: CHUNKED.slice(0, 3) },
    { attrs: { alpha: 0.7 }, inputs: adaptedHead(4).with(3, null) },
  ],
};
