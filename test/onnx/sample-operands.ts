import { SWIGLU_EXPERTS } from "../../src/ops/expert-mlp.ts";
import type { Shape } from "../../src/graph/types.ts";
import { CODES_BLOCK, withMaps } from "../../src/ops/adamw-8bit.ts";
import { f32, generator, half, i32, random, type TestTensor } from "../support/ops.ts";

/** What operators are tried on: small and of odd sizes, with seeded numbers. Numbers are drawn in the order of this file, then of the samples. */

const rng = generator(11);
export const normal = (...shape: number[]): TestTensor => random(rng, shape);
/** In [low, low + 1). */
export const uniform = (shape: Shape, low = 0): TestTensor =>
  f32(
    shape,
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => low + rng()),
  );
export const below = (count: number, limit: number): TestTensor =>
  i32(
    [count],
    Array.from({ length: count }, () => Math.floor(rng() * limit)),
  );

/** Learning rate, weight decay, gradient scale, share of the new squares and relative step of Adafactor. */
export const FACTORED = f32([5], [0.01, 0.1, 0.7, 0.3, 0.02]);

/** Three packed examples of 11 tokens in all, and two tokens of padding. */
export const STARTS = i32([13], [0, 0, 0, 0, 4, 4, 4, 7, 7, 7, 7, 11, 12]);
/** Labels of 17 classes; -100 is no label. */
export const LABELS = i32([13], [3, -100, 16, 0, 5, -100, -100, 8, 8, 11, 2, 15, -100]);
/** The same examples seen to both sides. */
export const ENDS = i32([13], [4, 4, 4, 4, 7, 7, 7, 11, 11, 11, 11, 12, 13]);
/** Logits of 36 MB: more than one chunk. */
export const CHUNKED = [normal(451, 3), normal(20011, 3), below(451, 20011), f32([1], [0.01])];
export const attention = { heads: 6, kvHeads: 2, scale: 1 / Math.sqrt(10) };

/** Several tiles of queries. */
export const LONG = 531;
export const LONG_STARTS = i32(
  [LONG],
  Array.from({ length: LONG }, (_, t) => (t < 300 ? 0 : 300)),
);
export const LONG_ENDS = i32(
  [LONG],
  Array.from({ length: LONG }, (_, t) => (t < 300 ? 300 : LONG)),
);
const LONG_LSE = f32([LONG, 2], Array<number>(LONG * 2).fill(6.5));
export const short = { heads: 2, kvHeads: 1, scale: 0.7 };

/** Updates of ranks 3 and 2. */
export const ADAPTED_EXPERTS = { ...SWIGLU_EXPERTS, rank: 3, scale: 0.5, downRank: 2, downScale: 1.5 } as const;
export const CLAMPED_EXPERTS = { activation: "clamped", alpha: 1.702, limit: 0.8, biases: 1 } as const;
/** log sum exp of 6 heads over 13 tokens that goes with any queries and keys: large enough that no power overflows. */
export const lse = uniform([13, 6], 3);

/** Two blocks of codes, the second one with moments of 0. */
export function codedState(): TestTensor[] {
  const own = generator(19);
  const n = 2 * CODES_BLOCK;
  const codes = (): TestTensor => ({ dtype: "u8", shape: [n], data: Uint8Array.from({ length: n }, () => 256 * own()) });
  const hyper = withMaps([0.01, 0.9, 0.999, 1e-8, 0.1, 0.271, 0.003, 0.7]);
  const scales = [f32([2], [0.3, 0]), f32([2], [0.02, 0])];
  return [random(own, [n]), random(own, [n], 0.1), codes(), codes(), ...scales, f32([hyper.length], hyper)];
}

export function cappedCache(): TestTensor[] {
  const own = generator(13);
  const rows = [60, 20, 20].map((width) => random(own, [3, width]));
  const caches = [0, 1].map(() => random(own, [2, 9, 10]));
  return [...rows, ...caches, i32([3], [0, 2, 5]), i32([1], [4])];
}

/** q, k, v, starts, and with them the results of attention, which a gradient takes. */
export function cappedAttention(): TestTensor[] {
  const own = generator(14);
  const [q, out, dOut] = [0, 1, 2].map(() => random(own, [13, 60])) as [TestTensor, TestTensor, TestTensor];
  return [q, random(own, [13, 20]), random(own, [13, 20]), STARTS, out, lse, dOut];
}

/** q, k, v, starts, and with them the results of attention, which a gradient takes. */
export function longAttention(): TestTensor[] {
  const own = generator(26);
  const [q, out, dOut] = [0, 1, 2].map(() => random(own, [LONG, 4])) as [TestTensor, TestTensor, TestTensor];
  return [q, random(own, [LONG, 2]), random(own, [LONG, 2]), LONG_STARTS, out, LONG_LSE, dOut];
}

export function cappedHead(): TestTensor[] {
  const own = generator(15);
  return [random(own, [13, 24]), random(own, [17, 24]), LABELS, f32([1], [0.25])];
}

/** A scale for each token. */
export function chunkedScales(): TestTensor {
  const own = generator(17);
  return f32(
    [451],
    Array.from({ length: 451 }, () => 0.02 * own()),
  );
}

/** Returns the samples of an adapter of rank 2, whose parts are the inputs `at` and `at + 1`. */
export function adaptedHead(at: 4 | 6): (TestTensor | null)[] {
  const own = generator(21);
  const head = [random(own, [13, 7]), random(own, [17, 7]), LABELS, f32([1], [0.3])];
  return [...head, ...(at === 6 ? [f32([1], [1.5]), null] : []), random(own, [13, 2]), random(own, [17, 2])];
}

export function adaptedChunks(): (TestTensor | null)[] {
  const own = generator(23);
  return [...CHUNKED, f32([1], [1.5]), null, random(own, [451, 2]), random(own, [20011, 2])];
}

export function columnDot(): (TestTensor | null)[] {
  const own = generator(18);
  return [random(own, [13, 7]), random(own, [13, 7]), random(own, [7], 0.1, 1), random(own, [7])];
}

export function rowNorm(): TestTensor[] {
  const own = generator(19);
  return [random(own, [13, 21]), random(own, [3, 21]), random(own, [13, 3])];
}

export function scaleColumns(c: Shape | null): (TestTensor | null)[] {
  const own = generator(20);
  return [random(own, [13, 7]), random(own, [7]), random(own, [7], 0.1, 1), c && random(own, c)];
}

/** x, scale, bias. */
export function layerNorm(rows: number, columns: number): TestTensor[] {
  const own = generator(24);
  return [random(own, [rows, columns], 1, 0.5), random(own, [columns]), random(own, [columns])];
}

/** dy, x, scale, sum. */
export function layerNormGrad(rows: number, columns: number): TestTensor[] {
  const own = generator(25);
  const [dy, sum] = [0, 1].map(() => random(own, [rows, columns])) as [TestTensor, TestTensor];
  return [dy, ...layerNorm(rows, columns).slice(0, 2), sum];
}

/** x, filters of `width` taps, bias. */
export function filtered(rows: number, channels: number, width: number): [TestTensor, TestTensor, TestTensor] {
  const own = generator(27);
  return [random(own, [rows, channels]), random(own, [channels, 1, width]), random(own, [channels])];
}

/** New rows of one text, or of as many as rows; of a row that sees itself alone, and of others. */
export function cachedConv(texts: 1 | 3, bias: boolean): (TestTensor | null)[] {
  const own = generator(28);
  const [x, weight, b] = filtered(3, 7, 4);
  const places = texts === 1 ? [i32([3], [0, 5, 2]), i32([1], [4])] : [i32([3], [0, 3, 0]), i32([3], [4, 3, 0])];
  return [x, weight, random(own, [texts * 9, 7]), ...places, bias ? b : null];
}

/** qkv, a, b, aLog, dtBias, starts of two texts, the second of which begins within the first chunk; two heads of 3 values share keys of 5. */
export function delta(): TestTensor[] {
  const own = generator(30);
  const starts = Array.from({ length: 70 }, (_, t) => (t < 41 ? 0 : 41));
  const gates = [0, 1].map(() => random(own, [70, 2]));
  return [random(own, [70, 16]), ...gates, random(own, [2]), random(own, [2]), i32([70], starts)];
}

/** What nine tokens choose of four experts, of which the third one is never chosen. */
export function routed(normalise: 0 | 1 = 0) {
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
export function mixture(dtype: "f32" | "bf16"): TestTensor[] {
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
export const expertPairs = (): TestTensor[] => [
  random(generator(45), [12, 6], 0.3),
  random(generator(46), [10, 12], 0.3),
  random(generator(47), [8, 5], 0.3),
  random(generator(48), [6, 8], 0.3),
];

/** 70 new rows of one text, three of which fill up the program, or one of each of five, of which one begins and one is not wanted. */
export function cachedDelta(texts: 1 | 5): TestTensor[] {
  const own = generator(33);
  const rows = texts === 1 ? 70 : 5;
  const gates = [0, 1].map(() => random(own, [rows, 2]));
  const one = Array.from({ length: rows }, (_, i) => (i < 67 ? 0 : 9 + i));
  const places = texts === 1 ? [i32([70], one), i32([1], [9])] : [i32([5], [0, 0, 7, 0, 0]), i32([5], [4, 0, 7, 1, 90])];
  const state = random(own, [texts, 32]);
  return [random(own, [rows, 16]), ...gates, random(own, [2]), random(own, [2]), state, ...places];
}

/** Four new rows of one text, the last of which fills up the program, or one of each of three, of which one begins and one is not wanted. */
export function rollingConv(texts: 1 | 3): TestTensor[] {
  const own = generator(34);
  const rows = texts === 1 ? 4 : 3;
  const places = texts === 1 ? [i32([4], [0, 0, 0, 4]), i32([1], [1])] : [i32([3], [0, 0, 6]), i32([3], [8, 0, 6])];
  return [random(own, [rows, 7]), random(own, [7, 1, 4]), random(own, [texts, 21]), ...places];
}
