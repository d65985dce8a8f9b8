import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph } from "../../src/graph/types.ts";
import { Attention, AttentionGrad } from "../../src/ops/attention.ts";
import { tileTokens } from "../../src/ops/native-attention.ts";
import type { MatmulChoice } from "../../src/wasm/matmul.ts";
import { SLOW } from "../support/slow.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import {
  type Data,
  expectSameBits,
  expectWithin,
  generator,
  i32,
  random,
  relativeError,
  type TestTensor,
} from "../support/ops.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

interface Case {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  /** Beginnings of the examples that share the row. */
  readonly examples: readonly number[];
  /** Deviation of q: large ones make probabilities of 0. */
  readonly spread?: number;
  readonly softcap?: number;
  readonly hasSinks?: boolean;
  /** How far tokens see to both sides; 0: the whole example. Absent: no token sees what is behind it. */
  readonly reach?: number;
}

/** Attention, then its gradient of its own results. */
function attention({ tokens, heads, kvHeads, dim, softcap, reach, hasSinks = false }: Case): Graph {
  const builder = new GraphBuilder("attention");
  const wide = { dtype: "f32", shape: [tokens, heads * dim] } as const;
  const narrow = { dtype: "f32", shape: [tokens, kvHeads * dim] } as const;
  const q = builder.input("q", "boundary", wide);
  const k = builder.input("k", "boundary", narrow);
  const v = builder.input("v", "boundary", narrow);
  const starts = builder.input("starts", "batch", { dtype: "i32", shape: [tokens] });
  const ends = reach === undefined ? [] : [builder.input("ends", "batch", { dtype: "i32", shape: [tokens] })];
  const dout = builder.input("dout", "output-grad", wide);
  const attrs = { heads, kvHeads, scale: 1 / Math.sqrt(dim), ...(softcap !== undefined && { softcap }) };
  const sinks = hasSinks ? [ends[0] ?? "", builder.input("sinks", "param", { dtype: "f32", shape: [heads] })] : ends;
  const [out, lse] = builder.node(Attention, [q, k, v, starts, ...sinks], attrs);
  const gradients = builder.node(AttentionGrad, [q, k, v, starts, out!, lse!, dout, ...ends], attrs);
  for (const name of [out!, lse!, ...gradients]) builder.output({ name, role: "boundary" });
  return builder.build();
}

function feedsOf({ tokens, heads, kvHeads, dim, examples, spread = 1, reach, hasSinks = false }: Case): Map<string, TestTensor> {
  const rng = generator(tokens + dim);
  const far = reach || tokens;
  const starts = Array.from({ length: tokens }, (_, t) => {
    const start = examples.findLast((other) => other <= t)!;
    return reach === undefined ? start : Math.max(start, t - far);
  });
  const ends = Array.from({ length: tokens }, (_, t) => Math.min(examples.find((other) => other > t) ?? tokens, t + far + 1));
  return new Map<string, TestTensor>([
    ["q", random(rng, [tokens, heads * dim], spread)],
    ["k", random(rng, [tokens, kvHeads * dim])],
    ["v", random(rng, [tokens, kvHeads * dim])],
    ["starts", i32([tokens], starts)],
    ...(reach === undefined ? [] : ([["ends", i32([tokens], ends)]] as const)),
    ["dout", random(rng, [tokens, heads * dim])],
    ...(hasSinks ? ([["sinks", random(rng, [heads], 2)]] as const) : []),
  ]);
}

const CASES: readonly Case[] = [
  { tokens: 128, heads: 3, kvHeads: 3, dim: 16, examples: [0] },
  { tokens: 301, heads: 6, kvHeads: 2, dim: 64, examples: [0] },
  { tokens: 301, heads: 6, kvHeads: 2, dim: 64, examples: [0, 5, 150, 151, 290] },
  // Several blocks of keys, the first of which the last tokens do not see.
  { tokens: 1300, heads: 4, kvHeads: 1, dim: 32, examples: [0, 700] },
  { tokens: 200, heads: 2, kvHeads: 1, dim: 6, examples: [0, 77] },
  { tokens: 160, heads: 4, kvHeads: 4, dim: 128, examples: [0] },
  // Scores hundreds apart.
  { tokens: 256, heads: 2, kvHeads: 2, dim: 32, examples: [0, 100], spread: 100 },
  { tokens: 301, heads: 6, kvHeads: 2, dim: 64, examples: [0, 5, 150, 151, 290], softcap: 1.5 },
  { tokens: 1300, heads: 4, kvHeads: 1, dim: 32, examples: [0, 700], softcap: 50 },
  { tokens: 200, heads: 2, kvHeads: 1, dim: 6, examples: [0, 77], softcap: 20, spread: 10 },
  { tokens: 256, heads: 4, kvHeads: 2, dim: 256, examples: [0], softcap: 3 },
  { tokens: 301, heads: 6, kvHeads: 2, dim: 64, examples: [0, 5, 150, 151, 290], hasSinks: true },
  { tokens: 128, heads: 3, kvHeads: 3, dim: 16, examples: [0], reach: 0 },
  { tokens: 301, heads: 6, kvHeads: 6, dim: 64, examples: [0, 5, 150, 151, 290], reach: 0 },
  { tokens: 1300, heads: 4, kvHeads: 4, dim: 32, examples: [0, 700], reach: 0 },
  { tokens: 1300, heads: 4, kvHeads: 1, dim: 32, examples: [0, 700], reach: 64 },
  { tokens: 301, heads: 6, kvHeads: 2, dim: 64, examples: [0, 5, 150, 151, 290], reach: 40, softcap: 1.5 },
  // Tiles that end with their examples, and short examples together in one.
  { tokens: 700, heads: 2, kvHeads: 2, dim: 32, examples: [0, 100, 200, 210, 220, 300, 301, 302, 650], reach: 0 },
  // Several softmaxes for the last tiles; some rows of a tile see nothing of a block.
  { tokens: 2300, heads: 2, kvHeads: 1, dim: 16, examples: [0] },
  { tokens: 2600, heads: 1, kvHeads: 1, dim: 6, examples: [0, 30, 2250], reach: 0, softcap: 20, spread: 10 },
  { tokens: 4300, heads: 1, kvHeads: 1, dim: 10, examples: [0, 20], reach: 2100 },
  ...(SLOW ? [{ tokens: 12_000, heads: 1, kvHeads: 1, dim: 16, examples: [0, 1000] }] : []),
];

describe("native attention", () => {
  for (const shape of CASES) {
    test(`as the kernel's within a relative error of 3e-6, same bits for 1, 2 and 3 threads: ${JSON.stringify(shape)}`, async () => {
      expect(tileTokens(shape, "forward")).not.toBeNull();
      const graph = attention(shape);
      const feeds = feedsOf(shape);
      const run = async (matmul: MatmulChoice, threads: number) =>
        runOn(await executor(matmul, threads), graph, feeds, { times: 2 });
      const expected = await run("wasm", 1);
      const actual = await run("native", 1);
      // A score of size s has an error of s times 6e-8 times the square root of the terms, and so has the logarithm of its exponential.
      const bound = 3e-6 * (shape.spread ?? 1);
      for (const [name, values] of expected) expectWithin(name, relativeError(actual.get(name)!, values), bound);
      const list = (results: Map<string, Data>) => [...results.values()];
      for (const threads of [2, 3]) expectSameBits(`${threads} threads`, list(await run("native", threads)), list(actual));
    });
  }

  test("a NaN stays in what sees it, block by block", async () => {
    const shape: Case = { tokens: 2300, heads: 2, kvHeads: 1, dim: 16, examples: [0] };
    const { tokens, heads, dim } = shape;
    const feeds = feedsOf(shape);
    const at = 2200;
    feeds.get("q")!.data[at * heads * dim] = NaN;
    const results = runOn(await executor("native", 2), attention(shape), feeds);
    const [out, lse] = [...results.values()] as [Float32Array, Float32Array];
    const isNaNAt = (values: Float32Array, width: number) =>
      Array.from({ length: tokens * heads }, (_, row) => row).filter((row) =>
        values.subarray(row * width, (row + 1) * width).some(Number.isNaN),
      );
    expect(isNaNAt(out, dim)).toEqual([at * heads]);
    expect(isNaNAt(lse, 1)).toEqual([at * heads]);
  });

  test("what no tile holds goes to the kernel", () => {
    const sizes = { tokens: 512, heads: 8, kvHeads: 2, dim: 64 };
    for (const pass of ["forward", "gradient"] as const) {
      expect(tileTokens(sizes, pass)).toBeGreaterThanOrEqual(16);
      expect(tileTokens({ ...sizes, tokens: 100 }, pass)).toBeNull();
      expect(tileTokens({ ...sizes, heads: 512, kvHeads: 1 }, pass)).toBeNull();
      // Tiles do not grow with the tokens, nor shrink.
      expect(tileTokens({ ...sizes, tokens: 40_000 }, pass)).toBe(tileTokens({ ...sizes, tokens: 8000 }, pass));
    }
  });
});
