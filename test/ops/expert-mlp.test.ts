import { expect, setDefaultTimeout, test } from "bun:test";
import { ExpertMlp } from "../../src/ops/expert-mlp.ts";
import { RouteTokens } from "../../src/ops/route-tokens.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  half,
  i32,
  random,
  type Reference,
  relativeError,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

/** y of x, weights, experts and the matrices of `count` experts. */
const mixtureOf =
  (width: number, count: number): Reference =>
  ([x, weights, experts, ...matrices]) => {
    const tokens = x!.length / width;
    const k = weights!.length / tokens;
    const y = new Float64Array(x!.length);
    for (let slot = 0; slot < tokens * k; slot++) {
      const [row, expert] = [width * Math.floor(slot / k), experts![slot]!];
      if (expert >= count) throw new Error(`no expert ${expert}`);
      const [gate, up, down] = matrices.slice(3 * expert, 3 * expert + 3) as [Float64Array, Float64Array, Float64Array];
      const size = gate.length / width;
      const times = (matrix: Float64Array, i: number) => {
        let sum = 0;
        for (let c = 0; c < width; c++) sum += matrix[i * width + c]! * x![row + c]!;
        return sum;
      };
      for (let i = 0; i < size; i++) {
        const g = times(gate, i);
        const h = (g / (1 + Math.exp(-g))) * times(up, i) * weights![slot]!;
        for (let c = 0; c < width; c++) y[row + c]! += h * down[c * size + i]!;
      }
    }
    return [y];
  };

/** Choices of the first `chosen` experts alone, those of a token different and in any order. */
function choices(rng: () => number, tokens: number, k: number, chosen: number): TestTensor {
  const rows = Array.from({ length: tokens }, () => {
    const experts = Array.from({ length: chosen }, (_, expert) => ({ expert, at: rng() }));
    return experts
      .sort((a, b) => a.at - b.at)
      .slice(0, k)
      .map(({ expert }) => expert);
  });
  return i32([tokens, k], rows.flat());
}

function mixture({ tokens, width, size, count, k, chosen }: (typeof CASES)[number]): TestTensor[] {
  const rng = generator(tokens + width);
  const matrices = Array.from({ length: count }, () => [
    random(rng, [size, width], width ** -0.5),
    random(rng, [size, width], width ** -0.5),
    random(rng, [width, size], size ** -0.5),
  ]);
  return [random(rng, [tokens, width]), random(rng, [tokens, k]), choices(rng, tokens, k, chosen), ...matrices.flat()];
}

const CASES = [
  { tokens: 1, width: 5, size: 3, count: 1, k: 1, chosen: 1 },
  { tokens: 7, width: 6, size: 9, count: 5, k: 3, chosen: 5 },
  { tokens: 13, width: 19, size: 7, count: 6, k: 2, chosen: 3 },
  { tokens: 90, width: 33, size: 18, count: 4, k: 4, chosen: 4 },
] as const;

for (const sizes of CASES) {
  const { tokens, width, size, count, k, chosen } = sizes;
  test(`ExpertMlp of ${tokens} tokens, ${k} of ${count} experts [${size}, ${width}]: error 1e-6; gradients by finite differences, error 1e-5`, async () => {
    const inputs = mixture(sizes);
    const options = { op: ExpertMlp, inputs, attrs: {}, reference: mixtureOf(width, count) };
    const [y] = await checkForward({ ...options, bound: 1e-6 });
    expectSameBits("3 threads", await runWasm(ExpertMlp, inputs, {}, { threads: 3 }), [y!]);
    // Of an expert that is chosen, and of the last one, which may have no token.
    const last = 3 * count;
    for (const wrt of [[0, 1], [0], [1], [0, 1, 3, 4, 5, last, last + 1, last + 2], [5]])
      await checkGradient({ ...options, wrt, bound: 1e-5, samples: 12 });
    await checkOnnx({ op: ExpertMlp, inputs, attrs: {}, bound: 1e-6 });
    const halves = inputs.map((tensor, i) => (i < 3 ? tensor : half(tensor, "bf16")));
    const [ofHalves] = await runWasm(ExpertMlp, halves, {});
    expectWithin("bf16 matrices", relativeError(ofHalves!, y!), 1e-2);
    expect(chosen).toBeGreaterThanOrEqual(k);
  });
}

const softmax = (x: readonly number[]): number[] => {
  const top = Math.max(...x);
  const powers = x.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
};

const routeOf =
  (experts: number, k: number, normalise: 0 | 1): Reference =>
  ([logits]) => {
    const rows = Array.from({ length: logits!.length / experts }, (_, t) => {
      const row = Array.from(logits!.slice(t * experts, (t + 1) * experts));
      const chosen = row
        .map((value, expert) => ({ value, expert }))
        .sort((a, b) => b.value - a.value || a.expert - b.expert)
        .slice(0, k);
      const all = softmax(normalise ? chosen.map(({ value }) => value) : row);
      return chosen.map(({ expert }, j) => ({ expert, weight: all[normalise ? j : expert]! }));
    }).flat();
    return [rows.map(({ weight }) => weight), rows.map(({ expert }) => expert)];
  };

for (const normalise of [0, 1] as const)
  for (const [tokens, experts, k] of [
    [1, 1, 1],
    [5, 7, 3],
    [40, 13, 13],
    [70, 128, 8],
  ] as const) {
    test(`RouteTokens of ${tokens} tokens to ${k} of ${experts} experts, normalise ${normalise}: error 5e-7; gradient 1e-5`, async () => {
      const inputs = [random(generator(experts), [tokens, experts], 2)];
      const options = { op: RouteTokens, inputs, attrs: { k, normalise }, reference: routeOf(experts, k, normalise) };
      const outputs = await checkForward({ ...options, bound: 5e-7 });
      expectSameBits("3 threads", await runWasm(RouteTokens, inputs, options.attrs, { threads: 3 }), outputs);
      // With all experts and a sum of 1, or one alone, the gradient is 0 up to rounding.
      if (experts > 1) await checkGradient({ ...options, wrt: [0], bound: 1e-5, samples: 40 });
      await checkOnnx({ op: RouteTokens, inputs, attrs: options.attrs, bound: 1e-6 });
    });
  }

test("RouteTokens takes the first of equal logits, and different experts of logits that are infinite or no numbers", async () => {
  const logits = f32([4, 4], [1, 1, 1, 1, 0, 2, -1, 2, NaN, NaN, NaN, NaN, -Infinity, 90, -Infinity, -90]);
  const [weights, experts] = await runWasm(RouteTokens, [logits], { k: 3, normalise: 1 });
  expect([...experts!]).toEqual([0, 1, 2, 1, 3, 0, 0, 1, 2, 1, 3, 0]);
  expect(Array.from(weights!.slice(0, 3))).toEqual([Math.fround(1 / 3), Math.fround(1 / 3), Math.fround(1 / 3)]);
  expect(Array.from(weights!.slice(6, 9))).toEqual([NaN, NaN, NaN]);
  expect(Array.from(weights!.slice(9))).toEqual([1, 0, 0]);
});

test("operands that do not fit are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  expect(() => RouteTokens.infer([type(3, 4)], { k: 5, normalise: 1 })).toThrow("at least 5 experts");
  const slots = [type(3, 2), { dtype: "i32", shape: [3, 2] } as const];
  expect(() => ExpertMlp.infer([type(3, 4), ...slots, type(5, 4), type(5, 4), type(5, 4)], {})).toThrow("down [H, I]");
  expect(() => ExpertMlp.infer([type(3, 4), ...slots, type(5, 4), type(5, 4)], {})).toThrow("down [H, I]");
});
