import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Graph, TensorType } from "../../src/graph/types.ts";
import { Cast, CAST_TO } from "../../src/ops/cast.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";
import { ExpertMlp, ExpertMlpGrad, SWIGLU_EXPERTS } from "../../src/ops/expert-mlp.ts";
import { thinRoutines } from "../../src/wasm/machine-code/executable.ts";
import type { WasmExecutor } from "../../src/wasm/executor.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import {
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

const WEIGHTS = ["f32", "bf16", "f16", "q8", "nf4"] as const;

interface Case {
  readonly width: number;
  readonly size: number;
  readonly weights: (typeof WEIGHTS)[number];
}

/** So many that products go to native code; the experts have 0, 1, 2, 33 and 64 of them. */
const COUNTS = [0, 1, 2, 33, 64];
const TOKENS = 100;

/** y, and the gradients of x and of the tokens' weights, of frozen experts. */
function mixture({ width, size, weights }: Case): Graph {
  const builder = new GraphBuilder("mixture");
  const input = (name: string, dtype: TensorType["dtype"], ...shape: number[]) => builder.input(name, "param", { dtype, shape });
  const matrix = (name: string, rows: number, columns: number): string => {
    if (weights === "f32") return input(name, "f32", rows, columns);
    if (weights === "bf16" || weights === "f16")
      return builder.value(Cast, [input(name, weights, rows, columns)], { to: CAST_TO.f32 });
    const codes = weights === "nf4" ? input(name, "u8", rows, columns / 2) : input(name, "i8", rows, columns);
    return builder.value(Dequantize, [codes, input(`${name}.scales`, "f32", rows, columns / 64)], {});
  };
  const [dy, x] = ["dy", "x"].map((name) => input(name, "f32", TOKENS, width)) as [string, string];
  const slots = [input("weights", "f32", TOKENS, 1), input("experts", "i32", TOKENS, 1)];
  const matrices = COUNTS.flatMap((_, e) => [
    matrix(`gate${e}`, size, width),
    matrix(`up${e}`, size, width),
    matrix(`down${e}`, width, size),
  ]);
  const y = builder.value(ExpertMlp, [x, ...slots, ...matrices], SWIGLU_EXPERTS);
  const [dx, dweights] = builder.node(ExpertMlpGrad, [dy, x, ...slots, ...matrices], SWIGLU_EXPERTS);
  for (const name of [y, dx!, dweights!]) builder.output({ name, role: "boundary" });
  return builder.build();
}

/** The expert of each token, those of different experts in any order. */
const CHOICES = (() => {
  const rng = generator(5);
  const tokens = COUNTS.flatMap((count, expert) => Array.from({ length: count }, () => ({ expert, at: rng() })));
  return tokens.sort((a, b) => a.at - b.at).map(({ expert }) => expert);
})();

function feedsOf(graph: Graph, experts: readonly number[]): Map<string, TestTensor> {
  const rng = generator(3);
  return new Map(
    graph.inputs.map(({ name }): [string, TestTensor] => {
      const { dtype, shape } = graph.types.get(name)!;
      if (dtype === "i32") return [name, i32(shape, experts)];
      const isMatrix = /^(?:gate|up|down)/.test(name);
      const drawn = random(rng, shape, isMatrix && dtype !== "u8" && dtype !== "i8" ? shape[1]! ** -0.5 : 1);
      if (dtype === "f32")
        return [
          name,
          name.endsWith("scales")
            ? f32(
                shape,
                drawn.data.map((value) => value / 50),
              )
            : drawn,
        ];
      if (dtype === "bf16" || dtype === "f16") return [name, half(drawn, dtype)];
      const bytes = Array.from(drawn.data, (value) => Math.max(-127, Math.min(127, Math.round(50 * value))));
      return [name, { dtype, shape, data: dtype === "i8" ? Int8Array.from(bytes) : Uint8Array.from(bytes) } as TestTensor];
    }),
  );
}

const CASES: readonly Case[] = [
  ...WEIGHTS.map((weights): Case => ({ width: 192, size: 128, weights })),
  ...(["f32", "bf16", "f16"] as const).map((weights): Case => ({ width: 131, size: 97, weights })),
  // So wide that one thread takes fewer terms at a time than two do.
  { width: 1101, size: 201, weights: "f32" },
];

const resultsOf = (on: WasmExecutor, graph: Graph, feeds: ReadonlyMap<string, TestTensor>) => [
  ...runOn(on, graph, feeds, {}).values(),
];

describe.each(["machine code", "the library"] as const)("experts' products by %s", (kind) => {
  const run = async (threads: number, graph: Graph, feeds: ReadonlyMap<string, TestTensor>) => {
    const on = await executor("native", threads);
    const { native } = on.matmul as unknown as { readonly native: { thin: boolean } };
    const { thin } = native;
    try {
      native.thin = kind === "machine code";
      return resultsOf(on, graph, feeds);
    } finally {
      native.thin = thin;
    }
  };
  for (const shape of CASES)
    test.skipIf(kind === "machine code" && thinRoutines() === null)(
      `${JSON.stringify(shape)}: as those of WebAssembly; same bits for 1, 2 and 3 threads`,
      async () => {
        const graph = mixture(shape);
        const feeds = feedsOf(graph, CHOICES);
        const actual = await run(1, graph, feeds);
        const expected = resultsOf(await executor("wasm", 1), graph, feeds);
        // Roundings of a sum of so many terms, one behind the other, as they come by chance.
        const bound = 2 ** -24 * Math.sqrt(shape.width);
        actual.forEach((values, i) => expectWithin(`output ${i}`, relativeError(values, expected[i]!), bound));
        expect(Buffer.from(actual[0]!.buffer).equals(Buffer.from(expected[0]!.buffer))).toBe(false);
        for (const threads of [2, 3]) expectSameBits(`${threads} threads`, await run(threads, graph, feeds), actual);
      },
    );
});

test.skipIf(thinRoutines() === null)("a token has the same bits whichever others are computed with it", async () => {
  const shape: Case = { width: 131, size: 97, weights: "bf16" };
  const graph = mixture(shape);
  const all = resultsOf(await executor("native", 2), graph, feedsOf(graph, CHOICES));
  for (const expert of [3, 4]) {
    // Of the expert's tokens every third one goes elsewhere, and all others come to it.
    const others = CHOICES.map((own, token) =>
      own === expert && token % 3 === 0 ? 0 : own === expert || token % 2 ? expert : own,
    );
    const some = resultsOf(await executor("native", 2), graph, feedsOf(graph, others));
    const stayed = CHOICES.flatMap((own, token) => (own === expert && others[token] === expert ? [token] : []));
    expect(stayed.length).toBeGreaterThan(10);
    for (const token of stayed)
      [shape.width, shape.width, 1].forEach((columns, i) => {
        const row = (outputs: typeof all) => Array.from(outputs[i]!.slice(token * columns, (token + 1) * columns));
        expect(row(some)).toEqual(row(all));
      });
  }
});
