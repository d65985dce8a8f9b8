import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { differentiate } from "../../src/autodiff/differentiate.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Attention, AttentionGrad } from "../../src/ops/attention.ts";
import {
  checkForward,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  i32,
  random,
  relativeError,
  runGraph,
  runWasm,
  toFloat64,
} from "../support/ops.ts";
import { runOrt } from "../support/ort.ts";

setDefaultTimeout(120_000);

interface Case {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  readonly starts: readonly number[];
  /** Absent: no token sees what is behind it. */
  readonly ends?: readonly number[];
  /** Standard deviation of the queries. */
  readonly deviation?: number;
  readonly softcap?: number;
  /** True: each head has a sink. */
  readonly hasSinks?: boolean;
}

interface Grads {
  readonly dQ: Float64Array;
  readonly dK: Float64Array;
  readonly dV: Float64Array;
}

/** The definition, row by row, in float64. */
function attend(
  { tokens, heads, kvHeads, dim, starts, ends, softcap }: Case,
  scale: number,
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
  sinks?: Float64Array,
) {
  const out = new Float64Array(q.length);
  const lse = new Float64Array(tokens * heads);
  const capped = (score: number) => (softcap === undefined ? score : softcap * Math.tanh(score / softcap));
  const slope = (score: number) => (softcap === undefined ? 1 : 1 / Math.cosh(score / softcap) ** 2);
  /** `visit` gets the probability of each key, and the derivative of the capped score. */
  const rows = (t: number, h: number, visit: (key: number, p: number, slope: number) => void): void => {
    const row = (t * heads + h) * dim;
    const kvHead = Math.floor((h * kvHeads) / heads);
    const keyOf = (j: number): number => (j * kvHeads + kvHead) * dim;
    const scores: number[] = [];
    for (let j = starts[t]!; j < (ends?.[t] ?? t + 1); j++) {
      let score = 0;
      for (let i = 0; i < dim; i++) score += q[row + i]! * k[keyOf(j) + i]!;
      scores.push(score * scale);
    }
    const greatest = capped(Math.max(...scores));
    const sink = sinks === undefined ? 0 : Math.exp(sinks[h]! - greatest);
    const sum = scores.reduce((total, score) => total + Math.exp(capped(score) - greatest), sink);
    lse[t * heads + h] = greatest + Math.log(sum);
    scores.forEach((score, n) => visit(keyOf(starts[t]! + n), Math.exp(capped(score) - greatest) / sum, slope(score)));
  };
  const eachRow = (visit: (t: number, h: number, row: number) => void): void => {
    for (let t = 0; t < tokens; t++) for (let h = 0; h < heads; h++) visit(t, h, (t * heads + h) * dim);
  };
  eachRow((t, h, row) =>
    rows(t, h, (key, p) => {
      for (let i = 0; i < dim; i++) out[row + i]! += p * v[key + i]!;
    }),
  );
  const gradient = (dOut: Float64Array): Grads => {
    const [dQ, dK, dV] = [q, k, v].map((x) => new Float64Array(x.length)) as [Float64Array, Float64Array, Float64Array];
    eachRow((t, h, row) => {
      let delta = 0;
      for (let i = 0; i < dim; i++) delta += dOut[row + i]! * out[row + i]!;
      rows(t, h, (key, p, slope) => {
        let dP = 0;
        for (let i = 0; i < dim; i++) dP += dOut[row + i]! * v[key + i]!;
        const dS = p * (dP - delta) * slope * scale;
        for (let i = 0; i < dim; i++) {
          dQ[row + i]! += dS * k[key + i]!;
          dK[key + i]! += dS * q[row + i]!;
          dV[key + i]! += p * dOut[row + i]!;
        }
      });
    });
    return { dQ, dK, dV };
  };
  return { out, lse, gradient };
}

/** Examples of these lengths one after the other; a length of 1 is also what padding looks like. */
function packed(...lengths: readonly number[]): number[] {
  let start = 0;
  return lengths.flatMap((length) => {
    const example = Array.from({ length }, () => start);
    start += length;
    return example;
  });
}

const whole = (tokens: number): number[] => packed(tokens);
const padding = (count: number): number[] => Array.from({ length: count }, () => 1);
const windowed = (tokens: number, window: number): number[] =>
  Array.from({ length: tokens }, (_, t) => Math.max(0, t - window + 1));

/** The tokens that see all of their example. */
function both(...lengths: readonly number[]): Pick<Case, "tokens" | "starts" | "ends"> {
  const starts = packed(...lengths);
  const ends = starts.map((start) => start + starts.filter((other) => other === start).length);
  return { tokens: starts.length, starts, ends };
}

/** The same, no farther than `reach` tokens to both sides. */
function local(reach: number, ...lengths: readonly number[]): Pick<Case, "tokens" | "starts" | "ends"> {
  const { tokens, starts, ends } = both(...lengths);
  return {
    tokens,
    starts: starts.map((start, t) => Math.max(start, t - reach)),
    ends: ends!.map((end, t) => Math.min(end, t + reach + 1)),
  };
}

function tensors({ tokens, heads, kvHeads, dim, starts, ends, deviation = 1, hasSinks = false }: Case, seed = 1) {
  const rng = generator(seed);
  const q = random(rng, [tokens, heads * dim], deviation);
  const k = random(rng, [tokens, kvHeads * dim]);
  const v = random(rng, [tokens, kvHeads * dim], 1, 0.5);
  const dOut = random(rng, [tokens, heads * dim]);
  const sinks = hasSinks ? random(rng, [heads], 2) : null;
  return { q, k, v, starts: i32([tokens], starts), ends: ends === undefined ? [] : [i32([tokens], ends)], dOut, sinks };
}

const attrsOf = ({ heads, kvHeads, dim, softcap }: Case) => ({
  heads,
  kvHeads,
  scale: 1 / Math.sqrt(dim),
  ...(softcap !== undefined && { softcap }),
});

/** Forward and gradient against the definition; the gradient's inputs out and lse are exact to f32. */
async function check(sizes: Case, bound: number): Promise<void> {
  const attrs = attrsOf(sizes);
  const scale = Math.fround(attrs.scale);
  const { q, k, v, starts, ends, dOut, sinks } = tensors(sizes);
  const exact = attend(sizes, scale, toFloat64(q), toFloat64(k), toFloat64(v), sinks ? toFloat64(sinks) : undefined);
  const inputs = [q, k, v, starts];
  const more = sinks ? [ends[0] ?? null, sinks] : ends;
  await checkForward({ op: Attention, inputs: [...inputs, ...more], attrs, reference: () => [exact.out, exact.lse], bound });

  const residuals = [f32(q.shape, exact.out), f32([sizes.tokens, sizes.heads], exact.lse), dOut];
  const { dQ, dK, dV } = exact.gradient(toFloat64(dOut));
  const gradInputs = [...inputs, ...residuals, ...ends];
  const grads = await checkForward({
    op: AttentionGrad,
    inputs: gradInputs,
    attrs,
    reference: () => [dQ, dK, dV],
    bound: 2 * bound,
  });
  expectSameBits("3 threads", await runWasm(AttentionGrad, gradInputs, attrs, { threads: 3 }), grads);
}

const CASES: readonly Case[] = [
  { tokens: 1, heads: 1, kvHeads: 1, dim: 2, starts: whole(1) },
  { tokens: 2, heads: 2, kvHeads: 1, dim: 6, starts: whole(2) },
  { tokens: 7, heads: 3, kvHeads: 3, dim: 10, starts: packed(3, 4) },
  { tokens: 97, heads: 2, kvHeads: 2, dim: 64, starts: whole(97) },
  { tokens: 300, heads: 9, kvHeads: 3, dim: 64, starts: whole(300) },
  { tokens: 193, heads: 14, kvHeads: 2, dim: 32, starts: whole(193) },
  { tokens: 131, heads: 4, kvHeads: 2, dim: 80, starts: packed(40, 1, 60, 30) },
  { tokens: 150, heads: 3, kvHeads: 1, dim: 96, starts: [...packed(50, 70), ...Array.from({ length: 30 }, (_, i) => 120 + i)] },
  { tokens: 109, heads: 2, kvHeads: 1, dim: 128, starts: windowed(109, 20) },
  { tokens: 259, heads: 2, kvHeads: 2, dim: 18, starts: windowed(259, 100) },
  { tokens: 90, heads: 1, kvHeads: 1, dim: 256, starts: packed(45, ...padding(45)) },
  { tokens: 60, heads: 26, kvHeads: 1, dim: 14, starts: whole(60) },
  { tokens: 60, heads: 2, kvHeads: 1, dim: 512, starts: packed(10, 50) },
  { tokens: 7, heads: 3, kvHeads: 3, dim: 10, starts: packed(3, 4), softcap: 1 },
  { tokens: 259, heads: 4, kvHeads: 2, dim: 18, starts: windowed(259, 100), softcap: 50 },
  { tokens: 131, heads: 4, kvHeads: 2, dim: 80, starts: packed(40, 1, 60, 30), softcap: 0.7, deviation: 2 },
  { tokens: 90, heads: 2, kvHeads: 1, dim: 256, starts: packed(45, ...padding(45)), softcap: 3 },
  { ...both(1), heads: 1, kvHeads: 1, dim: 2 },
  { ...both(3, 4), heads: 3, kvHeads: 3, dim: 10 },
  { ...both(97), heads: 2, kvHeads: 2, dim: 64 },
  { ...both(300), heads: 3, kvHeads: 3, dim: 32 },
  { ...both(40, 1, 60, 30, 100), heads: 4, kvHeads: 2, dim: 80 },
  { ...both(70, ...padding(60)), heads: 2, kvHeads: 2, dim: 24 },
  { ...both(60), heads: 2, kvHeads: 1, dim: 512 },
  { ...local(20, 259), heads: 2, kvHeads: 2, dim: 18 },
  { ...local(64, 100, 1, 200), heads: 4, kvHeads: 2, dim: 12 },
  { ...local(7, 90, ...padding(45)), heads: 2, kvHeads: 1, dim: 256, softcap: 3 },
  { tokens: 7, heads: 3, kvHeads: 3, dim: 10, starts: packed(3, 4), hasSinks: true },
  { tokens: 259, heads: 4, kvHeads: 2, dim: 18, starts: windowed(259, 100), hasSinks: true, deviation: 3 },
  { ...local(20, 100, 1, 60), heads: 6, kvHeads: 2, dim: 32, hasSinks: true, softcap: 2 },
  // What is seen need not be seen by turns.
  {
    tokens: 200,
    heads: 2,
    kvHeads: 1,
    dim: 8,
    starts: whole(200),
    ends: Array.from({ length: 200 }, (_, t) => Math.max(t + 1, 150 - t)),
  },
];

describe("Attention and its gradient: relative error < 1e-6 and < 2e-6, the same bits with 1, 2 and 3 threads", () => {
  for (const sizes of CASES) {
    const { tokens, heads, kvHeads, dim, starts, ends, softcap, hasSinks = false } = sizes;
    const seen = `${new Set(starts).size} first keys${ends ? ` and ${new Set(ends).size} ends` : ""}`;
    const cap = softcap === undefined ? "" : `, capped at ${softcap}`;
    test(`${tokens} tokens, ${heads}/${kvHeads} heads of ${dim}, ${seen}${cap}${hasSinks ? ", with sinks" : ""}`, () =>
      check(sizes, 1e-6));
  }

  test("random packings", async () => {
    const rng = generator(5);
    for (let i = 0; i < 12; i++) {
      const lengths = Array.from({ length: 1 + Math.floor(rng() * 6) }, () => 1 + Math.floor(rng() * 70));
      const kvHeads = 1 + Math.floor(rng() * 3);
      const heads = kvHeads * [1, 2, 3, 7][Math.floor(rng() * 4)]!;
      const dim = 2 * (1 + Math.floor(rng() * 24));
      const { tokens, starts, ends } = i % 3 === 2 ? local(1 + Math.floor(rng() * 90), ...lengths) : both(...lengths);
      await check({ tokens, starts, ...(i % 3 > 0 && { ends }), heads, kvHeads, dim }, 1e-6);
    }
  });
});

describe.each<[string, Partial<Case>]>([
  ["", {}],
  ["with a soft cap", { softcap: 1.3 }],
  ["to both sides", both(5, 20, 1, 15)],
  ["with sinks", { hasSinks: true }],
  ["with sinks, to both sides, with a soft cap", { ...both(5, 20, 1, 15), hasSinks: true, softcap: 1.3 }],
  ["to both sides, locally, with a soft cap", { ...local(4, 5, 20, 1, 15), softcap: 1.3 }],
])("the gradient rule %s", (_, more) => {
  const sizes: Case = { tokens: 41, heads: 6, kvHeads: 2, dim: 12, starts: packed(5, 20, 1, 15), ...more };
  const { q, k, v, starts, ends, dOut, sinks } = tensors(sizes);

  /** Gradients by the rule, as a graph of the forward and the backward operator. */
  function gradientGraph() {
    const builder = new GraphBuilder("attention");
    for (const [name, { shape }] of Object.entries({ q, k, v })) builder.input(name, "boundary", { dtype: "f32", shape });
    const places = ["starts", "ends"].slice(0, 1 + ends.length);
    for (const name of places) builder.input(name, "batch", { dtype: "i32", shape: starts.shape });
    if (sinks) places.push(...(ends[0] ? [] : [""]), builder.input("sinks", "boundary", { dtype: "f32", shape: sinks.shape }));
    builder.output({ name: builder.value(Attention, ["q", "k", "v", ...places], attrsOf(sizes), "out"), role: "boundary" });
    return differentiate(builder.build(), { trainable: new Set(), inputGrad: true, carried: new Set() }).graph;
  }
  const graph = gradientGraph();
  const feeds = new Map(
    Object.entries({ q, k, v, starts, ...(ends[0] && { ends: ends[0] }), ...(sinks && { sinks }), "d.out": dOut }),
  );

  test("matches central differences of the definition in float64, relative error < 1e-6", async () => {
    const scale = Math.fround(attrsOf(sizes).scale);
    const inputs = [q, k, v, ...(sinks ? [sinks] : [])];
    const point = inputs.map(toFloat64) as [Float64Array, Float64Array, Float64Array, Float64Array?];
    const functional = (): number => {
      const { out } = attend(sizes, scale, ...point);
      return out.reduce((sum, value, i) => sum + value * dOut.data[i]!, 0);
    };
    const results = [...(await runGraph(graph, feeds, { threads: 2 })).values()];
    expect(results.length).toBe(inputs.length);
    const rng = generator(2);
    (point as Float64Array[]).forEach((x, input) => {
      const indices = Array.from({ length: 60 }, () => Math.floor(rng() * x.length));
      const differences = indices.map((i) => {
        const value = x[i]!;
        x[i] = value + 1e-5;
        const above = functional();
        x[i] = value - 1e-5;
        const below = functional();
        x[i] = value;
        return (above - below) / 2e-5;
      });
      const actual = indices.map((i) => results[input]![i]!);
      expectWithin(`gradient of input ${input}`, relativeError(actual, differences), 1e-6);
    });
  });

  test("agrees with its ONNX bodies on ONNX Runtime, relative error < 1e-6", async () => {
    const actual = await runGraph(graph, feeds);
    const expected = await runOrt(graph, new Map([...feeds].map(([name, { data }]) => [name, data])));
    for (const [name, values] of actual) {
      expectWithin(name, relativeError(values, expected.get(name) as Float32Array), 1e-6);
    }
  });
});

describe("extreme inputs", () => {
  test("scores of thousands neither overflow nor vanish: relative error < 1e-3, as large as one ulp of a score", async () => {
    await check({ tokens: 130, heads: 2, kvHeads: 1, dim: 16, starts: packed(100, 30), deviation: 1000 }, 1e-3);
  });

  test("scores far beyond a cap: relative error < 1e-6 of the results and the gradient of v; that of q and k is 0 to 1e-6", async () => {
    const sizes: Case = { tokens: 70, heads: 2, kvHeads: 1, dim: 16, starts: packed(30, 40), deviation: 1000, softcap: 2 };
    const attrs = attrsOf(sizes);
    const { q, k, v, starts, dOut } = tensors(sizes);
    // Exact scores, none near 0.
    for (const x of [q, k]) x.data.forEach((value, i) => (x.data[i] = i % 16 === 0 ? (value < 0 ? -64 : 64) : 0));
    const exact = attend(sizes, Math.fround(attrs.scale), toFloat64(q), toFloat64(k), toFloat64(v));
    const inputs = [q, k, v, starts];
    await checkForward({ op: Attention, inputs, attrs, reference: () => [exact.out, exact.lse], bound: 1e-6 });
    const residuals = [f32(q.shape, exact.out), f32([70, 2], exact.lse), dOut];
    const [dQ, dK, dV] = await runWasm(AttentionGrad, [...inputs, ...residuals], attrs);
    expectWithin("dV", relativeError(dV!, exact.gradient(toFloat64(dOut)).dV), 1e-6);
    for (const values of [dQ!, dK!]) expect(Math.max(...values.map(Math.abs))).toBeLessThan(1e-6);
  });

  test("a NaN in a query or key reaches all that depends on it and nothing else", async () => {
    const sizes: Case = { tokens: 60, heads: 2, kvHeads: 1, dim: 8, starts: packed(20, 40) };
    const { q, k, v, starts } = tensors(sizes);
    const run = (): Promise<unknown> => runWasm(Attention, [q, k, v, starts], attrsOf(sizes));
    const nanTokens = ([out]: readonly Float32Array[]): number[] =>
      Array.from({ length: 60 }, (_, t) => t).filter((t) => out!.subarray(t * 16, t * 16 + 16).some(Number.isNaN));
    k.data[30 * 8] = NaN;
    expect(nanTokens((await run()) as Float32Array[])).toEqual(Array.from({ length: 30 }, (_, i) => 30 + i));
    k.data[30 * 8] = 0;
    q.data[25 * 16] = NaN;
    expect(nanTokens((await run()) as Float32Array[])).toEqual([25]);
  });
});

describe("types that do not fit", () => {
  const type = (shape: readonly number[], dtype: "f32" | "i32" = "f32") => ({ dtype, shape });
  const infer = (q: number, k: number, v: number, heads: number, kvHeads: number) => () =>
    Attention.infer([type([5, q]), type([5, k]), type([5, v]), type([5], "i32")], { heads, kvHeads, scale: 1 });

  test("are refused with the operator's name and what came", () => {
    const places = [type([5], "i32"), type([4], "i32")];
    const withEnds = () =>
      Attention.infer([type([5, 4]), type([5, 4]), type([5, 4]), ...places], { heads: 1, kvHeads: 1, scale: 1 });
    expect(withEnds).toThrow(/Attention: expected starts and ends of type i32\[5\]; got i32\[5\], i32\[4\]/);
    expect(infer(16, 8, 8, 2, 1)).not.toThrow();
    expect(infer(16, 8, 8, 3, 1)).toThrow(/Attention: expected floats q \[T, 3 \* dim\].*got f32\[5, 16\]/);
    expect(infer(16, 8, 4, 2, 1)).toThrow(/Attention/);
    expect(infer(24, 16, 16, 3, 2)).toThrow(/2 a divisor of 3/);
    expect(infer(6, 3, 3, 2, 1)).toThrow(/an even head dimension of at most 512/);
    expect(infer(1028, 514, 514, 2, 1)).toThrow(/an even head dimension of at most 512/);
  });
});
