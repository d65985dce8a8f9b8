import { expect, setDefaultTimeout, test } from "bun:test";
import { ExpertMlp } from "../../src/ops/expert-mlp.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  expectWithin,
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

test("operands that do not fit are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const slots = [type(3, 2), { dtype: "i32", shape: [3, 2] } as const];
  expect(() => ExpertMlp.infer([type(3, 4), ...slots, type(5, 4), type(5, 4), type(5, 4)], {})).toThrow("down [H, I]");
  expect(() => ExpertMlp.infer([type(3, 4), ...slots, type(5, 4), type(5, 4)], {})).toThrow("down [H, I]");
});
