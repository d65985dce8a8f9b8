import { expect, setDefaultTimeout, test } from "bun:test";
import type { HeadAttrs } from "../../src/ops/head-kernels.ts";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "../../src/ops/linear-cross-entropy.ts";
import { TokenCrossEntropy } from "../../src/ops/token-cross-entropy.ts";
import type { OpDef } from "../../src/ops/types.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import {
  checkForward,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  half,
  i32,
  opGraph,
  random,
  type Reference,
  relativeError,
  runWasm,
  type TestTensor,
  toFloat64,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

const lossesOf =
  (softcap?: number): Reference =>
  ([h, w, labels]) => {
    const width = h!.length / labels!.length;
    const vocab = w!.length / width;
    const losses = Array.from(labels!, (label, t) => {
      if (label === -100) return 0;
      const logits = Float64Array.from({ length: vocab }, (_, v) => {
        let sum = 0;
        for (let i = 0; i < width; i++) sum += h![t * width + i]! * w![v * width + i]!;
        return softcap === undefined ? sum : softcap * Math.tanh(sum / softcap);
      });
      const top = logits.reduce((a, b) => Math.max(a, b));
      return Math.log(logits.reduce((total, x) => total + Math.exp(x - top), 0)) + top - logits[label]!;
    });
    return [losses];
  };

function sample(tokens: number, width: number, vocab: number, part: number): [TestTensor, TestTensor, TestTensor] {
  const rng = generator(tokens + vocab);
  const labels = Array.from({ length: tokens }, () => (rng() < part ? Math.floor(rng() * vocab) : -100));
  return [random(rng, [tokens, width]), random(rng, [vocab, width], 0.3), i32([tokens], labels)];
}

const SIZES = [
  [1, 1, 1],
  [3, 5, 7],
  [13, 24, 101],
  [40, 17, 1030],
  [64, 8, 2051],
] as const;

test("TokenCrossEntropy on all paths: error 1e-6; the same bits for 1 to 3 threads; 0 exactly where there is no label", async () => {
  for (const [tokens, width, vocab] of SIZES) {
    for (const part of [1, 0.4, 0]) {
      for (const attrs of [{}, { softcap: 2 }]) {
        const inputs = sample(tokens, width, vocab, part);
        const reference = lossesOf(attrs.softcap);
        const [losses] = await checkForward({ op: TokenCrossEntropy, inputs, attrs, reference, bound: 1e-6 });
        expectSameBits("3 threads", await runWasm(TokenCrossEntropy, inputs, attrs, { threads: 3 }), [losses!]);
        inputs[2].data.forEach((label, t) => label === -100 && expect(losses![t]).toBe(0));
        await checkOnnx({ op: TokenCrossEntropy, inputs, attrs, bound: 1e-6 });
        const native = [];
        for (const threads of [1, 2]) native.push(await runNative(TokenCrossEntropy, inputs, attrs, threads));
        expectWithin("native", relativeError(native[0]![0]!, reference(inputs.map(toFloat64))[0]!), 1e-6);
        expectSameBits("native, 2 threads", native[1]!, native[0]!);
      }
    }
  }
});

for (const dtype of ["bf16", "f16"] as const) {
  test(`TokenCrossEntropy reads ${dtype} weights as the same numbers in f32: error 1e-6`, async () => {
    const [h, w, labels] = sample(13, 24, 101, 0.5);
    await checkForward({
      op: TokenCrossEntropy,
      inputs: [h, half(w, dtype), labels],
      attrs: {},
      reference: lossesOf(),
      bound: 1e-6,
    });
  });
}

async function runNative(op: OpDef<any>, inputs: TestTensor[], attrs: HeadAttrs, threads: number) {
  const { builder, outputs, feeds } = opGraph({ op, inputs, attrs });
  for (const name of outputs) builder.output({ name, role: "boundary" });
  const results = runOn(await executor("native", threads), builder.build(), feeds, { times: 2 });
  return outputs.map((name) => results.get(name)!);
}

/** A loss that is no weighted sum: of the squares of two texts' sums. Weights of both signs come of it, and for one token 0. */
const RATES = [1, -2, 0.5, 0, -1, 3, -0.5, 1, 2];
const valueOf = (losses: ArrayLike<number>) => {
  const sum = RATES.reduce((total, rate, t) => total + rate * losses[t]!, 0);
  return { value: sum ** 2, weights: RATES.map((rate) => 2 * sum * rate) };
};

test("a function of the token losses: its derivatives as scales give its gradients, by finite differences in float64 within 1e-5", async () => {
  const inputs = sample(9, 6, 20, 1);
  const reference = lossesOf();
  const exact = inputs.map(toFloat64);
  const at = (i: number, element: number, step: number) => {
    const moved = exact.map((values) => values.slice());
    moved[i]![element]! += step;
    return valueOf(reference(moved)[0]!).value;
  };
  for (const run of [runWasm, (op: OpDef<any>, all: TestTensor[], attrs: {}) => runNative(op, all, attrs, 2)]) {
    const [losses] = await run(TokenCrossEntropy, inputs, {});
    const { weights } = valueOf(losses as Float32Array);
    expect(Math.min(...weights) < 0 && Math.max(...weights) > 0 && weights.includes(0)).toBe(true);
    const gradients = await run(LinearCrossEntropyGrad, [...inputs, f32([9], weights), f32([1], [1])], {});
    for (const i of [0, 1]) {
      const expected = exact[i]!.map((_, element) => (at(i, element, 1e-4) - at(i, element, -1e-4)) / 2e-4);
      expectWithin(`input ${i}`, relativeError(gradients[i]!, expected), 1e-5);
    }
  }
});

test("the token losses are what LinearCrossEntropy adds up: the sum in f64 rounds to the same f32", async () => {
  const inputs = sample(40, 17, 1030, 0.7);
  const [losses] = await runWasm(TokenCrossEntropy, inputs, {});
  const [loss] = await runWasm(LinearCrossEntropy, [...inputs, f32([1], [1])], {});
  expect(Math.fround(Array.from(losses!).reduce((sum, value) => sum + value, 0))).toBe(loss![0]!);
});

test("TokenCrossEntropy: a label outside the vocabulary is NaN at its own token alone", async () => {
  const [h, w] = sample(5, 4, 9, 1);
  const [losses] = await runWasm(TokenCrossEntropy, [h, w, i32([5], [0, 1, 9, 3, -100])], {});
  expect(Array.from(losses!, Number.isNaN)).toEqual([false, false, true, false, false]);
});
