import { expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import type { ExpertRanks } from "../../src/ops/expert-adapters.ts";
import { ExpertMlp, ExpertMlpGrad, SWIGLU_EXPERTS } from "../../src/ops/expert-mlp.ts";
import { modelledSeconds } from "../../src/ops/modelled-time.ts";
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

const CLAMPED = { activation: "clamped", alpha: 1.702, limit: 0.9 } as const;

/** What an expert makes of its gate and up. */
const gated = (g: number, u: number, { activation, alpha, limit }: typeof SWIGLU_EXPERTS): number => {
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
  if (activation === "swiglu") return g * sigmoid(g) * u;
  if (activation === "geglu") return (g * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (g + 0.044715 * g ** 3))) * u) / 2;
  const gate = Math.min(g, limit);
  return (Math.max(-limit, Math.min(limit, u)) + 1) * gate * sigmoid(alpha * gate);
};

/** y of x, weights, experts and the matrices of `count` experts. */
const mixtureOf =
  (width: number, count: number, attrs: typeof SWIGLU_EXPERTS): Reference =>
  ([x, weights, experts, ...matrices]) => {
    const [both, ofDown] = attrs.biases ? matrices.slice(-2) : [null, null];
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
      for (let c = 0; c < width; c++) y[row + c]! += weights![slot]! * (ofDown?.[expert * width + c] ?? 0);
      for (let i = 0; i < size; i++) {
        const bias = (of: 0 | 1) => both?.[2 * (expert * size + i) + of] ?? 0;
        const h = gated(times(gate, i) + bias(0), times(up, i) + bias(1), attrs) * weights![slot]!;
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

function mixture({ tokens, width, size, count, k, chosen }: (typeof CASES)[number], biases: 0 | 1): TestTensor[] {
  const rng = generator(tokens + width);
  const matrices = Array.from({ length: count }, () => [
    random(rng, [size, width], width ** -0.5),
    random(rng, [size, width], width ** -0.5),
    random(rng, [width, size], size ** -0.5),
  ]);
  const ofBiases = biases ? [random(rng, [count, 2 * size], 0.5), random(rng, [count, width], 0.5)] : [];
  return [
    random(rng, [tokens, width]),
    random(rng, [tokens, k]),
    choices(rng, tokens, k, chosen),
    ...matrices.flat(),
    ...ofBiases,
  ];
}

const CASES = [
  { tokens: 1, width: 5, size: 3, count: 1, k: 1, chosen: 1 },
  { tokens: 7, width: 6, size: 9, count: 5, k: 3, chosen: 5 },
  { tokens: 13, width: 19, size: 7, count: 6, k: 2, chosen: 3 },
  { tokens: 90, width: 33, size: 18, count: 4, k: 4, chosen: 4 },
] as const;

const KINDS = [
  [SWIGLU_EXPERTS, CASES],
  [{ ...SWIGLU_EXPERTS, activation: "geglu" }, CASES.slice(1, 3)],
  [{ ...CLAMPED, biases: 0 }, CASES.slice(1, 2)],
  [{ ...CLAMPED, biases: 1 }, CASES.slice(0, 3)],
] as const;

for (const [attrs, sizes] of KINDS.flatMap(([attrs, cases]) => cases.map((sizes) => [attrs, sizes] as const))) {
  const { tokens, width, size, count, k, chosen } = sizes;
  const kind = `${attrs.activation}${attrs.biases ? " with biases" : ""}`;
  test(`ExpertMlp (${kind}) of ${tokens} tokens, ${k} of ${count} experts [${size}, ${width}]: error 1e-6; gradients by finite differences, error 1e-5`, async () => {
    const inputs = mixture(sizes, attrs.biases);
    const options = { op: ExpertMlp, inputs, attrs, reference: mixtureOf(width, count, attrs) };
    const [y] = await checkForward({ ...options, bound: 1e-6 });
    expectSameBits("3 threads", await runWasm(ExpertMlp, inputs, attrs, { threads: 3 }), [y!]);
    const ofBiases = attrs.biases ? [[3 * count + 3, 3 * count + 4], [3 * count + 4]] : [];
    // Of an expert that is chosen, and of the last one, which may have no token.
    const last = 3 * count;
    for (const wrt of [[0, 1], [0], [1], [0, 1, 3, 4, 5, last, last + 1, last + 2], [5], ...ofBiases])
      await checkGradient({ ...options, wrt, bound: 1e-5, samples: 12 });
    await checkOnnx({ op: ExpertMlp, inputs, attrs, bound: 1e-6 });
    const halves = inputs.map((tensor, i) => (i < 3 || i >= 3 + 3 * count ? tensor : half(tensor, "bf16")));
    const [ofHalves] = await runWasm(ExpertMlp, halves, attrs);
    expectWithin("bf16 matrices", relativeError(ofHalves!, y!), 1e-2);
    expect(chosen).toBeGreaterThanOrEqual(k);
  });
}

/** The same with the pairs of low-rank updates, the last inputs, added to the matrices. */
const adaptedMixtureOf =
  (width: number, size: number, count: number, attrs: typeof SWIGLU_EXPERTS & Required<ExpertRanks>): Reference =>
  (inputs) => {
    const matrices = inputs.slice(3, 3 + 3 * count).map((matrix) => Float64Array.from(matrix));
    const biases = inputs.slice(3 + 3 * count, 3 + 3 * count + 2 * attrs.biases);
    const pairs = inputs.slice(3 + 3 * count + 2 * attrs.biases);
    const add = (
      a: ArrayLike<number>,
      b: ArrayLike<number>,
      rank: number,
      scale: number,
      inner: number,
      targets: readonly number[],
    ) => {
      for (let expert = 0; expert < count; expert++)
        targets.forEach((target, part) => {
          const matrix = matrices[3 * expert + target]!;
          for (let row = 0; row < matrix.length / inner; row++)
            for (let i = 0; i < inner; i++)
              for (let r = 0; r < rank; r++) {
                // Gate's rows above up's, or both by turns.
                const place = attrs.activation === "clamped" && targets.length === 2 ? 2 * row + part : part * size + row;
                const left = b[(place * rank + r) * count + expert]!;
                matrix[row * inner + i]! += scale * left * a[(expert * rank + r) * inner + i]!;
              }
        });
    };
    const { rank, scale, downRank, downScale } = attrs;
    if (rank > 0) add(pairs[0]!, pairs[1]!, rank, scale, width, [0, 1]);
    if (downRank > 0) add(pairs.at(-2)!, pairs.at(-1)!, downRank, downScale, size, [2]);
    return mixtureOf(width, count, attrs)([...inputs.slice(0, 3), ...matrices, ...biases]);
  };

for (const [sizes, kind, ranks] of [
  [CASES[2], SWIGLU_EXPERTS, { rank: 3, scale: 0.7, downRank: 2, downScale: 1.5 }],
  [CASES[0], SWIGLU_EXPERTS, { rank: 2, scale: 0.5, downRank: 0, downScale: 1 }],
  [CASES[1], SWIGLU_EXPERTS, { rank: 0, scale: 1, downRank: 4, downScale: 2 }],
  [CASES[1], { ...CLAMPED, biases: 1 }, { rank: 3, scale: 0.7, downRank: 2, downScale: 1.5 }],
  [CASES[2], { ...CLAMPED, biases: 0 }, { rank: 2, scale: 0.5, downRank: 0, downScale: 1 }],
] as const)
  test(`ExpertMlp (${kind.activation}${kind.biases ? " with biases" : ""}) of ${sizes.tokens} tokens with low-rank updates of ranks ${ranks.rank} and ${ranks.downRank}: error 1e-6; gradients by finite differences, error 1e-5`, async () => {
    const { tokens, width, size, count } = sizes;
    const rng = generator(tokens + 1);
    const { rank, downRank } = ranks;
    const pairs = [
      ...(rank > 0 ? [random(rng, [count * rank, width], 0.3), random(rng, [2 * size, rank * count], 0.3)] : []),
      ...(downRank > 0 ? [random(rng, [count * downRank, size], 0.3), random(rng, [width, downRank * count], 0.3)] : []),
    ];
    const attrs = { ...kind, ...ranks };
    const inputs = [...mixture(sizes, attrs.biases), ...pairs];
    const options = { op: ExpertMlp, inputs, attrs, reference: adaptedMixtureOf(width, size, count, attrs) };
    const [y] = await checkForward({ ...options, bound: 1e-6 });
    expectSameBits("3 threads", await runWasm(ExpertMlp, inputs, attrs, { threads: 3 }), [y!]);
    const behind = 3 + 3 * count;
    const biases = attrs.biases ? [behind, behind + 1] : [];
    const own = pairs.map((_, i) => behind + biases.length + i);
    for (const wrt of [[0, 1, ...own], own, own.slice(1, 2), [3, 4, 5, ...biases, ...own], [0]])
      await checkGradient({ ...options, wrt, bound: 1e-5, samples: 12 });
    await checkOnnx({ op: ExpertMlp, inputs, attrs, bound: 1e-6 });
  });

test("modelled time of the gradient: a product more for each matrix that is trained", () => {
  const [tokens, width, size, k, count] = [12, 16, 8, 2, 3];
  const flops = (trained: number) => {
    const builder = new GraphBuilder("gradient");
    const input = (name: string, dtype: "f32" | "i32", ...shape: number[]) => builder.input(name, "boundary", { dtype, shape });
    const slots = [input("weights", "f32", tokens, k), input("experts", "i32", tokens, k)];
    const matrices = Array.from({ length: count }, (_, e) => [
      input(`gate${e}`, "f32", size, width),
      input(`up${e}`, "f32", size, width),
      input(`down${e}`, "f32", width, size),
    ]);
    const tensors = [input("dy", "f32", tokens, width), input("x", "f32", tokens, width), ...slots, ...matrices.flat()];
    const outputs = builder.node(ExpertMlpGrad, tensors, SWIGLU_EXPERTS);
    for (const name of [outputs[0]!, ...outputs.slice(2, 2 + trained)]) builder.output({ name, role: "boundary" });
    // Each gradient is written, at 8 GB/s; products take 60 GFLOP/s.
    return (modelledSeconds(builder.build()) - (4 * trained * size * width) / 8e9) * 60e9;
  };
  expect((flops(3 * count) - flops(0)) / (2 * tokens * k * width * size)).toBeCloseTo(3, 5);
  expect((flops(1) - flops(0)) / (2 * tokens * k * width * size)).toBeCloseTo(1 / count, 5);
});

test("operands that do not fit are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const slots = [type(3, 2), { dtype: "i32", shape: [3, 2] } as const];
  expect(() => ExpertMlp.infer([type(3, 4), ...slots, type(5, 4), type(5, 4), type(5, 4)], SWIGLU_EXPERTS)).toThrow(
    "down [H, I]",
  );
  expect(() => ExpertMlp.infer([type(3, 4), ...slots, type(5, 4), type(5, 4)], SWIGLU_EXPERTS)).toThrow("down [H, I]");
  const matrices = [type(5, 4), type(5, 4), type(4, 5)];
  const biased = (both: number) => () =>
    ExpertMlp.infer([type(3, 4), ...slots, ...matrices, type(1, both), type(1, 4)], { ...CLAMPED, biases: 1 });
  expect(biased(10)).not.toThrow();
  expect(biased(5)).toThrow("biases");
});
