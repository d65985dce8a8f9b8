import { expect, setDefaultTimeout, test } from "bun:test";
import { RouteTokens } from "../../src/ops/route-tokens.ts";
import { checkForward, checkGradient, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const softmax = (x: readonly number[]): number[] => {
  const top = Math.max(...x);
  const powers = x.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
};

const EPSILON = 0.01;

const routeOf =
  (experts: number, k: number, normalise: 0 | 1, score: "softmax" | "sigmoid"): Reference =>
  ([logits, biases]) => {
    const rows = Array.from({ length: logits!.length / experts }, (_, t) => {
      const row = Array.from(logits!.slice(t * experts, (t + 1) * experts));
      const scores = score === "softmax" ? softmax(row) : row.map((value) => 1 / (1 + Math.exp(-value)));
      const chosen = scores
        .map((value, expert) => ({ value: value + (biases?.[expert] ?? 0), expert }))
        .sort((a, b) => b.value - a.value || a.expert - b.expert)
        .slice(0, k)
        .map(({ expert }) => expert);
      const sum = chosen.reduce((total, expert) => total + scores[expert]!, score === "softmax" ? 0 : EPSILON);
      return chosen.map((expert) => ({ expert, weight: scores[expert]! / (normalise ? sum : 1) }));
    }).flat();
    return [rows.map(({ weight }) => weight), rows.map(({ expert }) => expert)];
  };

for (const [normalise, score] of [
  [0, "softmax"],
  [1, "softmax"],
  [0, "sigmoid"],
  [1, "sigmoid"],
] as const)
  for (const [tokens, experts, k] of [
    [1, 1, 1],
    [5, 7, 3],
    [40, 13, 13],
    [70, 128, 8],
  ] as const) {
    test(`RouteTokens of ${tokens} tokens to ${k} of ${experts} experts, ${score}, normalise ${normalise}: error 5e-7; gradient 1e-5`, async () => {
      const rng = generator(experts);
      const inputs = [random(rng, [tokens, experts], 2), ...(score === "sigmoid" ? [random(rng, [experts])] : [])];
      const attrs = { k, normalise, score, epsilon: EPSILON };
      const options = { op: RouteTokens, inputs, attrs, reference: routeOf(experts, k, normalise, score) };
      const outputs = await checkForward({ ...options, bound: 5e-7 });
      expectSameBits("3 threads", await runWasm(RouteTokens, inputs, attrs, { threads: 3 }), outputs);
      // With one expert alone and a sum of 1 the gradient is 0 up to rounding.
      if (experts > 1) await checkGradient({ ...options, wrt: [0], bound: 1e-5, samples: 40 });
      await checkOnnx({ op: RouteTokens, inputs, attrs: attrs, bound: 1e-6 });
    });
  }

test("RouteTokens takes the first of equal logits, and different experts of logits that are infinite or no numbers", async () => {
  const logits = f32([4, 4], [1, 1, 1, 1, 0, 2, -1, 2, NaN, NaN, NaN, NaN, -Infinity, 90, -Infinity, -90]);
  const [weights, experts] = await runWasm(RouteTokens, [logits], {
    k: 3,
    normalise: 1,
    score: "softmax",
    epsilon: 0,
  });
  expect([...experts!]).toEqual([0, 1, 2, 1, 3, 0, 0, 1, 2, 1, 3, 0]);
  expect(Array.from(weights!.slice(0, 3))).toEqual([Math.fround(1 / 3), Math.fround(1 / 3), Math.fround(1 / 3)]);
  expect(Array.from(weights!.slice(6, 9))).toEqual([NaN, NaN, NaN]);
  expect(Array.from(weights!.slice(9))).toEqual([1, 0, 0]);
});

test("operands that do not fit are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const attrs = { k: 5, normalise: 1, epsilon: 0 } as const;
  expect(() => RouteTokens.infer([type(3, 4)], { ...attrs, score: "softmax" })).toThrow("at least 5 experts");
  expect(() => RouteTokens.infer([type(3, 6), type(5)], { ...attrs, score: "sigmoid" })).toThrow("biases f32[E]");
  expect(() => RouteTokens.infer([type(3, 6), type(6)], { ...attrs, score: "softmax" })).toThrow("of sigmoids alone");
});
