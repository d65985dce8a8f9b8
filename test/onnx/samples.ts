import { SWIGLU_EXPERTS } from "../../src/ops/expert-mlp.ts";
import type { Attrs, Shape } from "../../src/graph/types.ts";
import { CAST_TO } from "../../src/ops/cast.ts";
import { CODES_BLOCK, withMaps } from "../../src/ops/adamw-8bit.ts";
import type { OpName } from "../../src/ops/index.ts";
import { QUANTISED_FORMATS, quantised } from "../support/quantised.ts";
import { f32, generator, half, i32, random, type TestTensor } from "../support/ops.ts";

/** One call of an operator, small and of odd sizes. */
export interface Sample {
  readonly attrs: Attrs;
  /** `null` is an absent optional input. A half tensor reaches the operator through a `Cast`. */
  readonly inputs: readonly (TestTensor | null)[];
  /** Norm-wise relative difference of two executors in f32; 1e-6 unless said. */
  readonly bound?: number;
}

const rng = generator(11);
const normal = (...shape: number[]): TestTensor => random(rng, shape);
/** In [low, low + 1). */
const uniform = (shape: Shape, low = 0): TestTensor =>
  f32(
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => low + rng()),
  );
const below = (count: number, limit: number): TestTensor =>
  i32(
    [count],
    Array.from({ length: count }, () => Math.floor(rng() * limit)),
  );

/** Learning rate, weight decay, gradient scale, share of the new squares and relative step of Adafactor. */
const FACTORED = f32([5], [0.01, 0.1, 0.7, 0.3, 0.02]);

/** Three packed examples of 11 tokens in all, and two tokens of padding. */
const STARTS = i32([13], [0, 0, 0, 0, 4, 4, 4, 7, 7, 7, 7, 11, 12]);
/** Labels of 17 classes; -100 is no label. */
const LABELS = i32([13], [3, -100, 16, 0, 5, -100, -100, 8, 8, 11, 2, 15, -100]);
/** The same examples seen to both sides. */
const ENDS = i32([13], [4, 4, 4, 4, 7, 7, 7, 11, 11, 11, 11, 12, 13]);
/** Logits of 36 MB: more than one chunk. */
const CHUNKED = [normal(451, 3), normal(20011, 3), below(451, 20011), f32([1], [0.01])];
const attention = { heads: 6, kvHeads: 2, scale: 1 / Math.sqrt(10) };

/** Several tiles of queries. */
const LONG = 531;
const LONG_STARTS = i32(
  [LONG],
  Array.from({ length: LONG }, (_, t) => (t < 300 ? 0 : 300)),
);
const LONG_ENDS = i32(
  [LONG],
  Array.from({ length: LONG }, (_, t) => (t < 300 ? 300 : LONG)),
);
const LONG_LSE = f32([LONG, 2], Array<number>(LONG * 2).fill(6.5));
const short = { heads: 2, kvHeads: 1, scale: 0.7 };

/** log sum exp of 6 heads over 13 tokens that goes with any queries and keys: large enough that no power overflows. */
/** Updates of ranks 3 and 2. */
const ADAPTED_EXPERTS = { ...SWIGLU_EXPERTS, rank: 3, scale: 0.5, downRank: 2, downScale: 1.5 } as const;
const CLAMPED_EXPERTS = { activation: "clamped", alpha: 1.702, limit: 0.8, biases: 1 } as const;
const lse = uniform([13, 6], 3);

/** Two blocks of codes, the second one with moments of 0. */
function codedState(): TestTensor[] {
  const own = generator(19);
  const n = 2 * CODES_BLOCK;
  const codes = (): TestTensor => ({ dtype: "u8", shape: [n], data: Uint8Array.from({ length: n }, () => 256 * own()) });
  const hyper = withMaps([0.01, 0.9, 0.999, 1e-8, 0.1, 0.271, 0.003, 0.7]);
  const scales = [f32([2], [0.3, 0]), f32([2], [0.02, 0])];
  return [random(own, [n]), random(own, [n], 0.1), codes(), codes(), ...scales, f32([hyper.length], hyper)];
}

function cappedCache(): TestTensor[] {
  const own = generator(13);
  const rows = [60, 20, 20].map((width) => random(own, [3, width]));
  const caches = [0, 1].map(() => random(own, [2, 9, 10]));
  return [...rows, ...caches, i32([3], [0, 2, 5]), i32([1], [4])];
}

/** q, k, v, starts, and with them the results of attention, which a gradient takes. */
function cappedAttention(): TestTensor[] {
  const own = generator(14);
  const [q, out, dOut] = [0, 1, 2].map(() => random(own, [13, 60])) as [TestTensor, TestTensor, TestTensor];
  return [q, random(own, [13, 20]), random(own, [13, 20]), STARTS, out, lse, dOut];
}

/** q, k, v, starts, and with them the results of attention, which a gradient takes. */
function longAttention(): TestTensor[] {
  const own = generator(26);
  const [q, out, dOut] = [0, 1, 2].map(() => random(own, [LONG, 4])) as [TestTensor, TestTensor, TestTensor];
  return [q, random(own, [LONG, 2]), random(own, [LONG, 2]), LONG_STARTS, out, LONG_LSE, dOut];
}

function cappedHead(): TestTensor[] {
  const own = generator(15);
  return [random(own, [13, 24]), random(own, [17, 24]), LABELS, f32([1], [0.25])];
}

/** A scale for each token. */
function chunkedScales(): TestTensor {
  const own = generator(17);
  return f32(
    [451],
    Array.from({ length: 451 }, () => 0.02 * own()),
  );
}

/** Returns the samples of an adapter of rank 2, whose parts are the inputs `at` and `at + 1`. */
function adaptedHead(at: 4 | 6): (TestTensor | null)[] {
  const own = generator(21);
  const head = [random(own, [13, 7]), random(own, [17, 7]), LABELS, f32([1], [0.3])];
  return [...head, ...(at === 6 ? [f32([1], [1.5]), null] : []), random(own, [13, 2]), random(own, [17, 2])];
}

function adaptedChunks(): (TestTensor | null)[] {
  const own = generator(23);
  return [...CHUNKED, f32([1], [1.5]), null, random(own, [451, 2]), random(own, [20011, 2])];
}

function columnDot(): (TestTensor | null)[] {
  const own = generator(18);
  return [random(own, [13, 7]), random(own, [13, 7]), random(own, [7], 0.1, 1), random(own, [7])];
}

function rowNorm(): TestTensor[] {
  const own = generator(19);
  return [random(own, [13, 21]), random(own, [3, 21]), random(own, [13, 3])];
}

function scaleColumns(c: Shape | null): (TestTensor | null)[] {
  const own = generator(20);
  return [random(own, [13, 7]), random(own, [7]), random(own, [7], 0.1, 1), c && random(own, c)];
}

/** x, scale, bias. */
function layerNorm(rows: number, columns: number): TestTensor[] {
  const own = generator(24);
  return [random(own, [rows, columns], 1, 0.5), random(own, [columns]), random(own, [columns])];
}

/** dy, x, scale, sum. */
function layerNormGrad(rows: number, columns: number): TestTensor[] {
  const own = generator(25);
  const [dy, sum] = [0, 1].map(() => random(own, [rows, columns])) as [TestTensor, TestTensor];
  return [dy, ...layerNorm(rows, columns).slice(0, 2), sum];
}

/** x, filters of `width` taps, bias. */
function filtered(rows: number, channels: number, width: number): [TestTensor, TestTensor, TestTensor] {
  const own = generator(27);
  return [random(own, [rows, channels]), random(own, [channels, 1, width]), random(own, [channels])];
}

/** New rows of one text, or of as many as rows; of a row that sees itself alone, and of others. */
function cachedConv(texts: 1 | 3, bias: boolean): (TestTensor | null)[] {
  const own = generator(28);
  const [x, weight, b] = filtered(3, 7, 4);
  const places = texts === 1 ? [i32([3], [0, 5, 2]), i32([1], [4])] : [i32([3], [0, 3, 0]), i32([3], [4, 3, 0])];
  return [x, weight, random(own, [texts * 9, 7]), ...places, bias ? b : null];
}

/** qkv, a, b, aLog, dtBias, starts of two texts, the second of which begins within the first chunk; two heads of 3 values share keys of 5. */
function delta(): TestTensor[] {
  const own = generator(30);
  const starts = Array.from({ length: 70 }, (_, t) => (t < 41 ? 0 : 41));
  const gates = [0, 1].map(() => random(own, [70, 2]));
  return [random(own, [70, 16]), ...gates, random(own, [2]), random(own, [2]), i32([70], starts)];
}

/** What nine tokens choose of four experts, of which the third one is never chosen. */
function routed(normalise: 0 | 1 = 0) {
  const logits = random(generator(40), [9, 4]);
  for (let t = 0; t < 9; t++) logits.data[4 * t + 2] = -4;
  const rows = Array.from({ length: 9 }, (_, t) => Array.from(logits.data.slice(4 * t, 4 * t + 4)));
  const chosen = rows.map((row) => [0, 1, 2, 3].sort((a, b) => row[b]! - row[a]!).slice(0, 2));
  const weights = rows.flatMap((row, t) => {
    const powers = (normalise ? chosen[t]!.map((expert) => row[expert]!) : row).map(Math.exp);
    const sum = powers.reduce((a, b) => a + b);
    return chosen[t]!.map((expert) => Math.exp(row[expert]!) / sum);
  });
  return { logits, weights: f32([9, 2], weights), experts: i32([9, 2], chosen.flat()) };
}

/** Nine tokens with the choices above; experts of 5 hidden features. */
function mixture(dtype: "f32" | "bf16"): TestTensor[] {
  const own = generator(41);
  const { weights, experts } = routed();
  const matrices = [0, 1, 2, 3].flatMap(() =>
    (
      [
        [5, 6],
        [5, 6],
        [6, 5],
      ] as const
    ).map((shape) => {
      const matrix = random(own, shape);
      return dtype === "f32" ? matrix : half(matrix, dtype);
    }),
  );
  return [random(own, [9, 6]), weights, experts, ...matrices];
}

/** The low-rank updates of those experts. */
const expertPairs = (): TestTensor[] => [
  random(generator(45), [12, 6], 0.3),
  random(generator(46), [10, 12], 0.3),
  random(generator(47), [8, 5], 0.3),
  random(generator(48), [6, 8], 0.3),
];

/** 70 new rows of one text, three of which fill up the program, or one of each of five, of which one begins and one is not wanted. */
function cachedDelta(texts: 1 | 5): TestTensor[] {
  const own = generator(33);
  const rows = texts === 1 ? 70 : 5;
  const gates = [0, 1].map(() => random(own, [rows, 2]));
  const one = Array.from({ length: rows }, (_, i) => (i < 67 ? 0 : 9 + i));
  const places = texts === 1 ? [i32([70], one), i32([1], [9])] : [i32([5], [0, 0, 7, 0, 0]), i32([5], [4, 0, 7, 1, 90])];
  const state = random(own, [texts, 32]);
  return [random(own, [rows, 16]), ...gates, random(own, [2]), random(own, [2]), state, ...places];
}

/** Four new rows of one text, the last of which fills up the program, or one of each of three, of which one begins and one is not wanted. */
function rollingConv(texts: 1 | 3): TestTensor[] {
  const own = generator(34);
  const rows = texts === 1 ? 4 : 3;
  const places = texts === 1 ? [i32([4], [0, 0, 0, 4]), i32([1], [1])] : [i32([3], [0, 0, 6]), i32([3], [8, 0, 6])];
  return [random(own, [rows, 7]), random(own, [7, 1, 4]), random(own, [texts, 21]), ...places];
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
