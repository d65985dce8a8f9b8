import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph } from "../../src/graph/types.ts";
import type { FloatType } from "../../src/base/dtype.ts";
import { Cast, CAST_TO } from "../../src/ops/cast.ts";
import type { HeadAttrs } from "../../src/ops/head-kernels.ts";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "../../src/ops/linear-cross-entropy.ts";
import { chunkRows } from "../../src/ops/native-head.ts";
import type { Program } from "../../src/runtime/executor.ts";
import { hasBf16 } from "../../src/wasm/machine-code/executable.ts";
import type { MatmulChoice } from "../../src/wasm/matmul.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import {
  type Data,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  half,
  i32,
  random,
  relativeError,
  type TestTensor,
} from "../support/ops.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

interface Case {
  readonly tokens: number;
  readonly width: number;
  readonly vocab: number;
  /** Token t has a label if t % every is 0, the first `labelled` such ones. */
  readonly every: number;
  readonly labelled: number;
  readonly dtype?: FloatType;
  readonly wanted: readonly ("dh" | "dw")[];
  readonly sum?: boolean;
  readonly softcap?: number;
  /** A scale of its own for each token: of either sign, some 0. */
  readonly scales?: boolean;
  /** Labels of a token, 1 if absent: the first as described, some of the others -100. */
  readonly each?: number;
  /** Logits are computed again for their gradient. */
  readonly recompute?: boolean;
}

/** The loss as the forward computes it, and gradients with the loss as the gradient operator does. */
function head({ tokens, width, vocab, dtype = "f32", wanted, sum, softcap, scales, recompute, each = 1 }: Case): Graph {
  const attrs: HeadAttrs = { ...(softcap !== undefined && { softcap }), ...(recompute && { recompute: 1 }) };
  const builder = new GraphBuilder("head");
  const h = builder.input("h", "boundary", { dtype: "f32", shape: [tokens, width] });
  const stored = builder.input("w", "param", { dtype, shape: [vocab, width] });
  const w = dtype === "f32" ? stored : builder.value(Cast, [stored], { to: CAST_TO.f32 });
  const labels = builder.input("labels", "batch", { dtype: "i32", shape: [tokens * each] });
  const scale = builder.input("scale", "batch", { dtype: "f32", shape: [scales ? tokens * each : 1] });
  const dloss = builder.input("dloss", "output-grad", { dtype: "f32", shape: [1] });
  const sums = sum ? [builder.input("sum", "accumulator", { dtype: "f32", shape: [vocab, width] })] : [];
  for (const name of builder.node(LinearCrossEntropy, [h, w, labels, scale], attrs, "forward")) {
    builder.output({ name, role: "boundary" });
  }
  const [dh, dw, loss] = builder.node(LinearCrossEntropyGrad, [h, w, labels, scale, dloss, ...sums], attrs, "grad");
  if (wanted.includes("dh")) builder.output({ name: dh!, role: "input-grad" });
  if (wanted.includes("dw")) builder.output({ name: dw!, role: "param-grad", ...(sum && { updates: "sum" }) });
  builder.output({ name: loss!, role: "loss" });
  return builder.build();
}

function feedsOf({ tokens, width, vocab, every, labelled, dtype = "f32", scales, each = 1 }: Case): Map<string, TestTensor> {
  const rng = generator(tokens + vocab);
  const labels = Array.from({ length: tokens * each }, (_, place) => {
    const [t, l] = [Math.floor(place / each), place % each];
    return t % every === 0 && t / every < labelled && (l === 0 || (t + l) % 4 > 0) ? (t * 31 + l * 7) % vocab : -100;
  });
  const w = random(rng, [vocab, width], 2 / Math.sqrt(width));
  return new Map<string, TestTensor>([
    ["h", random(rng, [tokens, width])],
    ["w", dtype === "f32" ? w : half(w, dtype)],
    ["labels", i32([tokens * each], labels)],
    [
      "scale",
      scales
        ? f32(
            [tokens * each],
            Array.from({ length: tokens * each }, (_, t) => ((t % 5) - 2) / (3 * labelled)),
          )
        : f32([1], [1 / labelled]),
    ],
    ["dloss", f32([1], [0.7])],
    ["sum", random(rng, [vocab, width], 0.01)],
  ]);
}

const CASES: readonly Case[] = [
  { tokens: 150, width: 64, vocab: 400, every: 1, labelled: 150, wanted: ["dh", "dw"], sum: true },
  // Three chunks of rows, 75 of them without any label; blocks of the vocabulary that end unevenly.
  { tokens: 400, width: 50, vocab: 1031, every: 1, labelled: 235, wanted: ["dh", "dw"], sum: true },
  { tokens: 400, width: 50, vocab: 1031, every: 3, labelled: 90, wanted: ["dw"] },
  { tokens: 400, width: 50, vocab: 1031, every: 2, labelled: 3, wanted: ["dh", "dw"] },
  { tokens: 190, width: 64, vocab: 2500, every: 1, labelled: 189, wanted: ["dh"], dtype: "bf16" },
  { tokens: 70, width: 18, vocab: 257, every: 1, labelled: 1, wanted: ["dh"], dtype: "f16" },
  { tokens: 400, width: 50, vocab: 1031, every: 1, labelled: 235, wanted: ["dh", "dw"], sum: true, softcap: 2 },
  { tokens: 190, width: 64, vocab: 2500, every: 2, labelled: 90, wanted: ["dh"], dtype: "bf16", softcap: 30 },
  { tokens: 400, width: 50, vocab: 1031, every: 1, labelled: 235, wanted: ["dh", "dw"], sum: true, scales: true },
  { tokens: 190, width: 64, vocab: 2500, every: 2, labelled: 90, wanted: ["dh"], dtype: "bf16", softcap: 30, scales: true },
  { tokens: 400, width: 50, vocab: 1031, every: 2, labelled: 150, wanted: ["dh", "dw"], sum: true, each: 4 },
  {
    tokens: 190,
    width: 64,
    vocab: 2500,
    every: 1,
    labelled: 90,
    wanted: ["dh"],
    dtype: "bf16",
    softcap: 30,
    scales: true,
    each: 9,
  },
];

describe("native head", () => {
  for (const shape of CASES) {
    test(`as the kernels' within a relative error of 2e-6, same bits for 1, 2 and 3 threads: ${JSON.stringify(shape)}`, async () => {
      const graph = head(shape);
      const feeds = feedsOf(shape);
      const run = async (matmul: MatmulChoice, threads: number) =>
        runOn(await executor(matmul, threads), graph, feeds, { times: 2 });
      const expected = await run("wasm", 1);
      const actual = await run("native", 1);
      for (const [name, values] of expected) expectWithin(name, relativeError(actual.get(name)!, values), 2e-6);
      const list = (results: Map<string, Data>) => [...results.values()];
      for (const threads of [2, 3]) expectSameBits(`${threads} threads`, list(await run("native", threads)), list(actual));
    });
  }

  // Of two pages, in two chunks.
  const LARGE: readonly Case[] = [
    { tokens: 200, width: 514, vocab: 9_001, every: 1, labelled: 190, wanted: ["dh", "dw"], sum: true },
    {
      tokens: 240,
      width: 1030,
      vocab: 9_001,
      every: 1,
      labelled: 203,
      wanted: ["dh"],
      dtype: "bf16",
      softcap: 5,
      scales: true,
      each: 3,
    },
  ];

  for (const shape of LARGE) {
    test(`logits that are computed again give the same bits, in less memory and with fewer reads: ${JSON.stringify(shape)}`, async () => {
      const feeds = feedsOf(shape);
      const run = async (recompute: boolean, threads: number) => {
        const native = await executor("native", threads);
        const graph = head({ ...shape, recompute });
        return { results: [...runOn(native, graph, feeds, { times: 2 }).values()], program: native.prepare(graph) };
      };
      const kept = await run(false, 2);
      const again = await run(true, 2);
      expectSameBits("computed again", again.results, kept.results);
      expectSameBits("with 3 threads", (await run(true, 3)).results, kept.results);
      const readBytes = ({ reads }: Program) => {
        // Commands in a row that read the same page have it once.
        const changes = reads.filter(({ offset, input }, i) => offset !== reads[i - 1]?.offset || input !== reads[i - 1]?.input);
        return changes.reduce((sum, { bytes }) => sum + bytes, 0);
      };
      const bytes = (shape.dtype === "bf16" ? 2 : 4) * shape.vocab * shape.width;
      // The forward operator reads W once, its gradient twice, or twice for each chunk.
      expect(readBytes(again.program)).toBe(3 * bytes);
      expect(readBytes(kept.program)).toBe(5 * bytes);
    });
  }

  /** Logits are bf16 in memory, but for a soft cap's. Of several pages and chunks; odd sizes; labels of their own scales, several of each token. */
  const NARROW: readonly Case[] = [
    { tokens: 190, width: 64, vocab: 2500, every: 1, labelled: 189, wanted: ["dh"], dtype: "bf16" },
    { tokens: 530, width: 97, vocab: 1031, every: 1, labelled: 419, wanted: ["dh"], scales: true, each: 3 },
    { tokens: 70, width: 130, vocab: 257, every: 2, labelled: 1, wanted: ["dh"], dtype: "f16" },
    { tokens: 600, width: 1030, vocab: 9_001, every: 1, labelled: 571, wanted: ["dh"], dtype: "bf16" },
    { tokens: 190, width: 64, vocab: 2500, every: 2, labelled: 90, wanted: ["dh"], dtype: "bf16", softcap: 30 },
    { tokens: 120, width: 64, vocab: 700, every: 1, labelled: 119, wanted: ["dh", "dw"], sum: true },
  ];

  // A product's relative error is 1.7e-3, or 2.4e-3 with an f32 operand (machine-code/product.test.ts); a gradient has two of them, and D is rounded twice.
  for (const shape of hasBf16() ? NARROW : []) {
    test(`in bf16: loss within 2.4e-3, gradients within 6e-3, same bits for 1, 2 and 3 threads and computed again: ${JSON.stringify(shape)}`, async () => {
      const feeds = feedsOf(shape);
      const run = async (matmul: MatmulChoice, threads: number, recompute = false) =>
        runOn(await executor(matmul, threads), head({ ...shape, recompute }), feeds, { times: 2 });
      const expected = await run("wasm", 1);
      const actual = await run("bf16", 1);
      for (const [name, values] of expected) {
        const isLoss = name === "forward" || name.startsWith("grad.2");
        expectWithin(name, relativeError(actual.get(name)!, values), isLoss ? 2.4e-3 : 6e-3);
      }
      const list = (results: Map<string, Data>) => [...results.values()];
      for (const threads of [2, 3]) expectSameBits(`${threads} threads`, list(await run("bf16", threads)), list(actual));
      expectSameBits("computed again", list(await run("bf16", 2, true)), list(actual));
    });
  }

  test("counts the labels that have the first of the greatest logits, as the kernels do: equal ones in and across blocks", async () => {
    const shape: Case = { tokens: 70, width: 2, vocab: 700, every: 1, labelled: 70, wanted: ["dh"] };
    const feeds = feedsOf(shape);
    // The logit of class v is greatest for v = 7, 300 and 301, in two blocks; each label of these three is there.
    const w = feeds.get("w")!.data as Float32Array;
    w.fill(0);
    for (const v of [7, 300, 301]) w.set([2, 1], 2 * v);
    (feeds.get("h")!.data as Float32Array).fill(1);
    const labels = feeds.get("labels")!.data as Int32Array;
    labels.forEach((_, t) => (labels[t] = [7, 300, 301, 5][t % 4]!));
    for (const matmul of ["wasm", "native"] as const) {
      for (const threads of [1, 3]) {
        const results = runOn(await executor(matmul, threads), head(shape), feeds);
        expect([...results.get("forward.1")!]).toEqual([18]);
      }
    }
    labels.fill(301);
    w.set([-1, -1], 14);
    w.set([0, 0], 600);
    const results = runOn(await executor("native", 2), head(shape), feeds);
    expect([...results.get("forward.1")!]).toEqual([70]);
  });

  test("a label outside of the vocabulary makes the loss NaN", async () => {
    const shape: Case = { tokens: 40, width: 16, vocab: 300, every: 1, labelled: 40, wanted: ["dh"] };
    const feeds = feedsOf(shape);
    for (const label of [300, -1]) {
      (feeds.get("labels")!.data as Int32Array)[5] = label;
      const results = runOn(await executor("native", 2), head(shape), feeds);
      expect(results.get("forward")![0]).toBeNaN();
    }
  });

  test("workspace at 2048 tokens and a vocabulary of 151,936 is below 48 MiB", async () => {
    const shape: Case = { tokens: 2048, width: 896, vocab: 151_936, every: 1, labelled: 2048, wanted: ["dh"], dtype: "bf16" };
    const program = (await executor("native", 2)).prepare(head(shape));
    expect(chunkRows(2048, 151_936, "f32")).toBe(64);
    expect(chunkRows(2048, 151_936, "bf16")).toBe(128);
    expect(program.workspace).toBeLessThan(48 * 2 ** 20);
  });
});
