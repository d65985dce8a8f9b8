import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "../../src/ops/linear-cross-entropy.ts";
import { TokenCrossEntropy } from "../../src/ops/token-cross-entropy.ts";
import { checkForward, checkGradient, f32, generator, i32, random, type TestTensor } from "../support/ops.ts";

setDefaultTimeout(120_000);

interface Sizes {
  readonly tokens: number;
  readonly width: number;
  readonly vocab: number;
  readonly rank: number;
}

/** In float64: what a head has whose logits get alpha low up^T. */
function headOf({ tokens, width, vocab, rank }: Sizes, alpha: number, softcap?: number) {
  return ([h, w, labels, scale, low, up]: readonly Float64Array[]) => {
    const logit = (t: number, v: number) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += h![t * width + i]! * w![v * width + i]!;
      for (let k = 0; k < rank; k++) sum += alpha * low![t * rank + k]! * up![v * rank + k]!;
      return softcap === undefined ? sum : softcap * Math.tanh(sum / softcap);
    };
    const losses = new Float64Array(tokens);
    let correct = 0;
    const d = Array.from({ length: tokens }, (_, t) => {
      const label = labels![t]!;
      if (label < 0) return new Float64Array(vocab);
      const logits = Float64Array.from({ length: vocab }, (_, v) => logit(t, v));
      const top = logits.reduce((a, b) => Math.max(a, b));
      const sum = logits.reduce((total, x) => total + Math.exp(x - top), 0);
      losses[t] = Math.log(sum) + top - logits[label]!;
      if (logits.indexOf(top) === label) correct++;
      const factor = scale!.length === 0 ? 1 : (scale![t] ?? scale![0]!);
      const slope = (x: number) => (softcap === undefined ? 1 : 1 - (x / softcap) ** 2);
      return logits.map((x, v) => factor * slope(x) * (Math.exp(x - top) / sum - (v === label ? 1 : 0)));
    });
    const factors = losses.map((loss, t) => loss * (scale!.length === 0 ? 1 : (scale![t] ?? scale![0]!)));
    return { losses, correct, d, loss: factors.reduce((a, b) => a + b, 0) };
  };
}

/** D B, or D^T A, of rows of D. */
function products({ tokens, vocab }: Sizes, d: readonly Float64Array[], columns: number) {
  return {
    times: (b: Float64Array, factor: number) =>
      Float64Array.from({ length: tokens * columns }, (_, at) => {
        let sum = 0;
        for (let v = 0; v < vocab; v++) sum += d[Math.floor(at / columns)]![v]! * b[v * columns + (at % columns)]!;
        return factor * sum;
      }),
    transposed: (a: Float64Array, factor: number) =>
      Float64Array.from({ length: vocab * columns }, (_, at) => {
        let sum = 0;
        for (let t = 0; t < tokens; t++) sum += d[t]![Math.floor(at / columns)]! * a[t * columns + (at % columns)]!;
        return factor * sum;
      }),
  };
}

function sample({ tokens, width, vocab, rank }: Sizes, part: number): TestTensor[] {
  const rng = generator(tokens + vocab);
  const labels = Array.from({ length: tokens }, () => (rng() < part ? Math.floor(rng() * vocab) : -100));
  return [
    random(rng, [tokens, width]),
    random(rng, [vocab, width], 0.3),
    i32([tokens], labels),
    f32([1], [0.125]),
    random(rng, [tokens, rank]),
    random(rng, [vocab, rank], 0.4),
  ];
}

// The last one has two chunks of rows.
const SIZES: Sizes[] = [
  { tokens: 1, width: 1, vocab: 2, rank: 1 },
  { tokens: 13, width: 24, vocab: 101, rank: 3 },
  { tokens: 40, width: 17, vocab: 1030, rank: 8 },
  { tokens: 230, width: 3, vocab: 70001, rank: 2 },
];

describe.each(SIZES)("a head of $vocab words with an adapter of rank $rank, $tokens tokens", (sizes) => {
  const { width, rank, tokens } = sizes;
  const parts = tokens > 100 ? [0.02] : [1, 0.5, 0];
  test.each(parts)("share %d of the tokens labelled: losses 1e-6, gradients 5e-6", async (part) => {
    for (const softcap of tokens > 100 ? [undefined] : [undefined, 2]) {
      const inputs = sample(sizes, part);
      const attrs = { alpha: 0.7, ...(softcap !== undefined && { softcap }) };
      const head = headOf(sizes, 0.7, softcap);
      const forward = (values: Float64Array[]) => {
        const { loss, correct } = head(values);
        return [[loss], [correct]];
      };
      await checkForward({ op: LinearCrossEntropy, inputs, attrs, reference: forward, bound: 1e-6 });
      await checkForward({
        op: TokenCrossEntropy,
        inputs: [...inputs.slice(0, 3), null, ...inputs.slice(4)],
        attrs,
        reference: (values) => [head(values).losses],
        bound: 1e-6,
      });
      const sum = random(generator(5), [sizes.vocab, width]);
      await checkForward({
        op: LinearCrossEntropyGrad,
        inputs: [...inputs.slice(0, 4), f32([1], [1.5]), sum, ...inputs.slice(4)],
        attrs,
        reference([h, w, labels, scale, dloss, start, low, up]) {
          const { d, loss } = head([h!, w!, labels!, scale!.map((x) => x * dloss![0]!), low!, up!]);
          const [wide, narrow] = [products(sizes, d, width), products(sizes, d, rank)];
          const dw = wide.transposed(h!, 1).map((x, i) => x + start![i]!);
          return [wide.times(w!, 1), dw, [loss / dloss![0]!], narrow.times(up!, 0.7), narrow.transposed(low!, 0.7)];
        },
        bound: 5e-6,
      });
    }
  });
});

test("its gradients by finite differences: error 1e-5", async () => {
  const sizes = { tokens: 9, width: 6, vocab: 20, rank: 3 };
  const reference = (values: Float64Array[]) => {
    const { loss, correct } = headOf(sizes, -1.3, 2)(values);
    return [[loss], [correct]];
  };
  const inputs = sample(sizes, 0.7);
  const attrs = { alpha: -1.3, softcap: 2 };
  await checkGradient({ op: LinearCrossEntropy, inputs, attrs, reference, wrt: [0, 1, 4, 5], bound: 1e-5 });
});

test("parts without a factor, a factor without parts and other shapes are refused", () => {
  const type = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const labels = { dtype: "i32", shape: [5] } as const;
  const head = [type(5, 3), type(7, 3), labels, type(1)];
  const infer = (attrs: { alpha?: number }, ...parts: ReturnType<typeof type>[]) =>
    LinearCrossEntropy.infer([...head, ...parts], attrs);
  expect(infer({ alpha: 1 }, type(5, 2), type(7, 2))).toHaveLength(2);
  expect(() => infer({ alpha: 1 })).toThrow("with alpha low f32[T, r]");
  expect(() => infer({}, type(5, 2), type(7, 2))).toThrow("with alpha low f32[T, r]");
  expect(() => infer({ alpha: 1 }, type(5, 2), type(7, 3))).toThrow("with alpha low f32[T, r]");
  expect(() => infer({ alpha: NaN }, type(5, 2), type(7, 2))).toThrow("with alpha low f32[T, r]");
});
