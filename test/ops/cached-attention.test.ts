import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { CausalAttention } from "../../src/ops/attention.ts";
import { CachedAttention } from "../../src/ops/cached-attention.ts";
import { checkForward, expectSameBits, f32, generator, i32, random, runWasm } from "../support/ops.ts";
import { expectParity } from "../support/ort.ts";

setDefaultTimeout(120_000);

interface Case {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  readonly size: number;
  readonly position: number;
  /** How far back a token sees. */
  readonly window?: number;
  readonly softcap?: number;
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
];

function tensors({ tokens, heads, kvHeads, dim, size, position, window = size }: Case) {
  const rng = generator(7);
  const rows = (count: number, columns: number) => random(rng, [count, columns]);
  const starts = Array.from({ length: tokens }, (_, i) => Math.max(0, position + i - window + 1));
  return [
    rows(tokens, heads * dim),
    rows(tokens, kvHeads * dim),
    rows(tokens, kvHeads * dim),
    rows(size, kvHeads * dim),
    rows(size, kvHeads * dim),
    i32([tokens], starts),
    i32([1], [position]),
  ] as const;
}

/** The definition, in float64. */
function reference({ tokens, heads, kvHeads, dim, position, softcap = Infinity }: Case, scale: number) {
  const capped = (score: number) => (softcap === Infinity ? score : softcap * Math.tanh(score / softcap));
  return ([q, k, v, keys, values, starts]: Float64Array[]): Float64Array[] => {
    const width = kvHeads * dim;
    const [newKeys, newValues] = [keys!.slice(), values!.slice()];
    newKeys.set(k!, position * width);
    newValues.set(v!, position * width);
    const out = new Float64Array(tokens * heads * dim);
    for (let t = 0; t < tokens; t++) {
      for (let h = 0; h < heads; h++) {
        const row = (t * heads + h) * dim;
        const column = Math.floor((h * kvHeads) / heads) * dim;
        const scores: number[] = [];
        for (let j = starts![t]!; j <= position + t; j++) {
          let score = 0;
          for (let i = 0; i < dim; i++) score += q![row + i]! * newKeys[j * width + column + i]!;
          scores.push(capped(score * scale));
        }
        const greatest = Math.max(...scores);
        const powers = scores.map((score) => Math.exp(score - greatest));
        const sum = powers.reduce((a, b) => a + b);
        powers.forEach((p, n) => {
          for (let i = 0; i < dim; i++) out[row + i]! += (p / sum) * newValues[(starts![t]! + n) * width + column + i]!;
        });
      }
    }
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
    const { tokens, heads, kvHeads, dim, size, position, softcap } = sizes;
    const cap = softcap === undefined ? "" : `, capped at ${softcap}`;
    test(`${tokens} tokens at ${position} of ${size}, ${heads}/${kvHeads} heads of ${dim}${cap}`, async () => {
      const attrs = attrsOf(sizes);
      const exact = reference(sizes, Math.fround(attrs.scale));
      await checkForward({ op: CachedAttention, inputs: tensors(sizes), attrs, reference: exact, bound: 1e-6 });
    });
  }

  test("agrees with its ONNX body on ONNX Runtime, relative error < 1e-6", async () => {
    for (const sizes of [...CASES.slice(2, 7), ...CASES.slice(-3)]) {
      const names = ["q", "k", "v", "keys", "values", "starts", "position"];
      const inputs = tensors(sizes);
      const builder = new GraphBuilder("cached");
      inputs.forEach(({ dtype, shape }, i) => builder.input(names[i]!, i === 3 || i === 4 ? "cache" : "batch", { dtype, shape }));
      const [out, keys, values] = builder.node(CachedAttention, names, attrsOf(sizes), "out");
      builder.output({ name: out!, role: "boundary" });
      builder.output({ name: keys!, role: "state", updates: "keys" });
      builder.output({ name: values!, role: "state", updates: "values" });
      await expectParity(builder.build(), new Map(inputs.map((input, i) => [names[i]!, input])), 1e-6, [false]);
    }
  });

  test.each([undefined, 0.9])("chunks give the bits of one pass over the whole sequence, soft cap %p", async (softcap) => {
    const [heads, kvHeads, dim, size] = [6, 2, 32, 120];
    const rng = generator(3);
    const [q, k, v] = [heads, kvHeads, kvHeads].map((count) => random(rng, [size, count * dim]));
    const attrs = attrsOf({ tokens: size, heads, kvHeads, dim, size, position: 0, softcap });
    const whole = await runWasm(CausalAttention, [q!, k!, v!, i32([size], new Int32Array(size))], attrs, { outputs: [0] });
    let caches = [f32(k!.shape, new Float32Array(k!.data.length)), f32(v!.shape, new Float32Array(v!.data.length))];
    const part = (x: typeof q, from: number, to: number) => {
      const width = x!.shape[1]!;
      return f32([to - from, width], (x!.data as Float32Array).subarray(from * width, to * width));
    };
    const cuts = [0, 50, 57, 120];
    for (let c = 0; c + 1 < cuts.length; c++) {
      const [from, to] = [cuts[c]!, cuts[c + 1]!];
      const rows = [q, k, v].map((x) => part(x, from, to));
      const inputs = [...rows, ...caches, i32([to - from], new Int32Array(to - from)), i32([1], [from])];
      const [out, keys, values] = await runWasm(CachedAttention, inputs, attrs);
      const width = heads * dim;
      expectSameBits(`rows ${from} to ${to}`, [out!], [(whole[0] as Float32Array).slice(from * width, to * width)]);
      caches = [keys!, values!].map((data) => f32(k!.shape, data));
    }
  });
});

test("types that do not fit are refused with the operator's name", () => {
  const type = (shape: readonly number[], dtype: "f32" | "i32" = "f32") => ({ dtype, shape });
  const infer = (tokens: number, size: number, width = 8) =>
    CachedAttention.infer(
      [
        type([tokens, 16]),
        type([tokens, 8]),
        type([tokens, 8]),
        type([size, width]),
        type([size, width]),
        type([tokens], "i32"),
        type([1], "i32"),
      ],
      { heads: 2, kvHeads: 1, scale: 1 },
    );
  expect(() => infer(3, 5)).not.toThrow();
  expect(() => infer(6, 5)).toThrow(/CachedAttention: expected caches of 6 to/);
  expect(() => infer(3, 5, 4)).toThrow(/CachedAttention: expected f32 q/);
});
