import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Attention } from "../../src/ops/attention.ts";
import { CachedAttention } from "../../src/ops/cached-attention.ts";
import { checkForward, expectSameBits, f32, generator, i32, random, runWasm, type TestTensor } from "../support/ops.ts";
import { expectParity } from "../support/ort.ts";

setDefaultTimeout(120_000);

interface Case {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  readonly size: number;
  /** The position of the first token, or of each: then each has a text of its own. */
  readonly position: number | readonly number[];
  /** How far back a token sees. */
  readonly window?: number;
  readonly softcap?: number;
  /** True: each head has a sink. */
  readonly hasSinks?: boolean;
}

const CASES: readonly Case[] = [
  { tokens: 1, heads: 1, kvHeads: 1, dim: 2, size: 1, position: 0 },
  { tokens: 1, heads: 9, kvHeads: 3, dim: 64, size: 300, position: 299 },
  { tokens: 1, heads: 4, kvHeads: 2, dim: 18, size: 100, position: 41, window: 20 },
  { tokens: 2, heads: 6, kvHeads: 2, dim: 38, size: 64, position: 13 },
  { tokens: 4, heads: 2, kvHeads: 1, dim: 80, size: 64, position: 3 },
  { tokens: 5, heads: 2, kvHeads: 2, dim: 6, size: 40, position: 35 },
  { tokens: 16, heads: 9, kvHeads: 3, dim: 64, size: 200, position: 101 },
  { tokens: 70, heads: 4, kvHeads: 1, dim: 32, size: 400, position: 203, window: 64 },
  { tokens: 128, heads: 3, kvHeads: 3, dim: 16, size: 128, position: 0 },
  { tokens: 1, heads: 4, kvHeads: 2, dim: 18, size: 100, position: 41, window: 20, softcap: 0.8 },
  { tokens: 1, heads: 8, kvHeads: 4, dim: 64, size: 300, position: 299, softcap: 50 },
  { tokens: 70, heads: 4, kvHeads: 1, dim: 32, size: 400, position: 203, window: 64, softcap: 1.1 },
  { tokens: 2, heads: 6, kvHeads: 2, dim: 38, size: 64, position: 13, hasSinks: true },
  { tokens: 70, heads: 4, kvHeads: 1, dim: 32, size: 400, position: 203, window: 64, hasSinks: true },
  { tokens: 3, heads: 4, kvHeads: 2, dim: 18, size: 50, position: [41, 0, 7], window: 20, hasSinks: true },
  { tokens: 7, heads: 9, kvHeads: 3, dim: 64, size: 300, position: [299, 3, 150, 150, 0, 17, 298], softcap: 50 },
];

/** The text of each token and its place there. */
function placesOf({ tokens, position }: Case): { readonly text: number; readonly place: number }[] {
  return Array.from({ length: tokens }, (_, i) =>
    typeof position === "number" ? { text: 0, place: position + i } : { text: i, place: position[i]! },
  );
}

function tensors(sizes: Case) {
  const { tokens, heads, kvHeads, dim, size, position, window = size, hasSinks = false } = sizes;
  const rng = generator(7);
  const rows = (count: number, columns: number) => random(rng, [count, columns]);
  const positions = [position].flat();
  const cache = () => random(rng, [positions.length * kvHeads, size, dim]);
  const starts = placesOf(sizes).map(({ place }) => Math.max(0, place - window + 1));
  return [
    rows(tokens, heads * dim),
    rows(tokens, kvHeads * dim),
    rows(tokens, kvHeads * dim),
    cache(),
    cache(),
    i32([tokens], starts),
    i32([positions.length], positions),
    ...(hasSinks ? [random(rng, [heads], 2)] : []),
  ] as const;
}

/** The definition, in float64. */
function reference(sizes: Case, scale: number) {
  const { tokens, heads, kvHeads, dim, size, softcap = Infinity } = sizes;
  const capped = (score: number) => (softcap === Infinity ? score : softcap * Math.tanh(score / softcap));
  const places = placesOf(sizes);
  const row = (text: number, head: number, place: number) => ((text * kvHeads + head) * size + place) * dim;
  return ([q, k, v, keys, values, starts, , sinks]: Float64Array[]): Float64Array[] => {
    const [newKeys, newValues] = [keys!.slice(), values!.slice()];
    places.forEach(({ text, place }, t) => {
      for (let h = 0; h < kvHeads; h++) {
        const from = (t * kvHeads + h) * dim;
        newKeys.set(k!.subarray(from, from + dim), row(text, h, place));
        newValues.set(v!.subarray(from, from + dim), row(text, h, place));
      }
    });
    const out = new Float64Array(tokens * heads * dim);
    places.forEach(({ text, place }, t) => {
      for (let h = 0; h < heads; h++) {
        const to = (t * heads + h) * dim;
        const at = (j: number) => row(text, Math.floor((h * kvHeads) / heads), j);
        const scores: number[] = [];
        for (let j = starts![t]!; j <= place; j++) {
          let score = 0;
          for (let i = 0; i < dim; i++) score += q![to + i]! * newKeys[at(j) + i]!;
          scores.push(capped(score * scale));
        }
        const greatest = Math.max(...scores);
        const powers = scores.map((score) => Math.exp(score - greatest));
        const sum = powers.reduce((a, b) => a + b, sinks ? Math.exp(sinks[h]! - greatest) : 0);
        powers.forEach((p, n) => {
          for (let i = 0; i < dim; i++) out[to + i]! += (p / sum) * newValues[at(starts![t]! + n) + i]!;
        });
      }
    });
    return [out, newKeys, newValues];
  };
}

const attrsOf = ({ heads, kvHeads, dim, softcap }: Case) => ({
  heads,
  kvHeads,
  scale: 1 / Math.sqrt(dim),
  ...(softcap !== undefined && { softcap }),
});

describe("CachedAttention: relative error < 1e-6, the same bits with 1 and 2 threads, in place or not", () => {
  for (const sizes of CASES) {
    const { tokens, heads, kvHeads, dim, size, position, softcap, hasSinks = false } = sizes;
    const cap = softcap === undefined ? "" : `, capped at ${softcap}`;
    test(`${tokens} tokens at ${[position].flat().join(" ")} of ${size}, ${heads}/${kvHeads} heads of ${dim}${cap}${hasSinks ? ", with sinks" : ""}`, async () => {
      const attrs = attrsOf(sizes);
      const exact = reference(sizes, Math.fround(attrs.scale));
      await checkForward({ op: CachedAttention, inputs: tensors(sizes), attrs, reference: exact, bound: 1e-6 });
    });
  }

  test("texts side by side give the bits of each alone", async () => {
    const sizes = CASES.at(-1)!;
    const { tokens, kvHeads, size, dim } = sizes;
    const [q, k, v, keys, values, starts, positions] = tensors(sizes);
    const together = await runWasm(CachedAttention, [q, k, v, keys, values, starts, positions], attrsOf(sizes));
    const part = ({ data }: TestTensor, i: number) => {
      const length = data.length / tokens;
      return data.slice(i * length, (i + 1) * length);
    };
    for (let i = 0; i < tokens; i++) {
      const rows = [q, k, v].map((x) => f32([1, x.data.length / tokens], part(x, i)));
      const caches = [keys, values].map((x) => f32([kvHeads, size, dim], part(x, i)));
      const places = [starts, positions].map((x) => i32([1], part(x, i)));
      const alone = await runWasm(CachedAttention, [...rows, ...caches, ...places], attrsOf(sizes));
      const same = together.map((data) => part({ dtype: "f32", shape: [], data }, i));
      expectSameBits(`text ${i}`, alone, same);
    }
  });

  test("agrees with its ONNX body on ONNX Runtime, relative error < 1e-6", async () => {
    for (const sizes of [...CASES.slice(2, 7), ...CASES.slice(-5)]) {
      const inputs = tensors(sizes);
      const names = ["q", "k", "v", "keys", "values", "starts", "position", "sinks"].slice(0, inputs.length);
      const builder = new GraphBuilder("cached");
      inputs.forEach(({ dtype, shape }, i) => builder.input(names[i]!, i === 3 || i === 4 ? "cache" : "batch", { dtype, shape }));
      const [out, keys, values] = builder.node(CachedAttention, names, attrsOf(sizes), "out");
      builder.output({ name: out!, role: "boundary" });
      builder.output({ name: keys!, role: "state", updates: "keys" });
      builder.output({ name: values!, role: "state", updates: "values" });
      await expectParity(builder.build(), new Map(inputs.map((input, i) => [names[i]!, input])), 1e-6, [false]);
    }
  });

  test.each([
    [undefined, false],
    [0.9, false],
    [undefined, true],
  ])("chunks give the bits of one pass over the whole sequence, soft cap %p, sinks %p", async (softcap, hasSinks) => {
    const [heads, kvHeads, dim, size] = [6, 2, 32, 120];
    const rng = generator(3);
    const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => random(rng, [size, count * dim]));
    const attrs = attrsOf({ tokens: size, heads, kvHeads, dim, size, position: 0, softcap });
    const sinks = hasSinks ? [random(rng, [heads], 2)] : [];
    const all = [q!, k!, v!, i32([size], new Int32Array(size)), ...(hasSinks ? [null] : []), ...sinks];
    const whole = await runWasm(Attention, all, attrs, { outputs: [0] });
    const shape = [kvHeads, size, dim];
    let caches = [k, v].map((x) => f32(shape, new Float32Array(x!.data.length)));
    const part = (x: typeof q, from: number, to: number) => {
      const width = x!.shape[1]!;
      return f32([to - from, width], (x!.data as Float32Array).subarray(from * width, to * width));
    };
    const cuts = [0, 50, 57, 120];
    for (let c = 0; c + 1 < cuts.length; c++) {
      const [from, to] = [cuts[c]!, cuts[c + 1]!];
      const rows = [q, k, v].map((x) => part(x, from, to));
      const inputs = [...rows, ...caches, i32([to - from], new Int32Array(to - from)), i32([1], [from]), ...sinks];
      const [out, keys, values] = await runWasm(CachedAttention, inputs, attrs);
      const width = heads * dim;
      expectSameBits(`rows ${from} to ${to}`, [out!], [(whole[0] as Float32Array).slice(from * width, to * width)]);
      caches = [keys!, values!].map((data) => f32(shape, data));
    }
  });
});

test("types that do not fit are refused with the operator's name", () => {
  const type = (shape: readonly number[], dtype: "f32" | "i32" = "f32") => ({ dtype, shape });
  const infer = (tokens: number, size: number, { dim = 8, texts = 1 } = {}) => {
    const cache = type([texts, size, dim]);
    return CachedAttention.infer(
      [type([tokens, 16]), type([tokens, 8]), type([tokens, 8]), cache, cache, type([tokens], "i32"), type([texts], "i32")],
      { heads: 2, kvHeads: 1, scale: 1 },
    );
  };
  expect(() => infer(3, 5)).not.toThrow();
  expect(() => infer(3, 1, { texts: 3 })).not.toThrow();
  expect(() => infer(6, 5)).toThrow(/CachedAttention: expected caches of 6 to/);
  expect(() => infer(3, 5, { dim: 4 })).toThrow(/CachedAttention: expected f32 q/);
  expect(() => infer(3, 5, { texts: 2 })).toThrow(/CachedAttention: expected one text, or one per token/);
});
